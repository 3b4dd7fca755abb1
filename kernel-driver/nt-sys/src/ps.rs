//! Processes, threads, and references to objects.

use crate::ke::KPROCESSOR_MODE;
use crate::status::NTSTATUS;
use crate::types::{
    ACCESS_MASK, EPROCESS, HANDLE, OBJECT_ATTRIBUTES, OBJECT_HANDLE_INFORMATION, OBJECT_TYPE,
    PVOID, UNICODE_STRING,
};

pub const THREAD_ALL_ACCESS: ACCESS_MASK = 0x001f_ffff;

pub type KSTART_ROUTINE = unsafe extern "win64" fn(StartContext: PVOID);

imports! {
    "ntoskrnl.exe";

    /// In a callout the current process is any: the metadata say whose packet it is.
    [..=HIGH_LEVEL] fn PsGetCurrentProcessId() -> HANDLE;
    [..=HIGH_LEVEL] fn PsGetCurrentThreadId() -> HANDLE;
    /// The process is referenced: `ObfDereferenceObject` when done.
    [..=APC_LEVEL] fn PsLookupProcessByProcessId(
        ProcessId: HANDLE,
        Process: *mut *mut EPROCESS,
    ) -> NTSTATUS;
    /// The string is one allocation from the pool, header included: free it with
    /// `ExFreePoolWithTag` and tag 0.
    [..=PASSIVE_LEVEL] fn SeLocateProcessImageName(
        Process: *mut EPROCESS,
        pImageFileName: *mut *mut UNICODE_STRING,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn PsCreateSystemThread(
        ThreadHandle: *mut HANDLE,
        DesiredAccess: ACCESS_MASK,
        ObjectAttributes: *mut OBJECT_ATTRIBUTES,
        ProcessHandle: HANDLE,
        ClientId: PVOID,
        StartRoutine: KSTART_ROUTINE,
        StartContext: PVOID,
    ) -> NTSTATUS;
    /// Only from a thread that `PsCreateSystemThread` made.
    [..=PASSIVE_LEVEL] fn PsTerminateSystemThread(ExitStatus: NTSTATUS) -> NTSTATUS;

    /// The object is referenced: `ObfDereferenceObject` when done.
    [..=PASSIVE_LEVEL] fn ObReferenceObjectByHandle(
        Handle: HANDLE,
        DesiredAccess: ACCESS_MASK,
        ObjectType: *mut OBJECT_TYPE,
        AccessMode: KPROCESSOR_MODE,
        Object: *mut PVOID,
        HandleInformation: *mut OBJECT_HANDLE_INFORMATION,
    ) -> NTSTATUS;
    [..=DISPATCH_LEVEL] fn ObfReferenceObject(Object: PVOID) -> isize;
    [..=DISPATCH_LEVEL] fn ObfDereferenceObject(Object: PVOID) -> isize;
}
