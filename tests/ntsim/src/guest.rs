//! Memory at addresses that the driver gave us.
//!
//! The functions look safe and cannot be: an address may be wrong, which is what a test is there to
//! find. A wrong one ends the process, here in words or in the handler of access violations.

use crate::check::violation;

fn checked<T>(pointer: *const T, what: &str) {
    if pointer.is_null() {
        violation!(Argument, "{what}: the address is null");
    }
    if !pointer.is_aligned() {
        violation!(
            Argument,
            "{what}: the address {pointer:p} is not a multiple of {}",
            align_of::<T>()
        );
    }
}

/// The value at an address.
pub(crate) fn read<T: Copy>(pointer: *const T, what: &str) -> T {
    checked(pointer, what);
    // SAFETY: not null and aligned; that memory is there is the driver's part, see above.
    unsafe { pointer.read() }
}

/// Writes a value to an address.
pub(crate) fn write<T>(pointer: *mut T, value: T, what: &str) {
    checked(pointer, what);
    // SAFETY: as for `read`.
    unsafe { pointer.write(value) }
}

/// Writes a value if the address is not null.
pub(crate) fn write_optional<T>(pointer: *mut T, value: T, what: &str) {
    if !pointer.is_null() {
        write(pointer, value, what);
    }
}

/// What is at an address, for as long as the caller says.
pub(crate) fn borrow<'a, T>(pointer: *mut T, what: &str) -> &'a mut T {
    checked(pointer, what);
    // SAFETY: as for `read`; shims use the reference only until they return.
    unsafe { &mut *pointer }
}

/// Bytes at an address.
pub(crate) fn bytes<'a>(pointer: *const u8, length: usize, what: &str) -> &'a [u8] {
    if length == 0 {
        return &[];
    }
    checked(pointer, what);
    // SAFETY: as for `read`.
    unsafe { std::slice::from_raw_parts(pointer, length) }
}

/// Bytes at an address, to write to.
pub(crate) fn bytes_mut<'a>(pointer: *mut u8, length: usize, what: &str) -> &'a mut [u8] {
    if length == 0 {
        return &mut [];
    }
    checked(pointer, what);
    // SAFETY: as for `read`.
    unsafe { std::slice::from_raw_parts_mut(pointer, length) }
}

/// A counted string, as text.
pub(crate) fn string(pointer: *const kext_nt_sys::types::UNICODE_STRING, what: &str) -> String {
    let string = read(pointer, what);
    if string.Length % 2 == 1 || string.Length > string.MaximumLength {
        violation!(
            Argument,
            "{what}: a string of {} bytes in a buffer of {}",
            string.Length,
            string.MaximumLength
        );
    }
    let count = usize::from(string.Length / 2);
    if count == 0 {
        return String::new();
    }
    checked(string.Buffer, what);
    // SAFETY: as for `read`.
    let units = unsafe { std::slice::from_raw_parts(string.Buffer, count) };
    String::from_utf16_lossy(units)
}

/// A string that ends with a zero, as text; nothing for null.
pub(crate) fn wide(pointer: *const u16) -> Option<String> {
    if pointer.is_null() {
        return None;
    }
    let mut units = Vec::new();
    for at in 0..1024 {
        // SAFETY: as for `read`; the loop ends at the zero.
        let unit = unsafe { pointer.add(at).read() };
        if unit == 0 {
            break;
        }
        units.push(unit);
    }
    Some(String::from_utf16_lossy(&units))
}
