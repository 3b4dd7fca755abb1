//! The executive: pool memory and rundown protection.

use crate::types::{BOOLEAN, PVOID};

// Flags of `ExAllocatePool2`. Source: one-source; learn-kernel, learn-ddi.
pub type POOL_FLAGS = u64;
pub const POOL_FLAG_USE_QUOTA: POOL_FLAGS = 0x0000_0001;
pub const POOL_FLAG_UNINITIALIZED: POOL_FLAGS = 0x0000_0002;
pub const POOL_FLAG_SESSION: POOL_FLAGS = 0x0000_0004;
pub const POOL_FLAG_CACHE_ALIGNED: POOL_FLAGS = 0x0000_0008;
pub const POOL_FLAG_RAISE_ON_FAILURE: POOL_FLAGS = 0x0000_0020;
/// Not executable.
pub const POOL_FLAG_NON_PAGED: POOL_FLAGS = 0x0000_0040;
pub const POOL_FLAG_NON_PAGED_EXECUTE: POOL_FLAGS = 0x0000_0080;
pub const POOL_FLAG_PAGED: POOL_FLAGS = 0x0000_0100;

/// In nonpaged memory where it is acquired at `DISPATCH_LEVEL`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct EX_RUNDOWN_REF {
    pub Count: usize,
}

imports! {
    "ntoskrnl.exe";

    /// Zeroed, unless `POOL_FLAG_UNINITIALIZED` is set; null if there is no memory. The tag must
    /// not be 0. Paged memory only up to `APC_LEVEL`.
    [..=DISPATCH_LEVEL] fn ExAllocatePool2(
        Flags: POOL_FLAGS,
        NumberOfBytes: usize,
        Tag: u32,
    ) -> PVOID;
    /// The tag is that of the allocation.
    [..=DISPATCH_LEVEL] fn ExFreePoolWithTag(P: PVOID, Tag: u32);

    [..=APC_LEVEL] fn ExInitializeRundownProtection(RunRef: *mut EX_RUNDOWN_REF);
    [..=APC_LEVEL] fn ExReInitializeRundownProtection(RunRef: *mut EX_RUNDOWN_REF);
    [..=DISPATCH_LEVEL] fn ExAcquireRundownProtection(RunRef: *mut EX_RUNDOWN_REF) -> BOOLEAN;
    [..=DISPATCH_LEVEL] fn ExReleaseRundownProtection(RunRef: *mut EX_RUNDOWN_REF);
    [..=APC_LEVEL] fn ExWaitForRundownProtectionRelease(RunRef: *mut EX_RUNDOWN_REF);
    [..=APC_LEVEL] fn ExRundownCompleted(RunRef: *mut EX_RUNDOWN_REF);
}
