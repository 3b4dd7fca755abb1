//! How often each rule decided.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::MAX_RULES;

/// Batches from here on are counted by themselves first and added once. Below, clearing the room for
/// that costs more than it saves.
const LARGE: usize = 256;

/// How many requests are counted by themselves before they are added: far fewer than a counter of 32
/// bits can count, and so many that adding costs nothing beside.
const TALLIED: usize = 1 << 16;

/// A counter for each rule, and one for misses.
///
/// Relaxed: the counters are statistics, and say nothing about other memory.
#[derive(Debug)]
pub(crate) struct Hits {
    /// By rule; misses come last.
    counters: Box<[AtomicU64]>,
}

impl Hits {
    pub(crate) fn new(rules: usize) -> Self {
        debug_assert!(rules <= MAX_RULES);
        Self {
            counters: (0..=rules).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    /// Counts requests by the rule that matched, any other number being a miss.
    pub(crate) fn count(&self, rules: &[u16]) {
        if rules.len() < LARGE.max(self.counters.len() / 4) {
            for rule in rules {
                self.add(self.place(*rule), 1);
            }
            return;
        }
        self.count_large(rules);
    }

    /// Not inlined: its stack frame is large.
    #[inline(never)]
    // 16 KiB and a counter: user mode has stacks of at least a hundred.
    #[allow(clippy::large_stack_arrays)]
    fn count_large(&self, rules: &[u16]) {
        let mut tally = [0_u32; MAX_RULES + 1];
        for rules in rules.chunks(TALLIED) {
            for rule in rules {
                tally[self.place(*rule)] += 1;
            }
            for (place, count) in tally.iter_mut().take(self.counters.len()).enumerate() {
                if *count != 0 {
                    self.add(place, u64::from(*count));
                    *count = 0;
                }
            }
        }
    }

    fn place(&self, rule: u16) -> usize {
        usize::from(rule).min(self.counters.len() - 1)
    }

    fn add(&self, place: usize, count: u64) {
        self.counters[place].fetch_add(count, Ordering::Relaxed);
    }

    /// By rule, then misses.
    pub(crate) fn read(&self) -> impl Iterator<Item = u64> {
        self.counters
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::NO_RULE;

    #[test]
    fn small_and_large_batches_are_counted_alike() {
        for rules in [0, 1, 100, MAX_RULES] {
            let hits = Hits::new(rules);
            let last = (rules as u16).checked_sub(1).unwrap_or(NO_RULE);
            let large: Vec<u16> = [last, NO_RULE, last].repeat(TALLIED);
            hits.count(&large);
            hits.count(&[NO_RULE, last]);
            let read: Vec<u64> = hits.read().collect();
            let n = TALLIED as u64;
            assert_eq!(read.len(), rules + 1);
            if rules == 0 {
                assert_eq!(read, [3 * n + 2]);
            } else {
                assert_eq!(read[rules - 1..], [2 * n + 1, n + 1]);
                assert!(read[..rules - 1].iter().all(|count| *count == 0));
            }
        }
    }
}
