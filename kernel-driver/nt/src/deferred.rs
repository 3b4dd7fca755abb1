//! Deferred procedure calls: work that is done soon, at `DISPATCH_LEVEL`.

use core::cell::UnsafeCell;
use core::ptr;

use kext_nt_sys::ke::{self, KDPC};
use kext_nt_sys::types::PVOID;

use crate::boxed::Fixed;
use crate::global::Global;
use crate::irql::{Dispatch, Passive};
use crate::status::Result;

/// A function of the driver's state that can be called soon.
pub struct Deferred<T: 'static>(Fixed<Inner<T>>);

struct Inner<T: 'static> {
    dpc: UnsafeCell<KDPC>,
    state: &'static Global<T>,
    run: fn(&T, &Dispatch),
}

// SAFETY: the object of the call is touched by the kernel only; `run` takes the state by shared
// reference, and the state is Sync.
unsafe impl<T: Sync> Send for Deferred<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Deferred<T> {}

impl<T: Sync + 'static> Deferred<T> {
    /// `run` gets the state that is in the place when it is called; it is not called without one.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(state: &'static Global<T>, run: fn(&T, &Dispatch)) -> Result<Self> {
        // SAFETY: the object is plain numbers and pointers, for which zero is a value.
        let dpc = unsafe { core::mem::zeroed() };
        let inner = Fixed::try_new(Inner {
            dpc: UnsafeCell::new(dpc),
            state,
            run,
        })?;
        let context = inner.as_ptr().cast();
        // SAFETY: the object is where it will stay until nobody calls it any more, and so is the
        // context.
        unsafe { ke::KeInitializeDpc(inner.dpc.get(), call::<T>, context) };
        Ok(Self(inner))
    }

    /// Has the function called soon, once for however many calls of this before that.
    ///
    /// IRQL: any.
    pub fn queue(&self) {
        // SAFETY: the object is initialized and stays.
        unsafe { ke::KeInsertQueueDpc(self.0.dpc.get(), ptr::null_mut(), ptr::null_mut()) };
    }

    /// The object, for a timer that queues it.
    pub(crate) fn object(&self) -> *mut KDPC {
        self.0.dpc.get()
    }
}

impl<T> Drop for Deferred<T> {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: the object is initialized. What runs already is waited for below.
        unsafe { ke::KeRemoveQueueDpc(self.0.dpc.get()) };
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        flush(&unsafe { Passive::assume() });
    }
}

/// Waits until every deferred call that is queued or running on any processor is over.
///
/// IRQL: `PASSIVE_LEVEL`.
pub fn flush(_: &Passive) {
    // SAFETY: at PASSIVE_LEVEL, as the token says.
    unsafe { ke::KeFlushQueuedDpcs() };
}

/// # Safety
///
/// Called by the kernel for an object that [`Deferred::try_new`] initialized.
unsafe extern "win64" fn call<T: Sync + 'static>(_: *mut KDPC, context: PVOID, _: PVOID, _: PVOID) {
    // SAFETY: the context is the handle's, which waits for this call before it goes.
    let inner = unsafe { &*context.cast::<Inner<T>>() };
    if let Some(state) = inner.state.get() {
        // SAFETY: deferred calls run at DISPATCH_LEVEL.
        (inner.run)(state, &unsafe { Dispatch::assume() });
    }
}
