//! Allocation at start: fallible, exact, and never again.

extern crate alloc;

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
