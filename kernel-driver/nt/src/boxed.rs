//! Boxes and arrays for which there may be no memory.

use alloc::boxed::Box;
use alloc::vec::Vec;

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
        let failed = try_array(
            4,
            |number| if number < 2 { Ok(()) } else { Err(Status(-1)) },
        );
        assert_eq!(failed, Err(Status(-1)));
    }
}
