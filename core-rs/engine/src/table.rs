//! A hash table of fixed size in which every operation takes constant time.
//!
//! Entries stand side by side in a pool, where the one that was freed last is used next: few entries
//! stay few cache lines, however large the table. Where a key's entry is, is told by [`crate::tags`]:
//! no operation looks at more than two buckets, and no entry ever moves, so that a [`Handle`] stays
//! good until its entry is removed. When both buckets are full the entry of the lowest rank makes room.

use crate::memory::{OutOfMemory, Vec, filled};
use crate::tags::{self, WAYS};

/// Which entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Handle(u32);

impl Handle {
    /// Of no entry.
    pub(crate) const NONE: Self = Self(u32::MAX);

    /// Its place among the entries.
    pub(crate) const fn place(self) -> usize {
        self.0 as usize
    }
}

/// An entry of the pool.
struct Entry<K, V> {
    key: K,
    value: V,
    /// Its way, counted through all buckets; `None` while it is free.
    way: Option<u32>,
}

pub(crate) struct Table<K, V> {
    tags: Vec<u64>,
    /// Which entry each way of a bucket is.
    ways: Vec<[u32; WAYS]>,
    entries: Vec<Entry<K, V>>,
    /// The free entries, `free_len` of them, the one that was freed last at the end.
    free: Vec<u32>,
    free_len: usize,
    mask: usize,
}

impl<K: Copy + Eq, V> Table<K, V> {
    /// A table with `entries` entries, made by `make`, and at least as many ways to find them by as
    /// `ways`: the more, the less often both buckets of a key are full.
    pub(crate) fn try_new(
        what: &'static str,
        ways: usize,
        entries: usize,
        mut make: impl FnMut() -> (K, V),
    ) -> Result<Self, OutOfMemory> {
        let buckets = tags::buckets_for(ways);
        let mut next = entries as u32;
        Ok(Self {
            tags: filled(what, buckets, || 0)?,
            ways: filled(what, buckets, || [0; WAYS])?,
            entries: filled(what, entries, || {
                let (key, value) = make();
                Entry {
                    key,
                    value,
                    way: None,
                }
            })?,
            free: filled(what, entries, || {
                next -= 1;
                next
            })?,
            free_len: entries,
            mask: buckets - 1,
        })
    }

    /// How many entries there are.
    pub(crate) fn len(&self) -> usize {
        self.entries.len() - self.free_len
    }

    #[inline]
    pub(crate) fn find(&self, hash: u64, key: &K) -> Option<Handle> {
        // Bound: 2 buckets of WAYS entries.
        for bucket in tags::buckets(hash, self.mask) {
            let word = *self.tags.get(bucket)?;
            for way in tags::candidates(word, hash) {
                let entry = *self.ways.get(bucket)?.get(way)?;
                if self.entries.get(entry as usize)?.key == *key {
                    return Some(Handle(entry));
                }
            }
        }
        None
    }

    #[inline]
    pub(crate) fn get(&self, handle: Handle) -> Option<&V> {
        let entry = self.entries.get(handle.0 as usize)?;
        entry.way.is_some().then_some(&entry.value)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, handle: Handle) -> Option<&mut V> {
        let entry = self.entries.get_mut(handle.0 as usize)?;
        entry.way.is_some().then_some(&mut entry.value)
    }

    /// The key and the value of an entry.
    pub(crate) fn entry(&self, handle: Handle) -> Option<(&K, &V)> {
        let entry = self.entries.get(handle.0 as usize)?;
        entry.way.is_some().then_some((&entry.key, &entry.value))
    }

    pub(crate) fn find_mut(&mut self, hash: u64, key: &K) -> Option<&mut V> {
        let handle = self.find(hash, key)?;
        self.get_mut(handle)
    }

    /// Inserts a key that is not in the table; `None` if nothing can make room. Its value is whatever
    /// its place held before, for the caller to set: most of it would else be copied for nothing.
    ///
    /// `rank` tells how readily an entry makes room: the lowest goes first, `None` never goes.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        key: &K,
        rank: impl Fn(&V) -> Option<u64>,
    ) -> Option<(Handle, &mut V)> {
        let buckets = tags::buckets(hash, self.mask);
        let [mut first, mut second] = buckets.map(|bucket| self.free_ways(bucket));
        let (way, entry) = if first.number() + second.number() > 0 && self.free_len > 0 {
            // The emptier bucket takes it, which keeps both short.
            let [one, other] = buckets;
            let way = if second.number() > first.number() {
                other * WAYS + second.next()?
            } else {
                one * WAYS + first.next()?
            };
            (way, self.take_free()?)
        } else {
            self.lowest(buckets, rank)?
        };
        self.set_tag(way, tags::tag_of(hash));
        *self.ways.get_mut(way / WAYS)?.get_mut(way % WAYS)? = entry;
        let place = self.entries.get_mut(entry as usize)?;
        place.key = *key;
        place.way = Some(way as u32);
        Some((Handle(entry), &mut place.value))
    }

    /// Removes an entry that is there.
    pub(crate) fn remove(&mut self, handle: Handle) {
        let Some(entry) = self.entries.get_mut(handle.0 as usize) else {
            return;
        };
        let Some(way) = entry.way.take() else {
            return;
        };
        self.set_tag(way as usize, 0);
        if let Some(free) = self.free.get_mut(self.free_len) {
            *free = handle.0;
            self.free_len += 1;
        }
    }

    fn free_ways(&self, bucket: usize) -> tags::Ways {
        tags::free(self.tags.get(bucket).copied().unwrap_or(u64::MAX))
    }

    fn take_free(&mut self) -> Option<u32> {
        let top = self.free_len.checked_sub(1)?;
        let entry = *self.free.get(top)?;
        self.free_len = top;
        Some(entry)
    }

    fn set_tag(&mut self, way: usize, tag: u8) {
        if let Some(word) = self.tags.get_mut(way / WAYS) {
            *word ^= tags::change(*word, way, tag);
        }
    }

    /// The way and the entry of the lowest rank.
    fn lowest(
        &self,
        buckets: [usize; 2],
        rank: impl Fn(&V) -> Option<u64>,
    ) -> Option<(usize, u32)> {
        // Bound: 2 buckets of WAYS entries.
        buckets
            .into_iter()
            .flat_map(|bucket| bucket * WAYS..(bucket + 1) * WAYS)
            .filter_map(|way| {
                let word = *self.tags.get(way / WAYS)?;
                let entry = *self.ways.get(way / WAYS)?.get(way % WAYS)?;
                let value = &self.entries.get(entry as usize)?.value;
                (tags::tag_at(word, way) != 0).then_some((rank(value)?, way, entry))
            })
            .min()
            .map(|(_, way, entry)| (way, entry))
    }
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

    fn table(entries: usize) -> Table<u32, u64> {
        Table::try_new("test", entries, entries, || (0, 0)).unwrap()
    }

    fn insert(
        table: &mut Table<u32, u64>,
        key: u32,
        value: u64,
        rank: impl Fn(&u64) -> Option<u64>,
    ) -> bool {
        table
            .insert(hash(key), &key, rank)
            .map(|(_, place)| *place = value)
            .is_some()
    }

    #[test]
    fn the_lowest_rank_makes_room_and_none_never_does() {
        let mut table = table(WAYS);
        for key in 0..8 {
            assert!(insert(&mut table, key, u64::from(key), |_| None));
        }
        assert!(!insert(&mut table, 8, 8, |_| None));
        let rank = |value: &u64| (*value != 0).then_some(*value);
        assert!(insert(&mut table, 8, 8, rank));
        for key in 0..9 {
            assert_eq!(table.find(hash(key), &key).is_some(), key != 1, "{key}");
        }
    }

    #[test]
    fn a_full_table_is_nearly_full_of_entries() {
        let mut table = table(4_096);
        for key in 0..4_096 {
            assert!(insert(&mut table, key, 0, |_| Some(0)));
        }
        let found = (0..4_096).filter(|key| table.find(hash(*key), key).is_some());
        let evictions = 4_096 - found.count();
        assert!(evictions < 4_096 / 20, "{evictions} early evictions");
    }

    #[test]
    fn the_entry_that_was_freed_last_is_used_next() {
        let mut table = table(64);
        let (first, _) = table.insert(hash(1), &1, |_| None).unwrap();
        table.remove(first);
        assert!(table.get(first).is_none());
        let (second, _) = table.insert(hash(2), &2, |_| None).unwrap();
        assert_eq!(first, second);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(operations in prop::collection::vec((0..64u32, any::<bool>()), 0..400)) {
            let mut table = Table::try_new("test", 256, 64, || (0, 0)).unwrap();
            let mut model = HashMap::new();
            for (step, (key, add)) in operations.into_iter().enumerate() {
                let found = table.find(hash(key), &key);
                prop_assert_eq!(table.len(), model.len());
                prop_assert_eq!(found.and_then(|h| table.get(h)), model.get(&key));
                prop_assert_eq!(found.and_then(|h| table.entry(h)).map(|e| e.0), found.map(|_| &key));
                match (found, add) {
                    (None, true) => {
                        prop_assert!(insert(&mut table, key, step as u64, |_| None));
                        model.insert(key, step as u64);
                    }
                    (Some(handle), false) => {
                        table.remove(handle);
                        model.remove(&key);
                    }
                    _ => {}
                }
            }
        }
    }
}
