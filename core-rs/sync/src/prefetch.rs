//! What will be needed soon, told to the processor: the one piece of unsafe code of the portable crates.

/// A processor's cache line.
#[cfg(all(target_arch = "x86_64", not(miri)))]
const LINE: usize = 64;

/// Begins to bring a value into the processor's caches, and does not wait for it.
///
/// A read would not do: the next locked instruction waits for all reads before it.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(all(target_arch = "x86_64", not(miri)))]
    {
        use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        let start = core::ptr::from_ref(value).cast::<i8>();
        // Bound: the lines of a T.
        for offset in (0..size_of::<T>()).step_by(LINE) {
            // SAFETY: a prefetch faults at no address and changes nothing that a program can see.
            #[expect(unsafe_code, reason = "the intrinsic takes a pointer")]
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(offset));
            }
        }
    }
    #[cfg(not(all(target_arch = "x86_64", not(miri))))]
    let _ = value;
}

#[cfg(test)]
mod tests {
    #[test]
    fn any_value_may_be_asked_for() {
        let (none, one, many) = ((), 7_u8, [7_u8; 1_000]);
        super::prefetch(&none);
        super::prefetch(&one);
        super::prefetch(&many);
        assert_eq!((one, many), (7, [7; 1_000]));
    }
}
