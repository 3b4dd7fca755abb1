//! Operations that a callout holds: connects and accepts, and classifications.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use kext_nt_sys::fwp::{
    FWP_ACTION_BLOCK, FWP_ACTION_PERMIT, FWP_CONDITION_FLAG_IS_REAUTHORIZE,
    FWP_CONDITION_REAUTHORIZE_REASON_CLASSIFY_COMPLETION,
};
use kext_nt_sys::fwps::{FWPS_CLASSIFY_OUT0, FWPS_METADATA_FIELD_COMPLETION_HANDLE};
use kext_nt_sys::ndis::NET_BUFFER_LIST;
use kext_nt_sys::status::{
    NTSTATUS, STATUS_FWP_CANNOT_PEND, STATUS_FWP_TCPIP_NOT_READY, STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
};
use kext_nt_sys::types::{HANDLE, PVOID};
use parking_lot::Mutex;

use super::ale::{self, Endpoint};
use super::classify::Call;
use super::inject;
use super::layer::Kind;
use crate::check::violation;
use crate::cpu;
use crate::dispatcher;
use crate::exports::implements;
use crate::guest;

implements! {
    [status] fwps::FwpsPendOperation0 = pend;
    fwps::FwpsCompleteOperation0 = complete;
    [status] fwps::FwpsAcquireClassifyHandle0 = acquire;
    fwps::FwpsReleaseClassifyHandle0 = release;
    [status] fwps::FwpsPendClassify0 = pend_classify;
    fwps::FwpsCompleteClassify0 = complete_classify;
}

/// The classify context that callouts are given.
pub(crate) const CONTEXT: usize = 0xc1a5_51f0;
const CLASSIFY: u64 = 0xc1a5_0000;

thread_local! {
    /// What a callout is asked on this thread: kind of the layer, whether it may be pended, filter.
    static ASKED: Cell<Option<(Kind, bool, u64)>> = const { Cell::new(None) };
}

/// While a callout is asked.
pub(crate) struct Asked(Option<(Kind, bool, u64)>);

impl Asked {
    pub(crate) fn new(call: &Call, filter: u64) -> Self {
        let may = call.metadata.currentMetadataValues & FWPS_METADATA_FIELD_COMPLETION_HANDLE != 0;
        let again = ale::is_reauthorization(call);
        Self(ASKED.replace(Some((call.layer.kind, may && !again, filter))))
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        ASKED.set(self.0);
    }
}

#[derive(Debug, Default)]
struct State {
    next: usize,
    /// Operations that are held, by the context of their completion.
    operations: BTreeMap<usize, Endpoint>,
    /// Endpoints that were closed while an operation of theirs was held: it is to be completed all the
    /// same, and is not authorized again.
    closed: BTreeSet<u64>,
    /// Endpoints whose callout has just pended them, by completion handle.
    offered: BTreeMap<usize, Endpoint>,
    /// Classify handles: whether they are pended.
    classifies: BTreeMap<u64, bool>,
    completed: Vec<(u64, bool)>,
}

static STATE: Mutex<Option<State>> = Mutex::new(None);

fn with<R>(work: impl FnOnce(&mut State) -> R) -> R {
    work(STATE.lock().get_or_insert_default())
}

/// A completion handle for an endpoint that is being authorized.
pub(crate) fn offer(endpoint: &Endpoint) -> usize {
    with(|state| {
        state.next += 8;
        let handle = 0xc0_0000 + state.next;
        state.offered.insert(handle, endpoint.clone());
        handle
    })
}

/// The authorization is over; whether it was pended.
pub(crate) fn withdraw(handle: usize) -> bool {
    with(|state| state.offered.remove(&handle).is_none())
}

/// An endpoint is closed.
pub(crate) fn endpoint_closed(handle: u64) {
    with(|state| {
        let is_held = |operation: &Endpoint| operation.handle == handle;
        if state.operations.values().any(is_held) {
            state.closed.insert(handle);
        }
    });
}

extern "win64" fn pend(handle: HANDLE, context: *mut HANDLE) -> NTSTATUS {
    match ASKED.get() {
        Some((Kind::AleAuthConnect | Kind::AleAuthRecvAccept, true, _)) => {}
        Some((Kind::AleAuthConnect | Kind::AleAuthRecvAccept, false, _)) => {
            return STATUS_FWP_CANNOT_PEND;
        }
        _ => violation!(Pended, "FwpsPendOperation0 where nothing can be pended"),
    }
    if inject::is_not_ready() {
        return STATUS_FWP_TCPIP_NOT_READY;
    }
    let number = with(|state| {
        let endpoint = state.offered.remove(&handle.addr())?;
        state.next += 8;
        let number = 0xd0_0000 + state.next;
        state.operations.insert(number, endpoint);
        Some(number)
    });
    let Some(number) = number else {
        violation!(
            Pended,
            "FwpsPendOperation0 of {handle:p}, which is no completion handle here"
        );
    };
    guest::write(
        context,
        std::ptr::without_provenance_mut(number),
        "a completion context",
    );
    STATUS_SUCCESS
}

extern "win64" fn complete(context: HANDLE, list: *mut NET_BUFFER_LIST) {
    let _ = list;
    cpu::no_locks("FwpsCompleteOperation0");
    let Some(endpoint) = with(|state| state.operations.remove(&context.addr())) else {
        violation!(
            Pended,
            "FwpsCompleteOperation0 of {context:p}, which is not pended"
        );
    };
    let closed = with(|state| state.closed.remove(&endpoint.handle));
    if endpoint.accepts || closed {
        return;
    }
    // A connect is authorized again, before this returns.
    let again = Endpoint {
        flags: endpoint.flags | FWP_CONDITION_FLAG_IS_REAUTHORIZE,
        reason: FWP_CONDITION_REAUTHORIZE_REASON_CLASSIFY_COMPLETION,
        ..endpoint
    };
    let held = ale::authorize(&again);
    ale::ended(&again, held);
}

extern "win64" fn acquire(context: PVOID, flags: u32, handle: *mut u64) -> NTSTATUS {
    if context.addr() != CONTEXT || flags != 0 {
        return STATUS_INVALID_PARAMETER;
    }
    let number = with(|state| {
        state.next += 1;
        let number = CLASSIFY + state.next as u64;
        state.classifies.insert(number, false);
        number
    });
    guest::write(handle, number, "a classify handle");
    STATUS_SUCCESS
}

extern "win64" fn release(handle: u64) {
    match with(|state| state.classifies.remove(&handle)) {
        None => violation!(
            Pended,
            "FwpsReleaseClassifyHandle0 of what is no classify handle"
        ),
        Some(true) => violation!(Pended, "a classify handle is released that is pended"),
        Some(false) => {}
    }
}

extern "win64" fn pend_classify(
    handle: u64,
    filter: u64,
    _: u32,
    out: *mut FWPS_CLASSIFY_OUT0,
) -> NTSTATUS {
    let Some((_, _, asked)) = ASKED.get() else {
        violation!(Pended, "FwpsPendClassify0 outside of a callout");
    };
    if asked != filter {
        return STATUS_INVALID_PARAMETER;
    }
    with(|state| match state.classifies.get_mut(&handle) {
        None => violation!(Pended, "FwpsPendClassify0 of what is no classify handle"),
        Some(true) => violation!(Pended, "a classification is pended twice"),
        Some(pended) => *pended = true,
    });
    guest::borrow(out, "what a callout decides").actionType = FWP_ACTION_BLOCK;
    STATUS_SUCCESS
}

extern "win64" fn complete_classify(handle: u64, _: u32, out: *const FWPS_CLASSIFY_OUT0) {
    let permits = guest::read(out, "what a callout decides").actionType == FWP_ACTION_PERMIT;
    with(|state| match state.classifies.get_mut(&handle) {
        Some(pended @ true) => {
            *pended = false;
            state.completed.push((handle, permits));
        }
        _ => violation!(Pended, "FwpsCompleteClassify0 of what is not pended"),
    });
    dispatcher::notify();
}

/// How many operations and classifications are held.
pub(crate) fn held() -> usize {
    with(|state| {
        state.operations.len() + state.classifies.values().filter(|pended| **pended).count()
    })
}

pub(crate) fn pending() -> Vec<String> {
    with(|state| {
        let mut pending = Vec::new();
        if !state.operations.is_empty() {
            pending.push(format!("{} operations are pended", state.operations.len()));
        }
        if !state.classifies.is_empty() {
            pending.push(format!(
                "{} classify handles are there",
                state.classifies.len()
            ));
        }
        pending
    })
}
