//! The management interface of the filter engine: sessions, transactions, and the objects that
//! bring packets to our callouts.
//!
//! Windows metadata name a user-mode library for these; a driver that imports that never loads.

use crate::fwp::{
    FWP_ACTION_TYPE, FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_MATCH_TYPE, FWP_VALUE0,
};
use crate::status::NTSTATUS;
use crate::types::{BOOL, GUID, HANDLE, PVOID};

pub type FWPM_SERVICE_STATE = i32;

// FWPM_SESSION_FLAG. Source: two-sources; metadata, mingw, wireguard-windows.
pub const FWPM_SESSION_FLAG_DYNAMIC: u32 = 1;

// FWPM_FILTER_FLAG. Source: two-sources; metadata, mingw.
pub const FWPM_FILTER_FLAG_HAS_SECURITY_REALM_PROVIDER_CONTEXT: u32 = 0x0000_0080;
pub const FWPM_FILTER_FLAG_SYSTEMOS_ONLY: u32 = 0x0000_0100;
pub const FWPM_FILTER_FLAG_GAMEOS_ONLY: u32 = 0x0000_0200;
pub const FWPM_FILTER_FLAG_SILENT_MODE: u32 = 0x0000_0400;
pub const FWPM_FILTER_FLAG_IPSEC_NO_ACQUIRE_INITIATE: u32 = 0x0000_0800;
pub const FWPM_FILTER_FLAG_RESERVED0: u32 = 0x0000_1000;
pub const FWPM_FILTER_FLAG_RESERVED1: u32 = 0x0000_2000;
pub const FWPM_FILTER_FLAG_RESERVED2: u32 = 0x0000_4000;
pub const FWPM_FILTER_FLAG_NONE: u32 = 0;
pub const FWPM_FILTER_FLAG_PERSISTENT: u32 = 1;
pub const FWPM_FILTER_FLAG_BOOTTIME: u32 = 2;
pub const FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT: u32 = 4;
pub const FWPM_FILTER_FLAG_CLEAR_ACTION_RIGHT: u32 = 8;
pub const FWPM_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u32 = 0x0000_0010;
pub const FWPM_FILTER_FLAG_DISABLED: u32 = 0x0000_0020;
pub const FWPM_FILTER_FLAG_INDEXED: u32 = 0x0000_0040;

// FWPM_SUBLAYER_FLAG. Source: two-sources; metadata, mingw.
pub const FWPM_SUBLAYER_FLAG_PERSISTENT: u32 = 1;

// FWPM_CALLOUT_FLAG. Source: two-sources; metadata, mingw.
pub const FWPM_CALLOUT_FLAG_PERSISTENT: u32 = 0x0001_0000;
pub const FWPM_CALLOUT_FLAG_USES_PROVIDER_CONTEXT: u32 = 0x0002_0000;
pub const FWPM_CALLOUT_FLAG_REGISTERED: u32 = 0x0004_0000;

// FWPM_SERVICE_STATE. Source: two-sources; metadata, learn-ddi.
pub const FWPM_SERVICE_STOPPED: FWPM_SERVICE_STATE = 0;
pub const FWPM_SERVICE_START_PENDING: FWPM_SERVICE_STATE = 1;
pub const FWPM_SERVICE_STOP_PENDING: FWPM_SERVICE_STATE = 2;
pub const FWPM_SERVICE_RUNNING: FWPM_SERVICE_STATE = 3;
pub const FWPM_SERVICE_STATE_MAX: FWPM_SERVICE_STATE = 4;

// FWPM_TXN. Source: one-source; metadata.
pub const FWPM_TXN_READ_ONLY: u32 = 1;

// RPC_C_AUTHN. Source: two-sources; metadata, mingw.
pub const RPC_C_AUTHN_WINNT: u32 = 0x0000_000a;
pub const RPC_C_AUTHN_DEFAULT: u32 = 0xffff_ffff;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_DISPLAY_DATA0 {
    pub name: *mut u16,
    pub description: *mut u16,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union FWPM_ACTION0_0 {
    pub filterType: GUID,
    pub calloutKey: GUID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPM_ACTION0 {
    pub r#type: FWP_ACTION_TYPE,
    pub Anonymous: FWPM_ACTION0_0,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPM_FILTER_CONDITION0 {
    pub fieldKey: GUID,
    pub matchType: FWP_MATCH_TYPE,
    pub conditionValue: FWP_CONDITION_VALUE0,
}

/// `FWPM_FILTER_FLAG_HAS_PROVIDER_CONTEXT` selects the second.
#[repr(C)]
#[derive(Clone, Copy)]
pub union FWPM_FILTER0_0 {
    pub rawContext: u64,
    pub providerContextKey: GUID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPM_FILTER0 {
    pub filterKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: u32,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub layerKey: GUID,
    pub subLayerKey: GUID,
    pub weight: FWP_VALUE0,
    pub numFilterConditions: u32,
    pub filterCondition: *mut FWPM_FILTER_CONDITION0,
    pub action: FWPM_ACTION0,
    pub Anonymous: FWPM_FILTER0_0,
    pub reserved: *mut GUID,
    pub filterId: u64,
    pub effectiveWeight: FWP_VALUE0,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_SESSION0 {
    pub sessionKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: u32,
    pub txnWaitTimeoutInMSec: u32,
    pub processId: u32,
    pub sid: PVOID,
    pub username: *mut u16,
    pub kernelMode: BOOL,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_SUBLAYER0 {
    pub subLayerKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: u32,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub weight: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_CALLOUT0 {
    pub calloutKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: u32,
    pub providerKey: *mut GUID,
    pub providerData: FWP_BYTE_BLOB,
    pub applicableLayer: GUID,
    pub calloutId: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPM_PROVIDER0 {
    pub providerKey: GUID,
    pub displayData: FWPM_DISPLAY_DATA0,
    pub flags: u32,
    pub providerData: FWP_BYTE_BLOB,
    pub serviceName: *mut u16,
}

/// Must not unsubscribe: that waits for it.
pub type FWPM_SERVICE_STATE_CHANGE_CALLBACK0 =
    unsafe extern "win64" fn(context: PVOID, newState: FWPM_SERVICE_STATE);

imports! {
    "fwpkclnt.sys";

    [..=DISPATCH_LEVEL] fn FwpmBfeStateGet0() -> FWPM_SERVICE_STATE;
    /// Subscribe first, then ask for the state: else a change is missed.
    [..=PASSIVE_LEVEL] fn FwpmBfeStateSubscribeChanges0(
        deviceObject: PVOID,
        callback: FWPM_SERVICE_STATE_CHANGE_CALLBACK0,
        context: PVOID,
        changeHandle: *mut HANDLE,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmBfeStateUnsubscribeChanges0(changeHandle: HANDLE) -> NTSTATUS;

    [..=PASSIVE_LEVEL] fn FwpmEngineOpen0(
        serverName: *const u16,
        authnService: u32,
        authIdentity: PVOID,
        session: *const FWPM_SESSION0,
        engineHandle: *mut HANDLE,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmEngineClose0(engineHandle: HANDLE) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmTransactionBegin0(engineHandle: HANDLE, flags: u32) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmTransactionCommit0(engineHandle: HANDLE) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmTransactionAbort0(engineHandle: HANDLE) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmProviderAdd0(
        engineHandle: HANDLE,
        provider: *const FWPM_PROVIDER0,
        sd: PVOID,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmSubLayerAdd0(
        engineHandle: HANDLE,
        subLayer: *const FWPM_SUBLAYER0,
        sd: PVOID,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmSubLayerDeleteByKey0(
        engineHandle: HANDLE,
        key: *const GUID,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmCalloutAdd0(
        engineHandle: HANDLE,
        callout: *const FWPM_CALLOUT0,
        sd: PVOID,
        id: *mut u32,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmCalloutDeleteById0(engineHandle: HANDLE, id: u32) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmCalloutDeleteByKey0(
        engineHandle: HANDLE,
        key: *const GUID,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmFilterAdd0(
        engineHandle: HANDLE,
        filter: *const FWPM_FILTER0,
        sd: PVOID,
        id: *mut u64,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmFilterDeleteById0(engineHandle: HANDLE, id: u64) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpmFilterDeleteByKey0(
        engineHandle: HANDLE,
        key: *const GUID,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpmFreeMemory0(p: *mut PVOID);
}
