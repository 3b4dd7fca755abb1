//! Sockets: authorized, closed, and what they send and receive, at the layers above packets.

use kext_nt_sys::fwp::FWP_CONDITION_FLAG_IS_REAUTHORIZE;
use kext_nt_sys::fwps::*;
use kext_nt_sys::ke::{DISPATCH_LEVEL, PASSIVE_LEVEL};
use parking_lot::Mutex;

use super::classify::{self, Call, Classified, Value};
use super::flow;
use super::layer::{self, Kind};
use super::lent::{Lent, Shape};
use super::pend;
use crate::cpu;
use crate::dispatcher;
use crate::guest;
use crate::heap::{self, Kind as Block};

/// One end of a conversation, as the layers of sockets show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Which protocol.
    pub protocol: u8,
    /// Our address: 4 or 16 bytes.
    pub local: Vec<u8>,
    /// Theirs.
    pub remote: Vec<u8>,
    /// Our port.
    pub local_port: u16,
    /// Theirs.
    pub remote_port: u16,
    /// Whose it is.
    pub process: u64,
    /// The path of its program.
    pub path: String,
    /// The number of the flow; not 0.
    pub flow: u64,
    /// The number of the endpoint.
    pub handle: u64,
    /// Whether they have called us.
    pub accepts: bool,
    /// `FWP_CONDITION_FLAG_*`.
    pub flags: u32,
    /// Why it is authorized again.
    pub reason: u32,
}

/// What became of an authorization.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Held {
    /// Decided at once.
    Decided(Classified),
    /// Pended by a callout.
    Pended,
}

static ENDED: Mutex<Vec<(Endpoint, Held)>> = Mutex::new(Vec::new());

/// Authorizations that were pended and have been decided since the last call.
pub(crate) fn take_ended() -> Vec<(Endpoint, Held)> {
    std::mem::take(&mut ENDED.lock())
}

pub(crate) fn ended(endpoint: &Endpoint, held: Held) {
    ENDED.lock().push((endpoint.clone(), held));
    dispatcher::notify();
}

fn address(bytes: &[u8]) -> Value {
    match <[u8; 4]>::try_from(bytes) {
        Ok(bytes) => Value::U32(u32::from_be_bytes(bytes)),
        Err(_) => Value::Address6(bytes.try_into().expect("an address of 4 or 16 bytes")),
    }
}

/// Whether a call is about what was authorized before.
pub(crate) fn is_reauthorization(call: &Call) -> bool {
    call.values.iter().any(|(field, value)| {
        *field == call.layer.fields.flags
            && matches!(value, Value::U32(flags) if flags & FWP_CONDITION_FLAG_IS_REAUTHORIZE != 0)
    })
}

impl Endpoint {
    fn call(&self, kind: Kind, level: u8) -> Call {
        let layer = layer::layer(kind, self.local.len() == 16);
        let fields = &layer.fields;
        let values = vec![
            (fields.local_address, address(&self.local)),
            (fields.remote_address, address(&self.remote)),
            (fields.local_port, Value::U16(self.local_port)),
            (fields.remote_port, Value::U16(self.remote_port)),
            (fields.protocol, Value::U8(self.protocol)),
            (fields.flags, Value::U32(self.flags)),
            (fields.interface, Value::U32(7)),
            (fields.sub_interface, Value::U32(1)),
            (fields.compartment, Value::U32(1)),
            (fields.reauthorize_reason, Value::U32(self.reason)),
            // The direction of the connection, or of the packet; see who fills it.
            (fields.direction, Value::U32(u32::from(self.accepts))),
        ];
        let mut metadata = classify::no_metadata();
        let mut has = 0;
        let of_process = matches!(
            kind,
            Kind::AleAuthConnect | Kind::AleAuthRecvAccept | Kind::AleEndpointClosure
        );
        if of_process {
            has |= FWPS_METADATA_FIELD_PROCESS_ID | FWPS_METADATA_FIELD_TRANSPORT_ENDPOINT_HANDLE;
            metadata.processId = self.process;
            metadata.transportEndpointHandle = self.handle;
        }
        if kind != Kind::Stream {
            has |= FWPS_METADATA_FIELD_COMPARTMENT_ID;
            metadata.compartmentId = 1;
        }
        if kind != Kind::AleEndpointClosure {
            has |= FWPS_METADATA_FIELD_FLOW_HANDLE;
            metadata.flowHandle = self.flow;
        }
        metadata.currentMetadataValues = has;
        let with_path = matches!(kind, Kind::AleAuthConnect | Kind::AleAuthRecvAccept);
        let path: Vec<u8> = self
            .path
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        Call {
            layer,
            values,
            path: (with_path && !path.is_empty()).then_some(path),
            metadata,
            level,
            flow: self.flow,
        }
    }
}

/// Shows an endpoint to the callouts that authorize it.
pub(crate) fn authorize(endpoint: &Endpoint) -> Held {
    let kind = if endpoint.accepts {
        Kind::AleAuthRecvAccept
    } else {
        Kind::AleAuthConnect
    };
    // Whoever ends the hold of a connect authorizes it again, at its own level.
    let mut call = endpoint.call(kind, cpu::irql());
    let handle = pend::offer(endpoint);
    call.metadata.currentMetadataValues |= FWPS_METADATA_FIELD_COMPLETION_HANDLE;
    call.metadata.completionHandle = std::ptr::without_provenance_mut(handle);
    let classified = classify::run(&call, std::ptr::null_mut(), &|| ());
    if pend::withdraw(handle) {
        Held::Pended
    } else {
        Held::Decided(classified)
    }
}

/// Shows the end of an endpoint, and ends its flow.
pub(crate) fn close(endpoint: &Endpoint) -> Classified {
    let call = endpoint.call(Kind::AleEndpointClosure, PASSIVE_LEVEL);
    let classified = classify::run(&call, std::ptr::null_mut(), &|| ());
    flow::end(endpoint.flow);
    pend::endpoint_closed(endpoint.handle);
    classified
}

/// Shows a piece of a stream: how the callout answered, and how many bytes it answered for.
pub(crate) fn stream(endpoint: &Endpoint, bytes: &[u8], sends: bool) -> (Classified, usize) {
    let call = endpoint.call(Kind::Stream, DISPATCH_LEVEL);
    let packets = [bytes.to_vec()];
    let lent = Lent::new(&Shape {
        packets: &packets,
        start: 0,
        headroom: 0,
        split: &[],
        checksums: 0,
        mark: None,
    });
    let data = heap::allocate(Block::Lent, size_of::<FWPS_STREAM_DATA0>(), 0);
    let packet = heap::allocate(Block::Lent, size_of::<FWPS_STREAM_CALLOUT_IO_PACKET0>(), 0);
    let mut offset: FWPS_STREAM_DATA_OFFSET0 =
        // SAFETY: zero is a value of each field.
        unsafe { std::mem::zeroed() };
    offset.netBufferList = lent.list;
    let stream = FWPS_STREAM_DATA0 {
        flags: if sends {
            FWPS_STREAM_FLAG_SEND
        } else {
            FWPS_STREAM_FLAG_RECEIVE
        },
        dataOffset: offset,
        dataLength: bytes.len(),
        netBufferListChain: lent.list,
    };
    guest::write(data.cast(), stream, "stream data");
    let io = FWPS_STREAM_CALLOUT_IO_PACKET0 {
        streamData: data.cast(),
        missedBytes: 0,
        countBytesRequired: 0,
        countBytesEnforced: 0,
        streamAction: FWPS_STREAM_ACTION_NONE,
    };
    let io_packet: *mut FWPS_STREAM_CALLOUT_IO_PACKET0 = packet.cast();
    guest::write(io_packet, io, "a piece of a stream");
    let classified = classify::run(&call, packet.cast(), &|| lent.check());
    let enforced = guest::read(io_packet, "a piece of a stream").countBytesEnforced;
    for block in [data, packet] {
        heap::free(
            block.expose_provenance(),
            "the end of a piece of a stream",
            0,
            |_| None,
        );
    }
    lent.give_back();
    (classified, enforced)
}

/// Shows datagrams in one list, given from their IP header on if they have come in, else from their
/// transport header.
pub(crate) fn datagram(endpoint: &Endpoint, packets: &[&[u8]], sends: bool) -> Classified {
    let seen = Endpoint {
        accepts: !sends,
        ..endpoint.clone()
    };
    let mut call = seen.call(Kind::DatagramData, DISPATCH_LEVEL);
    let transport = if endpoint.protocol == 17 { 8 } else { 0 };
    let mut has = FWPS_METADATA_FIELD_TRANSPORT_HEADER_SIZE;
    call.metadata.transportHeaderSize = transport;
    let mut start = 0;
    if !sends {
        let header = packets
            .first()
            .and_then(|first| super::checksum::headers(first))
            .map_or(0, |(length, ..)| length);
        has |= FWPS_METADATA_FIELD_IP_HEADER_SIZE;
        call.metadata.ipHeaderSize = header as u32;
        start = header + transport as usize;
    }
    call.metadata.currentMetadataValues |= has;
    let packets: Vec<Vec<u8>> = packets.iter().map(|packet| packet.to_vec()).collect();
    let lent = Lent::new(&Shape {
        packets: &packets,
        start,
        headroom: 0,
        split: &[],
        checksums: 0,
        mark: None,
    });
    let classified = classify::run(&call, lent.list.cast(), &|| lent.check());
    lent.give_back();
    classified
}
