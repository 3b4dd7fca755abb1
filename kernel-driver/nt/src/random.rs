//! Random numbers from the system.

use core::ptr;

use kext_nt_sys::bcrypt::{BCRYPT_USE_SYSTEM_PREFERRED_RNG, BCryptGenRandom};

use crate::irql::Passive;
use crate::status::{Result, Status};

/// 64 random bits that nobody can guess.
///
/// IRQL: `PASSIVE_LEVEL`.
pub fn random(_: &Passive) -> Result<u64> {
    let mut bytes = [0; 8];
    // SAFETY: at PASSIVE_LEVEL, as the token says; the buffer is as long as it says.
    let status = unsafe {
        BCryptGenRandom(
            ptr::null_mut(),
            bytes.as_mut_ptr(),
            bytes.len() as u32,
            BCRYPT_USE_SYSTEM_PREFERRED_RNG,
        )
    };
    Status::check(status)?;
    Ok(u64::from_ne_bytes(bytes))
}
