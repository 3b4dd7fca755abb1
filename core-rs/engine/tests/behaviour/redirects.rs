//! Redirected flows, there and back.

use kext_engine::Action;
use kext_packet::Rewrite;
use kext_types::{Address, Direction, Reason, RedirectTarget, Verdict};

use crate::common::*;

/// A bench whose redirects go to 203.0.113.53.
fn bench() -> Bench {
    Bench::with(|config| {
        config.redirect_dns = RedirectTarget {
            v4: Address::v4([203, 0, 113, 53]),
            v6: Address::UNSPECIFIED,
            port: 53,
        }
    })
}

const TARGET: &str = "203.0.113.53:53";

#[track_caller]
fn rewrite_of(action: Action) -> Rewrite {
    match action {
        Action::Redirect(_, rewrite) => rewrite,
        other => panic!("not redirected: {other:?}"),
    }
}

#[track_caller]
fn ended(end: End) -> Action {
    match end {
        End::Ended(action) => action,
        End::Held(_) => panic!("the packet is held"),
    }
}

fn pair(text: &str) -> (Address, u16) {
    let end = end(text);
    (end.ip().into(), end.port())
}

fn text((address, port): (Address, u16)) -> String {
    format!("{}:{port}", address.to_ip(kext_types::IpVersion::V4))
}

#[test]
fn flows_to_two_hosts_from_one_port_come_back_to_their_own() {
    let bench = bench();
    let remotes = ["198.51.100.1:53", "198.51.100.2:53", "198.51.100.3:5353"];
    let mut sources = Vec::new();
    for remote in remotes {
        let packet = udp(HERE, remote, 1);
        let out = bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
        let there = rewrite_of(out.action);
        assert_eq!(there.destination, Some(pair(TARGET)));
        let source = there.source.unwrap();
        assert_eq!(source.0, pair(HERE).0);
        // Every packet of the flow is rewritten alike.
        let again = rewrite_of(ended(bench.outbound(&udp(HERE, remote, 2))));
        assert_eq!(again, there);
        sources.push(source);
    }
    assert_eq!(sources[0], pair(HERE), "the first keeps its port");
    for (i, (source, remote)) in sources.iter().zip(remotes).enumerate() {
        assert!(!sources[..i].contains(source), "two flows share a way back");
        let answer = ended(bench.inbound(&udp(TARGET, &text(*source), 3)));
        let back = Rewrite {
            source: Some(pair(remote)),
            destination: Some(pair(HERE)),
        };
        assert_eq!(answer, Action::Redirect(Reason::RedirectedReturn, back));
    }
    bench.assert_balanced(0);
}

#[test]
fn a_redirect_for_one_packet_has_a_way_back_too() {
    let bench = bench();
    bench.outbound(&udp(HERE, THERE, 1));
    let out = bench.verdict(bench.request().id, once(Verdict::RedirectDns));
    assert_eq!(out[0].reason(), Reason::RedirectedVerdict);
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::RedirectedReturn);
    assert_eq!(bench.outbound(&udp(HERE, THERE, 3)), End::Held(true));
}

#[test]
fn the_way_back_is_found_again_after_it_was_cleared() {
    let bench = bench();
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    bench.engine.clear_cache();
    bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::RedirectedReturn);
}

/// Many flows push the way back out of the cache, while its own flow stays in use.
#[test]
fn the_way_back_is_found_again_after_it_was_pushed_out() {
    let bench = bench();
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    for flow in 0..8_000 {
        bench.sleep(std::time::Duration::from_micros(1));
        bench.teach(&numbered(flow, 0), Direction::Outbound, Verdict::Accept);
        if flow % 16 == 0 {
            let hit = bench.outbound(&packet).reason();
            assert_eq!(hit, Reason::RedirectedCache, "flow {flow}");
        }
    }
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::RedirectedReturn);
}

/// The flow S → T itself comes while S → D is redirected to T: both must go on.
#[test]
fn a_flow_to_the_target_beside_a_redirected_one_blocks_neither() {
    let bench = bench();
    let redirected = udp(HERE, "198.51.100.1:53", 1);
    let direct = udp(HERE, TARGET, 2);
    bench.teach(&redirected, Direction::Outbound, Verdict::RedirectDns);
    bench.teach(&direct, Direction::Outbound, Verdict::Accept);
    let hit = ended(bench.outbound(&redirected));
    let source = rewrite_of(hit).source.unwrap();
    assert_ne!(
        source,
        pair(HERE),
        "its answers would be those of the direct flow"
    );
    let again = ended(bench.outbound(&redirected));
    assert_eq!(rewrite_of(again).source, Some(source), "it moved only once");
    let answer = ended(bench.inbound(&udp(TARGET, &text(source), 3)));
    assert_eq!(rewrite_of(answer).source, Some(pair("198.51.100.1:53")));
    assert_eq!(bench.outbound(&direct).reason(), Reason::PermittedCache);
    assert_eq!(
        bench.inbound(&udp(TARGET, HERE, 4)).reason(),
        Reason::PermittedCache
    );
}

#[test]
fn what_comes_straight_from_the_old_destination_is_dropped() {
    let bench = bench();
    bench.teach(
        &udp(HERE, THERE, 1),
        Direction::Outbound,
        Verdict::RedirectDns,
    );
    let stray = bench.inbound(&udp(THERE, HERE, 2)).reason();
    assert_eq!(stray, Reason::DroppedRedirectImpossible);
}

#[test]
fn a_flow_to_the_target_already_is_let_go_both_ways() {
    let bench = bench();
    let there = udp(HERE, TARGET, 1);
    let out = bench.teach(&there, Direction::Outbound, Verdict::RedirectDns);
    assert_eq!(out.action, Action::Permit(Reason::PermittedVerdict));
    assert_eq!(bench.outbound(&there).reason(), Reason::PermittedCache);
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::PermittedCache);
}

#[test]
fn packets_without_ports_cannot_be_redirected() {
    let bench = bench();
    let echo = ping("192.0.2.10", "198.51.100.1");
    let out = bench.teach(&echo, Direction::Outbound, Verdict::RedirectDns);
    assert_eq!(out.action, Action::Drop(Reason::DroppedRedirectImpossible));
    let hit = bench.outbound(&echo).reason();
    assert_eq!(hit, Reason::DroppedRedirectImpossible);
}

#[test]
fn the_tenth_and_hundredth_flow_have_ways_back_of_their_own() {
    let bench = bench();
    let mut sources = std::collections::HashSet::new();
    let mut full = 0;
    for host in 0..100 {
        let remote = format!("198.51.100.{host}:53");
        let packet = udp(HERE, &remote, 1);
        let out = bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
        match out.action {
            Action::Redirect(_, rewrite) => assert!(sources.insert(rewrite.source.unwrap())),
            Action::Drop(Reason::DroppedRedirectFull) => full += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(full, 0);
}

#[test]
fn an_inbound_flow_is_redirected_and_answers_as_if_it_were_not() {
    let bench = Bench::small();
    let packet = udp(THERE, HERE, 1);
    let out = bench.teach(&packet, Direction::Inbound, Verdict::RedirectTunnel);
    let there = rewrite_of(out.action);
    assert_eq!(there.destination, Some(pair("192.0.2.10:717")));
    let answer = ended(bench.outbound(&udp("192.0.2.10:717", THERE, 2)));
    assert_eq!(rewrite_of(answer).source, Some(pair(HERE)));
}

/// A way back has no verdict of its own that could be replaced.
#[test]
fn a_way_back_cannot_be_updated() {
    let bench = bench();
    bench.teach(
        &udp(HERE, THERE, 1),
        Direction::Outbound,
        Verdict::RedirectDns,
    );
    let answer = udp(TARGET, HERE, 2);
    let key = kext_packet::testing::parse(&answer).flow_key(Direction::Inbound);
    assert!(
        !bench
            .engine
            .update_verdict(&key, Verdict::Block, bench.now())
    );
    assert_eq!(bench.inbound(&answer).reason(), Reason::RedirectedReturn);
}

/// A packet against the redirect must not turn it round when the redirect has to move.
#[test]
fn a_stray_packet_does_not_move_a_redirected_flow() {
    let bench = bench();
    let redirected = udp(HERE, "198.51.100.1:53", 1);
    bench.teach(&redirected, Direction::Outbound, Verdict::RedirectDns);
    bench.teach(&udp(HERE, TARGET, 2), Direction::Outbound, Verdict::Accept);
    let stray = bench.inbound(&udp("198.51.100.1:53", HERE, 3)).reason();
    assert_eq!(stray, Reason::DroppedRedirectImpossible);
    let there = rewrite_of(ended(bench.outbound(&redirected)));
    assert_eq!(there.destination, Some(pair(TARGET)));
}

#[test]
fn a_flow_that_is_long_idle_keeps_no_way_back_from_another() {
    let bench = bench();
    bench.teach(&udp(HERE, TARGET, 1), Direction::Outbound, Verdict::Accept);
    bench.sleep(std::time::Duration::from_mins(11));
    let packet = udp(HERE, THERE, 2);
    let out = bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    assert_eq!(rewrite_of(out.action).source, Some(pair(HERE)));
}

#[test]
fn a_flow_that_has_moved_stays_where_it_is() {
    let bench = bench();
    let redirected = udp(HERE, "198.51.100.1:53", 1);
    bench.teach(&redirected, Direction::Outbound, Verdict::RedirectDns);
    bench.teach(&udp(HERE, TARGET, 2), Direction::Outbound, Verdict::Accept);
    let moved = rewrite_of(ended(bench.outbound(&redirected)));
    // The direct flow is forgotten meanwhile, and its port is free again.
    for _ in 0..2 {
        bench.sleep(std::time::Duration::from_mins(6));
        let again = rewrite_of(ended(bench.outbound(&redirected)));
        assert_eq!(again, moved);
    }
}

#[test]
fn a_way_back_is_kept_as_long_as_its_flow_is_in_use() {
    let bench = bench();
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    bench.sleep(std::time::Duration::from_mins(6));
    assert_eq!(bench.outbound(&packet).reason(), Reason::RedirectedCache);
    bench.sleep(std::time::Duration::from_mins(6));
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::RedirectedReturn);
}

/// A connection that runs to one target would not survive to be sent to another.
#[test]
fn a_cached_redirect_keeps_its_target_until_it_is_decided_again() {
    let bench = bench();
    let packet = udp(HERE, THERE, 1);
    bench.teach(&packet, Direction::Outbound, Verdict::RedirectDns);
    let mut config = bench.engine.config();
    config.redirect_dns.v4 = Address::v4([203, 0, 113, 54]);
    bench.engine.set_config(config).unwrap();
    let kept = rewrite_of(ended(bench.outbound(&packet)));
    assert_eq!(kept.destination, Some(pair(TARGET)));
    let answer = bench.inbound(&udp(TARGET, HERE, 2));
    assert_eq!(answer.reason(), Reason::RedirectedReturn);
    let flow = kext_packet::testing::parse(&packet).flow_key(Direction::Outbound);
    let again = Verdict::RedirectDns;
    assert!(bench.engine.update_verdict(&flow, again, bench.now()));
    let moved = rewrite_of(ended(bench.outbound(&packet)));
    assert_eq!(moved.destination, Some(pair("203.0.113.54:53")));
}

/// The one who came to us is the one who is redirected, whoever sent the last packet.
#[test]
fn an_inbound_flow_that_is_updated_is_redirected_the_way_it_came() {
    let bench = bench();
    let (there, here) = (udp(THERE, HERE, 1), udp(HERE, THERE, 2));
    bench.teach(&there, Direction::Inbound, Verdict::Accept);
    assert_eq!(bench.outbound(&here).reason(), Reason::PermittedCache);
    let flow = kext_packet::testing::parse(&there).flow_key(Direction::Inbound);
    let redirect = Verdict::RedirectTunnel;
    assert!(bench.engine.update_verdict(&flow, redirect, bench.now()));
    let change = rewrite_of(ended(bench.inbound(&there)));
    assert_eq!(change.destination, Some(pair("192.0.2.10:717")));
    let answer = ended(bench.outbound(&udp("192.0.2.10:717", THERE, 2)));
    assert_eq!(rewrite_of(answer).source, Some(pair(HERE)));
    assert_eq!(
        bench.outbound(&here).reason(),
        Reason::DroppedRedirectImpossible
    );
}

/// Its packets were held: the first of them tells, not the one that the verdict was for.
#[test]
fn the_first_packet_of_a_flow_says_which_way_it_goes() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    assert_eq!(bench.inbound(&udp(THERE, HERE, 1)), End::Held(true));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(true));
    bench.request();
    bench.verdict(bench.request().id, always(Verdict::Accept));
    let flow = kext_packet::testing::parse(&udp(HERE, THERE, 1)).flow_key(Direction::Outbound);
    let redirect = Verdict::RedirectTunnel;
    assert!(bench.engine.update_verdict(&flow, redirect, bench.now()));
    let there = bench.inbound(&udp(THERE, HERE, 3)).reason();
    assert_eq!(there, Reason::RedirectedCache);
}
