//! Counting what is under way, and waiting until it is over.
//!
//! Own code over an event: the executive's rundown protection does the same, but is not everywhere
//! where this driver is run.

use core::cell::UnsafeCell;
use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::ke::{self, KEVENT};
use kext_nt_sys::types::FALSE;

use crate::boxed::Fixed;
use crate::irql::Passive;
use crate::status::Result;

/// Set when nothing new may begin.
const ENDING: usize = 1;
/// One thing under way.
const ONE: usize = 2;

/// How many things are under way, and whether new ones may begin.
pub struct Rundown(Fixed<Inner>);

struct Inner {
    /// [`ONE`] for each thing under way, and [`ENDING`].
    state: AtomicUsize,
    over: UnsafeCell<KEVENT>,
}

// SAFETY: the event is touched by the kernel only.
unsafe impl Send for Rundown {}
// SAFETY: as above.
unsafe impl Sync for Rundown {}

impl Rundown {
    /// Nothing is under way.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new() -> Result<Self> {
        // SAFETY: an event is plain numbers and pointers, for which zero is a value.
        let event = unsafe { core::mem::zeroed() };
        let inner = Fixed::try_new(Inner {
            state: AtomicUsize::new(0),
            over: UnsafeCell::new(event),
        })?;
        // SAFETY: the event is where it will stay, in nonpaged memory as everything of ours.
        unsafe { ke::KeInitializeEvent(inner.over.get(), ke::NotificationEvent, FALSE) };
        Ok(Self(inner))
    }

    /// Something begins; `false` if nothing may begin any more.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn begin(&self) -> bool {
        let state = &self.0.state;
        let begun = state.fetch_update(Ordering::Acquire, Ordering::Relaxed, |state| {
            (state & ENDING == 0).then(|| state + ONE)
        });
        begun.is_ok()
    }

    /// Something that had begun is over.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn end(&self) {
        let before = self.0.state.fetch_sub(ONE, Ordering::Release);
        if before == ENDING + ONE {
            // SAFETY: the event is initialized and lives: whoever waits for it is told by this call.
            unsafe { ke::KeSetEvent(self.0.over.get(), 0, FALSE) };
        }
    }

    /// How many things are under way.
    ///
    /// IRQL: any.
    pub fn under_way(&self) -> usize {
        self.0.state.load(Ordering::Relaxed) / ONE
    }

    /// Lets nothing begin any more, and waits until everything is over. Doing so twice is harmless.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn wait(&self, _: &Passive) {
        let before = self.0.state.fetch_or(ENDING, Ordering::AcqRel);
        if before < ONE {
            return;
        }
        // SAFETY: at PASSIVE_LEVEL, as the token says; the event is initialized and stays set.
        let _ = unsafe {
            ke::KeWaitForSingleObject(
                self.0.over.get().cast(),
                ke::Executive,
                ke::KernelMode,
                FALSE,
                ptr::null_mut(),
            )
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_begins_once_it_ends() {
        let rundown = Rundown::try_new().unwrap();
        // SAFETY: the stand-ins do not care for levels.
        let passive = unsafe { Passive::assume() };
        assert!(rundown.begin() && rundown.begin());
        assert_eq!(rundown.under_way(), 2);
        rundown.end();
        rundown.end();
        rundown.wait(&passive);
        assert!(!rundown.begin());
        rundown.wait(&passive);
        assert_eq!(rundown.under_way(), 0);
    }

    #[test]
    fn who_waits_is_told_by_the_last() {
        let rundown = Rundown::try_new().unwrap();
        assert!(rundown.begin());
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| {
                // SAFETY: the stand-ins do not care for levels.
                rundown.wait(&unsafe { Passive::assume() });
                rundown.under_way()
            });
            while rundown.begin() {
                rundown.end();
                std::thread::yield_now();
            }
            rundown.end();
            assert_eq!(waiter.join().unwrap(), 0);
        });
    }
}
