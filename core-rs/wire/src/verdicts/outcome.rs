//! What became of a verdict, as `SET_VERDICTS` and `READ_PAYLOAD` tell it.

use core::mem::offset_of;

use kext_types::{Decision, VerdictOutcome};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::DecodeError;
use crate::error::Place;

/// What became of a verdict, or of the packet that a payload was asked of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// What became of it.
    pub outcome: VerdictOutcome,
    /// The decision that came first; only for [`VerdictOutcome::AlreadyDecided`], and `None` if it
    /// is no longer known.
    pub first: Option<Decision>,
}

impl From<VerdictOutcome> for Outcome {
    fn from(outcome: VerdictOutcome) -> Self {
        let first = None;
        Self { outcome, first }
    }
}

#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawOutcome {
    outcome: u8,
    first: i8,
    reserved: [u8; 2],
}

layout!(RawOutcome: 4 { outcome: 0, first: 1, reserved: 2 });

impl From<Outcome> for RawOutcome {
    fn from(outcome: Outcome) -> Self {
        let first = match outcome.outcome {
            VerdictOutcome::AlreadyDecided => outcome.first.map_or(0, Decision::number),
            _ => 0,
        };
        Self {
            outcome: outcome.outcome.number(),
            first,
            reserved: [0; 2],
        }
    }
}

impl RawOutcome {
    /// The outcome; `offset` is where this structure begins in the one that `place` stands for.
    pub(crate) fn read(&self, place: Place, offset: usize) -> Result<Outcome, DecodeError> {
        let place = place.row(place.base.saturating_add(offset), 0, 0);
        let outcome = VerdictOutcome::from_number(self.outcome)
            .ok_or_else(|| place.unknown("outcome", offset_of!(Self, outcome), self.outcome))?;
        let first = match (outcome, self.first) {
            (_, 0) => None,
            (VerdictOutcome::AlreadyDecided, number) => Decision::from_number(number),
            _ => None,
        };
        if first.is_none() && self.first != 0 {
            return Err(place.unknown("first", offset_of!(Self, first), self.first));
        }
        place.reserved(offset_of!(Self, reserved), &self.reserved)?;
        Ok(Outcome { outcome, first })
    }
}
