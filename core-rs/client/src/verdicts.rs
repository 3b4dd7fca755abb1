//! `SET_VERDICTS`: many verdicts at once, as columns, and what became of each.

use kext_types::{Decision, VerdictOutcome};
use kext_wire::verdicts::{Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry};
use kext_wire::{ControlCode, MAX_BATCH};

use crate::calls::{self, Caller};
use crate::{Error, NotHeld};

const CODE: ControlCode = ControlCode::SetVerdicts;

/// The verdicts for a column of ids, by their numbers ([`Decision::number`]). A number that is no
/// verdict is answered with the outcome [`VerdictOutcome::InvalidVerdict`].
#[derive(Clone, Copy, Debug)]
pub enum Numbers<'a> {
    /// The same for each id.
    Same(i8),
    /// One for each id.
    Each(&'a [i8]),
}

/// What became of verdicts, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcomes {
    /// Numbers of [`VerdictOutcome`].
    pub codes: Vec<u8>,
    /// For [`VerdictOutcome::AlreadyDecided`] the number of the verdict that had decided, if it is
    /// known; else 0.
    pub firsts: Vec<i8>,
}

impl Outcomes {
    /// What became of one verdict as a result; `id` is the one that it was for.
    pub fn result(&self, row: usize, id: u64) -> Result<(), Error> {
        let outcome = self
            .codes
            .get(row)
            .and_then(|code| VerdictOutcome::from_number(*code))
            .unwrap_or(VerdictOutcome::UnknownId);
        let first = self.firsts.get(row).copied().unwrap_or(0);
        result(
            id,
            CODE,
            Outcome {
                outcome,
                first: Decision::from_number(first),
            },
        )
    }

    pub(crate) fn clear(&mut self) {
        self.codes.clear();
        self.firsts.clear();
    }

    fn push(&mut self, outcome: Outcome) {
        self.codes.push(outcome.outcome.number());
        self.firsts.push(outcome.first.map_or(0, Decision::number));
    }
}

/// Sets verdicts, in as many messages as they need, and adds what became of each to `outcomes`.
pub(crate) fn set(
    caller: &Caller,
    ids: &[u64],
    numbers: Numbers<'_>,
    outcomes: &mut Outcomes,
) -> Result<(), Error> {
    if let Numbers::Each(numbers) = numbers
        && numbers.len() != ids.len()
    {
        return Err(Error::Lengths {
            ids: ids.len(),
            verdicts: numbers.len(),
        });
    }
    outcomes.codes.reserve(ids.len());
    outcomes.firsts.reserve(ids.len());
    let most = MAX_BATCH as usize;
    // As many messages as the ids need.
    for (index, ids) in ids.chunks(most).enumerate() {
        let numbers = match numbers {
            Numbers::Each(numbers) => Numbers::Each(
                numbers
                    .get(index * most..)
                    .and_then(|rest| rest.get(..ids.len()))
                    .unwrap_or_default(),
            ),
            same @ Numbers::Same(_) => same,
        };
        set_some(caller, ids, numbers, outcomes)?;
    }
    Ok(())
}

/// Sets at most [`MAX_BATCH`] verdicts.
fn set_some(
    caller: &Caller,
    ids: &[u64],
    numbers: Numbers<'_>,
    outcomes: &mut Outcomes,
) -> Result<(), Error> {
    let len = SetVerdictsRequest::len_for(ids.len());
    let mut input = caller.take_buffer(len);
    let written = match numbers {
        Numbers::Same(number) => {
            let entry = |id: &u64| VerdictEntry { id: *id, number };
            SetVerdictsRequest::encode_each(ids.iter().map(entry), &mut input)
        }
        Numbers::Each(numbers) => {
            let entry = |(id, number): (&u64, &i8)| VerdictEntry {
                id: *id,
                number: *number,
            };
            SetVerdictsRequest::encode_each(ids.iter().zip(numbers).map(entry), &mut input)
        }
    };
    let sent = match (written, input.get(..len)) {
        // Room for the request too: where one buffer serves for both, none has to be made.
        (Ok(_), Some(message)) => caller.ask(CODE, message, len, |bytes| {
            let response = SetVerdictsResponse::decode(bytes)?;
            if response.len() != ids.len() {
                return Err(Error::Mismatch {
                    call: CODE.name(),
                    what: "another number of outcomes than there were verdicts",
                });
            }
            for outcome in response.iter() {
                outcomes.push(outcome);
            }
            Ok(())
        }),
        _ => Err(calls::unsent(CODE)),
    };
    caller.keep_buffer(input);
    sent
}

/// The result of a verdict or a payload request for one id.
pub(crate) fn result(id: u64, call: ControlCode, answer: Outcome) -> Result<(), Error> {
    let not_held = |why| Err(Error::NotHeld { id, why });
    match answer.outcome {
        VerdictOutcome::Applied => Ok(()),
        VerdictOutcome::UnknownId => Err(Error::UnknownId { id }),
        VerdictOutcome::AlreadyDecided => Err(match answer.first {
            Some(first) => Error::AlreadyDecided { id, first },
            None => Error::Mismatch {
                call: call.name(),
                what: "\"already decided\" without the verdict that did",
            },
        }),
        VerdictOutcome::Evicted => not_held(NotHeld::Evicted),
        VerdictOutcome::Expired => not_held(NotHeld::Expired),
        VerdictOutcome::Abandoned => not_held(NotHeld::Abandoned),
        VerdictOutcome::InvalidVerdict => Err(Error::InvalidVerdict { id }),
    }
}
