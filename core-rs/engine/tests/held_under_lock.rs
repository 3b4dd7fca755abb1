//! What is held is counted so before anybody can let it go: at each unlock behind which it could.

#![cfg(not(shuttle))]

mod common;

use std::cell::RefCell;

use kext_engine::{Classified, Engine};
use kext_packet::testing;
use kext_sync::RawLock;
use kext_types::{Config, Direction, Event, Timestamp};

use common::*;

thread_local! {
    /// What was counted as held each time that a lock was given back.
    static UNLOCKS: RefCell<Vec<u64>> = const { RefCell::new(Vec::new()) };
    static ENGINE: RefCell<Option<&'static Engine<Spy>>> = const { RefCell::new(None) };
}

/// A lock that writes down how many packets are counted as held whenever it is given back.
struct Spy(Mutex);

#[allow(unsafe_code)]
// SAFETY: every call goes to a lock that keeps the contract.
unsafe impl RawLock for Spy {
    #[allow(clippy::declare_interior_mutable_const)]
    const INIT: Self = Self(<Mutex as RawLock>::INIT);
    type Guard = <Mutex as RawLock>::Guard;

    fn lock(&self) -> Self::Guard {
        self.0.lock()
    }

    fn try_lock(&self) -> Option<Self::Guard> {
        self.0.try_lock()
    }

    unsafe fn unlock(&self, guard: Self::Guard) {
        if let Some(engine) = ENGINE.with_borrow(|engine| *engine) {
            let held = engine.counters().event(Event::Held);
            UNLOCKS.with_borrow_mut(|all| all.push(held));
        }
        // SAFETY: the caller holds it.
        unsafe { self.0.unlock(guard) };
    }

    fn is_locked(&self) -> bool {
        self.0.is_locked()
    }
}

/// Engines that stay until the program ends, known here so that no checker takes them for lost.
static ENGINES: std::sync::Mutex<Vec<&'static Engine<Spy>>> = std::sync::Mutex::new(Vec::new());

fn engine() -> &'static Engine<Spy> {
    let engine = Engine::try_new(SMALL, Config::default(), 42).unwrap();
    engine.set_reader(true);
    let engine = Box::leak(Box::new(engine));
    ENGINES.lock().unwrap().push(engine);
    engine
}

/// Presents a packet that is held, and says how many were counted as held at the last unlock.
fn held_at_last_unlock(
    engine: &'static Engine<Spy>,
    packet: &[u8],
    direction: Direction,
) -> Option<u64> {
    let now = Timestamp::from_nanos(1_700_000_000_000_000_000);
    UNLOCKS.with_borrow_mut(Vec::clear);
    ENGINE.set(Some(engine));
    let classified = engine.classify(packet, packet.len(), &arrival(direction), now);
    ENGINE.set(None);
    assert!(matches!(classified, Classified::Held { .. }));
    UNLOCKS.with_borrow(|all| all.last().copied())
}

#[test]
fn an_early_fragment() {
    let later = fragment(&udp_of(HERE, THERE, &[7; 100]), 1, 24, 24);
    let held = held_at_last_unlock(engine(), &later, Direction::Outbound);
    assert_eq!(held, Some(1));
}

#[test]
fn an_error_about_a_flow_that_waits() {
    let engine = engine();
    let packet = udp(HERE, THERE, 1);
    let outbound = Direction::Outbound;
    assert_eq!(held_at_last_unlock(engine, &packet, outbound), Some(1));
    let (router, here) = (ip("203.0.113.1"), ip("192.0.2.10"));
    let mut out = [0; 200];
    let error = testing::icmp(&mut out, router, here, (11, 0), [0; 4], &packet);
    let held = held_at_last_unlock(engine, error, Direction::Inbound);
    assert_eq!(held, Some(2));
}
