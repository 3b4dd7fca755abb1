//! `SET_VERDICT`, `GET_PAYLOAD` and `UPDATE_VERDICT`: what v1 asks.

use core::mem::offset_of;

use kext_types::{Decision, FlowKey, Verdict};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::exact;
use super::words::{Words, from_flag, from_words, to_flag, to_words};
use crate::error::Place;
use crate::layout::put;
use crate::{BufferTooSmall, DecodeError};

/// `PortmasterVerdictInfo`: the verdict for a held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictInfo {
    /// The packet's name in v1.
    pub id: u32,
    /// The verdict number; what was decoded is 0 or that of a [`Decision`], unless the id is 0.
    pub number: i8,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVerdictInfo {
    id: U32,
    verdict: i8,
    padding: [u8; 3],
}

layout!(RawVerdictInfo: 8 { id: 0, verdict: 4, padding: 5 });

impl VerdictInfo {
    /// The structure's length in bytes.
    pub const LEN: usize = size_of::<RawVerdictInfo>();

    /// Reads the structure; it must be the whole of `bytes`. A number that is no verdict is an
    /// error, except where the request is to be ignored.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("PortmasterVerdictInfo");
        let raw = exact::<RawVerdictInfo>(place, bytes)?;
        let info = Self {
            id: raw.id.get(),
            number: raw.verdict,
        };
        if info.is_ignored() || Decision::from_number(info.number).is_some() {
            return Ok(info);
        }
        let offset = offset_of!(RawVerdictInfo, verdict);
        Err(place.unknown("verdict", offset, info.number))
    }

    /// Id 0 or verdict 0: v1 answers success and does nothing.
    pub const fn is_ignored(&self) -> bool {
        self.id == 0 || self.number == 0
    }

    /// What is to happen; `None` if the request is to be ignored.
    pub const fn decision(&self) -> Option<Decision> {
        if self.is_ignored() {
            return None;
        }
        Decision::from_number(self.number)
    }

    /// Writes the structure and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawVerdictInfo {
            id: U32::new(self.id),
            verdict: self.number,
            padding: [0; 3],
        };
        put(&raw, out)
    }
}

/// `PortmasterPayload`: asks for the bytes of a held packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadRequest {
    /// The packet's name in v1.
    pub id: u32,
    /// The packet's length in bytes, from the IP header on.
    pub len: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPayload {
    id: U32,
    len: U32,
}

layout!(RawPayload: 8 { id: 0, len: 4 });

impl PayloadRequest {
    /// The structure's length in bytes.
    pub const LEN: usize = size_of::<RawPayload>();

    /// Reads the structure; it must be the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let raw = exact::<RawPayload>(Place::of("PortmasterPayload"), bytes)?;
        Ok(Self {
            id: raw.id.get(),
            len: raw.len.get(),
        })
    }

    /// Writes the structure and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawPayload {
            id: U32::new(self.id),
            len: U32::new(self.len),
        };
        put(&raw, out)
    }
}

/// `VerdictUpdateInfo`: replaces the cached verdict of a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictUpdate {
    /// The flow.
    pub flow: FlowKey,
    /// Its new verdict.
    pub verdict: Verdict,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawVerdictUpdate {
    local: Words,
    remote: Words,
    local_port: U16,
    remote_port: U16,
    ipv6: u8,
    protocol: u8,
    verdict: i8,
    padding: u8,
}

layout!(RawVerdictUpdate: 40 {
    local: 0, remote: 16, local_port: 32, remote_port: 34, ipv6: 36, protocol: 37, verdict: 38,
    padding: 39,
});

impl VerdictUpdate {
    /// The structure's length in bytes.
    pub const LEN: usize = size_of::<RawVerdictUpdate>();

    /// Reads the structure; it must be the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("VerdictUpdateInfo");
        let raw = exact::<RawVerdictUpdate>(place, bytes)?;
        let version = from_flag(place, offset_of!(RawVerdictUpdate, ipv6), raw.ipv6)?;
        // A negative number is for one packet, and here there is none.
        let verdict = u8::try_from(raw.verdict)
            .ok()
            .and_then(Verdict::from_number)
            .ok_or_else(|| {
                let offset = offset_of!(RawVerdictUpdate, verdict);
                place.unknown("verdict", offset, raw.verdict)
            })?;
        Ok(Self {
            flow: FlowKey {
                local: from_words(version, raw.local),
                remote: from_words(version, raw.remote),
                local_port: raw.local_port.get(),
                remote_port: raw.remote_port.get(),
                version,
                protocol: raw.protocol,
            },
            verdict,
        })
    }

    /// Writes the structure and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let flow = &self.flow;
        let decision = Decision {
            verdict: self.verdict,
            permanent: true,
        };
        let raw = RawVerdictUpdate {
            local: to_words(flow.version, flow.local),
            remote: to_words(flow.version, flow.remote),
            local_port: U16::new(flow.local_port),
            remote_port: U16::new(flow.remote_port),
            ipv6: to_flag(flow.version),
            protocol: flow.protocol,
            verdict: decision.number(),
            padding: 0,
        };
        put(&raw, out)
    }
}
