//! `PROCESS_PATH`: which program a process runs.

use core::mem::offset_of;

use kext_types::{ProcessId, ProcessPath};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{RawHeader, open, open_fixed};
use crate::layout::{len_u32, len_usize, put};
use crate::{BufferTooSmall, ControlCode, DecodeError, DecodeErrorKind};

const CODE: ControlCode = ControlCode::ProcessPath;

/// Asks for the path of a process's program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessPathRequest {
    /// The number of the process; 0 is none, and not known.
    pub process_id: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    process_id: U64,
}

layout!(RawRequest: 24 { header: 0, process_id: 16 });

impl ProcessPathRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// The process; `None` if the number can never be one.
    pub const fn process(&self) -> Option<ProcessId> {
        ProcessId::new(self.process_id)
    }

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("PROCESS_PATH request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        Ok(Self {
            process_id: raw.process_id.get(),
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            process_id: U64::new(self.process_id),
        };
        put(&raw, out)
    }
}

/// The path of a process's program: a view of the message's bytes. That none is known is told by the request's status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessPathResponse<'a> {
    /// The path.
    pub path: ProcessPath<'a>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    len: U32,
    is_cut: u8,
    reserved: [u8; 3],
}

layout!(RawResponse: 24 { header: 0, len: 16, is_cut: 20, reserved: 21 });

impl<'a> ProcessPathResponse<'a> {
    /// The length of the part before the path in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The most that a response has.
    pub const MAX_LEN: usize = Self::FIXED_LEN + ProcessPath::MAX_LEN;

    /// Reads the message.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("PROCESS_PATH response");
        let (raw, rest) = open::<RawResponse>(place, CODE, bytes)?;
        let (len_at, len) = (offset_of!(RawResponse, len), raw.len.get());
        place.range("len", len_at, len, 0, len_u32(ProcessPath::MAX_LEN).into())?;
        let is_cut = u32::from(raw.is_cut);
        place.range("is_cut", offset_of!(RawResponse, is_cut), is_cut, 0, 1)?;
        place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;
        let actual = rest.len();
        let wrong = |expected| {
            let kind = DecodeErrorKind::Length { expected, actual };
            place.error("len", len_at, kind)
        };
        if len_usize(len) != actual {
            return Err(wrong(len_usize(len)));
        }
        if !actual.is_multiple_of(2) {
            // Half a unit at the end wants another byte.
            return Err(wrong(actual.saturating_add(1)));
        }
        Ok(Self {
            path: ProcessPath {
                utf16: rest,
                is_cut: is_cut == 1,
            },
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        write_path(self.path, out)
    }
}

/// Writes the answer of this path and gives its length.
pub fn write_path(path: ProcessPath<'_>, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
    let utf16 = path.utf16;
    let needed = ProcessPathResponse::FIXED_LEN.saturating_add(utf16.len());
    let slot = out
        .get_mut(ProcessPathResponse::FIXED_LEN..needed)
        .ok_or(BufferTooSmall { needed })?;
    slot.copy_from_slice(utf16);
    let raw = RawResponse {
        header: RawHeader::new(CODE, needed),
        len: U32::new(len_u32(utf16.len())),
        is_cut: path.is_cut.into(),
        reserved: [0; 3],
    };
    put(&raw, out)?;
    Ok(needed)
}
