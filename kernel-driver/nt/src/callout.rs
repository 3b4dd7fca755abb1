//! Callouts: functions of ours that the filter engine calls for packets and connections.

use core::marker::PhantomData;
use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;

use kext_nt_sys::fwps::{
    FWPS_CALLOUT_NOTIFY_TYPE, FWPS_CALLOUT2, FWPS_CLASSIFY_OUT0, FWPS_FILTER2,
    FWPS_INCOMING_METADATA_VALUES0, FWPS_INCOMING_VALUES0, FwpsCalloutRegister2,
    FwpsCalloutUnregisterById0,
};
use kext_nt_sys::status::{NTSTATUS, STATUS_FWP_CALLOUT_NOT_FOUND, STATUS_SUCCESS};
use kext_nt_sys::types::{GUID, PVOID};

use crate::classify::Classify;
use crate::device::ControlDevice;
use crate::irql::Passive;
use crate::log;
use crate::status::{Result, Status};
use crate::time::sleep;

/// What is called for a layer.
///
/// IRQL: up to `DISPATCH_LEVEL`, at any.
pub trait Classifier {
    /// A packet or a connection is classified.
    fn classify(call: Classify<'_>);
}

/// A registered callout.
pub struct Callout {
    /// Its number; 0 once it is not registered any more.
    id: AtomicU32,
    classifier: PhantomData<fn()>,
}

impl Callout {
    /// Has `C` called for the filters that name this key.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn register<C: Classifier>(
        device: &ControlDevice,
        key: GUID,
        flags: u32,
        _: &Passive,
    ) -> Result<Self> {
        let callout = FWPS_CALLOUT2 {
            calloutKey: key,
            flags,
            classifyFn: Some(classify::<C>),
            notifyFn: Some(notify),
            flowDeleteFn: None,
        };
        let mut id = 0;
        // SAFETY: at PASSIVE_LEVEL; the functions stay until the callout is not registered any more.
        let status = unsafe {
            FwpsCalloutRegister2(device.object().cast(), &raw const callout, &raw mut id)
        };
        Status::check(status)?;
        Ok(Self {
            id: AtomicU32::new(id),
            classifier: PhantomData,
        })
    }

    /// Ends it: no call comes after this, and none is running. While one is, or while its filters go,
    /// the filter engine refuses, so this tries until it does not.
    ///
    /// IRQL: `PASSIVE_LEVEL`.
    pub fn unregister(&self, passive: &Passive) {
        /// How long between two attempts, and after how many it is told that it takes long.
        const PAUSE: Duration = Duration::from_millis(10);
        const LONG: u32 = 100;
        let id = self.id.swap(0, Ordering::AcqRel);
        if id == 0 {
            return;
        }
        // Bound: none. Going on while the filter engine may call would stop the machine.
        for attempt in 1_u32.. {
            // SAFETY: at PASSIVE_LEVEL, as the token says.
            let status = unsafe { FwpsCalloutUnregisterById0(id) };
            if Status::check(status).is_ok() || status == STATUS_FWP_CALLOUT_NOT_FOUND {
                return;
            }
            if attempt.is_multiple_of(LONG) {
                log::error(c"a callout is in use still", Status(status));
            }
            sleep(passive, PAUSE);
        }
    }
}

impl Drop for Callout {
    /// IRQL: `PASSIVE_LEVEL`.
    fn drop(&mut self) {
        // SAFETY: handles are dropped where they are made, at PASSIVE_LEVEL.
        self.unregister(&unsafe { Passive::assume() });
    }
}

/// # Safety
///
/// Called by the filter engine.
unsafe extern "win64" fn classify<C: Classifier>(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    data: PVOID,
    _: *const core::ffi::c_void,
    filter: *const FWPS_FILTER2,
    _: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    // SAFETY: these are the arguments of this call, which uses them here only.
    if let Some(call) = unsafe { Classify::new(values, metadata, data, filter, out) } {
        C::classify(call);
    }
}

/// Filters come and go as they like.
unsafe extern "win64" fn notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER2,
) -> NTSTATUS {
    STATUS_SUCCESS
}
