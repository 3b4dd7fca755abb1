//! `PortmasterKext64.sys`: entry and unload of the driver.
//!
//! So far it only creates its control device and deletes it again. Requests to open the device fail
//! with `STATUS_INVALID_DEVICE_REQUEST`, since no dispatch routine is set.

#![no_std]
#![cfg(target_arch = "x86_64")]

mod runtime;

use core::ptr;

use kext_nt_sys::io::{
    DEVICE_OBJECT, DO_DEVICE_INITIALIZING, DRIVER_OBJECT, FILE_DEVICE_NETWORK,
    FILE_DEVICE_SECURE_OPEN, IoCreateDevice, IoDeleteDevice,
};
use kext_nt_sys::status::{NTSTATUS, STATUS_SUCCESS};
use kext_nt_sys::types::{TRUE, UNICODE_STRING};

/// `\Device\PortmasterKext`.
static DEVICE_NAME: Name = Name::new(&utf16(br"\Device\PortmasterKext"));

/// A constant name in the form that the I/O manager takes.
struct Name(UNICODE_STRING);

// SAFETY: it points to what never changes, and nobody writes through it.
unsafe impl Sync for Name {}

impl Name {
    const fn new(text: &'static [u16]) -> Self {
        let bytes = size_of_val(text) as u16;
        Self(UNICODE_STRING {
            Length: bytes,
            MaximumLength: bytes,
            Buffer: text.as_ptr().cast_mut(),
        })
    }
}

/// UTF-16 of a name in ASCII.
const fn utf16<const N: usize>(ascii: &[u8; N]) -> [u16; N] {
    let mut wide = [0; N];
    let mut at = 0;
    while at < N {
        wide[at] = ascii[at] as u16;
        at += 1;
    }
    wide
}

/// Called once by the I/O manager, at `PASSIVE_LEVEL`.
///
/// # Safety
///
/// `driver` is this driver's object, and nobody else uses it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "win64" fn DriverEntry(
    driver: *mut DRIVER_OBJECT,
    _registry_path: *mut UNICODE_STRING,
) -> NTSTATUS {
    let mut name = DEVICE_NAME.0;
    let mut device: *mut DEVICE_OBJECT = ptr::null_mut();
    // SAFETY: called at PASSIVE_LEVEL with our driver object; the name outlives the call, which does
    // not write to it.
    let status = unsafe {
        IoCreateDevice(
            driver,
            0,
            &raw mut name,
            FILE_DEVICE_NETWORK,
            FILE_DEVICE_SECURE_OPEN,
            TRUE,
            &raw mut device,
        )
    };
    if status != STATUS_SUCCESS {
        return status;
    }
    // SAFETY: the caller hands us its driver object.
    unsafe { (*driver).DriverUnload = Some(unload) };
    // SAFETY: IoCreateDevice succeeded, so the device is there, and it is ours alone until this flag
    // is cleared.
    unsafe { (*device).Flags &= !DO_DEVICE_INITIALIZING };
    STATUS_SUCCESS
}

/// Called once by the I/O manager, at `PASSIVE_LEVEL`, when no handle is open any more.
///
/// # Safety
///
/// `driver` is the object that [`DriverEntry`] was given.
unsafe extern "win64" fn unload(driver: *mut DRIVER_OBJECT) {
    // SAFETY: the I/O manager keeps our one device in the driver object.
    let device = unsafe { (*driver).DeviceObject };
    // SAFETY: the device is the one that DriverEntry made, and nobody uses it any more.
    unsafe { IoDeleteDevice(device) };
}
