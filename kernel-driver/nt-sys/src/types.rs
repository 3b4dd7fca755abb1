//! Types that everything else is made of.

use core::ffi::c_void;

pub type PVOID = *mut c_void;
pub type HANDLE = PVOID;
pub type BOOLEAN = u8;
/// A four-byte truth, unlike [`BOOLEAN`].
pub type BOOL = i32;
/// Units of 100 ns where it is a time: since 1601 if positive, from now if negative.
pub type LARGE_INTEGER = i64;
pub type ACCESS_MASK = u32;

pub const FALSE: BOOLEAN = 0;
pub const TRUE: BOOLEAN = 1;

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GUID {
    pub Data1: u32,
    pub Data2: u16,
    pub Data3: u16,
    pub Data4: [u8; 8],
}

/// A key from its usual text, read as one number.
#[expect(clippy::cast_possible_truncation, reason = "each part takes its bits")]
pub(crate) const fn guid(text: u128) -> GUID {
    GUID {
        Data1: (text >> 96) as u32,
        Data2: (text >> 80) as u16,
        Data3: (text >> 64) as u16,
        Data4: (text as u64).to_be_bytes(),
    }
}

/// UTF-16, counted: lengths are in bytes, and there need not be a terminator.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct UNICODE_STRING {
    pub Length: u16,
    pub MaximumLength: u16,
    pub Buffer: *mut u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct LIST_ENTRY {
    pub Flink: *mut LIST_ENTRY,
    pub Blink: *mut LIST_ENTRY,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct OBJECT_ATTRIBUTES {
    pub Length: u32,
    pub RootDirectory: HANDLE,
    pub ObjectName: *mut UNICODE_STRING,
    pub Attributes: u32,
    pub SecurityDescriptor: PVOID,
    pub SecurityQualityOfService: PVOID,
}

pub const OBJ_CASE_INSENSITIVE: u32 = 0x0000_0040;
pub const OBJ_KERNEL_HANDLE: u32 = 0x0000_0200;

/// Declares structures that are only pointed to.
macro_rules! opaque {
    ($($(#[doc = $doc:literal])* $name:ident;)+) => {
        $(
            $(#[doc = $doc])*
            #[repr(C)]
            #[derive(Debug)]
            pub struct $name {
                _opaque: [u8; 0],
            }
        )+
    };
}

opaque! {
    EPROCESS;
    ETHREAD;
    ACCESS_STATE;
    OBJECT_TYPE;
    OBJECT_HANDLE_INFORMATION;
    IO_WORKITEM;
}
