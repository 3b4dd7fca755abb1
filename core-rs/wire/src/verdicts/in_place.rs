//! Answers `SET_VERDICTS` over its own input, as `METHOD_BUFFERED` has it.
//!
//! Entry *i* begins at 24 + 16 *i* and outcome *i* at 24 + 4 *i*: in order, an outcome never covers
//! an entry that is still to be read. The order is kept here, not by the caller's care.

use kext_types::VerdictOutcome;
use zerocopy::{FromBytes, IntoBytes};

use super::{
    Outcome, RawEntry, RawOutcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry,
    raw_response,
};
use crate::{BufferTooSmall, Status};

/// A `SET_VERDICTS` request that is being answered in its own buffer.
#[derive(Debug)]
pub struct InPlace<'a> {
    buffer: &'a mut [u8],
    count: usize,
    answered: usize,
    applied: usize,
}

impl<'a> InPlace<'a> {
    /// Checks the request in the first `input_len` bytes of `buffer`, and that its answer fits in
    /// `output_len` bytes. Nothing is written; on an error nothing may be applied.
    pub fn new(buffer: &'a mut [u8], input_len: usize, output_len: usize) -> Result<Self, Status> {
        let input = buffer.get(..input_len);
        let input = input.ok_or(Status::INFO_LENGTH_MISMATCH)?;
        let count = SetVerdictsRequest::decode(input)?.len();
        let needed = SetVerdictsResponse::len_for(count);
        if output_len < needed {
            return Err(BufferTooSmall { needed }.status());
        }
        Ok(Self {
            buffer,
            count,
            answered: 0,
            applied: 0,
        })
    }

    /// How many verdicts there are.
    pub const fn count(&self) -> usize {
        self.count
    }

    /// One verdict, counted from 0; `None` beyond the last and for one that was answered.
    pub fn entry(&self, index: usize) -> Option<VerdictEntry> {
        if !(self.answered..self.count).contains(&index) {
            return None;
        }
        let start = SetVerdictsRequest::len_for(index);
        let (entry, _) = RawEntry::ref_from_prefix(self.buffer.get(start..)?).ok()?;
        Some(entry.read())
    }

    /// Answers verdict `index`, which must be the first that was not answered; says whether it
    /// was. Writes over the verdict.
    pub fn set_outcome(&mut self, index: usize, outcome: Outcome) -> bool {
        if index != self.answered || index >= self.count {
            return false;
        }
        let start = SetVerdictsResponse::len_for(index);
        if let Some(slot) = self.buffer.get_mut(start..) {
            let _ = RawOutcome::from(outcome).write_to_prefix(slot);
        }
        self.answered = self.answered.saturating_add(1);
        if outcome.outcome == VerdictOutcome::Applied {
            self.applied = self.applied.saturating_add(1);
        }
        true
    }

    /// Answers every verdict in order with what `apply` says of it, and completes the response.
    pub fn answer(mut self, mut apply: impl FnMut(VerdictEntry) -> Outcome) -> usize {
        // Bounded by MAX_BATCH.
        for index in self.answered..self.count {
            if let Some(entry) = self.entry(index) {
                let outcome = apply(entry);
                self.set_outcome(index, outcome);
            }
        }
        self.finish()
    }

    /// Completes the response and gives its length. A verdict that was not answered was not
    /// looked at, and is answered with an unknown id.
    pub fn finish(mut self) -> usize {
        // Bounded by MAX_BATCH.
        for index in self.answered..self.count {
            self.set_outcome(index, VerdictOutcome::UnknownId.into());
        }
        let head = raw_response(self.count, self.applied);
        let _ = head.write_to_prefix(self.buffer);
        SetVerdictsResponse::len_for(self.count)
    }
}
