//! What is counted for a flow, held or cached.

use kext_packet::{Headers, TcpFlags, TransportInfo};
use kext_types::{Arrival, Direction, ProcessId, Timestamp, Traffic};

/// A flow's traffic, and how far its TCP connection is closed.
///
/// In this order, what a look-up of a cached flow reads comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct FlowStats {
    pub(crate) last_seen: Timestamp,
    /// Outbound and inbound.
    pub(crate) traffic: [Traffic; 2],
    pub(crate) first_seen: Timestamp,
    pub(crate) process_id: Option<ProcessId>,
    closing: u8,
    /// Which way its first packet went.
    pub(crate) opened: Direction,
}

/// What opens or closes a connection.
const CONNECTION: TcpFlags = TcpFlags::SYN.with(TcpFlags::FIN).with(TcpFlags::RST);
const FIN_OUTBOUND: u8 = 1;
const FIN_INBOUND: u8 = 2;
const BOTH_FINS: u8 = FIN_OUTBOUND | FIN_INBOUND;
const RESET: u8 = 4;

impl FlowStats {
    /// Of a flow whose first packet, not counted yet, goes this way.
    pub(crate) const fn new(now: Timestamp, opened: Direction) -> Self {
        Self {
            process_id: None,
            traffic: [Traffic {
                packets: 0,
                bytes: 0,
            }; 2],
            first_seen: now,
            last_seen: now,
            closing: 0,
            opened,
        }
    }

    /// Adds a packet of the flow.
    #[inline(always)]
    pub(crate) fn add(&mut self, arrival: &Arrival, headers: &Headers, now: Timestamp) {
        self.add_traffic(arrival, headers);
        self.process_id = arrival.process_id.or(self.process_id);
        self.last_seen = self.last_seen.max(now);
        if let TransportInfo::Tcp(segment) = &headers.transport_info
            && segment.flags.any(CONNECTION)
        {
            self.open_or_close(segment.flags, arrival.direction);
        }
    }

    /// A connect of this process begins the flow: it is no packet yet.
    pub(crate) fn begin(&mut self, process_id: Option<ProcessId>, now: Timestamp) {
        self.process_id = process_id.or(self.process_id);
        self.last_seen = self.last_seen.max(now);
    }

    /// Adds an ICMP error about the flow. That is no sign that the flow goes on, since anybody can send
    /// one, nor of whose it is.
    #[inline(always)]
    pub(crate) fn add_traffic(&mut self, arrival: &Arrival, headers: &Headers) {
        let size = u64::from(headers.total_len);
        let [outbound, inbound] = &mut self.traffic;
        match arrival.direction {
            Direction::Outbound => outbound.add(size),
            Direction::Inbound => inbound.add(size),
        }
    }

    #[cold]
    fn open_or_close(&mut self, flags: TcpFlags, direction: Direction) {
        // A new connection between the same ends.
        if flags.contains(TcpFlags::SYN) {
            self.closing = 0;
        }
        if flags.contains(TcpFlags::RST) {
            self.closing |= RESET;
        }
        if flags.contains(TcpFlags::FIN) {
            self.closing |= match direction {
                Direction::Outbound => FIN_OUTBOUND,
                Direction::Inbound => FIN_INBOUND,
            };
        }
    }

    /// The connection has ended, as if by a RST.
    pub(crate) fn close(&mut self) {
        self.closing |= RESET;
    }

    /// Whether a TCP RST, or a FIN each way, has been seen since the last SYN.
    pub(crate) const fn is_closed(&self) -> bool {
        self.closing & RESET != 0 || self.closing & BOTH_FINS == BOTH_FINS
    }
}
