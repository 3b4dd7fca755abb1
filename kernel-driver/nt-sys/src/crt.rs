//! The few functions of C that the compiler itself calls, and that the kernel exports.
//!
//! Nobody calls these by name. Because they are declared here, the linker takes the kernel's, which
//! fit the processor, where code copies or compares memory.

use core::ffi::c_void;

imports! {
    "ntoskrnl.exe";

    [..=HIGH_LEVEL] fn memcpy(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void;
    [..=HIGH_LEVEL] fn memmove(to: *mut c_void, from: *const c_void, bytes: usize) -> *mut c_void;
    [..=HIGH_LEVEL] fn memset(to: *mut c_void, value: i32, bytes: usize) -> *mut c_void;
    [..=HIGH_LEVEL] fn memcmp(left: *const c_void, right: *const c_void, bytes: usize) -> i32;
}
