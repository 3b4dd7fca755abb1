//! What the driver learns of flows above the packets: payload, and the programs of their processes.

use kext_client::Session;
use kext_ntsim::harness::Test;
use kext_ntsim::{Endpoint, Packet, Sim, guard_pages};
use kext_types::{FlowEnd, FlowInfo, FlowOrigin, Verdict};

use crate::packets::{ABSORBED, EVERY, close, endpoint, open, permanent, request};
use crate::traffic::Ends;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "flows::payload_of_streams_is_counted",
        payload_of_streams_is_counted,
    ),
    passes(
        "flows::payload_of_datagrams_is_counted",
        payload_of_datagrams_is_counted,
    ),
    passes(
        "flows::datagrams_that_come_together_are_all_counted",
        datagrams_that_come_together_are_all_counted,
    ),
    passes(
        "flows::payload_is_told_when_a_flow_ends",
        payload_is_told_when_a_flow_ends,
    ),
    passes(
        "flows::loopback_payload_is_counted_once",
        loopback_payload_is_counted_once,
    ),
    passes(
        "flows::payload_of_a_redirected_flow_comes_back",
        payload_of_a_redirected_flow_comes_back,
    ),
    passes("flows::icmp_has_no_payload", icmp_has_no_payload),
    passes("flows::paths_are_told", paths_are_told),
    passes("flows::long_paths_are_cut", long_paths_are_cut),
];

const IS_LOOPBACK: u32 = 1;

/// From the transport header on, as a datagram is shown that is sent.
fn behind_ip(ends: &Ends, packet: &[u8]) -> Vec<u8> {
    packet[if ends.v6 { 40 } else { 20 }..].to_vec()
}

fn send(sim: &Sim, ends: &Ends, of: &Endpoint, payload: &[u8]) {
    let packet = ends.leaving(payload);
    let shown = sim.datagram(of, &[&behind_ip(ends, &packet)], true);
    assert!(shown.permitted && shown.called == 1, "{shown:?}");
}

fn receive(sim: &Sim, ends: &Ends, of: &Endpoint, payload: &[u8]) {
    let shown = sim.datagram(of, &[&ends.coming(payload)], false);
    assert!(shown.permitted && shown.called == 1, "{shown:?}");
}

fn stream(sim: &Sim, of: &Endpoint, payload: &[u8], sends: bool) {
    let (shown, answered) = sim.stream(of, payload, sends);
    assert!(shown.permitted && shown.called == 1, "{shown:?}");
    assert_eq!(answered, payload.len(), "the answer is for all of it");
}

/// A packet that leaves is held, and its flow decided.
fn decide(sim: &Sim, session: &Session, ends: &Ends, verdict: Verdict) {
    let packet = Packet::outbound(ends.leaving(b"first"));
    assert_eq!(sim.classify(&packet), ABSORBED);
    let request = request(session);
    session
        .set_verdict(request.info.id.get(), permanent(verdict))
        .unwrap();
}

fn flow(session: &Session, ends: &Ends) -> FlowInfo {
    let is = |flow: &FlowInfo| {
        flow.flow.local_port == ends.local.1 && flow.origin == FlowOrigin::Verdict
    };
    let mut flows = session.flows().map(Result::unwrap).filter(is);
    let found = flows.next().unwrap();
    assert!(flows.next().is_none());
    found
}

#[track_caller]
fn payload(session: &Session, ends: &Ends) -> (u64, u64) {
    let flow = flow(session, ends);
    (flow.payload_outbound, flow.payload_inbound)
}

fn payload_of_streams_is_counted() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    for ends in [Ends::tcp(100), Ends::tcp(101).over_v6()] {
        for accepts in [false, true] {
            let ends = Ends {
                local: (1, ends.local.1 + 10 * u16::from(accepts)),
                ..ends
            };
            let socket = endpoint(&ends, 5, accepts);
            decide(&sim, &session, &ends, Verdict::Accept);
            assert_eq!(payload(&session, &ends), (0, 0));
            stream(&sim, &socket, &[1; 300], true);
            stream(&sim, &socket, &[2; 4_000], false);
            stream(&sim, &socket, &[3; 7], true);
            // The end of a stream is a piece without payload.
            stream(&sim, &socket, b"", false);
            assert_eq!(payload(&session, &ends), (307, 4_000));
        }
    }
    close(session);
    sim.unload();
}

/// The first datagrams are shown before their packets, and so before the verdict.
fn payload_of_datagrams_is_counted() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    for ends in [Ends::udp(100), Ends::udp(101).over_v6()] {
        let socket = endpoint(&ends, 5, false);
        sim.authorize(&socket);
        send(&sim, &ends, &socket, b"first");
        decide(&sim, &session, &ends, Verdict::Accept);
        assert_eq!(payload(&session, &ends), (5, 0));
        receive(&sim, &ends, &socket, &[0; 500]);
        send(&sim, &ends, &socket, b"");
        send(&sim, &ends, &socket, b"x");
        receive(&sim, &ends, &socket, b"");
        assert_eq!(payload(&session, &ends), (6, 500));
        let bytes = flow(&session, &ends).outbound.bytes;
        assert_eq!(bytes, ends.leaving(b"first").len() as u64);
    }
    close(session);
    sim.unload();
}

fn datagrams_that_come_together_are_all_counted() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends::udp(100);
    let socket = endpoint(&ends, 5, false);
    decide(&sim, &session, &ends, Verdict::Accept);
    let packets = [&b"one"[..], b"", b"three"].map(|payload| {
        let packet = ends.leaving(payload);
        behind_ip(&ends, &packet)
    });
    // One that is too short for its header has no payload.
    let all = [&packets[0][..], &packets[1], &packets[2], &[0; 5]];
    sim.datagram(&socket, &all, true);
    assert_eq!(payload(&session, &ends), (8, 0));
    close(session);
    sim.unload();
}

fn payload_is_told_when_a_flow_ends() {
    let sim = load();
    let session = open(&sim);
    session.events(1, true).unwrap();
    let ends = Ends::tcp(100);
    let socket = endpoint(&ends, 5, false);
    sim.authorize(&socket);
    decide(&sim, &session, &ends, Verdict::Accept);
    stream(&sim, &socket, &[0; 30], true);
    stream(&sim, &socket, &[0; 60], false);
    sim.close_endpoint(&socket);
    sim.advance(std::time::Duration::from_secs(70));
    sim.classify(&Packet::outbound(ends.leaving(b"")));
    let page = session.events(10, true).unwrap();
    assert_eq!(page.events.len(), 1);
    let event = page.events[0];
    assert_eq!(event.end, FlowEnd::Closed);
    let flow = event.flow;
    assert_eq!((flow.payload_outbound, flow.payload_inbound), (30, 60));
    close(session);
    sim.unload();
}

/// Both ends of what this machine sends to itself are shown; it counts for the one that sends.
fn loopback_payload_is_counted_once() {
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        // The other end has a flow of its own.
        let there = Ends {
            local: ends.remote,
            remote: ends.local,
            ..ends
        };
        let loopback = |ends: &Ends| Endpoint {
            flags: IS_LOOPBACK,
            ..endpoint(ends, 5, false)
        };
        let (here_end, there_end) = (loopback(&ends), loopback(&there));
        for ends in [ends, there] {
            let packet = Packet::outbound(ends.leaving(b"first")).loopback();
            sim.classify(&packet);
            let request = request(&session);
            session
                .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
                .unwrap();
        }
        if ends.protocol == 6 {
            stream(&sim, &here_end, &[0; 11], true);
            stream(&sim, &there_end, &[0; 11], false);
            stream(&sim, &there_end, &[0; 22], true);
            stream(&sim, &here_end, &[0; 22], false);
        } else {
            send(&sim, &ends, &here_end, &[0; 11]);
            receive(&sim, &there, &there_end, &[0; 11]);
            send(&sim, &there, &there_end, &[0; 22]);
            receive(&sim, &ends, &here_end, &[0; 22]);
        }
        assert_eq!(payload(&session, &ends), (11, 0), "{ends:?}");
        assert_eq!(payload(&session, &there), (22, 0), "{ends:?}");
        session.clear_cache().unwrap();
    }
    close(session);
    sim.unload();
}

/// The answers of a resolver on this machine come as loopback, and are the flow's all the same.
fn payload_of_a_redirected_flow_comes_back() {
    let sim = load();
    let session = open(&sim);
    for ends in [Ends::udp(100), Ends::udp(101).over_v6()] {
        let ends = Ends {
            remote: (9, 53),
            ..ends
        };
        let socket = endpoint(&ends, 5, false);
        send(&sim, &ends, &socket, b"first");
        decide(&sim, &session, &ends, Verdict::RedirectDns);
        let answered = Endpoint {
            flags: IS_LOOPBACK,
            ..socket
        };
        receive(&sim, &ends, &answered, &[0; 44]);
        assert_eq!(payload(&session, &ends), (5, 44));
        session.clear_cache().unwrap();
    }
    close(session);
    sim.unload();
}

/// Its ends name the kind of message, where flows have the identifier.
fn icmp_has_no_payload() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends::udp(100);
    decide(&sim, &session, &ends, Verdict::Accept);
    let icmp = Endpoint {
        protocol: 1,
        ..endpoint(&ends, 5, false)
    };
    sim.datagram(&icmp, &[&[8, 0, 0, 0, 0, 1, 0, 1]], true);
    sim.datagram(&icmp, &[&ends.coming(b"12345678")], false);
    assert_eq!(payload(&session, &ends), (0, 0));
    assert_eq!(session.flows().count(), 1);
    close(session);
    sim.unload();
}

fn path(session: &Session, process: u64) -> Option<(String, bool)> {
    let path = session.process_path(process).unwrap()?;
    Some((String::from_utf16(&path.utf16).unwrap(), path.is_cut))
}

fn authorize(sim: &Sim, process: u64, path: &str, accepts: bool) {
    let ends = if accepts {
        Ends::udp(100).over_v6()
    } else {
        Ends::tcp(100)
    };
    sim.authorize(&Endpoint {
        path: path.into(),
        ..endpoint(&ends, process, accepts)
    });
}

fn paths_are_told() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    let (one, other) = (
        r"\device\harddiskvolume3\one.exe",
        r"\device\harddiskvolume3\søme øther.exe",
    );
    assert_eq!(path(&session, 8), None);
    authorize(&sim, 8, one, false);
    authorize(&sim, 12, other, true);
    authorize(&sim, 16, "", false);
    assert_eq!(path(&session, 8), Some((one.into(), false)));
    assert_eq!(path(&session, 12), Some((other.into(), false)));
    for unknown in [0, 16, 7, u64::MAX] {
        assert_eq!(path(&session, unknown), None);
    }
    // The number is given to another process.
    authorize(&sim, 8, other, false);
    assert_eq!(path(&session, 8), Some((other.into(), false)));
    // One that ends with a zero is the same.
    authorize(&sim, 8, &format!("{one}\0"), false);
    assert_eq!(path(&session, 8), Some((one.into(), false)));
    close(session);
    sim.unload();
}

fn long_paths_are_cut() {
    let sim = load();
    let session = open(&sim);
    let long = "x".repeat(260);
    authorize(&sim, 8, &long, false);
    assert_eq!(path(&session, 8), Some((long.clone(), false)));
    authorize(&sim, 8, &"x".repeat(30_000), false);
    assert_eq!(path(&session, 8), Some((long, true)));
    // Many processes: the one told of last is known.
    for process in 1..3_000 {
        authorize(&sim, 4 * process, &format!("{process}.exe"), false);
        let last = path(&session, 4 * process);
        assert_eq!(last, Some((format!("{process}.exe"), false)));
    }
    assert_eq!(path(&session, 4), None);
    close(session);
    sim.unload();
}
