//! Packets: net buffers, lists of them, and their pools.

use crate::io::{DRIVER_OBJECT, MDL};
use crate::types::{BOOLEAN, HANDLE, PVOID};

pub type NDIS_STATUS = i32;

// Source: two-sources; mingw, learn-ddi-2018.
pub const NDIS_STATUS_SUCCESS: NDIS_STATUS = 0x0000_0000;
pub const NDIS_STATUS_RESOURCES: NDIS_STATUS = 0xC000_009A_u32.cast_signed();
pub const NDIS_STATUS_FAILURE: NDIS_STATUS = 0xC000_0001_u32.cast_signed();

// Source: two-sources; learn-ddi-2018, portmaster.
pub const NDIS_OBJECT_TYPE_DEFAULT: u8 = 0x80;
pub const NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1: u8 = 1;
pub const NDIS_SIZEOF_NET_BUFFER_LIST_POOL_PARAMETERS_REVISION_1: u16 = 16;
pub const NDIS_PROTOCOL_ID_DEFAULT: u8 = 0;

// Indexes into `NetBufferListInfo`. Those above 10 depend on the version of NDIS.
// Source: two-sources; learn-ddi-2018, learn-ddi.
pub const TcpIpChecksumNetBufferListInfo: usize = 0;
pub const IPsecOffloadV1NetBufferListInfo: usize = 1;
pub const TcpLargeSendNetBufferListInfo: usize = 2;
pub const ClassificationHandleNetBufferListInfo: usize = 3;
pub const Ieee8021QNetBufferListInfo: usize = 4;
pub const NetBufferListCancelId: usize = 5;
pub const MediaSpecificInformation: usize = 6;
pub const NetBufferListFrameType: usize = 7;
pub const NetBufferListHashValue: usize = 8;
pub const NetBufferListHashInfo: usize = 9;
pub const WfpNetBufferListInfo: usize = 10;

// Bits of `TcpIpChecksumNetBufferListInfo`. Source: computed from the order of declaration.
/// On send: the packet is IPv4, and which checksums are left to the adapter.
pub const NDIS_CHECKSUM_SEND_IS_IPV4: u32 = 1 << 0;
pub const NDIS_CHECKSUM_SEND_IS_IPV6: u32 = 1 << 1;
pub const NDIS_CHECKSUM_SEND_TCP: u32 = 1 << 2;
pub const NDIS_CHECKSUM_SEND_UDP: u32 = 1 << 3;
pub const NDIS_CHECKSUM_SEND_IP_HEADER: u32 = 1 << 4;
/// On receive: what the adapter found.
pub const NDIS_CHECKSUM_RECEIVE_TCP_FAILED: u32 = 1 << 0;
pub const NDIS_CHECKSUM_RECEIVE_UDP_FAILED: u32 = 1 << 1;
pub const NDIS_CHECKSUM_RECEIVE_IP_FAILED: u32 = 1 << 2;
pub const NDIS_CHECKSUM_RECEIVE_TCP_SUCCEEDED: u32 = 1 << 3;
pub const NDIS_CHECKSUM_RECEIVE_UDP_SUCCEEDED: u32 = 1 << 4;
pub const NDIS_CHECKSUM_RECEIVE_IP_SUCCEEDED: u32 = 1 << 5;
pub const NDIS_CHECKSUM_RECEIVE_LOOPBACK: u32 = 1 << 6;
/// The checksum was verified, but what stands in the header is not it.
pub const NDIS_CHECKSUM_RECEIVE_TCP_VALUE_INVALID: u32 = 1 << 7;
pub const NDIS_CHECKSUM_RECEIVE_IP_VALUE_INVALID: u32 = 1 << 8;

/// An entry of `NetBufferListInfo`, not what it points to. The low 32 bits are used.
#[repr(C)]
#[derive(Clone, Copy)]
pub union NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO {
    pub Bits: u32,
    pub Value: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NDIS_OBJECT_HEADER {
    pub Type: u8,
    pub Revision: u8,
    pub Size: u16,
}

/// Revision 1. The tag must not be 0; `ContextSize` is a multiple of 16. For
/// `FwpsAllocateNetBufferAndNetBufferList0` `fAllocateNetBuffer` is set and `DataSize` is 0.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NET_BUFFER_LIST_POOL_PARAMETERS {
    pub Header: NDIS_OBJECT_HEADER,
    pub ProtocolId: u8,
    pub fAllocateNetBuffer: BOOLEAN,
    pub ContextSize: u16,
    pub PoolTag: u32,
    pub DataSize: u32,
}

/// Two words at a multiple of 16 bytes, as both structures below reserve them.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct NDIS_RESERVED {
    pub Words: [PVOID; 2],
}

/// One packet. Its length is `DataLength`, not the sum of the MDLs; its first byte is `DataOffset`
/// bytes into the chain.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct NET_BUFFER {
    pub Next: *mut NET_BUFFER,
    pub CurrentMdl: *mut MDL,
    pub CurrentMdlOffset: u32,
    pub Padding0: u32,
    pub DataLength: u32,
    /// The upper half of `stDataLength`.
    pub DataLengthHigh: u32,
    pub MdlChain: *mut MDL,
    pub DataOffset: u32,
    /// What is before here is a union with a list header of 16-byte alignment.
    pub Padding1: u32,
    pub ChecksumBias: u16,
    pub Reserved: u16,
    pub Padding2: u32,
    pub NdisPoolHandle: HANDLE,
    pub NdisReserved: NDIS_RESERVED,
    pub ProtocolReserved: [PVOID; 6],
    pub MiniportReserved: [PVOID; 4],
    pub DataPhysicalAddress: u64,
    pub SharedMemoryInfo: PVOID,
}

/// The known part. Its size differs between builds of Windows: never allocate or copy one, and
/// index `NetBufferListInfo` from its address.
#[repr(C)]
#[derive(Debug)]
pub struct NET_BUFFER_LIST {
    pub Next: *mut NET_BUFFER_LIST,
    pub FirstNetBuffer: *mut NET_BUFFER,
    pub Context: PVOID,
    pub ParentNetBufferList: *mut NET_BUFFER_LIST,
    pub NdisPoolHandle: HANDLE,
    pub Padding0: usize,
    pub NdisReserved: NDIS_RESERVED,
    pub ProtocolReserved: [PVOID; 4],
    pub MiniportReserved: [PVOID; 2],
    pub Scratch: PVOID,
    pub SourceHandle: HANDLE,
    pub NblFlags: u32,
    pub ChildRefCount: i32,
    pub Flags: u32,
    /// In the completion of an injection: how it went.
    pub Status: NDIS_STATUS,
    pub NetBufferListInfo: [PVOID; 0],
}

pub type NET_BUFFER_ALLOCATE_MDL_HANDLER =
    unsafe extern "win64" fn(BufferSize: *mut u32) -> *mut MDL;
pub type NET_BUFFER_FREE_MDL_HANDLER = unsafe extern "win64" fn(Mdl: *mut MDL);

imports! {
    "ndis.sys";

    /// Null if there is no memory. The handle may be null.
    [..=DISPATCH_LEVEL] fn NdisAllocateNetBufferListPool(
        NdisHandle: HANDLE,
        Parameters: *const NET_BUFFER_LIST_POOL_PARAMETERS,
    ) -> HANDLE;
    /// Only when every list of the pool was freed.
    [..=DISPATCH_LEVEL] fn NdisFreeNetBufferListPool(PoolHandle: HANDLE);
    /// For a driver that is not registered with NDIS: what pools take as their handle. `Size` is at
    /// least that of its header.
    [..=DISPATCH_LEVEL] fn NdisAllocateGenericObject(
        DriverObject: *mut DRIVER_OBJECT,
        Tag: u32,
        Size: u16,
    ) -> PVOID;
    [..=DISPATCH_LEVEL] fn NdisFreeGenericObject(NdisObject: PVOID);
    /// May allocate an MDL and fail with `NDIS_STATUS_RESOURCES`; not if the packet already has the
    /// memory.
    [..=DISPATCH_LEVEL] fn NdisRetreatNetBufferDataStart(
        NetBuffer: *mut NET_BUFFER,
        DataOffsetDelta: u32,
        DataBackFill: u32,
        AllocateMdlHandler: Option<NET_BUFFER_ALLOCATE_MDL_HANDLER>,
    ) -> NDIS_STATUS;
    [..=DISPATCH_LEVEL] fn NdisAdvanceNetBufferDataStart(
        NetBuffer: *mut NET_BUFFER,
        DataOffsetDelta: u32,
        FreeMdl: BOOLEAN,
        FreeMdlHandler: Option<NET_BUFFER_FREE_MDL_HANDLER>,
    );
    [..=DISPATCH_LEVEL] fn NdisRetreatNetBufferListDataStart(
        NetBufferList: *mut NET_BUFFER_LIST,
        DataOffsetDelta: u32,
        DataBackFill: u32,
        AllocateMdlHandler: Option<NET_BUFFER_ALLOCATE_MDL_HANDLER>,
        FreeMdlHandler: Option<NET_BUFFER_FREE_MDL_HANDLER>,
    ) -> NDIS_STATUS;
    [..=DISPATCH_LEVEL] fn NdisAdvanceNetBufferListDataStart(
        NetBufferList: *mut NET_BUFFER_LIST,
        DataOffsetDelta: u32,
        FreeMdl: BOOLEAN,
        FreeMdlHandler: Option<NET_BUFFER_FREE_MDL_HANDLER>,
    );
    /// Points into the packet where the bytes are contiguous, and leaves `Storage` alone then. Null
    /// if the packet is shorter, or if the bytes are split and `Storage` is null.
    [..=DISPATCH_LEVEL] fn NdisGetDataBuffer(
        NetBuffer: *mut NET_BUFFER,
        BytesNeeded: u32,
        Storage: PVOID,
        AlignMultiple: u32,
        AlignOffset: u32,
    ) -> PVOID;
    [..=DISPATCH_LEVEL] fn NdisCopySendNetBufferListInfo(
        DestNetBufferList: *mut NET_BUFFER_LIST,
        SrcNetBufferList: *mut NET_BUFFER_LIST,
    );
    [..=DISPATCH_LEVEL] fn NdisCopyReceiveNetBufferListInfo(
        DestNetBufferList: *mut NET_BUFFER_LIST,
        SrcNetBufferList: *mut NET_BUFFER_LIST,
    );
}
