//! Packets through the extension: what is injected, where, and how it is counted.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use kext_extension::{Classification, InjectionKind, TICK_LIMIT};
use kext_packet::testing::parse;
use kext_packet::{Headers, TransportInfo};
use kext_types::{Config, Direction, Event, IpVersion, Policy, Reason, protocol};
use kext_wire::v1::VerdictInfo;
use kext_wire::{ControlCode, Status};

/// Holds a packet and gives its request this v1 verdict.
fn decide(extension: &TestExtension, packet: &[u8], number: i8) {
    let id = hold(extension, packet).id;
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number }.encode(&mut input).unwrap();
    let (status, _) = ioctl_status(extension, ControlCode::SetVerdict, &input, 0);
    assert_eq!(status, Status::SUCCESS);
}

fn counted(extension: &TestExtension, reason: Reason) -> u64 {
    extension.engine().counters().reason(reason)
}

fn injected(extension: &TestExtension) -> Vec<(Headers, kext_extension::Injection)> {
    let injected = extension.host().injected.lock();
    injected
        .iter()
        .map(|(bytes, injection)| (parse(bytes), *injection))
        .collect()
}

fn ends(headers: &Headers) -> (String, String) {
    let end = |address: kext_types::Address, port| {
        std::net::SocketAddr::new(address.to_ip(headers.version), port).to_string()
    };
    (
        end(headers.source, headers.source_port),
        end(headers.destination, headers.destination_port),
    )
}

#[test]
fn a_released_packet_goes_where_it_would_have_gone() {
    let extension = open();
    decide(&extension, &syn(LOCAL, REMOTE), 2);
    let (_, injection) = injected(&extension)[0];
    assert_eq!(injection.arrival, arrival(Direction::Outbound));
    assert_eq!(
        injection.kind,
        InjectionKind::Released(Reason::PermittedVerdict)
    );
}

#[test]
fn a_blocked_syn_is_reset_towards_its_sender() {
    let extension = open();
    decide(&extension, &syn(LOCAL, REMOTE), 3);
    let (reply, injection) = injected(&extension)[0];
    assert_eq!(ends(&reply), (REMOTE.into(), LOCAL.into()));
    assert_eq!(injection.arrival.direction, Direction::Inbound);
    assert_eq!(injection.kind, InjectionKind::Reply);
    let TransportInfo::Tcp(segment) = reply.transport_info else {
        panic!("no TCP segment");
    };
    assert_eq!((segment.sequence, segment.acknowledgement), (0, 1_001));
    // The cached verdict answers at once.
    let blocked = Classification::Discard(Reason::BlockedCache);
    assert_eq!(outbound(&extension, &syn(LOCAL, REMOTE)), blocked);
    assert_eq!(extension.engine().counters().event(Event::InjectedReset), 2);
}

#[test]
fn a_blocked_datagram_is_answered_with_unreachable_but_a_group_is_not() {
    let extension = open();
    decide(
        &extension,
        &udp("[2001:db8::1]:5", "[2001:db8::2]:6", b"x"),
        3,
    );
    let (reply, _) = injected(&extension)[0];
    assert_eq!(
        (reply.version, reply.protocol),
        (IpVersion::V6, protocol::ICMPV6)
    );
    extension.engine().set_config(Config::ask_all()).unwrap();
    decide(&extension, &udp(LOCAL, "224.0.0.9:9", b"x"), 3);
    let counters = extension.engine().counters();
    assert_eq!(counters.event(Event::InjectedUnreachable), 1);
    assert_eq!(counters.event(Event::ReplyForbidden), 1);
    assert_eq!(counters.reason(Reason::BlockedVerdict), 2);
}

#[test]
fn answers_are_limited_a_second_and_the_excess_is_counted() {
    let extension = open();
    let config = Config {
        replies_per_second: 3,
        ..Config::default()
    };
    extension.engine().set_config(config).unwrap();
    decide(&extension, &syn(LOCAL, REMOTE), 3);
    for _ in 0..9 {
        outbound(&extension, &syn(LOCAL, REMOTE));
    }
    let counters = extension.engine().counters();
    assert_eq!(counters.event(Event::InjectedReset), 3);
    assert_eq!(counters.event(Event::ReplyRateLimited), 7);
    extension
        .host()
        .clock
        .fetch_add(1_000_000_000, Ordering::Relaxed);
    outbound(&extension, &syn(LOCAL, REMOTE));
    assert_eq!(counters.event(Event::InjectedReset), 4);
}

#[test]
fn redirected_flows_go_to_the_target_and_come_back_as_themselves() {
    let extension = open();
    // Two name servers asked from one socket, both redirected to the local one.
    let servers = ["198.51.100.20:53", "203.0.113.5:53"];
    for server in servers {
        decide(&extension, &udp(LOCAL, server, b"query"), 5);
    }
    let there = injected(&extension);
    let sources: Vec<String> = there
        .iter()
        .map(|(headers, injection)| {
            assert_eq!(
                injection.kind,
                InjectionKind::Redirected(Reason::RedirectedVerdict)
            );
            assert_eq!(ends(headers).1, "192.0.2.10:53");
            ends(headers).0
        })
        .collect();
    assert_ne!(sources[0], sources[1], "answers could not be told apart");
    extension.host().injected.lock().clear();
    for (server, source) in servers.iter().zip(&sources) {
        let answer = udp("192.0.2.10:53", source, b"answer");
        let absorbed = Classification::Absorb(Some(Reason::RedirectedReturn));
        assert_eq!(inbound(&extension, &answer), absorbed);
        let back = extension.host().injected.lock().pop().unwrap().0;
        assert_eq!(back, udp(server, LOCAL, b"answer"), "bytes and checksums");
    }
    // And there again, from the cache.
    for (server, source) in servers.iter().zip(&sources) {
        outbound(&extension, &udp(LOCAL, server, b"query"));
        let there = extension.host().injected.lock().pop().unwrap().0;
        assert_eq!(there, udp(source, "192.0.2.10:53", b"query"));
    }
    assert_eq!(counted(&extension, Reason::RedirectedCache), 2);
    assert_eq!(counted(&extension, Reason::RedirectedReturn), 2);
    assert!(extension.engine().counters().totals().balanced());
}

#[test]
fn what_cannot_be_let_go_is_dropped_and_counted() {
    let extension = open();
    extension.host().refusals.store(1, Ordering::Relaxed);
    decide(&extension, &udp(LOCAL, "198.51.100.20:1", b"x"), 2);
    extension.host().inject_failures.store(1, Ordering::Relaxed);
    decide(&extension, &udp(LOCAL, "198.51.100.20:2", b"x"), 2);
    extension.host().refusals.store(1, Ordering::Relaxed);
    decide(&extension, &udp(LOCAL, "198.51.100.20:3", b"x"), 3);
    extension.host().inject_failures.store(1, Ordering::Relaxed);
    decide(&extension, &udp(LOCAL, "198.51.100.20:4", b"x"), 3);
    let mut echo = [0; 64];
    let (local, remote) = (
        "192.0.2.10".parse().unwrap(),
        "198.51.100.20".parse().unwrap(),
    );
    let echo = kext_packet::testing::icmp(&mut echo, local, remote, (8, 0), [0, 1, 0, 1], b"x");
    decide(&extension, echo, 5);
    assert_eq!(counted(&extension, Reason::DroppedNoBuffer), 1);
    assert_eq!(counted(&extension, Reason::DroppedInjectFailed), 1);
    assert_eq!(counted(&extension, Reason::BlockedVerdict), 2);
    assert_eq!(extension.engine().counters().event(Event::ReplyFailed), 2);
    assert_eq!(counted(&extension, Reason::DroppedRedirectImpossible), 1);
    assert!(extension.host().injected.lock().is_empty());
    assert!(extension.engine().counters().totals().balanced());
}

#[test]
fn closing_settles_what_is_held_by_policy() {
    for (policy, reason, leaving) in [
        (
            Policy::Permit,
            Reason::PermittedNoReader,
            InjectionKind::Released(Reason::PermittedNoReader),
        ),
        (Policy::Block, Reason::BlockedNoReader, InjectionKind::Reply),
    ] {
        let extension = open();
        let config = Config {
            no_reader: policy,
            ..Config::default()
        };
        extension.engine().set_config(config).unwrap();
        for port in 1..=5 {
            outbound(&extension, &syn(LOCAL, &format!("198.51.100.20:{port}")));
        }
        extension.close();
        extension.close();
        assert_eq!(counted(&extension, reason), 5);
        let injected = injected(&extension);
        assert_eq!(injected.len(), 5);
        assert!(
            injected
                .iter()
                .all(|(_, injection)| injection.kind == leaving)
        );
        assert_eq!(extension.engine().counters().totals().held, 0);
    }
}

#[test]
fn a_tick_settles_what_was_held_for_too_long_in_bounded_steps() {
    let extension = {
        let extension = open();
        for port in 1..=TICK_LIMIT {
            outbound(&extension, &syn(LOCAL, &format!("198.51.100.20:{port}")));
        }
        extension
    };
    extension
        .host()
        .clock
        .store(29_999_999_999, Ordering::Relaxed);
    assert!(!extension.tick());
    assert_eq!(
        extension.engine().counters().totals().held,
        TICK_LIMIT as u64
    );
    extension
        .host()
        .clock
        .store(30_000_000_000, Ordering::Relaxed);
    assert!(
        extension.tick(),
        "more may be due after as many as a tick settles"
    );
    assert!(!extension.tick());
    assert_eq!(
        counted(&extension, Reason::PermittedHoldLimit),
        TICK_LIMIT as u64
    );
}

#[test]
fn readers_are_woken_for_requests_and_for_those_that_verdicts_raise() {
    let extension = open();
    let woken = || extension.host().woken.load(Ordering::Relaxed);
    outbound(&extension, &udp(LOCAL, REMOTE, b"1"));
    assert_eq!(woken(), 1);
    outbound(&extension, &udp(LOCAL, REMOTE, b"2"));
    assert_eq!(woken(), 1, "the second packet of a flow raises no request");
    let id = receive_v1(&extension).id;
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number: -2 }.encode(&mut input).unwrap();
    ioctl(&extension, ControlCode::SetVerdict, &input, 0).unwrap();
    assert_eq!(woken(), 2);
    assert_ne!(receive_v1(&extension).id, id);
}

#[test]
fn only_one_owner_at_a_time() {
    let extension = open();
    assert_eq!(extension.open(), Err(Status::DEVICE_BUSY));
    extension.close();
    assert_eq!(extension.open(), Ok(()));
}

#[test]
fn an_answer_that_will_not_be_sent_takes_no_buffer() {
    let extension = open();
    extension.close();
    let config = Config {
        no_reader: Policy::Block,
        replies_per_second: 0,
        ..Config::default()
    };
    extension.engine().set_config(config).unwrap();
    extension.host().refusals.store(1, Ordering::Relaxed);
    outbound(&extension, &syn(LOCAL, REMOTE));
    let counters = extension.engine().counters();
    assert_eq!(counted(&extension, Reason::BlockedNoReader), 1);
    assert_eq!(counters.event(Event::ReplyRateLimited), 1);
    assert_eq!(counters.event(Event::ReplyFailed), 0);
    assert_eq!(extension.host().refusals.load(Ordering::Relaxed), 1);
}

#[test]
fn answers_of_a_local_redirect_target_are_to_be_seen_as_they_come() {
    let extension = open();
    let may = |packet: &[u8]| extension.may_answer_redirect(packet, packet.len());
    assert!(may(&udp("192.0.2.10:53", "192.0.2.10:40000", b"answer")));
    assert!(may(&syn("[2001:db8::1]:717", "[2001:db8::1]:40000")));
    // From somewhere else, from another port, to the target: one look as they leave is enough.
    assert!(!may(&udp(
        "198.51.100.20:53",
        "192.0.2.10:40000",
        b"answer"
    )));
    assert!(!may(&udp("192.0.2.10:80", "192.0.2.10:40000", b"page")));
    assert!(!may(&udp("192.0.2.10:40000", "192.0.2.10:53", b"question")));
    assert!(!may(&[]));
}

#[test]
fn errors_about_what_went_to_a_local_target_are_to_be_seen_as_they_come() {
    let extension = open();
    let sent = udp("192.0.2.10:40000", "192.0.2.10:53", b"question");
    let mut buffer = [0; 200];
    let own = "192.0.2.10".parse().unwrap();
    let error = kext_packet::testing::icmp(&mut buffer, own, own, (3, 3), [0; 4], &sent);
    assert!(extension.may_answer_redirect(error, error.len()));
}
