//! Nobody reads, the reader goes away, and packets that were held for too long.

use std::time::Duration;

use kext_types::{Direction, Event, Policy, Reason, Verdict, VerdictOutcome};

use crate::common::*;

#[test]
fn nobody_reads() {
    for (policy, expected) in [
        (Policy::Permit, Reason::PermittedNoReader),
        (Policy::Block, Reason::BlockedNoReader),
    ] {
        let bench = Bench::with(|config| config.no_reader = policy);
        bench.teach(&numbered(0, 1), Direction::Outbound, Verdict::Drop);
        bench.engine.set_reader(false);
        assert_eq!(bench.outbound(&numbered(1, 2)).reason(), expected);
        // What is cached still counts.
        assert_eq!(
            bench.outbound(&numbered(0, 3)).reason(),
            Reason::DroppedCache
        );
        assert_eq!(bench.event(Event::Requests), 1);
        bench.assert_balanced(0);
    }
}

#[test]
fn a_reader_that_leaves_leaves_its_packets_to_the_policy() {
    for (policy, expected) in [
        (Policy::Permit, Reason::PermittedNoReader),
        (Policy::Block, Reason::BlockedNoReader),
    ] {
        let bench = Bench::with(|config| config.no_reader = policy);
        for mark in 1..=3 {
            bench.outbound(&udp(HERE, THERE, mark));
        }
        bench.outbound(&numbered(0, 4));
        let asked = bench.request().id;
        let out = bench.abandon();
        assert_eq!(marks(&out), [1, 2, 3, 4]);
        assert_eq!(reasons(&out), [expected; 4]);
        bench.assert_balanced(0);
        let late = bench.decide(asked, always(Verdict::Accept)).unwrap_err();
        assert_eq!(late, not_held(VerdictOutcome::Abandoned));
        assert_eq!(bench.event(Event::VerdictTooLate), 1);
        assert_eq!(bench.event(Event::Requests), 2, "nobody to ask");
        assert_eq!(bench.engine.queued_requests(), 0);
    }
}

#[test]
fn what_a_reader_left_is_settled_by_the_tick_at_the_latest() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    bench.outbound(&numbered(0, 2));
    bench.engine.set_reader(false);
    let out = bench.tick();
    assert_eq!(reasons(&out), [Reason::PermittedNoReader; 2]);
    bench.assert_balanced(0);
}

/// Its requests were taken by one who is gone: nobody would ever answer them.
#[test]
fn what_a_reader_left_is_settled_although_another_comes_at_once() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    let asked = bench.request();
    bench.engine.set_reader(false);
    bench.engine.set_reader(true);
    bench.outbound(&numbered(1, 2));
    let out = bench.tick();
    assert_eq!(reasons(&out), [Reason::PermittedNoReader]);
    assert_eq!(out[0].info.id, asked.id);
    bench.assert_balanced(1);
    assert_eq!(bench.request().flow.local_port, 10_001);
}

#[test]
fn settling_is_for_what_nobody_reads_only() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    assert!(bench.engine.settle_abandoned().is_none());
    bench.assert_balanced(1);
}

#[test]
fn a_decided_flow_keeps_its_order_when_the_reader_leaves_while_it_goes() {
    let bench = Bench::with(|config| config.no_reader = Policy::Block);
    bench.outbound(&udp(HERE, THERE, 1));
    bench.outbound(&udp(HERE, THERE, 2));
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    bench.engine.set_reader(false);
    assert_eq!(bench.outbound(&udp(HERE, THERE, 3)), End::Held(false));
    assert_eq!(marks(&drain(releases)), [1, 2, 3]);
    bench.assert_balanced(0);
}

#[test]
fn the_hold_limit_ends_a_wait() {
    for (policy, expected) in [
        (Policy::Permit, Reason::PermittedHoldLimit),
        (Policy::Block, Reason::BlockedHoldLimit),
    ] {
        let bench = Bench::with(|config| config.hold_limit = policy);
        bench.outbound(&udp(HERE, THERE, 1));
        let id = bench.request().id;
        bench.sleep(Duration::from_secs(10));
        bench.outbound(&udp(HERE, THERE, 2));
        bench.sleep(Duration::from_secs(20).saturating_sub(Duration::from_nanos(1)));
        assert!(bench.tick().is_empty());
        bench.sleep(Duration::from_nanos(1));
        let out = bench.tick();
        assert_eq!(marks(&out), [1]);
        assert_eq!(reasons(&out), [expected]);
        let late = bench.decide(id, always(Verdict::Accept)).unwrap_err();
        assert_eq!(late, not_held(VerdictOutcome::Expired));
        // The next one asks for itself, and has its own time.
        let next = bench.request();
        assert!(bench.tick().is_empty());
        assert_eq!(marks(&bench.verdict(next.id, always(Verdict::Accept))), [2]);
        bench.assert_balanced(0);
    }
}

#[test]
fn a_new_hold_limit_counts_for_packets_that_are_held() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    bench.sleep(Duration::from_secs(1));
    let mut config = bench.engine.config();
    config.hold_limit_ms = 1_000;
    bench.engine.set_config(config).unwrap();
    assert_eq!(bench.tick().len(), 1);
}

/// Nobody could answer in time, however quick.
#[test]
fn packets_that_expire_together_raise_no_requests_on_their_way() {
    let bench = Bench::small();
    for mark in 1..=5 {
        bench.outbound(&numbered(0, mark));
    }
    bench.request();
    bench.sleep(Duration::from_secs(10));
    bench.outbound(&numbered(0, 6));
    bench.sleep(Duration::from_secs(20));
    assert_eq!(marks(&bench.tick()), [1, 2, 3, 4, 5]);
    assert_eq!(bench.event(Event::Requests), 2, "the first and the sixth");
    assert_eq!(bench.request().flow.local_port, 10_000);
    bench.assert_balanced(1);
}

#[test]
fn a_packet_that_comes_after_the_reader_left_does_not_overtake_those_held() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    bench.outbound(&numbered(0, 2));
    bench.engine.set_reader(false);
    assert_eq!(bench.outbound(&numbered(0, 3)), End::Held(false));
    let reason = bench.outbound(&numbered(1, 4)).reason();
    assert_eq!(reason, Reason::PermittedNoReader, "another flow goes");
    // A new reader is not asked about them either.
    bench.engine.set_reader(true);
    assert_eq!(bench.outbound(&numbered(0, 5)), End::Held(false));
    let out = bench.tick();
    assert_eq!(marks(&out), [1, 2, 3]);
    assert_eq!(reasons(&out), [Reason::PermittedNoReader; 3]);
    assert_eq!(bench.event(Event::Requests), 2);
    let gone = bench.request().id;
    let outcome = bench.decide(gone, always(Verdict::Accept));
    assert_eq!(marks(&outcome.unwrap()), [5]);
    bench.assert_balanced(0);
}
