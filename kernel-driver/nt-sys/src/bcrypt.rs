//! Random numbers.

use crate::status::NTSTATUS;
use crate::types::HANDLE;

// Source: two-sources; mingw, metadata.
pub const BCRYPT_PROV_DISPATCH: u32 = 0x0000_0001;
pub const BCRYPT_USE_SYSTEM_PREFERRED_RNG: u32 = 0x0000_0002;

imports! {
    "ksecdd.sys";

    /// With `BCRYPT_USE_SYSTEM_PREFERRED_RNG` the handle is null, and the limit is `PASSIVE_LEVEL`.
    /// Up to `DISPATCH_LEVEL` only by a provider that was opened with `BCRYPT_PROV_DISPATCH`.
    [..=DISPATCH_LEVEL] fn BCryptGenRandom(
        hAlgorithm: HANDLE,
        pbBuffer: *mut u8,
        cbBuffer: u32,
        dwFlags: u32,
    ) -> NTSTATUS;
}
