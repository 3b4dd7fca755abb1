//! `LIST_FLOWS`: what the verdict cache holds.

use core::mem::offset_of;

use kext_types::{FlowInfo, FlowOrigin, ProcessId, Timestamp, Traffic, Verdict};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::flow::RawFlow;
use crate::header::{RawHeader, open_fixed, open_table};
use crate::layout::{len_u32, len_usize, put};
use crate::{BufferTooSmall, ControlCode, DecodeError, MAX_BATCH};

const CODE: ControlCode = ControlCode::ListFlows;

/// Asks for a part of the cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListFlowsRequest {
    /// 0 to begin, else what the last response gave.
    pub cursor: u64,
    /// The most entries wanted, 1 to [`MAX_BATCH`].
    pub max: u32,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    cursor: U64,
    max: U32,
    reserved: [u8; 4],
}

layout!(RawRequest: 32 { header: 0, cursor: 16, max: 24, reserved: 28 });

impl ListFlowsRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("LIST_FLOWS request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        let max = raw.max.get();
        place.range("max", offset_of!(RawRequest, max), max, 1, MAX_BATCH.into())?;
        place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
        Ok(Self {
            cursor: raw.cursor.get(),
            max,
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            cursor: U64::new(self.cursor),
            max: U32::new(self.max),
            reserved: [0; 4],
        };
        put(&raw, out)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawEntry {
    flow: RawFlow,
    verdict: i8,
    origin: u8,
    process_id: U64,
    packets_outbound: U64,
    packets_inbound: U64,
    bytes_outbound: U64,
    bytes_inbound: U64,
    first_seen: U64,
    last_seen: U64,
    payload_outbound: U64,
    payload_inbound: U64,
}

layout!(RawEntry: 112 {
    flow: 0, verdict: 38, origin: 39, process_id: 40, packets_outbound: 48, packets_inbound: 56,
    bytes_outbound: 64, bytes_inbound: 72, first_seen: 80, last_seen: 88, payload_outbound: 96,
    payload_inbound: 104;
    flow.local: 0, flow.remote: 16, flow.local_port: 32, flow.remote_port: 34,
    flow.version: 36, flow.protocol: 37,
});

impl From<&FlowInfo> for RawEntry {
    fn from(entry: &FlowInfo) -> Self {
        Self {
            flow: RawFlow::from(&entry.flow),
            verdict: entry.verdict.number().cast_signed(),
            origin: entry.origin.number(),
            process_id: U64::new(entry.process_id.map_or(0, ProcessId::get)),
            packets_outbound: U64::new(entry.outbound.packets),
            packets_inbound: U64::new(entry.inbound.packets),
            bytes_outbound: U64::new(entry.outbound.bytes),
            bytes_inbound: U64::new(entry.inbound.bytes),
            first_seen: U64::new(entry.first_seen.as_nanos()),
            last_seen: U64::new(entry.last_seen.as_nanos()),
            payload_outbound: U64::new(entry.payload_outbound),
            payload_inbound: U64::new(entry.payload_inbound),
        }
    }
}

impl RawEntry {
    pub(crate) fn read(&self, place: Place) -> Result<FlowInfo, DecodeError> {
        let flow = self.flow.read(place, offset_of!(Self, flow))?;
        let verdict = u8::try_from(self.verdict)
            .ok()
            .and_then(Verdict::from_number)
            .ok_or_else(|| place.unknown("verdict", offset_of!(Self, verdict), self.verdict))?;
        let origin = FlowOrigin::from_number(self.origin)
            .ok_or_else(|| place.unknown("origin", offset_of!(Self, origin), self.origin))?;
        Ok(FlowInfo {
            flow,
            verdict,
            origin,
            process_id: ProcessId::new(self.process_id.get()),
            outbound: Traffic {
                packets: self.packets_outbound.get(),
                bytes: self.bytes_outbound.get(),
            },
            inbound: Traffic {
                packets: self.packets_inbound.get(),
                bytes: self.bytes_inbound.get(),
            },
            payload_outbound: self.payload_outbound.get(),
            payload_inbound: self.payload_inbound.get(),
            first_seen: Timestamp::from_nanos(self.first_seen.get()),
            last_seen: Timestamp::from_nanos(self.last_seen.get()),
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    cursor: U64,
    count: U32,
    reserved: [u8; 4],
}

layout!(RawResponse: 32 { header: 0, cursor: 16, count: 24, reserved: 28 });

/// A part of the cache: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct ListFlowsResponse<'a> {
    entries: &'a [RawEntry],
    cursor: u64,
}

impl<'a> ListFlowsResponse<'a> {
    /// The length of the part before the entries in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The length of an entry in bytes.
    pub const ENTRY_LEN: usize = size_of::<RawEntry>();

    /// The length of a response of this many entries in bytes.
    pub const fn len_for(count: usize) -> usize {
        Self::FIXED_LEN.saturating_add(count.saturating_mul(Self::ENTRY_LEN))
    }

    /// Reads the message and checks every entry.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("LIST_FLOWS response");
        let (raw, entries) = open_table::<RawResponse, RawEntry>(place, CODE, bytes, |raw| {
            let offset = offset_of!(RawResponse, count);
            place.range("count", offset, raw.count.get(), 0, MAX_BATCH.into())?;
            place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;
            Ok(raw.count.get())
        })?;
        // Bounded by MAX_BATCH.
        for (index, entry) in entries.iter().enumerate() {
            entry.read(place.row(Self::FIXED_LEN, index, Self::ENTRY_LEN))?;
        }
        Ok(Self {
            entries,
            cursor: raw.cursor.get(),
        })
    }

    /// The cursor for the next request; 0 at the end.
    pub const fn cursor(&self) -> u64 {
        self.cursor
    }

    /// How many flows there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; there may still be more, see [`ListFlowsResponse::cursor`].
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The flows, in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = FlowInfo> + use<'a> {
        // All were read once without an error; none is left out here.
        let place = Place::of("LIST_FLOWS response");
        self.entries
            .iter()
            .filter_map(move |entry| entry.read(place).ok())
    }
}

/// A `LIST_FLOWS` response that is being built in the caller's output buffer.
#[derive(Debug)]
pub struct ListFlowsWriter<'a> {
    out: &'a mut [u8],
    max: usize,
    count: usize,
}

impl<'a> ListFlowsWriter<'a> {
    /// Begins a response of at most `max` entries, or as many as `out` has room for. The request
    /// must have been decoded before: it shares the buffer. Room for one entry is demanded, so
    /// that a listing always gets on.
    pub fn new(out: &'a mut [u8], max: u32) -> Result<Self, BufferTooSmall> {
        let needed = ListFlowsResponse::len_for(1);
        if out.len() < needed {
            return Err(BufferTooSmall { needed });
        }
        let table = out.len().saturating_sub(ListFlowsResponse::FIXED_LEN);
        let fits = table / ListFlowsResponse::ENTRY_LEN;
        Ok(Self {
            out,
            max: len_usize(max.min(MAX_BATCH)).min(fits),
            count: 0,
        })
    }

    /// How many more entries can be pushed.
    pub const fn room(&self) -> usize {
        self.max.saturating_sub(self.count)
    }

    /// Adds a flow; says whether there was room for it.
    pub fn push(&mut self, entry: &FlowInfo) -> bool {
        if self.room() == 0 {
            return false;
        }
        let start = ListFlowsResponse::len_for(self.count);
        if let Some(slot) = self.out.get_mut(start..) {
            let _ = RawEntry::from(entry).write_to_prefix(slot);
        }
        self.count = self.count.saturating_add(1);
        true
    }

    /// Completes the response and gives its length; `cursor` is 0 at the end of the cache.
    pub fn finish(self, cursor: u64) -> usize {
        let length = ListFlowsResponse::len_for(self.count);
        let raw = RawResponse {
            header: RawHeader::new(CODE, length),
            cursor: U64::new(cursor),
            count: U32::new(len_u32(self.count)),
            reserved: [0; 4],
        };
        // `new` has seen to it that this fits.
        let _ = raw.write_to_prefix(self.out);
        length
    }
}

#[cfg(test)]
mod tests {
    extern crate std;
    use std::vec;

    use kext_types::{Address, FlowKey, IpVersion};

    use super::*;

    #[test]
    fn a_listing_ends_where_the_buffer_or_the_wish_does() {
        let entry = FlowInfo {
            flow: FlowKey {
                local: Address::v4([192, 0, 2, 1]),
                remote: Address::v4([192, 0, 2, 2]),
                local_port: 1,
                remote_port: 2,
                version: IpVersion::V4,
                protocol: 6,
            },
            verdict: Verdict::Accept,
            origin: FlowOrigin::Verdict,
            process_id: None,
            outbound: Traffic::default(),
            inbound: Traffic::default(),
            payload_outbound: 0,
            payload_inbound: 0,
            first_seen: Timestamp::from_nanos(1),
            last_seen: Timestamp::from_nanos(2),
        };
        // Three entries but for a byte; then as many as are wanted.
        for (max, expected) in [(9, 2), (1, 1)] {
            let mut out = vec![0xA5; ListFlowsResponse::len_for(3) - 1];
            let mut writer = ListFlowsWriter::new(&mut out, max).unwrap();
            let pushed = (0..9).filter(|_| writer.push(&entry)).count();
            assert_eq!(pushed, expected);
            let len = writer.finish(0);
            assert_eq!(
                ListFlowsResponse::decode(&out[..len]).unwrap().len(),
                expected
            );
        }
        let mut out = vec![0; ListFlowsResponse::len_for(1) - 1];
        assert!(ListFlowsWriter::new(&mut out, 1).is_err());
    }
}
