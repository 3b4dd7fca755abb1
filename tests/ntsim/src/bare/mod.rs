//! The simulated kernel without its checks, to measure what a driver costs.
//!
//! The driver is the same file and executes the same code. But its imports lead straight to functions
//! that do what is asked for and look at nothing, and what it is shown, packets and device requests, is
//! built once and shown many times. What even that costs, a driver shows that makes the same calls and
//! does nothing else: `NtsimBroken64.sys` as [`Defect::OnlyCalls`](../../drivers).
//!
//! Only what the measured paths call is here; all else is the function with its checks, called without a
//! look at the call.

mod control;
mod functions;
mod shown;

use std::sync::atomic::{AtomicBool, Ordering};

pub use control::Control;
pub use shown::{Answer, Shown};

use crate::cpu;
use crate::exports::Implementation;

static ON: AtomicBool = AtomicBool::new(false);

/// No call is looked at from now on. Before the driver is loaded.
pub fn without_checks() {
    ON.store(true, Ordering::Relaxed);
    functions::make_lists();
}

/// This thread is a processor from now on, at `DISPATCH_LEVEL`.
pub fn become_processor(number: usize) {
    cpu::set_processor(number);
    cpu::set_irql(kext_nt_sys::ke::DISPATCH_LEVEL);
}

/// This thread is an ordinary one again, at `PASSIVE_LEVEL`.
pub fn become_thread() {
    cpu::set_irql(kext_nt_sys::ke::PASSIVE_LEVEL);
}

pub(crate) fn is_on() -> bool {
    ON.load(Ordering::Relaxed)
}

/// The function of that name without checks, if there is one.
pub(crate) fn find(name: &str) -> Option<Implementation> {
    functions::table()
        .into_iter()
        .find(|function| function.name == name)
}
