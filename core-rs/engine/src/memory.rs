//! Allocation at start: fallible, exact, and never again.

extern crate alloc;

use alloc::boxed::Box;
use core::ops::{Deref, DerefMut};

pub(crate) use alloc::vec::Vec;

/// The memory that the capacities ask for could not be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OutOfMemory {
    /// What was to be allocated.
    pub what: &'static str,
    /// How many bytes were asked for.
    pub bytes: usize,
}

impl core::fmt::Display for OutOfMemory {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "no memory for {}: {} bytes", self.what, self.bytes)
    }
}

impl core::error::Error for OutOfMemory {}

/// One value in memory of its own, asked for fallibly.
///
/// The parts of an engine stand in such memory, so that none of the functions that make it has them
/// all on its stack: stacks in a kernel are small.
pub(crate) struct Own<T>(Box<[T; 1]>);

impl<T> Own<T> {
    /// Not inlined: the value is on the stack of this function only.
    #[inline(never)]
    pub(crate) fn try_new(
        what: &'static str,
        make: impl FnOnce() -> Result<T, OutOfMemory>,
    ) -> Result<Self, OutOfMemory> {
        let out_of_memory = OutOfMemory {
            what,
            bytes: size_of::<T>(),
        };
        let mut one = Vec::new();
        one.try_reserve_exact(1).map_err(|_| out_of_memory)?;
        one.push(make()?);
        let one = Box::try_from(one.into_boxed_slice());
        one.map(Self).map_err(|_| out_of_memory)
    }
}

impl<T> Deref for Own<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        let [value] = &*self.0;
        value
    }
}

impl<T> DerefMut for Own<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        let [value] = &mut *self.0;
        value
    }
}

/// `len` values made by `make`, in memory that is asked for once and never grows.
pub(crate) fn try_filled<T>(
    what: &'static str,
    len: usize,
    mut make: impl FnMut() -> Result<T, OutOfMemory>,
) -> Result<Vec<T>, OutOfMemory> {
    let mut values = Vec::new();
    values.try_reserve_exact(len).map_err(|_| OutOfMemory {
        what,
        bytes: len.saturating_mul(size_of::<T>()),
    })?;
    // Bound: `len`, at start.
    for _ in 0..len {
        values.push(make()?);
    }
    Ok(values)
}

/// The same with a `make` that cannot fail.
pub(crate) fn filled<T>(
    what: &'static str,
    len: usize,
    mut make: impl FnMut() -> T,
) -> Result<Vec<T>, OutOfMemory> {
    try_filled(what, len, || Ok(make()))
}

#[cfg(test)]
mod tests {
    use super::Own;

    #[test]
    fn a_value_of_its_own_is_the_value() {
        let own = Own::try_new("a number", || Ok(7_u64)).unwrap();
        assert_eq!(*own, 7);
    }
}
