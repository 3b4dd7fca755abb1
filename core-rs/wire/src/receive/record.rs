//! One verdict request in a RECEIVE response.

use core::mem::offset_of;
use core::ops::Range;

use kext_types::{Direction, FlowKey, Interface, PacketId, ProcessId, RequestInfo, Timestamp};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::DecodeError;
use crate::error::Place;
use crate::flow::RawFlow;
use crate::layout::len_usize;

/// A verdict request as user mode sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReceivedRequest {
    /// The packet's name in a verdict.
    pub id: PacketId,
    /// When the packet was presented, by the host's clock.
    pub time: Timestamp,
    /// The process that the packet belongs to, if known.
    pub process_id: Option<ProcessId>,
    /// The flow that it belongs to.
    pub flow: FlowKey,
    /// Which way it goes.
    pub direction: Direction,
    /// Whether the host saw the packet cut short.
    pub cut_short: bool,
    /// Where it enters or leaves.
    pub interface: Interface,
    /// The network compartment or namespace, 0 if the host knows none.
    pub compartment: u32,
    /// The packet's size in bytes by its IP header.
    pub size: u32,
}

impl From<&RequestInfo> for ReceivedRequest {
    fn from(request: &RequestInfo) -> Self {
        let arrival = &request.arrival;
        Self {
            id: request.id,
            time: request.time,
            process_id: arrival.process_id,
            flow: request.flow,
            direction: arrival.direction,
            cut_short: request.held_len < request.size,
            interface: arrival.interface,
            compartment: arrival.compartment,
            size: request.size,
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(super) struct RawRecord {
    id: U64,
    time: U64,
    process_id: U64,
    flow: RawFlow,
    direction: u8,
    flags: u8,
    interface_index: U32,
    sub_interface_index: U32,
    compartment: U32,
    size: U32,
    pub(super) payload_offset: U32,
    payload_len: U32,
}

layout!(RawRecord: 88 {
    id: 0, time: 8, process_id: 16, flow: 24, direction: 62, flags: 63, interface_index: 64,
    sub_interface_index: 68, compartment: 72, size: 76, payload_offset: 80, payload_len: 84;
    flow.local: 24, flow.remote: 40, flow.local_port: 56, flow.remote_port: 58,
    flow.version: 60, flow.protocol: 61,
});

/// Flag: the host saw the packet cut short.
const CUT_SHORT: u8 = 0x01;

impl RawRecord {
    /// The record of a request whose payload is these bytes of the message.
    pub(super) fn new(request: &ReceivedRequest, payload_offset: u32, payload_len: u32) -> Self {
        Self {
            id: U64::new(request.id.get()),
            time: U64::new(request.time.as_nanos()),
            process_id: U64::new(request.process_id.map_or(0, ProcessId::get)),
            flow: RawFlow::from(&request.flow),
            direction: request.direction.number(),
            flags: if request.cut_short { CUT_SHORT } else { 0 },
            interface_index: U32::new(request.interface.index),
            sub_interface_index: U32::new(request.interface.sub_index),
            compartment: U32::new(request.compartment),
            size: U32::new(request.size),
            payload_offset: U32::new(if payload_len == 0 { 0 } else { payload_offset }),
            payload_len: U32::new(payload_len),
        }
    }

    /// The request, and where in the message its payload is; `area` is where payload may be.
    pub(super) fn read(
        &self,
        place: Place,
        area: Range<usize>,
    ) -> Result<(ReceivedRequest, Range<usize>), DecodeError> {
        let id = PacketId::new(self.id.get()).ok_or_else(|| {
            // Shown as the signed number of the same bits; only those that are no id come here.
            place.unknown("id", offset_of!(Self, id), self.id.get().cast_signed())
        })?;
        let flow = self.flow.read(place, offset_of!(Self, flow))?;
        let direction = Direction::from_number(self.direction).ok_or_else(|| {
            place.unknown("direction", offset_of!(Self, direction), self.direction)
        })?;
        if self.flags & !CUT_SHORT != 0 {
            return Err(place.unknown("flags", offset_of!(Self, flags), self.flags));
        }
        let request = ReceivedRequest {
            id,
            time: Timestamp::from_nanos(self.time.get()),
            process_id: ProcessId::new(self.process_id.get()),
            flow,
            direction,
            cut_short: self.flags & CUT_SHORT != 0,
            interface: Interface {
                index: self.interface_index.get(),
                sub_index: self.sub_interface_index.get(),
            },
            compartment: self.compartment.get(),
            size: self.size.get(),
        };
        Ok((request, self.read_range(place, area)?))
    }

    fn read_range(&self, place: Place, area: Range<usize>) -> Result<Range<usize>, DecodeError> {
        let start = len_usize(self.payload_offset.get());
        let len = len_usize(self.payload_len.get());
        let offset_at = offset_of!(Self, payload_offset);
        if len == 0 {
            place.range("payload_offset", offset_at, self.payload_offset.get(), 0, 0)?;
            return Ok(0..0);
        }
        let (first, end) = (area.start as u64, area.end as u64);
        let offset = self.payload_offset.get();
        place.range("payload_offset", offset_at, offset, first, end)?;
        let room = end.saturating_sub(u64::from(offset));
        let len_at = offset_of!(Self, payload_len);
        place.range("payload_len", len_at, self.payload_len.get(), 1, room)?;
        Ok(start..start.saturating_add(len))
    }
}
