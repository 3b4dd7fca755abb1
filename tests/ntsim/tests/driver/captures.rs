//! Every recorded capture through the driver: the same requests, counters and outgoing packets as in
//! the replay host.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kext_client::{Counters, OpenOptions, PayloadMode, Received, Request, Session, Wait};
use kext_ntsim::harness::Test;
use kext_ntsim::{Direction, Packet, Sim};
use kext_types::{Decision, Event, Reason, Verdict};

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

/// Packets of a pcapng file as our writer makes it, with their times in nanoseconds; cut ones
/// are `None`.
fn packets(file: &[u8]) -> Vec<(u64, u32, Option<Written>)> {
    const ENHANCED: u32 = 6;
    const FLAGS: u16 = 2;
    let mut at = 0;
    let mut packets = Vec::new();
    while at < file.len() {
        let length = word(file, at + 4) as usize;
        if word(file, at) == ENHANCED {
            let interface = word(file, at + 8);
            let time = u64::from(word(file, at + 12)) << 32 | u64::from(word(file, at + 16));
            let captured = word(file, at + 20) as usize;
            let whole = captured == word(file, at + 24) as usize;
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
            packets.push((
                time,
                interface,
                whole.then_some(Written { direction, bytes }),
            ));
        }
        at += length;
    }
    packets
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

fn replay(capture: &Path, policy: fn(&Request) -> Decision) -> (Run, Vec<u8>) {
    let output = std::env::temp_dir().join(format!("ntsim-{}.pcapng", std::process::id()));
    let options = OpenOptions {
        output: Some(output.clone()),
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
    run.left = packets(&written)
        .into_iter()
        .filter_map(|(.., packet)| packet)
        .collect();
    (run, written)
}

fn drive(sim: &Sim, presented: &[(u64, u32, Option<Written>)]) -> Run {
    let session = open(sim);
    let mut run = Run::default();
    let mut before = presented.first().map_or(0, |(time, ..)| *time);
    for (time, interface, packet) in presented {
        sim.advance(Duration::from_nanos(time.saturating_sub(before)));
        before = before.max(*time);
        let packet = packet
            .as_ref()
            .expect("captures with cut packets are left out");
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
            assert_eq!(injected.wrong, None, "{injected:?}");
            run.left.push(Written {
                direction: injected.direction,
                bytes: injected.bytes,
            });
        }
    }
    run.counters = counted(&session.counters().unwrap());
    session.close().unwrap();
    run
}

/// An answer of ours has an identification that nobody can foresee; it and the checksum over it are
/// left out of the comparison.
fn forget_identifications(left: &mut [Written], presented: &[(u64, u32, Option<Written>)]) {
    let presented: HashSet<&[u8]> = presented
        .iter()
        .filter_map(|(.., packet)| packet.as_ref())
        .map(|packet| packet.bytes.as_slice())
        .collect();
    for packet in left {
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
        let (_, written) = replay(&capture, accept);
        let presented = packets(&written);
        if presented.iter().any(|(.., packet)| packet.is_none()) {
            // Windows shows whole packets.
            continue;
        }
        let (mut expected, _) = replay(&capture, decide);
        let sim = load();
        let mut seen = drive(&sim, &presented);
        sim.unload();
        assert_eq!(seen.asked, expected.asked, "requests of {name}");
        for run in [&mut seen, &mut expected] {
            forget_identifications(&mut run.left, &presented);
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
