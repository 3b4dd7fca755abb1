//! Spin locks that own their data.

use core::cell::UnsafeCell;
use core::marker::PhantomData;
use core::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::ke::{self, KIRQL, KSPIN_LOCK};
use kext_nt_sys::types::FALSE;
use kext_sync::RawLock;

/// Data under a spin lock. Whoever holds it runs at `DISPATCH_LEVEL` and must not wait.
///
/// IRQL: up to `DISPATCH_LEVEL`.
pub type Lock<T> = kext_sync::Lock<RawSpinLock, T>;

/// The kernel's spin lock.
pub struct RawSpinLock(UnsafeCell<KSPIN_LOCK>);

/// The level to go back to when a lock is released. It belongs to the processor that acquired it.
pub struct OldIrql(KIRQL, PhantomData<*mut ()>);

// SAFETY: the word is touched by the kernel's lock functions and by an atomic read only.
unsafe impl Send for RawSpinLock {}
// SAFETY: as above.
unsafe impl Sync for RawSpinLock {}

// SAFETY: the kernel's lock excludes others, acquires when it is taken and releases when it is let
// go. A forgotten guard leaves the lock taken, which is safe. The word can be moved at any time.
unsafe impl RawLock for RawSpinLock {
    const INIT: Self = Self(UnsafeCell::new(0));

    type Guard = OldIrql;

    #[inline]
    fn lock(&self) -> OldIrql {
        // SAFETY: the word is initialized, nonpaged as all of our memory, and the caller is at
        // DISPATCH_LEVEL or below, as `Lock` says.
        let old = unsafe { ke::KeAcquireSpinLockRaiseToDpc(self.0.get()) };
        OldIrql(old, PhantomData)
    }

    fn try_lock(&self) -> Option<OldIrql> {
        // SAFETY: the caller is at DISPATCH_LEVEL or below, as `Lock` says.
        let old = unsafe { ke::KeRaiseIrqlToDpcLevel() };
        // SAFETY: at DISPATCH_LEVEL; the word as in `lock`.
        if unsafe { ke::KeTryToAcquireSpinLockAtDpcLevel(self.0.get()) } != FALSE {
            return Some(OldIrql(old, PhantomData));
        }
        // SAFETY: the level that raising returned.
        unsafe { ke::KeLowerIrql(old) };
        None
    }

    #[inline]
    unsafe fn unlock(&self, guard: OldIrql) {
        // SAFETY: the guard is of an acquisition of this lock on this processor, which was the last
        // to raise the level: guards go in the reverse order of their making.
        unsafe { ke::KeReleaseSpinLock(self.0.get(), guard.0) };
    }

    fn is_locked(&self) -> bool {
        // SAFETY: the word lives as long as self; a spin lock is 0 exactly while it is free.
        let word = unsafe { AtomicUsize::from_ptr(self.0.get()) };
        word.load(Ordering::Relaxed) != 0
    }
}
