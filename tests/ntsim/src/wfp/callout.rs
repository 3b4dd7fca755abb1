//! Callouts at run time: registered, called, unregistered.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use kext_nt_sys::fwps::{
    FWPS_CALLOUT_CLASSIFY_FN2, FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0, FWPS_CALLOUT_NOTIFY_FN2,
    FWPS_CALLOUT2,
};
use kext_nt_sys::status::{
    NTSTATUS, STATUS_DEVICE_BUSY, STATUS_FWP_ALREADY_EXISTS, STATUS_FWP_CALLOUT_NOT_FOUND,
    STATUS_SUCCESS,
};
use kext_nt_sys::types::{GUID, PVOID};
use parking_lot::RwLock;

use super::flow;
use super::layer::key_text;
use crate::check::violation;
use crate::exports::implements;
use crate::guest;
use crate::io;

implements! {
    [status] fwps::FwpsCalloutRegister2 = register;
    [busy] fwps::FwpsCalloutUnregisterById0 = unregister_by_id;
    [busy] fwps::FwpsCalloutUnregisterByKey0 = unregister_by_key;
}

/// A callout that is registered.
#[derive(Debug)]
pub(crate) struct Callout {
    pub(crate) id: u32,
    pub(crate) key: GUID,
    pub(crate) flags: u32,
    pub(crate) classify: FWPS_CALLOUT_CLASSIFY_FN2,
    pub(crate) notify: Option<FWPS_CALLOUT_NOTIFY_FN2>,
    pub(crate) flow_delete: Option<FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0>,
    /// Calls that are under way.
    pub(crate) active: AtomicUsize,
}

static CALLOUTS: RwLock<BTreeMap<u32, Arc<Callout>>> = RwLock::new(BTreeMap::new());
static NEXT: AtomicUsize = AtomicUsize::new(257);

/// The callout with this key.
pub(crate) fn by_key(key: &GUID) -> Option<Arc<Callout>> {
    CALLOUTS
        .read()
        .values()
        .find(|callout| callout.key == *key)
        .cloned()
}

/// The callout with this number.
pub(crate) fn by_id(id: u32) -> Option<Arc<Callout>> {
    CALLOUTS.read().get(&id).cloned()
}

extern "win64" fn register(device: PVOID, callout: *const FWPS_CALLOUT2, id: *mut u32) -> NTSTATUS {
    io::expect_device(device.cast(), "FwpsCalloutRegister2");
    let callout = guest::read(callout, "a callout");
    let Some(classify) = callout.classifyFn else {
        violation!(Argument, "a callout without classifyFn");
    };
    if callout.notifyFn.is_none() {
        violation!(Argument, "a callout without notifyFn");
    }
    if by_key(&callout.calloutKey).is_some() {
        return STATUS_FWP_ALREADY_EXISTS;
    }
    let number = NEXT.fetch_add(1, Ordering::Relaxed) as u32;
    let known = Callout {
        id: number,
        key: callout.calloutKey,
        flags: callout.flags,
        classify,
        notify: callout.notifyFn,
        flow_delete: callout.flowDeleteFn,
        active: AtomicUsize::new(0),
    };
    CALLOUTS.write().insert(number, Arc::new(known));
    guest::write_optional(id, number, "the number of a callout");
    STATUS_SUCCESS
}

extern "win64" fn unregister_by_id(id: u32) -> NTSTATUS {
    let mut callouts = CALLOUTS.write();
    let Some(callout) = callouts.get(&id) else {
        return STATUS_FWP_CALLOUT_NOT_FOUND;
    };
    // Whoever calls it has looked it up under the lock that is held here.
    if callout.active.load(Ordering::Acquire) > 0 || flow::has_contexts(id) {
        return STATUS_DEVICE_BUSY;
    }
    callouts.remove(&id);
    STATUS_SUCCESS
}

extern "win64" fn unregister_by_key(key: *const GUID) -> NTSTATUS {
    let key = guest::read(key, "the key of a callout");
    match by_key(&key) {
        Some(callout) => unregister_by_id(callout.id),
        None => STATUS_FWP_CALLOUT_NOT_FOUND,
    }
}

/// Calls a callout, if it is still registered: it stays so meanwhile.
pub(crate) fn enter<R>(key: &GUID, call: impl FnOnce(&Callout) -> R) -> Option<R> {
    let callout = {
        let callouts = CALLOUTS.read();
        let callout = callouts.values().find(|callout| callout.key == *key)?;
        callout.active.fetch_add(1, Ordering::AcqRel);
        Arc::clone(callout)
    };
    let result = call(&callout);
    callout.active.fetch_sub(1, Ordering::AcqRel);
    Some(result)
}

/// Keys of all callouts that are registered.
pub(crate) fn registered() -> Vec<String> {
    CALLOUTS
        .read()
        .values()
        .map(|callout| key_text(&callout.key))
        .collect()
}

pub(crate) fn pending() -> Vec<String> {
    registered()
        .iter()
        .map(|key| format!("the callout {key} is registered"))
        .collect()
}
