//! Memory from the nonpaged pool, which is not executable.

use core::alloc::{GlobalAlloc, Layout};
use core::ptr;

use kext_nt_sys::ex::{
    ExAllocatePool2, ExFreePoolWithTag, POOL_FLAG_NON_PAGED, POOL_FLAG_UNINITIALIZED, POOL_FLAGS,
};

/// `Kext`, as `!poolused` shows it.
pub const TAG: u32 = u32::from_le_bytes(*b"Kext");

/// What every block of the pool is aligned to.
const POOL_ALIGNMENT: usize = 16;

/// The allocator of a driver: everything that `alloc` allocates is in the nonpaged pool.
///
/// IRQL: up to `DISPATCH_LEVEL`.
pub struct Nonpaged;

impl Nonpaged {
    fn allocate(layout: Layout, flags: POOL_FLAGS) -> *mut u8 {
        let Some(bytes) = bytes_of(layout) else {
            return ptr::null_mut();
        };
        // SAFETY: the tag is not 0, and everybody who allocates is at DISPATCH_LEVEL or below.
        let block = unsafe { ExAllocatePool2(POOL_FLAG_NON_PAGED | flags, bytes, TAG) };
        let block = block.cast::<u8>();
        if block.is_null() || layout.align() <= POOL_ALIGNMENT {
            return block;
        }
        // At least one word before the value is free, and it says where the block starts.
        let offset = layout.align() - block.addr() % layout.align();
        // SAFETY: the block is `align` bytes longer than the value, and the offset is at most that.
        let value = unsafe { block.add(offset) };
        // SAFETY: the offset is a multiple of POOL_ALIGNMENT and not 0, so the word before the
        // value is in the block; it is aligned, as the value is.
        unsafe { word_before(value).write(block) };
        value
    }
}

/// Where it stands at which address the block of a value starts that has a large alignment.
#[expect(
    clippy::cast_ptr_alignment,
    reason = "the value's alignment is larger than a word's"
)]
const fn word_before(value: *mut u8) -> *mut *mut u8 {
    value.cast::<*mut u8>().wrapping_sub(1)
}

/// How long a block for a value has to be.
const fn bytes_of(layout: Layout) -> Option<usize> {
    if layout.align() <= POOL_ALIGNMENT {
        Some(layout.size())
    } else {
        layout.size().checked_add(layout.align())
    }
}

// SAFETY: blocks are as long and as aligned as asked for, and stay until they are freed.
unsafe impl GlobalAlloc for Nonpaged {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        Self::allocate(layout, POOL_FLAG_UNINITIALIZED)
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // The pool zeroes what it gives unless it is told not to.
        Self::allocate(layout, 0)
    }

    unsafe fn dealloc(&self, value: *mut u8, layout: Layout) {
        let block = if layout.align() <= POOL_ALIGNMENT {
            value
        } else {
            // SAFETY: `allocate` wrote there where the block starts, for every layout of this kind.
            unsafe { word_before(value).read() }
        };
        // SAFETY: the block came from the pool under this tag, and the caller frees it once.
        unsafe { ExFreePoolWithTag(block.cast(), TAG) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in;

    #[test]
    fn values_are_aligned_and_blocks_come_back() {
        let before = stand_in::blocks();
        for align in [1, 16, 32, 128, 4096] {
            let layout = Layout::from_size_align(40, align).unwrap();
            // SAFETY: the layout is not empty.
            let value = unsafe { Nonpaged.alloc(layout) };
            assert_eq!(value.addr() % align, 0, "{align}");
            // SAFETY: 40 bytes were allocated.
            unsafe { value.write_bytes(0xab, 40) };
            // SAFETY: as it was allocated.
            unsafe { Nonpaged.dealloc(value, layout) };
        }
        assert_eq!(stand_in::blocks(), before);
    }

    #[test]
    fn no_memory_is_null() {
        let layout = Layout::from_size_align(stand_in::TOO_MUCH, 128).unwrap();
        // SAFETY: the layout is not empty.
        assert!(unsafe { Nonpaged.alloc_zeroed(layout) }.is_null());
    }
}
