//! `READ_PAYLOAD`: the bytes of a held packet.

use core::mem::offset_of;

use kext_types::{PacketId, VerdictOutcome};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{RawHeader, open, open_fixed};
use crate::layout::{len_u32, len_usize, put};
use crate::verdicts::{Outcome, RawOutcome};
use crate::{BufferTooSmall, ControlCode, DecodeError, DecodeErrorKind};

const CODE: ControlCode = ControlCode::ReadPayload;

/// Asks for the bytes of a held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPayloadRequest {
    /// The number of the packet's id; one that can never be an id has the outcome "unknown id".
    pub id: u64,
    /// The most bytes wanted; `None` for all of them (as 4,294,967,295 does).
    pub max: Option<u32>,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    id: U64,
    max: U32,
    reserved: [u8; 4],
}

layout!(RawRequest: 32 { header: 0, id: 16, max: 24, reserved: 28 });

impl ReadPayloadRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// The packet's id; `None` if the number can never be one.
    pub const fn packet_id(&self) -> Option<PacketId> {
        PacketId::new(self.id)
    }

    /// How many bytes are wanted of a packet of which `held` bytes are held.
    pub fn len_of(&self, held: usize) -> usize {
        self.max.map_or(held, |max| held.min(len_usize(max)))
    }

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("READ_PAYLOAD request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
        Ok(Self {
            id: raw.id.get(),
            max: Some(raw.max.get()).filter(|max| *max != u32::MAX),
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            id: U64::new(self.id),
            max: U32::new(self.max.unwrap_or(u32::MAX)),
            reserved: [0; 4],
        };
        put(&raw, out)
    }
}

/// The bytes of a packet, or what became of it: a view of the message's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReadPayloadResponse<'a> {
    /// [`VerdictOutcome::Applied`] (0) stands for "held"; else what became of the packet.
    pub outcome: Outcome,
    /// The packet's size in bytes by its IP header; 0 if it is not held.
    pub packet_size: u32,
    /// The first bytes of the packet, from the IP header on; empty if it is not held.
    pub bytes: &'a [u8],
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    outcome: RawOutcome,
    len: U32,
    packet_size: U32,
    reserved: [u8; 4],
}

layout!(RawResponse: 32 { header: 0, outcome: 16, len: 20, packet_size: 24, reserved: 28 });

impl<'a> ReadPayloadResponse<'a> {
    /// The length of the part before the packet's bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The answer for a packet that is not held.
    pub const fn not_held(outcome: Outcome) -> Self {
        Self {
            outcome,
            packet_size: 0,
            bytes: &[],
        }
    }

    /// Reads the message. Only a packet that is held may have bytes.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("READ_PAYLOAD response");
        let (raw, rest) = open::<RawResponse>(place, CODE, bytes)?;
        let outcome = raw.outcome.read(place, offset_of!(RawResponse, outcome))?;
        let (len_at, len) = (offset_of!(RawResponse, len), raw.len.get());
        if outcome.outcome != VerdictOutcome::Applied {
            place.range("len", len_at, len, 0, 0)?;
            let size_at = offset_of!(RawResponse, packet_size);
            place.range("packet_size", size_at, raw.packet_size.get(), 0, 0)?;
        }
        if len_usize(len) != rest.len() {
            let kind = DecodeErrorKind::Length {
                expected: len_usize(len),
                actual: rest.len(),
            };
            return Err(place.error("len", len_at, kind));
        }
        place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;
        Ok(Self {
            outcome,
            packet_size: raw.packet_size.get(),
            bytes: rest,
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        write(
            out,
            self.outcome,
            self.packet_size,
            self.bytes.len(),
            |slot| {
                let _ = self.bytes.write_to(slot);
                slot.len()
            },
        )
    }
}

/// Writes the answer for a held packet of `packet_size` bytes by its header and gives the answer's
/// length. `fill` is given a slice of `len` bytes and says how many of its first it has written.
/// Without room it is not called and nothing is written.
pub fn write_held(
    out: &mut [u8],
    packet_size: u32,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> usize,
) -> Result<usize, BufferTooSmall> {
    write(out, VerdictOutcome::Applied.into(), packet_size, len, fill)
}

fn write(
    out: &mut [u8],
    outcome: Outcome,
    packet_size: u32,
    len: usize,
    fill: impl FnOnce(&mut [u8]) -> usize,
) -> Result<usize, BufferTooSmall> {
    const FIXED: usize = ReadPayloadResponse::FIXED_LEN;
    let needed = FIXED.saturating_add(len);
    let slot = out
        .get_mut(FIXED..needed)
        .ok_or(BufferTooSmall { needed })?;
    let len = fill(slot).min(len);
    let length = FIXED.saturating_add(len);
    let raw = RawResponse {
        header: RawHeader::new(CODE, length),
        outcome: RawOutcome::from(outcome),
        len: U32::new(len_u32(len)),
        packet_size: U32::new(packet_size),
        reserved: [0; 4],
    };
    put(&raw, out)?;
    Ok(length)
}
