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
use kext_types::{Address, Config, Direction, FlowKey, FlowOrigin, IpVersion, Timestamp, Verdict};

use common::*;

type Act = Rc<dyn Fn()>;

thread_local! {
    /// What happens before the lock that is so many locks away.
    static MEANWHILE: RefCell<Option<(usize, Act)>> = const { RefCell::new(None) };
    static ACTED: Cell<bool> = const { Cell::new(false) };
}

fn meanwhile() {
    let act = MEANWHILE.with_borrow_mut(|meanwhile| match meanwhile {
        Some((0, _)) => meanwhile.take().map(|(_, act)| act),
        Some((left, _)) => {
            *left -= 1;
            None
        }
        None => None,
    });
    if let Some(act) = act {
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
        self.0.try_lock().expect("the model is of one thread")
    }

    fn try_lock(&self) -> Option<Self::Guard> {
        self.0.try_lock()
    }

    unsafe fn unlock(&self, guard: Self::Guard) {
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
        let mut config = Config::default();
        config.redirect_tunnel.v4 = Address::v4([203, 0, 113, 54]);
        let engine = Engine::try_new(SMALL, config, 42).unwrap();
        engine.set_reader(true);
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
        ACTED.set(false);
        MEANWHILE.set(Some((lock, Rc::new(move || act(&scene, now)))));
        present(&self.engine, &udp(HERE, THERE, 2), now);
        MEANWHILE.set(None);
        ACTED.get()
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

/// Presents a packet; whether it was settled.
fn present(engine: &Engine<Raced>, packet: &[u8], now: Timestamp) -> bool {
    match engine.classify(packet, packet.len(), &arrival(Direction::Outbound), now) {
        Classified::Held { .. } => false,
        Classified::Settled { settled, .. } => {
            let reason = reason(&settled.action);
            settled.obligation.end(reason);
            true
        }
    }
}

fn teach(engine: &Engine<Raced>, packet: &[u8], verdict: Verdict, now: Timestamp) {
    assert!(!present(engine, packet, now), "it is asked for");
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
