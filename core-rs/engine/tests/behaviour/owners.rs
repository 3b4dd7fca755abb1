//! Processes that are told apart from the packets, and connections that are told to have ended.

use std::time::Duration;

use kext_packet::{Headers, TcpFlags};
use kext_types::{Direction, FlowEnd, FlowKey, ProcessId, Reason, Verdict};

use crate::common::*;

const OWNER: ProcessId = ProcessId::new(4_711).unwrap();
const OTHER: ProcessId = ProcessId::new(4_712).unwrap();

fn flow_of(packet: &[u8]) -> FlowKey {
    let headers = Headers::parse(packet, packet.len()).unwrap();
    headers.flow_key(Direction::Outbound)
}

/// The process of the only cached flow.
fn cached_owner(bench: &Bench) -> Option<ProcessId> {
    let mut owners = Vec::new();
    bench.engine.list_flows(0, |flow| {
        owners.push(flow.process_id);
        true
    });
    assert_eq!(owners.len(), 1);
    owners[0]
}

#[test]
fn what_was_told_before_the_first_packet_comes_with_its_request() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.outbound(&packet);
    let request = bench.request();
    assert_eq!(request.arrival.process_id, Some(OWNER));
    bench.verdict(request.id, always(Verdict::Accept));
    assert_eq!(cached_owner(&bench), Some(OWNER));
    // Other flows have nothing of it.
    bench.outbound(&udp(HERE, "198.51.100.99:9", 0));
    assert_eq!(bench.request().arrival.process_id, None);
}

#[test]
fn what_is_told_later_stands_with_the_cached_flow() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    assert_eq!(cached_owner(&bench), None);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    assert_eq!(cached_owner(&bench), Some(OWNER));
}

#[test]
fn the_packets_own_process_comes_first() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    let own = ProcessId::new(7);
    let arrival = kext_types::Arrival {
        process_id: own,
        ..arrival(Direction::Outbound)
    };
    bench.present(&packet, &arrival);
    assert_eq!(bench.request().arrival.process_id, own);
}

#[test]
fn the_oldest_owners_make_room() {
    let bench = Bench::small();
    for flow in 0..20_000 {
        bench.sleep(Duration::from_nanos(1));
        bench
            .engine
            .set_owner(&flow_of(&numbered(flow, 0)), OWNER, bench.now());
    }
    bench.outbound(&numbered(19_999, 0));
    assert_eq!(bench.request().arrival.process_id, Some(OWNER));
    bench.outbound(&numbered(0, 0));
    assert_eq!(bench.request().arrival.process_id, None);
}

#[test]
fn a_connection_that_has_ended_is_closed_and_its_owner_forgotten() {
    let bench = Bench::small();
    let syn = tcp(HERE, THERE, TcpFlags::SYN);
    bench.engine.set_owner(&flow_of(&syn), OWNER, bench.now());
    bench.teach(&syn, Direction::Outbound, Verdict::Accept);
    bench.engine.keep_events(true);
    bench.engine.end_flow(&flow_of(&syn));
    // Its last packets still pass.
    let ack = tcp(HERE, THERE, TcpFlags::ACK);
    assert_eq!(bench.outbound(&ack).reason(), Reason::PermittedCache);
    bench.sleep(Duration::from_secs(61));
    assert_eq!(bench.outbound(&ack), End::Held(true));
    assert_eq!(bench.engine.next_event().unwrap().end, FlowEnd::Closed);
    assert_eq!(bench.request().arrival.process_id, None);
}

#[test]
fn owner_told_while_the_flow_waits_stands_with_the_cached_flow() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.outbound(&packet);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(cached_owner(&bench), Some(OWNER));
}

#[test]
fn owner_told_while_the_flow_waits_comes_with_a_request_raised_later() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.outbound(&packet);
    bench.outbound(&udp(HERE, THERE, 1));
    let first = bench.request();
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.verdict(first.id, once(Verdict::Accept));
    assert_eq!(bench.request().arrival.process_id, Some(OWNER));
}

#[test]
fn owner_told_of_an_idle_flow_comes_with_the_request_of_the_next() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    bench.sleep(Duration::from_mins(11));
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.outbound(&packet);
    assert_eq!(bench.request().arrival.process_id, Some(OWNER));
}

#[test]
fn owner_told_of_a_cached_flow_comes_with_the_request_after_a_clear() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.engine.clear_cache();
    bench.outbound(&packet);
    assert_eq!(bench.request().arrival.process_id, Some(OWNER));
}

#[test]
fn an_older_owner_is_never_told_after_a_newer_one() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench
        .engine
        .set_owner(&flow_of(&packet), OTHER, bench.now());
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    assert_eq!(cached_owner(&bench), Some(OWNER));
    bench.engine.clear_cache();
    bench.outbound(&packet);
    assert_ne!(bench.request().arrival.process_id, Some(OTHER));
}

#[test]
fn an_end_told_while_the_flow_waits_does_not_lose_its_owner() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 0);
    bench
        .engine
        .set_owner(&flow_of(&packet), OWNER, bench.now());
    bench.outbound(&packet);
    let first = bench.request();
    bench.engine.end_flow(&flow_of(&packet));
    bench.outbound(&udp(HERE, THERE, 1));
    bench.verdict(first.id, once(Verdict::Accept));
    assert_eq!(bench.request().arrival.process_id, Some(OWNER));
}
