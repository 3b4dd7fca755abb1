//! Pending flows, verdicts for one packet and for good, and ids.

use kext_engine::{Action, NotHeld};
use kext_types::{
    Capacities, Config, Decision, Direction, Event, PacketId, Reason, Verdict, VerdictOutcome,
};

use crate::common::*;

#[test]
fn each_verdict_decides_held_packets_and_then_hits() {
    let cases = [
        (
            Verdict::Accept,
            Reason::PermittedVerdict,
            Reason::PermittedCache,
        ),
        (Verdict::Block, Reason::BlockedVerdict, Reason::BlockedCache),
        (Verdict::Drop, Reason::DroppedVerdict, Reason::DroppedCache),
        (
            Verdict::RedirectDns,
            Reason::RedirectedVerdict,
            Reason::RedirectedCache,
        ),
        (
            Verdict::RedirectTunnel,
            Reason::RedirectedVerdict,
            Reason::RedirectedCache,
        ),
    ];
    for (verdict, held, cached) in cases {
        let bench = Bench::small();
        let out = bench.teach(&udp(HERE, THERE, 1), Direction::Outbound, verdict);
        assert_eq!(out.reason(), held);
        assert_eq!(out.bytes.is_some(), verdict != Verdict::Drop);
        assert_eq!(bench.outbound(&udp(HERE, THERE, 2)).reason(), cached);
        assert_eq!(bench.event(Event::Requests), 1);
        bench.assert_balanced(0);
    }
}

#[test]
fn an_action_does_what_the_verdict_says() {
    for (verdict, action) in [
        (Verdict::Accept, Action::Permit(Reason::PermittedCache)),
        (Verdict::Block, Action::Block(Reason::BlockedCache)),
        (Verdict::Drop, Action::Drop(Reason::DroppedCache)),
    ] {
        let bench = Bench::small();
        bench.teach(&udp(HERE, THERE, 1), Direction::Outbound, verdict);
        assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Ended(action));
        // Both directions are one flow.
        assert_eq!(bench.inbound(&udp(THERE, HERE, 3)), End::Ended(action));
    }
}

#[test]
fn a_pending_flow_asks_once_and_goes_in_order_of_arrival() {
    let bench = Bench::small();
    assert_eq!(bench.outbound(&udp(HERE, THERE, 1)), End::Held(true));
    assert_eq!(bench.inbound(&udp(THERE, HERE, 2)), End::Held(false));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 3)), End::Held(false));
    bench.assert_balanced(3);
    let request = bench.request();
    assert_eq!(bench.try_request(), None);
    let out = bench.verdict(request.id, always(Verdict::Accept));
    assert_eq!(marks(&out), [1, 2, 3]);
    assert_eq!(reasons(&out), [Reason::PermittedVerdict; 3]);
    let cached = bench.outbound(&udp(HERE, THERE, 4)).reason();
    assert_eq!(cached, Reason::PermittedCache);
    bench.assert_balanced(0);
}

#[test]
fn a_request_says_what_the_host_said() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 7);
    let padded = [packet.as_slice(), &[0; 6]].concat();
    bench.outbound(&padded);
    let request = bench.request();
    assert_eq!(request.size as usize, packet.len());
    assert_eq!(request.held_len, request.size);
    assert_eq!(request.time, bench.now());
    assert_eq!(request.arrival, arrival(Direction::Outbound));
    assert_eq!(
        (request.flow.local_port, request.flow.remote_port),
        (40_000, 443)
    );
    let mut bytes = [0; 99];
    let copied = bench
        .engine
        .look(request.id, |held| held.copy_to(&mut bytes));
    assert_eq!(copied, Ok(packet.len()));
    assert_eq!(&bytes[..packet.len()], packet);
}

#[test]
fn a_request_that_the_reader_refuses_stays_first() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    bench.outbound(&numbered(1, 2));
    let refused = bench.engine.deliver(|_| None::<()>);
    assert_eq!(refused, kext_engine::Delivery::Refused);
    assert_eq!(bench.engine.queued_requests(), 2);
    assert_eq!(bench.request().flow.local_port, 10_000);
}

#[test]
fn a_verdict_for_one_packet_lets_the_next_ask_for_itself() {
    let bench = Bench::small();
    for mark in 1..=3 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let mut seen = Vec::new();
    for verdict in [Verdict::Accept, Verdict::Block, Verdict::Accept] {
        let request = bench.request();
        assert_eq!(bench.try_request(), None, "one request at a time");
        seen.extend(marks(&bench.verdict(request.id, once(verdict))));
    }
    assert_eq!(seen, [1, 2, 3]);
    assert_eq!(bench.event(Event::Requests), 3);
    assert_eq!(bench.event(Event::FlowCached), 0);
    assert_eq!(bench.reason(Reason::BlockedVerdict), 1);
    // Nothing is known of the flow now.
    assert_eq!(bench.outbound(&udp(HERE, THERE, 4)), End::Held(true));
    bench.assert_balanced(1);
}

#[test]
fn a_verdict_for_good_after_one_for_a_packet_takes_the_rest() {
    let bench = Bench::small();
    for mark in 1..=4 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    bench.verdict(bench.request().id, once(Verdict::Drop));
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [2, 3, 4]);
}

#[test]
fn the_switch_asks_for_each_packet() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    for mark in 1..=3 {
        assert_eq!(bench.outbound(&udp(HERE, THERE, mark)), End::Held(true));
    }
    let ids = [(); 3].map(|()| bench.request().id);
    assert_eq!(marks(&bench.verdict(ids[0], once(Verdict::Accept))), [1]);
    assert_eq!(bench.engine.queued_requests(), 0, "the next was asked for");
    let out = bench.verdict(ids[2], always(Verdict::Accept));
    assert_eq!(marks(&out), [2, 3]);
    let first = Decision::number(always(Verdict::Accept));
    let late = bench.decide(ids[1], once(Verdict::Block)).unwrap_err();
    let outcome = VerdictOutcome::AlreadyDecided;
    assert_eq!(late, NotHeld { outcome, first });
    assert_eq!(bench.event(Event::Requests), 3);
}

#[test]
fn a_second_verdict_is_told_the_first() {
    let bench = Bench::small();
    for decision in [once(Verdict::Block), always(Verdict::Drop)] {
        bench.outbound(&udp(HERE, THERE, 1));
        let id = bench.request().id;
        bench.verdict(id, decision);
        let late = bench.decide(id, always(Verdict::Accept)).unwrap_err();
        assert_eq!(late.outcome, VerdictOutcome::AlreadyDecided);
        assert_eq!(late.first, decision.number());
        assert_eq!(bench.engine.resolve_v1(id.v1()), Err(late));
    }
    assert_eq!(bench.event(Event::VerdictAlreadyDecided), 2);
    assert_eq!(bench.event(Event::VerdictApplied), 2);
}

#[test]
fn a_second_verdict_while_the_first_is_carried_out_finds_it_decided() {
    let bench = Bench::small();
    for mark in 1..=2 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    let second = bench.decide(id, always(Verdict::Block)).unwrap_err();
    assert_eq!(second.outcome, VerdictOutcome::AlreadyDecided);
    assert_eq!(second.first, always(Verdict::Accept).number());
    assert_eq!(reasons(&drain(releases)), [Reason::PermittedVerdict; 2]);
}

#[test]
fn ids_that_name_nothing_are_unknown() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let unknown = not_held(VerdictOutcome::UnknownId);
    for number in [1, 16, 17 + (1 << 40), u64::MAX] {
        let id = PacketId::new(number).unwrap();
        if Ok(id) == bench.engine.resolve_v1(id.v1()) {
            continue;
        }
        let decided = bench.decide(id, always(Verdict::Accept));
        assert_eq!(decided.unwrap_err(), unknown, "{number}");
        assert_eq!(bench.engine.look(id, |_| ()), Err(unknown));
    }
    assert_eq!(bench.engine.resolve_v1(0), Err(unknown));
    assert!(bench.event(Event::VerdictUnknownId) >= 3);
    bench.assert_balanced(1);
}

#[test]
fn an_id_is_known_by_its_low_bits_alone_only_in_v1() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let id = bench.request().id;
    assert_eq!(bench.engine.resolve_v1(id.v1()), Ok(id));
    let other = PacketId::new(id.get() + (1 << 32)).unwrap();
    let outcome = bench.decide(other, always(Verdict::Accept)).unwrap_err();
    assert_eq!(outcome.outcome, VerdictOutcome::UnknownId);
}

/// With 16 bits of slot the v1 name has 16 bits of sequence: it wraps after 65,536 packets.
#[test]
fn v1_names_are_right_around_their_wrap() {
    let capacities = Capacities {
        packets: 1 << 16,
        ..SMALL
    };
    let bench = Bench::new(capacities, Config::default());
    let mut ids = std::collections::HashSet::new();
    let mut last = 0;
    for round in 0..66_000_u32 {
        assert_eq!(bench.outbound(&udp(HERE, THERE, 1)), End::Held(true));
        let id = bench.request().id;
        assert!(
            id.get() > last || id.get() & 0xffff != last & 0xffff,
            "{round}"
        );
        assert!(ids.insert(id), "an id was given twice");
        assert_ne!(id.v1(), 0);
        assert_eq!(bench.engine.resolve_v1(id.v1()), Ok(id));
        last = id.get();
        bench.verdict(id, once(Verdict::Accept));
        let ended = bench.engine.resolve_v1(id.v1()).unwrap_err();
        assert_eq!(
            ended.outcome,
            VerdictOutcome::AlreadyDecided,
            "packet {round}"
        );
    }
    assert!(
        last > u64::from(u32::MAX),
        "the test did not come to the wrap"
    );
}

#[test]
fn clearing_forgets_flows_and_keeps_packets() {
    let bench = Bench::small();
    bench.teach(&numbered(0, 1), Direction::Outbound, Verdict::Block);
    bench.outbound(&numbered(1, 2));
    bench.engine.clear_cache();
    assert_eq!(bench.event(Event::CacheCleared), 1);
    bench.assert_balanced(1);
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [2]);
    assert_eq!(
        bench.outbound(&numbered(1, 3)).reason(),
        Reason::PermittedCache
    );
    assert_eq!(bench.outbound(&numbered(0, 4)), End::Held(true));
}

#[test]
fn clearing_forgets_a_verdict_that_is_being_carried_out() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let id = bench.request().id;
    let now = bench.now();
    let releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    bench.engine.clear_cache();
    assert_eq!(marks(&drain(releases)), [1]);
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(true));
    assert_eq!(bench.event(Event::FlowCached), 0);
}

#[test]
fn an_update_replaces_a_cached_verdict_only() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let request = bench.request();
    let update = |verdict| {
        bench
            .engine
            .update_verdict(&request.flow, verdict, bench.now())
    };
    assert!(!update(Verdict::Block), "a pending flow is not cached");
    bench.verdict(request.id, always(Verdict::Accept));
    assert!(update(Verdict::Block));
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 2)).reason(),
        Reason::BlockedCache
    );
    assert!(update(Verdict::RedirectDns));
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 3)).reason(),
        Reason::RedirectedCache
    );
    bench.engine.clear_cache();
    assert!(!update(Verdict::Block));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 4)), End::Held(true));
}
