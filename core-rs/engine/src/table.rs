//! A hash table of fixed size in which every operation takes constant time.
//!
//! Entries live in buckets of [`WAYS`]; a key may stand in one of two buckets. No operation looks at
//! more than these `2 * WAYS` entries and none ever moves, so that a [`Handle`] stays good until its
//! entry is removed. When both buckets are full the entry of the lowest rank makes room.

use crate::memory::{OutOfMemory, Vec, filled};

/// Entries in a bucket.
pub(crate) const WAYS: usize = 8;

/// The tag of a free way; the tags of entries have the top bit set.
const FREE: u8 = 0;

/// Where an entry stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(u32);

/// What became of an insertion.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Inserted<K, V> {
    /// It stands, in a free way.
    Free(Handle),
    /// It stands, and this entry made room.
    Evicted(Handle, K, V),
    /// Every entry that could make room refused.
    Full,
}

pub(crate) struct Table<K, V> {
    tags: Vec<u8>,
    entries: Vec<Option<(K, V)>>,
    bucket_mask: usize,
}

impl<K: Copy + Eq, V> Table<K, V> {
    /// A table for `capacity` entries, rounded up to a power of two of at least one bucket.
    pub(crate) fn try_new(what: &'static str, capacity: usize) -> Result<Self, OutOfMemory> {
        let buckets = capacity.div_ceil(WAYS).next_power_of_two();
        let ways = buckets.saturating_mul(WAYS);
        Ok(Self {
            tags: filled(what, ways, || FREE)?,
            entries: filled(what, ways, || None)?,
            bucket_mask: buckets - 1,
        })
    }

    pub(crate) fn find(&self, hash: u64, key: &K) -> Option<Handle> {
        let tag = tag_of(hash);
        // Bound: 2 buckets of WAYS entries.
        for base in self.buckets(hash) {
            for way in base..base + WAYS {
                if self.tags.get(way) == Some(&tag)
                    && matches!(self.entries.get(way), Some(Some((k, _))) if k == key)
                {
                    return Some(Handle(way as u32));
                }
            }
        }
        None
    }

    pub(crate) fn get(&self, handle: Handle) -> Option<&V> {
        match self.entries.get(handle.0 as usize) {
            Some(Some((_, value))) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut V> {
        match self.entries.get_mut(handle.0 as usize) {
            Some(Some((_, value))) => Some(value),
            _ => None,
        }
    }

    pub(crate) fn find_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let handle = self.find(hash, key)?;
        self.get_mut(handle)
    }

    /// Inserts a key that is not in the table. `rank` tells how readily an entry makes room: the
    /// lowest goes first, `None` never goes.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        key: K,
        value: V,
        rank: impl Fn(&V) -> Option<u64>,
    ) -> Inserted<K, V> {
        let [first, second] = self.buckets(hash);
        let (free_first, used_first) = self.survey(first);
        let (free_second, used_second) = self.survey(second);
        // The emptier bucket takes it, which keeps both short.
        let free = match (free_first, free_second) {
            (Some(a), Some(b)) => Some(if used_first <= used_second { a } else { b }),
            (a, b) => a.or(b),
        };
        let way = match free {
            Some(way) => way,
            None => match self.lowest([first, second], rank) {
                Some(way) => way,
                None => return Inserted::Full,
            },
        };
        let (Some(tag), Some(entry)) = (self.tags.get_mut(way), self.entries.get_mut(way)) else {
            return Inserted::Full;
        };
        *tag = tag_of(hash);
        let handle = Handle(way as u32);
        match entry.replace((key, value)) {
            Some((key, value)) => Inserted::Evicted(handle, key, value),
            None => Inserted::Free(handle),
        }
    }

    pub(crate) fn remove(&mut self, handle: Handle) -> Option<(K, V)> {
        let way = handle.0 as usize;
        *self.tags.get_mut(way)? = FREE;
        self.entries.get_mut(way)?.take()
    }

    /// The first ways of the two buckets of a hash.
    fn buckets(&self, hash: u64) -> [usize; 2] {
        let first = hash as usize & self.bucket_mask;
        let second = (hash >> 32) as usize & self.bucket_mask;
        [first * WAYS, second * WAYS]
    }

    /// The first free way of a bucket, and how many are used.
    fn survey(&self, base: usize) -> (Option<usize>, usize) {
        let mut free = None;
        let mut used = 0;
        // Bound: WAYS.
        for way in base..base + WAYS {
            if self.tags.get(way) == Some(&FREE) {
                free = free.or(Some(way));
            } else {
                used += 1;
            }
        }
        (free, used)
    }

    fn lowest(&self, bases: [usize; 2], rank: impl Fn(&V) -> Option<u64>) -> Option<usize> {
        // Bound: 2 buckets of WAYS entries.
        bases
            .into_iter()
            .flat_map(|base| base..base + WAYS)
            .filter_map(|way| match self.entries.get(way) {
                Some(Some((_, value))) => Some((rank(value)?, way)),
                _ => None,
            })
            .min()
            .map(|(_, way)| way)
    }
}

/// Seven bits of the hash that choose no bucket of a table below 2^25 buckets, and the used mark.
const fn tag_of(hash: u64) -> u8 {
    (hash >> 57) as u8 | 0x80
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;
    use crate::hash::KeyHasher;

    fn hash(key: u32) -> u64 {
        KeyHasher::new(7).hash(&key)
    }

    #[test]
    fn the_lowest_rank_makes_room_and_none_never_does() {
        let mut table = Table::try_new("test", WAYS).unwrap();
        for key in 0..8 {
            assert!(matches!(
                table.insert(hash(key), key, u64::from(key), |_| None),
                Inserted::Free(_)
            ));
        }
        assert_eq!(table.insert(hash(8), 8, 8, |_| None), Inserted::Full);
        let evicted = table.insert(hash(8), 8, 8, |rank| (*rank != 0).then_some(*rank));
        assert!(matches!(evicted, Inserted::Evicted(_, 1, 1)));
        assert!(table.find(hash(1), &1).is_none());
        assert!(table.find(hash(8), &8).is_some());
    }

    #[test]
    fn a_full_table_is_nearly_full_of_entries() {
        let mut table = Table::try_new("test", 4_096).unwrap();
        let evictions = (0..4_096)
            .filter(|&key| {
                matches!(
                    table.insert(hash(key), key, (), |()| Some(0)),
                    Inserted::Evicted(..)
                )
            })
            .count();
        assert!(evictions < 4_096 / 20, "{evictions} early evictions");
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(operations in prop::collection::vec((0..64u32, any::<bool>()), 0..400)) {
            let mut table = Table::try_new("test", 256).unwrap();
            let mut model = HashMap::new();
            for (step, (key, insert)) in operations.into_iter().enumerate() {
                let found = table.find(hash(key), &key);
                prop_assert_eq!(found.and_then(|h| table.get(h)), model.get(&key));
                match (found, insert) {
                    (None, true) => {
                        let inserted = table.insert(hash(key), key, step, |_| None);
                        prop_assert!(matches!(inserted, Inserted::Free(_)));
                        model.insert(key, step);
                    }
                    (Some(handle), false) => {
                        prop_assert_eq!(table.remove(handle).map(|e| e.1), model.remove(&key));
                    }
                    _ => {}
                }
            }
        }
    }
}
