//! The verdict cache: flows whose fate is known.
//!
//! Clearing it is a new epoch: flows of an older one are dead, and were mostly seen before any live
//! one, so that they make room first; not where a flow waited for its verdict while the cache was
//! cleared, or where they have been dead for hours and their stamps have wrapped.

use kext_packet::Headers;
use kext_sync::RawLock;
use kext_sync::atomic::{AtomicU32, AtomicU64, Ordering};
use kext_types::{
    Arrival, Direction, Event, FlowEnd, FlowEnded, FlowInfo, FlowKey, FlowOrigin, ProcessId,
    Timestamp, Verdict,
};

use crate::action::Fate;
use crate::classify::Presented;
use crate::counters::Tally;
use crate::events::FlowEvents;
use crate::flow_stats::FlowStats;
use crate::flow_table::{FlowTable, Found, New};
use crate::memory::OutOfMemory;
use crate::pending::{Decided, Pending};
use crate::redirect::WayBack;
use crate::settings::Settings;

/// How many positions of the cache one call of a listing looks at.
const LIST_POSITIONS: usize = 4_096;

pub(crate) struct VerdictCache<R> {
    flows: FlowTable<R>,
    epoch: AtomicU32,
    events: FlowEvents<R>,
    /// Where the next report of traffic begins.
    report_cursor: AtomicU64,
}

/// What a packet of a cached flow meets.
pub(crate) enum Hit {
    /// A verdict without translation.
    Plain(Verdict),
    /// Another fate.
    Other(Fate),
}

impl Hit {
    pub(crate) fn fate(self) -> Fate {
        match self {
            Self::Plain(verdict) => Fate::Verdict(verdict, None),
            Self::Other(fate) => fate,
        }
    }
}

impl<R: RawLock> Found<'_, R> {
    /// Whether this is no way back, which belongs to another flow.
    fn has_verdict(&self) -> bool {
        matches!(self.fate(), Fate::Verdict(..))
    }

    fn verdict(&self) -> Verdict {
        match self.fate() {
            Fate::Verdict(verdict, _) => verdict,
            Fate::WayBack(way_back) => way_back.verdict(),
        }
    }

    fn info(&self) -> FlowInfo {
        let stats = self.stats();
        let [outbound, inbound] = stats.traffic;
        let [payload_outbound, payload_inbound] = self.payload();
        FlowInfo {
            flow: *self.key(),
            verdict: self.verdict(),
            origin: self.origin(),
            process_id: stats.process_id,
            outbound,
            inbound,
            payload_outbound,
            payload_inbound,
            first_seen: stats.first_seen,
            last_seen: stats.last_seen,
        }
    }

    /// The flow's fate, for a packet of it that is counted to it. `None` for a packet that goes the
    /// other way than a way back.
    #[inline(always)]
    pub(crate) fn hit(
        mut self,
        arrival: &Arrival,
        headers: &Headers,
        now: Timestamp,
    ) -> Option<Hit> {
        let hit = match self.plain() {
            Some(verdict) => Hit::Plain(verdict),
            None => return self.hit_other(arrival, headers, now),
        };
        self.count(|stats| stats.add(arrival, headers, now));
        Some(hit)
    }

    /// The same of a flow whose fate is more than a verdict.
    #[cold]
    fn hit_other(mut self, arrival: &Arrival, headers: &Headers, now: Timestamp) -> Option<Hit> {
        let fate = self.fate_of(arrival)?;
        self.count(|stats| stats.add(arrival, headers, now));
        Some(Hit::Other(fate))
    }

    /// The fate, unless it is a way back and the packet goes the other way.
    fn fate_of(&self, arrival: &Arrival) -> Option<Fate> {
        match self.fate() {
            Fate::WayBack(way_back) if !way_back.applies_to(arrival.direction) => None,
            fate => Some(fate),
        }
    }

    /// The flow's fate for an ICMP error about it, which is counted to it but does not keep it cached.
    fn hit_by_error(mut self, arrival: &Arrival, headers: &Headers) -> Option<Fate> {
        let fate = self.fate_of(arrival)?;
        self.count(|stats| stats.add_traffic(arrival, headers));
        Some(fate)
    }

    /// Why a flow ended that was idle for too long.
    fn end_by_time(&self) -> FlowEnd {
        if self.stats().is_closed() {
            FlowEnd::Closed
        } else {
            FlowEnd::Idle
        }
    }

    #[inline(always)]
    fn is_idle(&self, settings: &Settings<R>, now: Timestamp) -> bool {
        let stats = self.stats();
        let idle = now.as_nanos().saturating_sub(stats.last_seen.as_nanos());
        // Whether it is closed stands in another cache line, and mostly does not matter.
        idle > settings.least_idle_limit() && idle > settings.idle_limit(stats.is_closed())
    }
}

impl<R: RawLock> VerdictCache<R> {
    pub(crate) fn try_new(capacity: u32) -> Result<Self, OutOfMemory> {
        Ok(Self {
            flows: FlowTable::try_new(capacity as usize)?,
            epoch: AtomicU32::new(0),
            events: FlowEvents::try_new()?,
            report_cursor: AtomicU64::new(0),
        })
    }

    pub(crate) fn events(&self) -> &FlowEvents<R> {
        &self.events
    }

    /// Counts that this flow leaves the cache, and tells of it; ways back are no flows of their own. One
    /// of an older epoch ended when the cache was cleared, whatever ends it now.
    fn leaves(&self, leaving: &Found<'_, R>, end: FlowEnd, counters: Tally<'_>) {
        // Read now, under the flow's lock: the one who puts it out may be of an older epoch than it is.
        let end = if leaving.epoch() == self.epoch() {
            end
        } else {
            FlowEnd::Cleared
        };
        match end {
            FlowEnd::Idle | FlowEnd::Closed => counters.count(Event::FlowExpired),
            FlowEnd::Evicted => counters.count(Event::FlowEvicted),
            FlowEnd::Cleared | FlowEnd::Replaced => {}
        }
        if self.events.are_wanted() && leaving.has_verdict() {
            self.events.push(FlowEnded {
                flow: leaving.info(),
                end,
            });
        }
    }

    /// The same of a flow that makes room for another. If it was idle for too long, it ended by that.
    fn makes_room(
        &self,
        leaving: &Found<'_, R>,
        settings: &Settings<R>,
        now: Timestamp,
        counters: Tally<'_>,
    ) {
        let end = if leaving.is_idle(settings, now) {
            leaving.end_by_time()
        } else {
            FlowEnd::Evicted
        };
        self.leaves(leaving, end, counters);
    }

    /// The number of times that the cache was cleared.
    pub(crate) fn epoch(&self) -> u32 {
        self.epoch.load(Ordering::Relaxed)
    }

    /// A flow that is neither dead nor idle for too long; one that is, is removed.
    #[inline(always)]
    pub(crate) fn live(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
        counters: Tally<'_>,
    ) -> Option<Found<'_, R>> {
        let found = self.flows.find(hash, key)?;
        if found.epoch() != self.epoch() || found.is_idle(settings, now) {
            self.end(found, counters);
            return None;
        }
        Some(found)
    }

    /// Removes a flow that was cleared or has been idle for too long.
    #[cold]
    fn end(&self, found: Found<'_, R>, counters: Tally<'_>) {
        self.leaves(&found, found.end_by_time(), counters);
        found.remove();
    }

    /// The fate of a live flow for an ICMP error about it.
    pub(crate) fn hit_by_error(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        error: &Presented<'_>,
    ) -> Option<Fate> {
        let Presented {
            headers,
            arrival,
            now,
            counters,
            ..
        } = error;
        self.live(hash, key, settings, *now, *counters)?
            .hit_by_error(arrival, headers)
    }

    /// The verdict of a cached flow, which stays cached as if a packet of it had come now.
    pub(crate) fn lookup(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
        counters: Tally<'_>,
    ) -> Option<Verdict> {
        let mut found = self.live(hash, key, settings, now, counters)?;
        found.count(|stats| stats.last_seen = stats.last_seen.max(now));
        Some(found.verdict())
    }

    /// Says that a flow of this hash will be cached soon.
    #[inline]
    pub(crate) fn expect(&self, hash: u64, now: Timestamp) {
        self.flows.expect(hash, now);
    }

    /// Caches a flow's fate, in place of what was cached for it. Nothing is cached if the cache was
    /// cleared after the fate was decided.
    pub(crate) fn insert(
        &self,
        key: &FlowKey,
        pending: &Pending,
        decided: &Decided,
        settings: &Settings<R>,
        counters: Tally<'_>,
    ) {
        let Pending { hash, stats, .. } = pending;
        let Decided { fate, epoch, .. } = *decided;
        // Its last packet may have come long before, and before all that is cached.
        let now = decided.time.max(stats.last_seen);
        let Some(inserting) = self.flows.inserting(*hash) else {
            return;
        };
        if epoch != self.epoch() {
            return;
        }
        counters.count(Event::FlowCached);
        if let Some(mut standing) = self.flows.find(*hash, key) {
            self.leaves(&standing, FlowEnd::Replaced, counters);
            standing.replace(fate, FlowOrigin::Verdict, epoch, stats);
            return;
        }
        let flow = New {
            key,
            fate,
            origin: FlowOrigin::Verdict,
            epoch,
            stats,
        };
        inserting.insert(&flow, now, |leaving| {
            self.makes_room(leaving, settings, now, counters);
        });
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
        counters: Tally<'_>,
    ) -> bool {
        let Some(inserting) = self.flows.inserting(hash) else {
            return false;
        };
        // Read within the turn, so that no flow under this key is of a later one.
        let epoch = self.epoch();
        let fate = Fate::WayBack(way_back);
        let (origin, stats) = (
            FlowOrigin::WayBack,
            FlowStats::new(now, way_back.direction()),
        );
        if let Some(mut standing) = self.flows.find(hash, &key) {
            if standing.epoch() == epoch && !standing.is_idle(settings, now) {
                let same = standing.fate() == fate;
                if same {
                    standing.count(|stats| stats.last_seen = stats.last_seen.max(now));
                }
                return same;
            }
            counters.count(Event::FlowCached);
            self.leaves(&standing, standing.end_by_time(), counters);
            standing.replace(fate, origin, epoch, &stats);
            return true;
        }
        counters.count(Event::FlowCached);
        let flow = New {
            key: &key,
            fate,
            origin,
            epoch,
            stats: &stats,
        };
        inserting.insert(&flow, now, |leaving| {
            self.makes_room(leaving, settings, now, counters);
        });
        true
    }

    /// Which way the first packet went of a flow that is cached with a verdict of its own, and has not
    /// been idle for too long.
    pub(crate) fn opened(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
    ) -> Option<Direction> {
        let found = self.flows.find(hash, key)?;
        let cached =
            found.epoch() == self.epoch() && found.has_verdict() && !found.is_idle(settings, now);
        cached.then_some(found.stats().opened)
    }

    /// Says whose a cached flow is.
    pub(crate) fn set_owner(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
        process_id: ProcessId,
    ) {
        if let Some(mut found) = self.flows.find(hash, key)
            && found.epoch() == self.epoch()
            && found.has_verdict()
            && !found.is_idle(settings, now)
        {
            found.count(|stats| stats.process_id = Some(process_id));
        }
    }

    /// Adds bytes of payload outbound and inbound to a cached flow. `false` if it is not cached, or has
    /// been idle for too long. Of a way back, whose payload is another flow's, nothing is kept.
    pub(crate) fn add_payload(
        &self,
        hash: u64,
        key: &FlowKey,
        settings: &Settings<R>,
        now: Timestamp,
        bytes: [u64; 2],
    ) -> bool {
        match self.flows.find(hash, key) {
            Some(mut found) if found.epoch() == self.epoch() && !found.is_idle(settings, now) => {
                if found.has_verdict() {
                    found.add_payload(bytes);
                }
                true
            }
            _ => false,
        }
    }

    /// Adds bytes of inbound payload to a cached flow, if it is redirected.
    pub(crate) fn add_returned_payload(&self, hash: u64, key: &FlowKey, bytes: u64) {
        if let Some(mut found) = self.flows.find(hash, key)
            && found.epoch() == self.epoch()
            && matches!(found.fate(), Fate::Verdict(_, Some(_)))
        {
            found.add_payload([0, bytes]);
        }
    }

    /// A cached flow's connection has ended.
    pub(crate) fn end_connection(&self, hash: u64, key: &FlowKey) {
        if let Some(mut found) = self.flows.find(hash, key) {
            found.count(FlowStats::close);
        }
    }

    /// Gives a cached flow a new fate in place of `old`, if it still has that.
    pub(crate) fn exchange(&self, hash: u64, key: &FlowKey, old: &Fate, new: Fate) {
        if let Some(mut found) = self.flows.find(hash, key)
            && found.fate() == *old
        {
            found.set_fate(new);
        }
    }

    /// Replaces the fate of a cached flow with a verdict of its own. `false` if there is none, or if a
    /// redirect is for a flow that was `opened` the other way, before this one took its place.
    pub(crate) fn update(&self, hash: u64, key: &FlowKey, opened: Direction, fate: Fate) -> bool {
        let is_plain = matches!(fate, Fate::Verdict(_, None));
        match self.flows.find(hash, key) {
            Some(mut found)
                if found.epoch() == self.epoch()
                    && found.has_verdict()
                    && (is_plain || found.stats().opened == opened) =>
            {
                found.set_fate(fate);
                found.set_origin(FlowOrigin::Update);
                true
            }
            _ => false,
        }
    }

    /// Forgets every flow, in constant time.
    pub(crate) fn clear(&self, counters: Tally<'_>) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
        counters.count(Event::CacheCleared);
    }

    /// Shows live flows from `cursor` on, until `show` has no room or enough was looked at. Returns
    /// the cursor to go on from, 0 at the end. A flow that `show` refuses comes again.
    pub(crate) fn list(&self, cursor: u64, mut show: impl FnMut(&FlowInfo) -> bool) -> u64 {
        let epoch = self.epoch();
        // A cursor is the next position plus one, as 0 stands for the beginning.
        let start = usize::try_from(cursor.saturating_sub(1)).unwrap_or(usize::MAX);
        let visited = self.visit(start, LIST_POSITIONS, |flow| {
            flow.epoch() != epoch || show(&flow.info())
        });
        if visited.next >= self.positions() {
            0
        } else {
            visited.next as u64 + 1
        }
    }

    /// Shows flows with traffic since they were last shown here, and that traffic's bytes outbound and
    /// inbound, until `show` has no room. The next report goes on behind the last flow shown.
    ///
    /// Looks at the whole cache once, a part at a time: it serves a v1 request, whose caller waits
    /// for it and holds nothing.
    pub(crate) fn report_traffic(&self, mut show: impl FnMut(&FlowKey, [u64; 2]) -> bool) {
        let epoch = self.epoch();
        let positions = self.positions();
        // Two reports at once may begin at one place, but no traffic is told twice.
        let start = self.report_cursor.load(Ordering::Relaxed);
        let mut cursor = usize::try_from(start).unwrap_or_default();
        let mut left = positions;
        // Bound: one round of the cache in steps of LIST_POSITIONS, each with locks of its own.
        while left > 0 {
            let step = left.min(LIST_POSITIONS);
            let visited = self.visit(cursor, step, |flow| {
                let now @ [outbound, inbound] = flow.stats().traffic.map(|traffic| traffic.bytes);
                let told = flow.reported();
                if flow.epoch() != epoch || now == told {
                    return true;
                }
                let [told_outbound, told_inbound] = told;
                let news = [
                    outbound.saturating_sub(told_outbound),
                    inbound.saturating_sub(told_inbound),
                ];
                let shown = show(flow.key(), news);
                if shown {
                    flow.set_reported(now);
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
        self.flows.len()
    }

    /// Shows the flows at `count` positions from `start` on, each under its lock, until `see` says
    /// to stop.
    fn visit(
        &self,
        start: usize,
        count: usize,
        mut see: impl FnMut(&mut Found<'_, R>) -> bool,
    ) -> Visited {
        let end = start.saturating_add(count).min(self.positions());
        // Bound: `count` positions.
        for next in start..end {
            if self.flows.may_hold(next)
                && let Some(mut found) = self.flows.at(next)
                && !see(&mut found)
            {
                return Visited {
                    next,
                    looked_at: next - start,
                    stopped: true,
                };
            }
        }
        Visited {
            next: end.max(start),
            looked_at: end.saturating_sub(start),
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
