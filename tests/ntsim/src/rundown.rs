//! Rundown protection: references, and a wait for the last of them.

use std::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::ex::EX_RUNDOWN_REF;
use kext_nt_sys::types::{BOOLEAN, FALSE, TRUE};

use crate::check::violation;
use crate::dispatcher;
use crate::exports::implements;
use crate::guest;
use crate::heap;

implements! {
    ex::ExInitializeRundownProtection = initialize;
    ex::ExReInitializeRundownProtection = initialize;
    ex::ExAcquireRundownProtection = acquire;
    ex::ExReleaseRundownProtection = release;
    ex::ExWaitForRundownProtectionRelease = wait;
    ex::ExRundownCompleted = complete;
}

/// Set once the rundown has begun; the references are counted in twos.
const CLOSED: usize = 1;
const ONE: usize = 2;

fn count(rundown: *mut EX_RUNDOWN_REF) -> &'static AtomicUsize {
    guest::read(rundown, "a rundown reference");
    heap::expect_alive(rundown.addr(), "a rundown reference");
    // SAFETY: an aligned word that the driver hands to these functions only.
    unsafe { AtomicUsize::from_ptr(rundown.cast()) }
}

extern "win64" fn initialize(rundown: *mut EX_RUNDOWN_REF) {
    count(rundown).store(0, Ordering::Release);
}

extern "win64" fn acquire(rundown: *mut EX_RUNDOWN_REF) -> BOOLEAN {
    let taken = count(rundown).fetch_update(Ordering::AcqRel, Ordering::Acquire, |count| {
        (count & CLOSED == 0).then_some(count + ONE)
    });
    if taken.is_ok() { TRUE } else { FALSE }
}

extern "win64" fn release(rundown: *mut EX_RUNDOWN_REF) {
    let old = count(rundown).fetch_sub(ONE, Ordering::AcqRel);
    if old < ONE {
        violation!(
            Object,
            "rundown protection is released more often than acquired"
        );
    }
    if old & CLOSED != 0 {
        dispatcher::notify();
    }
}

extern "win64" fn wait(rundown: *mut EX_RUNDOWN_REF) {
    let count = count(rundown);
    count.fetch_or(CLOSED, Ordering::AcqRel);
    dispatcher::wait_until("ExWaitForRundownProtectionRelease", || {
        count.load(Ordering::Acquire) < ONE
    });
}

extern "win64" fn complete(rundown: *mut EX_RUNDOWN_REF) {
    count(rundown).store(CLOSED, Ordering::Release);
}
