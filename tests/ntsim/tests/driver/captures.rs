//! Every recorded capture through the driver: the same requests, counters and outgoing packets as in
//! the replay host.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kext_client::{Counters, OpenOptions, PayloadMode, Received, Request, Session, Wait};
use kext_hosts::capture::{CaptureReader, LinkPacket, Record, network_layer};
use kext_ntsim::harness::Test;
use kext_ntsim::{Direction, Packet, Sim};
use kext_types::{Config, Decision, Event, FragmentPolicy, Reason, Verdict};

use crate::packets::open;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[passes(
    "captures::each_goes_as_in_the_replay",
    each_goes_as_in_the_replay,
)];

/// A packet of a file that the replay wrote.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Written {
    direction: Direction,
    bytes: Vec<u8>,
}

/// A request as it is compared: flow, direction, payload.
type Asked = (String, kext_types::Direction, Vec<u8>);

/// What one run gave.
#[derive(Debug, Default)]
struct Run {
    asked: Vec<Asked>,
    left: Vec<Written>,
    counters: BTreeMap<u16, u64>,
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Packets of a pcapng file as our writer makes it.
fn packets(file: &[u8]) -> Vec<Written> {
    const ENHANCED: u32 = 6;
    const FLAGS: u16 = 2;
    let mut at = 0;
    let mut packets = Vec::new();
    while at < file.len() {
        let length = word(file, at + 4) as usize;
        if word(file, at) == ENHANCED {
            let captured = word(file, at + 20) as usize;
            let bytes = file[at + 28..at + 28 + captured].to_vec();
            let mut option = at + 28 + captured.next_multiple_of(4);
            let mut flags = 0;
            while option + 4 < at + length {
                let code = word(file, option) as u16;
                let size = (word(file, option) >> 16) as usize;
                if code == 0 {
                    break;
                }
                if code == FLAGS {
                    flags = word(file, option + 4);
                }
                option += 4 + size.next_multiple_of(4);
            }
            let direction = match flags & 3 {
                1 => Direction::Inbound,
                2 => Direction::Outbound,
                other => panic!("a packet of direction {other}"),
            };
            packets.push(Written { direction, bytes });
        }
        at += length;
    }
    packets
}

/// A packet as it is shown.
struct Shown {
    time: u64,
    interface: u32,
    packet: Written,
}

/// Where both addresses of a packet are.
fn addresses(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.first()? >> 4 {
        4 => bytes.get(12..20),
        _ => bytes.get(8..40),
    }
}

/// The packets of a capture; `None` if one is cut short: Windows shows whole packets. Which way each
/// goes, a run has told in which all were let go; the few that never go are taken to go as
/// others between the same ends.
fn shown(capture: &Path, told: &[Written]) -> Option<Vec<Shown>> {
    let mut reader = CaptureReader::open(capture).unwrap();
    let mut record = Record::default();
    let mut shown = Vec::new();
    while reader.read_into(&mut record).unwrap() {
        let LinkPacket::Ip {
            offset,
            on_wire,
            interface,
            ..
        } = network_layer(record.link_type, &record.data, record.original_len)
        else {
            continue;
        };
        let bytes = &record.data[offset..];
        if bytes.len() < on_wire as usize {
            return None;
        }
        let same = told.iter().find(|one| bytes.starts_with(&one.bytes));
        let alike = || {
            told.iter()
                .find(|one| addresses(&one.bytes) == addresses(bytes))
        };
        let direction = same
            .or_else(alike)
            .map_or(Direction::Inbound, |one| one.direction);
        shown.push(Shown {
            time: record.time.as_nanos(),
            interface: interface.unwrap_or(record.interface),
            packet: Written {
                direction,
                bytes: same.map_or(bytes, |one| one.bytes.as_slice()).to_vec(),
            },
        });
    }
    Some(shown)
}

/// A verdict that depends on the flow only.
fn decide(request: &Request) -> Decision {
    let flow = request.info.flow;
    let number =
        u32::from(flow.remote_port) + u32::from(flow.local_port) + u32::from(flow.protocol);
    let verdict = match number % 5 {
        0 => Verdict::Block,
        1 => Verdict::Drop,
        _ => Verdict::Accept,
    };
    Decision {
        verdict,
        permanent: number % 5 != 2,
    }
}

fn accept(_: &Request) -> Decision {
    Decision {
        verdict: Verdict::Accept,
        permanent: true,
    }
}

fn asked(request: &Request) -> Asked {
    let info = &request.info;
    (
        format!("{:?}", info.flow),
        info.direction,
        request.payload.to_vec(),
    )
}

fn counted(counters: &Counters) -> BTreeMap<u16, u64> {
    let mut counted: BTreeMap<u16, u64> = counters
        .iter()
        .map(|counter| (counter.number, counter.value))
        .collect();
    // The filtering platform shows injected packets again, which a replay does not.
    let own = counted
        .remove(&Reason::PermittedInjected.number())
        .unwrap_or(0);
    *counted.entry(Event::Seen.number()).or_default() -= own;
    counted
}

fn replay(capture: &Path, config: Config, policy: fn(&Request) -> Decision) -> Run {
    let output = std::env::temp_dir().join(format!("ntsim-{}.pcapng", std::process::id()));
    let options = OpenOptions {
        output: Some(output.clone()),
        config,
        ..OpenOptions::default()
    };
    let device = kext_client::Device::Replay(capture.to_owned());
    let session = Session::open_device(device, options).unwrap();
    let mut run = Run::default();
    loop {
        match session
            .receive(1, PayloadMode::Whole, Wait::Forever)
            .unwrap()
        {
            Received::Batch(batch) => {
                for request in &batch.requests {
                    run.asked.push(asked(request));
                    session
                        .set_verdict(request.info.id.get(), policy(request))
                        .unwrap();
                }
            }
            Received::Timeout => {}
            Received::End => break,
        }
    }
    run.counters = counted(&session.counters().unwrap());
    session.close().unwrap();
    let written = std::fs::read(&output).unwrap();
    std::fs::remove_file(&output).unwrap();
    run.left = packets(&written);
    run
}

fn drive(sim: &Sim, presented: &[Shown]) -> Run {
    let session = open(sim);
    let mut run = Run::default();
    let first = presented.first().map_or(0, |shown| shown.time);
    let start = sim.time();
    for Shown {
        time,
        interface,
        packet,
    } in presented
    {
        let due = start + Duration::from_nanos(time.saturating_sub(first));
        sim.advance(due.saturating_sub(sim.time()));
        let shown = Packet::new(packet.direction, packet.bytes.clone()).interface(*interface, 0);
        if sim.classify(&shown).permitted {
            run.left.push(packet.clone());
        }
        while let Received::Batch(batch) = session.receive(1, PayloadMode::Whole, Wait::No).unwrap()
        {
            for request in &batch.requests {
                run.asked.push(asked(request));
                session
                    .set_verdict(request.info.id.get(), decide(request))
                    .unwrap();
            }
        }
        for injected in sim.injected() {
            assert!(injected.classified.permitted, "{injected:?}");
            // Some captures have packets whose checksums were left to the adapter.
            let own = injected.bytes != packet.bytes;
            assert!(!own || injected.wrong.is_none(), "{injected:?}");
            run.left.push(Written {
                direction: injected.direction,
                bytes: injected.bytes,
            });
        }
    }
    // At the end of a capture nothing waits any more for a first fragment.
    sim.advance(Duration::from_secs(31));
    run.counters = counted(&session.counters().unwrap());
    session.close().unwrap();
    run
}

/// An answer of ours has an identification that nobody can foresee; it and the checksum over it are
/// left out of the comparison. What this machine sends to itself the driver always injects as sent.
fn forget_what_differs(left: &mut [Written], presented: &[Shown]) {
    let presented: HashSet<&[u8]> = presented
        .iter()
        .map(|shown| shown.packet.bytes.as_slice())
        .collect();
    for packet in left {
        let bytes = &packet.bytes;
        let to_itself = match bytes[0] >> 4 {
            4 => bytes[12] == 127 && bytes[16] == 127,
            _ => bytes.get(8..24) == bytes.get(24..40),
        };
        if to_itself {
            packet.direction = Direction::Outbound;
        }
        if packet.bytes[0] >> 4 == 4 && !presented.contains(packet.bytes.as_slice()) {
            packet.bytes[4..6].fill(0);
            packet.bytes[10..12].fill(0);
        }
    }
}

fn each_goes_as_in_the_replay() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../captures");
    let mut captures: Vec<PathBuf> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "pcap" || end == "pcapng")
        })
        .collect();
    captures.sort();
    let mut compared = 0;
    for capture in captures {
        let name = capture.file_name().unwrap().to_string_lossy().into_owned();
        // What is presented, and when: a run in which everything is let go.
        let everything = Config {
            fragments: FragmentPolicy::Permit,
            ..Config::default()
        };
        let told = replay(&capture, everything, accept).left;
        let Some(presented) = shown(&capture, &told) else {
            continue;
        };
        let mut expected = replay(&capture, Config::default(), decide);
        let sim = load();
        // Captures are of machines whose network took what is in them.
        sim.set_mtu(u32::MAX);
        let mut seen = drive(&sim, &presented);
        sim.unload();
        assert_eq!(seen.asked, expected.asked, "requests of {name}");
        for run in [&mut seen, &mut expected] {
            forget_what_differs(&mut run.left, &presented);
        }
        seen.left.sort();
        expected.left.sort();
        assert_eq!(seen.left.len(), expected.left.len(), "packets of {name}");
        for (seen, expected) in seen.left.iter().zip(&expected.left) {
            assert_eq!(seen, expected, "packets of {name}");
        }
        assert_eq!(seen.counters, expected.counters, "counters of {name}");
        eprintln!(
            "{name}: {} packets, {} requests",
            presented.len(),
            seen.asked.len()
        );
        compared += 1;
    }
    assert!(compared > 10, "{compared}");
}
