//! Timers: work that is done later, at `DISPATCH_LEVEL`.

use core::cell::UnsafeCell;
use core::sync::atomic::{AtomicBool, Ordering};
use core::time::Duration;

use kext_nt_sys::ke::{self, KTIMER};

use crate::boxed::Fixed;
use crate::deferred::{Deferred, flush};
use crate::global::Global;
use crate::irql::{Dispatch, Passive};
use crate::status::Result;
use crate::time::units;

/// A function of the driver's state that can be called later.
pub struct Timer<T: Sync + 'static> {
    object: Fixed<UnsafeCell<KTIMER>>,
    deferred: Deferred<T>,
    stopped: AtomicBool,
}

// SAFETY: the timer object is touched by the kernel only.
unsafe impl<T: Sync + 'static> Send for Timer<T> {}
// SAFETY: as above.
unsafe impl<T: Sync + 'static> Sync for Timer<T> {}

impl<T: Sync + 'static> Timer<T> {
    /// `run` gets the state that is in the place when it is called; it is not called without one.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(state: &'static Global<T>, run: fn(&T, &Dispatch)) -> Result<Self> {
        // SAFETY: the object is plain numbers and pointers, for which zero is a value.
        let timer = Fixed::try_new(UnsafeCell::new(unsafe { core::mem::zeroed() }))?;
        // SAFETY: the object is where it will stay until it is cancelled for good.
        unsafe { ke::KeInitializeTimerEx(timer.get(), ke::NotificationTimer) };
        Ok(Self {
            object: timer,
            deferred: Deferred::try_new(state, run)?,
            stopped: AtomicBool::new(false),
        })
    }

    /// Has the function called once, after this time. A call that was set before and has not begun is
    /// forgotten. Nothing is set once the timer was stopped.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn set(&self, after: Duration) {
        if self.stopped.load(Ordering::SeqCst) {
            return;
        }
        let due = units(after).cast_signed().wrapping_neg();
        // SAFETY: both objects are initialized, and stay until the timer is stopped and dropped.
        unsafe { ke::KeSetTimerEx(self.object.get(), due, 0, self.deferred.object()) };
    }

    /// Ends it: no call comes after this, and none is running.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn stop(&self, passive: &Passive) {
        self.stopped.store(true, Ordering::SeqCst);
        // Twice: a call that looked before may set the timer once more while it is waited for.
        for _ in 0..2 {
            // SAFETY: the object is initialized.
            unsafe { ke::KeCancelTimer(self.object.get()) };
            flush(passive);
        }
    }
}

impl<T: Sync + 'static> Drop for Timer<T> {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        self.stop(&unsafe { Passive::assume() });
    }
}
