//! The functions of C that the kernel exports.

use std::ffi::c_void;

use crate::exports::implements;

implements! {
    [direct] crt::memcpy = copy;
    [direct] crt::memmove = shift;
    [direct] crt::memset = set;
    [direct] crt::memcmp = compare;
}

extern "win64" fn copy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the driver promises what C's memcpy asks for.
    unsafe { libc::memcpy(to, from, bytes) }
}

extern "win64" fn shift(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void {
    // SAFETY: as above, for memmove.
    unsafe { libc::memmove(to, from, bytes) }
}

extern "win64" fn set(to: *mut c_void, value: i32, bytes: usize) -> *mut c_void {
    // SAFETY: as above, for memset.
    unsafe { libc::memset(to, value, bytes) }
}

extern "win64" fn compare(left: *const c_void, right: *const c_void, bytes: usize) -> i32 {
    // SAFETY: as above, for memcmp.
    unsafe { libc::memcmp(left, right, bytes) }
}
