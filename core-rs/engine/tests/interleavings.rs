//! Races of the engine under a model checker of schedules: `cargo xtask test interleavings`.
//!
//! Each model is a few threads with a few steps each on a real engine. The checker runs one thread
//! at a time and chooses at every lock and every atomic operation who goes on; a model runs under
//! many such schedules, half of them uniform, half with few but well-placed switches (PCT). A schedule
//! that fails is printed in a form that `shuttle::replay` takes.
//!
//! Not shown here: what weaker memory orderings would allow. The checker's memory is sequential.
#![cfg(shuttle)]

mod common;

use std::collections::HashMap;
use std::sync::Mutex as Record;

use kext_engine::{Authorized, Classified, Delivery, Engine, Releases};
use kext_packet::{MAX_STAND_IN_LEN, stand_in};
use kext_types::{
    Address, Capacities, Config, Decision, Direction, Event, FlowKey, IpVersion, PacketId, Reason,
    Timestamp, Verdict, protocol,
};
use shuttle::scheduler::{PctScheduler, RandomScheduler};
use shuttle::sync::atomic::{AtomicBool, Ordering};
use shuttle::thread;

use common::*;

/// Schedules of each kind for each model, unless `INTERLEAVINGS` says another number.
const SCHEDULES: usize = 5_000;
/// Priority changes of a PCT schedule: races with so few ordering constraints are found.
const DEPTH: usize = 3;
/// One start for all runs, so that they repeat.
const SEED: u64 = 0x1D5;

const START: u64 = 1_700_000_000_000_000_000;
/// Longer than any packet is held.
const LATER: Timestamp = Timestamp::from_nanos(START + 60_000_000_000);

const CAPACITIES: Capacities = Capacities {
    flow_packets: 3,
    ..SMALL
};

fn explore(model: impl Fn() + Send + Sync + Copy + 'static) {
    let schedules = std::env::var("INTERLEAVINGS").map_or(SCHEDULES, |text| {
        text.parse().expect("INTERLEAVINGS is a number")
    });
    let mut config = shuttle::Config::new();
    config.stack_size = 1 << 18;
    let random = RandomScheduler::new_from_seed(SEED, schedules);
    shuttle::Runner::new(random, config.clone()).run(model);
    let pct = PctScheduler::new_from_seed(SEED, DEPTH, schedules);
    shuttle::Runner::new(pct, config).run(model);
}

/// What went, written down between two steps of the checker.
#[derive(Default)]
struct Gone {
    /// The serial number of the last packet of each flow that went, and how many.
    last: HashMap<u16, u64>,
    packets: u64,
}

struct Scene {
    engine: Engine<Mutex>,
    gone: Record<Gone>,
    /// Whether packets may pass older ones of their flow that nobody reads for.
    ordered: bool,
}

impl Scene {
    fn new(config: Config) -> Self {
        let engine = Engine::try_new(CAPACITIES, config, 42).unwrap();
        engine.set_reader(true);
        Self {
            engine,
            gone: Record::default(),
            ordered: true,
        }
    }

    fn went(&self, flow: u16, bytes: &[u8]) {
        let serial = u64::from_be_bytes(*bytes.last_chunk().unwrap());
        let mut gone = self.gone.lock().unwrap();
        gone.packets += 1;
        let before = gone.last.insert(flow, serial).unwrap_or(0);
        assert!(before != serial, "flow {flow}: packet {serial} went twice");
        assert!(
            before < serial || !self.ordered,
            "flow {flow}: packet {serial} went after {before}"
        );
    }

    /// Presents a packet; `None` if it is held.
    fn present(&self, flow: u16, serial: u64) -> Option<Reason> {
        let local = format!("192.0.2.10:{}", 10_000 + flow);
        let packet = udp_of(&local, THERE, &serial.to_be_bytes());
        let arrival = arrival(Direction::Outbound);
        let now = Timestamp::from_nanos(START);
        match self.engine.classify(&packet, packet.len(), &arrival, now) {
            Classified::Held { .. } => None,
            Classified::Settled { settled, .. } => {
                let reason = reason(&settled.action);
                self.went(flow, &packet);
                settled.obligation.end(reason);
                Some(reason)
            }
        }
    }

    fn request(&self) -> Option<PacketId> {
        match self.engine.deliver(|held| Some(held.info.id)) {
            Delivery::Delivered(id) => Some(id),
            Delivery::Empty => None,
            Delivery::Refused => unreachable!("it was taken"),
        }
    }

    /// Presents a packet of a new flow and takes its request.
    fn ask(&self, flow: u16, serial: u64) -> PacketId {
        assert_eq!(self.present(flow, serial), None);
        self.request().expect("a request")
    }

    /// Gives a verdict, lets go at most `most` packets, and says whether it was in time.
    fn decide(&self, id: PacketId, decision: Decision, most: usize) -> bool {
        let decided = self
            .engine
            .decide(id, decision, Timestamp::from_nanos(START));
        decided.map(|releases| self.let_go(releases, most)).is_ok()
    }

    fn let_go(&self, mut releases: Releases<'_, Mutex>, most: usize) {
        for _ in 0..most {
            let Some(release) = releases.next(|len| Some(vec![0; len])) else {
                break;
            };
            let flow = release.info.flow.local_port - 10_000;
            self.went(flow, &release.buffer.expect("bytes"));
            let reason = reason(&release.settled.action);
            release.settled.obligation.end(reason);
        }
    }

    fn tick(&self, now: Timestamp) {
        // Bound: more than could be due in any model.
        for _ in 0..64 {
            match self.engine.tick(now) {
                Some(releases) => self.let_go(releases, ALL),
                None => return,
            }
        }
        panic!("the tick has no end");
    }

    /// What must hold whenever nothing is under way.
    fn check(&self) {
        let counters = self.engine.counters();
        let totals = counters.totals();
        assert!(totals.balanced(), "{totals:?}");
        assert_eq!(counters.reason(Reason::DroppedUnsettled), 0);
        let made_room = counters.reason(Reason::DroppedPacketCacheFull)
            + counters.reason(Reason::DroppedFlowFull);
        let gone = self.gone.lock().unwrap().packets;
        assert_eq!(totals.seen, gone + made_room + totals.held, "one end each");
        assert!(u64::from(self.engine.queued_requests()) <= totals.held);
    }

    /// A held flow is asked for or being asked for: verdicts alone can empty the engine.
    fn finish_by_verdicts(&self) {
        self.check();
        self.tick(Timestamp::from_nanos(START));
        // Bound: more requests than packets.
        for _ in 0..64 {
            let Some(id) = self.request() else { break };
            assert!(self.decide(id, once(Verdict::Accept), ALL));
        }
        self.check();
    }

    /// Without a reader nothing stays, whatever went before.
    fn close(&self) {
        self.engine.set_reader(false);
        self.tick(Timestamp::from_nanos(START));
        self.check();
        assert_eq!(self.engine.counters().totals().held, 0, "hostages");
        assert_eq!(self.engine.queued_requests(), 0);
    }
}

/// Every packet that a verdict sets free.
const ALL: usize = usize::MAX;

#[test]
fn a_verdict_meets_the_eviction_of_its_packet() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        for flow in 1..CAPACITIES.packets as u16 {
            assert_eq!(scene.present(flow, 1), None);
        }
        thread::scope(|scope| {
            // Room for a packet of another flow is made at the cost of the oldest.
            scope.spawn(|| scene.present(100, 1));
            scope.spawn(|| {
                for serial in 2..=4 {
                    scene.present(0, serial);
                }
            });
            scope.spawn(|| scene.decide(id, always(Verdict::Accept), ALL));
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn an_eviction_meets_a_packet_on_its_way_out() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        for serial in 2..=3 {
            assert_eq!(scene.present(0, serial), None);
        }
        for flow in 3..CAPACITIES.packets as u16 {
            scene.ask(flow, 1);
        }
        thread::scope(|scope| {
            scope.spawn(|| scene.decide(id, once(Verdict::Accept), ALL));
            // The second packet takes the place of one of the flow, whose last one must not be
            // asked for before the first has gone.
            scope.spawn(|| [100, 101].map(|flow| scene.present(flow, 1)));
            scope.spawn(|| {
                for _ in 0..3 {
                    if let Some(id) = scene.request() {
                        scene.decide(id, once(Verdict::Accept), ALL);
                    }
                }
            });
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn a_flow_that_is_full_meets_its_verdict() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        thread::scope(|scope| {
            scope.spawn(|| {
                for serial in 2..=6 {
                    scene.present(0, serial);
                }
            });
            scope.spawn(|| scene.decide(id, once(Verdict::Accept), ALL));
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn a_clearing_meets_look_ups_and_a_verdict() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        assert!(scene.decide(id, always(Verdict::Block), ALL));
        let late = scene.ask(1, 1);
        let (clearing, cleared) = (AtomicBool::new(false), AtomicBool::new(false));
        let at = |flag: &AtomicBool| flag.load(Ordering::SeqCst);
        let (decided_before, decided_after) = thread::scope(|scope| {
            scope.spawn(|| {
                clearing.store(true, Ordering::SeqCst);
                scene.engine.clear_cache();
                cleared.store(true, Ordering::SeqCst);
            });
            scope.spawn(|| {
                for serial in 2..=4 {
                    let (too_late, in_time) = (at(&cleared), !at(&clearing));
                    let end = scene.present(0, serial);
                    if too_late {
                        assert_eq!(end, None, "found after the clearing");
                    }
                    if in_time && !at(&clearing) {
                        assert_eq!(end, Some(Reason::BlockedCache), "lost before it");
                    }
                }
            });
            let verdict = scope.spawn(|| {
                let (after, now) = (at(&cleared), Timestamp::from_nanos(START));
                let decided = scene.engine.decide(late, always(Verdict::Block), now);
                // Given before the clearing, though perhaps carried out after it.
                let before = !at(&clearing);
                scene.let_go(decided.unwrap_or_else(|_| panic!("held")), ALL);
                (before, after)
            });
            verdict.join().unwrap()
        });
        scene.check();
        let end = scene.present(1, 2);
        if decided_before {
            assert_eq!(end, None, "a verdict outlived the clearing");
        }
        if decided_after {
            assert_eq!(end, Some(Reason::BlockedCache), "a verdict was forgotten");
        }
        scene.close();
    });
}

#[test]
fn a_close_meets_packets_and_leaves_no_hostage() {
    explore(|| {
        let mut scene = Scene::new(Config::default());
        // Without a reader new packets go by policy, at once.
        scene.ordered = false;
        assert_eq!(scene.present(0, 1), None);
        thread::scope(|scope| {
            scope.spawn(|| {
                scene.engine.set_reader(false);
                // Bound: more than is ever held here.
                for _ in 0..16 {
                    match scene.engine.settle_abandoned() {
                        Some(releases) => scene.let_go(releases, ALL),
                        None => return,
                    }
                }
                panic!("the settling has no end");
            });
            for flow in 0..2 {
                let scene = &scene;
                scope.spawn(move || {
                    scene.present(flow, 2);
                    scene.present(flow, 3);
                });
            }
        });
        scene.check();
        assert_eq!(scene.engine.counters().totals().held, 0, "hostages");
    });
}

#[test]
fn a_close_and_a_new_reader_meet_a_verdict() {
    explore(|| {
        let mut scene = Scene::new(Config::default());
        scene.ordered = false;
        let id = scene.ask(0, 1);
        assert_eq!(scene.present(0, 2), None);
        thread::scope(|scope| {
            scope.spawn(|| {
                scene.engine.set_reader(false);
                while let Some(releases) = scene.engine.settle_abandoned() {
                    scene.let_go(releases, ALL);
                }
                scene.engine.set_reader(true);
                scene.present(1, 1);
            });
            scope.spawn(|| scene.decide(id, once(Verdict::Accept), ALL));
            scope.spawn(|| scene.present(0, 3));
        });
        scene.check();
        // What was left behind goes by the tick; what came later has a request.
        scene.tick(Timestamp::from_nanos(START));
        scene.finish_by_verdicts();
        assert_eq!(scene.engine.counters().totals().held, 0, "never asked for");
    });
}

#[test]
fn two_readers_share_the_requests() {
    explore(|| {
        let scene = Scene::new(Config::default());
        for flow in 0..2 {
            assert_eq!(scene.present(flow, 1), None);
        }
        let taken = Record::new(Vec::new());
        thread::scope(|scope| {
            for permanent in [false, true] {
                let (scene, taken) = (&scene, &taken);
                scope.spawn(move || {
                    for _ in 0..3 {
                        let Some(id) = scene.request() else { continue };
                        taken.lock().unwrap().push(id);
                        let verdict = Verdict::Accept;
                        let in_time = scene.decide(id, Decision { verdict, permanent }, ALL);
                        assert!(in_time, "the only verdict for {id:?}");
                    }
                });
            }
            scope.spawn(|| {
                for (flow, serial) in [(0, 2), (1, 2), (0, 3)] {
                    scene.present(flow, serial);
                }
            });
        });
        let mut taken = taken.into_inner().unwrap();
        let requests = taken.len();
        taken.sort_by_key(|id| id.get());
        taken.dedup();
        assert_eq!(taken.len(), requests, "a request was delivered twice");
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn two_verdicts_for_one_packet_have_one_winner() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        let wins = thread::scope(|scope| {
            let verdicts = [always(Verdict::Accept), once(Verdict::Block)];
            let threads = verdicts.map(|decision| {
                let scene = &scene;
                scope.spawn(move || scene.decide(id, decision, ALL))
            });
            scope.spawn(|| scene.present(0, 2));
            threads.map(|thread| thread.join().unwrap())
        });
        assert!(wins[0] != wins[1], "{wins:?}");
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn the_tick_meets_a_verdict_and_packets() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        assert_eq!(scene.present(0, 2), None);
        thread::scope(|scope| {
            // Both packets are past the hold limit.
            scope.spawn(|| scene.tick(LATER));
            scope.spawn(|| scene.decide(id, always(Verdict::Accept), ALL));
            scope.spawn(|| scene.present(0, 3));
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn two_ticks_meet_a_verdict_that_was_left_to_them() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let (first, second) = (scene.ask(0, 1), scene.ask(1, 1));
        assert_eq!(scene.present(0, 2), None);
        thread::scope(|scope| {
            scope.spawn(|| {
                scene.decide(first, always(Verdict::Accept), 1);
                scene.decide(second, always(Verdict::Accept), 0);
            });
            scope.spawn(|| scene.tick(Timestamp::from_nanos(START)));
            scope.spawn(|| scene.tick(LATER));
            scope.spawn(|| scene.present(0, 3));
        });
        scene.finish_by_verdicts();
        // What has reached the hold limit is not asked about any more: the next tick settles it.
        scene.tick(LATER);
        assert_eq!(
            scene.engine.counters().totals().held,
            0,
            "forgotten by the tick"
        );
    });
}

#[test]
fn redirected_flows_claim_their_way_back_at_once() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let ids = [scene.ask(0, 1), scene.ask(1, 1)];
        thread::scope(|scope| {
            for (id, verdict) in ids.into_iter().zip([Verdict::RedirectDns; 2]) {
                let scene = &scene;
                scope.spawn(move || scene.decide(id, always(verdict), ALL));
            }
            scope.spawn(|| scene.present(0, 2));
            scope.spawn(|| scene.engine.clear_cache());
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

#[test]
fn an_update_meets_look_ups_and_a_clearing() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        assert!(scene.decide(id, always(Verdict::Accept), ALL));
        let packet = udp_of("192.0.2.10:10000", THERE, &[0; 8]);
        let flow = kext_packet::testing::parse(&packet).flow_key(Direction::Outbound);
        let now = Timestamp::from_nanos(START);
        let (updated, cleared) = (AtomicBool::new(false), AtomicBool::new(false));
        thread::scope(|scope| {
            scope.spawn(|| {
                if scene.engine.update_verdict(&flow, Verdict::Block, now) {
                    updated.store(true, Ordering::SeqCst);
                }
            });
            scope.spawn(|| {
                scene.engine.clear_cache();
                cleared.store(true, Ordering::SeqCst);
            });
            scope.spawn(|| {
                for serial in 2..=4 {
                    let old = updated.load(Ordering::SeqCst);
                    let none = cleared.load(Ordering::SeqCst);
                    let end = scene.present(0, serial);
                    assert!(
                        !old || end != Some(Reason::PermittedCache),
                        "the old verdict"
                    );
                    assert!(!none || end.is_none(), "a verdict after the clearing");
                }
            });
        });
        scene.finish_by_verdicts();
        scene.close();
    });
}

/// Payload that is told while its flow is being cached is counted, once.
#[test]
fn payload_meets_the_verdict_of_its_flow() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        let packet = udp_of("192.0.2.10:10000", THERE, &[0; 8]);
        let flow = kext_packet::testing::parse(&packet).flow_key(Direction::Outbound);
        let now = Timestamp::from_nanos(START);
        thread::scope(|scope| {
            for bytes in [1, 10] {
                let (scene, flow) = (&scene, &flow);
                scope.spawn(move || {
                    scene
                        .engine
                        .add_payload(flow, Direction::Outbound, bytes, now);
                    scene
                        .engine
                        .add_payload(flow, Direction::Inbound, bytes, now);
                });
            }
            scope.spawn(|| assert!(scene.decide(id, always(Verdict::Accept), ALL)));
        });
        let mut payload = None;
        scene.engine.list_flows(0, |info| {
            payload = Some((info.payload_outbound, info.payload_inbound));
            true
        });
        assert_eq!(payload, Some((11, 11)));
        scene.close();
    });
}

#[test]
fn every_flow_that_leaves_the_cache_is_told_of_once() {
    explore(|| {
        let scene = Scene::new(Config::default());
        scene.engine.keep_events(true);
        let id = scene.ask(0, 1);
        assert!(scene.decide(id, always(Verdict::Accept), ALL));
        let late = scene.ask(1, 1);
        let told = Record::new(0);
        let take = || {
            // Bound: more than ever leave here.
            for _ in 0..64 {
                if scene.engine.next_event().is_none() {
                    return;
                }
                *told.lock().unwrap() += 1;
            }
            panic!("the events have no end");
        };
        let look = |flow| {
            let packet = udp_of(&format!("192.0.2.10:{}", 10_000 + flow), THERE, &[0; 8]);
            let key = kext_packet::testing::parse(&packet).flow_key(Direction::Outbound);
            scene.engine.lookup(&key, Timestamp::from_nanos(START));
        };
        thread::scope(|scope| {
            scope.spawn(|| scene.engine.clear_cache());
            scope.spawn(|| {
                if scene.present(0, 2).is_none()
                    && let Some(id) = scene.request()
                {
                    scene.decide(id, always(Verdict::Block), ALL);
                }
                look(1);
            });
            scope.spawn(|| scene.decide(late, always(Verdict::Accept), ALL));
            scope.spawn(|| {
                look(0);
                take();
            });
        });
        scene.check();
        // What is there still, leaves now.
        scene.engine.clear_cache();
        (0..2).for_each(look);
        take();
        let cached = scene.engine.counters().event(Event::FlowCached);
        assert_eq!(*told.lock().unwrap(), cached);
        assert_eq!(scene.engine.waiting_and_lost_events(), (0, 0));
        scene.close();
    });
}

#[test]
fn everything_at_once() {
    explore(|| {
        let scene = Scene::new(Config::default());
        for flow in 0..3 {
            assert_eq!(scene.present(flow, 1), None);
        }
        thread::scope(|scope| {
            scope.spawn(|| {
                for serial in 2..=5 {
                    scene.present(0, serial);
                }
            });
            scope.spawn(|| {
                for serial in 2..=3 {
                    scene.present(1, serial);
                    scene.present(2, serial);
                }
            });
            for permanent in [true, false] {
                let scene = &scene;
                scope.spawn(move || {
                    for most in [ALL, 1] {
                        let Some(id) = scene.request() else { continue };
                        let verdict = Verdict::Accept;
                        scene.decide(id, Decision { verdict, permanent }, most);
                    }
                });
            }
            scope.spawn(|| {
                scene.tick(LATER);
                scene.engine.clear_cache();
                scene.tick(LATER);
            });
        });
        scene.finish_by_verdicts();
        scene.close();
        let events = scene.engine.counters();
        assert!(events.event(Event::VerdictUnknownId) == 0);
    });
}

/// Whoever raises a request wakes readers by what the engine says: none may sleep beside a request.
#[test]
fn no_reader_sleeps_beside_a_request() {
    explore(|| {
        let scene = Scene::new(Config::default());
        let id = scene.ask(0, 1);
        assert_eq!(scene.present(0, 2), None);
        let woken = AtomicBool::new(false);
        let wake = || woken.store(true, Ordering::SeqCst);
        let read = || {
            woken.store(false, Ordering::SeqCst);
            while scene.request().is_some() {}
        };
        thread::scope(|scope| {
            scope.spawn(|| {
                let lane = scene.engine.lane(1);
                for flow in 1..4 {
                    let local = format!("192.0.2.10:{}", 10_000 + flow);
                    let packet = udp_of(&local, THERE, &1_u64.to_be_bytes());
                    let arrival = arrival(Direction::Outbound);
                    let now = Timestamp::from_nanos(START);
                    match scene
                        .engine
                        .classify_on(&lane, &packet[..], packet.len(), &arrival, now)
                    {
                        Classified::Held {
                            request_raised: true,
                        } => wake(),
                        _ => panic!("it is asked for"),
                    }
                }
            });
            scope.spawn(|| {
                {
                    let lane = scene.engine.lane(63);
                    let (first, releases) = scene
                        .engine
                        .decide_on(
                            &lane,
                            id,
                            once(Verdict::Accept),
                            Timestamp::from_nanos(START),
                            |len| Some(vec![0; len]),
                        )
                        .unwrap();
                    let release = first.unwrap();
                    scene.went(0, &release.buffer.unwrap());
                    let reason = reason(&release.settled.action);
                    release.settled.obligation.end(reason);
                    scene.let_go(releases, ALL);
                }
                if scene.engine.queued_requests() > 0 {
                    wake();
                }
            });
            scope.spawn(|| {
                read();
                read();
            });
        });
        scene.check();
        assert!(
            woken.load(Ordering::SeqCst) || scene.engine.queued_requests() == 0,
            "asleep beside a request"
        );
        scene.close();
    });
}

/// A host that holds one connect, and what it was told.
struct Holder {
    engine: Engine<Mutex>,
    /// How often its hold was ended, and what it was told then.
    told: Record<Vec<Authorized>>,
}

const SOCKET: u64 = 7;

impl Holder {
    fn new() -> Self {
        let config = Config {
            hold_connects: true,
            ..Config::default()
        };
        let engine = Engine::try_new(CAPACITIES, config, 42).unwrap();
        engine.set_reader(true);
        Self {
            engine,
            told: Record::default(),
        }
    }

    fn flow() -> FlowKey {
        FlowKey {
            local: Address::v4([192, 0, 2, 10]),
            remote: Address::v4([198, 51, 100, 20]),
            local_port: 40_000,
            remote_port: 443,
            version: IpVersion::V4,
            protocol: protocol::TCP,
        }
    }

    fn now() -> Timestamp {
        Timestamp::from_nanos(START)
    }

    /// Says whether it is held.
    fn connect(&self) -> bool {
        let flow = Self::flow();
        let Authorized::Hold(id) = self.engine.authorize(&flow, SOCKET, false, Self::now()) else {
            return false;
        };
        let mut packet = [0; MAX_STAND_IN_LEN];
        let len = stand_in(&flow, &mut packet).unwrap();
        let arrival = arrival(Direction::Outbound);
        self.engine
            .hold_connect(id, &flow, &packet[..len], &arrival, Self::now());
        true
    }

    /// Lets what is free go, then ends holds, as a host does.
    fn let_go(&self, mut releases: Releases<'_, Mutex>) {
        while let Some(release) = releases.next(|len| Some(vec![0; len])) {
            let reason = reason(&release.settled.action);
            release.settled.obligation.end(reason);
        }
        drop(releases);
        self.end_holds();
    }

    fn end_holds(&self) {
        // Bound: more than are ever held here.
        for _ in 0..8 {
            if self.engine.next_decided_connect(Self::now()).is_none() {
                return;
            }
            let told = self
                .engine
                .authorize(&Self::flow(), SOCKET, true, Self::now());
            self.told.lock().unwrap().push(told);
        }
        panic!("holds have no end");
    }

    fn decide(&self, decision: Decision) {
        let deliver = self.engine.deliver(|held| Some(held.info.id));
        if let Delivery::Delivered(id) = deliver
            && let Ok(releases) = self.engine.decide(id, decision, Self::now())
        {
            self.let_go(releases);
        }
    }

    fn tick(&self, now: Timestamp) {
        // Bound: more than could be due in any model.
        for _ in 0..64 {
            let Some(releases) = self.engine.tick(now) else {
                return self.end_holds();
            };
            self.let_go(releases);
        }
        panic!("the tick has no end");
    }

    /// Without a reader nothing stays; gives what was told.
    fn finish(self, held: bool) -> Vec<Authorized> {
        self.engine.set_reader(false);
        self.tick(Self::now());
        let totals = self.engine.counters().totals();
        assert!(totals.balanced() && totals.held == 0, "{totals:?}");
        assert_eq!(self.engine.counters().reason(Reason::DroppedUnsettled), 0);
        let told = self.told.into_inner().unwrap();
        assert_eq!(told.len(), usize::from(held), "one end for each hold");
        told
    }
}

#[test]
fn a_held_connect_meets_its_verdict_its_end_and_the_hold_limit() {
    explore(|| {
        let holder = Holder::new();
        assert!(holder.connect());
        thread::scope(|scope| {
            scope.spawn(|| holder.decide(once(Verdict::Block)));
            scope.spawn(|| {
                let flow = Holder::flow();
                holder.engine.close_connect(&flow, SOCKET);
                holder.end_holds();
            });
            scope.spawn(|| holder.tick(LATER));
        });
        holder.finish(true);
    });
}

#[test]
fn a_connect_that_is_being_held_meets_the_verdict_of_its_flow_and_the_end_of_the_reader() {
    explore(|| {
        let holder = Holder::new();
        let packet = tcp(HERE, THERE, kext_packet::TcpFlags::SYN);
        let arrival = arrival(Direction::Outbound);
        let held = thread::scope(|scope| {
            let connecting = scope.spawn(|| holder.connect());
            scope.spawn(|| {
                let classified =
                    holder
                        .engine
                        .classify(&packet, packet.len(), &arrival, Holder::now());
                if let Classified::Settled { settled, .. } = classified {
                    let reason = reason(&settled.action);
                    settled.obligation.end(reason);
                }
                holder.decide(always(Verdict::Block));
            });
            scope.spawn(|| holder.engine.set_reader(false));
            connecting.join().unwrap()
        });
        holder.finish(held);
    });
}
