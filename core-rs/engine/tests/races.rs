//! Races of the verdict cache, one by one: what another processor does between two locks.
//!
//! A model runs an operation again and again; the other processor acts before its first lock, then
//! before its second, and so on.
#![cfg(not(shuttle))]
#![allow(unsafe_code)]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use kext_engine::{Classified, Delivery, Engine};
use kext_sync::RawLock;
use kext_types::{
    Address, Config, Direction, Event, FlowEnd, FlowKey, FlowOrigin, IpVersion, Reason, Timestamp,
    Verdict,
};

use common::*;

type Act = Rc<dyn Fn()>;

/// What another processor does, and before which lock.
struct Meanwhile {
    act: Act,
    /// How many locks come before it, of those that are taken while at most `held` others are held.
    locks: usize,
    held: usize,
}

thread_local! {
    static MEANWHILE: RefCell<Option<Meanwhile>> = const { RefCell::new(None) };
    static ACTED: Cell<bool> = const { Cell::new(false) };
    static HELD: Cell<usize> = const { Cell::new(0) };
}

fn meanwhile() {
    let now = MEANWHILE.with_borrow_mut(|meanwhile| {
        let due = meanwhile.as_mut().filter(|due| HELD.get() <= due.held)?;
        if due.locks == 0 {
            return meanwhile.take();
        }
        due.locks -= 1;
        None
    });
    if let Some(Meanwhile { act, .. }) = now {
        ACTED.set(true);
        act();
    }
}

/// A lock before which another processor can be made to act.
struct Raced(Mutex);

// SAFETY: every call is passed on to a mutex that keeps the contract.
unsafe impl RawLock for Raced {
    const INIT: Self = Self(<Mutex as RawLock>::INIT);
    type Guard = <Mutex as RawLock>::Guard;

    fn lock(&self) -> Self::Guard {
        meanwhile();
        self.try_lock().expect("the model is of one thread")
    }

    fn try_lock(&self) -> Option<Self::Guard> {
        let guard = self.0.try_lock()?;
        HELD.set(HELD.get() + 1);
        Some(guard)
    }

    unsafe fn unlock(&self, guard: Self::Guard) {
        HELD.set(HELD.get() - 1);
        // SAFETY: the caller gives back what locking gave.
        unsafe { self.0.unlock(guard) }
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

const START: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);
const HERE: &str = "192.0.2.10:10000";

struct Scene {
    engine: Engine<Raced>,
    /// The way back of the redirected flow from `HERE` to `THERE`.
    way_back: FlowKey,
}

impl Scene {
    fn new() -> Rc<Self> {
        Self::of(engine())
    }

    /// Teaches the engine the redirected flow.
    fn of(engine: Engine<Raced>) -> Rc<Self> {
        teach(
            &engine,
            &udp(HERE, THERE, 1),
            Verdict::RedirectTunnel,
            START,
        );
        let mut way_back = None;
        engine.list_flows(0, |info| {
            if info.origin == FlowOrigin::WayBack {
                way_back = Some(info.flow);
            }
            true
        });
        Rc::new(Self {
            engine,
            way_back: way_back.expect("a way back"),
        })
    }

    /// Presents a packet of the redirected flow, with `act` before one of its locks. `false` if it
    /// takes fewer.
    fn race(self: &Rc<Self>, lock: usize, now: Timestamp, act: fn(&Self, Timestamp)) -> bool {
        let scene = Rc::clone(self);
        let act = Rc::new(move || act(&scene, now));
        race(lock, 1, act, || {
            present(&self.engine, &udp(HERE, THERE, 2), now);
        })
    }

    /// A packet whose flow's key is that of the way back.
    fn packet_of_way_back(&self) -> Vec<u8> {
        let end = |address: Address, port| {
            let ip = address.to_ip(IpVersion::V4);
            format!("{ip}:{port}")
        };
        let key = &self.way_back;
        let [local, remote] = [
            end(key.local, key.local_port),
            end(key.remote, key.remote_port),
        ];
        udp(&local, &remote, 3)
    }
}

fn engine() -> Engine<Raced> {
    let mut config = Config::default();
    config.redirect_tunnel.v4 = Address::v4([203, 0, 113, 54]);
    let engine = Engine::try_new(SMALL, config, 42).unwrap();
    engine.set_reader(true);
    engine
}

/// Runs `operation` with `act` before one of its locks, of those that it takes while it holds at most
/// `held` others. `false` if it takes fewer.
fn race(locks: usize, held: usize, act: Act, operation: impl FnOnce()) -> bool {
    ACTED.set(false);
    MEANWHILE.set(Some(Meanwhile { act, locks, held }));
    operation();
    MEANWHILE.set(None);
    ACTED.get()
}

/// Presents an outbound packet; why it ended, if it did.
fn present(engine: &Engine<Raced>, packet: &[u8], now: Timestamp) -> Option<Reason> {
    present_as(engine, packet, Direction::Outbound, now)
}

fn present_as(
    engine: &Engine<Raced>,
    packet: &[u8],
    direction: Direction,
    now: Timestamp,
) -> Option<Reason> {
    match engine.classify(packet, packet.len(), &arrival(direction), now) {
        Classified::Held { .. } => None,
        Classified::Settled { settled, .. } => {
            let reason = reason(&settled.action);
            settled.obligation.end(reason);
            Some(reason)
        }
    }
}

fn teach(engine: &Engine<Raced>, packet: &[u8], verdict: Verdict, now: Timestamp) {
    teach_as(engine, packet, Direction::Outbound, verdict, now);
}

fn teach_as(
    engine: &Engine<Raced>,
    packet: &[u8],
    direction: Direction,
    verdict: Verdict,
    now: Timestamp,
) {
    let end = present_as(engine, packet, direction, now);
    assert_eq!(end, None, "it is asked for");
    let Delivery::Delivered(id) = engine.deliver(|held| Some(held.info.id)) else {
        panic!("no request");
    };
    let mut releases = engine.decide(id, always(verdict), now).expect("in time");
    while let Some(release) = releases.next(|len| Some(vec![0; len])) {
        let reason = reason(&release.settled.action);
        release.settled.obligation.end(reason);
    }
}

#[test]
fn a_way_back_takes_no_place_of_a_flow_cached_since_a_clear() {
    // From the fourth lock on the turn to insert is taken, and the other flow would wait.
    for lock in 0..3 {
        let scene = Scene::new();
        let acted = scene.race(lock, START, |scene, now| {
            scene.engine.clear_cache();
            teach(
                &scene.engine,
                &scene.packet_of_way_back(),
                Verdict::Drop,
                now,
            );
        });
        assert!(acted, "lock {lock}");
        let verdict = scene.engine.lookup(&scene.way_back, START);
        assert_eq!(verdict, Some(Verdict::Drop), "lock {lock}");
    }
}

/// The flow ends, and the same ends begin another one the other way round.
#[test]
fn an_update_is_never_for_a_flow_that_goes_the_other_way() {
    let later = Timestamp::from_nanos(START.as_nanos() + 11 * 60_000_000_000);
    let (there, back) = (udp(HERE, THERE, 1), udp(THERE, HERE, 2));
    let flow = key(&there);
    let mut races = 0;
    for lock in 0.. {
        let engine = Rc::new(engine());
        teach(&engine, &there, Verdict::Accept, START);
        let other = Rc::clone(&engine);
        let packet = back.clone();
        let act = move || teach_as(&other, &packet, Direction::Inbound, Verdict::Accept, later);
        let mut updated = false;
        let acted = race(lock, 0, Rc::new(act), || {
            updated = engine.update_verdict(&flow, Verdict::RedirectTunnel, START);
        });
        if !acted {
            break;
        }
        races += 1;
        let end = present_as(&engine, &back, Direction::Inbound, later);
        let expected = if updated {
            Reason::RedirectedCache
        } else {
            Reason::PermittedCache
        };
        assert_eq!(end, Some(expected), "lock {lock}");
    }
    assert!(races >= 4, "{races}");
}

/// A redirected flow whose way back was found idle, in a cache of so many flows that came since, all at
/// one time. The next packet of the flow puts the way back in again, while another processor may put in
/// other flows, in turns of their own.
fn without_way_back(flows: u16) -> (Rc<Scene>, Timestamp) {
    let minutes = |n: u64| Timestamp::from_nanos(START.as_nanos() + n * 60_000_000_000);
    let engine = engine();
    // So many that the redirected flow is not the first in its bucket, and makes room for none.
    for flow in 1..700 {
        teach(&engine, &numbered(flow, 1), Verdict::Accept, START);
    }
    let scene = Scene::of(engine);
    // A packet against the redirect does not look for the way back.
    let stray = udp(THERE, HERE, 1);
    let (late, now) = (minutes(9), minutes(11));
    for time in [late, now] {
        let end = present_as(&scene.engine, &stray, Direction::Inbound, time);
        assert_eq!(end, Some(Reason::DroppedRedirectImpossible));
    }
    assert_eq!(scene.engine.lookup(&scene.way_back, now), None);
    for flow in 0..flows {
        teach(
            &scene.engine,
            &numbered(1_000 + flow, 1),
            Verdict::Accept,
            now,
        );
    }
    (scene, now)
}

/// Where in the cache a flow stands.
fn place(engine: &Engine<Raced>, flow: &FlowKey) -> Option<u64> {
    let mut cursor = 0;
    loop {
        let mut found = false;
        cursor = engine.list_flows(cursor, |info| {
            found = info.flow == *flow;
            !found
        });
        if found || cursor == 0 {
            return found.then_some(cursor);
        }
    }
}

fn key(packet: &[u8]) -> FlowKey {
    kext_packet::testing::parse(packet).flow_key(Direction::Outbound)
}

/// A packet of a flow that would take the very place of the way back, if it came before it.
fn rival(flows: u16) -> Vec<u8> {
    let (scene, now) = without_way_back(flows);
    present(&scene.engine, &udp(HERE, THERE, 2), now);
    let taken = place(&scene.engine, &scene.way_back);
    assert!(taken.is_some());
    let (mut scene, _) = without_way_back(flows);
    for flow in 20_000..22_000 {
        if flows == 0 {
            // Or those before it would make it choose its other bucket.
            (scene, _) = without_way_back(flows);
        }
        let packet = numbered(flow, 1);
        teach(&scene.engine, &packet, Verdict::Accept, now);
        if place(&scene.engine, &key(&packet)) == taken {
            return packet;
        }
    }
    panic!("no flow takes the place of the way back");
}

#[test]
fn two_that_choose_one_free_place_both_find_room() {
    let rival = rival(0);
    let mut races = 0;
    for lock in 0.. {
        let (scene, now) = without_way_back(0);
        let evicted = scene.engine.counters().event(Event::FlowEvicted);
        let (other, packet) = (Rc::clone(&scene), rival.clone());
        let act = move || teach(&other.engine, &packet, Verdict::Accept, now);
        let acted = race(lock, 1, Rc::new(act), || {
            present(&scene.engine, &udp(HERE, THERE, 2), now);
        });
        if !acted {
            break;
        }
        races += 1;
        let cached = [key(&rival), scene.way_back].map(|flow| scene.engine.lookup(&flow, now));
        let expected = [Some(Verdict::Accept), Some(Verdict::RedirectTunnel)];
        assert_eq!(cached, expected, "lock {lock}");
        let event = scene.engine.counters().event(Event::FlowEvicted);
        assert_eq!(event, evicted, "lock {lock}");
    }
    assert!(races >= 4, "{races}");
}

/// So many flows that every place is taken.
const CROWD: u16 = 3_000;

#[test]
fn two_that_choose_one_flow_to_make_room_take_two() {
    let rival = rival(CROWD);
    let mut races = 0;
    for lock in 0.. {
        let (scene, filled) = without_way_back(CROWD);
        // Those of the crowd were seen longer ago than the two.
        let now = Timestamp::from_nanos(filled.as_nanos() + 1_000_000_000);
        let (other, packet) = (Rc::clone(&scene), rival.clone());
        let act = move || teach(&other.engine, &packet, Verdict::Accept, now);
        let acted = race(lock, 1, Rc::new(act), || {
            present(&scene.engine, &udp(HERE, THERE, 2), now);
        });
        if !acted {
            break;
        }
        races += 1;
        let cached = [key(&rival), scene.way_back].map(|flow| scene.engine.lookup(&flow, now));
        let expected = [Some(Verdict::Accept), Some(Verdict::RedirectTunnel)];
        assert_eq!(cached, expected, "lock {lock}");
    }
    assert!(races >= 4, "{races}");
}

#[test]
fn a_flow_of_after_a_clear_that_makes_room_was_not_cleared() {
    let rival = rival(CROWD);
    let (mut races, mut evictions) = (0, 0);
    for lock in 0.. {
        let (scene, now) = without_way_back(CROWD);
        scene.engine.keep_events(true);
        let evicted = || scene.engine.counters().event(Event::FlowEvicted);
        let before = evicted();
        let (other, packet) = (Rc::clone(&scene), rival.clone());
        let act = move || {
            other.engine.clear_cache();
            teach(&other.engine, &packet, Verdict::Accept, now);
        };
        let acted = race(lock, 1, Rc::new(act), || {
            present(&scene.engine, &udp(HERE, THERE, 2), now);
        });
        if !acted {
            break;
        }
        races += 1;
        let told: Vec<_> = std::iter::from_fn(|| scene.engine.next_event())
            .filter(|event| event.flow.flow == key(&rival))
            .map(|event| event.end)
            .collect();
        let cached = scene.engine.lookup(&key(&rival), now).is_some();
        let expected: &[FlowEnd] = if cached { &[] } else { &[FlowEnd::Evicted] };
        assert_eq!(told, expected, "lock {lock}");
        assert_eq!(evicted() - before, told.len() as u64, "lock {lock}");
        evictions += told.len();
    }
    assert!(races >= 4 && evictions > 0, "{races}, {evictions}");
}
