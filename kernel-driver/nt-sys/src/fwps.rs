//! The run-time interface of the filter engine: callouts, classification, injection.
//!
//! Callbacks run at any IRQL up to `DISPATCH_LEVEL`, and must not unwind.

use crate::fwp::{
    FWP_ACTION_TYPE, FWP_BYTE_BLOB, FWP_CONDITION_VALUE0, FWP_DIRECTION, FWP_MATCH_TYPE,
    FWP_VALUE0, SOCKADDR_INET, WSACMSGHDR,
};
use crate::io::MDL;
use crate::ndis::{NET_BUFFER, NET_BUFFER_LIST};
use crate::status::NTSTATUS;
use crate::types::{BOOLEAN, GUID, HANDLE, PVOID};

pub type FWPS_PACKET_INJECTION_STATE = i32;
pub type FWPS_STREAM_ACTION_TYPE = i32;
pub type FWPS_CALLOUT_NOTIFY_TYPE = i32;

// FWPS_RIGHT. Source: two-sources; metadata, reactos-fork.
pub const FWPS_RIGHT_ACTION_WRITE: u32 = 1;

// FWPS_CLASSIFY_OUT_FLAG. Source: two-sources; metadata, reactos-fork.
pub const FWPS_CLASSIFY_OUT_FLAG_ABSORB: u32 = 1;
pub const FWPS_CLASSIFY_OUT_FLAG_BUFFER_LIMIT_REACHED: u32 = 2;
pub const FWPS_CLASSIFY_OUT_FLAG_NO_MORE_DATA: u32 = 4;
pub const FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_CHECK: u32 = 8;
pub const FWPS_CLASSIFY_OUT_FLAG_ALE_FAST_CACHE_POSSIBLE: u32 = 0x0000_0010;

// FWPS_METADATA_FIELD. Source: two-sources; metadata, reactos-fork, portmaster.
pub const FWPS_METADATA_FIELD_DISCARD_REASON: u32 = 1;
pub const FWPS_METADATA_FIELD_FLOW_HANDLE: u32 = 2;
pub const FWPS_METADATA_FIELD_IP_HEADER_SIZE: u32 = 4;
pub const FWPS_METADATA_FIELD_PROCESS_PATH: u32 = 8;
pub const FWPS_METADATA_FIELD_TOKEN: u32 = 0x0000_0010;
pub const FWPS_METADATA_FIELD_PROCESS_ID: u32 = 0x0000_0020;
pub const FWPS_METADATA_FIELD_SYSTEM_FLAGS: u32 = 0x0000_0040;
pub const FWPS_METADATA_FIELD_RESERVED: u32 = 0x0000_0080;
pub const FWPS_METADATA_FIELD_SOURCE_INTERFACE_INDEX: u32 = 0x0000_0100;
pub const FWPS_METADATA_FIELD_DESTINATION_INTERFACE_INDEX: u32 = 0x0000_0200;
pub const FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE: u32 = 0x0000_0400;
pub const FWPS_METADATA_FIELD_COMPARTMENT_ID: u32 = 0x0000_0800;
pub const FWPS_METADATA_FIELD_FRAGMENT_DATA: u32 = 0x0000_1000;
pub const FWPS_METADATA_FIELD_PATH_MTU: u32 = 0x0000_2000;
pub const FWPS_METADATA_FIELD_COMPLETION_HANDLE: u32 = 0x0000_4000;
pub const FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE: u32 = 0x0000_8000;
pub const FWPS_METADATA_FIELD_TRANSPORT_CONTROL_DATA: u32 = 0x0001_0000;
pub const FWPS_METADATA_FIELD_REMOTE_SCOPE_ID: u32 = 0x0002_0000;
pub const FWPS_METADATA_FIELD_PACKET_DIRECTION: u32 = 0x0004_0000;
pub const FWPS_METADATA_FIELD_PACKET_SYSTEM_CRITICAL: u32 = 0x0008_0000;
pub const FWPS_METADATA_FIELD_FORWARD_LAYER_OUTBOUND_PASS_THRU: u32 = 0x0010_0000;
pub const FWPS_METADATA_FIELD_FORWARD_LAYER_INBOUND_PASS_THRU: u32 = 0x0020_0000;
pub const FWPS_METADATA_FIELD_ALE_CLASSIFY_REQUIRED: u32 = 0x0040_0000;
pub const FWPS_METADATA_FIELD_TRANSPORT_HEADER_INCLUDE_HEADER: u32 = 0x0080_0000;
pub const FWPS_METADATA_FIELD_DESTINATION_PREFIX: u32 = 0x0100_0000;
pub const FWPS_METADATA_FIELD_ETHER_FRAME_LENGTH: u32 = 0x0200_0000;
pub const FWPS_METADATA_FIELD_PARENT_ENDPOINT_HANDLE: u32 = 0x0400_0000;
pub const FWPS_METADATA_FIELD_ICMP_ID_AND_SEQUENCE: u32 = 0x0800_0000;
pub const FWPS_METADATA_FIELD_LOCAL_REDIRECT_TARGET_PID: u32 = 0x1000_0000;
pub const FWPS_METADATA_FIELD_ORIGINAL_DESTINATION: u32 = 0x2000_0000;
pub const FWPS_METADATA_FIELD_REDIRECT_RECORD_HANDLE: u32 = 0x4000_0000;
pub const FWPS_METADATA_FIELD_SUB_PROCESS_TAG: u32 = 0x8000_0000;

// FWPS_FILTER_FLAG. Source: one-source; metadata, learn-ddi.
pub const FWPS_FILTER_FLAG_CLEAR_ACTION_RIGHT: u16 = 1;
pub const FWPS_FILTER_FLAG_PERMIT_IF_CALLOUT_UNREGISTERED: u16 = 2;
pub const FWPS_FILTER_FLAG_OR_CONDITIONS: u16 = 4;
pub const FWPS_FILTER_FLAG_HAS_SECURITY_REALM_PROVIDER_CONTEXT: u16 = 8;
pub const FWPS_FILTER_FLAG_SILENT_MODE: u16 = 0x0010;
pub const FWPS_FILTER_FLAG_IPSEC_NO_ACQUIRE_INITIATE: u16 = 0x0020;
pub const FWPS_FILTER_FLAG_RESERVED0: u16 = 0x0040;
pub const FWPS_FILTER_FLAG_RESERVED1: u16 = 0x0080;
pub const FWPS_FILTER_FLAG_RESERVED2: u16 = 0x0100;

// FWPS_INJECTION_TYPE. Source: two-sources; reactos-fork, portmaster.
pub const FWPS_INJECTION_TYPE_STREAM: u32 = 1;
pub const FWPS_INJECTION_TYPE_TRANSPORT: u32 = 2;
pub const FWPS_INJECTION_TYPE_NETWORK: u32 = 4;
pub const FWPS_INJECTION_TYPE_FORWARD: u32 = 8;
pub const FWPS_INJECTION_TYPE_L2: u32 = 0x0000_0010;
pub const FWPS_INJECTION_TYPE_VSWITCH_TRANSPORT: u32 = 0x0000_0020;

// FWPS_PACKET_INJECTION_STATE. Source: two-sources; wdk-header-data, reactos-fork, learn-ddi.
pub const FWPS_PACKET_NOT_INJECTED: FWPS_PACKET_INJECTION_STATE = 0;
pub const FWPS_PACKET_INJECTED_BY_SELF: FWPS_PACKET_INJECTION_STATE = 1;
pub const FWPS_PACKET_INJECTED_BY_OTHER: FWPS_PACKET_INJECTION_STATE = 2;
pub const FWPS_PACKET_PREVIOUSLY_INJECTED_BY_SELF: FWPS_PACKET_INJECTION_STATE = 3;
pub const FWPS_PACKET_INJECTION_STATE_MAX: FWPS_PACKET_INJECTION_STATE = 4;

// FWPS_STREAM_ACTION_TYPE. Source: two-sources; wdk-header-data, reactos-fork, learn-ddi.
pub const FWPS_STREAM_ACTION_NONE: FWPS_STREAM_ACTION_TYPE = 0;
pub const FWPS_STREAM_ACTION_NEED_MORE_DATA: FWPS_STREAM_ACTION_TYPE = 1;
pub const FWPS_STREAM_ACTION_DROP_CONNECTION: FWPS_STREAM_ACTION_TYPE = 2;
pub const FWPS_STREAM_ACTION_DEFER: FWPS_STREAM_ACTION_TYPE = 3;
pub const FWPS_STREAM_ACTION_ALLOW_CONNECTION: FWPS_STREAM_ACTION_TYPE = 4;

// FWPS_STREAM_FLAG. Source: one-source; reactos-fork, portmaster.
pub const FWPS_STREAM_FLAG_RECEIVE: u32 = 1;
pub const FWPS_STREAM_FLAG_RECEIVE_EXPEDITED: u32 = 2;
pub const FWPS_STREAM_FLAG_RECEIVE_DISCONNECT: u32 = 4;
pub const FWPS_STREAM_FLAG_RECEIVE_ABORT: u32 = 8;
pub const FWPS_STREAM_FLAG_RECEIVE_PUSH: u32 = 0x0000_0010;
pub const FWPS_STREAM_FLAG_SEND: u32 = 0x0001_0000;
pub const FWPS_STREAM_FLAG_SEND_EXPEDITED: u32 = 0x0002_0000;
pub const FWPS_STREAM_FLAG_SEND_NODELAY: u32 = 0x0004_0000;
pub const FWPS_STREAM_FLAG_SEND_DISCONNECT: u32 = 0x0008_0000;
pub const FWPS_STREAM_FLAG_SEND_ABORT: u32 = 0x0010_0000;

// FWPS_CALLOUT_NOTIFY_TYPE. Source: two-sources; wdk-header-data, reactos-fork, learn-ddi.
pub const FWPS_CALLOUT_NOTIFY_ADD_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 0;
pub const FWPS_CALLOUT_NOTIFY_DELETE_FILTER: FWPS_CALLOUT_NOTIFY_TYPE = 1;
pub const FWPS_CALLOUT_NOTIFY_ADD_FILTER_POST_COMMIT: FWPS_CALLOUT_NOTIFY_TYPE = 2;

// FWPS_CLASSIFY_FLAG. Source: one-source; reactos-fork.
pub const FWPS_CLASSIFY_FLAG_REAUTHORIZE_IF_MODIFIED_BY_OTHERS: u32 = 1;

// FWPS_PACKET_LIST_INFORMATION_QUERY. Source: one-source; reactos-fork.
pub const FWPS_PACKET_LIST_INFORMATION_QUERY_ALL_INBOUND: u32 = 0xffff_fffd;

// COMPARTMENT. Source: two-sources; metadata, learn-ddi.
pub const UNSPECIFIED_COMPARTMENT_ID: u32 = 0;
pub const DEFAULT_COMPARTMENT_ID: u32 = 1;

/// One value of a layer. It may be `FWP_EMPTY`, above all when a flow is authorized anew.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_INCOMING_VALUE0 {
    pub value: FWP_VALUE0,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_INCOMING_VALUES0 {
    pub layerId: u16,
    /// To be looked at before every index.
    pub valueCount: u32,
    pub incomingValue: *mut FWPS_INCOMING_VALUE0,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_DISCARD_METADATA0 {
    pub discardModule: i32,
    pub discardReason: u32,
    pub filterId: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_INBOUND_FRAGMENT_METADATA0 {
    pub fragmentIdentification: u32,
    pub fragmentOffset: u16,
    pub fragmentLength: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IP_ADDRESS_PREFIX {
    pub Prefix: SOCKADDR_INET,
    pub PrefixLength: u8,
}

/// A field holds only if its bit is set in `currentMetadataValues`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_INCOMING_METADATA_VALUES0 {
    pub currentMetadataValues: u32,
    pub flags: u32,
    pub reserved: u64,
    pub discardMetadata: FWPS_DISCARD_METADATA0,
    pub flowHandle: u64,
    /// The whole header, options included.
    pub ipHeaderSize: u32,
    pub transportHeaderSize: u32,
    /// UTF-16; its size counts, there need not be a terminator.
    pub processPath: *mut FWP_BYTE_BLOB,
    pub token: u64,
    pub processId: u64,
    pub sourceInterfaceIndex: u32,
    pub destinationInterfaceIndex: u32,
    pub compartmentId: u32,
    pub fragmentMetadata: FWPS_INBOUND_FRAGMENT_METADATA0,
    pub pathMtu: u32,
    pub completionHandle: HANDLE,
    pub transportEndpointHandle: u64,
    pub remoteScopeId: u32,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
    /// Only when a flow is authorized anew.
    pub packetDirection: FWP_DIRECTION,
    pub headerIncludeHeader: PVOID,
    pub headerIncludeHeaderLength: u32,
    pub destinationPrefix: IP_ADDRESS_PREFIX,
    pub frameLength: u16,
    pub parentEndpointHandle: u64,
    pub icmpIdAndSequence: u32,
    pub localRedirectTargetPID: u32,
    pub originalDestination: PVOID,
    pub redirectRecords: HANDLE,
    /// From here on sources differ: not to be used.
    pub currentL2MetadataValues: u32,
    pub l2Flags: u32,
    pub ethernetMacHeaderSize: u32,
    pub wiFiOperationMode: u32,
    pub vSwitchSourcePortId: u32,
    pub vSwitchSourceNicIndex: u16,
    pub vSwitchDestinationPortId: u32,
    pub vSwitchPacketContext: HANDLE,
    pub subProcessTag: PVOID,
    pub reserved1: u64,
}

/// A callout writes `actionType`, `rights` and `flags`, and nothing else.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_CLASSIFY_OUT0 {
    pub actionType: FWP_ACTION_TYPE,
    pub outContext: u64,
    pub filterId: u64,
    pub rights: u32,
    pub flags: u32,
    pub reserved: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_ACTION0 {
    pub r#type: FWP_ACTION_TYPE,
    pub calloutId: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_FILTER_CONDITION0 {
    pub fieldId: u16,
    pub reserved: u16,
    pub matchType: FWP_MATCH_TYPE,
    pub conditionValue: FWP_CONDITION_VALUE0,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct FWPS_FILTER2 {
    pub filterId: u64,
    pub weight: FWP_VALUE0,
    pub subLayerWeight: u16,
    pub flags: u16,
    pub numFilterConditions: u32,
    pub filterCondition: *mut FWPS_FILTER_CONDITION0,
    pub action: FWPS_ACTION0,
    /// `FWPM_FILTER0::rawContext`.
    pub context: u64,
    pub providerContext: PVOID,
}

/// `classifyFn`. `layerData` is what the layer says: a `NET_BUFFER_LIST`, at the stream layers a
/// `FWPS_STREAM_CALLOUT_IO_PACKET0`, or null.
pub type FWPS_CALLOUT_CLASSIFY_FN2 = unsafe extern "win64" fn(
    inFixedValues: *const FWPS_INCOMING_VALUES0,
    inMetaValues: *const FWPS_INCOMING_METADATA_VALUES0,
    layerData: PVOID,
    classifyContext: *const core::ffi::c_void,
    filter: *const FWPS_FILTER2,
    flowContext: u64,
    classifyOut: *mut FWPS_CLASSIFY_OUT0,
);
/// `notifyFn`. The key is null for `FWPS_CALLOUT_NOTIFY_DELETE_FILTER`.
pub type FWPS_CALLOUT_NOTIFY_FN2 = unsafe extern "win64" fn(
    notifyType: FWPS_CALLOUT_NOTIFY_TYPE,
    filterKey: *const GUID,
    filter: *mut FWPS_FILTER2,
) -> NTSTATUS;
/// `flowDeleteFn`: the last that is heard of a context.
pub type FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0 =
    unsafe extern "win64" fn(layerId: u16, calloutId: u32, flowContext: u64);
/// The end of an injection; `NET_BUFFER_LIST::Status` says how it went.
pub type FWPS_INJECT_COMPLETE0 = unsafe extern "win64" fn(
    context: PVOID,
    netBufferList: *mut NET_BUFFER_LIST,
    dispatchLevel: BOOLEAN,
);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_CALLOUT2 {
    pub calloutKey: GUID,
    pub flags: u32,
    pub classifyFn: Option<FWPS_CALLOUT_CLASSIFY_FN2>,
    pub notifyFn: Option<FWPS_CALLOUT_NOTIFY_FN2>,
    pub flowDeleteFn: Option<FWPS_CALLOUT_FLOW_DELETE_NOTIFY_FN0>,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_DATA_OFFSET0 {
    pub netBufferList: *mut NET_BUFFER_LIST,
    pub netBuffer: *mut NET_BUFFER,
    pub mdl: *mut MDL,
    pub mdlOffset: u32,
    pub netBufferOffset: u32,
    pub streamDataOffset: usize,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_DATA0 {
    /// `FWPS_STREAM_FLAG_*`: they say the direction of the data.
    pub flags: u32,
    pub dataOffset: FWPS_STREAM_DATA_OFFSET0,
    pub dataLength: usize,
    pub netBufferListChain: *mut NET_BUFFER_LIST,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_STREAM_CALLOUT_IO_PACKET0 {
    pub streamData: *mut FWPS_STREAM_DATA0,
    pub missedBytes: usize,
    pub countBytesRequired: u32,
    /// How many bytes the verdict is about.
    pub countBytesEnforced: usize,
    pub streamAction: FWPS_STREAM_ACTION_TYPE,
}

/// What it points to has to stay until the injection is completed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_TRANSPORT_SEND_PARAMS0 {
    /// Network order, other than the values of a layer.
    pub remoteAddress: *mut u8,
    pub remoteScopeId: u32,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_TRANSPORT_SEND_PARAMS1 {
    pub remoteAddress: *mut u8,
    pub remoteScopeId: u32,
    pub controlData: *mut WSACMSGHDR,
    pub controlDataLength: u32,
    pub headerIncludeHeader: *mut u8,
    pub headerIncludeHeaderLength: u32,
}

/// Bits of `ipsecInformation`, inbound: 0 secure, 1 transport mode, 2 tunnel mode, 3 transport
/// mode verified, 4 tunnel mode verified, 5 out of its tunnel.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FWPS_PACKET_LIST_INFORMATION0 {
    pub ipsecInformation: u32,
    pub fwpInformation: u32,
}

imports! {
    "fwpkclnt.sys";

    [..=PASSIVE_LEVEL] fn FwpsCalloutRegister2(
        deviceObject: PVOID,
        callout: *const FWPS_CALLOUT2,
        calloutId: *mut u32,
    ) -> NTSTATUS;
    /// `STATUS_DEVICE_BUSY` while there are flow contexts, `STATUS_FWP_IN_USE` while another thread
    /// registers it: try again.
    [..=PASSIVE_LEVEL] fn FwpsCalloutUnregisterById0(calloutId: u32) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn FwpsCalloutUnregisterByKey0(calloutKey: *const GUID) -> NTSTATUS;

    [..=PASSIVE_LEVEL] fn FwpsInjectionHandleCreate0(
        addressFamily: u16,
        flags: u32,
        injectionHandle: *mut HANDLE,
    ) -> NTSTATUS;
    /// Waits for every injection that is under way.
    [..=PASSIVE_LEVEL] fn FwpsInjectionHandleDestroy0(injectionHandle: HANDLE) -> NTSTATUS;
    /// The packet starts with the IP header. If this fails, `completionFn` is not called; if not,
    /// it may be called before this returns.
    [..=DISPATCH_LEVEL] fn FwpsInjectNetworkSendAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        flags: u32,
        compartmentId: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    /// As above; one packet a list.
    [..=DISPATCH_LEVEL] fn FwpsInjectNetworkReceiveAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        flags: u32,
        compartmentId: u32,
        interfaceIndex: u32,
        subInterfaceIndex: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    /// The packet starts with the transport header.
    [..=DISPATCH_LEVEL] fn FwpsInjectTransportSendAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        endpointHandle: u64,
        flags: u32,
        sendArgs: *mut FWPS_TRANSPORT_SEND_PARAMS0,
        addressFamily: u16,
        compartmentId: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsInjectTransportSendAsync1(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        endpointHandle: u64,
        flags: u32,
        sendArgs: *mut FWPS_TRANSPORT_SEND_PARAMS1,
        addressFamily: u16,
        compartmentId: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    /// The packet starts with the IP header.
    [..=DISPATCH_LEVEL] fn FwpsInjectTransportReceiveAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        reserved: PVOID,
        flags: u32,
        addressFamily: u16,
        compartmentId: u32,
        interfaceIndex: u32,
        subInterfaceIndex: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsStreamInjectAsync0(
        injectionHandle: HANDLE,
        injectionContext: HANDLE,
        flags: u32,
        flowId: u64,
        calloutId: u32,
        layerId: u16,
        streamFlags: u32,
        netBufferList: *mut NET_BUFFER_LIST,
        dataLength: usize,
        completionFn: FWPS_INJECT_COMPLETE0,
        completionContext: HANDLE,
    ) -> NTSTATUS;
    /// `injectionContext` may be null.
    [..=DISPATCH_LEVEL] fn FwpsQueryPacketInjectionState0(
        injectionHandle: HANDLE,
        netBufferList: *const NET_BUFFER_LIST,
        injectionContext: *mut HANDLE,
    ) -> FWPS_PACKET_INJECTION_STATE;

    [..=DISPATCH_LEVEL] fn FwpsReferenceNetBufferList0(
        netBufferList: *mut NET_BUFFER_LIST,
        intendToModify: BOOLEAN,
    );
    [..=DISPATCH_LEVEL] fn FwpsDereferenceNetBufferList0(
        netBufferList: *mut NET_BUFFER_LIST,
        dispatchLevel: BOOLEAN,
    );
    [..=DISPATCH_LEVEL] fn FwpsAllocateCloneNetBufferList0(
        originalNetBufferList: *mut NET_BUFFER_LIST,
        netBufferListPoolHandle: HANDLE,
        netBufferPoolHandle: HANDLE,
        allocateCloneFlags: u32,
        netBufferList: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsFreeCloneNetBufferList0(
        netBufferList: *mut NET_BUFFER_LIST,
        freeCloneFlags: u32,
    );
    /// The pool is one with `fAllocateNetBuffer` set and `DataSize` 0.
    [..=DISPATCH_LEVEL] fn FwpsAllocateNetBufferAndNetBufferList0(
        poolHandle: HANDLE,
        contextSize: u16,
        contextBackFill: u16,
        mdlChain: *mut MDL,
        dataOffset: u32,
        dataLength: usize,
        netBufferList: *mut *mut NET_BUFFER_LIST,
    ) -> NTSTATUS;
    /// Its MDLs and their memory stay.
    [..=DISPATCH_LEVEL] fn FwpsFreeNetBufferList0(netBufferList: *mut NET_BUFFER_LIST);
    /// Addresses in network order.
    [..=DISPATCH_LEVEL] fn FwpsConstructIpHeaderForTransportPacket0(
        netBufferList: *mut NET_BUFFER_LIST,
        headerIncludeHeaderLength: u32,
        addressFamily: u16,
        sourceAddress: *const u8,
        remoteAddress: *const u8,
        nextProtocol: i32,
        endpointHandle: u64,
        controlData: *const WSACMSGHDR,
        controlDataLength: u32,
        flags: u32,
        reserved: PVOID,
        interfaceIndex: u32,
        subInterfaceIndex: u32,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsGetPacketListSecurityInformation0(
        packetList: *mut NET_BUFFER_LIST,
        queryFlags: u32,
        packetInformation: *mut FWPS_PACKET_LIST_INFORMATION0,
    ) -> NTSTATUS;

    /// `STATUS_FWP_CANNOT_PEND` when a flow is authorized anew.
    [..=DISPATCH_LEVEL] fn FwpsPendOperation0(
        completionHandle: HANDLE,
        completionContext: *mut HANDLE,
    ) -> NTSTATUS;
    /// At the connect layers our callout may be called before this returns.
    [..=DISPATCH_LEVEL] fn FwpsCompleteOperation0(
        completionContext: HANDLE,
        netBufferList: *mut NET_BUFFER_LIST,
    );
    [..=DISPATCH_LEVEL] fn FwpsAcquireClassifyHandle0(
        classifyContext: PVOID,
        flags: u32,
        classifyHandle: *mut u64,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsReleaseClassifyHandle0(classifyHandle: u64);
    [..=DISPATCH_LEVEL] fn FwpsPendClassify0(
        classifyHandle: u64,
        filterId: u64,
        flags: u32,
        classifyOut: *mut FWPS_CLASSIFY_OUT0,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsCompleteClassify0(
        classifyHandle: u64,
        flags: u32,
        classifyOut: *const FWPS_CLASSIFY_OUT0,
    );

    /// The context is not 0, and the callout has a `flowDeleteFn`.
    [..=DISPATCH_LEVEL] fn FwpsFlowAssociateContext0(
        flowId: u64,
        layerId: u16,
        calloutId: u32,
        flowContext: u64,
    ) -> NTSTATUS;
    /// Calls `flowDeleteFn` before it returns; `STATUS_PENDING`: later.
    [..=DISPATCH_LEVEL] fn FwpsFlowRemoveContext0(
        flowId: u64,
        layerId: u16,
        calloutId: u32,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn FwpsFlowAbort0(flowId: u64) -> NTSTATUS;
}
