//! Work items: work that is done soon by a thread of the system, at `PASSIVE_LEVEL`.

use core::ptr::NonNull;
use core::sync::atomic::{AtomicU32, Ordering};

use kext_nt_sys::io::{self, DEVICE_OBJECT};
use kext_nt_sys::types::{IO_WORKITEM, PVOID};

use crate::boxed::Fixed;
use crate::device::ControlDevice;
use crate::global::Global;
use crate::irql::Passive;
use crate::rundown::Rundown;
use crate::status::{Result, Status};

/// A function of the driver's state that a thread of the system can be asked to call.
pub struct WorkItem<T: 'static>(Fixed<Inner<T>>);

struct Inner<T: 'static> {
    item: NonNull<IO_WORKITEM>,
    /// How many times it was asked for since it began last.
    asked: AtomicU32,
    calls: Rundown,
    state: &'static Global<T>,
    run: fn(&T, &Passive),
}

// SAFETY: the item is used by the kernel only; `run` takes the state by shared reference, and the
// state is Sync.
unsafe impl<T: Sync> Send for WorkItem<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for WorkItem<T> {}

impl<T: Sync + 'static> WorkItem<T> {
    /// `run` gets the state that is in the place when it is called; it is not called without one.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn try_new(
        device: &ControlDevice,
        state: &'static Global<T>,
        run: fn(&T, &Passive),
    ) -> Result<Self> {
        let calls = Rundown::try_new()?;
        // SAFETY: the device exists as long as its handle.
        let item = unsafe { io::IoAllocateWorkItem(device.object()) };
        let item = NonNull::new(item).ok_or(Status::NO_MEMORY)?;
        let inner = Fixed::try_new(Inner {
            item,
            asked: AtomicU32::new(0),
            calls,
            state,
            run,
        });
        if inner.is_err() {
            // SAFETY: it was allocated above, and was never queued.
            unsafe { io::IoFreeWorkItem(item.as_ptr()) };
        }
        inner.map(Self)
    }

    /// Has the function called soon, once for however many calls of this before that. It never runs
    /// twice at once, and nothing is called after [`WorkItem::stop`].
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn queue(&self) {
        let inner = &*self.0;
        if inner.asked.fetch_add(1, Ordering::AcqRel) != 0 || !inner.calls.begin() {
            return;
        }
        let context = self.0.as_ptr().cast();
        // SAFETY: the item is neither queued nor running, as the count says, and its handle waits for
        // the call.
        unsafe {
            io::IoQueueWorkItem(
                inner.item.as_ptr(),
                call::<T>,
                io::DelayedWorkQueue,
                context,
            );
        }
    }

    /// Ends it: no call comes after this, and none is running.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn stop(&self, passive: &Passive) {
        self.0.calls.wait(passive);
    }
}

impl<T> Drop for WorkItem<T> {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        self.0.calls.wait(&unsafe { Passive::assume() });
        // SAFETY: it is neither queued nor running any more.
        unsafe { io::IoFreeWorkItem(self.0.item.as_ptr()) };
    }
}

/// # Safety
///
/// Called by the kernel for an item that [`WorkItem::queue`] queued.
unsafe extern "win64" fn call<T: Sync + 'static>(_: *mut DEVICE_OBJECT, context: PVOID) {
    // SAFETY: the context is the handle's, which waits for this call before it goes.
    let inner = unsafe { &*context.cast::<Inner<T>>() };
    // Bound: as many calls of `queue` as come while it runs.
    loop {
        let asked = inner.asked.load(Ordering::Acquire);
        if let Some(state) = inner.state.get() {
            // SAFETY: work items run at PASSIVE_LEVEL.
            (inner.run)(state, &unsafe { Passive::assume() });
        }
        if inner.asked.fetch_sub(asked, Ordering::AcqRel) == asked {
            break;
        }
    }
    inner.calls.end();
}
