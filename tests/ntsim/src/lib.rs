//! Runs the Windows driver, the file that ships, inside a Linux process.
//!
//! The file is mapped and linked to a simulated kernel, which is stricter than the real one: it
//! checks every call as Driver Verifier would, and ends the process with a report when the driver
//! breaks a rule. So a test here shows what the code that ships does, not what a rebuilt copy does.
//!
//! One process is one simulated machine. Tests run in processes of their own: see [`harness`].

#![cfg(all(target_os = "linux", target_arch = "x86_64"))]
#![allow(
    clippy::multiple_unsafe_ops_per_block,
    clippy::cast_ptr_alignment,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "memory of a driver is what its structures say, and that is one fact for each block"
)]
#![allow(
    clippy::wildcard_imports,
    clippy::similar_names,
    clippy::missing_panics_doc,
    reason = "names are those of Windows, and many; what panics ends a test, and nothing else"
)]

pub mod bare;
mod check;
mod cpu;
mod crt;
mod dispatcher;
mod exports;
mod faults;
mod guest;
pub mod harness;
mod heap;
mod image;
mod io;
mod irp;
mod locks;
mod mdl;
mod misc;
mod moment;
mod observe;
mod pool;
mod process;
mod rundown;
mod security;
mod sim;
mod symbols;
mod trap;
mod unwind;
mod wfp;
mod work;

pub use check::{Check, EXIT_VIOLATION};
pub use cpu::{PROCESSORS, deepest_stack};
pub use exports::implemented;
pub use faults::{Faults, clear as clear_faults, failed as failed_calls, set as set_faults};
pub use observe::calls_of;
pub use security::Caller;
pub use sim::{
    Device, LoadError, Pending, Sim, Status, at_call, classify, guard_pages, kept_requests,
    messages, plain_memory, set_clock, set_engine_running, waiting_threads,
};
pub use wfp::ale::{Endpoint, Held};
pub use wfp::classify::Classified;
pub use wfp::inject::{Completion, Injected};
pub use wfp::packet::{Direction, Packet};
