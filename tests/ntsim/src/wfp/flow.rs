//! Contexts that callouts keep for flows.

use std::collections::BTreeMap;

use kext_nt_sys::ke::DISPATCH_LEVEL;
use kext_nt_sys::status::{
    NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_OBJECT_NAME_EXISTS, STATUS_SUCCESS,
    STATUS_UNSUCCESSFUL,
};
use parking_lot::Mutex;

use super::callout;
use crate::check::violation;
use crate::cpu;
use crate::exports::implements;

implements! {
    [status] fwps::FwpsFlowAssociateContext0 = associate;
    fwps::FwpsFlowRemoveContext0 = remove;
    fwps::FwpsFlowAbort0 = abort;
}

type Key = (u64, u16, u32);

static CONTEXTS: Mutex<BTreeMap<Key, u64>> = Mutex::new(BTreeMap::new());

/// The context of a flow for a callout; 0 if there is none.
pub(crate) fn context(flow: u64, layer: u16, callout: u32) -> u64 {
    if flow == 0 {
        return 0;
    }
    CONTEXTS
        .lock()
        .get(&(flow, layer, callout))
        .copied()
        .unwrap_or(0)
}

/// Whether a callout has contexts.
pub(crate) fn has_contexts(callout: u32) -> bool {
    CONTEXTS.lock().keys().any(|(_, _, own)| *own == callout)
}

extern "win64" fn associate(flow: u64, layer: u16, id: u32, context: u64) -> NTSTATUS {
    if context == 0 {
        violation!(Argument, "a flow context of 0");
    }
    if callout::by_id(id).is_none_or(|callout| callout.flow_delete.is_none()) {
        return STATUS_INVALID_PARAMETER;
    }
    let mut contexts = CONTEXTS.lock();
    if contexts.contains_key(&(flow, layer, id)) {
        return STATUS_OBJECT_NAME_EXISTS;
    }
    contexts.insert((flow, layer, id), context);
    STATUS_SUCCESS
}

fn tell(key: Key, context: u64) {
    let (_, layer, id) = key;
    let Some(routine) = callout::by_id(id).and_then(|callout| callout.flow_delete) else {
        return;
    };
    cpu::call("flowDeleteFn", DISPATCH_LEVEL, || {
        // SAFETY: the driver gave the routine for this.
        unsafe { routine(layer, id, context) };
    });
}

extern "win64" fn remove(flow: u64, layer: u16, id: u32) -> NTSTATUS {
    cpu::no_locks("FwpsFlowRemoveContext0");
    let key = (flow, layer, id);
    let Some(context) = CONTEXTS.lock().remove(&key) else {
        return STATUS_UNSUCCESSFUL;
    };
    tell(key, context);
    STATUS_SUCCESS
}

extern "win64" fn abort(flow: u64) -> NTSTATUS {
    end(flow);
    STATUS_SUCCESS
}

/// A flow is over: its contexts go.
pub(crate) fn end(flow: u64) {
    let gone: Vec<_> = {
        let mut contexts = CONTEXTS.lock();
        let keys: Vec<Key> = contexts
            .keys()
            .filter(|(own, ..)| *own == flow)
            .copied()
            .collect();
        keys.into_iter()
            .filter_map(|key| contexts.remove(&key).map(|context| (key, context)))
            .collect()
    };
    for (key, context) in gone {
        tell(key, context);
    }
}

pub(crate) fn pending() -> Vec<String> {
    let count = CONTEXTS.lock().len();
    if count == 0 {
        Vec::new()
    } else {
        vec![format!("{count} flow contexts are there")]
    }
}
