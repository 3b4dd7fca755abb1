//! `EVENTS`: flows that have left the verdict cache.

use core::mem::offset_of;

use kext_types::{FlowEnd, FlowEnded};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::flows::RawEntry;
use crate::header::{RawHeader, open_fixed, open_table};
use crate::layout::{len_u32, len_usize, put};
use crate::{BufferTooSmall, ControlCode, DecodeError, MAX_BATCH};

const CODE: ControlCode = ControlCode::Events;

/// Takes events, and says whether more are to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventsRequest {
    /// The most events wanted, 1 to [`MAX_BATCH`].
    pub max: u32,
    /// Whether events are kept from now on; if not, those that wait are forgotten after this.
    pub keep: bool,
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    max: U32,
    keep: u8,
    reserved: [u8; 11],
}

layout!(RawRequest: 32 { header: 0, max: 16, keep: 20, reserved: 21 });

impl EventsRequest {
    /// The message's length in bytes.
    pub const LEN: usize = size_of::<RawRequest>();

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let place = Place::of("EVENTS request");
        let raw = open_fixed::<RawRequest>(place, CODE, bytes)?;
        let max = raw.max.get();
        place.range("max", offset_of!(RawRequest, max), max, 1, MAX_BATCH.into())?;
        let keep = u32::from(raw.keep);
        place.range("keep", offset_of!(RawRequest, keep), keep, 0, 1)?;
        place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
        Ok(Self {
            max,
            keep: keep == 1,
        })
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let raw = RawRequest {
            header: RawHeader::new(CODE, Self::LEN),
            max: U32::new(self.max),
            keep: self.keep.into(),
            reserved: [0; 11],
        };
        put(&raw, out)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEvent {
    flow: RawEntry,
    end: u8,
    reserved: [u8; 7],
}

layout!(RawEvent: 120 { flow: 0, end: 112, reserved: 113 });

impl RawEvent {
    fn read(&self, place: Place) -> Result<FlowEnded, DecodeError> {
        let end = FlowEnd::from_number(self.end)
            .ok_or_else(|| place.unknown("end", offset_of!(Self, end), self.end.cast_signed()))?;
        place.reserved(offset_of!(Self, reserved), &self.reserved)?;
        Ok(FlowEnded {
            flow: self.flow.read(place)?,
            end,
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    lost: U64,
    count: U32,
    waiting: U32,
}

layout!(RawResponse: 32 { header: 0, lost: 16, count: 24, waiting: 28 });

/// Events: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct EventsResponse<'a> {
    entries: &'a [RawEvent],
    lost: u64,
    waiting: u32,
}

impl<'a> EventsResponse<'a> {
    /// The length of the part before the events in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The length of an event in bytes.
    pub const ENTRY_LEN: usize = size_of::<RawEvent>();

    /// The length of a response of this many events in bytes.
    pub const fn len_for(count: usize) -> usize {
        Self::FIXED_LEN.saturating_add(count.saturating_mul(Self::ENTRY_LEN))
    }

    /// Reads the message and checks every event.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("EVENTS response");
        let (raw, entries) = open_table::<RawResponse, RawEvent>(place, CODE, bytes, |raw| {
            let offset = offset_of!(RawResponse, count);
            place.range("count", offset, raw.count.get(), 0, MAX_BATCH.into())?;
            Ok(raw.count.get())
        })?;
        // Bounded by MAX_BATCH.
        for (index, entry) in entries.iter().enumerate() {
            entry.read(place.row(Self::FIXED_LEN, index, Self::ENTRY_LEN))?;
        }
        Ok(Self {
            entries,
            lost: raw.lost.get(),
            waiting: raw.waiting.get(),
        })
    }

    /// How many events found no room since the start.
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// How many events wait still.
    pub const fn waiting(&self) -> u32 {
        self.waiting
    }

    /// The events, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = FlowEnded> + use<'a> {
        // All were read once without an error; none is left out here.
        let place = Place::of("EVENTS response");
        self.entries
            .iter()
            .filter_map(move |entry| entry.read(place).ok())
    }
}

/// An `EVENTS` response that is being built in the caller's output buffer.
#[derive(Debug)]
pub struct EventsWriter<'a> {
    out: &'a mut [u8],
    max: usize,
    count: usize,
}

impl<'a> EventsWriter<'a> {
    /// Begins a response of at most `max` events, or as many as `out` has room for, which must be
    /// one at least. The request must have been decoded before: it shares the buffer.
    pub fn new(out: &'a mut [u8], max: u32) -> Result<Self, BufferTooSmall> {
        let needed = EventsResponse::len_for(1);
        if out.len() < needed {
            return Err(BufferTooSmall { needed });
        }
        let table = out.len().saturating_sub(EventsResponse::FIXED_LEN);
        let fits = table / EventsResponse::ENTRY_LEN;
        Ok(Self {
            out,
            max: len_usize(max.min(MAX_BATCH)).min(fits),
            count: 0,
        })
    }

    /// Whether no more events can be pushed.
    pub const fn is_full(&self) -> bool {
        self.count >= self.max
    }

    /// Adds an event; one that finds no room is left out.
    pub fn push(&mut self, event: &FlowEnded) {
        if self.is_full() {
            return;
        }
        let raw = RawEvent {
            flow: RawEntry::from(&event.flow),
            end: event.end.number(),
            reserved: [0; 7],
        };
        if let Some(slot) = self.out.get_mut(EventsResponse::len_for(self.count)..) {
            let _ = raw.write_to_prefix(slot);
        }
        self.count = self.count.saturating_add(1);
    }

    /// Completes the response and gives its length.
    pub fn finish(self, lost: u64, waiting: u32) -> usize {
        let length = EventsResponse::len_for(self.count);
        let raw = RawResponse {
            header: RawHeader::new(CODE, length),
            lost: U64::new(lost),
            count: U32::new(len_u32(self.count)),
            waiting: U32::new(waiting),
        };
        // `new` has seen to it that this fits.
        let _ = raw.write_to_prefix(self.out);
        length
    }
}
