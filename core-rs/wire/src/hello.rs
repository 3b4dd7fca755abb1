//! HELLO: version, features, capacities.

use core::mem::offset_of;

use kext_types::{Capacities, MAX_PACKET_LEN};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{RawHeader, open_fixed};
use crate::layout::put;
use crate::{BufferTooSmall, ControlCode, DecodeError, MAX_BATCH, Status, VERSION};

const CODE: ControlCode = ControlCode::Hello;

/// A set of features; bits that this crate does not know are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct Features(pub u64);

impl Features {
    /// None at all.
    pub const NONE: Self = Self(0);
    /// RECEIVE may bring payload.
    pub const RECEIVE_PAYLOAD: Self = Self(1 << 0);
    /// `LIST_FLOWS`.
    pub const LIST_FLOWS: Self = Self(1 << 1);
    /// `SET_CONFIG`.
    pub const SET_CONFIG: Self = Self(1 << 2);
    /// `EVENTS`.
    pub const EVENTS: Self = Self(1 << 3);
    /// `PROCESS_PATH`.
    pub const PROCESS_PATH: Self = Self(1 << 4);
    /// Every feature that this crate knows.
    pub const ALL: Self = Self(0b1_1111);

    /// Whether every feature of `other` is in this set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The features of either set.
    #[must_use]
    pub const fn union(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The features of this set that are not in `other`.
    #[must_use]
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// What has the packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum HostKind {
    /// The Windows filtering platform.
    Wfp = 0,
    /// Captured packets.
    Replay = 1,
    /// Linux netfilter queues.
    NfQueue = 2,
}

impl HostKind {
    /// The number on the wire.
    pub const fn number(self) -> u32 {
        self as u32
    }

    /// The host with this number, if there is one.
    pub const fn from_number(number: u32) -> Option<Self> {
        match number {
            0 => Some(Self::Wfp),
            1 => Some(Self::Replay),
            2 => Some(Self::NfQueue),
            _ => None,
        }
    }
}

/// What a client speaks and wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloRequest {
    /// The lowest version that the client speaks.
    pub lowest: u16,
    /// The highest version that the client speaks, not below the lowest.
    pub highest: u16,
    /// The features that the client cannot do without.
    pub wanted: Features,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    lowest: U16,
    highest: U16,
    reserved: [u8; 4],
    wanted: U64,
}

layout!(RawRequest: 32 { header: 0, lowest: 16, highest: 18, reserved: 20, wanted: 24 });

impl HelloRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// Reads the message. Unknown features are kept; [`HelloRequest::agree`] refuses them.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("HELLO request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        let (lowest, highest) = (raw.lowest.get(), raw.highest.get());
        let offset = offset_of!(RawRequest, highest);
        place.range("highest", offset, highest, lowest.into(), u16::MAX.into())?;
        place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
        Ok(Self {
            lowest,
            highest,
            wanted: Features(raw.wanted.get()),
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            lowest: U16::new(self.lowest),
            highest: U16::new(self.highest),
            reserved: [0; 4],
            wanted: U64::new(self.wanted.0),
        };
        put(&raw, out)
    }

    /// The version to use with an extension that offers these features, or the status that
    /// refuses: [`Status::REVISION_MISMATCH`], [`Status::NOT_SUPPORTED`].
    pub fn agree(&self, offered: Features) -> Result<u16, Status> {
        if !(self.lowest..=self.highest).contains(&VERSION) {
            return Err(Status::REVISION_MISMATCH);
        }
        if !offered.contains(self.wanted) {
            return Err(Status::NOT_SUPPORTED);
        }
        Ok(VERSION)
    }
}

/// What the extension is and can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloResponse {
    /// The version to use.
    pub version: u16,
    /// The extension's own version: major, minor, patch.
    pub extension: [u8; 3],
    /// What it offers.
    pub offered: Features,
    /// What it can hold.
    pub capacities: Capacities,
    /// The most requests or verdicts in one message.
    pub max_batch: u32,
    /// The largest packet in bytes.
    pub max_packet: u32,
    /// What has the packets.
    pub host: HostKind,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    version: U16,
    reserved: [u8; 2],
    extension: [u8; 3],
    extension_zero: [u8; 1],
    offered: U64,
    flows: U32,
    packets: U32,
    packet_bytes: U32,
    flow_packets: U32,
    fragments: U32,
    max_batch: U32,
    max_packet: U32,
    host: U32,
}

layout!(RawResponse: 64 {
    header: 0, version: 16, reserved: 18, extension: 20, extension_zero: 23, offered: 24,
    flows: 32, packets: 36, packet_bytes: 40, flow_packets: 44, fragments: 48, max_batch: 52,
    max_packet: 56, host: 60,
});

impl HelloResponse {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawResponse>();

    /// The answer of an extension of this interface.
    pub const fn new(
        extension: [u8; 3],
        offered: Features,
        capacities: Capacities,
        host: HostKind,
    ) -> Self {
        Self {
            version: VERSION,
            extension,
            offered,
            capacities,
            max_batch: MAX_BATCH,
            max_packet: MAX_PACKET_LEN as u32,
            host,
        }
    }

    /// Reads the message. Features that this crate does not know are kept.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("HELLO response");
        let raw = open_fixed::<RawResponse>(place, CODE, bytes)?;
        place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;
        let offset = offset_of!(RawResponse, extension_zero);
        place.reserved(offset, &raw.extension_zero)?;
        let host = HostKind::from_number(raw.host.get())
            .ok_or_else(|| place.unknown("host", offset_of!(RawResponse, host), raw.host.get()))?;
        Ok(Self {
            version: raw.version.get(),
            extension: raw.extension,
            offered: Features(raw.offered.get()),
            capacities: Capacities {
                flows: raw.flows.get(),
                packets: raw.packets.get(),
                packet_bytes: raw.packet_bytes.get(),
                flow_packets: raw.flow_packets.get(),
                fragments: raw.fragments.get(),
            },
            max_batch: raw.max_batch.get(),
            max_packet: raw.max_packet.get(),
            host,
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let capacities = &self.capacities;
        let raw = RawResponse {
            header: RawHeader::new(CODE, Self::LEN),
            version: U16::new(self.version),
            reserved: [0; 2],
            extension: self.extension,
            extension_zero: [0],
            offered: U64::new(self.offered.0),
            flows: U32::new(capacities.flows),
            packets: U32::new(capacities.packets),
            packet_bytes: U32::new(capacities.packet_bytes),
            flow_packets: U32::new(capacities.flow_packets),
            fragments: U32::new(capacities.fragments),
            max_batch: U32::new(self.max_batch),
            max_packet: U32::new(self.max_packet),
            host: U32::new(self.host.number()),
        };
        put(&raw, out)
    }
}

const _: () = assert!(MAX_PACKET_LEN == 65_575);

#[cfg(test)]
mod tests {
    use super::*;

    fn request(lowest: u16, highest: u16, wanted: u64) -> HelloRequest {
        HelloRequest {
            lowest,
            highest,
            wanted: Features(wanted),
        }
    }

    #[test]
    fn versions_and_features_are_agreed_or_refused() {
        let offered = Features::ALL.without(Features::SET_CONFIG);
        assert_eq!(request(0, 9, 0b011).agree(offered), Ok(1));
        assert_eq!(
            request(2, 9, 0).agree(offered),
            Err(Status::REVISION_MISMATCH)
        );
        assert_eq!(
            request(0, 0, 0).agree(offered),
            Err(Status::REVISION_MISMATCH)
        );
        for unknown in [0b100, 1 << 5, 1 << 63] {
            assert_eq!(
                request(1, 1, unknown).agree(offered),
                Err(Status::NOT_SUPPORTED)
            );
        }
    }
}
