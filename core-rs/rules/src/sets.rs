//! Sets of rules, each different set once, and the first rule of an intersection.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::error::RuleError;
use crate::{MAX_RULES, MAX_SET_BYTES};

const WORD: usize = u64::BITS as usize;

/// A set in a [`Sets`]: where it begins there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SetId(u32);

impl SetId {
    /// The set of all rules.
    pub(crate) const ALL: Self = Self(0);
}

/// Sets of rules, all of the same size.
///
/// A set is a bit for each rule, in words of 64. Sets of more than one word begin with a summary: a
/// bit for each word, set if the word is not zero. An intersection looks only at words whose summaries
/// have that bit in all sets.
#[derive(Debug)]
pub(crate) struct Sets {
    words: Vec<u64>,
    /// Words of a set, the summary included.
    stride: usize,
}

impl Sets {
    /// The lowest rule that is in all of the sets.
    ///
    /// Looks at one word of each set, and at one more for each bit that the summaries have in common:
    /// at most 1 + [`MAX_RULES`] / 64.
    #[inline]
    pub(crate) fn first_common<const N: usize>(&self, sets: [SetId; N]) -> Option<usize> {
        let common = |word: usize| {
            sets.iter()
                .fold(!0, |all, set| all & self.words[set.0 as usize + word])
        };
        if self.stride == 1 {
            return lowest(common(0));
        }
        let mut candidates = common(0);
        while let Some(word) = lowest(candidates) {
            if let Some(bit) = lowest(common(1 + word)) {
                return Some(word * WORD + bit);
            }
            candidates &= candidates - 1;
        }
        None
    }
}

/// The lowest bit that is set.
#[inline]
fn lowest(word: u64) -> Option<usize> {
    (word != 0).then(|| word.trailing_zeros() as usize)
}

/// Collects sets while a policy is compiled.
#[derive(Debug)]
pub(crate) struct SetsBuilder {
    sets: Sets,
    /// Sets by hash; where two have the same hash, the later one is under the next that is free.
    known: HashMap<u64, SetId>,
    /// The words that a set has without its summary.
    body: usize,
    limit: usize,
}

impl SetsBuilder {
    /// For so many rules; there is the set of all of them.
    pub(crate) fn new(rules: usize) -> Self {
        debug_assert!(rules <= MAX_RULES);
        let body = rules.div_ceil(WORD).max(1);
        let mut builder = Self {
            sets: Sets {
                words: Vec::new(),
                stride: if body == 1 { 1 } else { 1 + body },
            },
            known: HashMap::new(),
            body,
            limit: MAX_SET_BYTES / size_of::<u64>(),
        };
        let mut all = builder.empty();
        for rule in 0..rules {
            all.insert(rule);
        }
        let id = builder.intern(&all);
        debug_assert_eq!(id, Ok(SetId::ALL));
        builder
    }

    /// A set of no rules, to be filled and interned.
    pub(crate) fn empty(&self) -> RuleSet {
        RuleSet(vec![0; self.body])
    }

    /// The id of a set with these rules.
    pub(crate) fn intern(&mut self, set: &RuleSet) -> Result<SetId, RuleError> {
        let mut hasher = DefaultHasher::new();
        set.0.hash(&mut hasher);
        let mut hash = hasher.finish();
        // One step for each known set at most.
        loop {
            match self.known.entry(hash) {
                Entry::Occupied(known) => {
                    let end = known.get().0 as usize + self.sets.stride;
                    if self.sets.words[end - self.body..end] == set.0 {
                        return Ok(*known.get());
                    }
                    hash = hash.wrapping_add(1);
                }
                Entry::Vacant(place) => {
                    let at = self.sets.words.len();
                    if at + self.sets.stride > self.limit {
                        return Err(RuleError::TooLarge);
                    }
                    if self.sets.stride > 1 {
                        self.sets.words.push(set.summary());
                    }
                    self.sets.words.extend_from_slice(&set.0);
                    // The limit is far below 2³² words.
                    return Ok(*place.insert(SetId(at as u32)));
                }
            }
        }
    }

    /// The sets, when all are there.
    pub(crate) fn build(mut self) -> Sets {
        self.sets.words.shrink_to_fit();
        self.sets
    }
}

/// One set of rules while it is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RuleSet(Vec<u64>);

impl RuleSet {
    pub(crate) fn insert(&mut self, rule: usize) {
        self.0[rule / WORD] |= 1 << (rule % WORD);
    }

    pub(crate) fn remove(&mut self, rule: usize) {
        self.0[rule / WORD] &= !(1 << (rule % WORD));
    }

    fn summary(&self) -> u64 {
        self.0
            .iter()
            .enumerate()
            .fold(0, |all, (word, bits)| all | u64::from(*bits != 0) << word)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(builder: &mut SetsBuilder, rules: &[usize]) -> SetId {
        let mut set = builder.empty();
        for rule in rules {
            set.insert(*rule);
        }
        builder.intern(&set).unwrap()
    }

    #[test]
    fn the_lowest_common_rule_is_found_at_any_size() {
        for rules in [1, 2, 63, 64, 65, 128, 129, 1_000, MAX_RULES] {
            let mut builder = SetsBuilder::new(rules);
            let last = rules - 1;
            let none = set(&mut builder, &[]);
            let ends = set(&mut builder, &[0, last]);
            let end = set(&mut builder, &[last]);
            let middle = set(&mut builder, &[rules / 2, last]);
            let sets = builder.build();
            assert_eq!(sets.first_common([SetId::ALL, SetId::ALL]), Some(0));
            assert_eq!(sets.first_common([ends, SetId::ALL]), Some(0));
            assert_eq!(sets.first_common([ends, end]), Some(last));
            assert_eq!(sets.first_common([middle, SetId::ALL]), Some(rules / 2));
            assert_eq!(sets.first_common([none, SetId::ALL]), None);
        }
    }

    #[test]
    fn words_in_common_without_a_rule_in_common_are_passed() {
        let mut builder = SetsBuilder::new(300);
        let even = set(&mut builder, &[0, 64, 128, 256]);
        let odd = set(&mut builder, &[1, 65, 129, 256]);
        let less = set(&mut builder, &[1, 65, 129]);
        let sets = builder.build();
        assert_eq!(sets.first_common([even, odd]), Some(256));
        assert_eq!(sets.first_common([even, less]), None);
    }

    #[test]
    fn no_rules_have_an_empty_set_of_all() {
        let sets = SetsBuilder::new(0).build();
        assert_eq!(sets.first_common([SetId::ALL; 6]), None);
    }

    #[test]
    fn equal_sets_are_one() {
        let mut builder = SetsBuilder::new(100);
        let first = set(&mut builder, &[3, 99]);
        let length = builder.sets.words.len();
        assert_eq!(set(&mut builder, &[99, 3]), first);
        assert_eq!(builder.sets.words.len(), length);
        assert_ne!(set(&mut builder, &[3]), first);
    }

    #[test]
    fn memory_is_bounded() {
        let mut builder = SetsBuilder::new(100);
        builder.limit = 3 * builder.sets.stride;
        set(&mut builder, &[1]);
        set(&mut builder, &[2]);
        let mut third = builder.empty();
        third.insert(3);
        assert_eq!(builder.intern(&third), Err(RuleError::TooLarge));
        set(&mut builder, &[2]);
    }
}
