//! At which interrupt request level code runs, as values.

use core::marker::PhantomData;

use kext_nt_sys::ke;

/// That the caller runs at `PASSIVE_LEVEL`, and may wait.
///
/// Whoever is called there by the kernel makes one and lends it on. It says nothing any more inside
/// [`at_dispatch`], and while a lock is held.
pub struct Passive(PhantomData<*mut ()>);

impl Passive {
    /// # Safety
    ///
    /// The kernel calls the caller at `PASSIVE_LEVEL`.
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

/// That the caller runs at `DISPATCH_LEVEL`, and so stays on its processor.
pub struct Dispatch(PhantomData<*mut ()>);

impl Dispatch {
    /// # Safety
    ///
    /// The kernel calls the caller at `DISPATCH_LEVEL`.
    pub const unsafe fn assume() -> Self {
        Self(PhantomData)
    }
}

/// Runs something at `DISPATCH_LEVEL`, and goes back to the level of the caller afterwards.
///
/// IRQL: up to `DISPATCH_LEVEL`.
#[inline]
pub fn at_dispatch<T>(run: impl FnOnce(&Dispatch) -> T) -> T {
    // SAFETY: every caller is at DISPATCH_LEVEL or below.
    let old = unsafe { ke::KeRaiseIrqlToDpcLevel() };
    let result = run(&Dispatch(PhantomData));
    // SAFETY: the level that raising returned, and `run` has left it as it was: nothing in this crate
    // changes it but in pairs.
    unsafe { ke::KeLowerIrql(old) };
    result
}
