//! The I/O manager: driver, device, requests, memory descriptor lists, work items.
//!
//! `IoCompleteRequest`, `IoGetCurrentIrpStackLocation`, `IoMarkIrpPending` and
//! `IoSetCancelRoutine` are macros or inline in C: `IofCompleteRequest`, a read of
//! `Tail.Overlay.CurrentStackLocation`, the bit `SL_PENDING_RETURNED` in `Control`, and an atomic
//! exchange of `CancelRoutine`. So is all access to an MDL's bytes.

use crate::ke::{DISPATCHER_HEADER, KDPC, KEVENT, KIRQL, KPROCESSOR_MODE};
use crate::status::NTSTATUS;
use crate::types::{
    BOOLEAN, ETHREAD, IO_WORKITEM, LARGE_INTEGER, LIST_ENTRY, PVOID, UNICODE_STRING,
};

// Major functions of requests. Source: two-sources; mingw, metadata.
pub const IRP_MJ_CREATE: u8 = 0x00;
pub const IRP_MJ_CLOSE: u8 = 0x02;
pub const IRP_MJ_READ: u8 = 0x03;
pub const IRP_MJ_WRITE: u8 = 0x04;
pub const IRP_MJ_DEVICE_CONTROL: u8 = 0x0e;
pub const IRP_MJ_INTERNAL_DEVICE_CONTROL: u8 = 0x0f;
pub const IRP_MJ_SHUTDOWN: u8 = 0x10;
pub const IRP_MJ_CLEANUP: u8 = 0x12;
pub const IRP_MJ_POWER: u8 = 0x16;
pub const IRP_MJ_SYSTEM_CONTROL: u8 = 0x17;
pub const IRP_MJ_PNP: u8 = 0x1b;
pub const IRP_MJ_MAXIMUM_FUNCTION: u8 = 0x1b;

// Source: two-sources; mingw, metadata.
/// `IO_STACK_LOCATION::Control`.
pub const SL_PENDING_RETURNED: u8 = 0x01;
pub const SL_INVOKE_ON_CANCEL: u8 = 0x20;
pub const SL_INVOKE_ON_SUCCESS: u8 = 0x40;
pub const SL_INVOKE_ON_ERROR: u8 = 0x80;
/// The boost of who waits for a request.
pub const IO_NO_INCREMENT: i8 = 0;
pub const IO_NETWORK_INCREMENT: i8 = 2;
/// `DEVICE_OBJECT::Flags`.
pub const DO_BUFFERED_IO: u32 = 0x0000_0004;
pub const DO_EXCLUSIVE: u32 = 0x0000_0008;
pub const DO_DIRECT_IO: u32 = 0x0000_0010;
pub const DO_DEVICE_INITIALIZING: u32 = 0x0000_0080;
/// `DeviceCharacteristics`: the device's security also guards names below it.
pub const FILE_DEVICE_SECURE_OPEN: u32 = 0x0000_0100;
/// `DeviceType`.
pub const FILE_DEVICE_NETWORK: u32 = 0x0000_0012;
pub const FILE_DEVICE_UNKNOWN: u32 = 0x0000_0022;
/// Access that a control code asks for.
pub const FILE_ANY_ACCESS: u32 = 0;
pub const FILE_READ_DATA: u32 = 1;
pub const FILE_WRITE_DATA: u32 = 2;
/// How a control code passes its buffers.
pub const METHOD_BUFFERED: u32 = 0;
pub const METHOD_IN_DIRECT: u32 = 1;
pub const METHOD_OUT_DIRECT: u32 = 2;
pub const METHOD_NEITHER: u32 = 3;

// `MDL::MdlFlags`. Source: two-sources; mingw, metadata.
pub const MDL_MAPPED_TO_SYSTEM_VA: i16 = 0x0001;
pub const MDL_PAGES_LOCKED: i16 = 0x0002;
pub const MDL_SOURCE_IS_NONPAGED_POOL: i16 = 0x0004;
pub const MDL_ALLOCATED_FIXED_SIZE: i16 = 0x0008;
pub const MDL_PARTIAL: i16 = 0x0010;
pub const MDL_PARTIAL_HAS_BEEN_MAPPED: i16 = 0x0020;
pub const MDL_NETWORK_HEADER: i16 = 0x1000;
pub const MDL_MAPPING_CAN_FAIL: i16 = 0x2000;

// Mapping an MDL. Source: two-sources; mingw, learn-ddi.
pub type MEMORY_CACHING_TYPE = i32;
pub const MmNonCached: MEMORY_CACHING_TYPE = 0;
pub const MmCached: MEMORY_CACHING_TYPE = 1;
pub const NormalPagePriority: u32 = 0x0000_0010;
pub const MdlMappingNoExecute: u32 = 0x4000_0000;

pub type WORK_QUEUE_TYPE = i32;
pub const DelayedWorkQueue: WORK_QUEUE_TYPE = 1;

/// `DriverEntry`. At `PASSIVE_LEVEL`.
pub type DRIVER_INITIALIZE = unsafe extern "win64" fn(
    DriverObject: *mut DRIVER_OBJECT,
    RegistryPath: *mut UNICODE_STRING,
) -> NTSTATUS;
/// At `PASSIVE_LEVEL`.
pub type DRIVER_UNLOAD = unsafe extern "win64" fn(DriverObject: *mut DRIVER_OBJECT);
/// At `PASSIVE_LEVEL` where the caller is a program.
pub type DRIVER_DISPATCH =
    unsafe extern "win64" fn(DeviceObject: *mut DEVICE_OBJECT, Irp: *mut IRP) -> NTSTATUS;
/// At `DISPATCH_LEVEL`, with the cancel spin lock held, which it has to release to
/// `Irp->CancelIrql`.
pub type DRIVER_CANCEL = unsafe extern "win64" fn(DeviceObject: *mut DEVICE_OBJECT, Irp: *mut IRP);
/// At `PASSIVE_LEVEL`.
pub type IO_WORKITEM_ROUTINE =
    unsafe extern "win64" fn(DeviceObject: *mut DEVICE_OBJECT, Context: PVOID);

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct DRIVER_OBJECT {
    pub Type: i16,
    pub Size: i16,
    pub DeviceObject: *mut DEVICE_OBJECT,
    pub Flags: u32,
    pub DriverStart: PVOID,
    pub DriverSize: u32,
    pub DriverSection: PVOID,
    pub DriverExtension: PVOID,
    pub DriverName: UNICODE_STRING,
    pub HardwareDatabase: *mut UNICODE_STRING,
    pub FastIoDispatch: PVOID,
    pub DriverInit: Option<DRIVER_INITIALIZE>,
    pub DriverStartIo: PVOID,
    pub DriverUnload: Option<DRIVER_UNLOAD>,
    /// By major function. What a driver leaves alone fails with `STATUS_INVALID_DEVICE_REQUEST`.
    pub MajorFunction: [Option<DRIVER_DISPATCH>; IRP_MJ_MAXIMUM_FUNCTION as usize + 1],
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KDEVICE_QUEUE {
    pub Type: i16,
    pub Size: i16,
    pub DeviceListHead: LIST_ENTRY,
    pub Lock: usize,
    pub Busy: usize,
}

/// `IoCreateDevice` makes it; a driver writes `Flags` only.
#[repr(C, align(16))]
#[derive(Clone, Copy, Debug)]
pub struct DEVICE_OBJECT {
    pub Type: i16,
    pub Size: u16,
    pub ReferenceCount: i32,
    pub DriverObject: *mut DRIVER_OBJECT,
    pub NextDevice: *mut DEVICE_OBJECT,
    pub AttachedDevice: *mut DEVICE_OBJECT,
    pub CurrentIrp: *mut IRP,
    pub Timer: PVOID,
    pub Flags: u32,
    pub Characteristics: u32,
    pub Vpb: PVOID,
    /// Zeroed nonpaged memory, if `IoCreateDevice` was asked for some.
    pub DeviceExtension: PVOID,
    pub DeviceType: u32,
    pub StackSize: i8,
    pub Queue: [usize; 9],
    pub AlignmentRequirement: u32,
    pub DeviceQueue: KDEVICE_QUEUE,
    pub Dpc: KDPC,
    pub ActiveThreadCount: u32,
    pub SecurityDescriptor: PVOID,
    pub DeviceLock: KEVENT,
    pub SectorSize: u16,
    pub Spare1: u16,
    pub DeviceObjectExtension: PVOID,
    pub Reserved: PVOID,
}

/// A driver uses `FsContext`, `FsContext2` and `FileName`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct FILE_OBJECT {
    pub Type: i16,
    pub Size: i16,
    pub DeviceObject: *mut DEVICE_OBJECT,
    pub Vpb: PVOID,
    pub FsContext: PVOID,
    pub FsContext2: PVOID,
    pub SectionObjectPointer: PVOID,
    pub PrivateCacheMap: PVOID,
    pub FinalStatus: NTSTATUS,
    pub RelatedFileObject: *mut FILE_OBJECT,
    pub LockOperation: BOOLEAN,
    pub DeletePending: BOOLEAN,
    pub ReadAccess: BOOLEAN,
    pub WriteAccess: BOOLEAN,
    pub DeleteAccess: BOOLEAN,
    pub SharedRead: BOOLEAN,
    pub SharedWrite: BOOLEAN,
    pub SharedDelete: BOOLEAN,
    pub Flags: u32,
    pub FileName: UNICODE_STRING,
    pub CurrentByteOffset: LARGE_INTEGER,
    pub Waiters: u32,
    pub Busy: u32,
    pub LastLock: PVOID,
    pub Lock: DISPATCHER_HEADER,
    pub Event: DISPATCHER_HEADER,
    pub CompletionContext: PVOID,
    pub IrpListLock: usize,
    pub IrpList: LIST_ENTRY,
    pub FileObjectExtension: PVOID,
}

/// `Status` is one half of a union with a pointer.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IO_STATUS_BLOCK {
    pub Status: NTSTATUS,
    pub Padding: u32,
    /// Bytes to copy to the program, for buffered requests.
    pub Information: usize,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IRP_AssociatedIrp {
    pub MasterIrp: *mut IRP,
    pub IrpCount: i32,
    /// Input and output of buffered requests; null if both are empty.
    pub SystemBuffer: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IRP_Tail_Overlay {
    /// The driver's while it owns the request.
    pub DriverContext: [PVOID; 4],
    pub Thread: *mut ETHREAD,
    pub AuxiliaryBuffer: PVOID,
    /// The driver's while it owns the request.
    pub ListEntry: LIST_ENTRY,
    pub CurrentStackLocation: *mut IO_STACK_LOCATION,
    pub OriginalFileObject: *mut FILE_OBJECT,
    pub IrpExtension: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub union IRP_Tail {
    pub Overlay: IRP_Tail_Overlay,
    pub Apc: [usize; 11],
    pub CompletionKey: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IRP {
    pub Type: i16,
    pub Size: u16,
    pub AllocationProcessorNumber: u16,
    pub Reserved: u16,
    pub MdlAddress: *mut MDL,
    pub Flags: u32,
    pub AssociatedIrp: IRP_AssociatedIrp,
    pub ThreadListEntry: LIST_ENTRY,
    pub IoStatus: IO_STATUS_BLOCK,
    pub RequestorMode: KPROCESSOR_MODE,
    pub PendingReturned: BOOLEAN,
    pub StackCount: i8,
    pub CurrentLocation: i8,
    pub Cancel: BOOLEAN,
    pub CancelIrql: KIRQL,
    pub ApcEnvironment: i8,
    pub AllocationFlags: u8,
    pub UserIosb: *mut IO_STATUS_BLOCK,
    pub UserEvent: *mut KEVENT,
    pub Overlay: [usize; 2],
    /// To be exchanged atomically, never read and written.
    pub CancelRoutine: Option<DRIVER_CANCEL>,
    pub UserBuffer: PVOID,
    pub Tail: IRP_Tail,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IO_STACK_LOCATION_Create {
    pub SecurityContext: PVOID,
    pub Options: u32,
    pub Padding0: u32,
    pub FileAttributes: u16,
    pub ShareAccess: u16,
    pub Padding1: u32,
    pub EaLength: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IO_STACK_LOCATION_ReadWrite {
    pub Length: u32,
    pub Padding0: u32,
    pub Key: u32,
    pub Padding1: u32,
    pub ByteOffset: LARGE_INTEGER,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IO_STACK_LOCATION_DeviceIoControl {
    pub OutputBufferLength: u32,
    /// Layouts that are made from Windows metadata forget this, and the next.
    pub Padding0: u32,
    pub InputBufferLength: u32,
    pub Padding1: u32,
    pub IoControlCode: u32,
    pub Padding2: u32,
    pub Type3InputBuffer: PVOID,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IO_STACK_LOCATION_Others {
    pub Argument1: PVOID,
    pub Argument2: PVOID,
    pub Argument3: PVOID,
    pub Argument4: PVOID,
}

/// Which arm holds, `MajorFunction` says.
#[repr(C)]
#[derive(Clone, Copy)]
pub union IO_STACK_LOCATION_Parameters {
    pub Create: IO_STACK_LOCATION_Create,
    pub Read: IO_STACK_LOCATION_ReadWrite,
    pub Write: IO_STACK_LOCATION_ReadWrite,
    pub DeviceIoControl: IO_STACK_LOCATION_DeviceIoControl,
    pub Others: IO_STACK_LOCATION_Others,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub struct IO_STACK_LOCATION {
    pub MajorFunction: u8,
    pub MinorFunction: u8,
    pub Flags: u8,
    pub Control: u8,
    pub Parameters: IO_STACK_LOCATION_Parameters,
    pub DeviceObject: *mut DEVICE_OBJECT,
    pub FileObject: *mut FILE_OBJECT,
    pub CompletionRoutine: PVOID,
    pub Context: PVOID,
}

/// Page frame numbers follow. Its bytes are at `MappedSystemVa` if `MDL_MAPPED_TO_SYSTEM_VA` or
/// `MDL_SOURCE_IS_NONPAGED_POOL` is set.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct MDL {
    pub Next: *mut MDL,
    pub Size: i16,
    pub MdlFlags: i16,
    pub AllocationProcessorNumber: u16,
    pub Reserved: u16,
    pub Process: PVOID,
    pub MappedSystemVa: PVOID,
    pub StartVa: PVOID,
    pub ByteCount: u32,
    pub ByteOffset: u32,
}

imports! {
    "ntoskrnl.exe";

    [..=APC_LEVEL] fn IoCreateDevice(
        DriverObject: *mut DRIVER_OBJECT,
        DeviceExtensionSize: u32,
        DeviceName: *mut UNICODE_STRING,
        DeviceType: u32,
        DeviceCharacteristics: u32,
        Exclusive: BOOLEAN,
        DeviceObject: *mut *mut DEVICE_OBJECT,
    ) -> NTSTATUS;
    [..=APC_LEVEL] fn IoDeleteDevice(DeviceObject: *mut DEVICE_OBJECT);
    [..=PASSIVE_LEVEL] fn IoCreateSymbolicLink(
        SymbolicLinkName: *mut UNICODE_STRING,
        DeviceName: *mut UNICODE_STRING,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn IoDeleteSymbolicLink(SymbolicLinkName: *mut UNICODE_STRING) -> NTSTATUS;
    /// Nobody may touch the request afterwards.
    [..=DISPATCH_LEVEL] fn IofCompleteRequest(Irp: *mut IRP, PriorityBoost: i8);
    [..=DISPATCH_LEVEL] fn IoAcquireCancelSpinLock(Irql: *mut KIRQL);
    [DISPATCH_LEVEL..=DISPATCH_LEVEL] fn IoReleaseCancelSpinLock(Irql: KIRQL);
    /// 0 where there is no process. Export seen in mingw's import library only.
    [..=DISPATCH_LEVEL] fn IoGetRequestorProcessId(Irp: *mut IRP) -> u32;
    [..=PASSIVE_LEVEL] fn IoRegisterShutdownNotification(DeviceObject: *mut DEVICE_OBJECT) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn IoUnregisterShutdownNotification(DeviceObject: *mut DEVICE_OBJECT);

    /// Null if there is no memory.
    [..=DISPATCH_LEVEL] fn IoAllocateWorkItem(DeviceObject: *mut DEVICE_OBJECT) -> *mut IO_WORKITEM;
    /// The device, and so the driver, stays until the routine has returned.
    [..=DISPATCH_LEVEL] fn IoQueueWorkItem(
        IoWorkItem: *mut IO_WORKITEM,
        WorkerRoutine: IO_WORKITEM_ROUTINE,
        QueueType: WORK_QUEUE_TYPE,
        Context: PVOID,
    );
    /// Not while it is queued; from its own routine it may be.
    [..=DISPATCH_LEVEL] fn IoFreeWorkItem(IoWorkItem: *mut IO_WORKITEM);

    /// Null if there is no memory.
    [..=DISPATCH_LEVEL] fn IoAllocateMdl(
        VirtualAddress: PVOID,
        Length: u32,
        SecondaryBuffer: BOOLEAN,
        ChargeQuota: BOOLEAN,
        Irp: *mut IRP,
    ) -> *mut MDL;
    [..=DISPATCH_LEVEL] fn IoFreeMdl(Mdl: *mut MDL);
    [..=DISPATCH_LEVEL] fn IoBuildPartialMdl(
        SourceMdl: *mut MDL,
        TargetMdl: *mut MDL,
        VirtualAddress: PVOID,
        Length: u32,
    );
    [..=DISPATCH_LEVEL] fn MmBuildMdlForNonPagedPool(MemoryDescriptorList: *mut MDL);
    /// Null if there are no entries left. The limit is for mappings to `KernelMode`.
    [..=DISPATCH_LEVEL] fn MmMapLockedPagesSpecifyCache(
        MemoryDescriptorList: *mut MDL,
        AccessMode: KPROCESSOR_MODE,
        CacheType: MEMORY_CACHING_TYPE,
        RequestedAddress: PVOID,
        BugCheckOnFailure: u32,
        Priority: u32,
    ) -> PVOID;
    [..=DISPATCH_LEVEL] fn MmUnmapLockedPages(
        BaseAddress: PVOID,
        MemoryDescriptorList: *mut MDL,
    );
}
