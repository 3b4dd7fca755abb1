//! The verdict cache's table: fixed in size, a lock for each flow.
//!
//! A key may stand in one of two buckets of [`WAYS`] ways. A look-up reads the buckets' tags without
//! a lock and then locks the one way that may hold its flow, so that processors only meet at the
//! same flow. What a hit reads and writes is one pair of cache lines, its lock included; what only
//! redirects, reports and payload need stands apart.
//!
//! Which way makes room is told by coarse stamps beside the tags, or eviction would have to read
//! sixteen ways that are in nobody's cache.
//!
//! Locks, in their order: `inserting`, one way's, that way's cold part; the ring of events may be locked
//! inside a way.

use kext_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kext_sync::{Guard, Lock, RawLock};
use kext_types::{Direction, FlowKey, FlowOrigin, IpVersion, Timestamp, Verdict};

use crate::action::Fate;
use crate::flow_stats::FlowStats;
use crate::memory::{OutOfMemory, Vec, filled};
use crate::tags::{self, WAYS};

/// Locks that order the insertions of one key; a power of two.
const INSERTING: usize = 64;
/// A stamp counts units of 2^12 ns, about four microseconds, and wraps after five hours.
const STAMP_SHIFT: u32 = 12;
/// Ages from here on are stamps of the future: a clock that was set back.
const FUTURE: u32 = 0xf000_0000;
/// A hit renews its way's stamp only when another 2^26 ns, 67 ms, have begun.
const RENEW_SHIFT: u32 = 26;
/// How many flows an insertion may find to be younger than it believed, and spare.
const SPARED: usize = 4;

/// A cached flow: what every hit reads and writes.
///
/// In this order the key and what a look-up checks share a cache line with the lock before them.
#[repr(C)]
pub(crate) struct Flow {
    key: FlowKey,
    /// Whether this is a flow and not an empty way.
    used: bool,
    /// The fate where it is a verdict without translation; else the cold part has it.
    plain: Option<Verdict>,
    /// Whether the cold part's `reported` is this flow's; else nothing was reported yet.
    was_reported: bool,
    /// Whether what stands in [`FlowTable::payload`] is this flow's; else it had none yet.
    has_payload: bool,
    origin: FlowOrigin,
    epoch: u32,
    pub(crate) stats: FlowStats,
}

/// What few packets need of a flow.
struct Cold {
    fate: Fate,
    /// Bytes outbound and inbound that were reported already.
    reported: [u64; 2],
}

/// Up to so many ways stand [`APART`] times as far from each other: 512 KiB more at most. Their lines
/// stay in the processors' caches, where a hit takes so little that it is felt when one processor's
/// prefetching takes the neighbouring way from another; in a larger table it is not.
const FEW_WAYS: usize = 4_096;
const APART: usize = 2;

/// A way of a bucket: two cache lines, which the processor fetches as a pair.
#[repr(align(128))]
struct Way<R>(Lock<R, Flow>);

pub(crate) struct FlowTable<R> {
    /// A word for each bucket, a byte for each way: 0 where it is free.
    tags: Vec<AtomicU64>,
    /// When each way was last seen, by bucket.
    stamps: Vec<[AtomicU32; WAYS]>,
    /// Every `stride`th is used.
    ways: Vec<Way<R>>,
    stride: usize,
    cold: Vec<Lock<R, Cold>>,
    /// Bytes of payload outbound and inbound. Read and written under the way's lock only: not in
    /// `cold`, which is one cache line and full.
    payload: Vec<[AtomicU64; 2]>,
    inserting: Vec<Lock<R, ()>>,
    bucket_mask: usize,
}

/// A locked way with a flow in it.
pub(crate) struct Found<'a, R: RawLock> {
    table: &'a FlowTable<R>,
    at: usize,
    flow: Guard<'a, R, Flow>,
}

/// A flow to be put in.
pub(crate) struct New<'a> {
    pub(crate) key: &'a FlowKey,
    pub(crate) fate: Fate,
    pub(crate) origin: FlowOrigin,
    pub(crate) epoch: u32,
    pub(crate) stats: &'a FlowStats,
}

/// The right to insert a flow: nobody else inserts one of the same hash.
pub(crate) struct Inserting<'a, R: RawLock> {
    table: &'a FlowTable<R>,
    hash: u64,
    _turn: Guard<'a, R, ()>,
}

impl<R: RawLock> FlowTable<R> {
    /// A table for `capacity` flows, rounded up to a power of two of at least one bucket.
    pub(crate) fn try_new(capacity: usize) -> Result<Self, OutOfMemory> {
        let buckets = tags::buckets_for(capacity);
        let ways = buckets.saturating_mul(WAYS);
        let stride = if ways <= FEW_WAYS { APART } else { 1 };
        Ok(Self {
            tags: filled("verdict cache tags", buckets, || AtomicU64::new(0))?,
            stamps: filled("verdict cache stamps", buckets, || {
                [const { AtomicU32::new(0) }; WAYS]
            })?,
            ways: filled("the verdict cache", ways.saturating_mul(stride), || {
                Way(Lock::new(Flow::EMPTY))
            })?,
            stride,
            cold: filled("redirects in the verdict cache", ways, || {
                Lock::new(Cold {
                    fate: Fate::Verdict(Verdict::Drop, None),
                    reported: [0; 2],
                })
            })?,
            payload: filled("payload in the verdict cache", ways, || {
                [const { AtomicU64::new(0) }; 2]
            })?,
            inserting: filled("verdict cache insertions", INSERTING, || Lock::new(()))?,
            bucket_mask: buckets - 1,
        })
    }

    /// How many flows the table has room for.
    pub(crate) fn len(&self) -> usize {
        self.payload.len()
    }

    /// The way at a position.
    #[inline(always)]
    fn way(&self, at: usize) -> Option<&Way<R>> {
        self.ways.get(at * self.stride)
    }

    /// The flow with this key, if it is there.
    #[inline(always)]
    pub(crate) fn find(&self, hash: u64, key: &FlowKey) -> Option<Found<'_, R>> {
        // Bound: 2 buckets of WAYS ways.
        for bucket in tags::buckets(hash, self.bucket_mask) {
            // Relaxed, as the way's lock orders what is read of it.
            let word = self.tags.get(bucket)?.load(Ordering::Relaxed);
            for way in tags::candidates(word, hash) {
                if let Some(found) = self.at(bucket * WAYS + way)
                    && found.flow.key == *key
                {
                    return Some(found);
                }
            }
        }
        None
    }

    /// The flow at a position below [`FlowTable::len`], if there is one.
    #[inline(always)]
    pub(crate) fn at(&self, at: usize) -> Option<Found<'_, R>> {
        let flow = self.way(at)?.0.lock();
        flow.used.then_some(Found {
            table: self,
            at,
            flow,
        })
    }

    /// Whether the way at a position holds a flow, as far as can be told without its lock.
    pub(crate) fn may_hold(&self, at: usize) -> bool {
        self.tags
            .get(at / WAYS)
            .is_some_and(|word| tags::tag_at(word.load(Ordering::Relaxed), at) != 0)
    }

    /// Takes the turn to insert.
    pub(crate) fn inserting(&self, hash: u64) -> Option<Inserting<'_, R>> {
        let turn = self.inserting.get((hash >> 24) as usize % INSERTING)?;
        Some(Inserting {
            table: self,
            hash,
            _turn: turn.lock(),
        })
    }

    fn word(&self, bucket: usize) -> u64 {
        self.tags
            .get(bucket)
            .map_or(u64::MAX, |word| word.load(Ordering::Relaxed))
    }

    /// The way for a new flow, locked. It is chosen without its lock, by stamps that lag behind and
    /// while others insert too: one that is younger than believed is spared, and another chosen.
    fn room(&self, hash: u64, now: u32) -> Option<Found<'_, R>> {
        // Bound: SPARED and the last.
        for spared in 0..=SPARED {
            let (believed, at) = self.choose(hash, now);
            let flow = self.way(at)?.0.lock();
            let seen = flow.stats.last_seen;
            let as_believed =
                !flow.used || believed.is_some_and(|old| age(now, stamp_of(seen)) >= old);
            if as_believed || spared == SPARED {
                return Some(Found {
                    table: self,
                    at,
                    flow,
                });
            }
            self.stamp(at, seen);
        }
        None
    }

    /// A free way in the emptier bucket, else the one seen longest ago with its age.
    fn choose(&self, hash: u64, now: u32) -> (Option<u32>, usize) {
        let buckets @ [one, other] = tags::buckets(hash, self.bucket_mask);
        let [mut first, mut second] = buckets.map(|bucket| tags::free(self.word(bucket)));
        // The emptier bucket takes it, which keeps both short.
        let free = if second.number() > first.number() {
            second.next().map(|way| other * WAYS + way)
        } else {
            first.next().map(|way| one * WAYS + way)
        };
        if let Some(at) = free {
            return (None, at);
        }
        let (age, at) = self.oldest(buckets, now);
        (Some(age), at)
    }

    /// The age and place of the way with the oldest stamp.
    fn oldest(&self, buckets: [usize; 2], now: u32) -> (u32, usize) {
        let mut oldest = (0, buckets[0] * WAYS);
        // Bound: 2 buckets of WAYS ways.
        for bucket in buckets {
            let stamps = self.stamps.get(bucket);
            for (way, stamp) in stamps.into_iter().flatten().enumerate() {
                let age = age(now, stamp.load(Ordering::Relaxed));
                if age > oldest.0 {
                    oldest = (age, bucket * WAYS + way);
                }
            }
        }
        oldest
    }

    /// Says that a flow of this hash will be put in soon. Its way is in nobody's cache, as it was seen
    /// longest ago; it comes there meanwhile.
    pub(crate) fn expect(&self, hash: u64, now: Timestamp) {
        let (_, at) = self.choose(hash, stamp_of(now));
        if let Some(way) = self.way(at) {
            kext_sync::prefetch(way);
        }
    }

    fn stamp(&self, at: usize, seen: Timestamp) {
        if let Some(stamp) = self.stamps.get(at / WAYS).and_then(|s| s.get(at % WAYS)) {
            stamp.store(stamp_of(seen), Ordering::Relaxed);
        }
    }

    /// Changes a way's tag; its lock is held, so that nobody else does.
    fn tag(&self, at: usize, tag: u8) {
        if let Some(word) = self.tags.get(at / WAYS) {
            let change = tags::change(word.load(Ordering::Relaxed), at, tag);
            word.fetch_xor(change, Ordering::Relaxed);
        }
    }

    /// The cold part of a way whose lock is held.
    fn cold(&self, at: usize) -> Option<Guard<'_, R, Cold>> {
        self.cold.get(at).map(Lock::lock)
    }
}

impl<R: RawLock> Inserting<'_, R> {
    /// Puts in a flow that is not there. If another has to make room, `makes_room` sees it before.
    pub(crate) fn insert(
        self,
        new: &New<'_>,
        now: Timestamp,
        makes_room: impl FnOnce(&Found<'_, R>),
    ) {
        let Some(mut found) = self.table.room(self.hash, stamp_of(now)) else {
            return;
        };
        if found.flow.used {
            makes_room(&found);
        }
        found.flow.key = *new.key;
        found.flow.used = true;
        found.replace(new.fate, new.origin, new.epoch, new.stats);
        self.table.tag(found.at, tags::tag_of(self.hash));
    }
}

impl<R: RawLock> Found<'_, R> {
    /// The flow's key.
    pub(crate) fn key(&self) -> &FlowKey {
        &self.flow.key
    }

    pub(crate) fn epoch(&self) -> u32 {
        self.flow.epoch
    }

    pub(crate) fn origin(&self) -> FlowOrigin {
        self.flow.origin
    }

    pub(crate) fn set_origin(&mut self, origin: FlowOrigin) {
        self.flow.origin = origin;
    }

    pub(crate) fn stats(&self) -> &FlowStats {
        &self.flow.stats
    }

    /// Changes what is counted, and renews the flow's place among the others.
    #[inline]
    pub(crate) fn count(&mut self, change: impl FnOnce(&mut FlowStats)) {
        let before = self.flow.stats.last_seen.as_nanos();
        change(&mut self.flow.stats);
        let seen = self.flow.stats.last_seen;
        if (before ^ seen.as_nanos()) >> RENEW_SHIFT != 0 {
            self.table.stamp(self.at, seen);
        }
    }

    /// The fate where it is a verdict without translation.
    #[inline]
    pub(crate) fn plain(&self) -> Option<Verdict> {
        self.flow.plain
    }

    pub(crate) fn fate(&self) -> Fate {
        match self.flow.plain {
            Some(verdict) => Fate::Verdict(verdict, None),
            None => self
                .table
                .cold(self.at)
                .map_or(Fate::Verdict(Verdict::Drop, None), |cold| cold.fate),
        }
    }

    pub(crate) fn set_fate(&mut self, fate: Fate) {
        self.flow.plain = match fate {
            Fate::Verdict(verdict, None) => Some(verdict),
            _ => None,
        };
        if self.flow.plain.is_none()
            && let Some(mut cold) = self.table.cold(self.at)
        {
            cold.fate = fate;
        }
    }

    /// The bytes that were reported already.
    pub(crate) fn reported(&self) -> [u64; 2] {
        match self.table.cold(self.at) {
            Some(cold) if self.flow.was_reported => cold.reported,
            _ => [0; 2],
        }
    }

    pub(crate) fn set_reported(&mut self, bytes: [u64; 2]) {
        self.flow.was_reported = true;
        if let Some(mut cold) = self.table.cold(self.at) {
            cold.reported = bytes;
        }
    }

    /// Bytes of payload outbound and inbound.
    pub(crate) fn payload(&self) -> [u64; 2] {
        match self.table.payload.get(self.at) {
            Some(bytes) if self.flow.has_payload => {
                bytes.each_ref().map(|bytes| bytes.load(Ordering::Relaxed))
            }
            _ => [0; 2],
        }
    }

    pub(crate) fn add_payload(&mut self, bytes: [u64; 2]) {
        let before = self.payload();
        self.flow.has_payload = true;
        let places = self.table.payload.get(self.at).into_iter().flatten();
        for ((place, before), bytes) in places.zip(before).zip(bytes) {
            place.store(before.saturating_add(bytes), Ordering::Relaxed);
        }
    }

    /// Makes it another flow of the same key.
    pub(crate) fn replace(
        &mut self,
        fate: Fate,
        origin: FlowOrigin,
        epoch: u32,
        stats: &FlowStats,
    ) {
        self.flow.was_reported = false;
        self.flow.has_payload = false;
        self.flow.origin = origin;
        self.flow.epoch = epoch;
        self.flow.stats = *stats;
        self.set_fate(fate);
        self.table.stamp(self.at, stats.last_seen);
    }

    pub(crate) fn remove(mut self) {
        self.flow.used = false;
        self.table.tag(self.at, 0);
    }
}

impl Flow {
    const EMPTY: Self = Self {
        key: FlowKey {
            local: kext_types::Address::UNSPECIFIED,
            remote: kext_types::Address::UNSPECIFIED,
            local_port: 0,
            remote_port: 0,
            version: IpVersion::V4,
            protocol: 0,
        },
        used: false,
        plain: None,
        was_reported: false,
        has_payload: false,
        origin: FlowOrigin::Verdict,
        epoch: 0,
        stats: FlowStats::new(Timestamp::from_nanos(0), Direction::Outbound),
    };
}

const fn stamp_of(time: Timestamp) -> u32 {
    (time.as_nanos() >> STAMP_SHIFT) as u32
}

/// How long ago a stamp was.
const fn age(now: u32, stamp: u32) -> u32 {
    let age = now.wrapping_sub(stamp);
    if age < FUTURE { age } else { 0 }
}

// A kernel's lock is a word, which leaves the flow this much of the two lines.
const _: () = assert!(size_of::<Flow>() <= 120);
// And this much of the cold part's one.
const _: () = assert!(size_of::<Cold>() <= 56);

#[cfg(test)]
mod tests {
    extern crate std;

    use std::collections::HashMap;

    use kext_types::{Address, protocol};
    use proptest::prelude::*;

    use super::*;
    use crate::hash::KeyHasher;

    type Mutex = parking_lot::RawMutex;

    fn key(number: u32) -> FlowKey {
        FlowKey {
            local: Address::v4([192, 0, 2, 1]),
            remote: Address::v4(number.to_be_bytes()),
            local_port: 1,
            remote_port: 2,
            version: IpVersion::V4,
            protocol: protocol::UDP,
        }
    }

    fn hash(number: u32) -> u64 {
        KeyHasher::new(7).hash(&key(number))
    }

    fn at(ms: u32) -> Timestamp {
        Timestamp::from_nanos((1_700_000_000_000 + u64::from(ms)) << STAMP_SHIFT)
    }

    fn insert(table: &FlowTable<Mutex>, number: u32, epoch: u32) -> Option<u32> {
        let mut evicted = None;
        let new = New {
            key: &key(number),
            fate: Fate::Verdict(Verdict::Accept, None),
            origin: FlowOrigin::Verdict,
            epoch,
            stats: &FlowStats::new(at(epoch), Direction::Outbound),
        };
        let inserting = table.inserting(hash(number)).unwrap();
        inserting.insert(&new, at(epoch), |leaving| evicted = Some(leaving.epoch()));
        evicted
    }

    #[test]
    fn the_one_seen_longest_ago_makes_room() {
        let table = FlowTable::<Mutex>::try_new(WAYS).unwrap();
        for number in 0..8 {
            assert_eq!(insert(&table, number, number), None);
        }
        // Seen again, the oldest is the youngest.
        let mut found = table.find(hash(0), &key(0)).unwrap();
        found.count(|stats| stats.last_seen = at(1_000));
        drop(found);
        assert_eq!(insert(&table, 8, 2_000), Some(1));
        assert!(table.find(hash(0), &key(0)).is_some());
        assert!(table.find(hash(1), &key(1)).is_none());
        assert!(table.find(hash(8), &key(8)).is_some());
    }

    #[test]
    fn a_full_table_is_nearly_full_of_flows() {
        let table = FlowTable::<Mutex>::try_new(4_096).unwrap();
        let evictions = (0..4_096)
            .filter(|&n| insert(&table, n, n).is_some())
            .count();
        assert!(evictions < 4_096 / 20, "{evictions} early evictions");
    }

    #[test]
    fn a_way_is_two_lines() {
        assert_eq!(size_of::<Way<Mutex>>(), 128);
        assert!(size_of::<Lock<Mutex, Cold>>() <= 64);
    }

    proptest! {
        #[test]
        fn agrees_with_a_map(operations in prop::collection::vec((0..64u32, any::<bool>()), 0..400)) {
            let table = FlowTable::<Mutex>::try_new(256).unwrap();
            let mut model = HashMap::new();
            for (step, (number, put)) in (0..).zip(operations) {
                let found = table.find(hash(number), &key(number));
                prop_assert_eq!(found.as_ref().map(Found::epoch), model.get(&number).copied());
                match (found, put) {
                    (None, true) => {
                        prop_assert_eq!(insert(&table, number, step), None);
                        model.insert(number, step);
                    }
                    (Some(found), false) => {
                        found.remove();
                        model.remove(&number);
                    }
                    _ => {}
                }
            }
        }
    }
}
