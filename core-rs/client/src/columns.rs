//! Requests and flows as columns: one vector for each thing that is known of them.
//!
//! The form for whoever looks at thousands at once. Row *i* of every column is about the same request
//! or flow. Addresses are in network order, IPv4 as `::ffff:a.b.c.d`.

use kext_types::{FlowInfo, FlowKey, ProcessId};
use kext_wire::receive::{ReceiveResponse, ReceivedRequest};

/// Flag of a request: the host saw its packet cut short.
pub const CUT_SHORT: u8 = 0x01;

/// The ends of flows, and how they speak.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeyColumns {
    /// This machine's addresses.
    pub local_addresses: Vec<[u8; 16]>,
    /// The other ends' addresses.
    pub remote_addresses: Vec<[u8; 16]>,
    /// This machine's ports, or an echo's identifier; 0 where the protocol has neither.
    pub local_ports: Vec<u16>,
    /// The other ends' ports; 0 where the protocol has none.
    pub remote_ports: Vec<u16>,
    /// IP versions, 4 or 6.
    pub versions: Vec<u8>,
    /// Protocols by their IANA numbers.
    pub protocols: Vec<u8>,
}

impl KeyColumns {
    fn with_capacity(rows: usize) -> Self {
        Self {
            local_addresses: Vec::with_capacity(rows),
            remote_addresses: Vec::with_capacity(rows),
            local_ports: Vec::with_capacity(rows),
            remote_ports: Vec::with_capacity(rows),
            versions: Vec::with_capacity(rows),
            protocols: Vec::with_capacity(rows),
        }
    }

    fn push(&mut self, flow: &FlowKey) {
        self.local_addresses.push(flow.local.bytes());
        self.remote_addresses.push(flow.remote.bytes());
        self.local_ports.push(flow.local_port);
        self.remote_ports.push(flow.remote_port);
        self.versions.push(flow.version.number());
        self.protocols.push(flow.protocol);
    }
}

/// Verdict requests that came together, with the payload that was asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RequestColumns {
    /// The packets' names in verdicts, never 0.
    pub ids: Vec<u64>,
    /// When the packets were presented: nanoseconds since 1970-01-01 00:00 UTC by the host's clock.
    pub times: Vec<u64>,
    /// The processes that the packets belong to; 0 where unknown.
    pub process_ids: Vec<u64>,
    /// The packets' flows.
    pub flows: KeyColumns,
    /// Which way the packets go: 0 outbound, 1 inbound.
    pub directions: Vec<u8>,
    /// [`CUT_SHORT`] or 0.
    pub flags: Vec<u8>,
    /// The packets' lengths in bytes by their IP headers.
    pub sizes: Vec<u32>,
    /// Indices of the interfaces that the packets enter or leave by.
    pub interfaces: Vec<u32>,
    /// Indices of the sub-interfaces; 0 where the system has none.
    pub sub_interfaces: Vec<u32>,
    /// Network compartments or namespaces; 0 where unknown.
    pub compartments: Vec<u32>,
    /// The first bytes of all packets, one packet after the other, from the IP header on.
    pub payload: Vec<u8>,
    /// Where each packet's bytes begin in [`RequestColumns::payload`], and at last where they end: one
    /// more than there are requests.
    pub payload_offsets: Vec<u32>,
    /// How many requests were queued still when these were taken.
    pub queued: u32,
}

impl RequestColumns {
    pub(crate) fn read(response: &ReceiveResponse<'_>) -> Self {
        let rows = response.len();
        let mut columns = Self {
            ids: Vec::with_capacity(rows),
            times: Vec::with_capacity(rows),
            process_ids: Vec::with_capacity(rows),
            flows: KeyColumns::with_capacity(rows),
            directions: Vec::with_capacity(rows),
            flags: Vec::with_capacity(rows),
            sizes: Vec::with_capacity(rows),
            interfaces: Vec::with_capacity(rows),
            sub_interfaces: Vec::with_capacity(rows),
            compartments: Vec::with_capacity(rows),
            payload: Vec::with_capacity(response.payload_len()),
            payload_offsets: Vec::with_capacity(rows + 1),
            queued: response.queued(),
        };
        columns.payload_offsets.push(0);
        for (request, payload) in response.iter() {
            columns.push(&request, payload);
        }
        columns
    }

    fn push(&mut self, request: &ReceivedRequest, payload: &[u8]) {
        self.ids.push(request.id.get());
        self.times.push(request.time.as_nanos());
        self.process_ids
            .push(request.process_id.map_or(0, ProcessId::get));
        self.flows.push(&request.flow);
        self.directions.push(request.direction.number());
        self.flags
            .push(if request.cut_short { CUT_SHORT } else { 0 });
        self.sizes.push(request.size);
        self.interfaces.push(request.interface.index);
        self.sub_interfaces.push(request.interface.sub_index);
        self.compartments.push(request.compartment);
        self.payload.extend_from_slice(payload);
        // A message is far shorter than 4 GiB.
        self.payload_offsets.push(self.payload.len() as u32);
    }

    /// How many requests there are.
    pub const fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The bytes of one packet that came along; `None` beyond the last.
    pub fn payload_of(&self, row: usize) -> Option<&[u8]> {
        let start = *self.payload_offsets.get(row)?;
        let end = *self.payload_offsets.get(row + 1)?;
        self.payload.get(start as usize..end as usize)
    }
}

/// Cached flows, or flows that were.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FlowColumns {
    /// The flows.
    pub flows: KeyColumns,
    /// Verdict numbers, 2 to 6.
    pub verdicts: Vec<u8>,
    /// Why each is cached: numbers of [`kext_types::FlowOrigin`].
    pub origins: Vec<u8>,
    /// The processes that the flows belong to; 0 where unknown.
    pub process_ids: Vec<u64>,
    /// Packets from this machine.
    pub packets_out: Vec<u64>,
    /// Packets to this machine.
    pub packets_in: Vec<u64>,
    /// Bytes from this machine, by the packets' IP headers.
    pub bytes_out: Vec<u64>,
    /// Bytes to this machine, by the packets' IP headers.
    pub bytes_in: Vec<u64>,
    /// Times of the first packets: nanoseconds since 1970-01-01 00:00 UTC.
    pub first_seen: Vec<u64>,
    /// Times of the last packets, likewise.
    pub last_seen: Vec<u64>,
    /// Bytes of payload that programs have sent; 0 where the host sees no payload.
    pub payload_out: Vec<u64>,
    /// Bytes of payload that programs have received, likewise.
    pub payload_in: Vec<u64>,
}

impl FlowColumns {
    /// Adds a flow.
    pub fn push(&mut self, info: &FlowInfo) {
        self.flows.push(&info.flow);
        self.verdicts.push(info.verdict.number());
        self.origins.push(info.origin.number());
        self.process_ids
            .push(info.process_id.map_or(0, ProcessId::get));
        self.packets_out.push(info.outbound.packets);
        self.packets_in.push(info.inbound.packets);
        self.bytes_out.push(info.outbound.bytes);
        self.bytes_in.push(info.inbound.bytes);
        self.first_seen.push(info.first_seen.as_nanos());
        self.last_seen.push(info.last_seen.as_nanos());
        self.payload_out.push(info.payload_outbound);
        self.payload_in.push(info.payload_inbound);
    }

    /// How many flows there are.
    pub const fn len(&self) -> usize {
        self.verdicts.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.verdicts.is_empty()
    }
}

impl<'a> Extend<&'a FlowInfo> for FlowColumns {
    fn extend<I: IntoIterator<Item = &'a FlowInfo>>(&mut self, flows: I) {
        for flow in flows {
            self.push(flow);
        }
    }
}
