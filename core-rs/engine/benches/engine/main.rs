//! What the engine costs: hits, insertions, holding, time and clearing.
//!
//! Every figure stands beside what it should reach, what the C extension and its Rust successor took
//! on another machine, and what this machine allows (a hash and a probe of a table of the same
//! size), measured in the same run. Means are in processor time of the thread where the system tells
//! it. Run by `make bench`; JSON goes to `target/bench/engine.json`.

// Figures for people.
#![allow(clippy::cast_precision_loss)]

use std::hint::black_box;
use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use foldhash::SharedSeed;
use foldhash::fast::FoldHasher;
use std::hash::{Hash, Hasher};

use kext_bench::measure::{
    Limits, Random, Report, Row, Singles, clock_cost, least_mean, thread_time,
};
use kext_bench::scene::{self, Bench, NOW, Packet, Spread, drain, engine, present, teach};
use kext_types::Timestamp;

/// Figures of one table size: flows, and targets and baselines in nanoseconds.
struct Size {
    flows: u32,
    name: &'static str,
    lookup: f64,
    hit: f64,
    c: f64,
    rust: f64,
    c_insert: f64,
    c_clear: f64,
    rust_clear: f64,
}

/// Hits in one measurement, and more where one round of the table is more.
const OPERATIONS: usize = 1 << 19;

const SIZES: [Size; 3] = [
    Size {
        flows: 1_024,
        name: "1,024",
        lookup: 20.0,
        hit: 35.0,
        c: 60.0,
        rust: 46.0,
        c_insert: 1_000.0,
        c_clear: 10_000.0,
        rust_clear: 28_000.0,
    },
    Size {
        flows: 65_536,
        name: "65,536",
        lookup: 60.0,
        hit: 90.0,
        c: 264.0,
        rust: 238.0,
        c_insert: 70_000.0,
        c_clear: 1_900_000.0,
        rust_clear: 3_200_000.0,
    },
    Size {
        flows: 1_048_576,
        name: "1,048,576",
        lookup: 200.0,
        hit: 240.0,
        c: 634.0,
        rust: 553.0,
        c_insert: 6_400_000.0,
        c_clear: 26_000_000.0,
        rust_clear: 252_000_000.0,
    },
];

fn main() {
    let mut report = Report::default();
    Report::head();
    report.add(Row::new(
        "reading the clock (part of single times)",
        clock_cost(),
    ));
    // `cargo bench -- hold` measures one part; without a name all are measured.
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|argument| !argument.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| name == part);
    for size in SIZES.iter().filter(|size| wanted(size.name)) {
        table(&mut report, size);
    }
    if wanted("hold") {
        for (held, name) in [(1, "1"), (1_000, "1,000"), (65_535, "all")] {
            hold(&mut report, held, name);
        }
        steps(&mut report);
    }
    if wanted("tick") {
        tick(&mut report);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/engine.json");
    report.write(&path).expect("a writable target folder");
}

/// The flows of a full cache that are there, in random order.
fn cached(engine: &Bench, spread: Spread, flows: u32) -> Vec<u32> {
    teach(engine, spread, 0..flows);
    let mut there: Vec<u32> = (0..flows)
        .filter(|&flow| engine.lookup(&spread.key(flow), NOW).is_some())
        .collect();
    Random(2).shuffle(&mut there);
    there
}

/// Hits, insertions and clearing of one table size.
fn table(report: &mut Report, size: &Size) {
    let name = size.name;
    let shared = SharedSeed::from_u64(42);
    let limits = Limits::measure(size.flows as usize, |i| {
        let mut hasher = FoldHasher::with_seed(42, &shared);
        Spread::Both.key(i as u32).hash(&mut hasher);
        hasher.finish()
    });
    report.add(Row::new(
        format!("limit at {name}: pointer chase"),
        limits.chase,
    ));
    report.add(Row::new(
        format!("limit at {name}: hash and probe"),
        limits.stream,
    ));
    report.add(Row::new(
        format!("limit at {name}: hash and probe, dependent"),
        limits.dependent,
    ));

    let spread = Spread::Both;
    let engine = engine(size.flows, 1_024);
    let order = cached(&engine, spread, size.flows);
    let repeat = OPERATIONS.div_ceil(order.len());
    let operations = repeat * order.len();
    let keys: Vec<_> = order.iter().map(|&flow| spread.key(flow)).collect();
    let lookup = least_mean(3, operations, || {
        for _ in 0..repeat {
            for key in &keys {
                black_box(engine.lookup(key, NOW));
            }
        }
    });
    let row = Row::new(format!("look-up at {name}"), lookup);
    report.add(
        row.target(size.lookup)
            .against(Some(size.c), Some(size.rust))
            .limit(limits.dependent),
    );
    let packets: Vec<Packet> = order.iter().map(|&flow| spread.packet(flow)).collect();
    let hit = |packets: &[Packet]| {
        let lane = engine.lane(0);
        least_mean(3, operations, || {
            for _ in 0..repeat {
                for packet in packets {
                    scene::present_on(&engine, &lane, packet, NOW);
                }
            }
        })
    };
    let one = hit(&packets);
    report.add(
        Row::new(format!("cached hit with headers at {name}"), one)
            .target(size.hit)
            .against(Some(size.c), Some(size.rust))
            .limit(limits.dependent),
    );
    two_threads(report, &engine, size, &packets);
    insert(report, &engine, size);
    clear(report, &engine, size);
    one_port(report, size);
}

/// Two threads against one, which meet in nothing, in the table, or in the flows.
fn two_threads(report: &mut Report, engine: &Bench, size: &Size, packets: &[Packet]) {
    let (left, right) = packets.split_at(packets.len() / 2);
    let apart = scene::engine(size.flows, 1_024);
    cached(&apart, Spread::Both, size.flows);
    let mut otherwise = packets.to_vec();
    Random(3).shuffle(&mut otherwise);
    for (which, work, target) in [
        ("an engine each", [(engine, left), (&apart, right)], None),
        ("own flows", [(engine, left), (engine, right)], Some(1.9)),
        (
            "shared flows",
            [(engine, packets), (engine, &otherwise)],
            Some(1.9),
        ),
    ] {
        let row = Row::new(
            format!("two threads against one at {}, {which} (x)", size.name),
            speedup(&work),
        );
        report.add(match target {
            Some(target) => row.target(target).against(Some(0.76), Some(1.44)),
            None => row,
        });
    }
}

/// How much more of the same work two threads get done in the same time than one.
fn speedup(work: &[(&Bench, &[Packet]); 2]) -> f64 {
    let run = |threads: usize| {
        let barrier = Barrier::new(threads);
        // Operations of all threads in a nanosecond of each one's time.
        thread::scope(|scope| {
            let running: Vec<_> = (0..threads)
                .map(|processor| {
                    let (barrier, (engine, packets)) = (&barrier, work[processor]);
                    let rounds = OPERATIONS.div_ceil(packets.len());
                    scope.spawn(move || {
                        let lane = engine.lane(processor);
                        let clock = Instant::now();
                        barrier.wait();
                        let started = thread_time(clock);
                        for _ in 0..rounds {
                            for packet in packets {
                                scene::present_on(engine, &lane, packet, NOW);
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
    median(|| run(2)) / median(|| run(1))
}

/// The median of five runs.
fn median(run: impl FnMut() -> f64) -> f64 {
    let mut results: Vec<f64> = std::iter::repeat_with(run).take(5).collect();
    results.sort_by(f64::total_cmp);
    results[2]
}

/// Insertions into the full cache, by the last release of a decided flow.
fn insert(report: &mut Report, engine: &Bench, size: &Size) {
    let fresh = size.flows;
    let count = 100_000;
    let later = |i: u32| Timestamp::from_nanos(NOW.as_nanos() + u64::from(i) * 1_000);
    let mut times = Vec::with_capacity(count);
    for i in 0..count as u32 {
        present(engine, &Spread::Both.packet(fresh + i), later(i));
        times.push(scene::time_insertion(engine, later(i)));
    }
    let singles = Singles::of(times);
    for (what, mille, target, c) in [
        ("median", 500, Some(200.0), Some(size.c_insert)),
        (
            "p99.9",
            999,
            Some(2_000.0),
            (size.flows == 65_536).then_some(310_000.0),
        ),
        ("maximum", 1_000, None, None),
    ] {
        let mut row = Row::new(
            format!("insert into a full cache at {}, {what}", size.name),
            singles.per_mille(mille),
        );
        if let Some(target) = target {
            row = row.target(target);
        }
        report.add(row.against(c, None));
    }
}

/// Clearing the full cache.
fn clear(report: &mut Report, engine: &Bench, size: &Size) {
    let singles = Singles::time(1_000, |_| engine.clear_cache());
    report.add(
        Row::new(
            format!("clear at {}, worst of 1,000", size.name),
            singles.per_mille(1_000),
        )
        .target(5_000.0)
        .against(Some(size.c_clear), Some(size.rust_clear)),
    );
}

/// Hits with every flow on one local port.
fn one_port(report: &mut Report, size: &Size) {
    let spread = Spread::OnePort;
    let engine = engine(size.flows, 1_024);
    let order = cached(&engine, spread, size.flows);
    let packets: Vec<Packet> = order.iter().map(|&flow| spread.packet(flow)).collect();
    let repeat = OPERATIONS.div_ceil(order.len());
    let lane = engine.lane(0);
    let time = least_mean(3, repeat * packets.len(), || {
        for _ in 0..repeat {
            for packet in &packets {
                scene::present_on(&engine, &lane, packet, NOW);
            }
        }
    });
    report.add(
        Row::new(format!("cached hit at {}, one local port", size.name), time)
            .target(size.hit)
            .against(Some(size.c), Some(size.rust)),
    );
}

/// Holding a packet, delivering its request, deciding it for itself and letting it go, with so many
/// packets held.
fn hold(report: &mut Report, held: u32, name: &str) {
    let spread = Spread::Both;
    let engine = engine(1_024, 65_536);
    let lane = engine.lane(0);
    let mut ids: Vec<_> = (0..held)
        .map(|i| scene::hold(&engine, &lane, spread, i))
        .collect();
    Random(3).shuffle(&mut ids);
    let rounds = 100_000;
    let mut next = held;
    let time = least_mean(5, rounds, || {
        for i in 0..rounds {
            let at = i % ids.len();
            let fresh = scene::hold(&engine, &lane, spread, next);
            let old = std::mem::replace(&mut ids[at], fresh);
            scene::decide_once(&engine, &lane, old);
            next = (next + 1) % (1 << 24);
        }
    });
    report.add(
        Row::new(format!("hold, verdict and release with {name} held"), time)
            .target(40.0)
            .against(
                Some(13.0),
                Some(if held < 65_535 { 685.0 } else { 22_000.0 }),
            ),
    );
}

/// The steps of a held packet's way by themselves, a thousand packets at a time.
fn steps(report: &mut Report) {
    const PACKETS: u32 = 1_000;
    const ROUNDS: u32 = 200;
    let engine = engine(1_024, 1_024);
    let lane = engine.lane(0);
    let mut ids = Vec::with_capacity(PACKETS as usize);
    let mut times = [0.0; 3];
    for round in 0..ROUNDS {
        let packets: Vec<Packet> = (0..PACKETS)
            .map(|i| Spread::Both.packet(round * PACKETS + i))
            .collect();
        let started = Instant::now();
        let mut marks = [0.0; 4];
        let mut mark = |i: usize| marks[i] = thread_time(started);
        mark(0);
        for packet in &packets {
            scene::present_on(&engine, &lane, packet, NOW);
        }
        mark(1);
        ids.clear();
        while scene::deliver_some(&engine, &mut ids) {}
        mark(2);
        for &id in &ids {
            scene::decide_once(&engine, &lane, id);
        }
        mark(3);
        assert_eq!(ids.len(), PACKETS as usize);
        for (time, pair) in times.iter_mut().zip(marks.windows(2)) {
            *time += (pair[1] - pair[0]) / f64::from(PACKETS * ROUNDS);
        }
    }
    for (what, time) in [
        "classify a packet that is held",
        "deliver its request",
        "decide and let it go",
    ]
    .into_iter()
    .zip(times)
    {
        report.add(Row::new(format!("  of which: {what}"), time));
    }
}

/// The tick with every slot taken and due.
fn tick(report: &mut Report) {
    let engine = engine(1_024, 65_536);
    for flow in 0..65_536 {
        present(&engine, &Spread::Both.packet(flow), NOW);
    }
    let idle = Singles::time(10_000, |_| assert!(engine.tick(NOW).is_none()));
    report.add(Row::new(
        "tick with all slots taken, none due, worst",
        idle.per_mille(1_000),
    ));
    let due = NOW + Duration::from_mins(10);
    let mut released = 0;
    let busy = Singles::time(65_536, |_| released += engine.tick(due).map_or(0, drain));
    assert_eq!(released, 65_536);
    report.add(Row::new(
        "tick with all slots due, one call, median",
        busy.per_mille(500),
    ));
    report.add(Row::new(
        "tick with all slots due, one call, worst",
        busy.per_mille(1_000),
    ));
}
