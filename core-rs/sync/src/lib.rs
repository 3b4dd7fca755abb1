//! The one door to locks, atomics and hints to the processor.
//!
//! Nothing else in the portable crates names a lock or an atomic, so that the whole system can be
//! moved to other primitives in one place: the driver brings spin locks at raised IRQL, user-mode
//! hosts bring an ordinary mutex.
//!
//! Under `--cfg shuttle` both are those of a model checker, whatever lock the host names: it then
//! chooses, at each lock and at each atomic operation, which thread goes on. Only
//! `cargo xtask test interleavings` builds so.
//!
//! # Order of locks
//!
//! At most four engine locks are held at once: the packet cache's; inside it one turn to insert into
//! the verdict cache, inside that one cached flow, inside that its cold part. The settings may be
//! taken inside the packet cache's lock; the others are taken alone. The extension's lock on its handle is
//! taken before any of them. Nothing is called under a lock that could call back.

#![no_std]
#![deny(unsafe_code)]

#[cfg(not(shuttle))]
mod lock;
#[cfg(shuttle)]
#[path = "lock_checked.rs"]
mod lock;
mod prefetch;

/// What a host must bring to lock with: `lock_api`'s contract of a raw mutex.
pub use lock_api::RawMutex as RawLock;

pub use lock::{Guard, Lock};
pub use prefetch::prefetch;

/// Atomic integers, and the orderings they take.
pub mod atomic {
    #[cfg(not(shuttle))]
    pub use core::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
    #[cfg(shuttle)]
    pub use shuttle::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
}
