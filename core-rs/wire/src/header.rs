//! The header of every extended message.

use core::mem::offset_of;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::layout::{len_u32, len_usize};
use crate::{ControlCode, DecodeError, DecodeErrorKind};

/// The first four bytes of every extended message, "PMKX".
pub const MAGIC: [u8; 4] = *b"PMKX";

/// The version of the extended interface that this crate speaks.
pub const VERSION: u16 = 1;

/// The length of the header in bytes.
pub const HEADER_LEN: usize = size_of::<RawHeader>();

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    magic: [u8; 4],
    version: U16,
    kind: U16,
    length: U32,
    reserved: [u8; 4],
}

layout!(RawHeader: 16 { magic: 0, version: 4, kind: 6, length: 8, reserved: 12 });

impl RawHeader {
    /// The header of a message of `length` bytes.
    pub(crate) fn new(code: ControlCode, length: usize) -> Self {
        Self {
            magic: MAGIC,
            version: U16::new(VERSION),
            kind: U16::new(code.function()),
            length: U32::new(len_u32(length)),
            reserved: [0; 4],
        }
    }
}

/// Checks the header and gives the fixed part of a message and what follows it.
pub(crate) fn open<T>(
    place: Place,
    code: ControlCode,
    bytes: &[u8],
) -> Result<(&T, &[u8]), DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let actual = bytes.len();
    let too_short = |needed| {
        let kind = DecodeErrorKind::TooShort { needed, actual };
        place.error("length", offset_of!(RawHeader, length), kind)
    };
    let (header, _) = RawHeader::ref_from_prefix(bytes).map_err(|_| too_short(HEADER_LEN))?;
    if header.magic != MAGIC {
        let offset = offset_of!(RawHeader, magic);
        return Err(place.error("magic", offset, DecodeErrorKind::Magic));
    }
    // Before the length: another version may count it in another way.
    if header.version.get() != VERSION {
        let kind = DecodeErrorKind::Version(header.version.get());
        return Err(place.error("version", offset_of!(RawHeader, version), kind));
    }
    if header.kind.get() != code.function() {
        let kind = DecodeErrorKind::Kind {
            expected: code.function(),
            actual: header.kind.get(),
        };
        return Err(place.error("kind", offset_of!(RawHeader, kind), kind));
    }
    exact(place, len_usize(header.length.get()), actual)?;
    place.reserved(offset_of!(RawHeader, reserved), &header.reserved)?;
    T::ref_from_prefix(bytes).map_err(|_| too_short(size_of::<T>()))
}

/// The same for a message that has no more than its fixed part.
pub(crate) fn open_fixed<T>(
    place: Place,
    code: ControlCode,
    bytes: &[u8],
) -> Result<&T, DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let (fixed, rest) = open::<T>(place, code, bytes)?;
    if rest.is_empty() {
        return Ok(fixed);
    }
    exact(place, size_of::<T>(), bytes.len())?;
    Ok(fixed)
}

/// The same for a message whose fixed part is followed by a table and nothing else; `count` reads
/// the number of rows from the fixed part and checks it.
pub(crate) fn open_table<T, R>(
    place: Place,
    code: ControlCode,
    bytes: &[u8],
    count: impl FnOnce(&T) -> Result<u32, DecodeError>,
) -> Result<(&T, &[R]), DecodeError>
where
    T: FromBytes + KnownLayout + Immutable + Unaligned,
    R: FromBytes + KnownLayout + Immutable + Unaligned,
{
    let (fixed, rest) = open::<T>(place, code, bytes)?;
    let table = len_usize(count(fixed)?).saturating_mul(size_of::<R>());
    let expected = size_of::<T>().saturating_add(table);
    exact(place, expected, bytes.len())?;
    // The length is a multiple of a row's, so this cannot fail.
    let rows = <[R]>::ref_from_bytes(rest).unwrap_or(&[]);
    Ok((fixed, rows))
}

/// Demands that a message has the length that it states.
fn exact(place: Place, expected: usize, actual: usize) -> Result<(), DecodeError> {
    if expected == actual {
        return Ok(());
    }
    let kind = DecodeErrorKind::Length { expected, actual };
    Err(place.error("length", offset_of!(RawHeader, length), kind))
}

/// A message of a header and nothing more: COUNTERS and `GET_CONFIG` requests.
pub(crate) fn decode_bare(
    place: Place,
    code: ControlCode,
    bytes: &[u8],
) -> Result<(), DecodeError> {
    open_fixed::<RawHeader>(place, code, bytes).map(|_| ())
}
