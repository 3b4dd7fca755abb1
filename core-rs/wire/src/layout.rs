//! Raw structures: compile-time layout assertions, and moving them to and from bytes.

use zerocopy::{Immutable, IntoBytes};

use crate::BufferTooSmall;

/// Asserts the size of a raw structure and the offset of each of its fields.
///
/// Every top-level field must be listed (the pattern in it has no `..`); fields of nested
/// structures follow after a semicolon.
macro_rules! layout {
    ($name:ident: $size:literal {
        $($field:ident: $offset:literal),+
        $(; $($outer:ident . $inner:ident: $deep:literal),+)?
        $(,)?
    }) => {
        const _: () = {
            assert!(size_of::<$name>() == $size);
            assert!(align_of::<$name>() == 1);
            $(assert!(core::mem::offset_of!($name, $field) == $offset);)+
            $($(assert!(core::mem::offset_of!($name, $outer.$inner) == $deep);)+)?
        };
        const _: fn($name) = |$name { $($field: _),+ }| ();
    };
}

/// Writes a raw structure to the front of `out`, or nothing.
pub(crate) fn put<T: IntoBytes + Immutable>(
    raw: &T,
    out: &mut [u8],
) -> Result<usize, BufferTooSmall> {
    let needed = size_of::<T>();
    match raw.write_to_prefix(out) {
        Ok(()) => Ok(needed),
        Err(_) => Err(BufferTooSmall { needed }),
    }
}

/// Writes `head` and then each of `rows` to the front of `out`, or nothing. The rows are as many
/// as the iterator says that it has; should it yield fewer, the rest are zero.
pub(crate) fn put_table<H, R>(
    head: &H,
    mut rows: impl ExactSizeIterator<Item = R>,
    out: &mut [u8],
) -> Result<usize, BufferTooSmall>
where
    H: IntoBytes + Immutable,
    R: IntoBytes + Immutable,
{
    let needed = size_of::<H>().saturating_add(rows.len().saturating_mul(size_of::<R>()));
    let out = out.get_mut(..needed).ok_or(BufferTooSmall { needed })?;
    let (front, table) = out
        .split_at_mut_checked(size_of::<H>())
        .ok_or(BufferTooSmall { needed })?;
    // Both writes fit by construction: the slices have exactly these sizes.
    let _ = head.write_to(front);
    // Bounded by the rows that fit `out`.
    for slot in table.chunks_exact_mut(size_of::<R>()) {
        match rows.next() {
            Some(row) => {
                let _ = row.write_to(slot);
            }
            None => slot.fill(0),
        }
    }
    Ok(needed)
}

/// A length or count as a `u32`; saturates, so that an absurd one is refused by who reads it.
pub(crate) fn len_u32(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}

/// A `u32` from the wire as a `usize`; saturates where a `usize` is smaller.
pub(crate) fn len_usize(len: u32) -> usize {
    usize::try_from(len).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Says that it has three rows and has one.
    struct Short(Option<u16>);

    impl Iterator for Short {
        type Item = [u8; 2];

        fn next(&mut self) -> Option<[u8; 2]> {
            self.0.take().map(u16::to_le_bytes)
        }

        fn size_hint(&self) -> (usize, Option<usize>) {
            (3, Some(3))
        }
    }

    impl ExactSizeIterator for Short {}

    #[test]
    fn missing_rows_are_zero_not_what_the_buffer_held() {
        let mut out = [0xA5; 8];
        assert_eq!(put_table(&[7_u8], Short(Some(1)), &mut out), Ok(7));
        assert_eq!(out, [7, 1, 0, 0, 0, 0, 0, 0xA5]);
    }
}
