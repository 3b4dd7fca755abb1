//! Cached flows: what is counted for them, when they are forgotten, how they are listed.

use std::collections::HashMap;
use std::time::Duration;

use kext_packet::TcpFlags;
use kext_types::{Direction, Event, FlowInfo, FlowOrigin, Reason, Traffic, Verdict};

use crate::common::*;

fn list(bench: &Bench) -> Vec<FlowInfo> {
    list_by(bench, usize::MAX)
}

/// Lists all flows, at most `room` in each call.
fn list_by(bench: &Bench, room: usize) -> Vec<FlowInfo> {
    let mut all = Vec::new();
    let mut cursor = 0;
    loop {
        let mut count = 0;
        cursor = bench.engine.list_flows(cursor, |flow| {
            if count == room {
                return false;
            }
            count += 1;
            all.push(*flow);
            true
        });
        if cursor == 0 {
            return all;
        }
    }
}

#[test]
fn traffic_of_held_and_cached_packets_is_counted_by_direction() {
    let bench = Bench::small();
    let begin = bench.now();
    bench.outbound(&udp(HERE, THERE, 1));
    bench.inbound(&udp_of(THERE, HERE, &[0; 100]));
    let request = bench.request();
    bench.verdict(request.id, always(Verdict::Accept));
    bench.sleep(Duration::from_secs(5));
    bench.outbound(&udp(HERE, THERE, 2));
    let expected = FlowInfo {
        flow: request.flow,
        verdict: Verdict::Accept,
        origin: FlowOrigin::Verdict,
        process_id: None,
        outbound: Traffic {
            packets: 2,
            bytes: 58,
        },
        inbound: Traffic {
            packets: 1,
            bytes: 128,
        },
        payload_outbound: 0,
        payload_inbound: 0,
        first_seen: begin,
        last_seen: bench.now(),
    };
    assert_eq!(list(&bench), [expected]);
}

#[test]
fn idle_flows_are_asked_for_again() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 1), Direction::Outbound, Verdict::Accept);
    for _ in 0..3 {
        bench.sleep(Duration::from_mins(10));
        let hit = bench.outbound(&udp(HERE, THERE, 2)).reason();
        assert_eq!(hit, Reason::PermittedCache);
    }
    bench.sleep(Duration::from_mins(10) + Duration::from_nanos(1));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 3)), End::Held(true));
    assert_eq!(bench.event(Event::FlowExpired), 1);
}

#[test]
fn an_idle_flow_cannot_be_updated() {
    let bench = Bench::small();
    let out = bench.teach(&udp(HERE, THERE, 1), Direction::Outbound, Verdict::Accept);
    bench.sleep(Duration::from_mins(11));
    let updated = bench
        .engine
        .update_verdict(&out.info.flow, Verdict::Block, bench.now());
    assert!(!updated);
}

#[test]
fn closed_tcp_flows_are_forgotten_after_a_minute() {
    let fin = TcpFlags::FIN.with(TcpFlags::ACK);
    let out = |flags| (Direction::Outbound, tcp(HERE, THERE, flags));
    let inbound = |flags| (Direction::Inbound, tcp(THERE, HERE, flags));
    for (packets, closed) in [
        (vec![out(fin), inbound(fin)], true),
        (vec![inbound(TcpFlags::RST)], true),
        (vec![out(fin), out(fin)], false),
        (vec![out(TcpFlags::ACK), inbound(TcpFlags::ACK)], false),
    ] {
        let bench = Bench::small();
        let syn = tcp(HERE, THERE, TcpFlags::SYN);
        bench.teach(&syn, Direction::Outbound, Verdict::Accept);
        for (direction, packet) in packets {
            bench.present(&packet, &arrival(direction));
        }
        bench.sleep(Duration::from_mins(1));
        let ack = tcp(HERE, THERE, TcpFlags::ACK);
        assert_eq!(bench.outbound(&ack).reason(), Reason::PermittedCache);
        bench.sleep(Duration::from_mins(1) + Duration::from_nanos(1));
        assert_eq!(bench.outbound(&ack) == End::Held(true), closed);
    }
}

#[test]
fn a_listing_shows_each_flow_once_whatever_its_steps() {
    let bench = Bench::small();
    for flow in 0..300 {
        bench.teach(&numbered(flow, 0), Direction::Outbound, Verdict::Drop);
    }
    for room in [1, 7, 300, usize::MAX] {
        let mut seen = HashMap::new();
        for flow in list_by(&bench, room) {
            *seen.entry(flow.flow.local_port).or_insert(0) += 1;
        }
        assert_eq!(seen.len(), 300);
        assert!(seen.values().all(|&times| times == 1));
    }
    bench.engine.clear_cache();
    assert!(list(&bench).is_empty());
}

#[test]
fn a_listing_from_nowhere_ends() {
    let bench = Bench::small();
    bench.teach(&numbered(0, 0), Direction::Outbound, Verdict::Drop);
    for cursor in [1 << 30, u64::MAX] {
        assert_eq!(bench.engine.list_flows(cursor, |_| panic!("a flow")), 0);
    }
}

#[test]
fn a_listing_says_why_a_flow_is_cached() {
    let bench = Bench::small();
    let first = bench.teach(&numbered(0, 0), Direction::Outbound, Verdict::Drop);
    bench
        .engine
        .update_verdict(&first.info.flow, Verdict::Accept, bench.now());
    bench.teach(&numbered(1, 0), Direction::Outbound, Verdict::RedirectDns);
    let mut origins: Vec<_> = list(&bench)
        .iter()
        .map(|flow| (flow.origin as u8, flow.verdict))
        .collect();
    origins.sort_unstable();
    assert_eq!(
        origins,
        [
            (FlowOrigin::Verdict as u8, Verdict::RedirectDns),
            (FlowOrigin::Update as u8, Verdict::Accept),
            (FlowOrigin::WayBack as u8, Verdict::RedirectDns),
        ]
    );
}

#[test]
fn a_report_has_the_traffic_since_the_last_one() {
    let bench = Bench::small();
    let report = |room: usize| {
        let mut all = HashMap::new();
        bench.engine.report_traffic(|flow, bytes| {
            if all.len() == room {
                return false;
            }
            let twice = all.insert(flow.local_port, bytes);
            assert_eq!(twice, None);
            true
        });
        all
    };
    for flow in 0..50 {
        bench.teach(&numbered(flow, 0), Direction::Outbound, Verdict::Accept);
    }
    // What finds no room comes with the next report.
    let mut all = report(30);
    assert_eq!(all.len(), 30);
    all.extend(report(30));
    assert_eq!(all.len(), 50);
    assert!(all.values().all(|&bytes| bytes == [29, 0]));
    assert!(report(30).is_empty());
    bench.outbound(&numbered(3, 1));
    bench.outbound(&numbered(3, 1));
    bench.inbound(&udp(THERE, "192.0.2.10:10003", 1));
    assert_eq!(report(30), HashMap::from([(10_003, [58, 29])]));
    assert!(report(30).is_empty());
}

#[test]
fn a_new_connection_opens_a_closed_flow_again() {
    let bench = Bench::small();
    let syn = tcp(HERE, THERE, TcpFlags::SYN);
    bench.teach(&syn, Direction::Outbound, Verdict::Accept);
    bench.inbound(&tcp(THERE, HERE, TcpFlags::RST));
    bench.outbound(&syn);
    bench.sleep(Duration::from_mins(5));
    let ack = tcp(HERE, THERE, TcpFlags::ACK);
    assert_eq!(bench.outbound(&ack).reason(), Reason::PermittedCache);
}
