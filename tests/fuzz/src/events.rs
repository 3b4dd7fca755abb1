//! What is told of flows that leave the verdict cache, against what lists of the cache show.
//!
//! The cache is listed after each operation. A flow that was there before and is not any more has left:
//! one event is owed, with what the list showed last, unless nobody wanted events. A flow that was
//! cleared is in no list, and its event may come until it is cached again. What is told is compared
//! when the events are taken: after each operation, or, while events are hoarded, much later.

use std::collections::HashMap;
use std::time::Duration;

use kext_engine::Engine;
use kext_types::{
    Config, Event, FlowEnd, FlowEnded, FlowInfo, FlowKey, FlowOrigin, Timestamp, protocol,
};

use super::Mutex;

/// How many events wait at most.
const ROOM: u32 = 1_024;

/// A flow that has left, and why that may be.
struct Owed {
    flow: FlowInfo,
    ends: Vec<FlowEnd>,
    /// Packets of it may have been counted between the list and its end.
    touched: bool,
    /// Perhaps it was told of and forgotten since.
    is_sure: bool,
}

#[derive(Default)]
pub(super) struct Ledger {
    keeps: bool,
    hoards: bool,
    /// Flows with a verdict of their own, as last listed.
    live: HashMap<FlowKey, FlowInfo>,
    cleared: HashMap<FlowKey, Owed>,
    owed: Vec<Owed>,
    /// Events told of as lost when they were last taken, and flows counted as pushed out.
    lost: u64,
    evicted: u64,
    /// The same after the last operation.
    evicted_before: u64,
}

impl Owed {
    fn cleared(flow: FlowInfo) -> Self {
        Self {
            flow,
            ends: vec![FlowEnd::Cleared],
            touched: false,
            is_sure: true,
        }
    }

    fn is_told_by(&self, event: &FlowEnded) -> bool {
        let (told, listed) = (&event.flow, &self.flow);
        let later = |told: u64, listed: u64| told >= listed && self.touched;
        let same = told == listed
            || told.flow == listed.flow
                && told.first_seen == listed.first_seen
                && later(told.outbound.bytes, listed.outbound.bytes)
                && later(told.inbound.bytes, listed.inbound.bytes);
        same && self.ends.contains(&event.end)
    }
}

/// Why a flow may have left between two times, if it was not cleared.
fn possible_ends(
    flow: &FlowInfo,
    config: &Config,
    [from, to]: [Timestamp; 2],
    has_evicted: bool,
) -> Vec<FlowEnd> {
    let is_over = |now: Timestamp, ms: u32| {
        let idle = now.since(flow.last_seen);
        idle > Duration::from_millis(ms.into())
    };
    let is_tcp = flow.flow.protocol == protocol::TCP;
    let mut ends = Vec::new();
    if is_over(to, config.flow_idle_ms) {
        ends.push(FlowEnd::Idle);
    }
    if is_tcp && is_over(to, config.flow_closed_ms) {
        ends.push(FlowEnd::Closed);
    }
    // Whatever takes the place of one that is idle, it ended by that.
    let is_idle = is_over(from, config.flow_idle_ms);
    if has_evicted && !(is_idle && (!is_tcp || is_over(from, config.flow_closed_ms))) {
        ends.push(FlowEnd::Evicted);
    }
    ends
}

impl Ledger {
    /// Events are kept from now on, or not.
    pub(super) fn keep(&mut self, engine: &Engine<Mutex>, keep: bool) {
        engine.keep_events(keep);
        if keep && !self.keeps {
            self.evicted = engine.counters().event(Event::FlowEvicted);
        }
        self.keeps = keep;
        if !keep {
            assert_eq!(engine.next_event(), None, "not forgotten");
            self.lost = engine.waiting_and_lost_events().1;
            self.owed.clear();
            self.forget_cleared();
        }
    }

    /// Events are taken after each operation, or not.
    pub(super) fn hoard(&mut self, engine: &Engine<Mutex>, hoard: bool) {
        self.hoards = hoard;
        if !hoard {
            self.settle(engine);
        }
    }

    /// The cache was cleared since it was last listed.
    pub(super) fn clear(&mut self) {
        for (key, flow) in self.live.drain() {
            self.cleared.insert(key, Owed::cleared(flow));
        }
    }

    /// From here on it is not known which of the cleared flows were told of.
    fn forget_cleared(&mut self) {
        for owed in self.cleared.values_mut() {
            owed.is_sure = false;
        }
    }

    /// This flow was cached since the last list, and may have left already.
    pub(super) fn cached(&mut self, flow: FlowInfo) {
        self.live.insert(flow.flow, flow);
    }

    /// After an operation between these times, which may have `presented` packets.
    pub(super) fn observe(
        &mut self,
        engine: &Engine<Mutex>,
        times: [Timestamp; 2],
        presented: bool,
    ) {
        let mut list = HashMap::new();
        let mut cursor = 0;
        loop {
            cursor = engine.list_flows(cursor, |info| {
                if info.origin != FlowOrigin::WayBack {
                    assert_eq!(list.insert(info.flow, *info), None, "listed twice");
                }
                true
            });
            if cursor == 0 {
                break;
            }
        }
        let before = core::mem::replace(&mut self.live, list);
        let evicted = engine.counters().event(Event::FlowEvicted);
        let has_evicted = evicted > self.evicted_before;
        self.evicted_before = evicted;
        let config = engine.config();
        for (key, flow) in before {
            let mut ends = possible_ends(&flow, &config, times, has_evicted);
            if let Some(same) = self.live.get(&key) {
                if same.first_seen == flow.first_seen
                    && same.outbound.bytes >= flow.outbound.bytes
                    && same.inbound.bytes >= flow.inbound.bytes
                {
                    continue;
                }
                ends = vec![FlowEnd::Replaced];
            }
            assert!(!ends.is_empty(), "{flow:?} left for no reason");
            self.owed.push(Owed {
                flow,
                ends,
                touched: presented && has_evicted,
                is_sure: true,
            });
        }
        // A flow of the same key can only be cached where the cleared one was met.
        for key in self.live.keys() {
            self.owed.extend(self.cleared.remove(key));
        }
        if self.keeps {
            if !self.hoards {
                self.settle(engine);
            }
        } else {
            self.owed.clear();
            self.forget_cleared();
            assert_eq!(engine.waiting_and_lost_events(), (0, self.lost), "unwanted");
        }
    }

    /// Takes all events, and compares them with what is owed.
    fn settle(&mut self, engine: &Engine<Mutex>) {
        let (waiting, lost) = engine.waiting_and_lost_events();
        let missing = lost - self.lost;
        assert!(
            missing == 0 || waiting == ROOM,
            "lost though there was room"
        );
        let evicted = engine.counters().event(Event::FlowEvicted);
        let mut evictions = evicted - self.evicted;
        (self.lost, self.evicted) = (lost, evicted);
        for _ in 0..waiting {
            let event = engine.next_event().expect("it waits");
            if event.end == FlowEnd::Evicted {
                evictions = evictions.checked_sub(1).expect("counted");
            }
            let at = self.owed.iter().position(|owed| owed.is_told_by(&event));
            if let Some(at) = at {
                self.owed.remove(at);
                continue;
            }
            let cleared = self.cleared.remove(&event.flow.flow);
            let owed = cleared.unwrap_or_else(|| panic!("{event:?} of a flow that did not leave"));
            assert!(owed.is_told_by(&event), "{event:?}");
        }
        assert_eq!(engine.next_event(), None);
        let untold = self.owed.drain(..).filter(|owed| owed.is_sure).count();
        assert!(
            untold as u64 <= missing,
            "{untold} not told, {missing} lost"
        );
        if missing > 0 {
            self.forget_cleared();
        }
    }
}
