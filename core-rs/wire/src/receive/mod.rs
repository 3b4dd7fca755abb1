//! RECEIVE: verdict requests in batches, with payload.

mod record;
mod writer;

pub use record::ReceivedRequest;
pub use writer::ReceiveWriter;

use core::mem::offset_of;

use zerocopy::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use self::record::RawRecord;
use crate::error::Place;
use crate::header::{RawHeader, open, open_fixed};
use crate::layout::{len_u32, len_usize, put};
use crate::{BufferTooSmall, ControlCode, DecodeError, MAX_BATCH};

const CODE: ControlCode = ControlCode::Receive;

/// The number for "all of it" and "without limit".
const ALL: u32 = u32::MAX;

/// How much of each packet a receive brings along.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PayloadMode {
    /// Nothing.
    None,
    /// The first bytes, 1 to 4,294,967,294; of 0 bytes the number is that of
    /// [`PayloadMode::None`].
    First(u32),
    /// All of it.
    Whole,
}

impl PayloadMode {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        match self {
            Self::None => 0,
            Self::First(bytes) => bytes,
            Self::Whole => ALL,
        }
    }

    /// The mode with this number; every number is one.
    pub const fn from_number(number: u32) -> Self {
        match number {
            0 => Self::None,
            ALL => Self::Whole,
            bytes => Self::First(bytes),
        }
    }

    /// How many bytes of a packet of `held` bytes are brought along.
    pub fn len_of(self, held: usize) -> usize {
        match self {
            Self::None => 0,
            Self::First(bytes) => held.min(len_usize(bytes)),
            Self::Whole => held,
        }
    }
}

/// What a client is ready to receive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceiveRequest {
    /// The most requests wanted, 1 to [`MAX_BATCH`].
    pub max_requests: u32,
    /// How much of each packet is wanted.
    pub payload: PayloadMode,
    /// The longest wait for the first request in milliseconds, 0 not to wait at all; `None` to
    /// wait without limit (as 4,294,967,295 does).
    pub wait_ms: Option<u32>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    max_requests: U32,
    payload: U32,
    wait_ms: U32,
    reserved: [u8; 4],
}

layout!(RawRequest: 32 { header: 0, max_requests: 16, payload: 20, wait_ms: 24, reserved: 28 });

impl ReceiveRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("RECEIVE request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        let max_requests = raw.max_requests.get();
        let offset = offset_of!(RawRequest, max_requests);
        place.range("max_requests", offset, max_requests, 1, MAX_BATCH.into())?;
        place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
        Ok(Self {
            max_requests,
            payload: PayloadMode::from_number(raw.payload.get()),
            wait_ms: Some(raw.wait_ms.get()).filter(|ms| *ms != ALL),
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            max_requests: U32::new(self.max_requests),
            payload: U32::new(self.payload.number()),
            wait_ms: U32::new(self.wait_ms.unwrap_or(ALL)),
            reserved: [0; 4],
        };
        put(&raw, out)
    }
}

/// What was received: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct ReceiveResponse<'a> {
    message: &'a [u8],
    records: &'a [RawRecord],
    queued: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    count: U32,
    queued: U32,
    payload_start: U32,
    reserved: [u8; 4],
}

layout!(RawResponse: 32 { header: 0, count: 16, queued: 20, payload_start: 24, reserved: 28 });

impl<'a> ReceiveResponse<'a> {
    /// The length of the part before the records in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The length of a record in bytes.
    pub const RECORD_LEN: usize = size_of::<RawRecord>();

    /// The shortest output buffer that RECEIVE accepts, in bytes.
    pub const MIN_OUTPUT: usize = Self::FIXED_LEN + Self::RECORD_LEN;

    /// Reads the message and checks every record.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("RECEIVE response");
        let (raw, rest) = open::<RawResponse>(place, CODE, bytes)?;
        let offset = offset_of!(RawResponse, count);
        place.range("count", offset, raw.count.get(), 0, MAX_BATCH.into())?;
        place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;

        let table_len = len_usize(raw.count.get()).saturating_mul(Self::RECORD_LEN);
        let table_end = Self::FIXED_LEN.saturating_add(table_len);
        let payload_start = len_usize(raw.payload_start.get());
        let (table, rest) = rest.split_at_checked(table_len).ok_or_else(|| {
            let kind = crate::DecodeErrorKind::TooShort {
                needed: table_end,
                actual: bytes.len(),
            };
            place.error("count", offset, kind)
        })?;
        place.range(
            "payload_start",
            offset_of!(RawResponse, payload_start),
            raw.payload_start.get(),
            u64::from(len_u32(table_end)),
            u64::from(len_u32(bytes.len())),
        )?;
        let gap_len = payload_start.saturating_sub(table_end);
        place.reserved(table_end, rest.get(..gap_len).unwrap_or(rest))?;

        // The table is a multiple of a record's length, so this cannot fail.
        let records = <[RawRecord]>::ref_from_bytes(table).unwrap_or(&[]);
        // Bounded by MAX_BATCH.
        for (index, record) in records.iter().enumerate() {
            record.read(
                place.row(Self::FIXED_LEN, index, Self::RECORD_LEN),
                payload_start..bytes.len(),
            )?;
        }
        Ok(Self {
            message: bytes,
            records,
            queued: raw.queued.get(),
        })
    }

    /// How many requests there are; 0 if the wait ended.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether the wait ended without a request.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many requests were still queued.
    pub const fn queued(&self) -> u32 {
        self.queued
    }

    /// How many bytes the part with the payload has: all payload, and what may lie between.
    pub fn payload_len(&self) -> usize {
        let table = self.records.len().saturating_mul(Self::RECORD_LEN);
        let before = Self::FIXED_LEN.saturating_add(table);
        self.message.len().saturating_sub(before)
    }

    /// The requests, in order, each with the payload that it brings (empty if none).
    pub fn iter(&self) -> impl Iterator<Item = (ReceivedRequest, &'a [u8])> + use<'a> {
        let Self {
            message, records, ..
        } = *self;
        // All were read once without an error; none is left out here.
        records.iter().filter_map(move |record| {
            let place = Place::of("RECEIVE response");
            let (request, range) = record.read(place, 0..message.len()).ok()?;
            Some((request, message.get(range).unwrap_or(&[])))
        })
    }
}
