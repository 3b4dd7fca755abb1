//! Every allocation at start fails in turn: each ends in a clean error that gives everything back.
//!
//! An integration test of its own, because a program has one allocator. Its allocator is unsafe code
//! beside the engine, and no part of what is shipped.
#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use kext_engine::{Engine, StartError};
use kext_types::{Capacities, Config};

/// The system's allocator, which can be told to fail.
struct Failing;

// Thread by thread, so that the test runner's own threads are left alone.
thread_local! {
    /// How many more allocations succeed; `None` for all.
    static LEFT: Cell<Option<usize>> = const { Cell::new(None) };
    /// Bytes allocated and not freed, as this thread sees it, and how many allocations were asked for.
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static ASKED: Cell<usize> = const { Cell::new(0) };
}

/// Whether the next allocation may succeed.
fn permitted() -> bool {
    ASKED.set(ASKED.get() + 1);
    match LEFT.get() {
        None => true,
        Some(0) => false,
        Some(left) => {
            LEFT.set(Some(left - 1));
            true
        }
    }
}

fn account(bytes: usize, sign: isize) {
    LIVE.set(LIVE.get() + sign * bytes.cast_signed());
}

// SAFETY: every call is passed on to the system's allocator unchanged, or answered with a null
// pointer, which stands for a failure. The counters are cells of the thread, without destructor and
// without allocation, so that nothing here allocates in turn.
unsafe impl GlobalAlloc for Failing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if !permitted() {
            return std::ptr::null_mut();
        }
        // SAFETY: the caller's promise about `layout` is the one that is needed.
        let pointer = unsafe { System.alloc(layout) };
        if !pointer.is_null() {
            account(layout.size(), 1);
        }
        pointer
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        account(layout.size(), -1);
        // SAFETY: `pointer` came from `alloc` above, so from the system's, with this layout.
        unsafe { System.dealloc(pointer, layout) }
    }
    // The provided `realloc` and `alloc_zeroed` go through the two.
}

#[global_allocator]
static ALLOCATOR: Failing = Failing;

const SMALLEST: Capacities = Capacities {
    flows: 1_024,
    packets: 16,
    packet_bytes: 1 << 17,
    flow_packets: 1,
    fragments: 16,
};

type Started = Result<Engine<parking_lot::RawMutex>, StartError>;

/// Starts an engine of which only the first `succeeding` allocations succeed. Also says how many it
/// asked for, and how many bytes it holds now.
fn start(capacities: Capacities, succeeding: Option<usize>) -> (Started, usize, isize) {
    ASKED.set(0);
    LIVE.set(0);
    LEFT.set(succeeding);
    let started = Engine::try_new(capacities, Config::default(), 42);
    LEFT.set(None);
    (started, ASKED.get(), LIVE.get())
}

fn fails_cleanly_at_every_allocation(capacities: Capacities) {
    let (engine, allocations, bytes) = start(capacities, None);
    drop(engine.expect("enough memory"));
    assert_eq!(LIVE.get(), 0, "an engine gives back what it took");
    assert!(
        allocations >= 8,
        "{allocations} allocations: is the allocator in use?"
    );
    assert!(bytes > 1 << 17);
    for succeeding in 0..allocations {
        let (engine, asked, left_over) = start(capacities, Some(succeeding));
        let Err(StartError::Memory(error)) = engine.map(|_| ()) else {
            panic!("allocation {succeeding} failed, and it started all the same");
        };
        assert!(error.bytes > 0 && !error.what.is_empty(), "{error}");
        assert_eq!(asked, succeeding + 1, "it went on after {error}");
        assert_eq!(left_over, 0, "bytes leaked after {error}");
    }
    assert!(
        start(capacities, Some(allocations)).0.is_ok(),
        "no more than counted"
    );
}

#[test]
fn an_engine_of_the_smallest_capacities_starts_or_fails_cleanly() {
    fails_cleanly_at_every_allocation(SMALLEST);
}

#[test]
fn an_engine_of_the_default_capacities_starts_or_fails_cleanly() {
    fails_cleanly_at_every_allocation(Capacities::default());
}

#[test]
fn a_started_engine_never_allocates() {
    use kext_types::{Arrival, Decision, Direction, Interface, Timestamp, Verdict};

    let (engine, ..) = start(SMALLEST, None);
    let engine = engine.expect("enough memory");
    let arrival = Arrival {
        direction: Direction::Outbound,
        interface: Interface {
            index: 1,
            sub_index: 0,
        },
        compartment: 1,
        process_id: None,
        passes: 0,
        path_mtu: None,
    };
    let now = Timestamp::from_nanos(1_700_000_000_000_000_000);
    let mut out = [0; 64];
    let mut carried = [0; 64];
    let ends = |port| {
        (
            ([192, 0, 2, 1], port).into(),
            ([198, 51, 100, 2], 443).into(),
        )
    };
    ASKED.set(0);
    LEFT.set(Some(0));
    engine.set_reader(true);
    // More flows than fit: packets are evicted, and with the verdicts flows too.
    for port in 1..3_000 {
        let (source, destination) = ends(port);
        let packet = kext_packet::testing::udp(&mut out, source, destination, &[1]);
        drop(engine.classify(packet, packet.len(), &arrival, now));
        drop(engine.classify(packet, packet.len(), &arrival, now));
        let verdict = [Verdict::Accept, Verdict::RedirectDns][usize::from(port) % 2];
        let decision = Decision {
            verdict,
            permanent: port % 3 != 0,
        };
        if let kext_engine::Delivery::Delivered(id) = engine.deliver(|held| Some(held.info.id))
            && let Ok(mut releases) = engine.decide(id, decision, now)
        {
            while releases.next(|len| carried.get_mut(..len)).is_some() {}
        }
        engine.list_flows(0, |_| true);
    }
    engine.clear_cache();
    engine.set_reader(false);
    while let Some(mut releases) = engine.tick(now) {
        while releases.next(|len| carried.get_mut(..len)).is_some() {}
    }
    LEFT.set(None);
    assert_eq!(ASKED.get(), 0, "allocations after the start");
    assert_eq!(engine.counters().totals().held, 0);
}
