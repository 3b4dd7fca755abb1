//! What the driver costs, in the file that ships: a packet of a cached flow, and a held one's way through
//! device requests.
//!
//! Beside each figure of the driver stands that of the extension alone and that of the bare engine, with
//! the same packets in the same order. The simulation has a share of its own, which a driver shows that
//! makes the same calls and does nothing else; what is left is the driver's glue. Run by `make bench`;
//! JSON goes to `target/bench/driver.json`.
//!
//! The driver has room for 65,536 flows, so that only engine and extension are measured with more.

// Figures for people.
#![allow(clippy::cast_precision_loss)]

mod machines;
mod work;

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::Instant;

use kext_bench::measure::{Random, Report, Row, least_mean, thread_time};
use kext_bench::scene::{self, NOW, Packet, Spread};
use kext_ntsim::bare::{Shown, become_processor};

use machines::{Alone, Driver, Machine, Shape};
use work::{BATCH, Session};

/// Packets in one measurement, and more where one round of the flows is more.
const OPERATIONS: usize = 1 << 18;
const RUNS: usize = 7;
/// Nanoseconds of what the driver adds to the extension, for a packet of a cached flow.
const GLUE: f64 = 60.0;
/// Nanoseconds of each request in a batch: two million a second.
const DELIVERED: f64 = 500.0;

const SIZES: [(u32, &str); 3] = [
    (1_024, "1,024"),
    (65_536, "65,536"),
    (1_048_576, "1,048,576"),
];
/// As many as the driver has room for.
const ROOM: u32 = 65_536;

fn main() {
    // `cargo bench -- held` measures one part; without a name all are measured.
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    let mut report = Report::default();
    Report::head();
    kext_ntsim::bare::without_checks();
    let share = Shape::ALL.map(simulation);
    for (flows, name) in SIZES.into_iter().filter(|(_, name)| wanted(name)) {
        cached(&mut report, flows, name, &share);
    }
    if wanted("held") {
        held(&mut report);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/driver.json");
    report.write(&path).expect("a writable target folder");
}

/// What the simulation itself costs for a packet of this shape, in nanoseconds.
fn simulation(shape: Shape) -> f64 {
    let calls = Driver::only_calls();
    let mut shown = Shown::new(&shape.packet());
    let packets: Vec<Packet> = (0..1_024).map(|flow| shape.bytes(flow)).collect();
    let time = mean(&packets, |packet| {
        shown.show(packet);
    });
    calls.unload();
    time
}

/// The mean time of each packet, the least of several runs.
fn mean(packets: &[Packet], mut work: impl FnMut(&Packet)) -> f64 {
    let repeat = OPERATIONS.div_ceil(packets.len());
    least_mean(RUNS, repeat * packets.len(), || {
        for _ in 0..repeat {
            packets.iter().for_each(&mut work);
        }
    })
}

/// The flows that a machine has learnt, in random order.
fn learn(machine: &mut impl Machine, flows: u32) -> Vec<u32> {
    let mut session = Session::new();
    session.teach(machine, flows);
    let mut there: Vec<u32> = (0..flows)
        .filter(|&flow| machine.show(&Shape::Out.bytes(flow)))
        .collect();
    session.forget(machine);
    Random(2).shuffle(&mut there);
    there
}

fn bytes(order: &[u32], shape: Shape) -> Vec<Packet> {
    order.iter().map(|&flow| shape.bytes(flow)).collect()
}

/// Packets of cached flows.
fn cached(report: &mut Report, flows: u32, name: &str, share: &[f64; Shape::ALL.len()]) {
    let engine = scene::engine(flows, 1_024);
    scene::teach(&engine, Spread::Both, 0..flows);
    let mut order: Vec<u32> = (0..flows)
        .filter(|&flow| engine.lookup(&Spread::Both.key(flow), NOW).is_some())
        .collect();
    Random(2).shuffle(&mut order);
    let lane = engine.lane(0);
    let bare = mean(&bytes(&order, Shape::Out), |packet| {
        scene::present_on(&engine, &lane, packet, NOW);
    });
    report.add(Row::new(format!("the bare engine at {name}"), bare));
    drop(lane);
    drop(engine);

    let mut alone = Alone::new(flows);
    let order = learn(&mut alone, flows);
    let extension = mean(&bytes(&order, Shape::Out), |packet| {
        alone.show(packet);
    });
    report.add(Row::new(format!("the extension at {name}"), extension));
    drop(alone);
    if flows > ROOM {
        return;
    }

    let mut driver = Driver::shipped();
    let order = learn(&mut driver, flows);
    for (shape, share) in Shape::ALL.into_iter().zip(share) {
        let mut shown = Shown::new(&shape.packet());
        let mut session = Session::new();
        let before = session.permitted_cached(&mut driver);
        let packets = bytes(&order, shape);
        let time = mean(&packets, |packet| {
            shown.show(packet);
        });
        let rounds = RUNS * OPERATIONS.div_ceil(packets.len());
        let hits = session.permitted_cached(&mut driver) - before;
        assert_eq!(
            hits,
            (rounds * packets.len()) as u64,
            "each is of a cached flow"
        );
        let what = shape.name();
        report.add(Row::new(format!("the driver at {name}, {what}"), time));
        let part = |part: &str| format!("  of which: {part}, {name}, {what}");
        report.add(Row::new(part("simulation"), *share));
        let glue = time - share - extension;
        report.add(Row::new(part("glue"), glue).target(GLUE));
    }
    let packets = bytes(&order, Shape::Out);
    let (left, right) = packets.split_at(packets.len() / 2);
    processors(report, name, "own flows", [left, right]);
    processors(report, name, "shared flows", [&packets, &packets]);
    driver.unload();
}

/// Two processors against one: how much more of the same work gets done in the same time.
fn processors(report: &mut Report, name: &str, which: &str, packets: [&[Packet]; 2]) {
    let run = |count: usize| {
        let barrier = Barrier::new(count);
        // Packets of all processors in a nanosecond of each one's time.
        thread::scope(|scope| {
            let running: Vec<_> = (0..count)
                .map(|processor| {
                    let (barrier, packets) = (&barrier, packets[processor]);
                    let rounds = OPERATIONS.div_ceil(packets.len());
                    scope.spawn(move || {
                        become_processor(processor);
                        let mut shown = Shown::new(&Shape::Out.packet());
                        let clock = Instant::now();
                        barrier.wait();
                        let started = thread_time(clock);
                        for _ in 0..rounds {
                            for packet in packets {
                                shown.show(packet);
                            }
                        }
                        (thread_time(clock) - started) / (rounds * packets.len()) as f64
                    })
                })
                .collect();
            running
                .into_iter()
                .map(|thread| 1.0 / thread.join().expect("no panic"))
                .sum::<f64>()
        })
    };
    let median = |count| {
        let mut results: Vec<f64> = (0..5).map(|_| run(count)).collect();
        results.sort_by(f64::total_cmp);
        results[2]
    };
    let speedup = median(2) / median(1);
    let row = format!("two processors against one at {name}, {which} (x)");
    report.add(Row::new(row, speedup).target(1.9));
}

/// A held packet's way: it is shown, asked about, decided, injected and shown again.
fn held(report: &mut Report) {
    const PACKETS: u32 = 1 << 15;
    let mut driver = Driver::shipped();
    let mut alone = Alone::new(1_024);
    let mut next = 1 << 20;
    let mut flows = |count: u32| {
        next += count;
        next - count..next
    };
    let mut session = Session::new();
    let mut single = |machine: &mut dyn Machine, v1: bool| {
        let mut session = Session::new();
        least_mean(RUNS, PACKETS as usize, || {
            for flow in flows(PACKETS) {
                assert!(!machine.show(&Shape::Out.bytes(flow)), "it is held");
                if v1 {
                    session.decide_v1(machine);
                } else {
                    session.decide(machine, 1);
                }
            }
        })
    };
    for (v1, how) in [(true, "version 1"), (false, "batches of 1")] {
        let whole = single(&mut driver, v1);
        let extension = single(&mut alone, v1);
        report.add(Row::new(
            format!("held, one by one, {how}: the driver"),
            whole,
        ));
        let row = format!("held, one by one, {how}: the extension");
        report.add(Row::new(row, extension));
    }
    let injected = Shown::injected();
    let times = (0..RUNS)
        .map(|_| {
            let mut times = [0.0; 3];
            for batch in 0..PACKETS / BATCH {
                let start = next + batch * BATCH;
                let packets: Vec<Packet> = (start..start + BATCH)
                    .map(|flow| Shape::Out.bytes(flow))
                    .collect();
                let clock = Instant::now();
                let mut marks = [0; 4];
                for packet in &packets {
                    driver.show(packet);
                }
                marks[1] = clock.elapsed().as_nanos();
                assert_eq!(session.receive(&mut driver, BATCH), BATCH as usize);
                marks[2] = clock.elapsed().as_nanos();
                session.set_verdicts(&mut driver);
                marks[3] = clock.elapsed().as_nanos();
                for (time, pair) in times.iter_mut().zip(marks.windows(2)) {
                    *time += (pair[1] - pair[0]) as f64 / f64::from(PACKETS);
                }
            }
            next += PACKETS;
            times
        })
        .reduce(|least, times| [0, 1, 2].map(|at| f64::min(least[at], times[at])))
        .expect("there are runs");
    assert_eq!(
        Shown::injected() - injected,
        u64::from(PACKETS) * RUNS as u64
    );
    let sum = times.iter().sum();
    report.add(Row::new(
        format!("held, in batches of {BATCH}: the driver"),
        sum,
    ));
    report.add(Row::new(
        "  of which: the packet is shown and held",
        times[0],
    ));
    report.add(Row::new("  of which: RECEIVE", times[1]).target(DELIVERED));
    report.add(Row::new(
        "  of which: SET_VERDICTS, with the injection",
        times[2],
    ));
    driver.unload();
}
