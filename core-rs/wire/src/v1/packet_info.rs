//! VERSION and `RECV_VERDICT_REQ`: what v1 tells.

use core::mem::offset_of;

use kext_types::{Direction, FlowKey, Interface, ProcessId, RequestInfo};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::exact;
use super::words::{Words, from_flag, from_words, to_flag, to_words};
use crate::error::Place;
use crate::layout::put;
use crate::{BufferTooSmall, DecodeError};

/// The answer to VERSION.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned,
)]
#[repr(C)]
pub struct VersionAnswer {
    /// 1 is the v1 interface.
    pub major: u8,
    /// Grows with additions.
    pub minor: u8,
    /// Grows with corrections.
    pub revision: u8,
    /// Number of the build, 0 for released ones.
    pub build: u8,
}

layout!(VersionAnswer: 4 { major: 0, minor: 1, revision: 2, build: 3 });

impl VersionAnswer {
    /// The answer's length in bytes.
    pub const LEN: usize = size_of::<Self>();

    /// What this extension answers.
    pub const CURRENT: Self = Self {
        major: 1,
        minor: 2,
        revision: 0,
        build: 0,
    };

    /// Reads the answer; it must be the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        exact::<Self>(Place::of("VERSION answer"), bytes).copied()
    }

    /// Writes the answer and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        put(self, out)
    }
}

/// `PortmasterPacketInfo`: a verdict request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PacketInfo {
    /// The packet's name in v1; 0 for a notice that wants no verdict.
    pub id: u32,
    /// The process that the packet belongs to, if known.
    pub process_id: Option<ProcessId>,
    /// Which way the packet goes.
    pub direction: Direction,
    /// The flow that it belongs to.
    pub flow: FlowKey,
    /// [`PacketInfo::FAST_TRACKED`], [`PacketInfo::SOCKET_AUTH`]; 0 for a held packet.
    pub flags: u8,
    /// The network compartment.
    pub compartment: u32,
    /// Where the packet enters or leaves.
    pub interface: Interface,
    /// The packet's size in bytes, from the IP header on.
    pub packet_size: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawPacketInfo {
    id: U32,
    padding: [u8; 4],
    process_id: U64,
    direction: u8,
    ipv6: u8,
    protocol: u8,
    flags: u8,
    local: Words,
    remote: Words,
    local_port: U16,
    remote_port: U16,
    compartment: U32,
    interface_index: U32,
    sub_interface_index: U32,
    packet_size: U32,
}

layout!(RawPacketInfo: 72 {
    id: 0, padding: 4, process_id: 8, direction: 16, ipv6: 17, protocol: 18, flags: 19,
    local: 20, remote: 36, local_port: 52, remote_port: 54, compartment: 56,
    interface_index: 60, sub_interface_index: 64, packet_size: 68,
});

impl PacketInfo {
    /// The structure's length in bytes.
    pub const LEN: usize = size_of::<RawPacketInfo>();

    /// Flag: the packet was accepted already.
    pub const FAST_TRACKED: u8 = 0x01;

    /// Flag: a notice of the process that a socket belongs to.
    pub const SOCKET_AUTH: u8 = 0x02;

    /// What v1 tells of a held packet.
    ///
    /// The size is the number of bytes held, since `GET_PAYLOAD` must be asked for exactly as many
    /// as this says.
    pub fn from_request(request: &RequestInfo) -> Self {
        Self {
            id: request.id.v1(),
            process_id: request.arrival.process_id,
            direction: request.arrival.direction,
            flow: request.flow,
            flags: 0,
            compartment: request.arrival.compartment,
            interface: request.arrival.interface,
            packet_size: request.held_len,
        }
    }

    /// Reads the structure; it must be the whole of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("PortmasterPacketInfo");
        let raw = exact::<RawPacketInfo>(place, bytes)?;
        let direction = Direction::from_number(raw.direction).ok_or_else(|| {
            let offset = offset_of!(RawPacketInfo, direction);
            place.unknown("direction", offset, raw.direction)
        })?;
        let version = from_flag(place, offset_of!(RawPacketInfo, ipv6), raw.ipv6)?;
        Ok(Self {
            id: raw.id.get(),
            process_id: ProcessId::new(raw.process_id.get()),
            direction,
            flow: FlowKey {
                local: from_words(version, raw.local),
                remote: from_words(version, raw.remote),
                local_port: raw.local_port.get(),
                remote_port: raw.remote_port.get(),
                version,
                protocol: raw.protocol,
            },
            flags: raw.flags,
            compartment: raw.compartment.get(),
            interface: Interface {
                index: raw.interface_index.get(),
                sub_index: raw.sub_interface_index.get(),
            },
            packet_size: raw.packet_size.get(),
        })
    }

    /// Writes the structure and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let flow = &self.flow;
        let raw = RawPacketInfo {
            id: U32::new(self.id),
            padding: [0; 4],
            process_id: U64::new(self.process_id.map_or(0, ProcessId::get)),
            direction: self.direction.number(),
            ipv6: to_flag(flow.version),
            protocol: flow.protocol,
            flags: self.flags,
            local: to_words(flow.version, flow.local),
            remote: to_words(flow.version, flow.remote),
            local_port: U16::new(flow.local_port),
            remote_port: U16::new(flow.remote_port),
            compartment: U32::new(self.compartment),
            interface_index: U32::new(self.interface.index),
            sub_interface_index: U32::new(self.interface.sub_index),
            packet_size: U32::new(self.packet_size),
        };
        put(&raw, out)
    }
}
