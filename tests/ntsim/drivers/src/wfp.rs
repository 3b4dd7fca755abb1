//! Callouts that absorb every packet and inject it again, or are wrong in one way.

use core::mem::zeroed;
use core::ptr;
use core::sync::atomic::{
    AtomicPtr, AtomicU32, AtomicUsize,
    Ordering::{Relaxed, SeqCst},
};

use kext_nt_sys::fwp::*;
use kext_nt_sys::fwpm::*;
use kext_nt_sys::fwps::*;
use kext_nt_sys::io::*;
use kext_nt_sys::ke::*;
use kext_nt_sys::layers::*;
use kext_nt_sys::ndis::*;
use kext_nt_sys::status::*;
use kext_nt_sys::types::*;

use crate::defects::{Defect, TAG, allocate, free};
use crate::device::{LOCK, is};
use crate::names::utf16;

const fn key(number: u8) -> GUID {
    GUID {
        Data1: 0x6b65_7874,
        Data2: 1,
        Data3: 2,
        Data4: [0, 0, 0, 0, 0, 0, 0, number],
    }
}

const PROVIDER: GUID = key(1);
const SUBLAYER: GUID = key(2);

struct Hook {
    callout: GUID,
    layer: GUID,
    connects: bool,
}

static HOOKS: [Hook; 3] = [
    Hook {
        callout: key(3),
        layer: FWPM_LAYER_OUTBOUND_IPPACKET_V4,
        connects: false,
    },
    Hook {
        callout: key(4),
        layer: FWPM_LAYER_INBOUND_IPPACKET_V4,
        connects: false,
    },
    Hook {
        callout: key(5),
        layer: FWPM_LAYER_ALE_AUTH_CONNECT_V4,
        connects: true,
    },
];

static NAME: [u16; 6] = utf16(b"ntsim\0");

static IDS: [AtomicU32; 3] = [const { AtomicU32::new(0) }; 3];
static SESSION: AtomicUsize = AtomicUsize::new(0);
static SUBSCRIPTION: AtomicUsize = AtomicUsize::new(0);
static SEND: AtomicUsize = AtomicUsize::new(0);
static RECEIVE: AtomicUsize = AtomicUsize::new(0);
static POOL: AtomicUsize = AtomicUsize::new(0);
/// What was lent and is kept.
static KEPT: AtomicPtr<NET_BUFFER> = AtomicPtr::new(ptr::null_mut());
/// The bytes and the list that are being injected.
static BYTES: AtomicPtr<u8> = AtomicPtr::new(ptr::null_mut());
static LIST: AtomicPtr<NET_BUFFER_LIST> = AtomicPtr::new(ptr::null_mut());
static PENDED: AtomicUsize = AtomicUsize::new(0);

fn handle(slot: &AtomicUsize) -> HANDLE {
    ptr::with_exposed_provenance_mut(slot.load(SeqCst))
}

fn keep(slot: &AtomicUsize, handle: HANDLE) {
    slot.store(handle.expose_provenance(), SeqCst);
}

fn display() -> FWPM_DISPLAY_DATA0 {
    FWPM_DISPLAY_DATA0 {
        name: NAME.as_ptr().cast_mut(),
        description: ptr::null_mut(),
    }
}

macro_rules! check {
    ($call:expr) => {
        let status = $call;
        if status != STATUS_SUCCESS {
            return status;
        }
    };
}

pub(crate) unsafe fn start(device: *mut DEVICE_OBJECT) -> NTSTATUS {
    let parameters = NET_BUFFER_LIST_POOL_PARAMETERS {
        Header: NDIS_OBJECT_HEADER {
            Type: NDIS_OBJECT_TYPE_DEFAULT,
            Revision: NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
            Size: NDIS_SIZEOF_NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1,
        },
        ProtocolId: NDIS_PROTOCOL_ID_DEFAULT,
        fAllocateNetBuffer: TRUE,
        ContextSize: 0,
        PoolTag: TAG,
        DataSize: 0,
    };
    let pool = NdisAllocateNetBufferListPool(ptr::null_mut(), &raw const parameters);
    if pool.is_null() {
        return STATUS_INSUFFICIENT_RESOURCES;
    }
    keep(&POOL, pool);
    for slot in [&SEND, &RECEIVE] {
        let mut made = ptr::null_mut();
        check!(FwpsInjectionHandleCreate0(
            AF_INET,
            FWPS_INJECTION_TYPE_NETWORK,
            &raw mut made
        ));
        keep(slot, made);
    }
    for (hook, id) in HOOKS.iter().zip(&IDS) {
        let mut callout: FWPS_CALLOUT2 = zeroed();
        callout.calloutKey = hook.callout;
        callout.classifyFn = Some(match (hook.connects, is(Defect::OnlyCalls)) {
            (true, _) => connects,
            (false, false) => packets,
            (false, true) => only_calls,
        });
        callout.notifyFn = Some(notify);
        callout.flowDeleteFn = Some(flow_deleted);
        let mut number = 0;
        check!(FwpsCalloutRegister2(
            device.cast(),
            &raw const callout,
            &raw mut number
        ));
        id.store(number, SeqCst);
    }
    let mut change = ptr::null_mut();
    check!(FwpmBfeStateSubscribeChanges0(
        device.cast(),
        state_changed,
        ptr::null_mut(),
        &raw mut change
    ));
    keep(&SUBSCRIPTION, change);
    add_objects()
}

unsafe fn add_objects() -> NTSTATUS {
    let mut session: FWPM_SESSION0 = zeroed();
    session.flags = FWPM_SESSION_FLAG_DYNAMIC;
    let mut engine = ptr::null_mut();
    check!(FwpmEngineOpen0(
        ptr::null(),
        RPC_C_AUTHN_WINNT,
        ptr::null_mut(),
        &raw const session,
        &raw mut engine
    ));
    keep(&SESSION, engine);
    check!(FwpmTransactionBegin0(engine, 0));
    let mut provider: FWPM_PROVIDER0 = zeroed();
    provider.providerKey = PROVIDER;
    provider.displayData = display();
    check!(FwpmProviderAdd0(
        engine,
        &raw const provider,
        ptr::null_mut()
    ));
    let mut provider_key = PROVIDER;
    let mut sublayer: FWPM_SUBLAYER0 = zeroed();
    sublayer.subLayerKey = SUBLAYER;
    sublayer.displayData = display();
    sublayer.providerKey = &raw mut provider_key;
    sublayer.weight = 100;
    check!(FwpmSubLayerAdd0(
        engine,
        &raw const sublayer,
        ptr::null_mut()
    ));
    for hook in &HOOKS {
        check!(add_hook(engine, hook, &raw mut provider_key));
    }
    FwpmTransactionCommit0(engine)
}

#[inline(never)]
unsafe fn add_hook(engine: HANDLE, hook: &Hook, provider: *mut GUID) -> NTSTATUS {
    let mut callout: FWPM_CALLOUT0 = zeroed();
    callout.calloutKey = hook.callout;
    callout.displayData = display();
    callout.providerKey = provider;
    callout.applicableLayer = hook.layer;
    check!(FwpmCalloutAdd0(
        engine,
        &raw const callout,
        ptr::null_mut(),
        ptr::null_mut()
    ));
    let mut condition: FWPM_FILTER_CONDITION0 = zeroed();
    condition.fieldKey = FWPM_CONDITION_FLAGS;
    condition.matchType = FWP_MATCH_FLAGS_NONE_SET;
    condition.conditionValue.r#type = FWP_UINT32;
    condition.conditionValue.Anonymous.uint32 = FWP_CONDITION_FLAG_IS_FRAGMENT;
    let mut filter: FWPM_FILTER0 = zeroed();
    filter.displayData = display();
    filter.providerKey = provider;
    filter.layerKey = hook.layer;
    filter.subLayerKey = SUBLAYER;
    filter.weight.r#type = FWP_EMPTY;
    filter.numFilterConditions = 1;
    filter.filterCondition = &raw mut condition;
    filter.action.r#type = FWP_ACTION_CALLOUT_TERMINATING;
    filter.action.Anonymous.calloutKey = hook.callout;
    FwpmFilterAdd0(engine, &raw const filter, ptr::null_mut(), ptr::null_mut())
}

pub(crate) unsafe fn stop() {
    if is(Defect::ListPoolFreedEarly) {
        NdisFreeNetBufferListPool(handle(&POOL));
    }
    if SUBSCRIPTION.load(SeqCst) != 0 && !is(Defect::SubscriptionLeft) {
        FwpmBfeStateUnsubscribeChanges0(handle(&SUBSCRIPTION));
    }
    if SESSION.load(SeqCst) != 0 && !is(Defect::SessionLeft) {
        FwpmEngineClose0(handle(&SESSION));
    }
    for id in &IDS {
        let number = id.load(SeqCst);
        if number != 0 && !is(Defect::CalloutLeft) {
            let mut moment: LARGE_INTEGER = -100_000;
            while FwpsCalloutUnregisterById0(number) != STATUS_SUCCESS {
                if is(Defect::FlowContextLeft) {
                    break;
                }
                KeDelayExecutionThread(KernelMode, FALSE, &raw mut moment);
            }
        }
    }
    for slot in [&SEND, &RECEIVE] {
        if slot.load(SeqCst) != 0 && !is(Defect::InjectionHandleLeft) {
            FwpsInjectionHandleDestroy0(handle(slot));
        }
    }
    if POOL.load(SeqCst) != 0 && !is(Defect::ListLeft) {
        NdisFreeNetBufferListPool(handle(&POOL));
    }
}

unsafe extern "win64" fn notify(
    _: FWPS_CALLOUT_NOTIFY_TYPE,
    _: *const GUID,
    _: *mut FWPS_FILTER2,
) -> NTSTATUS {
    STATUS_SUCCESS
}

unsafe extern "win64" fn flow_deleted(_: u16, _: u32, _: u64) {}

unsafe extern "win64" fn state_changed(_: PVOID, _: FWPM_SERVICE_STATE) {
    if is(Defect::UnsubscribesInCallback) {
        FwpmBfeStateUnsubscribeChanges0(handle(&SUBSCRIPTION));
    }
}

/// The request `MISBEHAVE`: what is done when the callout has returned.
pub(crate) unsafe fn on_request() {
    let kept = KEPT.load(SeqCst);
    if is(Defect::WritesLentLater) {
        (&raw mut (*kept).DataLength).write_volatile(1);
    } else if is(Defect::ReadsLentLater) {
        (&raw const (*kept).DataLength).read_volatile();
    } else if is(Defect::ChangesInjected) {
        BYTES.load(SeqCst).add(30).write_volatile(1);
    } else if is(Defect::FreesInjected) {
        FwpsFreeNetBufferList0(LIST.load(SeqCst));
    } else if is(Defect::Pends) || is(Defect::PendCompletedTwice) {
        FwpsCompleteOperation0(handle(&PENDED), ptr::null_mut());
        if is(Defect::PendCompletedTwice) {
            FwpsCompleteOperation0(handle(&PENDED), ptr::null_mut());
        }
    }
}

unsafe fn decide(out: *mut FWPS_CLASSIFY_OUT0, action: FWP_ACTION_TYPE, flags: u32) {
    (*out).actionType = action;
    (*out).flags |= flags;
    if action == FWP_ACTION_BLOCK {
        (*out).rights &= !FWPS_RIGHT_ACTION_WRITE;
    }
}

unsafe extern "win64" fn connects(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    _: PVOID,
    _: *const core::ffi::c_void,
    _: *const FWPS_FILTER2,
    _: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    if is(Defect::FlowContextLeft) {
        let id = IDS[2].load(SeqCst);
        FwpsFlowAssociateContext0((*metadata).flowHandle, (*values).layerId, id, 1);
    }
    let pends = is(Defect::Pends) || is(Defect::PendLeft) || is(Defect::PendCompletedTwice);
    let mut context = ptr::null_mut();
    if pends && FwpsPendOperation0((*metadata).completionHandle, &raw mut context) == STATUS_SUCCESS
    {
        keep(&PENDED, context);
        decide(out, FWP_ACTION_BLOCK, FWPS_CLASSIFY_OUT_FLAG_ABSORB);
        return;
    }
    decide(out, FWP_ACTION_PERMIT, 0);
}

unsafe extern "win64" fn only_calls(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    data: PVOID,
    _: *const core::ffi::c_void,
    _: *const FWPS_FILTER2,
    _: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    let list: *mut NET_BUFFER_LIST = data.cast();
    let inbound = (*values).layerId == FWPS_LAYER_INBOUND_IPPACKET_V4;
    let own = if inbound { &RECEIVE } else { &SEND };
    let own = ptr::with_exposed_provenance_mut(own.load(Relaxed));
    let old = KeRaiseIrqlToDpcLevel();
    KeGetCurrentProcessorNumberEx(ptr::null_mut());
    let mut context = ptr::null_mut();
    FwpsQueryPacketInjectionState0(own, list, &raw mut context);
    let buffer = (*list).FirstNetBuffer;
    let back = if inbound { (*metadata).ipHeaderSize } else { 0 };
    if back > 0 {
        NdisRetreatNetBufferDataStart(buffer, back, 0, None);
    }
    NdisGetDataBuffer(buffer, (*buffer).DataLength, ptr::null_mut(), 1, 0);
    let mut counter = 0;
    KeQueryInterruptTimePrecise(&raw mut counter);
    if back > 0 {
        NdisAdvanceNetBufferDataStart(buffer, back, FALSE, None);
    }
    KeLowerIrql(old);
    (*out).actionType = FWP_ACTION_PERMIT;
}

unsafe extern "win64" fn packets(
    values: *const FWPS_INCOMING_VALUES0,
    metadata: *const FWPS_INCOMING_METADATA_VALUES0,
    data: PVOID,
    _: *const core::ffi::c_void,
    _: *const FWPS_FILTER2,
    _: u64,
    out: *mut FWPS_CLASSIFY_OUT0,
) {
    let list: *mut NET_BUFFER_LIST = data.cast();
    let inbound = (*values).layerId == FWPS_LAYER_INBOUND_IPPACKET_V4;
    let own = handle(if inbound { &RECEIVE } else { &SEND });
    let state = FwpsQueryPacketInjectionState0(own, list, ptr::null_mut());
    if state == FWPS_PACKET_INJECTED_BY_SELF && !is(Defect::InjectsForEver) {
        decide(out, FWP_ACTION_PERMIT, 0);
        return;
    }
    let may = (*out).rights & FWPS_RIGHT_ACTION_WRITE != 0;
    if !may && !is(Defect::AbsorbsWithoutRight) {
        decide(out, FWP_ACTION_PERMIT, 0);
        return;
    }
    let buffer = (*list).FirstNetBuffer;
    let back = if inbound { (*metadata).ipHeaderSize } else { 0 };
    if is(Defect::StartNotMovedBack) {
        NdisAdvanceNetBufferDataStart(buffer, 4, FALSE, None);
    } else if is(Defect::ChangesLent) {
        let start: *mut u8 = NdisGetDataBuffer(buffer, 1, ptr::null_mut(), 1, 0).cast();
        *start ^= 0xff;
    } else if is(Defect::WritesLentLater) || is(Defect::ReadsLentLater) {
        KEPT.store(buffer, SeqCst);
    } else if is(Defect::AbsorbsAndPermits) {
        decide(out, FWP_ACTION_PERMIT, FWPS_CLASSIFY_OUT_FLAG_ABSORB);
        return;
    } else if is(Defect::AnswersNothing) {
        return;
    } else if is(Defect::WritesOutContext) {
        (*out).outContext = 0;
    } else if is(Defect::ClassifyAtOtherLevel) {
        KeLowerIrql(PASSIVE_LEVEL);
    } else if is(Defect::ReferenceLeft) {
        FwpsReferenceNetBufferList0(list, FALSE);
    } else if is(Defect::InjectsLent) {
        inject(list, inbound, ptr::null_mut());
    } else if is(Defect::InjectsSeveral) {
        let mut clone = ptr::null_mut();
        NdisRetreatNetBufferListDataStart(list, back, 0, None, None);
        let status = FwpsAllocateCloneNetBufferList0(
            list,
            ptr::null_mut(),
            ptr::null_mut(),
            0,
            &raw mut clone,
        );
        NdisAdvanceNetBufferListDataStart(list, back, FALSE, None);
        if status == STATUS_SUCCESS {
            inject(clone, inbound, ptr::null_mut());
        }
    }
    if is(Defect::StartNotMovedBack) || is(Defect::ChangesLent) {
        decide(out, FWP_ACTION_PERMIT, 0);
        return;
    }
    if is(Defect::WritesOutContext) || KEPT.load(SeqCst) == buffer {
        decide(out, FWP_ACTION_PERMIT, 0);
        return;
    }
    if is(Defect::ReferenceLeft) || is(Defect::ClassifyAtOtherLevel) {
        decide(out, FWP_ACTION_PERMIT, 0);
        return;
    }
    let mut next = buffer;
    while !next.is_null() {
        bounce(next, back, inbound);
        next = (*next).Next;
    }
    decide(out, FWP_ACTION_BLOCK, FWPS_CLASSIFY_OUT_FLAG_ABSORB);
}

/// A packet that is copied: its bytes follow.
#[repr(C, align(16))]
struct Copied {
    mdl: *mut MDL,
    length: usize,
}

/// Copies one packet, and injects the copy.
unsafe fn bounce(buffer: *mut NET_BUFFER, back: u32, inbound: bool) {
    if NdisRetreatNetBufferDataStart(buffer, back, 0, None) != NDIS_STATUS_SUCCESS {
        return;
    }
    let length = (*buffer).DataLength;
    let copied: *mut Copied = allocate(size_of::<Copied>() + length as usize).cast();
    if !copied.is_null() {
        let bytes: *mut u8 = copied.add(1).cast();
        let data: *mut u8 = NdisGetDataBuffer(buffer, length, bytes.cast(), 1, 0).cast();
        if !data.is_null() && data != bytes {
            ptr::copy_nonoverlapping(data, bytes, length as usize);
        }
        (*copied).length = length as usize;
        let skip = if is(Defect::InjectsTransport) { 20 } else { 0 };
        let mdl = IoAllocateMdl(bytes.cast(), length, FALSE, FALSE, ptr::null_mut());
        let mut list = ptr::null_mut();
        let mut injected = false;
        if !data.is_null() && !mdl.is_null() {
            MmBuildMdlForNonPagedPool(mdl);
            (*copied).mdl = mdl;
            let status = FwpsAllocateNetBufferAndNetBufferList0(
                handle(&POOL),
                0,
                0,
                mdl,
                skip,
                (length - skip) as usize,
                &raw mut list,
            );
            if status == STATUS_SUCCESS {
                BYTES.store(bytes, SeqCst);
                LIST.store(list, SeqCst);
                injected = inject(list, inbound, copied.cast());
                if !injected {
                    FwpsFreeNetBufferList0(list);
                }
            }
        }
        if !injected {
            if !mdl.is_null() {
                IoFreeMdl(mdl);
            }
            free(copied.cast());
        }
    }
    NdisAdvanceNetBufferDataStart(buffer, back, FALSE, None);
}

unsafe fn inject(list: *mut NET_BUFFER_LIST, inbound: bool, argument: PVOID) -> bool {
    let lock = LOCK.as_ptr();
    if is(Defect::InjectsUnderLock) {
        KeAcquireSpinLockAtDpcLevel(lock);
    }
    let mark = ptr::without_provenance_mut(77);
    let status = if inbound {
        FwpsInjectNetworkReceiveAsync0(
            handle(&RECEIVE),
            mark,
            0,
            UNSPECIFIED_COMPARTMENT_ID,
            7,
            1,
            list,
            completed,
            argument,
        )
    } else {
        FwpsInjectNetworkSendAsync0(
            handle(&SEND),
            mark,
            0,
            UNSPECIFIED_COMPARTMENT_ID,
            list,
            completed,
            argument,
        )
    };
    status == STATUS_SUCCESS
}

unsafe extern "win64" fn completed(argument: PVOID, list: *mut NET_BUFFER_LIST, _: BOOLEAN) {
    if is(Defect::DestroysInCompletion) {
        FwpsInjectionHandleDestroy0(handle(&SEND));
    }
    if !is(Defect::ListLeft) {
        FwpsFreeNetBufferList0(list);
    }
    let copied: *mut Copied = argument.cast();
    if !copied.is_null() {
        IoFreeMdl((*copied).mdl);
        free(copied.cast());
    }
}
