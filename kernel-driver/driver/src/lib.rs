//! `PortmasterKext64.sys`: the extension with the Windows kernel as its host. Wiring only.
//!
//! | file | what it wires |
//! |---|---|
//! | `kext` | the parts that live from loading to unloading, and the order of both |
//! | `control` | requests of programs to the extension's dispatcher |
//! | `reads` | requests that wait, and what ends their waiting |
//! | `host` | the extension to clock, randomness and packets that leave |
//! | `leaving` | packets that leave at once, or a moment later |
//! | `filtering` | callouts and filters to the filter engine |
//! | `packets` | packets that the filter engine shows to the extension |
//! | `flows` | processes and ends of connections, as the filter engine knows them |
//! | `checksums` | checksums that were left to the network card |
//! | `runtime` | what Rust wants of a program without an operating system under it |

#![no_std]
#![cfg(target_arch = "x86_64")]
// The names of protocols are not code.
#![allow(clippy::doc_markdown)]

extern crate alloc;

mod checksums;
mod control;
mod filtering;
mod flows;
mod host;
mod kext;
mod leaving;
mod packets;
mod passed;
mod payload;
mod reads;
mod runtime;

use kext_nt::device::DriverObject;
use kext_nt::irql::Passive;
use kext_nt_sys::io::DRIVER_OBJECT;
use kext_nt_sys::status::{NTSTATUS, STATUS_INVALID_PARAMETER, STATUS_SUCCESS};
use kext_nt_sys::types::UNICODE_STRING;

/// Called once by the I/O manager.
///
/// IRQL: `PASSIVE_LEVEL`.
///
/// # Safety
///
/// `driver` is this driver's object, and nobody else uses it during the call.
#[unsafe(no_mangle)]
pub unsafe extern "win64" fn DriverEntry(
    driver: *mut DRIVER_OBJECT,
    _registry_path: *mut UNICODE_STRING,
) -> NTSTATUS {
    // SAFETY: the I/O manager calls at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: as the caller promises.
    let Some(mut driver) = (unsafe { DriverObject::new(driver) }) else {
        return STATUS_INVALID_PARAMETER;
    };
    match kext::load(&passive, &mut driver, unload) {
        Ok(()) => STATUS_SUCCESS,
        Err(status) => status.0,
    }
}

/// Called once by the I/O manager, when no file of the device is open any more.
///
/// IRQL: `PASSIVE_LEVEL`.
///
/// # Safety
///
/// Only the I/O manager calls it, after [`DriverEntry`] succeeded.
unsafe extern "win64" fn unload(_driver: *mut DRIVER_OBJECT) {
    // SAFETY: the I/O manager calls at PASSIVE_LEVEL.
    let passive = unsafe { Passive::assume() };
    // SAFETY: no file is open, so every request is answered, and none can come.
    unsafe { kext::unload(&passive) };
}
