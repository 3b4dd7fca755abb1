//! From a value to the set of rules that allow it: a sorted table of intervals.
//!
//! All conditions that are sets of ranges (addresses of both families, ports, processes) use it. The
//! rules' ranges cut the values into intervals, and within one the same rules allow every value.

use std::hint::select_unpredictable;
use std::ops::RangeInclusive;

use crate::error::RuleError;
use crate::sets::{SetId, SetsBuilder};

/// The least and the greatest number of slots of the index, as powers of two.
const INDEX_BITS: RangeInclusive<u32> = 4..=16;

/// An unsigned integer that rules can have ranges of.
pub(crate) trait Value: Copy + Ord {
    const MIN: Self;
    /// The next greater one, unless this is the greatest.
    fn next(self) -> Option<Self>;
    /// How many bits it has from the highest that is set.
    fn bits(self) -> u32;
    /// The value without this many low bits.
    fn slot(self, shift: u32) -> usize;
}

macro_rules! values {
    ($($integer:ty)*) => {$(
        impl Value for $integer {
            const MIN: Self = Self::MIN;

            fn next(self) -> Option<Self> {
                self.checked_add(1)
            }

            fn bits(self) -> u32 {
                Self::BITS - self.leading_zeros()
            }

            #[inline]
            fn slot(self, shift: u32) -> usize {
                (self >> shift) as usize
            }
        }
    )*};
}

values! { u16 u32 u64 u128 }

/// Intervals of values with the set of rules for each.
#[derive(Debug)]
pub(crate) struct Intervals<V> {
    /// The first value of each interval, in order, from the least value of all. Behind them the last
    /// one again, as often as a search may look beyond the end.
    starts: Vec<V>,
    /// The set of each interval, with as many at the end.
    sets: Vec<SetId>,
    /// The last start.
    last: V,
    /// For each run of 2^`shift` values up to `last`: the interval of its first value.
    index: Vec<u32>,
    shift: u32,
    /// Steps of a search from the interval in `index`: as many for every value, so that the processor
    /// has no branch to guess. Each halves what is left.
    steps: u32,
}

impl<V: Value> Intervals<V> {
    /// Compiles the ranges of each rule; `None` for a rule that allows every value. `Ok(None)` if all
    /// do.
    pub(crate) fn compile(
        rules: impl Iterator<Item = Option<Vec<RangeInclusive<V>>>>,
        sets: &mut SetsBuilder,
    ) -> Result<Option<Self>, RuleError> {
        let mut current = sets.empty();
        let mut edges: Vec<Edge<V>> = Vec::new();
        let mut conditional = false;
        for (rule, ranges) in rules.enumerate() {
            let Some(ranges) = ranges else {
                current.insert(rule);
                continue;
            };
            conditional = true;
            for range in merged(ranges) {
                edges.push(Edge {
                    at: *range.start(),
                    rule,
                    inside: true,
                });
                if let Some(at) = range.end().next() {
                    edges.push(Edge {
                        at,
                        rule,
                        inside: false,
                    });
                }
            }
        }
        if !conditional {
            return Ok(None);
        }
        edges.sort_unstable_by_key(|edge| edge.at);
        let mut table: Vec<(V, SetId)> = Vec::new();
        let mut start = V::MIN;
        for edge in edges {
            if edge.at != start {
                append(&mut table, start, sets.intern(&current)?);
                start = edge.at;
            }
            if edge.inside {
                current.insert(edge.rule);
            } else {
                current.remove(edge.rule);
            }
        }
        append(&mut table, start, sets.intern(&current)?);
        Ok(Some(Self::index(table)))
    }

    /// Makes the index for intervals in order, the first of which starts at the least value.
    fn index(table: Vec<(V, SetId)>) -> Self {
        let (mut starts, mut sets): (Vec<V>, Vec<SetId>) = table.into_iter().unzip();
        let (Some(&last), Some(&last_set)) = (starts.last(), sets.last()) else {
            unreachable!("there is an interval for the least value")
        };
        // Four slots for each interval, so that most have no start within.
        let bits = (starts.len().ilog2() + 3).clamp(*INDEX_BITS.start(), *INDEX_BITS.end());
        let shift = last.bits().saturating_sub(bits);
        let slots = last.slot(shift) + 1;
        let mut index = Vec::with_capacity(slots);
        let mut most = 0;
        let mut interval = 0;
        for slot in 0..slots {
            let before = |at: usize| starts.get(at).is_some_and(|start| start.slot(shift) < slot);
            // All slots together: one step for each interval.
            while before(interval + 1) {
                interval += 1;
            }
            let first = starts[interval..]
                .iter()
                .take_while(|start| start.slot(shift) <= slot)
                .count();
            index.push(interval as u32);
            most = most.max(first);
        }
        let steps = most.next_power_of_two().ilog2();
        let end = starts.len() + (1 << steps);
        starts.resize(end, last);
        sets.resize(end, last_set);
        Self {
            starts,
            sets,
            last,
            index,
            shift,
            steps,
        }
    }

    /// The set of rules that allow this value.
    #[inline]
    pub(crate) fn find(&self, value: V) -> SetId {
        let value = value.min(self.last);
        let mut interval = self.index[value.slot(self.shift)] as usize;
        for step in (0..self.steps).rev() {
            let next = interval + (1 << step);
            interval = select_unpredictable(self.starts[next] <= value, next, interval);
        }
        self.sets[interval]
    }

    /// The same for many values.
    #[inline]
    pub(crate) fn find_all(&self, values: &[V], sets: &mut [SetId]) {
        for (set, value) in sets.iter_mut().zip(values) {
            *set = self.find(*value);
        }
    }
}

/// Where a rule begins or ceases to allow values.
struct Edge<V> {
    at: V,
    rule: usize,
    inside: bool,
}

/// Ranges that neither overlap nor touch, with the same values.
fn merged<V: Value>(mut ranges: Vec<RangeInclusive<V>>) -> Vec<RangeInclusive<V>> {
    ranges.sort_unstable_by_key(|range| *range.start());
    let mut merged: Vec<RangeInclusive<V>> = Vec::with_capacity(ranges.len());
    for range in ranges {
        match merged.last_mut() {
            Some(last) if last.end().next().is_none_or(|next| *range.start() <= next) => {
                *last = *last.start()..=*last.end().max(range.end());
            }
            _ => merged.push(range),
        }
    }
    merged
}

/// Appends an interval, or lengthens the last one if it has the same rules.
fn append<V>(table: &mut Vec<(V, SetId)>, start: V, set: SetId) {
    if table.last().is_none_or(|(_, last)| *last != set) {
        table.push((start, set));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// For each value, the lowest rule that allows it.
    fn lowest<V: Value>(
        rules: Vec<Option<Vec<RangeInclusive<V>>>>,
        values: impl IntoIterator<Item = V>,
    ) -> Vec<Option<usize>> {
        let mut sets = SetsBuilder::new(rules.len());
        let table = Intervals::compile(rules.into_iter(), &mut sets)
            .unwrap()
            .expect("a rule with a condition");
        let sets = sets.build();
        values
            .into_iter()
            .map(|value| sets.first_common([table.find(value)]))
            .collect()
    }

    #[test]
    fn both_ends_of_the_values_can_be_named() {
        let rules = vec![Some(vec![0..=0, u16::MAX..=u16::MAX]), Some(vec![1..=1])];
        let found = lowest(rules, [0, 1, 2, u16::MAX - 1, u16::MAX]);
        assert_eq!(found, [Some(0), Some(1), None, None, Some(0)]);
        let rules = vec![Some(vec![0..=u128::MAX]), Some(vec![7..=8])];
        assert_eq!(lowest(rules, [0, 7, u128::MAX]), [Some(0); 3]);
    }

    #[test]
    fn values_beyond_a_machine_word_are_not_cut() {
        let rules = vec![Some(vec![1..=1, 3..=4])];
        let found = lowest::<u128>(rules, [1, 1 << 64 | 1, 2, 4, 5, u128::MAX]);
        assert_eq!(found, [Some(0), None, None, Some(0), None, None]);
    }

    #[test]
    fn no_table_without_a_condition() {
        let mut sets = SetsBuilder::new(2);
        let rules = [None::<Vec<RangeInclusive<u16>>>, None];
        assert!(
            Intervals::compile(rules.into_iter(), &mut sets)
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_crowded_slot_is_searched() {
        // Every second value of a small corner, under one far away that widens the slots.
        let rules: Vec<_> = (0..500_u32)
            .map(|rule| Some(vec![2 * rule..=2 * rule]))
            .chain([Some(vec![u32::MAX - 1..=u32::MAX])])
            .collect();
        let found = lowest(rules, (0..1_000).chain([1_000, u32::MAX]));
        for (value, found) in found.iter().take(1_000).enumerate() {
            assert_eq!(*found, (value % 2 == 0).then_some(value / 2));
        }
        assert_eq!(found[1_000..], [None, Some(500)]);
    }

    proptest! {
        #[test]
        fn every_value_has_the_first_rule_with_a_range_that_holds_it(
            rules in proptest::collection::vec(
                proptest::option::weighted(0.9, proptest::collection::vec(
                    (0..120_u16, 0..12_u16).prop_map(|(start, more)| start..=start + more),
                    1..5,
                )),
                1..80,
            ),
            far in 0..u16::MAX,
        ) {
            let mut rules = rules;
            rules[0] = Some(vec![far..=far]);
            let values = || (0..140_u16).chain([far, far.saturating_add(1)]);
            let found = lowest(rules.clone(), values());
            for (value, found) in values().zip(found) {
                let first = rules.iter().position(|rule| {
                    rule.as_ref()
                        .is_none_or(|ranges| ranges.iter().any(|range| range.contains(&value)))
                });
                prop_assert_eq!(found, first, "value {}", value);
            }
        }
    }
}
