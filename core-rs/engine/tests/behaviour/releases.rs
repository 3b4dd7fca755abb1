//! Packets on their way out: order while others arrive, and releases that are not finished.

use kext_types::{Event, Reason, Verdict};

use crate::common::*;

/// Holds packets of a flow and gives it a verdict whose releases nobody asks for.
fn decide_and_drop(bench: &Bench, flow: u16, marks: std::ops::RangeInclusive<u8>) {
    for mark in marks {
        bench.outbound(&numbered(flow, mark));
    }
    let id = bench.request().id;
    let now = bench.now();
    drop(
        bench
            .engine
            .decide(id, always(Verdict::Accept), now)
            .unwrap(),
    );
}

#[test]
fn what_a_dropped_release_leaves_is_finished_by_the_tick_in_order() {
    let bench = Bench::small();
    decide_and_drop(&bench, 0, 1..=3);
    bench.assert_balanced(3);
    // It joins the others, though nobody lets them go right now.
    assert_eq!(bench.outbound(&numbered(0, 4)), End::Held(false));
    let out = bench.tick();
    assert_eq!(marks(&out), [1, 2, 3, 4]);
    assert_eq!(reasons(&out), [Reason::PermittedVerdict; 4]);
    assert_eq!(
        bench.outbound(&numbered(0, 5)).reason(),
        Reason::PermittedCache
    );
    bench.assert_balanced(0);
}

#[test]
fn a_packet_taken_and_never_asked_for_is_counted_and_the_next_asks() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    bench.outbound(&udp(HERE, THERE, 2));
    let id = bench.request().id;
    drop(
        bench
            .engine
            .decide(id, once(Verdict::Accept), bench.now())
            .unwrap(),
    );
    assert_eq!(bench.reason(Reason::DroppedUnsettled), 1);
    let totals = bench.engine.counters().totals();
    assert!(totals.balanced());
    assert_eq!(totals.held, 1);
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [2]);
}

#[test]
fn packets_that_come_while_others_go_stay_behind_them() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    bench.outbound(&udp(HERE, THERE, 2));
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    let mut late = 3;
    let out = drain_then(releases, |_| {
        if late <= 5 {
            assert_eq!(bench.outbound(&udp(HERE, THERE, late)), End::Held(false));
            late += 1;
        }
    });
    assert_eq!(marks(&out), [1, 2, 3, 4, 5]);
    assert_eq!(bench.event(Event::Requests), 1);
    bench.assert_balanced(0);
}

/// A flow that fills as fast as it empties: the verdict's caller comes back, the tick goes on.
#[test]
fn a_drain_longer_than_its_budget_is_finished_by_the_tick_in_order() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 0));
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    let mut next = 1;
    let mut out = drain_then(releases, |_| {
        bench.outbound(&udp(HERE, THERE, next));
        next += 1;
    });
    assert_eq!(out.len(), 16, "twice the flow's packets");
    bench.assert_balanced(1);
    out.extend(bench.tick());
    let expected: Vec<u8> = (0..17).collect();
    assert_eq!(marks(&out), expected);
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 99)).reason(),
        Reason::PermittedCache
    );
    bench.assert_balanced(0);
}

#[test]
fn a_flow_that_never_empties_does_not_keep_the_tick_from_others() {
    let bench = Bench::small();
    decide_and_drop(&bench, 0, 1..=2);
    decide_and_drop(&bench, 1, 3..=4);
    let mut others = 0;
    // Whichever goes first is filled again all the time, and must then wait for its turn.
    let first = bench.engine.tick(bench.now()).unwrap();
    let mut busy = None;
    drain_then(first, |out| {
        busy = Some(out.info.flow.local_port);
        bench.outbound(&numbered(out.info.flow.local_port - 10_000, 9));
    });
    let second = bench.engine.tick(bench.now()).unwrap();
    for out in drain(second) {
        others += u32::from(Some(out.info.flow.local_port) != busy);
    }
    assert_eq!(others, 2);
}

#[test]
fn several_unfinished_flows_survive_the_end_of_their_reader() {
    let bench = Bench::small();
    for flow in 0..4 {
        decide_and_drop(&bench, flow, 1..=2);
    }
    let mut out = bench.abandon();
    out.extend(bench.tick());
    assert_eq!(reasons(&out), [Reason::PermittedVerdict; 8]);
    bench.assert_balanced(0);
    for flow in 0..4 {
        let next = bench.outbound(&numbered(flow, 3)).reason();
        assert_eq!(next, Reason::PermittedCache, "flow {flow}");
    }
}

/// The list of unfinished flows must not be led astray by one that was finished elsewhere.
#[test]
fn a_flow_left_twice_does_not_lose_the_others() {
    let bench = Bench::small();
    decide_and_drop(&bench, 0, 1..=3);
    decide_and_drop(&bench, 1, 1..=3);
    bench.engine.set_reader(false);
    // Left again, after one packet.
    for _ in 0..2 {
        if let Some(mut releases) = bench.engine.settle_abandoned() {
            let release = releases.next(|len| Some(vec![0; len])).unwrap();
            release.settled.obligation.end(Reason::PermittedVerdict);
        }
    }
    bench.engine.set_reader(true);
    assert_eq!(bench.tick().len(), 4);
    bench.assert_balanced(0);
    for flow in 0..2 {
        let next = bench.outbound(&numbered(flow, 3)).reason();
        assert_eq!(next, Reason::PermittedCache, "flow {flow}");
    }
}

#[test]
fn nobody_else_lets_a_flows_next_packet_go_before_the_first_has_gone() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    bench.outbound(&udp(HERE, THERE, 2));
    let id = bench.request().id;
    let mut first = bench
        .engine
        .decide(id, once(Verdict::Accept), bench.now())
        .unwrap();
    // Its packet is on its way: it has not been let go until the next one is asked for.
    let release = first.next(|len| Some(vec![0; len])).unwrap();
    bench.sleep(std::time::Duration::from_secs(31));
    assert!(bench.tick().is_empty());
    release.settled.obligation.end(Reason::PermittedVerdict);
    assert!(drain(first).is_empty());
    assert_eq!(marks(&bench.tick()), [2]);
    bench.assert_balanced(0);
}

#[test]
fn a_verdict_for_good_during_a_release_is_carried_out_by_it() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    for mark in 1..=3 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let ids = [(); 3].map(|()| bench.request().id);
    let now = bench.now();
    let first = bench
        .engine
        .decide(ids[0], once(Verdict::Drop), now)
        .unwrap();
    assert!(bench.verdict(ids[1], always(Verdict::Accept)).is_empty());
    let out = drain(first);
    assert_eq!(
        reasons(&out),
        [
            Reason::DroppedVerdict,
            Reason::PermittedVerdict,
            Reason::PermittedVerdict
        ]
    );
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 4)).reason(),
        Reason::PermittedCache
    );
    bench.assert_balanced(0);
}

#[test]
fn a_verdict_for_good_during_a_dropped_release_is_carried_out_by_the_tick() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    for mark in 1..=3 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let ids = [(); 3].map(|()| bench.request().id);
    let now = bench.now();
    let mut first = bench
        .engine
        .decide(ids[0], once(Verdict::Accept), now)
        .unwrap();
    let release = first.next(|len| Some(vec![0; len])).unwrap();
    release.settled.obligation.end(Reason::PermittedVerdict);
    assert!(bench.verdict(ids[1], always(Verdict::Accept)).is_empty());
    drop(first);
    assert_eq!(marks(&bench.tick()), [2, 3]);
    bench.assert_balanced(0);
}

#[test]
fn a_decided_flow_lets_packets_go_by_its_verdict_when_the_hold_limit_comes() {
    let bench = Bench::with(|config| config.hold_limit = kext_types::Policy::Block);
    decide_and_drop(&bench, 0, 1..=2);
    bench.sleep(std::time::Duration::from_mins(1));
    assert_eq!(reasons(&bench.tick()), [Reason::PermittedVerdict; 2]);
}

#[test]
fn an_evicted_packet_of_an_unfinished_flow_ends_once() {
    let bench = Bench::small();
    decide_and_drop(&bench, 0, 1..=2);
    let ids: Vec<_> = (1..=16)
        .map(|flow| {
            bench.outbound(&numbered(flow, 0));
            bench.request().id
        })
        .collect();
    bench.assert_balanced(16);
    assert_eq!(bench.reason(Reason::DroppedPacketCacheFull), 2);
    assert!(bench.tick().is_empty());
    assert_eq!(
        bench.outbound(&numbered(0, 3)).reason(),
        Reason::PermittedCache
    );
    assert_eq!(bench.engine.look(ids[0], |_| ()), Ok(()));
}

#[test]
fn a_flow_asks_again_only_after_its_packet_has_gone() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let id = bench.request().id;
    let now = bench.now();
    let mut first = bench.engine.decide(id, once(Verdict::Accept), now).unwrap();
    let release = first.next(|len| Some(vec![0; len])).unwrap();
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(false));
    assert_eq!(bench.try_request(), None);
    release.settled.obligation.end(Reason::PermittedVerdict);
    assert!(drain(first).is_empty());
    assert_eq!(
        marks(&bench.verdict(bench.request().id, always(Verdict::Accept))),
        [2]
    );
}

#[test]
fn packets_that_join_a_decided_flow_are_not_asked_for() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    bench.outbound(&udp(HERE, THERE, 1));
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(false));
    assert_eq!(bench.engine.queued_requests(), 0);
    assert_eq!(marks(&drain(releases)), [1, 2]);
}

#[test]
fn of_two_releases_the_last_one_goes_on_with_the_flow() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    for mark in 1..=4 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let ids = [(); 3].map(|()| bench.request().id);
    let decide = |id, decision| bench.engine.decide(id, decision, bench.now()).unwrap();
    let mut first = decide(ids[0], once(Verdict::Accept));
    let second = decide(ids[1], once(Verdict::Accept));
    let release = first.next(|len| Some(vec![0; len])).unwrap();
    release.settled.obligation.end(Reason::PermittedVerdict);
    assert!(drain(decide(ids[2], always(Verdict::Accept))).is_empty());
    drop(first);
    assert_eq!(marks(&drain(second)), [2, 3, 4]);
    assert!(bench.tick().is_empty());
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 5)).reason(),
        Reason::PermittedCache
    );
    bench.assert_balanced(0);
}
