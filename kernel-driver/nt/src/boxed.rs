//! Boxes and arrays for which there may be no memory, and values that stay where they are.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::ops::Deref;
use core::ptr::NonNull;

use crate::status::{Result, Status};

/// A value in memory of its own.
///
/// IRQL: up to `DISPATCH_LEVEL`.
pub fn try_box<T>(value: T) -> Result<Box<T>> {
    let mut one = Vec::new();
    one.try_reserve_exact(1).map_err(|_| Status::NO_MEMORY)?;
    one.push(value);
    let one = Box::into_raw(one.into_boxed_slice());
    // SAFETY: a slice of one value has the value's layout, and the box is taken over whole.
    Ok(unsafe { Box::from_raw(one.cast::<T>()) })
}

/// A value in memory of its own that others know by its address: the kernel, or another value.
///
/// Other than a box, it does not say that nobody else reaches the value, and may be moved meanwhile.
pub(crate) struct Fixed<T>(NonNull<T>);

// SAFETY: as a box, it owns the value, and gives it out by shared reference.
unsafe impl<T: Send> Send for Fixed<T> {}
// SAFETY: as above.
unsafe impl<T: Sync> Sync for Fixed<T> {}

impl<T> Fixed<T> {
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub(crate) fn try_new(value: T) -> Result<Self> {
        try_box(value).map(|value| Self(NonNull::from(Box::leak(value))))
    }

    /// The address. It is good until this is dropped.
    pub(crate) const fn as_ptr(&self) -> *mut T {
        self.0.as_ptr()
    }
}

impl<T> Deref for Fixed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        // SAFETY: the value lives as long as self, and is reached by shared reference only.
        unsafe { self.0.as_ref() }
    }
}

impl<T> Drop for Fixed<T> {
    /// Who knows the address does not use it any more.
    ///
    /// IRQL: what the value needs to be dropped.
    fn drop(&mut self) {
        // SAFETY: it came from a box, of which nothing else is left.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

/// `len` values, made by `make` from their numbers.
///
/// IRQL: up to `DISPATCH_LEVEL`.
pub fn try_array<T>(len: usize, mut make: impl FnMut(usize) -> Result<T>) -> Result<Box<[T]>> {
    let mut values = Vec::new();
    values
        .try_reserve_exact(len)
        .map_err(|_| Status::NO_MEMORY)?;
    // Bound: `len`, at start.
    for number in 0..len {
        values.push(make(number)?);
    }
    Ok(values.into_boxed_slice())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_where_they_belong() {
        assert_eq!(*try_box([7; 3]).unwrap(), [7; 3]);
        let squares = try_array(4, |number| Ok(number * number)).unwrap();
        assert_eq!(*squares, [0, 1, 4, 9]);
        let fixed = Fixed::try_new(7).unwrap();
        let at = fixed.as_ptr();
        let moved = fixed;
        assert_eq!((*moved, moved.as_ptr()), (7, at));
        let failed = try_array(
            4,
            |number| if number < 2 { Ok(()) } else { Err(Status(-1)) },
        );
        assert_eq!(failed, Err(Status(-1)));
    }
}
