//! What a policy costs for each request, by the number of its rules.
//!
//! Batches of 4,096 requests, rules with conditions on networks and ports; beside each figure what it
//! should reach, and how many times longer trying each rule in turn takes. Medians of several runs in
//! one thread. Run by `make bench`; JSON goes to `target/bench/rules.json`.

// Figures for people.
#![allow(clippy::cast_precision_loss)]

use std::fmt::Write as _;
use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use kext_rules::{Columns, MAX_RULES, Policy, Request, Rule};
use kext_types::{Address, Decision, Direction, FlowKey, IpVersion, ProcessId, Verdict, protocol};

const BATCH: usize = 4_096;
/// Different batches, so that no branch is learnt by heart.
const BATCHES: usize = 16;
const RUNS: usize = 9;

const BLOCK: Decision = Decision {
    verdict: Verdict::Block,
    permanent: true,
};

/// Ports that rules and requests have in common.
const PORTS: [u16; 12] = [
    22, 23, 25, 53, 80, 123, 443, 853, 3_389, 5_060, 8_080, 8_443,
];

/// Which requests there are.
#[derive(Clone, Copy)]
struct Traffic {
    /// Of 100 requests, how many are IPv6.
    v6: u64,
    /// Of 100 requests, how many go to a network of some rule.
    near: u64,
    /// The port that all go to, instead of various ones.
    port: Option<u16>,
}

fn main() {
    let v4 = Traffic {
        v6: 0,
        near: 60,
        port: None,
    };
    let mixed = Traffic { v6: 50, ..v4 };
    let far = Traffic { near: 0, ..v4 };
    let in_vain = Traffic {
        v6: 0,
        near: 100,
        port: Some(2),
    };
    println!(
        "batches of {BATCH} requests, medians of {RUNS} runs; \"in turn\" tries one rule after the other"
    );
    println!(
        "{:<44} {:>12} {:>8} {:>10} {:>12}",
        "policy and requests", "ns/request", "target", "matched", "in turn"
    );
    let mut report = Report::default();
    let hundred = rules(100);
    report.batches("100 rules", 60.0, &hundred, v4);
    report.batches(
        "100 rules, half of the requests IPv6",
        60.0,
        &hundred,
        mixed,
    );
    report.batches("100 rules, no network matches", 60.0, &hundred, far);
    let thousand = rules(1_000);
    report.batches("1,000 rules", 100.0, &thousand, v4);
    report.batches(
        "1,000 rules, half of the requests IPv6",
        100.0,
        &thousand,
        mixed,
    );
    let many = rules(4_096);
    report.batches("4,096 rules", 150.0, &many, v4);
    let name = "4,096 rules, chosen to be slow";
    report.batches(name, 300.0, &slow_rules(), in_vain);
    let mut listed = rules(99);
    listed.insert(0, block_list(100_000));
    report.batches(
        "99 rules and a list of 100,000 networks",
        100.0,
        &listed,
        v4,
    );
    report.singles("100 rules, one request at a time", 100.0, &hundred, v4);
    for (name, rules) in [
        ("100 rules", hundred),
        ("1,000 rules", thousand),
        ("4,096 rules", many),
        ("99 rules and a list of 100,000 networks", listed),
    ] {
        let time = median(3, 1, || drop(black_box(compile(&rules))));
        println!("{:<44} {:>9.1} ms", format!("compile {name}"), time / 1e6);
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/bench/rules.json");
    report.write(&path).expect("a writable target folder");
}

fn compile(rules: &[Rule]) -> Policy {
    Policy::compile(rules.to_vec()).expect("good rules")
}

/// The rows as JSON.
#[derive(Default)]
struct Report(Vec<String>);

impl Report {
    fn batches(&mut self, name: &str, target: f64, rules: &[Rule], traffic: Traffic) {
        let (policy, batches) = (compile(rules), batches(rules, traffic));
        let (mut numbers, mut found) = (vec![0; BATCH], vec![0; BATCH]);
        let time = median(RUNS, BATCH * BATCHES, || {
            for batch in &batches {
                let misses = policy.decide_columns(&batch.columns(), &mut numbers, &mut found);
                black_box(misses.expect("good columns"));
            }
        });
        self.add(name, target, time, &policy, in_turn(rules, &batches));
    }

    fn singles(&mut self, name: &str, target: f64, rules: &[Rule], traffic: Traffic) {
        let (policy, batches) = (compile(rules), batches(rules, traffic));
        let time = median(RUNS, BATCH * BATCHES, || {
            for request in batches.iter().flat_map(|batch| &batch.requests) {
                black_box(policy.decide(request));
            }
        });
        self.add(name, target, time, &policy, in_turn(rules, &batches));
    }

    fn add(&mut self, name: &str, target: f64, time: f64, policy: &Policy, in_turn: f64) {
        let hits: u64 = policy.hits().iter().sum();
        let matched = hits as f64 / (hits + policy.misses()) as f64;
        println!(
            "{name:<44} {time:>12.1} {target:>8.0} {:>9.0}% {:>11.1}x",
            100.0 * matched,
            in_turn / time
        );
        self.0.push(format!(
            "  {{\"work\": \"{name}\", \"ns\": {time:.2}, \"target\": {target:.1}, \
             \"matched\": {matched:.3}, \"in_turn_ns\": {in_turn:.2}}}"
        ));
    }

    fn write(&self, path: &Path) -> std::io::Result<()> {
        let mut text = String::new();
        let _ = write!(text, "[\n{}\n]\n", self.0.join(",\n"));
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::write(path, text)
    }
}

/// The median time of several runs, in nanoseconds for each of so many operations.
fn median(runs: usize, operations: usize, mut work: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..runs)
        .map(|_| {
            let started = Instant::now();
            work();
            started.elapsed().as_nanos() as f64 / operations as f64
        })
        .collect();
    times.sort_unstable_by(f64::total_cmp);
    times[runs / 2]
}

/// The time of the obvious way, over part of a batch: it is long.
fn in_turn(rules: &[Rule], batches: &[Batch]) -> f64 {
    let requests = &batches[0].requests[..BATCH / 16];
    median(3, requests.len(), || {
        for request in requests {
            black_box(rules.iter().position(|rule| matches(rule, request)));
        }
    })
}

/// The conditions that the rules here have.
fn matches(rule: &Rule, request: &Request) -> bool {
    let flow = &request.flow;
    rule.protocol
        .as_ref()
        .is_none_or(|it| it.contains(&flow.protocol))
        && rule
            .remote_port
            .as_ref()
            .is_none_or(|it| it.iter().any(|range| range.contains(&flow.remote_port)))
        && rule.remote.as_ref().is_none_or(|it| {
            let ip = flow.remote.to_ip(flow.version);
            it.iter().any(|network| network.contains(&ip))
        })
        && rule.local.as_ref().is_none_or(|it| {
            let ip = flow.local.to_ip(flow.version);
            it.iter().any(|network| network.contains(&ip))
        })
}

/// Rules as people write them: one or two networks of either family, mostly ports, often a protocol.
fn rules(count: u64) -> Vec<Rule> {
    let mut random = Random(count);
    (0..count)
        .map(|_| {
            let mut rule = Rule::any(BLOCK);
            let v4 = network_v4(&mut random);
            rule.remote = Some(match random.below(3) {
                0 => vec![v4],
                1 => vec![network_v6(&mut random)],
                _ => vec![v4, network_v6(&mut random)],
            });
            let port = random.pick(&PORTS);
            rule.remote_port = match random.below(4) {
                0 => None,
                1 => Some(vec![port..=port + 63]),
                2 => Some(vec![port..=port, 6_000..=6_063]),
                _ => Some(vec![port..=port]),
            };
            rule.protocol = match random.below(3) {
                0 => None,
                1 => Some(vec![protocol::TCP]),
                _ => Some(vec![protocol::TCP, protocol::UDP]),
            };
            if random.below(8) == 0 {
                rule.local = Some(vec![IpNet::V4(
                    Ipv4Net::new([10, 0, 0, 0].into(), 8).expect("a prefix length"),
                )]);
                rule.remote = Some(vec![v4]);
            }
            rule
        })
        .collect()
}

fn network_v4(random: &mut Random) -> IpNet {
    let len = 12 + random.below(21) as u8;
    let address = (random.next() as u32).into();
    Ipv4Net::new(address, len)
        .expect("a prefix length")
        .trunc()
        .into()
}

fn network_v6(random: &mut Random) -> IpNet {
    let len = 28 + random.below(101) as u8;
    Ipv6Net::new(global_v6(random).into(), len)
        .expect("a prefix length")
        .trunc()
        .into()
}

/// An address of `2000::/8`: a small part of the space, as in use.
fn global_v6(random: &mut Random) -> u128 {
    let bits = u128::from(random.next()) << 64 | u128::from(random.next());
    0x20 << 120 | bits >> 8
}

/// The most rules, which requests to 10.0.0.0/8, port 2, keep going through in vain: in each word of
/// the sets, every second rule allows the address, and the others the port.
fn slow_rules() -> Vec<Rule> {
    let rule = |(network, port): (&str, u16)| {
        let mut rule = Rule::any(BLOCK);
        rule.remote = Some(vec![network.parse().expect("a network")]);
        rule.remote_port = Some(vec![port..=port]);
        rule
    };
    [("10.0.0.0/8", 1), ("2001:db8::/32", 2)]
        .repeat(MAX_RULES / 2)
        .into_iter()
        .map(rule)
        .collect()
}

fn block_list(networks: usize) -> Rule {
    let mut random = Random(7);
    let mut rule = Rule::any(BLOCK);
    let remote = (0..networks).map(|_| {
        let len = 20 + random.below(13) as u8;
        let network = Ipv4Net::new((random.next() as u32).into(), len);
        IpNet::V4(network.expect("a prefix length").trunc())
    });
    rule.remote = Some(remote.collect());
    rule
}

/// Requests, and the same as columns.
struct Batch {
    requests: Vec<Request>,
    version: Vec<u8>,
    protocol: Vec<u8>,
    direction: Vec<u8>,
    local: Vec<[u8; 16]>,
    remote: Vec<[u8; 16]>,
    local_port: Vec<u16>,
    remote_port: Vec<u16>,
    process: Vec<u64>,
}

impl Batch {
    fn new(requests: Vec<Request>) -> Self {
        let flows = || requests.iter().map(|request| &request.flow);
        Self {
            version: flows().map(|flow| flow.version.number()).collect(),
            protocol: flows().map(|flow| flow.protocol).collect(),
            direction: requests.iter().map(|it| it.direction.number()).collect(),
            local: flows().map(|flow| flow.local.bytes()).collect(),
            remote: flows().map(|flow| flow.remote.bytes()).collect(),
            local_port: flows().map(|flow| flow.local_port).collect(),
            remote_port: flows().map(|flow| flow.remote_port).collect(),
            process: requests
                .iter()
                .map(|it| it.process_id.map_or(0, ProcessId::get))
                .collect(),
            requests,
        }
    }

    fn columns(&self) -> Columns<'_> {
        Columns {
            version: &self.version,
            protocol: &self.protocol,
            direction: &self.direction,
            local: &self.local,
            remote: &self.remote,
            local_port: &self.local_port,
            remote_port: &self.remote_port,
            process: &self.process,
        }
    }
}

fn batches(rules: &[Rule], traffic: Traffic) -> Vec<Batch> {
    let networks: Vec<IpNet> = rules
        .iter()
        .flat_map(|rule| rule.remote.iter().flatten().copied())
        .collect();
    let mut random = Random(3);
    (0..BATCHES)
        .map(|_| {
            let requests = (0..BATCH).map(|_| request(&mut random, &networks, traffic));
            Batch::new(requests.collect())
        })
        .collect()
}

fn request(random: &mut Random, networks: &[IpNet], traffic: Traffic) -> Request {
    let version = if random.below(100) < traffic.v6 {
        IpVersion::V6
    } else {
        IpVersion::V4
    };
    let near = random.below(100) < traffic.near;
    // A few tries for a network of the right family.
    let network = (0..8)
        .map(|_| random.pick(networks))
        .find(|network| near && matches!(network, IpNet::V4(_)) == (version == IpVersion::V4));
    let host = u128::from(random.next());
    let remote = match (network, version) {
        (Some(IpNet::V4(net)), _) => Address::v4(
            (u32::from(net.network()) | host as u32 & u32::from(net.hostmask())).to_be_bytes(),
        ),
        (Some(IpNet::V6(net)), _) => Address::v6(
            (u128::from(net.network()) | host & u128::from(net.hostmask())).to_be_bytes(),
        ),
        (None, IpVersion::V4) => Address::v4((host as u32).to_be_bytes()),
        (None, IpVersion::V6) => Address::v6(global_v6(random).to_be_bytes()),
    };
    let local = match version {
        IpVersion::V4 => Address::v4([10, 0, 0, 1]),
        IpVersion::V6 => Address::v6([0xfd; 16]),
    };
    let direction = [Direction::Outbound, Direction::Inbound][random.below(2) as usize];
    Request {
        flow: FlowKey {
            local,
            remote,
            local_port: 32_768 + random.below(28_000) as u16,
            remote_port: match traffic.port {
                Some(port) => port,
                None if random.below(4) == 0 => random.next() as u16,
                None => random.pick(&PORTS),
            },
            version,
            protocol: [protocol::TCP, protocol::UDP][random.below(2) as usize],
        },
        direction,
        process_id: ProcessId::new(random.below(1_000)),
    }
}

/// A generator of the same numbers in every run (splitmix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}
