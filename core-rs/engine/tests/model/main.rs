//! Random sequences of operations against a plain model of the engine's rules.
//!
//! The model knows held packets as one queue in order of arrival ([`rules`]), cached flows as a map
//! ([`cache`]), and fragments as the parts of one datagram ([`fragments`]). It says for each packet how
//! it ends and for what reason, for each verdict what became of it, for each cached flow what was
//! counted, and for each flow that leaves the cache what is told of it. Pushing flows out of the verdict
//! cache is left to other tests: here there are fewer flows than room.

#[path = "../common/mod.rs"]
mod common;

mod cache;
mod fate;
mod fragments;
mod rules;
mod steps;

use std::collections::HashMap;

use kext_engine::Delivery;
use kext_packet::testing;
use kext_types::{
    Address, Arrival, Config, Direction, Event, FlowKey, PacketId, ProcessId, Reason,
    RedirectTarget, Verdict, VerdictOutcome,
};
use proptest::prelude::*;

use cache::Seen;
use common::*;
use fate::packet_of;
use fragments::{PIECES, Piece};
use rules::{CAPACITIES, Gone, Model, Packet};
use steps::{Change, Shape, Step, steps};

const SLOT_BITS: u32 = 4;
const ROUTER: &str = "203.0.113.1";
const TCP_HERE: &str = "192.0.2.10:20000";

fn redirected_to(last: u8) -> RedirectTarget {
    RedirectTarget {
        v4: Address::v4([203, 0, 113, last]),
        v6: Address::UNSPECIFIED,
        port: 53,
    }
}

fn config() -> Config {
    Config {
        redirect_dns: redirected_to(53),
        redirect_tunnel: redirected_to(117),
        ..Config::default()
    }
}

fn gone(out: &[Out]) -> Vec<Gone> {
    out.iter()
        .map(|out| (out.info.id.get() >> SLOT_BITS, out.action))
        .collect()
}

fn either(local: &str, remote: &str, way: Direction) -> [String; 2] {
    let (local, remote) = (local.to_string(), remote.to_string());
    match way {
        Direction::Outbound => [local, remote],
        Direction::Inbound => [remote, local],
    }
}

fn local(flow: u16) -> String {
    format!("192.0.2.10:{}", 10_000 + flow)
}

/// An ICMP error, on its way to the sender of a packet that went the other way.
fn error_about(packet: &[u8], way: Direction) -> Vec<u8> {
    let quoted = testing::parse(packet);
    let to = quoted.source.to_ip(quoted.version);
    let from = match way {
        Direction::Outbound => ip("192.0.2.10"),
        Direction::Inbound => ip(ROUTER),
    };
    let mut out = vec![0; packet.len() + 60];
    testing::icmp(&mut out, from, to, (11, 0), [0; 4], packet).to_vec()
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
            bench: Bench::new(CAPACITIES, config()),
            model: Model::new(config()),
            ids: Vec::new(),
        }
    }

    /// A packet of this shape, its flow, and the one that it is an error about. `None` if there is
    /// nothing that it could be about now.
    fn build(&self, shape: &Shape, way: Direction) -> Option<(Vec<u8>, FlowKey, Option<FlowKey>)> {
        let flow_of = |packet: &[u8]| testing::parse(packet).flow_key(way);
        let plain = |packet: Vec<u8>| {
            let flow = flow_of(&packet);
            Some((packet, flow, None))
        };
        let way_back = |which: usize| {
            let all = self.model.cache.ways_back();
            all.get(which % all.len().max(1)).copied()
        };
        match *shape {
            Shape::Udp(flow) => {
                let [source, destination] = either(&local(flow), THERE, way);
                plain(udp(&source, &destination, 0))
            }
            Shape::Tcp(flags) => {
                let [source, destination] = either(TCP_HERE, THERE, way);
                plain(tcp(&source, &destination, flags))
            }
            Shape::ToTarget(flow) => {
                let [source, destination] = either(&local(flow), "203.0.113.53:53", way);
                plain(udp(&source, &destination, 0))
            }
            Shape::Answer(which) => {
                let (flow, _) = way_back(which)?;
                Some((packet_of(&flow, way), flow, None))
            }
            Shape::Error(flow) => {
                let [source, destination] = either(&local(flow), THERE, way.reversed());
                let quoted = udp(&source, &destination, 0);
                let error = error_about(&quoted, way);
                let about = testing::parse(&quoted).flow_key(way.reversed());
                let flow = flow_of(&error);
                Some((error, flow, Some(about)))
            }
            Shape::ErrorOfTarget(which) => {
                let (about, _) = way_back(which)?;
                let error = error_about(&packet_of(&about, way.reversed()), way);
                let flow = flow_of(&error);
                Some((error, flow, Some(about)))
            }
            Shape::Fragment(flow, Piece { id, piece }) => {
                let [source, destination] = either(&local(flow), THERE, way);
                let whole = udp_of(&source, &destination, &[0; 64]);
                let (start, len) = PIECES[piece];
                let bytes = fragment(&whole, id, start * 8, len * 8);
                Some((bytes, flow_of(&whole), None))
            }
        }
    }

    fn present(&mut self, shape: &Shape, way: Direction, known: bool) {
        let Some((bytes, flow, about)) = self.build(shape, way) else {
            return;
        };
        let process_id = if known { ProcessId::new(7) } else { None };
        let packet = Packet {
            seen: Seen {
                way,
                process_id,
                size: bytes.len() as u64,
                flags: match shape {
                    Shape::Tcp(flags) => Some(*flags),
                    _ => None,
                },
            },
            flow,
            about,
            fragment: match shape {
                Shape::Fragment(_, piece) => Some(*piece),
                _ => None,
            },
        };
        let arrival = Arrival {
            process_id,
            ..arrival(way)
        };
        let Self { bench, model, .. } = self;
        let now = bench.now();
        let end = bench.present(&bytes, &arrival);
        assert_eq!(end, model.present(&packet, now));
        let early: Vec<_> = bench.early().into_iter().map(|(_, end)| end).collect();
        let expected: Vec<_> = std::iter::from_fn(|| model.early(now)).collect();
        assert_eq!(early, expected);
    }

    fn configure(&mut self, change: &Change) {
        let Self { bench, model, .. } = self;
        let mut config = model.config;
        match *change {
            Change::AskEachPacket(ask) => config.ask_each_packet = ask,
            Change::NoReader(policy) => config.no_reader = policy,
            Change::HoldLimitPolicy(policy) => config.hold_limit = policy,
            Change::Fragments(policy) => config.fragments = policy,
            Change::HoldLimit(ms) => config.hold_limit_ms = ms,
            Change::Idle(ms) => config.flow_idle_ms = ms,
            Change::Closed(ms) => config.flow_closed_ms = ms,
            Change::Target(last) => config.redirect_dns = redirected_to(last),
            Change::Refused => {
                config.flow_idle_ms = 5_000;
                config.loop_limit = 0;
            }
        }
        if bench.engine.set_config(config).is_ok() {
            model.config = config;
        }
        assert_eq!(bench.engine.config(), model.config);
    }

    fn step(&mut self, step: &Step) {
        let now = self.bench.now();
        match step {
            Step::Present(shape, way, known) => self.present(shape, *way, *known),
            Step::Configure(change) => self.configure(change),
            Step::Answer(decision) => {
                let asked = self.ids.len();
                self.step(&Step::Deliver);
                if self.ids.len() > asked {
                    self.step(&Step::Decide(0, *decision));
                }
            }
            Step::Update(shape, verdict) => {
                let Some((_, flow, _)) = self.build(shape, Direction::Outbound) else {
                    return;
                };
                let updated = self.bench.engine.update_verdict(&flow, *verdict, now);
                let Model { cache, config, .. } = &mut self.model;
                assert_eq!(updated, cache.update(&flow, *verdict, config, now));
            }
            Step::Lookup(shape) => {
                let Some((_, flow, _)) = self.build(shape, Direction::Outbound) else {
                    return;
                };
                let Model { cache, config, .. } = &mut self.model;
                let verdict = self.bench.engine.lookup(&flow, now);
                assert_eq!(verdict, cache.lookup(&flow, config, now));
            }
            _ => self.plain_step(step),
        }
    }

    fn plain_step(&mut self, step: &Step) {
        let Self { bench, model, ids } = self;
        let now = bench.now();
        match *step {
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
                assert_eq!(out, model.decide(id.get() >> SLOT_BITS, decision, now));
            }
            Step::DecideUnknown(decision) => {
                let id = PacketId::new((model.numbers + 1) << SLOT_BITS | 1).unwrap();
                let outcome = bench.decide(id, decision).unwrap_err();
                assert_eq!(outcome, not_held(VerdictOutcome::UnknownId));
            }
            Step::Clear => {
                bench.engine.clear_cache();
                model.cache.clear();
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
            Step::DropEarly => {
                bench.engine.drop_early();
                model.drop_early(None);
            }
            Step::Reader(reader) => {
                bench.engine.set_reader(reader);
                model.set_reader(reader);
            }
            Step::KeepEvents(keep) => {
                bench.engine.keep_events(keep);
                model.cache.keep_events(keep);
            }
            Step::TakeEvents(count) => {
                for _ in 0..count {
                    let event = bench.engine.next_event();
                    assert_eq!(event, model.cache.events.pop_front());
                }
            }
            Step::Present(..)
            | Step::Answer(_)
            | Step::Configure(_)
            | Step::Update(..)
            | Step::Lookup(_) => unreachable!("done by the caller"),
        }
    }

    /// What is quickly compared, after every step.
    fn assert_agreement(&self) {
        let Self { bench, model, .. } = self;
        assert_eq!(bench.event(Event::Held), model.held());
        assert_eq!(bench.engine.queued_requests() as usize, model.queue.len());
        let (waiting, lost) = bench.engine.waiting_and_lost_events();
        let expected = (model.cache.events.len(), model.cache.lost);
        assert_eq!((waiting as usize, lost), expected, "events");
    }

    /// All counters, and all of the cache.
    fn assert_whole_agreement(&self) {
        let Self { bench, model, .. } = self;
        bench.assert_balanced(model.held());
        for (event, expected) in [
            (Event::Seen, model.seen),
            (Event::Requests, model.requests),
            (Event::FlowCached, model.cache.cached),
            (Event::FlowExpired, model.cache.expired),
            (Event::FlowEvicted, 0),
        ] {
            assert_eq!(bench.event(event), expected, "{event:?}");
        }
        for reason in Reason::ALL {
            let expected = model.ended.get(&reason).copied().unwrap_or(0);
            assert_eq!(bench.reason(reason), expected, "{reason:?}");
        }
        let mut list = HashMap::new();
        let next = bench.engine.list_flows(0, |info| {
            assert_eq!(list.insert(info.flow, *info), None, "shown twice");
            true
        });
        assert_eq!((next, list), (0, model.cache.list()));
    }

    /// Runs steps, ends the reader and the cache, and finds that nothing is left and all was told.
    fn run(&mut self, steps: &[Step]) {
        for (number, step) in steps.iter().enumerate() {
            self.step(step);
            self.assert_agreement();
            if number % 16 == 0 {
                self.assert_whole_agreement();
            }
        }
        for step in [Step::Reader(false), Step::Tick, Step::DropEarly] {
            self.step(&step);
        }
        self.assert_whole_agreement();
        self.bench.assert_balanced(0);
        let (waiting, _) = self.bench.engine.waiting_and_lost_events();
        self.step(&Step::TakeEvents(waiting as usize + 1));
        self.assert_agreement();
    }
}

fn cases(cases: u32) -> ProptestConfig {
    ProptestConfig {
        cases,
        // What is found becomes a test of its own.
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(cases(512))]

    #[test]
    fn the_engine_agrees_with_its_model(steps in prop::collection::vec(steps(), 1..200)) {
        Pair::new().run(&steps);
    }
}

proptest! {
    #![proptest_config(cases(16))]

    /// With so many events that wait already that most of them are lost.
    #[test]
    fn the_engine_agrees_with_its_model_when_events_are_lost(
        room in 0..4_u16,
        steps in prop::collection::vec(steps(), 100..200),
    ) {
        let mut pair = Pair::new();
        pair.step(&Step::KeepEvents(true));
        let way = Direction::Outbound;
        for flow in 100..1_124 - room {
            pair.step(&Step::Present(Shape::Udp(flow), way, false));
            pair.step(&Step::Answer(always(Verdict::Accept)));
            pair.step(&Step::Clear);
            pair.step(&Step::Lookup(Shape::Udp(flow)));
        }
        prop_assert_eq!(pair.model.cache.events.len(), usize::from(1_024 - room));
        // Nobody takes them, and nobody turns them off.
        let steps: Vec<_> = steps
            .into_iter()
            .filter(|step| !matches!(step, Step::TakeEvents(_) | Step::KeepEvents(_)))
            .collect();
        pair.run(&steps);
    }
}
