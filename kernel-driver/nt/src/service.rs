//! The filter engine's service: whether it runs, and when that changes.

use core::ptr;

use kext_nt_sys::fwpm::{
    FWPM_SERVICE_RUNNING, FWPM_SERVICE_STATE, FwpmBfeStateGet0, FwpmBfeStateSubscribeChanges0,
    FwpmBfeStateUnsubscribeChanges0,
};
use kext_nt_sys::types::{HANDLE, PVOID};

use crate::boxed::Fixed;
use crate::device::ControlDevice;
use crate::global::Global;
use crate::irql::Passive;
use crate::status::{Result, Status};

/// Whether the service runs.
///
/// IRQL: up to `DISPATCH_LEVEL`.
pub fn is_running() -> bool {
    // SAFETY: callable up to DISPATCH_LEVEL.
    unsafe { FwpmBfeStateGet0() == FWPM_SERVICE_RUNNING }
}

/// Has a function called whenever the service starts or stops.
pub struct Changes<T: 'static> {
    handle: HANDLE,
    _context: Fixed<Context<T>>,
}

struct Context<T: 'static> {
    state: &'static Global<T>,
    run: fn(&T, running: bool),
}

// SAFETY: the handle is used once, to end it; `run` takes the state by shared reference, and the state
// is Sync.
unsafe impl<T: Sync> Send for Changes<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Changes<T> {}

impl<T: Sync + 'static> Changes<T> {
    /// `run` gets the state that is in the place when it is called, and whether the service runs now.
    /// It must not wait. A change that came before this is not told: ask afterwards.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn subscribe(
        device: &ControlDevice,
        state: &'static Global<T>,
        run: fn(&T, running: bool),
        _: &Passive,
    ) -> Result<Self> {
        let context = Fixed::try_new(Context { state, run })?;
        let mut handle = ptr::null_mut();
        // SAFETY: at PASSIVE_LEVEL; the context stays until the subscription has ended.
        let status = unsafe {
            FwpmBfeStateSubscribeChanges0(
                device.object().cast(),
                changed::<T>,
                context.as_ptr().cast(),
                &raw mut handle,
            )
        };
        Status::check(status)?;
        Ok(Self {
            handle,
            _context: context,
        })
    }
}

impl<T> Drop for Changes<T> {
    /// Waits for a call that is running.
    ///
    /// IRQL: `PASSIVE_LEVEL`, not from the function that is called.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        let _ = unsafe { FwpmBfeStateUnsubscribeChanges0(self.handle) };
    }
}

/// # Safety
///
/// Called by the filter engine for a subscription of [`Changes`].
unsafe extern "win64" fn changed<T: Sync + 'static>(context: PVOID, state: FWPM_SERVICE_STATE) {
    // SAFETY: the context stays until the subscription has ended.
    let context = unsafe { &*context.cast::<Context<T>>() };
    if let Some(value) = context.state.get() {
        (context.run)(value, state == FWPM_SERVICE_RUNNING);
    }
}
