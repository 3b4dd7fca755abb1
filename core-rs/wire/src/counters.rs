//! COUNTERS: what was counted, by reason.

use core::mem::offset_of;

use kext_types::{Disposition, Event, Reason};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{HEADER_LEN, RawHeader, decode_bare, open_table};
use crate::layout::{len_u32, put, put_table};
use crate::{BufferTooSmall, ControlCode, DecodeError};

const CODE: ControlCode = ControlCode::Counters;

/// Asks for the counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct CountersRequest;

impl CountersRequest {
    /// The message's length in bytes.
    pub const LEN: usize = HEADER_LEN;

    /// Reads the message.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode_bare(Place::of("COUNTERS request"), CODE, bytes).map(|()| Self)
    }

    /// Writes the message and gives its length.
    pub fn encode(&self, out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        put(&RawHeader::new(CODE, Self::LEN), out)
    }
}

/// One counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counter {
    /// The number of a [`Reason`] or an [`Event`], perhaps one that this crate does not know.
    pub number: u16,
    /// How the packets that it counts ended; `None` if it does not count ends.
    pub disposition: Option<Disposition>,
    /// How many.
    pub value: u64,
}

impl Counter {
    /// The counter of packets that ended for a reason.
    pub const fn of_reason(reason: Reason, value: u64) -> Self {
        Self {
            number: reason.number(),
            disposition: Some(reason.disposition()),
            value,
        }
    }

    /// The counter of something else.
    pub const fn of_event(event: Event, value: u64) -> Self {
        Self {
            number: event.number(),
            disposition: None,
            value,
        }
    }

    /// The reason that it counts, if this crate knows it.
    pub const fn reason(&self) -> Option<Reason> {
        Reason::from_number(self.number)
    }

    /// The event that it counts, if this crate knows it.
    pub const fn event(&self) -> Option<Event> {
        Event::from_number(self.number)
    }

    /// The stable name, if this crate knows the number.
    pub const fn name(&self) -> Option<&'static str> {
        match (self.reason(), self.event()) {
            (Some(reason), _) => Some(reason.name()),
            (None, Some(event)) => Some(event.name()),
            (None, None) => None,
        }
    }
}

/// The disposition number of a counter that counts no packet's end.
const NO_END: u8 = 255;

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawCounter {
    number: U16,
    disposition: u8,
    reserved: [u8; 5],
    value: U64,
}

layout!(RawCounter: 16 { number: 0, disposition: 2, reserved: 3, value: 8 });

impl From<&Counter> for RawCounter {
    fn from(counter: &Counter) -> Self {
        Self {
            number: U16::new(counter.number),
            disposition: counter.disposition.map_or(NO_END, |end| end as u8),
            reserved: [0; 5],
            value: U64::new(counter.value),
        }
    }
}

impl RawCounter {
    fn read(&self, place: Place) -> Result<Counter, DecodeError> {
        let disposition = match self.disposition {
            0 => Some(Disposition::Permitted),
            1 => Some(Disposition::Blocked),
            2 => Some(Disposition::Dropped),
            3 => Some(Disposition::Redirected),
            NO_END => None,
            other => {
                let offset = offset_of!(Self, disposition);
                return Err(place.unknown("disposition", offset, other));
            }
        };
        place.reserved(offset_of!(Self, reserved), &self.reserved)?;
        Ok(Counter {
            number: self.number.get(),
            disposition,
            value: self.value.get(),
        })
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    count: U32,
    reserved: [u8; 4],
}

layout!(RawResponse: 24 { header: 0, count: 16, reserved: 20 });

/// The counters: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct CountersResponse<'a> {
    entries: &'a [RawCounter],
}

impl<'a> CountersResponse<'a> {
    /// The length of the part before the entries in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The length of an entry in bytes.
    pub const ENTRY_LEN: usize = size_of::<RawCounter>();

    /// The length of a response of this many counters in bytes.
    pub const fn len_for(count: usize) -> usize {
        Self::FIXED_LEN.saturating_add(count.saturating_mul(Self::ENTRY_LEN))
    }

    /// Reads the message and checks every entry; unknown counters are no error.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("COUNTERS response");
        let (_, entries) = open_table::<RawResponse, RawCounter>(place, CODE, bytes, |raw| {
            place.reserved(offset_of!(RawResponse, reserved), &raw.reserved)?;
            Ok(raw.count.get())
        })?;
        // Bounded by the length of the message.
        for (index, entry) in entries.iter().enumerate() {
            entry.read(place.row(Self::FIXED_LEN, index, Self::ENTRY_LEN))?;
        }
        Ok(Self { entries })
    }

    /// Writes a response of these counters and gives its length.
    pub fn encode(
        counters: impl ExactSizeIterator<Item = Counter>,
        out: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let head = RawResponse {
            header: RawHeader::new(CODE, Self::len_for(counters.len())),
            count: U32::new(len_u32(counters.len())),
            reserved: [0; 4],
        };
        put_table(
            &head,
            counters.map(|counter| RawCounter::from(&counter)),
            out,
        )
    }

    /// How many counters there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The counters, in the order sent.
    pub fn iter(&self) -> impl Iterator<Item = Counter> + use<'a> {
        // All were read once without an error; none is left out here.
        let place = Place::of("COUNTERS response");
        self.entries
            .iter()
            .filter_map(move |entry| entry.read(place).ok())
    }
}
