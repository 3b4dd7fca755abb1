//! Security of the control device: descriptors, access control lists, identifiers.
//!
//! `IoCreateDeviceSecure` is code of a static library, not an export: a descriptor is built with
//! these functions and set with `ZwSetSecurityObject`. `SeExports` is not needed for it, since the
//! two identifiers are constants.

use crate::ke::KPROCESSOR_MODE;
use crate::status::NTSTATUS;
use crate::types::{ACCESS_MASK, ACCESS_STATE, BOOLEAN, HANDLE, OBJECT_TYPE, PVOID};

// Source: two-sources; mingw, metadata.
pub const DACL_SECURITY_INFORMATION: u32 = 0x0000_0004;
pub const WRITE_DAC: ACCESS_MASK = 0x0004_0000;
pub const GENERIC_ALL: ACCESS_MASK = 0x1000_0000;
pub const FILE_ALL_ACCESS: ACCESS_MASK = 0x001f_01ff;
pub const ACL_REVISION: u32 = 2;
pub const SECURITY_DESCRIPTOR_REVISION: u32 = 1;

/// A security identifier with its sub-authorities.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SID<const N: usize> {
    pub Revision: u8,
    pub SubAuthorityCount: u8,
    pub IdentifierAuthority: [u8; 6],
    pub SubAuthority: [u32; N],
}

/// S-1-5-18: the system itself.
pub const SID_LOCAL_SYSTEM: SID<1> = SID {
    Revision: 1,
    SubAuthorityCount: 1,
    IdentifierAuthority: [0, 0, 0, 0, 0, 5],
    SubAuthority: [18],
};

/// S-1-5-32-544: the administrators.
pub const SID_ADMINISTRATORS: SID<2> = SID {
    Revision: 1,
    SubAuthorityCount: 2,
    IdentifierAuthority: [0, 0, 0, 0, 0, 5],
    SubAuthority: [32, 544],
};

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ACL {
    pub AclRevision: u8,
    pub Sbz1: u8,
    pub AclSize: u16,
    pub AceCount: u16,
    pub Sbz2: u16,
}

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ACE_HEADER {
    pub AceType: u8,
    pub AceFlags: u8,
    pub AceSize: u16,
}

/// `SidStart` is the first word of the identifier.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct ACCESS_ALLOWED_ACE {
    pub Header: ACE_HEADER,
    pub Mask: ACCESS_MASK,
    pub SidStart: u32,
}

/// Absolute form.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct SECURITY_DESCRIPTOR {
    pub Revision: u8,
    pub Sbz1: u8,
    pub Control: u16,
    pub Owner: PVOID,
    pub Group: PVOID,
    pub Sacl: *mut ACL,
    pub Dacl: *mut ACL,
}

imports! {
    "ntoskrnl.exe";

    [..=PASSIVE_LEVEL] fn RtlCreateSecurityDescriptor(
        SecurityDescriptor: *mut SECURITY_DESCRIPTOR,
        Revision: u32,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn RtlSetDaclSecurityDescriptor(
        SecurityDescriptor: *mut SECURITY_DESCRIPTOR,
        DaclPresent: BOOLEAN,
        Dacl: *mut ACL,
        DaclDefaulted: BOOLEAN,
    ) -> NTSTATUS;
    [..=APC_LEVEL] fn RtlCreateAcl(Acl: *mut ACL, AclLength: u32, AclRevision: u32) -> NTSTATUS;
    [..=APC_LEVEL] fn RtlAddAccessAllowedAce(
        Acl: *mut ACL,
        AceRevision: u32,
        AccessMask: ACCESS_MASK,
        Sid: PVOID,
    ) -> NTSTATUS;
    [..=APC_LEVEL] fn RtlLengthSid(Sid: PVOID) -> u32;
    [..=APC_LEVEL] fn ObOpenObjectByPointer(
        Object: PVOID,
        HandleAttributes: u32,
        PassedAccessState: *mut ACCESS_STATE,
        DesiredAccess: ACCESS_MASK,
        ObjectType: *mut OBJECT_TYPE,
        AccessMode: KPROCESSOR_MODE,
        Handle: *mut HANDLE,
    ) -> NTSTATUS;
    [..=PASSIVE_LEVEL] fn ZwSetSecurityObject(
        Handle: HANDLE,
        SecurityInformation: u32,
        SecurityDescriptor: *mut SECURITY_DESCRIPTOR,
    ) -> NTSTATUS;
}
