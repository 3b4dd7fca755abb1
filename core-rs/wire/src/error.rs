//! What can be wrong with a message, and where.

use core::fmt;

use crate::Status;

/// A message that cannot be read: what is wrong, in which message, field and byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DecodeError {
    /// What is wrong.
    pub kind: DecodeErrorKind,
    /// The message, such as "RECEIVE request".
    pub message: &'static str,
    /// The field; "length" where the message as a whole is too short or too long.
    pub field: &'static str,
    /// Where the field begins, in bytes from the start of the message.
    pub offset: usize,
}

/// What is wrong with a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecodeErrorKind {
    /// The message has fewer bytes than it needs.
    TooShort {
        /// Bytes needed at least.
        needed: usize,
        /// Bytes there.
        actual: usize,
    },
    /// The message has another length than its kind, its count or its own length field state.
    Length {
        /// Bytes stated.
        expected: usize,
        /// Bytes there.
        actual: usize,
    },
    /// The first four bytes are not the magic.
    Magic,
    /// The version is not spoken.
    Version(u16),
    /// The message is of another kind.
    Kind {
        /// The function number expected.
        expected: u16,
        /// The function number found.
        actual: u16,
    },
    /// A reserved byte is not zero.
    Reserved,
    /// A number is outside its range.
    OutOfRange {
        /// The number.
        value: u64,
        /// The smallest allowed.
        min: u64,
        /// The largest allowed.
        max: u64,
    },
    /// A number stands for nothing.
    Unknown(i64),
    /// An address of an IPv4 flow is not in the mapped form.
    NotMapped,
}

impl DecodeError {
    /// The status that a request with this mistake is answered with.
    pub const fn status(&self) -> Status {
        match self.kind {
            DecodeErrorKind::TooShort { .. } | DecodeErrorKind::Length { .. } => {
                Status::INFO_LENGTH_MISMATCH
            }
            DecodeErrorKind::Version(_) => Status::REVISION_MISMATCH,
            DecodeErrorKind::Magic
            | DecodeErrorKind::Kind { .. }
            | DecodeErrorKind::Reserved
            | DecodeErrorKind::OutOfRange { .. }
            | DecodeErrorKind::Unknown(_)
            | DecodeErrorKind::NotMapped => Status::INVALID_PARAMETER,
        }
    }
}

impl fmt::Display for DecodeErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::TooShort { needed, actual } => {
                write!(f, "{actual} bytes, and {needed} are needed")
            }
            Self::Length { expected, actual } => {
                write!(f, "{actual} bytes, and there must be {expected}")
            }
            Self::Magic => f.write_str("not the bytes 50 4D 4B 58"),
            Self::Version(version) => write!(f, "version {version} is not spoken"),
            Self::Kind { expected, actual } => {
                write!(f, "0x{actual:x} is not the kind 0x{expected:x}")
            }
            Self::Reserved => f.write_str("reserved, and not zero"),
            Self::OutOfRange { value, min, max } => {
                write!(f, "{value} is not in {min}..={max}")
            }
            Self::Unknown(value) => write!(f, "{value} stands for nothing"),
            Self::NotMapped => f.write_str("not an IPv4 address in its mapped form"),
        }
    }
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            kind,
            message,
            field,
            offset,
        } = self;
        write!(f, "{message}: field `{field}` at byte {offset}: {kind}")
    }
}

impl core::error::Error for DecodeError {}

impl From<DecodeError> for Status {
    fn from(error: DecodeError) -> Self {
        error.status()
    }
}

/// An output buffer that cannot hold a message; it was not touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferTooSmall {
    /// Bytes needed.
    pub needed: usize,
}

impl BufferTooSmall {
    /// [`Status::BUFFER_TOO_SMALL`].
    pub const fn status(&self) -> Status {
        Status::BUFFER_TOO_SMALL
    }
}

impl fmt::Display for BufferTooSmall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the output buffer must hold {} bytes", self.needed)
    }
}

impl core::error::Error for BufferTooSmall {}

impl From<BufferTooSmall> for Status {
    fn from(error: BufferTooSmall) -> Self {
        error.status()
    }
}

/// Where in which message a decoder is: builds its errors.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// The message.
    pub(crate) message: &'static str,
    /// Where the structure being read begins in it.
    pub(crate) base: usize,
}

impl Place {
    /// The front of a message.
    pub(crate) const fn of(message: &'static str) -> Self {
        Self { message, base: 0 }
    }

    /// The row `index` of a table of rows of `size` bytes that begins at `start`.
    pub(crate) const fn row(self, start: usize, index: usize, size: usize) -> Self {
        Self {
            message: self.message,
            base: start.saturating_add(index.saturating_mul(size)),
        }
    }

    /// An error in a field that is `offset` bytes into the structure.
    pub(crate) const fn error(
        self,
        field: &'static str,
        offset: usize,
        kind: DecodeErrorKind,
    ) -> DecodeError {
        DecodeError {
            kind,
            message: self.message,
            field,
            offset: self.base.saturating_add(offset),
        }
    }

    /// The error for a number that stands for nothing.
    pub(crate) fn unknown(
        self,
        field: &'static str,
        offset: usize,
        value: impl Into<i64>,
    ) -> DecodeError {
        self.error(field, offset, DecodeErrorKind::Unknown(value.into()))
    }

    /// Demands that reserved bytes are zero.
    pub(crate) fn reserved(self, offset: usize, bytes: &[u8]) -> Result<(), DecodeError> {
        if bytes.iter().all(|byte| *byte == 0) {
            Ok(())
        } else {
            Err(self.error("reserved", offset, DecodeErrorKind::Reserved))
        }
    }

    /// Demands that a number is in its range.
    pub(crate) fn range(
        self,
        field: &'static str,
        offset: usize,
        value: impl Into<u64>,
        min: u64,
        max: u64,
    ) -> Result<(), DecodeError> {
        let value = value.into();
        if (min..=max).contains(&value) {
            return Ok(());
        }
        let kind = DecodeErrorKind::OutOfRange { value, min, max };
        Err(self.error(field, offset, kind))
    }

    /// Demands the exact length of a message.
    pub(crate) fn length(self, expected: usize, actual: usize) -> Result<(), DecodeError> {
        if expected == actual {
            return Ok(());
        }
        // The field of the extended header; v1 structures have none, and the place says 0.
        let kind = DecodeErrorKind::Length { expected, actual };
        Err(self.error("length", 0, kind))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::string::ToString;

    use super::*;

    #[test]
    fn an_error_says_what_and_where() {
        let place = Place::of("RECEIVE request");
        let error = place
            .range("max_requests", 16, 0_u32, 1, 4_096)
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "RECEIVE request: field `max_requests` at byte 16: 0 is not in 1..=4096"
        );
        assert_eq!(error.status(), Status::INVALID_PARAMETER);
    }

    #[test]
    fn rows_have_offsets_of_the_message() {
        let row = Place::of("X").row(24, 3, 16);
        assert_eq!(row.reserved(9, &[0, 1]).unwrap_err().offset, 24 + 48 + 9);
    }

    #[test]
    fn statuses_are_those_of_the_document() {
        let status = |kind| Place::of("X").error("f", 0, kind).status();
        let (expected, actual) = (1, 2);
        assert_eq!(
            status(DecodeErrorKind::Length { expected, actual }),
            Status::INFO_LENGTH_MISMATCH
        );
        assert_eq!(
            status(DecodeErrorKind::Version(2)),
            Status::REVISION_MISMATCH
        );
        assert_eq!(status(DecodeErrorKind::Magic), Status::INVALID_PARAMETER);
        assert_eq!(
            BufferTooSmall { needed: 5 }.status(),
            Status::BUFFER_TOO_SMALL
        );
    }
}
