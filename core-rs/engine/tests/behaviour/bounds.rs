//! What happens when there is no room, and what is out of range.

use std::time::Duration;

use kext_engine::{Engine, StartError};
use kext_packet::testing;
use kext_types::{Capacities, Config, Direction, Event, Reason, Verdict, VerdictOutcome};

use crate::common::*;

#[test]
fn the_oldest_packet_makes_room_for_the_newest() {
    let bench = Bench::small();
    let ids: Vec<_> = (0..18)
        .map(|flow| {
            assert_eq!(bench.outbound(&numbered(flow, 0)), End::Held(true));
            bench.request().id
        })
        .collect();
    bench.assert_balanced(16);
    assert_eq!(bench.reason(Reason::DroppedPacketCacheFull), 2);
    for &id in &ids[..2] {
        let outcome = bench.decide(id, always(Verdict::Accept)).unwrap_err();
        assert_eq!(outcome, not_held(VerdictOutcome::Evicted));
    }
    assert_eq!(bench.event(Event::VerdictTooLate), 2);
    for &id in &ids[2..] {
        assert_eq!(bench.verdict(id, always(Verdict::Accept)).len(), 1);
    }
}

#[test]
fn an_evicted_packets_request_is_not_delivered() {
    let bench = Bench::small();
    for flow in 0..17 {
        bench.outbound(&numbered(flow, 0));
    }
    assert_eq!(bench.engine.queued_requests(), 16);
    assert_eq!(bench.request().flow.local_port, 10_001);
}

/// The reader has to be woken for a request that an eviction raised, too.
#[test]
fn the_next_packet_of_an_evicted_one_asks_and_says_so() {
    let bench = Bench::small();
    bench.outbound(&numbered(0, 1));
    bench.outbound(&numbered(0, 2));
    for flow in 1..15 {
        bench.outbound(&numbered(flow, 0));
    }
    while bench.try_request().is_some() {}
    // It joins a pending flow, so that it raises no request itself.
    assert_eq!(bench.outbound(&numbered(1, 9)), End::Held(true));
    let request = bench.request();
    assert_eq!(request.flow.local_port, 10_000);
    assert_eq!(
        marks(&bench.verdict(request.id, always(Verdict::Accept))),
        [2]
    );
}

/// The largest packet of all: an IPv6 header and the most that its length field can say.
fn largest() -> Vec<u8> {
    let mut out = vec![0; 65_575];
    let len = 65_535;
    testing::ip(
        &mut out,
        ip("2001:db8::1"),
        ip("2001:db8::2"),
        253,
        &vec![7; len],
    )
    .to_vec()
}

#[test]
fn the_largest_packet_evicts_as_many_as_its_bytes_need() {
    let capacities = Capacities {
        packets: 1_024,
        flow_packets: 1_024,
        ..SMALL
    };
    let bench = Bench::new(capacities, Config::default());
    // 512 blocks of 256 bytes, one for each of these.
    for flow in 0..512 {
        bench.outbound(&numbered(flow, 0));
    }
    assert_eq!(bench.reason(Reason::DroppedPacketCacheFull), 0);
    assert_eq!(bench.outbound(&largest()), End::Held(true));
    assert_eq!(bench.reason(Reason::DroppedPacketCacheFull), 257);
    bench.assert_balanced(512 - 257 + 1);
    let id = std::iter::from_fn(|| bench.try_request())
        .last()
        .unwrap()
        .id;
    let out = bench.verdict(id, always(Verdict::Accept));
    assert_eq!(out[0].bytes.as_deref(), Some(largest().as_slice()));
}

#[test]
fn a_full_flow_drops_its_oldest_packet_that_was_not_asked_for() {
    let bench = Bench::small();
    for mark in 1..=10 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    bench.assert_balanced(8);
    assert_eq!(bench.reason(Reason::DroppedFlowFull), 2);
    assert_eq!(bench.event(Event::Requests), 1);
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [1, 4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn a_flow_of_one_packet_keeps_the_newest() {
    let capacities = Capacities {
        flow_packets: 1,
        ..SMALL
    };
    let bench = Bench::new(capacities, Config::default());
    for mark in 1..=3 {
        assert_eq!(bench.outbound(&udp(HERE, THERE, mark)), End::Held(true));
    }
    assert_eq!(bench.reason(Reason::DroppedFlowFull), 2);
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(marks(&out), [3]);
}

#[test]
fn a_full_flow_that_asks_for_each_packet_drops_its_oldest() {
    let bench = Bench::with(|config| config.ask_each_packet = true);
    for mark in 1..=9 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let first = bench.request().id;
    let out = bench.verdict(first, always(Verdict::Accept));
    assert_eq!(marks(&out), [2, 3, 4, 5, 6, 7, 8, 9]);
}

#[test]
fn more_flows_than_the_cache_holds_push_out_older_ones() {
    let bench = Bench::small();
    for flow in 0..4_096 {
        bench.sleep(Duration::from_micros(1));
        bench.teach(&numbered(flow, 0), Direction::Outbound, Verdict::Accept);
    }
    assert_eq!(bench.event(Event::FlowCached), 4_096);
    let evicted = bench.event(Event::FlowEvicted);
    assert!((4_096 - 1_024..4_096 - 512).contains(&evicted), "{evicted}");
    let cached = bench.outbound(&numbered(4_095, 1)).reason();
    assert_eq!(cached, Reason::PermittedCache);
}

#[test]
fn a_host_without_buffers_gets_the_packets_without_bytes() {
    let bench = Bench::small();
    for mark in 1..=2 {
        bench.outbound(&udp(HERE, THERE, mark));
    }
    let id = bench.request().id;
    let now = bench.now();
    let mut releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    let mut count = 0;
    while let Some(release) = releases.next(|_| None::<Vec<u8>>) {
        assert!(release.buffer.is_none());
        release.settled.obligation.end(Reason::DroppedNoBuffer);
        count += 1;
    }
    assert_eq!(count, 2);
    assert_eq!(bench.reason(Reason::DroppedNoBuffer), 2);
    assert_eq!(
        bench.outbound(&udp(HERE, THERE, 3)).reason(),
        Reason::PermittedCache
    );
    bench.assert_balanced(0);
}

#[test]
fn a_buffer_that_is_too_short_is_none() {
    let bench = Bench::small();
    bench.outbound(&udp(HERE, THERE, 1));
    let id = bench.request().id;
    let now = bench.now();
    let mut releases = bench
        .engine
        .decide(id, always(Verdict::Accept), now)
        .unwrap();
    let release = releases.next(|len| Some(vec![0; len - 1])).unwrap();
    assert!(release.buffer.is_none());
    release.settled.obligation.end(Reason::DroppedNoBuffer);
}

#[test]
fn a_configuration_out_of_range_is_refused_and_changes_nothing() {
    let bench = Bench::small();
    let before = bench.engine.config();
    let wrong = Config {
        loop_limit: 0,
        ask_each_packet: true,
        ..before
    };
    assert_eq!(
        bench.engine.set_config(wrong).unwrap_err().field,
        "loop_limit"
    );
    assert_eq!(bench.engine.config(), before);
    bench.outbound(&udp(HERE, THERE, 1));
    assert_eq!(bench.outbound(&udp(HERE, THERE, 2)), End::Held(false));
    let start = Engine::<Mutex>::try_new(SMALL, wrong, 0);
    assert!(matches!(start, Err(StartError::Config(error)) if error.field == "loop_limit"));
}

#[test]
fn capacities_out_of_range_are_refused() {
    for (capacities, field) in [
        (
            Capacities {
                flows: 1_023,
                ..SMALL
            },
            "flows",
        ),
        (
            Capacities {
                packets: 15,
                ..SMALL
            },
            "packets",
        ),
        (
            Capacities {
                packets: 65_537,
                ..SMALL
            },
            "packets",
        ),
        (
            Capacities {
                packet_bytes: 131_071,
                ..SMALL
            },
            "packet_bytes",
        ),
        (
            Capacities {
                flow_packets: 0,
                ..SMALL
            },
            "flow_packets",
        ),
        (
            Capacities {
                fragments: 15,
                ..SMALL
            },
            "fragments",
        ),
    ] {
        match Engine::<Mutex>::try_new(capacities, Config::default(), 0) {
            Err(StartError::Capacity(error)) => assert_eq!(error.field, field),
            Err(other) => panic!("{other}"),
            Ok(_) => panic!("{field} was taken"),
        }
    }
}

#[test]
fn answers_to_blocked_packets_are_limited_by_the_configuration() {
    let bench = Bench::with(|config| config.replies_per_second = 3);
    let answers = |bench: &Bench| {
        (0..9)
            .filter(|_| bench.engine.may_reply(bench.now()))
            .count()
    };
    assert_eq!(answers(&bench), 3);
    bench.sleep(Duration::from_secs(1));
    assert_eq!(answers(&bench), 3);
    let config = Config {
        replies_per_second: 0,
        ..bench.engine.config()
    };
    bench.engine.set_config(config).unwrap();
    bench.sleep(Duration::from_secs(1));
    assert_eq!(answers(&bench), 0);
}

/// A verdict takes its time, and the flow's packets came before all that is cached.
#[test]
fn a_flow_that_waited_long_takes_the_place_of_the_one_seen_longest_ago() {
    let bench = Bench::small();
    let waiting = 50_000..50_008;
    let mut ids = Vec::new();
    for flow in waiting {
        bench.outbound(&numbered(flow, 1));
        ids.push(bench.request().id);
    }
    for flow in 0..6_000 {
        bench.sleep(Duration::from_millis(1));
        bench.teach(&numbered(flow, 1), Direction::Outbound, Verdict::Accept);
    }
    let mut seen = Vec::new();
    bench.engine.list_flows(0, |info| {
        seen.push(info.last_seen);
        true
    });
    seen.sort();
    let median = seen[seen.len() / 2];
    bench.engine.keep_events(true);
    for id in ids {
        bench.verdict(id, always(Verdict::Accept));
        let gone = bench.engine.next_event().expect("a full bucket").flow;
        assert!(gone.last_seen < median, "{gone:?}");
    }
}

/// A packet more than the budget's last came to each flow, and left: nothing is held.
#[test]
fn flows_without_packets_do_not_fill_the_table_of_pending_flows() {
    let bench = Bench::new(
        Capacities {
            flow_packets: 1,
            ..SMALL
        },
        Config::default(),
    );
    for flow in 0..40 {
        assert_eq!(
            bench.outbound(&numbered(flow, 1)),
            End::Held(true),
            "flow {flow}"
        );
        let id = bench.request().id;
        let releases = bench
            .engine
            .decide(id, always(Verdict::Accept), bench.now());
        let mut more = true;
        drain_then(releases.unwrap(), |_| {
            if std::mem::take(&mut more) {
                assert_eq!(bench.outbound(&numbered(flow, 2)), End::Held(false));
            }
        });
        bench.assert_balanced(0);
    }
}

/// A request that is raised by a packet which is then refused still has to wake a reader.
#[test]
fn a_refused_packet_leaves_no_request_that_nobody_is_woken_for() {
    let bench = Bench::new(
        Capacities {
            flow_packets: 2,
            ..SMALL
        },
        Config::default(),
    );
    for flow in 0..24 {
        assert_eq!(bench.outbound(&numbered(flow, 0)), End::Held(true));
        let id = bench.request().id;
        let releases = bench
            .engine
            .decide(id, always(Verdict::Accept), bench.now());
        let mut more = 3;
        drain_then(releases.unwrap(), |_| {
            if more > 0 {
                more -= 1;
                assert_eq!(bench.outbound(&numbered(flow, more)), End::Held(false));
            }
        });
    }
    for flow in 24..32 {
        assert_eq!(bench.outbound(&numbered(flow, 0)), End::Held(true));
        assert_eq!(bench.outbound(&numbered(flow, 1)), End::Held(false));
        bench.request();
    }
    // The reader waits now. Room is made by a packet that was asked about; its flow's next is asked for.
    let end = bench.outbound(&numbered(32, 0));
    assert!(
        end == End::Held(true) || bench.engine.queued_requests() == 0,
        "{end:?}, and a request that nobody is woken for"
    );
}
