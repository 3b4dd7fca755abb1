//! The verdict cache: flows whose fate is known.
//!
//! Sharded by the key's hash, a lock a shard, so that processors with different flows do not meet.
//! Clearing it is a new epoch: entries of an older one are dead and make room first.

use kext_packet::Headers;
use kext_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kext_sync::{Lock, RawLock};
use kext_types::{Event, FlowInfo, FlowKey, FlowOrigin, RequestInfo, Timestamp, Traffic, Verdict};

use crate::action::Fate;
use crate::counters::Counters;
use crate::flow_stats::FlowStats;
use crate::memory::{OutOfMemory, Vec, try_filled};
use crate::redirect::WayBack;
use crate::settings::Settings;
use crate::table::{Inserted, Table};

/// Shards; a power of two. Two processors rarely want the same of so many.
const SHARDS: usize = 16;

/// How many positions of the cache one call of a listing looks at.
const LIST_POSITIONS: usize = 4_096;
/// How many of them it looks at under one lock.
const LOCKED_POSITIONS: usize = 64;

struct Flow {
    fate: Fate,
    origin: FlowOrigin,
    epoch: u32,
    stats: FlowStats,
    /// Traffic by direction that [`VerdictCache::report_traffic`] has told already.
    reported: [Traffic; 2],
}

type Shard = Table<FlowKey, Flow>;

pub(crate) struct VerdictCache<R> {
    shards: Vec<Lock<R, Shard>>,
    epoch: AtomicU32,
    /// Where the next report of traffic begins.
    report_cursor: AtomicU64,
}

impl Flow {
    fn new(fate: Fate, origin: FlowOrigin, epoch: u32, stats: FlowStats) -> Self {
        Self {
            fate,
            origin,
            epoch,
            stats,
            reported: [Traffic::default(); 2],
        }
    }

    /// Whether this is no way back, which belongs to another flow.
    fn has_verdict(&self) -> bool {
        matches!(self.fate, Fate::Verdict(..))
    }

    fn verdict(&self) -> Verdict {
        match &self.fate {
            Fate::Verdict(verdict, _) => *verdict,
            Fate::WayBack(way_back) => way_back.verdict(),
        }
    }

    fn info(&self, key: &FlowKey) -> FlowInfo {
        let [outbound, inbound] = self.stats.traffic;
        FlowInfo {
            flow: *key,
            verdict: self.verdict(),
            origin: self.origin,
            process_id: self.stats.process_id,
            outbound,
            inbound,
            first_seen: self.stats.first_seen,
            last_seen: self.stats.last_seen,
        }
    }

    fn is_idle<R: RawLock>(&self, settings: &Settings<R>, now: Timestamp) -> bool {
        now.since(self.stats.last_seen) > settings.idle_limit(self.stats.is_closed())
    }
}

impl<R: RawLock> VerdictCache<R> {
    pub(crate) fn try_new(capacity: u32) -> Result<Self, OutOfMemory> {
        let each = (capacity as usize).div_ceil(SHARDS);
        Ok(Self {
            shards: try_filled("verdict cache shards", SHARDS, || {
                Ok(Lock::new(Table::try_new("the verdict cache", each)?))
            })?,
            epoch: AtomicU32::new(0),
            report_cursor: AtomicU64::new(0),
        })
    }

    /// The shard of a hash, by bits that choose no bucket: buckets take them from the low end of
    /// each half.
    fn shard(&self, hash: u64) -> Option<&Lock<R, Shard>> {
        self.shards.get((hash >> 28) as usize % SHARDS)
    }

    /// The number of times that the cache was cleared.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// Looks a packet's flow up, and counts the packet to it if it is there.
    pub(crate) fn hit(
        &self,
        hash: u64,
        packet: &RequestInfo,
        headers: &Headers,
        settings: &Settings<R>,
        counters: &Counters,
    ) -> Option<Fate> {
        let mut shard = self.shard(hash)?.lock();
        let handle = shard.find(hash, &packet.flow)?;
        let flow = shard.get_mut(handle)?;
        if flow.epoch != self.epoch() {
            shard.remove(handle);
            return None;
        }
        if flow.is_idle(settings, packet.time) {
            counters.count(Event::FlowExpired);
            shard.remove(handle);
            return None;
        }
        if let Fate::WayBack(way_back) = &flow.fate
            && !way_back.applies_to(packet.arrival.direction)
        {
            return None;
        }
        flow.stats.add(packet, headers);
        Some(flow.fate)
    }

    /// Caches a flow's fate, in place of what was cached for it. Nothing is cached if the cache was
    /// cleared after `epoch`, when the fate was decided.
    pub(crate) fn insert(
        &self,
        hash: u64,
        key: FlowKey,
        fate: Fate,
        stats: FlowStats,
        epoch: u32,
        counters: &Counters,
    ) {
        if let Some(shard) = self.shard(hash)
            && epoch == self.epoch()
        {
            let flow = Flow::new(fate, FlowOrigin::Verdict, epoch, stats);
            put(&mut shard.lock(), hash, key, flow, epoch, counters);
        }
    }

    /// Makes sure that the answers under `key` find this way back. `false` if they belong to
    /// another flow.
    pub(crate) fn claim_way_back(
        &self,
        hash: u64,
        key: FlowKey,
        way_back: WayBack,
        settings: &Settings<R>,
        now: Timestamp,
        counters: &Counters,
    ) -> bool {
        let epoch = self.epoch();
        let Some(shard) = self.shard(hash) else {
            return false;
        };
        let mut shard = shard.lock();
        let fate = Fate::WayBack(way_back);
        if let Some(flow) = shard.find_mut(hash, &key)
            && flow.epoch == epoch
            && !flow.is_idle(settings, now)
        {
            if flow.fate == fate {
                flow.stats.last_seen = flow.stats.last_seen.max(now);
            }
            return flow.fate == fate;
        }
        let flow = Flow::new(fate, FlowOrigin::WayBack, epoch, FlowStats::new(now));
        put(&mut shard, hash, key, flow, epoch, counters);
        true
    }

    /// Whether a flow is cached with a verdict of its own, and has not been idle for too long.
    pub(crate) fn contains(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
    ) -> bool {
        let epoch = self.epoch();
        self.shard(hash).is_some_and(|shard| {
            shard.lock().find_mut(hash, key).is_some_and(|flow| {
                flow.epoch == epoch && flow.has_verdict() && !flow.is_idle(settings, now)
            })
        })
    }

    /// Gives a cached flow a new fate in place of `old`, if it still has that.
    pub(crate) fn exchange(&self, hash: u64, key: &FlowKey, old: &Fate, new: Fate) {
        if let Some(shard) = self.shard(hash)
            && let Some(flow) = shard.lock().find_mut(hash, key)
            && flow.fate == *old
        {
            flow.fate = new;
        }
    }

    /// Replaces the fate of a cached flow with a verdict of its own. `false` if there is none.
    pub(crate) fn update(&self, hash: u64, key: &FlowKey, fate: Fate) -> bool {
        let epoch = self.epoch();
        let Some(shard) = self.shard(hash) else {
            return false;
        };
        match shard.lock().find_mut(hash, key) {
            Some(flow) if flow.epoch == epoch && flow.has_verdict() => {
                flow.fate = fate;
                flow.origin = FlowOrigin::Update;
                true
            }
            _ => false,
        }
    }

    /// Forgets every flow, in constant time.
    pub(crate) fn clear(&self, counters: &Counters) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        counters.count(Event::CacheCleared);
    }

    /// Shows live flows from `cursor` on, until `show` has no room or enough was looked at. Returns
    /// the cursor to go on from, 0 at the end. A flow that `show` refuses comes again.
    pub(crate) fn list(&self, cursor: u64, mut show: impl FnMut(&FlowInfo) -> bool) -> u64 {
        let epoch = self.epoch();
        // A cursor is the next position plus one, as 0 stands for the beginning.
        let start = usize::try_from(cursor.saturating_sub(1)).unwrap_or(usize::MAX);
        let visited = self.visit(start, LIST_POSITIONS, |key, flow| {
            flow.epoch != epoch || show(&flow.info(key))
        });
        if visited.next >= self.positions() {
            0
        } else {
            visited.next as u64 + 1
        }
    }

    /// Shows flows with traffic since they were last shown here, with that traffic in place of the
    /// whole, until `show` has no room. The next report goes on behind the last flow shown.
    ///
    /// Looks at the whole cache once, a part at a time: it serves a v1 request, whose caller waits
    /// for it and holds nothing.
    pub(crate) fn report_traffic(&self, mut show: impl FnMut(&FlowInfo) -> bool) {
        let epoch = self.epoch();
        let positions = self.positions();
        // Two reports at once may begin at one place, but no traffic is told twice.
        let start = self.report_cursor.load(Ordering::Relaxed);
        let mut cursor = usize::try_from(start).unwrap_or_default();
        let mut left = positions;
        // Bound: one round of the cache in steps of LIST_POSITIONS, each with locks of its own.
        while left > 0 {
            let step = left.min(LIST_POSITIONS);
            let visited = self.visit(cursor, step, |key, flow| {
                let [outbound, inbound] = flow.stats.traffic;
                let [told_outbound, told_inbound] = flow.reported;
                let news = FlowInfo {
                    outbound: outbound.since(told_outbound),
                    inbound: inbound.since(told_inbound),
                    ..flow.info(key)
                };
                if flow.epoch != epoch || news.outbound.bytes + news.inbound.bytes == 0 {
                    return true;
                }
                let shown = show(&news);
                if shown {
                    flow.reported = flow.stats.traffic;
                }
                shown
            });
            left -= visited.looked_at.clamp(1, left);
            cursor = if visited.next >= positions {
                0
            } else {
                visited.next
            };
            self.report_cursor.store(cursor as u64, Ordering::Relaxed);
            if visited.stopped {
                return;
            }
        }
    }

    fn positions(&self) -> usize {
        self.ways_each().saturating_mul(SHARDS)
    }

    /// The ways of each shard; all have as many.
    fn ways_each(&self) -> usize {
        self.shards.first().map_or(0, |shard| shard.lock().ways())
    }

    /// Shows the entries at `count` positions from `start` on, until `see` says to stop.
    fn visit(
        &self,
        start: usize,
        count: usize,
        mut see: impl FnMut(&FlowKey, &mut Flow) -> bool,
    ) -> Visited {
        let ways = self.ways_each();
        let end = start.saturating_add(count).min(self.positions());
        let mut next = start;
        // Bound: `count` positions; a lock is held for at most LOCKED_POSITIONS of them.
        while next < end {
            let Some(shard) = next.checked_div(ways).and_then(|i| self.shards.get(i)) else {
                break;
            };
            let first = next % ways;
            let last = ways
                .min(first.saturating_add(LOCKED_POSITIONS))
                .min(first.saturating_add(end - next));
            let mut shard = shard.lock();
            for position in first..last {
                if let Some((key, flow)) = shard.at_mut(position)
                    && !see(key, flow)
                {
                    return Visited {
                        next,
                        looked_at: next - start,
                        stopped: true,
                    };
                }
                next += 1;
            }
        }
        Visited {
            next,
            looked_at: next.saturating_sub(start),
            stopped: false,
        }
    }
}

/// How far a visit came.
struct Visited {
    /// The position that comes next; the one that was refused, if it was stopped.
    next: usize,
    looked_at: usize,
    stopped: bool,
}

/// Puts a flow into a shard, over what stood under its key. Dead flows make room first, then the
/// least recently seen of the two buckets.
fn put(shard: &mut Shard, hash: u64, key: FlowKey, flow: Flow, epoch: u32, counters: &Counters) {
    counters.count(Event::FlowCached);
    if let Some(standing) = shard.find_mut(hash, &key) {
        *standing = flow;
        return;
    }
    let inserted = shard.insert(hash, key, flow, |flow| {
        Some(if flow.epoch == epoch {
            flow.stats.last_seen.as_nanos().max(1)
        } else {
            0
        })
    });
    if let Inserted::Evicted(_, _, evicted) = inserted
        && evicted.epoch == epoch
    {
        counters.count(Event::FlowEvicted);
    }
}
