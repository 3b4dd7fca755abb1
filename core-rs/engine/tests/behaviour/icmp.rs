//! ICMP: echoes by their identifier, errors with the flow that they are about.

use std::time::Duration;

use kext_packet::testing;
use kext_types::{Address, Arrival, Direction, Event, ProcessId, Reason, Verdict, protocol};

use crate::common::*;

const ROUTER: &str = "203.0.113.1";

fn echo(source: &str, destination: &str, kind: u8, id: u8) -> Vec<u8> {
    let mut out = vec![0; 60];
    let (source, destination) = (ip(source), ip(destination));
    testing::icmp(
        &mut out,
        source,
        destination,
        (kind, 0),
        [0, id, 0, 1],
        b"ping",
    )
    .to_vec()
}

/// A "time exceeded" for the sender of `packet`.
fn error_about(packet: &[u8]) -> Vec<u8> {
    let to = testing::parse(packet);
    let to = to.source.to_ip(to.version);
    let mut out = vec![0; packet.len() + 60];
    testing::icmp(&mut out, ip(ROUTER), to, (11, 0), [0; 4], packet).to_vec()
}

#[test]
fn echoes_of_two_identifiers_are_two_flows() {
    let bench = Bench::small();
    let (here, there) = ("192.0.2.10", "198.51.100.20");
    bench.teach(
        &echo(here, there, 8, 1),
        Direction::Outbound,
        Verdict::Accept,
    );
    assert_eq!(bench.outbound(&echo(here, there, 8, 2)), End::Held(true));
    let request = bench.request();
    assert_eq!((request.flow.local_port, request.flow.remote_port), (2, 0));
    let answer = bench.inbound(&echo(there, here, 0, 1));
    assert_eq!(answer.reason(), Reason::PermittedCache);
    assert_eq!(bench.inbound(&echo(there, here, 0, 2)), End::Held(false));
    bench.assert_balanced(2);
}

#[test]
fn the_verdict_of_one_echo_flow_is_updated_and_not_of_another() {
    let bench = Bench::small();
    let [one, two] = [1, 2].map(|id| echo("192.0.2.10", "198.51.100.20", 8, id));
    for packet in [&one, &two] {
        bench.teach(packet, Direction::Outbound, Verdict::Accept);
    }
    let flow = testing::parse(&one).flow_key(Direction::Outbound);
    assert!(
        bench
            .engine
            .update_verdict(&flow, Verdict::Drop, bench.now())
    );
    assert_eq!(bench.outbound(&one).reason(), Reason::DroppedCache);
    assert_eq!(bench.outbound(&two).reason(), Reason::PermittedCache);
}

#[test]
fn an_error_follows_the_cached_verdict_of_the_flow_that_it_quotes() {
    for (verdict, expected) in [
        (Verdict::Accept, Reason::PermittedCache),
        (Verdict::Block, Reason::BlockedCache),
        (Verdict::Drop, Reason::DroppedCache),
    ] {
        let bench = Bench::small();
        let packet = udp(HERE, THERE, 1);
        bench.teach(&packet, Direction::Outbound, verdict);
        assert_eq!(bench.inbound(&error_about(&packet)).reason(), expected);
        assert_eq!(bench.event(Event::Requests), 1);
        bench.assert_balanced(0);
    }
}

/// Whatever is cached for ICMP between the two ends of the error.
#[test]
fn the_quoted_flow_comes_before_the_errors_own() {
    let bench = Bench::small();
    let stray = error_about(&udp("192.0.2.10:9", "198.51.100.20:9", 1));
    bench.teach(&stray, Direction::Inbound, Verdict::Accept);
    assert_eq!(bench.inbound(&stray).reason(), Reason::PermittedCache);
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::Drop);
    assert_eq!(
        bench.inbound(&error_about(&packet)).reason(),
        Reason::DroppedCache
    );
    let waiting = numbered(7, 1);
    assert_eq!(bench.outbound(&waiting), End::Held(true));
    assert_eq!(bench.inbound(&error_about(&waiting)), End::Held(false));
}

#[test]
fn an_error_of_ours_follows_the_flow_too() {
    let bench = Bench::small();
    let packet = udp(THERE, HERE, 1);
    bench.teach(&packet, Direction::Inbound, Verdict::Accept);
    let mut out = [0; 100];
    let ends = (ip("192.0.2.10"), ip("198.51.100.20"));
    let error = testing::icmp(&mut out, ends.0, ends.1, (3, 3), [0; 4], &packet);
    assert_eq!(bench.outbound(error).reason(), Reason::PermittedCache);
}

#[test]
fn an_error_waits_with_the_flow_that_it_quotes() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    assert_eq!(bench.outbound(&packet), End::Held(true));
    assert_eq!(bench.inbound(&error_about(&packet)), End::Held(false));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(false));
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [1, 1, 2], "the error quotes the first");
    assert_eq!(bench.try_request(), None);
    bench.assert_balanced(0);
}

#[test]
fn an_error_about_an_echo_follows_that_echo() {
    let bench = Bench::small();
    let ping = echo("192.0.2.10", "198.51.100.20", 8, 7);
    bench.teach(&ping, Direction::Outbound, Verdict::Drop);
    assert_eq!(
        bench.inbound(&error_about(&ping)).reason(),
        Reason::DroppedCache
    );
}

/// A forged error must not have a verdict given for a flow that has not begun.
#[test]
fn an_error_about_an_unknown_flow_is_asked_for_as_itself() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    assert_eq!(bench.inbound(&error_about(&packet)), End::Held(true));
    let request = bench.request();
    assert_eq!(request.flow.protocol, protocol::ICMP);
    assert_eq!(request.flow.remote.to_ip(request.flow.version), ip(ROUTER));
    assert_eq!((request.flow.local_port, request.flow.remote_port), (0, 0));
    bench.verdict(request.id, always(Verdict::Drop));
    assert_eq!(bench.outbound(&packet), End::Held(true));
}

#[test]
fn an_error_for_somebody_else_does_not_follow_the_flow() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    let mut out = [0; 100];
    let ends = (ip(ROUTER), ip("192.0.2.11"));
    let error = testing::icmp(&mut out, ends.0, ends.1, (11, 0), [0; 4], &packet);
    assert_eq!(bench.inbound(error), End::Held(true));
}

/// Anybody can send an error about a flow that has ended, and would else keep its verdict for ever.
#[test]
fn an_error_is_counted_to_the_flow_and_does_not_keep_it_cached() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    let error = error_about(&packet);
    let taught = bench.now();
    bench.teach(&packet, Direction::Outbound, Verdict::Accept);
    bench.sleep(Duration::from_mins(9));
    assert_eq!(bench.inbound(&error).reason(), Reason::PermittedCache);
    let mut shown = Vec::new();
    bench.engine.list_flows(0, |info| {
        shown.push(*info);
        true
    });
    assert_eq!(shown.len(), 1);
    assert_eq!(shown[0].last_seen, taught);
    assert_eq!(shown[0].inbound.packets, 1);
    assert_eq!(shown[0].inbound.bytes, error.len() as u64);
    bench.sleep(Duration::from_mins(2));
    assert_eq!(bench.outbound(&packet), End::Held(true));
    assert_eq!(bench.event(Event::FlowExpired), 1);
}

/// Such a flow is seen by its errors only.
#[test]
fn an_error_that_is_asked_for_as_itself_keeps_its_own_flow_cached() {
    let bench = Bench::small();
    let stray = error_about(&udp(HERE, THERE, 1));
    bench.teach(&stray, Direction::Inbound, Verdict::Accept);
    for _ in 0..2 {
        bench.sleep(Duration::from_mins(9));
        assert_eq!(bench.inbound(&stray).reason(), Reason::PermittedCache);
    }
}

/// Who the flow belongs to is told by its own packets: an error of ours is the system's.
#[test]
fn an_error_does_not_say_whose_the_flow_is() {
    let bench = Bench::small();
    bench.engine.keep_events(true);
    let packet = udp(THERE, HERE, 1);
    let of = |process, direction| Arrival {
        process_id: ProcessId::new(process),
        ..arrival(direction)
    };
    assert_eq!(
        bench.present(&packet, &of(77, Direction::Inbound)),
        End::Held(true)
    );
    bench.verdict(bench.request().id, always(Verdict::Accept));
    let mut out = [0; 100];
    let ends = (ip("192.0.2.10"), ip("198.51.100.20"));
    let error = testing::icmp(&mut out, ends.0, ends.1, (3, 3), [0; 4], &packet);
    bench.present(error, &of(4, Direction::Outbound));
    bench.sleep(Duration::from_mins(11));
    assert_eq!(bench.inbound(&packet), End::Held(true));
    let ended = bench.engine.next_event().expect("it ended").flow;
    assert_eq!(ended.process_id, ProcessId::new(77));
    assert_eq!(ended.outbound.packets, 1);
}

#[test]
fn an_error_that_waits_with_its_flow_says_nothing_of_it() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    let of = |process, direction| Arrival {
        process_id: ProcessId::new(process),
        ..arrival(direction)
    };
    let seen = bench.now();
    bench.present(&packet, &of(77, Direction::Outbound));
    bench.sleep(Duration::from_secs(20));
    bench.present(&error_about(&packet), &of(4, Direction::Inbound));
    bench.verdict(bench.request().id, always(Verdict::Accept));
    bench.engine.list_flows(0, |info| {
        let expected = (seen, ProcessId::new(77));
        assert_eq!((info.last_seen, info.process_id), expected);
        true
    });
}

#[test]
fn a_redirect_given_for_an_error_redirects_the_flow_and_not_the_error() {
    let bench = Bench::with(|config| {
        config.redirect_tunnel.v4 = Address::v4([203, 0, 113, 54]);
    });
    let packet = udp(HERE, THERE, 0);
    bench.outbound(&packet);
    let first = bench.request();
    assert_eq!(bench.inbound(&error_about(&packet)), End::Held(false));
    bench.verdict(first.id, once(Verdict::Accept));
    // The error is what is asked about now, under the flow that it quotes.
    let second = bench.request();
    assert_eq!(second.flow, first.flow);
    bench.verdict(second.id, always(Verdict::RedirectTunnel));
    assert_eq!(bench.outbound(&packet).reason(), Reason::RedirectedCache);
}
