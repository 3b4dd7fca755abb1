//! The registry, handles, and the look-up of exports at run time.

use crate::status::NTSTATUS;
use crate::types::{ACCESS_MASK, HANDLE, OBJECT_ATTRIBUTES, PVOID, UNICODE_STRING};

pub const KEY_READ: ACCESS_MASK = 0x0002_0019;

pub type KEY_VALUE_INFORMATION_CLASS = i32;
pub const KeyValuePartialInformation: KEY_VALUE_INFORMATION_CLASS = 2;

pub const REG_SZ: u32 = 1;
pub const REG_BINARY: u32 = 3;
pub const REG_DWORD: u32 = 4;

/// `Data` is followed by the rest of `DataLength` bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct KEY_VALUE_PARTIAL_INFORMATION {
    pub TitleIndex: u32,
    pub Type: u32,
    pub DataLength: u32,
    pub Data: [u8; 1],
}

imports! {
    "ntoskrnl.exe";

    [..=PASSIVE_LEVEL] fn ZwClose(Handle: HANDLE) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn ZwOpenKey(
        KeyHandle: *mut HANDLE,
        DesiredAccess: ACCESS_MASK,
        ObjectAttributes: *mut OBJECT_ATTRIBUTES,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn ZwQueryValueKey(
        KeyHandle: HANDLE,
        ValueName: *mut UNICODE_STRING,
        KeyValueInformationClass: KEY_VALUE_INFORMATION_CLASS,
        KeyValueInformation: PVOID,
        Length: u32,
        ResultLength: *mut u32,
    ) -> NTSTATUS;
    /// Exports of `ntoskrnl.exe` and `hal.dll` only.
    [..=PASSIVE_LEVEL] fn MmGetSystemRoutineAddress(SystemRoutineName: *mut UNICODE_STRING) -> PVOID;
}
