//! Words for whoever looks with a debugger or `DebugView`.

use core::ffi::CStr;

use kext_nt_sys::ke::{self, DPFLTR_ERROR_LEVEL, DPFLTR_IHVNETWORK_ID, DPFLTR_INFO_LEVEL};

use crate::status::Status;

/// Something failed that a person has to know of: in words, and with the status.
///
/// IRQL: any.
#[cold]
pub fn error(what: &CStr, status: Status) {
    let format = c"portmaster-kext: %s (0x%08x)\n";
    let (what, number) = (what.as_ptr(), status.number());
    // SAFETY: the format takes a narrow string that ends in a zero, and a number of 32 bits.
    unsafe {
        ke::DbgPrintEx(
            DPFLTR_IHVNETWORK_ID,
            DPFLTR_ERROR_LEVEL,
            format.as_ptr(),
            what,
            number,
        )
    };
}

/// Something happened that is worth a line.
///
/// IRQL: any.
#[cold]
pub fn info(what: &CStr) {
    let format = c"portmaster-kext: %s\n";
    // SAFETY: the format takes a narrow string that ends in a zero.
    unsafe {
        ke::DbgPrintEx(
            DPFLTR_IHVNETWORK_ID,
            DPFLTR_INFO_LEVEL,
            format.as_ptr(),
            what.as_ptr(),
        )
    };
}
