//! Security descriptors, and who may open a device.

use std::fmt::Write as _;

use kext_nt_sys::ke::KPROCESSOR_MODE;
use kext_nt_sys::se::{
    ACCESS_ALLOWED_ACE, ACE_HEADER, ACL, DACL_SECURITY_INFORMATION, FILE_ALL_ACCESS, GENERIC_ALL,
    SECURITY_DESCRIPTOR, SECURITY_DESCRIPTOR_REVISION,
};
use kext_nt_sys::status::{
    NTSTATUS, STATUS_BUFFER_TOO_SMALL, STATUS_INVALID_HANDLE, STATUS_INVALID_PARAMETER,
    STATUS_SUCCESS,
};
use kext_nt_sys::types::{ACCESS_MASK, ACCESS_STATE, BOOLEAN, FALSE, HANDLE, OBJECT_TYPE, PVOID};

use crate::check::violation;
use crate::exports::implements;
use crate::guest;
use crate::io;
use crate::process;

implements! {
    [status] se::RtlCreateSecurityDescriptor = create_descriptor;
    [status] se::RtlSetDaclSecurityDescriptor = set_dacl;
    [status] se::RtlCreateAcl = create_acl;
    [status] se::RtlAddAccessAllowedAce = add_ace;
    se::RtlLengthSid = length_sid;
    [status] se::ObOpenObjectByPointer = open_by_pointer;
    [status] se::ZwSetSecurityObject = set_security;
}

const SE_DACL_PRESENT: u16 = 4;
const ACCESS_ALLOWED_ACE_TYPE: u8 = 0;

/// Who opens a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Caller {
    /// The system itself.
    System,
    /// A process of an administrator, elevated.
    #[default]
    Administrator,
    /// Anybody else.
    User,
}

impl Caller {
    fn identifiers(self) -> &'static [&'static str] {
        match self {
            Self::System => &["S-1-5-18", "S-1-5-32-544", "S-1-1-0"],
            Self::Administrator => &["S-1-5-32-544", "S-1-5-32-545", "S-1-1-0", "S-1-5-11"],
            Self::User => &["S-1-5-32-545", "S-1-1-0", "S-1-5-11"],
        }
    }

    /// Whether a list grants that access. Without a list everybody may do everything.
    pub(crate) fn may(self, list: Option<&[(String, ACCESS_MASK)]>, wanted: ACCESS_MASK) -> bool {
        let Some(list) = list else { return true };
        let granted = list
            .iter()
            .filter(|(identifier, _)| self.identifiers().contains(&identifier.as_str()))
            .fold(0, |granted, (_, mask)| granted | mask);
        let granted = if granted & GENERIC_ALL == 0 {
            granted
        } else {
            granted | FILE_ALL_ACCESS
        };
        granted & wanted == wanted
    }
}

extern "win64" fn create_descriptor(
    descriptor: *mut SECURITY_DESCRIPTOR,
    revision: u32,
) -> NTSTATUS {
    if revision != SECURITY_DESCRIPTOR_REVISION {
        return STATUS_INVALID_PARAMETER;
    }
    let fresh = SECURITY_DESCRIPTOR {
        Revision: 1,
        Sbz1: 0,
        Control: 0,
        Owner: std::ptr::null_mut(),
        Group: std::ptr::null_mut(),
        Sacl: std::ptr::null_mut(),
        Dacl: std::ptr::null_mut(),
    };
    guest::write(descriptor, fresh, "a security descriptor");
    STATUS_SUCCESS
}

extern "win64" fn set_dacl(
    descriptor: *mut SECURITY_DESCRIPTOR,
    present: BOOLEAN,
    list: *mut ACL,
    _: BOOLEAN,
) -> NTSTATUS {
    let descriptor = guest::borrow(descriptor, "a security descriptor");
    if descriptor.Revision != 1 {
        return STATUS_INVALID_PARAMETER;
    }
    if present == FALSE {
        descriptor.Control &= !SE_DACL_PRESENT;
    } else {
        descriptor.Control |= SE_DACL_PRESENT;
        descriptor.Dacl = list;
    }
    STATUS_SUCCESS
}

extern "win64" fn create_acl(list: *mut ACL, length: u32, revision: u32) -> NTSTATUS {
    if (length as usize) < size_of::<ACL>() || length > 0xffff || !(2..=4).contains(&revision) {
        return STATUS_INVALID_PARAMETER;
    }
    let fresh = ACL {
        AclRevision: revision as u8,
        Sbz1: 0,
        AclSize: length as u16,
        AceCount: 0,
        Sbz2: 0,
    };
    guest::write(list, fresh, "an access control list");
    STATUS_SUCCESS
}

fn sid_length(sid: PVOID) -> usize {
    let head = guest::bytes(sid.cast(), 2, "a security identifier");
    if head[0] != 1 || head[1] > 15 {
        violation!(Argument, "a security identifier of revision {}", head[0]);
    }
    8 + 4 * usize::from(head[1])
}

extern "win64" fn length_sid(sid: PVOID) -> u32 {
    sid_length(sid) as u32
}

/// The entries of a list, as bytes.
fn entries(list: *mut ACL) -> (Vec<&'static [u8]>, usize) {
    let header = guest::read(list, "an access control list");
    let all = guest::bytes(
        list.cast(),
        usize::from(header.AclSize),
        "an access control list",
    );
    let mut at = size_of::<ACL>();
    let mut entries = Vec::new();
    for _ in 0..header.AceCount {
        let size = all.get(at + 2..at + 4).map_or(0, |size| {
            usize::from(u16::from_le_bytes([size[0], size[1]]))
        });
        let Some(entry) = all.get(at..at + size).filter(|entry| entry.len() >= 16) else {
            violation!(
                Argument,
                "an access control list whose entries are cut short"
            );
        };
        entries.push(entry);
        at += size;
    }
    (entries, at)
}

extern "win64" fn add_ace(
    list: *mut ACL,
    revision: u32,
    mask: ACCESS_MASK,
    sid: PVOID,
) -> NTSTATUS {
    let (_, used) = entries(list);
    let header = guest::borrow(list, "an access control list");
    if revision > u32::from(header.AclRevision) {
        return STATUS_INVALID_PARAMETER;
    }
    let sid_length = sid_length(sid);
    let size = size_of::<ACCESS_ALLOWED_ACE>() - 4 + sid_length;
    if used + size > usize::from(header.AclSize) {
        return STATUS_BUFFER_TOO_SMALL;
    }
    let sid = guest::bytes(sid.cast(), sid_length, "a security identifier").to_vec();
    let all = guest::bytes_mut(list.cast(), usize::from(header.AclSize), "a list");
    let head = ACE_HEADER {
        AceType: ACCESS_ALLOWED_ACE_TYPE,
        AceFlags: 0,
        AceSize: size as u16,
    };
    all[used] = head.AceType;
    all[used + 1] = head.AceFlags;
    all[used + 2..used + 4].copy_from_slice(&head.AceSize.to_le_bytes());
    all[used + 4..used + 8].copy_from_slice(&mask.to_le_bytes());
    all[used + 8..used + size].copy_from_slice(&sid);
    header.AceCount += 1;
    STATUS_SUCCESS
}

extern "win64" fn open_by_pointer(
    object: PVOID,
    _: u32,
    _: *mut ACCESS_STATE,
    _: ACCESS_MASK,
    _: *mut OBJECT_TYPE,
    _: KPROCESSOR_MODE,
    handle: *mut HANDLE,
) -> NTSTATUS {
    io::expect_device(object.cast(), "ObOpenObjectByPointer");
    let fresh = process::handle_of(object.expose_provenance());
    guest::write(handle, fresh, "a handle");
    STATUS_SUCCESS
}

/// `S-1-5-18` of its bytes.
fn sid_text(sid: &[u8]) -> String {
    let authority = sid[2..8]
        .iter()
        .fold(0_u64, |all, byte| all << 8 | u64::from(*byte));
    let mut text = format!("S-{}-{authority}", sid[0]);
    for part in sid[8..].chunks_exact(4).take(usize::from(sid[1])) {
        let part = u32::from_le_bytes([part[0], part[1], part[2], part[3]]);
        let _ = write!(text, "-{part}");
    }
    text
}

extern "win64" fn set_security(
    handle: HANDLE,
    information: u32,
    descriptor: *mut SECURITY_DESCRIPTOR,
) -> NTSTATUS {
    let Some(object) = process::object_of(handle) else {
        return STATUS_INVALID_HANDLE;
    };
    if information != DACL_SECURITY_INFORMATION {
        violation!(
            Argument,
            "ZwSetSecurityObject of {information:#x}, not of the list of access"
        );
    }
    let descriptor = guest::read(descriptor, "a security descriptor");
    if descriptor.Control & SE_DACL_PRESENT == 0 {
        return STATUS_INVALID_PARAMETER;
    }
    let list = (!descriptor.Dacl.is_null()).then(|| {
        entries(descriptor.Dacl)
            .0
            .iter()
            .filter(|entry| entry[0] == ACCESS_ALLOWED_ACE_TYPE)
            .map(|entry| {
                let mask = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]);
                (sid_text(&entry[8..]), mask)
            })
            .collect()
    });
    io::set_dacl(object, list);
    STATUS_SUCCESS
}
