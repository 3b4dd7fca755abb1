//! `GET_CONNECTIONS_STATS`: traffic of flows.

use core::mem::offset_of;

use kext_types::FlowKey;
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::words::{Words, from_flag, from_words, to_flag, to_words};
use crate::error::Place;
use crate::layout::{len_usize, put};
use crate::{BufferTooSmall, DecodeError, DecodeErrorKind};

/// Asks for the traffic of flows since the last call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatsRequest {
    /// How many entries there is room for.
    pub room: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawStatsRequest {
    room: U32,
}

layout!(RawStatsRequest: 4 { room: 0 });

impl StatsRequest {
    /// The least length of the request in bytes.
    pub const LEN: usize = size_of::<RawStatsRequest>();

    /// Reads the first four of `bytes`; what follows is the room for the answer.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (raw, _) = RawStatsRequest::ref_from_prefix(bytes).map_err(|_| {
            let kind = DecodeErrorKind::TooShort {
                needed: Self::LEN,
                actual: bytes.len(),
            };
            Place::of("GET_CONNECTIONS_STATS request").error("length", 0, kind)
        })?;
        Ok(Self {
            room: raw.room.get(),
        })
    }

    /// Writes the request and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawStatsRequest {
            room: U32::new(self.room),
        };
        put(&raw, out)
    }

    /// The room in entries, if an output buffer of this many bytes has it.
    pub fn entries(&self, output_len: usize) -> Result<usize, BufferTooSmall> {
        let room = len_usize(self.room);
        let needed = room.saturating_mul(Connection::LEN);
        if needed <= output_len {
            Ok(room)
        } else {
            Err(BufferTooSmall { needed })
        }
    }
}

/// `PortmasterConnection`: the traffic of one flow since it was last reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Connection {
    /// The flow.
    pub flow: FlowKey,
    /// Bytes received, from the IP header on.
    pub received: u64,
    /// Bytes sent, from the IP header on.
    pub transmitted: u64,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawConnection {
    local: Words,
    remote: Words,
    local_port: U16,
    remote_port: U16,
    padding: [u8; 4],
    received: U64,
    transmitted: U64,
    ipv6: u8,
    protocol: u8,
    tail: [u8; 6],
}

layout!(RawConnection: 64 {
    local: 0, remote: 16, local_port: 32, remote_port: 34, padding: 36, received: 40,
    transmitted: 48, ipv6: 56, protocol: 57, tail: 58,
});

impl Connection {
    /// The structure's length in bytes.
    pub const LEN: usize = size_of::<RawConnection>();

    /// Writes the structure to the front of `out` and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let flow = &self.flow;
        let raw = RawConnection {
            local: to_words(flow.version, flow.local),
            remote: to_words(flow.version, flow.remote),
            local_port: U16::new(flow.local_port),
            remote_port: U16::new(flow.remote_port),
            padding: [0; 4],
            received: U64::new(self.received),
            transmitted: U64::new(self.transmitted),
            ipv6: to_flag(flow.version),
            protocol: flow.protocol,
            tail: [0; 6],
        };
        put(&raw, out)
    }

    /// Writes the structure as entry `index` of the answer in `out`. If there is no room for it,
    /// nothing is written; the length needed is that of the answer up to this entry.
    pub fn encode_at(&self, out: &mut [u8], index: usize) -> Result<(), BufferTooSmall> {
        let start = index.saturating_mul(Self::LEN);
        let needed = start.saturating_add(Self::LEN);
        let slot = out
            .get_mut(start..needed)
            .ok_or(BufferTooSmall { needed })?;
        self.encode(slot).map(|_| ())
    }

    fn read(place: Place, raw: &RawConnection) -> Result<Self, DecodeError> {
        let version = from_flag(place, offset_of!(RawConnection, ipv6), raw.ipv6)?;
        Ok(Self {
            flow: FlowKey {
                local: from_words(version, raw.local),
                remote: from_words(version, raw.remote),
                local_port: raw.local_port.get(),
                remote_port: raw.remote_port.get(),
                version,
                protocol: raw.protocol,
            },
            received: raw.received.get(),
            transmitted: raw.transmitted.get(),
        })
    }
}

/// The entries of an answer, which must be whole entries; each is an error of its own if its
/// flag is neither 0 nor 1.
pub fn connections(
    bytes: &[u8],
) -> Result<impl ExactSizeIterator<Item = Result<Connection, DecodeError>> + '_, DecodeError> {
    let place = Place::of("GET_CONNECTIONS_STATS answer");
    let rows = <[RawConnection]>::ref_from_bytes(bytes).map_err(|_| {
        let whole = bytes.len() / Connection::LEN;
        let kind = DecodeErrorKind::Length {
            expected: whole.saturating_mul(Connection::LEN),
            actual: bytes.len(),
        };
        place.error("length", 0, kind)
    })?;
    Ok(rows
        .iter()
        .enumerate()
        .map(move |(index, raw)| Connection::read(place.row(0, index, Connection::LEN), raw)))
}
