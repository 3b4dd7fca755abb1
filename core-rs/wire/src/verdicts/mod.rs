//! `SET_VERDICTS`: many verdicts, with an outcome for each.

mod in_place;
mod outcome;

pub use in_place::InPlace;
pub use outcome::Outcome;
pub(crate) use outcome::RawOutcome;

use core::mem::offset_of;

use kext_types::{Decision, PacketId, VerdictOutcome};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::error::Place;
use crate::header::{RawHeader, open_table};
use crate::layout::{len_u32, len_usize, put_table};
use crate::{BufferTooSmall, ControlCode, DecodeError, MAX_BATCH};

const CODE: ControlCode = ControlCode::SetVerdicts;

/// One verdict. Its numbers are not checked when the message is: an entry that is wrong has an
/// outcome of its own and does not stop the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VerdictEntry {
    /// The number of a packet's id.
    pub id: u64,
    /// The number of a [`Decision`].
    pub number: i8,
}

impl VerdictEntry {
    /// The entry of a decision for a packet.
    pub const fn new(id: PacketId, decision: Decision) -> Self {
        Self {
            id: id.get(),
            number: decision.number(),
        }
    }

    /// The packet's id; `None` if the number can never be one, which is the outcome "unknown id".
    pub const fn packet_id(&self) -> Option<PacketId> {
        PacketId::new(self.id)
    }

    /// The decision; `None` if the number is no verdict, which is an outcome of its own.
    pub const fn decision(&self) -> Option<Decision> {
        Decision::from_number(self.number)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawEntry {
    id: U64,
    verdict: i8,
    reserved: [u8; 7],
}

layout!(RawEntry: 16 { id: 0, verdict: 8, reserved: 9 });

impl RawEntry {
    const fn read(&self) -> VerdictEntry {
        VerdictEntry {
            id: self.id.get(),
            number: self.verdict,
        }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawRequest {
    header: RawHeader,
    count: U32,
    reserved: [u8; 4],
}

layout!(RawRequest: 24 { header: 0, count: 16, reserved: 20 });

/// The verdicts of a request: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct SetVerdictsRequest<'a> {
    entries: &'a [RawEntry],
}

impl<'a> SetVerdictsRequest<'a> {
    /// The length of the part before the entries in bytes.
    pub const FIXED_LEN: usize = size_of::<RawRequest>();

    /// The length of an entry in bytes.
    pub const ENTRY_LEN: usize = size_of::<RawEntry>();

    /// The length of a request of this many entries in bytes.
    pub const fn len_for(count: usize) -> usize {
        Self::FIXED_LEN.saturating_add(count.saturating_mul(Self::ENTRY_LEN))
    }

    /// Reads the message; reserved bytes of every entry are checked, ids and numbers are not.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("SET_VERDICTS request");
        let (_, entries) = open_table::<RawRequest, RawEntry>(place, CODE, bytes, |raw| {
            let offset = offset_of!(RawRequest, count);
            place.range("count", offset, raw.count.get(), 1, MAX_BATCH.into())?;
            place.reserved(offset_of!(RawRequest, reserved), &raw.reserved)?;
            Ok(raw.count.get())
        })?;
        // Bounded by MAX_BATCH.
        for (index, entry) in entries.iter().enumerate() {
            let place = place.row(Self::FIXED_LEN, index, Self::ENTRY_LEN);
            place.reserved(offset_of!(RawEntry, reserved), &entry.reserved)?;
        }
        Ok(Self { entries })
    }

    /// Writes a request of these entries, 1 to [`MAX_BATCH`], and gives its length.
    pub fn encode(entries: &[VerdictEntry], out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        Self::encode_each(entries.iter().copied(), out)
    }

    /// The same for entries that stand in no slice. They are as many as the iterator says.
    pub fn encode_each(
        entries: impl ExactSizeIterator<Item = VerdictEntry>,
        out: &mut [u8],
    ) -> Result<usize, BufferTooSmall> {
        let count = entries.len();
        let head = RawRequest {
            header: RawHeader::new(CODE, Self::len_for(count)),
            count: U32::new(len_u32(count)),
            reserved: [0; 4],
        };
        let rows = entries.map(|entry| RawEntry {
            id: U64::new(entry.id),
            verdict: entry.number,
            reserved: [0; 7],
        });
        put_table(&head, rows, out)
    }

    /// How many verdicts there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none; never so in a message that was decoded.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// One verdict, counted from 0.
    pub fn entry(&self, index: usize) -> Option<VerdictEntry> {
        self.entries.get(index).map(RawEntry::read)
    }

    /// The verdicts, in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = VerdictEntry> + use<'a> {
        self.entries.iter().map(RawEntry::read)
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawResponse {
    header: RawHeader,
    count: U32,
    applied: U32,
}

layout!(RawResponse: 24 { header: 0, count: 16, applied: 20 });

/// The outcomes of verdicts: a view of the message's bytes, checked whole.
#[derive(Clone, Copy)]
pub struct SetVerdictsResponse<'a> {
    outcomes: &'a [RawOutcome],
    applied: u32,
}

impl<'a> SetVerdictsResponse<'a> {
    /// The length of the part before the outcomes in bytes.
    pub const FIXED_LEN: usize = size_of::<RawResponse>();

    /// The length of an outcome in bytes.
    pub const OUTCOME_LEN: usize = size_of::<RawOutcome>();

    /// The length of a response of this many outcomes in bytes.
    pub const fn len_for(count: usize) -> usize {
        Self::FIXED_LEN.saturating_add(count.saturating_mul(Self::OUTCOME_LEN))
    }

    /// Reads the message and checks every outcome and their sum.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let place = Place::of("SET_VERDICTS response");
        let (raw, outcomes) = open_table::<RawResponse, RawOutcome>(place, CODE, bytes, |raw| {
            let offset = offset_of!(RawResponse, count);
            place.range("count", offset, raw.count.get(), 0, MAX_BATCH.into())?;
            Ok(raw.count.get())
        })?;
        let mut applied = 0_u64;
        // Bounded by MAX_BATCH.
        for (index, outcome) in outcomes.iter().enumerate() {
            let place = place.row(Self::FIXED_LEN, index, Self::OUTCOME_LEN);
            if outcome.read(place, 0)?.outcome == VerdictOutcome::Applied {
                applied = applied.saturating_add(1);
            }
        }
        let offset = offset_of!(RawResponse, applied);
        place.range("applied", offset, raw.applied.get(), applied, applied)?;
        Ok(Self {
            outcomes,
            applied: raw.applied.get(),
        })
    }

    /// Writes a response of these outcomes and gives its length.
    pub fn encode(outcomes: &[Outcome], out: &mut [u8]) -> Result<usize, BufferTooSmall> {
        let applied = outcomes
            .iter()
            .filter(|outcome| outcome.outcome == VerdictOutcome::Applied)
            .count();
        let head = raw_response(outcomes.len(), applied);
        put_table(&head, outcomes.iter().copied().map(RawOutcome::from), out)
    }

    /// How many outcomes there are: as many as verdicts were set.
    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }

    /// How many verdicts were applied.
    pub fn applied(&self) -> usize {
        len_usize(self.applied)
    }

    /// The outcomes, in the order of the verdicts.
    pub fn iter(&self) -> impl Iterator<Item = Outcome> + use<'a> {
        // All were read once without an error; none is left out here.
        let place = Place::of("SET_VERDICTS response");
        self.outcomes
            .iter()
            .filter_map(move |outcome| outcome.read(place, 0).ok())
    }
}

fn raw_response(count: usize, applied: usize) -> RawResponse {
    RawResponse {
        header: RawHeader::new(CODE, SetVerdictsResponse::len_for(count)),
        count: U32::new(len_u32(count)),
        applied: U32::new(len_u32(applied)),
    }
}
