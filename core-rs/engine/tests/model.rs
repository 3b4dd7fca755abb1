//! Random sequences of operations against a plain model of the engine's rules.
//!
//! The model knows held packets as one queue in order of arrival, and cached flows as a map. It says
//! for each packet how it ends and for what reason, and for each verdict what became of it. Pushing
//! flows out of the verdict cache is left to other tests: here there are fewer flows than room.

mod common;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use kext_engine::{Delivery, NotHeld};
use kext_types::{
    Capacities, Config, Decision, Direction, Event, FlowKey, PacketId, Policy, Reason, Timestamp,
    Verdict, VerdictOutcome,
};
use proptest::prelude::*;
use proptest::sample::select;

use common::*;

const FLOWS: u16 = 5;
const CAPACITIES: Capacities = Capacities {
    flow_packets: 4,
    ..SMALL
};
const SLOT_BITS: u32 = 4;
const ENDS: u64 = 64;
const HOLD: Duration = Duration::from_secs(30);
const IDLE: Duration = Duration::from_mins(10);

#[derive(Clone, Debug)]
enum Step {
    Present(u16, Direction),
    Deliver,
    /// A verdict for one of the ids known, counted back from the newest.
    Decide(usize, Decision),
    DecideUnknown(Decision),
    Update(u16, Verdict),
    Clear,
    Sleep(Duration),
    Tick,
    Settle,
    Reader(bool),
    Policies(bool, Policy, Policy),
}

fn steps() -> impl Strategy<Value = Step> {
    let direction = || select(vec![Direction::Outbound, Direction::Inbound]);
    let verdict = || select(Verdict::ALL.to_vec());
    let decision = || {
        (verdict(), any::<bool>()).prop_map(|(verdict, permanent)| Decision { verdict, permanent })
    };
    let policy = || select(vec![Policy::Permit, Policy::Block]);
    prop_oneof![
        24 => (0..FLOWS, direction()).prop_map(|(flow, way)| Step::Present(flow, way)),
        8 => Just(Step::Deliver),
        8 => (0..12_usize, decision()).prop_map(|(back, what)| Step::Decide(back, what)),
        1 => decision().prop_map(Step::DecideUnknown),
        2 => (0..FLOWS, verdict()).prop_map(|(flow, what)| Step::Update(flow, what)),
        2 => Just(Step::Clear),
        3 => select(vec![1, 10, 30, 601]).prop_map(|s| Step::Sleep(Duration::from_secs(s))),
        3 => Just(Step::Tick),
        1 => Just(Step::Settle),
        // A reader is there most of the time.
        1 => Just(Step::Reader(false)),
        4 => Just(Step::Reader(true)),
        1 => (any::<bool>(), policy(), policy()).prop_map(|(a, b, c)| Step::Policies(a, b, c)),
    ]
}

struct Packet {
    /// The packet's number among those that were held: the upper part of its id.
    number: u64,
    flow: u16,
    way: Direction,
    time: Timestamp,
    asked: bool,
}

struct Cached {
    verdict: Verdict,
    forward: Direction,
    opened: Direction,
    seen: Timestamp,
}

#[derive(Default)]
struct Model {
    reader: bool,
    config: Config,
    /// In order of arrival.
    held: Vec<Packet>,
    /// Numbers of packets whose request waits.
    queue: VecDeque<u64>,
    requests: u64,
    numbers: u64,
    abandoned: u64,
    cached: HashMap<u16, Cached>,
    last_arrival: HashMap<u16, Timestamp>,
    /// Which way the first packet went, of each flow that waits.
    opened: HashMap<u16, Direction>,
    ends: HashMap<u64, (u64, VerdictOutcome, i8)>,
    seen: u64,
    ended: BTreeMap<Reason, u64>,
}

/// A packet that goes: its number and reason.
type Gone = (u64, Reason);

impl Model {
    fn end(&mut self, reason: Reason) {
        *self.ended.entry(reason).or_default() += 1;
    }

    fn by_verdict(verdict: Verdict, forward: Direction, way: Direction, held: bool) -> Reason {
        match (verdict, held) {
            (Verdict::Accept, false) => Reason::PermittedCache,
            (Verdict::Accept, true) => Reason::PermittedVerdict,
            (Verdict::Block, false) => Reason::BlockedCache,
            (Verdict::Block, true) => Reason::BlockedVerdict,
            (Verdict::Drop, false) => Reason::DroppedCache,
            (Verdict::Drop, true) => Reason::DroppedVerdict,
            _ if way != forward => Reason::DroppedRedirectImpossible,
            (_, false) => Reason::RedirectedCache,
            (_, true) => Reason::RedirectedVerdict,
        }
    }

    fn is_idle(cached: &Cached, now: Timestamp) -> bool {
        now.since(cached.seen) > IDLE
    }

    fn raise(&mut self, at: usize) {
        self.held[at].asked = true;
        self.queue.push_back(self.held[at].number);
        self.requests += 1;
    }

    /// Positions of a flow's packets.
    fn of_flow(&self, flow: u16) -> Vec<usize> {
        (0..self.held.len())
            .filter(|&i| self.held[i].flow == flow)
            .collect()
    }

    /// Asks for a flow's first packet if none of it was asked for.
    fn ask_first(&mut self, flow: u16) -> bool {
        let of_flow = self.of_flow(flow);
        let asked = of_flow.iter().any(|&i| self.held[i].asked);
        match of_flow.first() {
            Some(&first) if !asked && self.reader && self.held[first].number > self.abandoned => {
                self.raise(first);
                true
            }
            _ => false,
        }
    }

    fn take(&mut self, at: usize, outcome: VerdictOutcome, first: i8, reason: Reason) -> Gone {
        let number = self.held.remove(at).number;
        self.queue.retain(|&queued| queued != number);
        self.ends.insert(number % ENDS, (number, outcome, first));
        self.end(reason);
        (number, reason)
    }

    fn present(&mut self, flow: u16, way: Direction, now: Timestamp) -> Result<Reason, bool> {
        self.seen += 1;
        if self
            .cached
            .get(&flow)
            .is_some_and(|c| Self::is_idle(c, now))
        {
            self.cached.remove(&flow);
        }
        if let Some(cached) = self.cached.get_mut(&flow) {
            cached.seen = now;
            let reason = Self::by_verdict(cached.verdict, cached.forward, way, false);
            self.end(reason);
            return Ok(reason);
        }
        if !self.reader && self.of_flow(flow).is_empty() {
            let reason = match self.config.no_reader {
                Policy::Permit => Reason::PermittedNoReader,
                Policy::Block => Reason::BlockedNoReader,
            };
            self.end(reason);
            return Ok(reason);
        }
        let mut raised = false;
        let evicted = VerdictOutcome::Evicted;
        if self.held.len() == CAPACITIES.packets as usize {
            let flow = self.held[0].flow;
            self.take(0, evicted, 0, Reason::DroppedPacketCacheFull);
            raised |= self.ask_first(flow);
        }
        let of_flow = self.of_flow(flow);
        if of_flow.is_empty() {
            self.opened.insert(flow, way);
        }
        if of_flow.len() == CAPACITIES.flow_packets as usize {
            let second = self.held[of_flow[0]].asked && !self.held[of_flow[1]].asked;
            let victim = of_flow[usize::from(second)];
            self.take(victim, evicted, 0, Reason::DroppedFlowFull);
        }
        self.numbers += 1;
        self.last_arrival.insert(flow, now);
        self.held.push(Packet {
            number: self.numbers,
            flow,
            way,
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
        Err(raised)
    }

    fn decide(&mut self, number: u64, decision: Decision) -> Result<Vec<Gone>, NotHeld> {
        let Some(at) = self.held.iter().position(|packet| packet.number == number) else {
            return Err(match self.ends.get(&(number % ENDS)) {
                Some(&(ended, outcome, first)) if ended == number => NotHeld { outcome, first },
                _ => not_held(VerdictOutcome::UnknownId),
            });
        };
        let (flow, forward) = (self.held[at].flow, self.held[at].way);
        let verdict = decision.verdict;
        let mut gone = Vec::new();
        let mut take = |model: &mut Self, at: usize| {
            let reason = Self::by_verdict(verdict, forward, model.held[at].way, true);
            let outcome = VerdictOutcome::AlreadyDecided;
            gone.push(model.take(at, outcome, decision.number(), reason));
        };
        if decision.permanent {
            while let Some(&first) = self.of_flow(flow).first() {
                take(self, first);
            }
            let seen = self.last_arrival[&flow];
            let cached = Cached {
                verdict,
                forward,
                opened: self.opened[&flow],
                seen,
            };
            self.cached.insert(flow, cached);
        } else {
            take(self, at);
            self.ask_first(flow);
        }
        Ok(gone)
    }

    /// Lets the oldest packets go by policy while `due` says so.
    fn settle(
        &mut self,
        due: impl Fn(&Self, &Packet) -> bool,
        outcome: VerdictOutcome,
        reason: Reason,
    ) -> Vec<Gone> {
        let mut gone = Vec::new();
        while self.held.first().is_some_and(|packet| due(self, packet)) {
            let flow = self.held[0].flow;
            gone.push(self.take(0, outcome, 0, reason));
            // Nobody is asked about what goes next.
            let first = self.of_flow(flow).first().copied();
            if first.is_some_and(|first| !due(self, &self.held[first])) {
                self.ask_first(flow);
            }
        }
        gone
    }

    fn settle_abandoned(&mut self) -> Vec<Gone> {
        let reason = match self.config.no_reader {
            Policy::Permit => Reason::PermittedNoReader,
            Policy::Block => Reason::BlockedNoReader,
        };
        let due = |model: &Self, packet: &Packet| packet.number <= model.abandoned;
        self.settle(due, VerdictOutcome::Abandoned, reason)
    }

    fn tick(&mut self, now: Timestamp) -> Vec<Gone> {
        let mut gone = self.settle_abandoned();
        let reason = match self.config.hold_limit {
            Policy::Permit => Reason::PermittedHoldLimit,
            Policy::Block => Reason::BlockedHoldLimit,
        };
        let due = |_: &Self, packet: &Packet| now.since(packet.time) >= HOLD;
        gone.extend(self.settle(due, VerdictOutcome::Expired, reason));
        gone
    }
}

fn gone(out: &[Out]) -> Vec<Gone> {
    out.iter()
        .map(|out| (out.info.id.get() >> SLOT_BITS, out.reason()))
        .collect()
}

fn packet(flow: u16, way: Direction) -> Vec<u8> {
    let local = format!("192.0.2.10:{}", 10_000 + flow);
    match way {
        Direction::Outbound => udp(&local, THERE, 0),
        Direction::Inbound => udp(THERE, &local, 0),
    }
}

fn key(flow: u16) -> FlowKey {
    let packet = packet(flow, Direction::Outbound);
    kext_packet::testing::parse(&packet).flow_key(Direction::Outbound)
}

/// The engine, the model, and the ids that a reader was told.
struct Pair {
    bench: Bench,
    model: Model,
    ids: Vec<PacketId>,
}

impl Pair {
    fn new() -> Self {
        Self {
            bench: Bench::new(CAPACITIES, Config::default()),
            model: Model {
                reader: true,
                ..Model::default()
            },
            ids: Vec::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let Self { bench, model, ids } = self;
        let now = bench.now();
        match step {
            Step::Present(flow, way) => {
                let end = match bench.present(&packet(flow, way), &arrival(way)) {
                    End::Ended(action) => Ok(reason(&action)),
                    End::Held(raised) => Err(raised),
                };
                assert_eq!(end, model.present(flow, way, now));
            }
            Step::Deliver => {
                let delivered = bench.engine.deliver(|held| Some(held.info.id));
                let expected = model.queue.pop_front();
                match delivered {
                    Delivery::Delivered(id) => {
                        assert_eq!(Some(id.get() >> SLOT_BITS), expected);
                        ids.push(id);
                    }
                    other => assert_eq!((other, expected), (Delivery::Empty, None)),
                }
            }
            Step::Decide(back, decision) => {
                let Some(&id) = ids.iter().rev().nth(back) else {
                    return;
                };
                let out = bench.decide(id, decision).map(|out| gone(&out));
                assert_eq!(out, model.decide(id.get() >> SLOT_BITS, decision));
            }
            Step::DecideUnknown(decision) => {
                let id = PacketId::new((model.numbers + 1) << SLOT_BITS | 1).unwrap();
                let outcome = bench.decide(id, decision).unwrap_err();
                assert_eq!(outcome, not_held(VerdictOutcome::UnknownId));
            }
            Step::Update(flow, verdict) => {
                let updated = bench.engine.update_verdict(&key(flow), verdict, now);
                let cached = model.cached.get_mut(&flow);
                let cached = cached.filter(|cached| !Model::is_idle(cached, now));
                assert_eq!(updated, cached.is_some());
                if let Some(cached) = cached {
                    (cached.verdict, cached.forward) = (verdict, cached.opened);
                }
            }
            Step::Clear => {
                bench.engine.clear_cache();
                model.cached.clear();
            }
            Step::Sleep(time) => bench.sleep(time),
            Step::Tick => assert_eq!(gone(&bench.tick()), model.tick(now)),
            Step::Settle => {
                let mut out = Vec::new();
                while let Some(releases) = bench.engine.settle_abandoned() {
                    out.extend(drain(releases));
                }
                assert_eq!(gone(&out), model.settle_abandoned());
            }
            Step::Reader(reader) => {
                bench.engine.set_reader(reader);
                model.reader = reader;
                if !reader {
                    model.abandoned = model.numbers;
                }
            }
            Step::Policies(ask_each_packet, no_reader, hold_limit) => {
                model.config = Config {
                    ask_each_packet,
                    no_reader,
                    hold_limit,
                    ..model.config
                };
                bench.engine.set_config(model.config).unwrap();
            }
        }
    }

    fn assert_agreement(&self) {
        let Self { bench, model, .. } = self;
        bench.assert_balanced(model.held.len() as u64);
        assert_eq!(bench.event(Event::Seen), model.seen);
        assert_eq!(bench.event(Event::Requests), model.requests);
        assert_eq!(bench.engine.queued_requests() as usize, model.queue.len());
        for reason in Reason::ALL {
            let expected = model.ended.get(&reason).copied().unwrap_or(0);
            assert_eq!(bench.reason(reason), expected, "{reason:?}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn the_engine_agrees_with_its_model(steps in prop::collection::vec(steps(), 1..200)) {
        let mut pair = Pair::new();
        for step in steps {
            pair.step(step);
            pair.assert_agreement();
        }
        // In the end nothing is left behind.
        pair.step(Step::Reader(false));
        pair.step(Step::Tick);
        pair.assert_agreement();
        pair.bench.assert_balanced(0);
    }
}
