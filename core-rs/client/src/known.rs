//! What a session remembers of the ids that it was given: which wait for a verdict, and which verdict
//! each of the last ones got.
//!
//! A table of a fixed size in which an id has one place; a newer one takes it over. It is a memory, not
//! the truth: about an id that it does not know, the extension has to be asked.

use kext_types::Decision;

/// The ids that can be remembered for each packet that the extension can hold.
const ROOM: usize = 4;
const MIN_ENTRIES: usize = 1 << 10;
const MAX_ENTRIES: usize = 1 << 18;

/// What is remembered of an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nothing.
    Unknown,
    /// It was given, and has no verdict yet.
    Undecided,
    /// It has this verdict.
    Decided(Decision),
}

#[derive(Clone, Copy)]
struct Entry {
    /// 0 for none; no id is 0.
    id: u64,
    /// The verdict's number; 0 for none.
    number: i8,
}

pub(crate) struct Known {
    entries: Box<[Entry]>,
    shift: u32,
}

impl Known {
    /// For an extension that can hold this many packets.
    pub(crate) fn new(packets: u32) -> Self {
        let wanted = (packets as usize).saturating_mul(ROOM);
        let len = wanted.next_power_of_two().clamp(MIN_ENTRIES, MAX_ENTRIES);
        Self {
            entries: vec![Entry { id: 0, number: 0 }; len].into(),
            shift: u64::BITS - len.trailing_zeros(),
        }
    }

    /// Takes note of ids that were given.
    pub(crate) fn give(&mut self, ids: &[u64]) {
        for &id in ids {
            if let Some(entry) = self.entry(id) {
                *entry = Entry { id, number: 0 };
            }
        }
    }

    /// What is remembered of an id.
    pub(crate) fn standing(&mut self, id: u64) -> Standing {
        match self.entry(id) {
            Some(entry) if entry.id == id && id != 0 => match Decision::from_number(entry.number) {
                Some(decision) => Standing::Decided(decision),
                None => Standing::Undecided,
            },
            _ => Standing::Unknown,
        }
    }

    /// Takes note of the verdict for an undecided id; else says what stands, and changes nothing.
    pub(crate) fn decide(&mut self, id: u64, number: i8) -> Standing {
        let standing = self.standing(id);
        if standing == Standing::Undecided {
            self.settle(id, number);
        }
        standing
    }

    /// Takes note of a verdict that the extension has applied.
    pub(crate) fn settle(&mut self, id: u64, number: i8) {
        if let Some(entry) = self.entry(id) {
            *entry = Entry { id, number };
        }
    }

    /// Forgets an id, so that the extension is asked.
    pub(crate) fn forget(&mut self, id: u64) {
        if let Some(entry) = self.entry(id)
            && entry.id == id
        {
            *entry = Entry { id: 0, number: 0 };
        }
    }

    /// The one place of an id. Ids that follow each other, as the extension gives them, are spread by
    /// the golden ratio (Knuth, TAOCP volume 3, section 6.4) and hardly ever share one.
    fn entry(&mut self, id: u64) -> Option<&mut Entry> {
        let place = id.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> self.shift;
        self.entries.get_mut(place as usize)
    }
}

#[cfg(test)]
mod tests {
    use kext_types::Verdict;

    use super::*;

    const DROP: Decision = Decision {
        verdict: Verdict::Drop,
        permanent: false,
    };

    #[test]
    fn an_id_is_undecided_then_decided_then_forgotten() {
        let mut known = Known::new(16);
        assert_eq!(known.standing(7), Standing::Unknown);
        assert_eq!(known.decide(7, DROP.number()), Standing::Unknown);
        known.give(&[7]);
        assert_eq!(known.decide(7, DROP.number()), Standing::Undecided);
        assert_eq!(known.decide(7, 2), Standing::Decided(DROP));
        known.forget(8);
        assert_eq!(known.standing(7), Standing::Decided(DROP));
        known.forget(7);
        assert_eq!(known.standing(7), Standing::Unknown);
        assert_eq!(known.standing(0), Standing::Unknown);
    }

    #[test]
    fn the_ids_of_all_held_packets_are_remembered_at_once() {
        // As the engine makes them: a counter over a slot.
        for packets in [1_024_u64, 65_536] {
            let bits = packets.trailing_zeros();
            let ids: Vec<_> = (1..=packets)
                .map(|n| (n + 1_000_000) << bits | (n % packets))
                .collect();
            let mut known = Known::new(packets as u32);
            known.give(&ids);
            let remembered = ids
                .iter()
                .filter(|id| known.standing(**id) == Standing::Undecided)
                .count();
            assert_eq!(remembered, ids.len());
        }
    }
}
