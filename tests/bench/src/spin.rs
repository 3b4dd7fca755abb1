//! A spin lock, as a kernel's is: taken by one locked instruction, given back by a plain store.
//!
//! The engine's figures are for the driver, whose locks are such; a user-mode mutex pays a second
//! locked instruction to see whether somebody sleeps on it.

use std::hint::spin_loop;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use kext_sync::RawLock;

/// Looks at the lock before another thread may run: its owner may have been stopped.
const PATIENCE: u32 = 1_000;

/// The lock.
pub struct Spin(AtomicBool);

// SAFETY: only the thread that turns the flag from false to true has the lock, until it stores false;
// acquire and release order what it protects.
#[allow(unsafe_code)]
unsafe impl RawLock for Spin {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(AtomicBool::new(false));
    type Guard = ();

    #[inline]
    fn lock(&self) {
        while self.try_lock().is_none() {
            self.wait();
        }
    }

    #[inline]
    fn try_lock(&self) -> Option<()> {
        (!self.0.swap(true, Ordering::Acquire)).then_some(())
    }

    #[inline]
    unsafe fn unlock(&self, (): ()) {
        self.0.store(false, Ordering::Release);
    }

    fn is_locked(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Spin {
    #[cold]
    fn wait(&self) {
        for _ in 0..PATIENCE {
            if !self.is_locked() {
                return;
            }
            spin_loop();
        }
        thread::yield_now();
    }
}
