//! Measuring and reporting: times, percentiles, a table for people and JSON for machines.

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

/// One measured figure, in nanoseconds unless the name says otherwise.
pub struct Row {
    name: String,
    value: f64,
    /// What the figure should reach.
    target: Option<f64>,
    /// The C extension's and its Rust successor's figures, from a machine like the first one used.
    baselines: [Option<f64>; 2],
    /// What this machine allows, measured in this run.
    limit: Option<f64>,
}

impl Row {
    /// A figure with its name.
    pub fn new(name: impl Into<String>, value: f64) -> Self {
        Self {
            name: name.into(),
            value,
            target: None,
            baselines: [None; 2],
            limit: None,
        }
    }

    /// With what it should reach.
    #[must_use]
    pub fn target(mut self, target: f64) -> Self {
        self.target = Some(target);
        self
    }

    /// With the figures of the two earlier extensions.
    #[must_use]
    pub fn against(mut self, c: Option<f64>, rust: Option<f64>) -> Self {
        self.baselines = [c, rust];
        self
    }

    /// With what this machine allows.
    #[must_use]
    pub fn limit(mut self, limit: f64) -> Self {
        self.limit = Some(limit);
        self
    }
}

/// All rows of a run.
#[derive(Default)]
pub struct Report(Vec<Row>);

impl Report {
    /// Prints a row and keeps it.
    pub fn add(&mut self, row: Row) {
        let ratio =
            |of: Option<f64>| of.map_or_else(String::new, |of| format!("{:.2}x", row.value / of));
        println!(
            "{:<52} {:>10.1} {:>9} {:>8} {:>8} {:>8}",
            row.name,
            row.value,
            row.target.map_or_else(String::new, |t| format!("{t:.1}")),
            ratio(row.baselines[0]),
            ratio(row.baselines[1]),
            ratio(row.limit),
        );
        self.0.push(row);
    }

    /// Prints the names of the columns.
    pub fn head() {
        println!(
            "{:<52} {:>10} {:>9} {:>8} {:>8} {:>8}",
            "work (ns, unless it says otherwise)", "measured", "target", "/C", "/Rust", "/limit"
        );
    }

    /// Writes the rows as JSON.
    pub fn write(&self, path: &Path) -> std::io::Result<()> {
        let number = |of: Option<f64>| of.map_or_else(|| "null".into(), |of| format!("{of:.2}"));
        let mut text = String::from("[\n");
        for (i, row) in self.0.iter().enumerate() {
            let comma = if i + 1 == self.0.len() { "" } else { "," };
            let _ = writeln!(
                text,
                "  {{\"work\": \"{}\", \"measured\": {:.2}, \"target\": {}, \"c\": {}, \"rust\": {}, \"limit\": {}}}{comma}",
                row.name,
                row.value,
                number(row.target),
                number(row.baselines[0]),
                number(row.baselines[1]),
                number(row.limit),
            );
        }
        text.push_str("]\n");
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }
}

/// The least of several runs' mean times of an operation. Noise only ever adds.
pub fn least_mean(runs: usize, operations: usize, mut run: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let started = Instant::now();
            let before = thread_time(started);
            run();
            (thread_time(started) - before) / operations as f64
        })
        .fold(f64::INFINITY, f64::min)
}

/// Processor time of this thread in nanoseconds, where the system tells: other programs' work on
/// the same processors is then no part of it.
pub fn thread_time(since: Instant) -> f64 {
    // Its books are brought up to date when a thread goes to sleep.
    thread::sleep(Duration::from_micros(1));
    let told = fs::read_to_string("/proc/thread-self/schedstat").ok();
    told.and_then(|text| text.split(' ').next()?.parse().ok())
        .unwrap_or_else(|| since.elapsed().as_nanos() as f64)
}

/// The times of single operations, sorted.
pub struct Singles(Vec<u32>);

impl Singles {
    /// Times `count` calls, each by itself.
    pub fn time(count: usize, mut operation: impl FnMut(usize)) -> Self {
        let mut times = vec![0; count];
        for (i, time) in times.iter_mut().enumerate() {
            let started = Instant::now();
            operation(i);
            *time = u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX);
        }
        Self::of(times)
    }

    /// Times that were taken elsewhere.
    pub fn of(mut times: Vec<u32>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// The time that this many thousandths of the calls did not exceed.
    pub fn per_mille(&self, mille: usize) -> f64 {
        let at = (self.0.len() * mille / 1_000).min(self.0.len() - 1);
        f64::from(self.0[at])
    }
}

/// What taking the time costs by itself: part of every single time.
pub fn clock_cost() -> f64 {
    Singles::time(10_000, |_| ()).per_mille(500)
}

/// A generator of the same numbers in every run (splitmix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it has no end")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Puts items into a random order.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, (self.next() % (i as u64 + 1)) as usize);
        }
    }
}

/// A line pair of memory, as large as what a hit touches.
#[repr(align(128))]
#[derive(Clone, Copy)]
struct Entry([u64; 16]);

/// What this machine allows over a table of so many entries of 128 bytes, in nanoseconds.
pub struct Limits {
    /// One dependent read.
    pub chase: f64,
    /// A hash, one read and one comparison; the next does not depend on it.
    pub stream: f64,
    /// The same where each depends on the one before.
    pub dependent: f64,
}

impl Limits {
    /// Measures them.
    pub fn measure(entries: usize, mut hash: impl FnMut(u64) -> u64) -> Self {
        let mut order: Vec<usize> = (0..entries).collect();
        Random(1).shuffle(&mut order);
        let mut table = vec![Entry([0; 16]); entries];
        for (i, &at) in order.iter().enumerate() {
            table[at].0[0] = order[(i + 1) % entries] as u64;
        }
        let reads = entries.max(1 << 18);
        let chase = least_mean(3, reads, || {
            let mut at = 0;
            for _ in 0..reads {
                at = table[at].0[0] as usize;
            }
            black_box(at);
        });
        let mask = entries - 1;
        let stream = least_mean(3, reads, || {
            let mut found = 0_u64;
            for i in 0..reads as u64 {
                found += u64::from(table[hash(i) as usize & mask].0[1] == i);
            }
            black_box(found);
        });
        let dependent = least_mean(3, reads, || {
            let mut found = 0_u64;
            for i in 0..reads as u64 {
                found += table[hash(i ^ found) as usize & mask].0[1];
            }
            black_box(found);
        });
        Self {
            chase,
            stream,
            dependent,
        }
    }
}
