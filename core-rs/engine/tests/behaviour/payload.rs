//! Payload and paths of programs, which are told apart from the packets.

use std::time::Duration;

use kext_packet::Headers;
use kext_types::{Direction, FlowEnd, FlowKey, ProcessId, Verdict};

use crate::common::*;

const OUT: Direction = Direction::Outbound;
const IN: Direction = Direction::Inbound;

fn flow_of(packet: &[u8]) -> FlowKey {
    let headers = Headers::parse(packet, packet.len()).unwrap();
    headers.flow_key(OUT)
}

fn tell(bench: &Bench, packet: &[u8], direction: Direction, bytes: u64) {
    bench
        .engine
        .add_payload(&flow_of(packet), direction, bytes, bench.now());
}

/// The payload of the only cached flow, outbound and inbound.
#[track_caller]
fn cached(bench: &Bench) -> (u64, u64) {
    let mut all = Vec::new();
    bench.engine.list_flows(0, |flow| {
        all.push((flow.payload_outbound, flow.payload_inbound));
        true
    });
    assert_eq!(all.len(), 1);
    all[0]
}

#[test]
fn payload_of_a_cached_flow_is_added_by_direction() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, OUT, Verdict::Accept);
    assert_eq!(cached(&bench), (0, 0));
    tell(&bench, &packet, OUT, 10);
    tell(&bench, &packet, IN, 500);
    tell(&bench, &packet, OUT, 1);
    assert_eq!(cached(&bench), (11, 500));
    tell(&bench, &packet, IN, u64::MAX);
    assert_eq!(cached(&bench), (11, u64::MAX));
    // It is no sign that packets come.
    bench.sleep(Duration::from_mins(11));
    assert_eq!(bench.outbound(&packet), End::Held(true));
}

#[test]
fn payload_told_before_the_verdict_stands_with_the_flow_once() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    tell(&bench, &packet, OUT, 10);
    bench.outbound(&packet);
    tell(&bench, &packet, IN, 20);
    bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(cached(&bench), (10, 20));
    // Decided again, it is another flow.
    bench.engine.clear_cache();
    bench.teach(&packet, OUT, Verdict::Accept);
    assert_eq!(cached(&bench), (0, 0));
}

#[test]
fn payload_of_a_flow_that_was_cleared_is_that_of_the_next() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, OUT, Verdict::Accept);
    tell(&bench, &packet, OUT, 1_000);
    bench.engine.clear_cache();
    tell(&bench, &packet, OUT, 7);
    bench.teach(&packet, OUT, Verdict::Block);
    assert_eq!(cached(&bench), (7, 0));
}

#[test]
fn payload_that_is_too_old_is_of_no_flow() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    tell(&bench, &packet, OUT, 10);
    bench.sleep(Duration::from_mins(10));
    tell(&bench, &packet, OUT, 1);
    bench.sleep(Duration::from_mins(11));
    tell(&bench, &packet, IN, 5);
    bench.teach(&packet, OUT, Verdict::Accept);
    assert_eq!(cached(&bench), (0, 5));
}

#[test]
fn payload_without_a_reader_is_not_remembered() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.engine.set_reader(false);
    tell(&bench, &packet, OUT, 10);
    bench.engine.set_reader(true);
    bench.teach(&packet, OUT, Verdict::Accept);
    assert_eq!(cached(&bench), (0, 0));
    // Of what is cached it is counted all the same.
    bench.engine.set_reader(false);
    tell(&bench, &packet, OUT, 10);
    assert_eq!(cached(&bench), (10, 0));
}

#[test]
fn payload_and_owner_do_not_disturb_each_other() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    let owner = ProcessId::new(7).unwrap();
    bench
        .engine
        .set_owner(&flow_of(&packet), owner, bench.now());
    tell(&bench, &packet, OUT, 10);
    bench
        .engine
        .set_owner(&flow_of(&packet), owner, bench.now());
    bench.outbound(&packet);
    let request = bench.request();
    assert_eq!(request.arrival.process_id, Some(owner));
    bench.verdict(request.id, always(Verdict::Accept));
    assert_eq!(cached(&bench), (10, 0));
}

#[test]
fn payload_is_told_with_the_end_of_the_flow() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, OUT, Verdict::Accept);
    tell(&bench, &packet, IN, 99);
    bench.sleep(Duration::from_mins(11));
    bench.outbound(&packet);
    let ended = bench.engine.next_event().unwrap();
    assert_eq!(ended.end, FlowEnd::Idle);
    assert_eq!(ended.flow.payload_inbound, 99);
}

#[test]
fn a_flow_that_takes_anothers_place_has_none_of_its_payload() {
    let bench = Bench::small();
    for number in 0..4_000 {
        let packet = numbered(number, 0);
        bench.sleep(Duration::from_millis(1));
        bench.teach(&packet, OUT, Verdict::Accept);
        let mut all = 0;
        bench.engine.list_flows(0, |flow| {
            all += u64::from(flow.payload_outbound == 0);
            true
        });
        assert_eq!(all, 1, "only the newest has none");
        tell(&bench, &packet, OUT, 1);
    }
}

fn path(bench: &Bench, process: u64) -> Option<(Vec<u8>, bool)> {
    let process = ProcessId::new(process).unwrap();
    bench
        .engine
        .process_path(process, |path| (path.utf16.to_vec(), path.is_cut))
}

fn set_path(bench: &Bench, process: u64, utf16: &[u8]) {
    let process = ProcessId::new(process).unwrap();
    bench.engine.set_process_path(process, utf16, bench.now());
}

#[test]
fn the_path_told_last_is_the_processs() {
    let bench = Bench::small();
    assert_eq!(path(&bench, 4), None);
    set_path(&bench, 4, b"S\0y\0");
    set_path(&bench, 4, b"S\0y\0\0\0");
    set_path(&bench, 8, &[b'x', 0].repeat(300));
    assert_eq!(path(&bench, 4), Some((b"S\0y\0".to_vec(), false)));
    assert_eq!(path(&bench, 8), Some(([b'x', 0].repeat(260), true)));
    set_path(&bench, 8, b"z\0");
    assert_eq!(path(&bench, 8), Some((b"z\0".to_vec(), false)));
    assert_eq!(path(&bench, 9), None);
}

#[test]
fn the_process_told_longest_ago_makes_room() {
    let bench = Bench::small();
    for process in 1..=20_000_u64 {
        bench.sleep(Duration::from_nanos(1));
        set_path(&bench, process, &process.to_le_bytes());
        // One that is told again and again stays.
        set_path(&bench, 1, b"1\0");
    }
    let known: Vec<u64> = (1..=20_000)
        .filter(|&n| path(&bench, n).is_some())
        .collect();
    assert_eq!(known.len(), 1_024);
    assert!(known.contains(&1) && known.contains(&20_000));
    assert!(!known.contains(&2));
    for &process in &known[1..] {
        let zero = process.to_le_bytes();
        let told = if zero[6..] == [0, 0] {
            &zero[..6]
        } else {
            &zero[..]
        };
        assert_eq!(path(&bench, process), Some((told.to_vec(), false)));
    }
}
