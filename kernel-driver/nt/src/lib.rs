//! Safe handles on the Windows kernel.
//!
//! Beside the declarations of `kext-nt-sys` this is the only place with kernel `unsafe`; the driver
//! adds its entry points. One kind of handle a file; each ends what it stands for when it is dropped.
//!
//! - Every function says up to which IRQL it may be called, in a line that begins with `IRQL:`. One
//!   without such a line calls nothing of the kernel, and may be called at any. What may only be called
//!   at `PASSIVE_LEVEL` takes a [`Passive`](irql::Passive), which only such callers have.
//! - Callbacks of the kernel get a reference to the driver's state. It stands in a
//!   [`Global`](global::Global) from when it is made until every callback is known to be over.
//! - Nothing here decides about a packet.
//!
//! Everything compiles on Linux as well. There it is tested with stand-ins for the kernel's functions.

#![no_std]
#![cfg(target_arch = "x86_64")]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod blocks;
pub mod boxed;
pub mod callout;
pub mod classify;
pub mod deferred;
pub mod device;
pub mod engine;
pub mod global;
pub mod injection;
pub mod irql;
pub mod layer;
pub mod log;
pub mod net_buffer;
pub mod operations;
pub mod pended;
pub mod per_processor;
pub mod pool;
pub mod random;
pub mod request;
pub mod rundown;
pub mod service;
pub mod spin_lock;
pub mod status;
pub mod time;
pub mod timer;
pub mod wide;
pub mod work_item;

#[cfg(test)]
mod stand_in;

pub use spin_lock::Lock;
pub use status::{Result, Status};
