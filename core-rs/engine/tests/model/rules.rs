//! The model's rules: what happens to a packet, a verdict, and with time.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use kext_engine::{Action, NotHeld};
use kext_types::{
    Capacities, Config, Decision, Direction, FlowKey, FragmentPolicy, Policy, Reason, Timestamp,
    VerdictOutcome,
};

use crate::cache::{Cache, Seen, Stats};
use crate::common::*;
use crate::fragments::{Belongs, Fragments, Piece};

pub(crate) const CAPACITIES: Capacities = Capacities {
    flow_packets: 4,
    // A quarter of it can wait, which is more than ever do.
    fragments: 64,
    ..SMALL
};
/// How many ends of held packets are remembered.
const ENDS: u64 = 64;

/// A packet that is presented.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Packet {
    pub(crate) seen: Seen,
    pub(crate) flow: FlowKey,
    /// The flow that it is an ICMP error about.
    pub(crate) about: Option<FlowKey>,
    pub(crate) fragment: Option<Piece>,
}

struct Held {
    /// The packet's number among those that were held: the upper part of its id.
    number: u64,
    flow: FlowKey,
    way: Direction,
    time: Timestamp,
    asked: bool,
}

#[derive(Default)]
pub(crate) struct Model {
    reader: bool,
    pub(crate) config: Config,
    pub(crate) cache: Cache,
    pub(crate) fragments: Fragments<Packet>,
    /// In order of arrival.
    held: Vec<Held>,
    /// What is known of the flows of which packets are held.
    waiting: HashMap<FlowKey, Stats>,
    /// Numbers of packets whose request waits.
    pub(crate) queue: VecDeque<u64>,
    pub(crate) requests: u64,
    pub(crate) numbers: u64,
    abandoned: u64,
    ends: HashMap<u64, (u64, VerdictOutcome, i8)>,
    pub(crate) seen: u64,
    pub(crate) ended: BTreeMap<Reason, u64>,
}

/// A packet that goes: its number, and how.
pub(crate) type Gone = (u64, Action);

fn by_policy(policy: Policy, permit: Reason, block: Reason) -> Action {
    match policy {
        Policy::Permit => Action::Permit(permit),
        Policy::Block => Action::Block(block),
    }
}

impl Model {
    /// With a reader.
    pub(crate) fn new(config: Config) -> Self {
        Self {
            reader: true,
            config,
            ..Self::default()
        }
    }

    pub(crate) fn held(&self) -> u64 {
        (self.held.len() + self.fragments.waiting()) as u64
    }

    fn end(&mut self, action: Action) -> End {
        *self.ended.entry(reason(&action)).or_default() += 1;
        End::Ended(action)
    }

    // ---- held packets ---------------------------------------------------------------------------

    fn raise(&mut self, at: usize) {
        self.held[at].asked = true;
        self.queue.push_back(self.held[at].number);
        self.requests += 1;
    }

    /// Positions of a flow's packets.
    fn of_flow(&self, flow: &FlowKey) -> Vec<usize> {
        (0..self.held.len())
            .filter(|&i| self.held[i].flow == *flow)
            .collect()
    }

    /// Asks for a flow's first packet if none of it was asked for, or forgets the flow.
    fn ask_first(&mut self, flow: &FlowKey) -> bool {
        let of_flow = self.of_flow(flow);
        let asked = of_flow.iter().any(|&i| self.held[i].asked);
        match of_flow.first() {
            None => {
                self.waiting.remove(flow);
                false
            }
            Some(&first) if !asked && self.reader && self.held[first].number > self.abandoned => {
                self.raise(first);
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, at: usize, outcome: VerdictOutcome, first: i8, action: Action) -> Gone {
        let number = self.held.remove(at).number;
        self.queue.retain(|&queued| queued != number);
        self.ends.insert(number % ENDS, (number, outcome, first));
        self.end(action);
        (number, action)
    }

    // ---- packets --------------------------------------------------------------------------------

    pub(crate) fn present(&mut self, packet: &Packet, now: Timestamp) -> End {
        self.seen += 1;
        let Some(piece) = packet.fragment else {
            return self.classify(&packet.flow, packet, now);
        };
        let way = packet.seen.way;
        match (piece.is_first(), self.config.fragments) {
            (_, FragmentPolicy::Follow) => {
                match self.fragments.note(piece, &packet.flow, way, now) {
                    Belongs::To(flow) => self.classify(&flow, packet, now),
                    Belongs::Overlaps => self.end(Action::Block(Reason::BlockedFragment)),
                    Belongs::Early => {
                        self.fragments.wait(piece, way, now, *packet);
                        End::Held(false)
                    }
                }
            }
            (true, _) => self.classify(&packet.flow, packet, now),
            (false, FragmentPolicy::Block) => self.end(Action::Block(Reason::BlockedFragment)),
            (false, FragmentPolicy::Permit) => self.end(Action::Permit(Reason::PermittedFragment)),
        }
    }

    /// The next fragment that waited, if its first one has come.
    pub(crate) fn early(&mut self, now: Timestamp) -> Option<End> {
        let (piece, packet) = self.fragments.ready.pop_front()?;
        Some(match self.fragments.again(piece, packet.seen.way) {
            Belongs::To(flow) => self.classify(&flow, &packet, now),
            Belongs::Overlaps => self.end(Action::Block(Reason::BlockedFragment)),
            Belongs::Early => self.end(Action::Drop(Reason::DroppedFragmentOrphan)),
        })
    }

    /// Drops fragments that have waited for too long, or all.
    pub(crate) fn drop_early(&mut self, now: Option<Timestamp>) {
        let gone = self.fragments.expire(now);
        if gone > 0 {
            *self.ended.entry(Reason::DroppedFragmentOrphan).or_default() += gone;
        }
    }

    fn classify(&mut self, flow: &FlowKey, packet: &Packet, now: Timestamp) -> End {
        if let Some(about) = &packet.about {
            let hit = self.cache.hit(about, &packet.seen, true, &self.config, now);
            if let Some(action) = hit {
                return self.end(action);
            }
            if self.waiting.contains_key(about) {
                return self.hold(about, &packet.seen, true, now);
            }
        }
        let hit = self.cache.hit(flow, &packet.seen, false, &self.config, now);
        match hit {
            Some(action) => self.end(action),
            // A target is both ends, and all targets have one port here.
            None if flow.local == flow.remote
                && [flow.local_port, flow.remote_port].contains(&self.config.redirect_dns.port) =>
            {
                self.end(Action::Permit(Reason::PermittedFastTrack))
            }
            None => self.hold(flow, &packet.seen, false, now),
        }
    }

    fn hold(&mut self, flow: &FlowKey, packet: &Seen, is_error: bool, now: Timestamp) -> End {
        if !self.reader && !self.waiting.contains_key(flow) {
            let (permit, block) = (Reason::PermittedNoReader, Reason::BlockedNoReader);
            return self.end(by_policy(self.config.no_reader, permit, block));
        }
        let mut raised = false;
        let evicted = VerdictOutcome::Evicted;
        if self.held.len() == CAPACITIES.packets as usize {
            let flow = self.held[0].flow;
            let full = Action::Drop(Reason::DroppedPacketCacheFull);
            self.take(0, evicted, 0, full);
            raised |= self.ask_first(&flow);
        }
        if is_error && !self.waiting.contains_key(flow) {
            // Its flow has made room for it.
            return self.end(Action::Drop(Reason::DroppedPacketCacheFull));
        }
        let of_flow = self.of_flow(flow);
        if of_flow.len() == CAPACITIES.flow_packets as usize {
            let second = self.held[of_flow[0]].asked && !self.held[of_flow[1]].asked;
            let victim = of_flow[usize::from(second)];
            let full = Action::Drop(Reason::DroppedFlowFull);
            self.take(victim, evicted, 0, full);
        }
        let fresh = Stats::new(packet.way, now);
        let stats = self.waiting.entry(*flow).or_insert(fresh);
        if is_error {
            stats.add_error(packet);
        } else {
            stats.add(packet, now);
        }
        self.numbers += 1;
        self.held.push(Held {
            number: self.numbers,
            flow: *flow,
            way: packet.way,
            time: now,
            asked: false,
        });
        if !self.reader {
            self.abandoned = self.numbers;
        }
        if self.config.ask_each_packet && self.reader {
            self.raise(self.held.len() - 1);
            raised = true;
        } else {
            raised |= self.ask_first(flow);
        }
        End::Held(raised)
    }

    // ---- verdicts and time ----------------------------------------------------------------------

    pub(crate) fn decide(
        &mut self,
        number: u64,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Vec<Gone>, NotHeld> {
        let Some(at) = self.held.iter().position(|packet| packet.number == number) else {
            return Err(match self.ends.get(&(number % ENDS)) {
                Some(&(ended, outcome, first)) if ended == number => NotHeld { outcome, first },
                _ => not_held(VerdictOutcome::UnknownId),
            });
        };
        let flow = self.held[at].flow;
        let forward = if decision.permanent {
            self.waiting[&flow].opened
        } else {
            self.held[at].way
        };
        let fate = self
            .cache
            .fate(decision.verdict, &flow, forward, &self.config, now);
        let mut gone = Vec::new();
        let mut take = |model: &mut Self, at: usize| {
            let action = fate.action(&flow, model.held[at].way, true);
            let outcome = VerdictOutcome::AlreadyDecided;
            gone.push(model.take(at, outcome, decision.number(), action));
        };
        if decision.permanent {
            while let Some(&first) = self.of_flow(&flow).first() {
                take(self, first);
            }
            let stats = self.waiting.remove(&flow).unwrap();
            self.cache.insert(&flow, fate, stats);
        } else {
            take(self, at);
            self.ask_first(&flow);
        }
        Ok(gone)
    }

    /// Lets the oldest packets go by policy while `due` says so.
    fn settle(
        &mut self,
        due: impl Fn(&Self, &Held) -> bool,
        outcome: VerdictOutcome,
        action: Action,
    ) -> Vec<Gone> {
        let mut gone = Vec::new();
        while self.held.first().is_some_and(|packet| due(self, packet)) {
            let flow = self.held[0].flow;
            gone.push(self.take(0, outcome, 0, action));
            // Nobody is asked about what goes next.
            let first = self.of_flow(&flow).first().copied();
            if first.is_none_or(|first| !due(self, &self.held[first])) {
                self.ask_first(&flow);
            }
        }
        gone
    }

    pub(crate) fn settle_abandoned(&mut self) -> Vec<Gone> {
        let (permit, block) = (Reason::PermittedNoReader, Reason::BlockedNoReader);
        let action = by_policy(self.config.no_reader, permit, block);
        let due = |model: &Self, packet: &Held| packet.number <= model.abandoned;
        self.settle(due, VerdictOutcome::Abandoned, action)
    }

    pub(crate) fn tick(&mut self, now: Timestamp) -> Vec<Gone> {
        self.drop_early(Some(now));
        let mut gone = self.settle_abandoned();
        let (permit, block) = (Reason::PermittedHoldLimit, Reason::BlockedHoldLimit);
        let action = by_policy(self.config.hold_limit, permit, block);
        let limit = Duration::from_millis(self.config.hold_limit_ms.into());
        let due = |_: &Self, packet: &Held| now.since(packet.time) >= limit;
        gone.extend(self.settle(due, VerdictOutcome::Expired, action));
        gone
    }

    pub(crate) fn set_reader(&mut self, reader: bool) {
        self.reader = reader;
        if !reader {
            self.abandoned = self.numbers;
        }
    }
}
