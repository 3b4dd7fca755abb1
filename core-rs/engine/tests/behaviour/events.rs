//! Flows that leave the verdict cache are told of, to who asks.

use std::time::Duration;

use kext_packet::TcpFlags;
use kext_types::{Direction, Event, FlowEnd, Verdict};

use crate::common::*;

fn ends(bench: &Bench) -> Vec<(u16, FlowEnd)> {
    std::iter::from_fn(|| bench.engine.next_event())
        .map(|event| (event.flow.flow.local_port, event.end))
        .collect()
}

fn teach(bench: &Bench, flow: u16) {
    bench.teach(&numbered(flow, 1), Direction::Outbound, Verdict::Accept);
}

#[test]
fn an_ended_flow_says_why_and_what_it_was() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    teach(&bench, 0);
    bench.outbound(&numbered(0, 2));
    bench.sleep(Duration::from_secs(601));
    assert_eq!(bench.outbound(&numbered(0, 3)), End::Held(true));
    let event = bench.engine.next_event().unwrap();
    assert_eq!(event.end, FlowEnd::Idle);
    assert_eq!(event.flow.verdict, Verdict::Accept);
    assert_eq!(event.flow.outbound.packets, 2);
    let reset = tcp(HERE, THERE, TcpFlags::RST);
    bench.request();
    bench.teach(&reset, Direction::Outbound, Verdict::Accept);
    bench.sleep(Duration::from_secs(61));
    bench.outbound(&reset);
    assert_eq!(ends(&bench), [(40_000, FlowEnd::Closed)]);
}

#[test]
fn cleared_flows_are_told_of_when_their_place_is_met() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    teach(&bench, 0);
    bench.engine.clear_cache();
    assert_eq!(ends(&bench), []);
    bench.outbound(&numbered(0, 2));
    assert_eq!(ends(&bench), [(10_000, FlowEnd::Cleared)]);
}

#[test]
fn a_flow_that_makes_room_is_told_of_whole() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    let mut evicted = 0;
    for flow in 0..1_200 {
        bench.sleep(Duration::from_millis(1));
        teach(&bench, flow);
        while let Some(event) = bench.engine.next_event() {
            assert_eq!(event.end, FlowEnd::Evicted);
            assert_ne!(event.flow.flow.local_port, 10_000 + flow);
            assert_eq!(event.flow.verdict, Verdict::Accept);
            assert_eq!(event.flow.outbound.packets, 1);
            evicted += 1;
        }
    }
    assert!(evicted > 0);
    assert_eq!(evicted, bench.event(Event::FlowEvicted));
}

#[test]
fn events_are_off_until_asked_for_and_lost_rather_than_waited_for() {
    let bench = Bench::small();
    for keep in [false, true] {
        bench.engine.keep_events(keep);
        for flow in 0..8_000 {
            bench.sleep(Duration::from_micros(1));
            bench.teach(&numbered(flow, 1), Direction::Outbound, Verdict::Drop);
            if !keep {
                assert_eq!(bench.engine.waiting_and_lost_events(), (0, 0));
            }
        }
        bench.engine.clear_cache();
    }
    let (waiting, lost) = bench.engine.waiting_and_lost_events();
    assert_eq!(waiting, 1_024);
    assert!(lost > 1_000, "{lost}");
    let ends = ends(&bench);
    assert_eq!(ends.len(), 1_024);
    assert!(ends.iter().any(|(_, end)| *end == FlowEnd::Evicted) || lost > 5_000);
    bench.engine.keep_events(false);
    assert_eq!(bench.engine.waiting_and_lost_events().0, 0);
}

/// It ended by time, whatever flow takes its place, and says nothing about the size of the cache.
#[test]
fn an_idle_flow_that_makes_room_is_told_of_as_idle() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    for flow in 0..4_000 {
        teach(&bench, flow);
    }
    let reset = tcp(HERE, THERE, TcpFlags::RST);
    bench.teach(&reset, Direction::Outbound, Verdict::Accept);
    while bench.engine.next_event().is_some() {}
    let (expired, evicted) = (
        bench.event(Event::FlowExpired),
        bench.event(Event::FlowEvicted),
    );
    bench.sleep(Duration::from_secs(601));
    let mut told = Vec::new();
    for flow in 4_000..6_000 {
        teach(&bench, flow);
        told.extend(ends(&bench).into_iter().map(|(_, end)| end));
    }
    let count = |end| told.iter().filter(|told| **told == end).count() as u64;
    let (idle, closed) = (count(FlowEnd::Idle), count(FlowEnd::Closed));
    assert_eq!(idle + closed, 1_024, "all of before");
    assert_eq!(closed, 1);
    // Those of now, in full buckets.
    assert_eq!(count(FlowEnd::Evicted), 2_000 - 1_024);
    assert_eq!(bench.event(Event::FlowExpired) - expired, 1_024);
    assert_eq!(bench.event(Event::FlowEvicted) - evicted, 2_000 - 1_024);
}
