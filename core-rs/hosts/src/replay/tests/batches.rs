//! Batches: what a replay comes to does not depend on their size, and none causes an eviction.

use std::collections::BTreeMap;

use kext_types::{Disposition, Event, FlowInfo, FlowKey, FlowOrigin};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse};
use proptest::prelude::*;

use super::*;
use crate::replay::Synthetic;

/// What came of a replay: requests in order, flows, and how packets ended.
#[derive(Clone, Debug, PartialEq)]
struct Outcome {
    asked: Vec<(FlowKey, Timestamp)>,
    flows: BTreeMap<FlowKey, String>,
    ended: Vec<u64>,
    seen: u64,
    largest_batch: usize,
}

fn receive_some(host: &ReplayHost, max_requests: u32) -> Result<Vec<ReceivedRequest>, Status> {
    let mut input = [0; ReceiveRequest::LEN];
    let request = ReceiveRequest {
        max_requests,
        payload: PayloadMode::None,
        wait_ms: None,
    };
    request.encode(&mut input).unwrap();
    let mut output = vec![0; 1 << 19];
    let len = host.ioctl(ControlCode::Receive.to_u32(), &input, &mut output)?;
    let response = ReceiveResponse::decode(&output[..len]).unwrap();
    Ok(response.iter().map(|(request, _)| request).collect())
}

fn list(host: &ReplayHost) -> Vec<FlowInfo> {
    let (mut flows, mut cursor) = (Vec::new(), 0);
    loop {
        let mut input = [0; ListFlowsRequest::LEN];
        let request = ListFlowsRequest { cursor, max: 4_096 };
        request.encode(&mut input).unwrap();
        let mut output = vec![0; ListFlowsResponse::len_for(4_096)];
        let code = ControlCode::ListFlows.to_u32();
        let len = host.ioctl(code, &input, &mut output).unwrap();
        let response = ListFlowsResponse::decode(&output[..len]).unwrap();
        flows.extend(response.iter());
        cursor = response.cursor();
        if cursor == 0 {
            return flows;
        }
    }
}

/// The way back of a redirected flow is cached when the verdict is given, and so has its time, not a
/// packet's.
fn timeless(flow: FlowInfo) -> FlowInfo {
    if flow.origin != FlowOrigin::WayBack || flow.inbound.packets > 0 {
        return flow;
    }
    FlowInfo {
        first_seen: Timestamp::default(),
        last_seen: Timestamp::default(),
        ..flow
    }
}

/// The verdict of a flow, by its remote port.
fn verdict(flow: &FlowKey) -> Verdict {
    Verdict::ALL[usize::from(flow.remote_port) % Verdict::ALL.len()]
}

fn replay(file: &Scratch, options: ReplayOptions, most: u32) -> Outcome {
    let host = open(file, options);
    let (mut asked, mut largest_batch) = (Vec::new(), 0);
    loop {
        let batch = match receive_some(&host, most) {
            Ok(batch) => batch,
            Err(Status::END_OF_FILE) => break,
            Err(status) => panic!("{status}"),
        };
        largest_batch = largest_batch.max(batch.len());
        for request in batch {
            asked.push((request.flow, request.time));
            let verdict = verdict(&request.flow);
            decide(&host, &[request], verdict);
        }
    }
    let counters = host.extension.engine().counters();
    let ended = |disposition: &Disposition| {
        let reasons = Reason::ALL
            .into_iter()
            .filter(|reason| reason.disposition() == *disposition);
        reasons.map(|reason| counters.reason(reason)).sum()
    };
    assert_eq!(counters.reason(Reason::DroppedPacketCacheFull), 0);
    assert_eq!(counters.event(Event::Held), 0);
    Outcome {
        asked,
        flows: list(&host)
            .into_iter()
            .map(|flow| (flow.flow, format!("{:?}", timeless(flow))))
            .collect(),
        ended: Disposition::ALL.iter().map(ended).collect(),
        seen: counters.event(Event::Seen),
        largest_batch,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn results_do_not_depend_on_the_size_of_batches(
        packets in prop::collection::vec((0..12_u16, 0..40_u64, any::<bool>(), 0..600_usize), 1..120),
        sizes in prop::collection::vec(2..200_u32, 1..4),
        hold_limit_ms in 100..400_u32,
        small in any::<bool>(),
    ) {
        let mut time = 0;
        let packets: Vec<_> = packets
            .into_iter()
            .map(|(flow, gap, back, len)| {
                time += gap;
                let local = format!("192.0.2.10:{}", 40_000 + flow);
                let remote = format!("198.51.100.20:{}", 1 + flow);
                let (from, to) = if back { (remote, local) } else { (local, remote) };
                (time, udp(&from, &to, &vec![7; len]))
            })
            .collect();
        let file = capture("sizes", &packets);
        let options = || ReplayOptions {
            local: vec!["192.0.2.10/32".parse().unwrap()],
            config: Config { hold_limit_ms, replies_per_second: 1_000_000, ..Config::default() },
            capacities: if small {
                Capacities { packets: 16, packet_bytes: 1 << 17, ..Capacities::default() }
            } else {
                Capacities::default()
            },
            ..ReplayOptions::default()
        };
        let one = replay(&file, options(), 1);
        for most in sizes {
            let many = replay(&file, options(), most);
            prop_assert!(many.largest_batch <= most as usize);
            prop_assert_eq!(Outcome { largest_batch: 1, ..many }, one.clone());
        }
    }
}

#[test]
fn a_batch_is_as_large_as_asked_for_and_as_half_the_packet_cache() {
    let host = ReplayHost::synthetic(
        Synthetic {
            count: 10_000,
            payload: 10,
        },
        &ReplayOptions::default(),
    )
    .unwrap();
    let sizes: Vec<_> = [7, 1, 4_096]
        .into_iter()
        .map(|most| {
            let batch = receive_some(&host, most).unwrap();
            decide(&host, &batch, Verdict::Accept);
            batch.len()
        })
        .collect();
    assert_eq!(sizes, [7, 1, 512]);
    // Who decides nothing gets on one by one, and only then does the oldest go.
    assert_eq!(receive_some(&host, 4_096).unwrap().len(), 512);
    for _ in 0..512 {
        assert_eq!(receive_some(&host, 4_096).unwrap().len(), 1);
    }
    let evicted = || {
        let counters = host.extension.engine().counters();
        counters.reason(Reason::DroppedPacketCacheFull)
    };
    assert_eq!(evicted(), 0);
    assert_eq!(receive_some(&host, 4_096).unwrap().len(), 1);
    assert_eq!(evicted(), 1);
}

#[test]
fn large_packets_do_not_evict_each_other_either() {
    let what = Synthetic {
        count: 200,
        payload: Synthetic::MAX_PAYLOAD,
    };
    let options = ReplayOptions {
        capacities: Capacities {
            packet_bytes: 4 << 20,
            ..Capacities::default()
        },
        ..ReplayOptions::default()
    };
    let host = ReplayHost::synthetic(what, &options).unwrap();
    let mut requests = 0;
    while let Ok(batch) = receive_some(&host, 4_096) {
        requests += batch.len();
        // Half of 4 MiB holds 32 packets of 64 KiB; one at least comes in any case.
        assert!((1..=32).contains(&batch.len()), "{}", batch.len());
        if requests.is_multiple_of(2) {
            decide(&host, &batch, Verdict::Accept);
        } else {
            decide(&host, &batch[..batch.len() / 2], Verdict::Drop);
            decide(&host, &batch[batch.len() / 2..], Verdict::Drop);
        }
    }
    assert_eq!(requests, 200);
    let counters = host.extension.engine().counters();
    assert_eq!(counters.reason(Reason::DroppedPacketCacheFull), 0);
}

#[test]
fn gathering_ends_before_a_packet_could_reach_the_hold_limit() {
    // 20 ms from one to the next: the fourth is more than 50 ms behind the first.
    let packets: Vec<_> = flows(9)
        .into_iter()
        .map(|(ms, packet)| (ms * 20, packet))
        .collect();
    let file = capture("span", &packets);
    let host = open(&file, ReplayOptions::default());
    assert_eq!(receive_some(&host, 64).unwrap().len(), 3);
}

#[test]
fn with_each_packet_asked_for_they_come_one_by_one() {
    let file = capture("each", &flows(3));
    let options = ReplayOptions {
        config: Config {
            ask_each_packet: true,
            ..Config::default()
        },
        ..ReplayOptions::default()
    };
    let host = open(&file, options);
    assert_eq!(receive_some(&host, 64).unwrap().len(), 1);
}

#[test]
fn at_its_own_pace_nothing_is_gathered_that_is_not_due() {
    let mut packets = flows(2);
    packets.push((60_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let host = open(&capture("due", &packets), at_own_pace());
    let mut requests = 0;
    while requests < 2 {
        requests += receive_some(&host, 64).unwrap().len();
    }
    assert_eq!(host.report().presented, 2);
}

#[test]
fn a_synthetic_source_is_reported_like_a_capture() {
    let what = Synthetic {
        count: 5_000,
        payload: 32,
    };
    let host = ReplayHost::synthetic(what, &ReplayOptions::default()).unwrap();
    assert_eq!(run(&host, Verdict::Accept), 5_000);
    let report = host.report();
    assert_eq!(
        (report.records, report.presented, report.malformed),
        (5_000, 5_000, 0)
    );
    assert_eq!((report.bytes_read, report.bytes_total), (300_000, 300_000));
    assert_eq!(report.local, "10.0.0.1 (synthetic)");
    let first = report.first_time.unwrap();
    assert_eq!(
        report.last_time.unwrap().since(first),
        Duration::from_micros(4_999)
    );
}
