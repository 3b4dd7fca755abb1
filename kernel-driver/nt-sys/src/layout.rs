//! The layouts of Windows as a table, and its comparison with the declarations at compile time.
//!
//! Every row was found in the named sources: `mingw` (headers of mingw-w64), `ntdiff` (dumps of
//! Microsoft's public symbols), `wdk-header-data` (declarations of the WDK of 2021), `metadata`
//! (win32metadata and wdkmetadata), `learn-ddi` and `learn-ddi-2018` (Microsoft's reference, today
//! and in 2018), and public drivers and libraries. `two-sources`: at least two of them, which do
//! not derive from each other, agree. None of this was seen on a running Windows yet.

#![allow(clippy::wildcard_imports, reason = "a table over all modules")]

use crate::ex::*;
use crate::fwp::*;
use crate::fwpm::*;
use crate::fwps::*;
use crate::io::*;
use crate::ke::*;
use crate::ndis::*;
use crate::rtl::*;
use crate::se::*;
use crate::types::*;

/// The size of the field to which a projection leads; the projection is never run.
const fn size_of_field<T, F>(_: fn(*const T) -> *const F) -> usize {
    size_of::<F>()
}

/// `Type: size, alignment, "confidence; sources" { offset size field, ... }`. Without a size, the
/// structure goes on behind what is declared.
macro_rules! layouts {
    ($(
        $name:ident: $($size:literal,)? align $align:literal, $source:literal {
            $($offset:literal $bytes:literal $($field:ident).+,)*
        }
    )+) => {
        $(
            const _: () = {
                $(assert!(size_of::<$name>() == $size, concat!("size: ", $source));)?
                assert!(align_of::<$name>() == $align, concat!("alignment: ", $source));
                $(
                    assert!(
                        core::mem::offset_of!($name, $($field).+) == $offset,
                        concat!("offset of ", stringify!($($field).+), ": ", $source)
                    );
                    assert!(
                        size_of_field::<$name, _>(|whole| {
                            // SAFETY: never run; only its type is looked at.
                            unsafe { &raw const (*whole).$($field).+ }
                        }) == $bytes,
                        concat!("size of ", stringify!($($field).+), ": ", $source)
                    );
                )*
            };
        )+
    };
}

layouts! {
    UNICODE_STRING: 16, align 8, "two-sources; mingw, ntdiff, wdk-header-data, metadata" {
        0 2 Length,
        2 2 MaximumLength,
        8 8 Buffer,
    }
    LIST_ENTRY: 16, align 8, "two-sources; mingw, ntdiff" {
        0 8 Flink,
        8 8 Blink,
    }
    GUID: 16, align 4, "two-sources; mingw, metadata" {
        0 4 Data1,
        4 2 Data2,
        6 2 Data3,
        8 8 Data4,
    }
    IO_STATUS_BLOCK: 16, align 8, "two-sources; mingw, ntdiff, wdk-header-data" {
        0 4 Status,
        8 8 Information,
    }
    DRIVER_OBJECT: 336, align 8, "two-sources; mingw, ntdiff, wdk-header-data, metadata" {
        0 2 Type,
        2 2 Size,
        8 8 DeviceObject,
        16 4 Flags,
        24 8 DriverStart,
        32 4 DriverSize,
        40 8 DriverSection,
        48 8 DriverExtension,
        56 16 DriverName,
        72 8 HardwareDatabase,
        80 8 FastIoDispatch,
        88 8 DriverInit,
        96 8 DriverStartIo,
        104 8 DriverUnload,
        112 224 MajorFunction,
    }
    DEVICE_OBJECT: 336, align 16, "two-sources; mingw, ntdiff, wdk-header-data" {
        0 2 Type,
        2 2 Size,
        4 4 ReferenceCount,
        8 8 DriverObject,
        16 8 NextDevice,
        24 8 AttachedDevice,
        32 8 CurrentIrp,
        40 8 Timer,
        48 4 Flags,
        52 4 Characteristics,
        56 8 Vpb,
        64 8 DeviceExtension,
        72 4 DeviceType,
        76 1 StackSize,
        80 72 Queue,
        152 4 AlignmentRequirement,
        160 40 DeviceQueue,
        200 64 Dpc,
        264 4 ActiveThreadCount,
        272 8 SecurityDescriptor,
        280 24 DeviceLock,
        304 2 SectorSize,
        306 2 Spare1,
        312 8 DeviceObjectExtension,
        320 8 Reserved,
    }
    FILE_OBJECT: 216, align 8, "two-sources; mingw, ntdiff, wdk-header-data" {
        0 2 Type,
        2 2 Size,
        8 8 DeviceObject,
        16 8 Vpb,
        24 8 FsContext,
        32 8 FsContext2,
        40 8 SectionObjectPointer,
        48 8 PrivateCacheMap,
        56 4 FinalStatus,
        64 8 RelatedFileObject,
        72 1 LockOperation,
        73 1 DeletePending,
        74 1 ReadAccess,
        75 1 WriteAccess,
        76 1 DeleteAccess,
        77 1 SharedRead,
        78 1 SharedWrite,
        79 1 SharedDelete,
        80 4 Flags,
        88 16 FileName,
        104 8 CurrentByteOffset,
        112 4 Waiters,
        116 4 Busy,
        120 8 LastLock,
        128 24 Lock,
        152 24 Event,
        176 8 CompletionContext,
        184 8 IrpListLock,
        192 16 IrpList,
        208 8 FileObjectExtension,
    }
    IRP: 208, align 8, "two-sources; mingw, ntdiff, wdk-header-data" {
        0 2 Type,
        2 2 Size,
        8 8 MdlAddress,
        16 4 Flags,
        24 8 AssociatedIrp,
        24 8 AssociatedIrp.SystemBuffer,
        32 16 ThreadListEntry,
        48 16 IoStatus,
        48 4 IoStatus.Status,
        56 8 IoStatus.Information,
        64 1 RequestorMode,
        65 1 PendingReturned,
        66 1 StackCount,
        67 1 CurrentLocation,
        68 1 Cancel,
        69 1 CancelIrql,
        70 1 ApcEnvironment,
        71 1 AllocationFlags,
        72 8 UserIosb,
        80 8 UserEvent,
        88 16 Overlay,
        104 8 CancelRoutine,
        112 8 UserBuffer,
        120 88 Tail,
        120 32 Tail.Overlay.DriverContext,
        152 8 Tail.Overlay.Thread,
        160 8 Tail.Overlay.AuxiliaryBuffer,
        168 16 Tail.Overlay.ListEntry,
        184 8 Tail.Overlay.CurrentStackLocation,
        192 8 Tail.Overlay.OriginalFileObject,
        120 88 Tail.Apc,
        120 8 Tail.CompletionKey,
    }
    IO_STACK_LOCATION: 72, align 8, "two-sources; mingw, ntdiff, wdk-header-data" {
        0 1 MajorFunction,
        1 1 MinorFunction,
        2 1 Flags,
        3 1 Control,
        8 32 Parameters,
        8 8 Parameters.Create.SecurityContext,
        16 4 Parameters.Create.Options,
        24 2 Parameters.Create.FileAttributes,
        26 2 Parameters.Create.ShareAccess,
        32 4 Parameters.Create.EaLength,
        8 4 Parameters.Read.Length,
        16 4 Parameters.Read.Key,
        24 8 Parameters.Read.ByteOffset,
        8 4 Parameters.Write.Length,
        16 4 Parameters.Write.Key,
        24 8 Parameters.Write.ByteOffset,
        8 4 Parameters.DeviceIoControl.OutputBufferLength,
        16 4 Parameters.DeviceIoControl.InputBufferLength,
        24 4 Parameters.DeviceIoControl.IoControlCode,
        32 8 Parameters.DeviceIoControl.Type3InputBuffer,
        8 8 Parameters.Others.Argument1,
        16 8 Parameters.Others.Argument2,
        24 8 Parameters.Others.Argument3,
        32 8 Parameters.Others.Argument4,
        40 8 DeviceObject,
        48 8 FileObject,
        56 8 CompletionRoutine,
        64 8 Context,
    }
    MDL: 48, align 8, "two-sources; mingw, ntdiff, wdk-header-data, metadata" {
        0 8 Next,
        8 2 Size,
        10 2 MdlFlags,
        16 8 Process,
        24 8 MappedSystemVa,
        32 8 StartVa,
        40 4 ByteCount,
        44 4 ByteOffset,
    }
    DISPATCHER_HEADER: 24, align 8, "two-sources; mingw, ntdiff" {
        2 1 Size,
        4 4 SignalState,
        8 16 WaitListHead,
    }
    KEVENT: 24, align 8, "two-sources; mingw, ntdiff" {
        0 24 Header,
    }
    KDPC: 64, align 8, "two-sources; mingw, ntdiff, metadata" {
        0 1 Type,
        1 1 Importance,
        2 2 Number,
        8 16 DpcListEntry,
        24 8 DeferredRoutine,
        32 8 DeferredContext,
        40 8 SystemArgument1,
        48 8 SystemArgument2,
        56 8 DpcData,
    }
    KTIMER: 64, align 8, "two-sources; mingw, ntdiff" {
    }
    KLOCK_QUEUE_HANDLE: 24, align 8, "two-sources; mingw, metadata, wdk-header-data" {
        0 16 LockQueue,
        16 1 OldIrql,
    }
    PROCESSOR_NUMBER: 4, align 2, "one-source; mingw" {
        0 2 Group,
        2 1 Number,
    }
    KDEVICE_QUEUE: 40, align 8, "computed from DEVICE_OBJECT" {
        8 16 DeviceListHead,
    }
    KEY_VALUE_PARTIAL_INFORMATION: 16, align 4, "one-source; mingw" {
        4 4 Type,
        8 4 DataLength,
        12 1 Data,
    }
    KSPIN_LOCK_QUEUE: 16, align 8, "two-sources; mingw, metadata" {
        0 8 Next,
        8 8 Lock,
    }
    EX_RUNDOWN_REF: 8, align 8, "two-sources; mingw, metadata" {
        0 8 Count,
    }
    OBJECT_ATTRIBUTES: 48, align 8, "two-sources; mingw, metadata" {
        0 4 Length,
        8 8 RootDirectory,
        16 8 ObjectName,
        24 4 Attributes,
        32 8 SecurityDescriptor,
        40 8 SecurityQualityOfService,
    }
    SECURITY_DESCRIPTOR: 40, align 8, "two-sources; mingw, metadata" {
        0 1 Revision,
        2 2 Control,
        8 8 Owner,
        16 8 Group,
        24 8 Sacl,
        32 8 Dacl,
    }
    ACL: 8, align 2, "one-source; mingw" {
        0 1 AclRevision,
        2 2 AclSize,
        4 2 AceCount,
    }
    ACCESS_ALLOWED_ACE: 12, align 4, "one-source; mingw" {
        0 4 Header,
        4 4 Mask,
        8 4 SidStart,
    }
    NET_BUFFER: 176, align 16, "two-sources; ntdiff, learn-ddi-2018, rust-wfp-pinned" {
        0 8 Next,
        8 8 CurrentMdl,
        16 4 CurrentMdlOffset,
        24 4 DataLength,
        32 8 MdlChain,
        40 4 DataOffset,
        48 2 ChecksumBias,
        50 2 Reserved,
        56 8 NdisPoolHandle,
        64 16 NdisReserved,
        80 48 ProtocolReserved,
        128 32 MiniportReserved,
        160 8 DataPhysicalAddress,
        168 8 SharedMemoryInfo,
    }
    NET_BUFFER_LIST: align 16, "two-sources; ntdiff, learn-ddi-2018" {
        0 8 Next,
        8 8 FirstNetBuffer,
        16 8 Context,
        24 8 ParentNetBufferList,
        32 8 NdisPoolHandle,
        48 16 NdisReserved,
        64 32 ProtocolReserved,
        96 16 MiniportReserved,
        112 8 Scratch,
        120 8 SourceHandle,
        128 4 NblFlags,
        132 4 ChildRefCount,
        136 4 Flags,
        140 4 Status,
        144 0 NetBufferListInfo,
    }
    NDIS_TCP_IP_CHECKSUM_NET_BUFFER_LIST_INFO: 8, align 8, "two-sources; learn-ddi-2018, learn-ddi" {
        0 8 Value,
    }
    NDIS_OBJECT_HEADER: 4, align 2, "two-sources; learn-ddi-2018, metadata" {
        0 1 Type,
        1 1 Revision,
        2 2 Size,
    }
    NET_BUFFER_LIST_POOL_PARAMETERS: 16, align 4, "two-sources; learn-ddi-2018, portmaster" {
        0 4 Header,
        4 1 ProtocolId,
        5 1 fAllocateNetBuffer,
        6 2 ContextSize,
        8 4 PoolTag,
        12 4 DataSize,
    }
    FWP_BYTE_BLOB: 16, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 4 size,
        8 8 data,
    }
    FWP_VALUE0: 16, align 8, "two-sources; mingw, metadata, wireguard-windows, wdk-header-data" {
        0 4 r#type,
        8 1 Anonymous.uint8,
        8 2 Anonymous.uint16,
        8 4 Anonymous.uint32,
        8 8 Anonymous.uint64,
        8 8 Anonymous.int64,
        8 8 Anonymous.double64,
        8 8 Anonymous.byteArray16,
        8 8 Anonymous.byteBlob,
        8 8 Anonymous.sid,
        8 8 Anonymous.unicodeString,
    }
    FWP_CONDITION_VALUE0: 16, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 4 r#type,
        8 1 Anonymous.uint8,
        8 8 Anonymous.v4AddrMask,
        8 8 Anonymous.v6AddrMask,
        8 8 Anonymous.rangeValue,
    }
    FWP_RANGE0: 32, align 8, "two-sources; mingw, metadata" {
        0 16 valueLow,
        16 16 valueHigh,
    }
    FWP_V4_ADDR_AND_MASK: 8, align 4, "two-sources; mingw, metadata, wireguard-windows" {
        0 4 addr,
        4 4 mask,
    }
    FWP_V6_ADDR_AND_MASK: 17, align 1, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 addr,
        16 1 prefixLength,
    }
    FWP_BYTE_ARRAY16: 16, align 1, "two-sources; mingw, metadata" {
        0 16 byteArray16,
    }
    FWPS_INCOMING_VALUE0: 16, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 16 value,
    }
    FWPS_INCOMING_VALUES0: 16, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork, portmaster" {
        0 2 layerId,
        4 4 valueCount,
        8 8 incomingValue,
    }
    FWPS_DISCARD_METADATA0: 16, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 4 discardModule,
        4 4 discardReason,
        8 8 filterId,
    }
    FWPS_INBOUND_FRAGMENT_METADATA0: 12, align 4, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 4 fragmentIdentification,
        4 2 fragmentOffset,
        8 4 fragmentLength,
    }
    FWPS_INCOMING_METADATA_VALUES0: 280, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork, rust-wfp-pinned, learn-ddi" {
        0 4 currentMetadataValues,
        4 4 flags,
        8 8 reserved,
        16 16 discardMetadata,
        32 8 flowHandle,
        40 4 ipHeaderSize,
        44 4 transportHeaderSize,
        48 8 processPath,
        56 8 token,
        64 8 processId,
        72 4 sourceInterfaceIndex,
        76 4 destinationInterfaceIndex,
        80 4 compartmentId,
        84 12 fragmentMetadata,
        96 4 pathMtu,
        104 8 completionHandle,
        112 8 transportEndpointHandle,
        120 4 remoteScopeId,
        128 8 controlData,
        136 4 controlDataLength,
        140 4 packetDirection,
        144 8 headerIncludeHeader,
        152 4 headerIncludeHeaderLength,
        156 32 destinationPrefix,
        188 2 frameLength,
        192 8 parentEndpointHandle,
        200 4 icmpIdAndSequence,
        204 4 localRedirectTargetPID,
        208 8 originalDestination,
        216 8 redirectRecords,
        224 4 currentL2MetadataValues,
        228 4 l2Flags,
        232 4 ethernetMacHeaderSize,
        236 4 wiFiOperationMode,
        240 4 vSwitchSourcePortId,
        244 2 vSwitchSourceNicIndex,
        248 4 vSwitchDestinationPortId,
        256 8 vSwitchPacketContext,
        264 8 subProcessTag,
        272 8 reserved1,
    }
    FWPS_CLASSIFY_OUT0: 40, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork, portmaster" {
        0 4 actionType,
        8 8 outContext,
        16 8 filterId,
        24 4 rights,
        28 4 flags,
        32 4 reserved,
    }
    FWPS_ACTION0: 8, align 4, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 4 r#type,
        4 4 calloutId,
    }
    FWPS_FILTER_CONDITION0: 24, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 2 fieldId,
        2 2 reserved,
        4 4 matchType,
        8 16 conditionValue,
    }
    FWPS_FILTER2: 64, align 8, "two-sources; wdk-header-data, learn-ddi-2018, portmaster" {
        0 8 filterId,
        8 16 weight,
        24 2 subLayerWeight,
        26 2 flags,
        28 4 numFilterConditions,
        32 8 filterCondition,
        40 8 action,
        48 8 context,
        56 8 providerContext,
    }
    FWPS_CALLOUT2: 48, align 8, "two-sources; wdk-header-data, learn-ddi-2018" {
        0 16 calloutKey,
        16 4 flags,
        24 8 classifyFn,
        32 8 notifyFn,
        40 8 flowDeleteFn,
    }
    FWPS_STREAM_DATA_OFFSET0: 40, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 8 netBufferList,
        8 8 netBuffer,
        16 8 mdl,
        24 4 mdlOffset,
        28 4 netBufferOffset,
        32 8 streamDataOffset,
    }
    FWPS_STREAM_DATA0: 64, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 4 flags,
        8 40 dataOffset,
        48 8 dataLength,
        56 8 netBufferListChain,
    }
    FWPS_STREAM_CALLOUT_IO_PACKET0: 40, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 8 streamData,
        8 8 missedBytes,
        16 4 countBytesRequired,
        24 8 countBytesEnforced,
        32 4 streamAction,
    }
    FWPS_TRANSPORT_SEND_PARAMS0: 32, align 8, "two-sources; wdk-header-data, learn-ddi-2018" {
        0 8 remoteAddress,
        8 4 remoteScopeId,
        16 8 controlData,
        24 4 controlDataLength,
    }
    FWPS_TRANSPORT_SEND_PARAMS1: 48, align 8, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 8 remoteAddress,
        8 4 remoteScopeId,
        16 8 controlData,
        24 4 controlDataLength,
        32 8 headerIncludeHeader,
        40 4 headerIncludeHeaderLength,
    }
    FWPS_PACKET_LIST_INFORMATION0: 8, align 4, "two-sources; wdk-header-data, learn-ddi-2018, reactos-fork" {
        0 4 ipsecInformation,
        4 4 fwpInformation,
    }
    FWPM_DISPLAY_DATA0: 16, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 8 name,
        8 8 description,
    }
    FWPM_ACTION0: 20, align 4, "two-sources; mingw, metadata, wireguard-windows" {
        0 4 r#type,
        4 16 Anonymous.filterType,
        4 16 Anonymous.calloutKey,
    }
    FWPM_FILTER_CONDITION0: 40, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 fieldKey,
        16 4 matchType,
        24 16 conditionValue,
    }
    FWPM_FILTER0: 200, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 filterKey,
        16 16 displayData,
        32 4 flags,
        40 8 providerKey,
        48 16 providerData,
        64 16 layerKey,
        80 16 subLayerKey,
        96 16 weight,
        112 4 numFilterConditions,
        120 8 filterCondition,
        128 20 action,
        152 8 Anonymous.rawContext,
        152 16 Anonymous.providerContextKey,
        168 8 reserved,
        176 8 filterId,
        184 16 effectiveWeight,
    }
    FWPM_SESSION0: 72, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 sessionKey,
        16 16 displayData,
        32 4 flags,
        36 4 txnWaitTimeoutInMSec,
        40 4 processId,
        48 8 sid,
        56 8 username,
        64 4 kernelMode,
    }
    FWPM_SUBLAYER0: 72, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 subLayerKey,
        16 16 displayData,
        32 4 flags,
        40 8 providerKey,
        48 16 providerData,
        64 2 weight,
    }
    FWPM_CALLOUT0: 88, align 8, "two-sources; mingw, metadata" {
        0 16 calloutKey,
        16 16 displayData,
        32 4 flags,
        40 8 providerKey,
        48 16 providerData,
        64 16 applicableLayer,
        80 4 calloutId,
    }
    FWPM_PROVIDER0: 64, align 8, "two-sources; mingw, metadata, wireguard-windows" {
        0 16 providerKey,
        16 16 displayData,
        32 4 flags,
        40 16 providerData,
        56 8 serviceName,
    }
    WSACMSGHDR: 16, align 8, "two-sources; mingw, metadata" {
        0 8 cmsg_len,
        8 4 cmsg_level,
        12 4 cmsg_type,
    }
    SOCKADDR_INET: 28, align 4, "one-source; mingw" {
    }
    IP_ADDRESS_PREFIX: 32, align 4, "computed from FWPS_INCOMING_METADATA_VALUES0" {
        0 28 Prefix,
        28 1 PrefixLength,
    }
    IN_PKTINFO: 8, align 4, "one-source; metadata, learn-ddi" {
        0 4 ipi_addr,
        4 4 ipi_ifindex,
    }
    IN6_PKTINFO: 20, align 4, "one-source; metadata" {
        0 16 ipi6_addr,
        16 4 ipi6_ifindex,
    }
}
