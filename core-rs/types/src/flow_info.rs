//! What is known of a cached flow.

use crate::{FlowKey, ProcessId, Timestamp, Verdict};

/// Why a flow is in the verdict cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowOrigin {
    /// A permanent verdict for one of its packets.
    Verdict = 0,
    /// An update of its verdict by 5-tuple.
    Update = 1,
    /// It carries the answers of a redirected flow.
    WayBack = 2,
}

impl FlowOrigin {
    /// The number in the extended interface.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The origin with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Verdict),
            1 => Some(Self::Update),
            2 => Some(Self::WayBack),
            _ => None,
        }
    }
}

/// Packets and bytes in one direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes, from the IP header on.
    pub bytes: u64,
}

impl Traffic {
    /// Adds a packet of this many bytes.
    pub const fn add(&mut self, bytes: u64) {
        self.packets = self.packets.saturating_add(1);
        self.bytes = self.bytes.saturating_add(bytes);
    }
}

/// A cached flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowInfo {
    /// The flow.
    pub flow: FlowKey,
    /// Its verdict; on a way back that of the redirected flow.
    pub verdict: Verdict,
    /// Why it is cached.
    pub origin: FlowOrigin,
    /// The process that it belongs to, if known.
    pub process_id: Option<ProcessId>,
    /// What went out.
    pub outbound: Traffic,
    /// What came in.
    pub inbound: Traffic,
    /// Bytes of payload that programs have sent, as far as the host sees payload; else 0.
    pub payload_outbound: u64,
    /// Bytes of payload that programs have received, likewise.
    pub payload_inbound: u64,
    /// When its first packet was presented.
    pub first_seen: Timestamp,
    /// When its last packet was presented, ICMP errors about it left aside.
    pub last_seen: Timestamp,
}

/// Why a flow is in the verdict cache no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FlowEnd {
    /// No packet came for too long.
    Idle = 0,
    /// Its TCP connection was closed, and no packet came for the shorter time after that.
    Closed = 1,
    /// It made room for another flow.
    Evicted = 2,
    /// The cache was cleared.
    Cleared = 3,
    /// A new verdict for the flow took its place.
    Replaced = 4,
}

impl FlowEnd {
    /// The number in the extended interface.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The end with this number, if there is one.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Idle),
            1 => Some(Self::Closed),
            2 => Some(Self::Evicted),
            3 => Some(Self::Cleared),
            4 => Some(Self::Replaced),
            _ => None,
        }
    }
}

/// A flow that was in the verdict cache, as it was last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowEnded {
    /// The flow, its verdict and its traffic.
    pub flow: FlowInfo,
    /// Why it ended.
    pub end: FlowEnd,
}
