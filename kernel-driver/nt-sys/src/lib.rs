//! Raw declarations of the Windows kernel interfaces that the driver uses: types, constants,
//! layouts, imports. Names are those of the Windows headers. There is no logic here.
//!
//! - A function is declared once, by the macro in `import.rs`. Its name is then two things: in the
//!   namespace of values the import, in the namespace of types the signature. So a stand-in for
//!   Windows is checked by the compiler: `const _: ke::KeSetEvent = my_set_event;`.
//! - [`EXPORTS`] lists every declared function with its module and the IRQLs at which it may be
//!   called, from the same declaration.
//! - Everything compiles on any x86-64 target, so that a stand-in for Windows that runs elsewhere
//!   shares these very types. Only on Windows are the imports linked. The calling convention is
//!   `extern "win64"` everywhere, callbacks included; on Windows it is the C one.
//! - Every structure is compared with the table in `layout.rs` when this crate is compiled.
//! - Only what exists since Windows 10, version 2004 (build 19041), is declared.
//!
//! Fields and constants are not described again where Microsoft's documentation does: what is said
//! here is what differs, or what is easily done wrong. Any structure but `NET_BUFFER_LIST` may be
//! made by zeroing it.

#![no_std]
#![cfg(target_arch = "x86_64")]
#![allow(
    missing_docs,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    reason = "the names are those of the Windows headers, which document them"
)]

#[macro_use]
mod import;
mod layout;

pub mod bcrypt;
pub mod crt;
pub mod ex;
pub mod fwp;
pub mod fwpm;
pub mod fwps;
pub mod io;
pub mod ke;
pub mod layers;
pub mod ndis;
pub mod ps;
pub mod rtl;
pub mod se;
pub mod status;
pub mod types;

pub use import::Export;

/// Every declared function, by module of this crate.
pub const EXPORTS: &[&[Export]] = &[
    bcrypt::EXPORTS,
    crt::EXPORTS,
    ex::EXPORTS,
    fwpm::EXPORTS,
    fwps::EXPORTS,
    io::EXPORTS,
    ke::EXPORTS,
    ndis::EXPORTS,
    ps::EXPORTS,
    rtl::EXPORTS,
    se::EXPORTS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use core::mem::{size_of, size_of_val};

    fn all() -> impl Iterator<Item = &'static Export> {
        EXPORTS.iter().copied().flatten()
    }

    #[test]
    fn a_key_reads_as_its_text() {
        // c86fd1bf-21cd-497e-a0bb-17425c885c58
        let key = layers::FWPM_LAYER_INBOUND_IPPACKET_V4;
        assert_eq!(
            (key.Data1, key.Data2, key.Data3),
            (0xc86f_d1bf, 0x21cd, 0x497e)
        );
        assert_eq!(key.Data4, [0xa0, 0xbb, 0x17, 0x42, 0x5c, 0x88, 0x5c, 0x58]);
    }

    #[test]
    fn every_export_is_declared_once() {
        for export in all() {
            let declared = all().filter(|other| other.name == export.name).count();
            assert_eq!(declared, 1, "{}", export.name);
        }
    }

    #[test]
    fn limits_are_ranges() {
        for export in all() {
            assert!(export.min_irql <= export.max_irql, "{}", export.name);
        }
        let lock = all().find(|export| export.name == "KeReleaseSpinLock");
        let expected = Export {
            module: "ntoskrnl.exe",
            name: "KeReleaseSpinLock",
            min_irql: ke::DISPATCH_LEVEL,
            max_irql: ke::DISPATCH_LEVEL,
        };
        assert_eq!(lock, Some(&expected));
    }

    #[test]
    fn a_stand_in_has_to_have_the_signature() {
        unsafe extern "win64" fn stand_in(_: *mut ke::KEVENT, _: i32, _: types::BOOLEAN) -> i32 {
            7
        }
        let set: ke::KeSetEvent = stand_in;
        // SAFETY: the stand-in touches nothing.
        assert_eq!(unsafe { set(core::ptr::null_mut(), 0, 0) }, 7);
    }

    #[test]
    fn an_access_control_list_for_both_owners_takes_52_bytes() {
        let entry = size_of::<se::ACCESS_ALLOWED_ACE>() - size_of::<u32>();
        let identifiers = size_of_val(&se::SID_LOCAL_SYSTEM) + size_of_val(&se::SID_ADMINISTRATORS);
        assert_eq!(size_of::<se::ACL>() + 2 * entry + identifiers, 52);
    }

    #[test]
    fn fields_count_from_zero() {
        use layers::FWPS_FIELDS_STREAM_V6 as Stream;
        assert_eq!((Stream::IP_LOCAL_ADDRESS as u32, Stream::COUNT), (0, 8));
        assert_eq!(layers::FWPS_FIELDS_ALE_AUTH_CONNECT_V4::FLAGS as u32, 12);
    }
}
