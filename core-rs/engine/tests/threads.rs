//! Packets, verdicts, time and clearings at once, from several threads.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kext_engine::{Classified, Delivery, Engine, Releases};
use kext_types::{Capacities, Config, Decision, Direction, Event, Reason, Timestamp, Verdict};

use common::*;

const FLOWS: u16 = 12;
/// Room for all flows but one and a half, so that each kind of eviction happens.
const CAPACITIES: Capacities = Capacities {
    packets: 84,
    ..SMALL
};
const TIME: Duration = Duration::from_millis(600);
/// A bound for each thread; time ends it earlier.
const MAX_PACKETS: u32 = 2_000_000;

struct Scene {
    engine: Engine<Mutex>,
    clock: AtomicU64,
    /// The serial number of the last packet of each flow that went.
    last: Vec<AtomicU64>,
    ended: AtomicU64,
}

impl Scene {
    fn new() -> Self {
        let engine = Engine::try_new(CAPACITIES, Config::default(), 7).unwrap();
        engine.set_reader(true);
        Self {
            engine,
            clock: AtomicU64::new(1_700_000_000_000_000_000),
            last: (0..FLOWS).map(|_| AtomicU64::new(0)).collect(),
            ended: AtomicU64::new(0),
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.clock.load(Ordering::Relaxed))
    }

    /// A packet goes: later than those that came before it.
    fn went(&self, flow: u16, bytes: &[u8]) {
        let serial = u64::from_be_bytes(*bytes.last_chunk().unwrap());
        let before = self.last[usize::from(flow)].swap(serial, Ordering::SeqCst);
        assert!(before < serial, "packet {serial} went after {before}");
        self.ended.fetch_add(1, Ordering::Relaxed);
    }

    fn present(&self, flow: u16, serial: u64) {
        let local = format!("192.0.2.10:{}", 10_000 + flow);
        let packet = udp_of(&local, THERE, &serial.to_be_bytes());
        let arrival = arrival(Direction::Outbound);
        let now = self.now();
        match self.engine.classify(&packet, packet.len(), &arrival, now) {
            Classified::Held { .. } => {}
            Classified::Settled { settled, .. } => {
                self.went(flow, &packet);
                settled.obligation.end(reason(&settled.action));
            }
        }
    }

    fn drain(&self, mut releases: Releases<'_, Mutex>) {
        while let Some(release) = releases.next(|len| Some(vec![0; len])) {
            let flow = release.info.flow.local_port - 10_000;
            self.went(flow, &release.buffer.unwrap());
            release
                .settled
                .obligation
                .end(reason(&release.settled.action));
        }
    }

    /// Answers one request, every eighth for good.
    fn answer(&self, round: u32) -> bool {
        let Delivery::Delivered(id) = self.engine.deliver(|held| Some(held.info.id)) else {
            return false;
        };
        let decision = Decision {
            // Whatever has bytes to tell the order by.
            verdict: [Verdict::Accept, Verdict::Block, Verdict::RedirectDns][round as usize % 3],
            permanent: round.is_multiple_of(8),
        };
        if let Ok(releases) = self.engine.decide(id, decision, self.now()) {
            if round.is_multiple_of(24) {
                // Left to the tick.
                drop(releases);
            } else {
                self.drain(releases);
            }
        }
        true
    }

    fn tick(&self) {
        // Bound: a tick's own, as a host has it.
        for _ in 0..64 {
            match self.engine.tick(self.now()) {
                Some(releases) => self.drain(releases),
                None => break,
            }
        }
    }
}

#[test]
fn no_packet_is_lost_or_overtaken_between_threads() {
    let scene = Scene::new();
    let stop = AtomicBool::new(false);
    let running = || !stop.load(Ordering::Relaxed);
    thread::scope(|scope| {
        // Each flow's packets come from one thread, which gives them their order.
        for half in 0..2 {
            let (scene, running) = (&scene, &running);
            scope.spawn(move || {
                for serial in 1..=MAX_PACKETS {
                    if !running() {
                        break;
                    }
                    let flow = (serial * 7 % u32::from(FLOWS / 2)) as u16 * 2 + half;
                    scene.present(flow, serial.into());
                }
            });
        }
        scope.spawn(|| {
            let mut round = 0;
            while running() {
                round += u32::from(scene.answer(round));
            }
        });
        scope.spawn(|| {
            let mut round = 0_u32;
            while running() {
                scene.clock.fetch_add(1_000_000_000, Ordering::Relaxed);
                scene.tick();
                round += 1;
                // Now and then, so that flows are hit in between.
                if round.is_multiple_of(8) {
                    scene.engine.clear_cache();
                }
                thread::sleep(Duration::from_micros(50));
            }
        });
        let end = Instant::now() + TIME;
        while Instant::now() < end {
            thread::sleep(Duration::from_millis(10));
        }
        stop.store(true, Ordering::Relaxed);
    });
    scene.engine.set_reader(false);
    while let Some(releases) = scene.engine.tick(scene.now()) {
        scene.drain(releases);
    }
    let counters = scene.engine.counters();
    let totals = counters.totals();
    assert!(totals.balanced(), "{totals:?}");
    assert_eq!(totals.held, 0);
    assert_eq!(counters.reason(Reason::DroppedUnsettled), 0);
    let made_room =
        counters.reason(Reason::DroppedPacketCacheFull) + counters.reason(Reason::DroppedFlowFull);
    assert_eq!(totals.seen, scene.ended.load(Ordering::Relaxed) + made_room);
    // The test did what it is for.
    assert!(counters.event(Event::Requests) > 100);
    assert!(counters.event(Event::FlowCached) > 10);
    let hits = [
        Reason::PermittedCache,
        Reason::BlockedCache,
        Reason::RedirectedCache,
    ];
    assert!(hits.iter().any(|&hit| counters.reason(hit) > 0));
}
