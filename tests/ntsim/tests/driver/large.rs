//! Datagrams that are longer than the network takes: they are shown whole, and leave us in fragments.

use kext_ntsim::harness::Test;
use kext_ntsim::{Completion, Injected, Packet, deepest_stack, guard_pages, messages};
use kext_types::{Event, Reason, Verdict};

use crate::packets::{close, decided, once, open, permanent, request, requests};
use crate::traffic::Ends;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "large::held_datagrams_leave_in_fragments",
        held_datagrams_leave_in_fragments,
    ),
    passes(
        "large::redirected_datagrams_leave_in_fragments",
        redirected_datagrams_leave_in_fragments,
    ),
    passes(
        "large::what_its_sender_does_not_want_divided_is_refused",
        what_its_sender_does_not_want_divided_is_refused,
    ),
    passes(
        "large::all_fragments_leave_or_none",
        all_fragments_leave_or_none,
    ),
];

const BOTH: [Ends; 2] = [Ends::udp(1000), Ends::udp(1001).over_v6()];

fn payload(len: usize) -> Vec<u8> {
    (0..len).map(|at| (at % 251) as u8).collect()
}

fn word(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_be_bytes([bytes[at], bytes[at + 1]]))
}

/// A receiver: offset, whether more follow and data of a fragment.
fn fragment(bytes: &[u8]) -> (usize, bool, &[u8]) {
    if bytes[0] >> 4 == 4 {
        let flags = word(bytes, 6);
        return ((flags & 0x1fff) * 8, flags & 0x2000 != 0, &bytes[20..]);
    }
    assert_eq!(bytes[6], 44, "there is no fragment header");
    let flags = word(bytes, 42);
    (flags & 0xfff8, flags & 1 != 0, &bytes[48..])
}

/// What a receiver makes of the fragments of one datagram, from the transport header on.
fn received(fragments: &[Injected], mtu: usize) -> Vec<u8> {
    assert!(fragments.len() > 1);
    let mut data = Vec::new();
    let identification = |bytes: &[u8]| match bytes[0] >> 4 {
        4 => bytes[4..6].to_vec(),
        _ => bytes[44..48].to_vec(),
    };
    for (number, one) in fragments.iter().enumerate() {
        assert!(one.bytes.len() <= mtu, "{} bytes", one.bytes.len());
        assert_eq!(one.wrong, None);
        assert!(one.classified.permitted, "{:?}", one.classified);
        assert_eq!(one.compartment, 3);
        assert_eq!(
            identification(&one.bytes),
            identification(&fragments[0].bytes)
        );
        let (offset, more, piece) = fragment(&one.bytes);
        assert_eq!(offset, data.len());
        assert_eq!(more, number + 1 < fragments.len());
        data.extend(piece);
    }
    data
}

fn transport(ends: &Ends, packet: &[u8]) -> Vec<u8> {
    packet[if ends.v6 { 40 } else { 20 }..].to_vec()
}

fn held_datagrams_leave_in_fragments() {
    guard_pages(true);
    for completion in [Completion::AtOnce, Completion::Elsewhere] {
        let sim = load();
        let session = open(&sim);
        sim.complete_injections(completion);
        for mtu in [1500, 1280, 9000] {
            sim.set_mtu(mtu);
            for ends in BOTH {
                for len in [mtu as usize, 4_000, 65_507] {
                    let sent = ends.leaving(&payload(len));
                    if sent.len() <= mtu as usize {
                        continue;
                    }
                    let packet = Packet::outbound(sent.clone()).compartment(Some(3));
                    sim.classify(&packet);
                    let request = request(&session);
                    assert_eq!(request.info.size as usize, sent.len());
                    session
                        .set_verdict(request.info.id.get(), once(Verdict::Accept))
                        .unwrap();
                    let left = sim.injected();
                    assert_eq!(received(&left, mtu as usize), transport(&ends, &sent));
                }
            }
        }
        let counters = session.counters().unwrap();
        assert!(counters.balanced(), "{counters:?}");
        assert_eq!(counters.reason(Reason::DroppedInjectFailed), 0);
        close(session);
        sim.unload();
    }
    assert!(
        deepest_stack() < 10 * 1024,
        "{} bytes of stack",
        deepest_stack()
    );
    eprintln!("{} bytes of stack", deepest_stack());
}

fn redirected_datagrams_leave_in_fragments() {
    let sim = load();
    let session = open(&sim);
    for ends in BOTH {
        let ends = Ends {
            remote: (9, 53),
            ..ends
        };
        let there = Ends {
            remote: (ends.local.0, 53),
            ..ends
        };
        let packet = |len| Packet::outbound(ends.leaving(&payload(len))).compartment(Some(3));
        let expected = |len| transport(&ends, &there.leaving(&payload(len)));
        decided(&sim, &session, &packet(4_000), Verdict::RedirectDns);
        assert_eq!(received(&sim.injected(), 1500), expected(4_000));
        assert!(sim.classify(&packet(65_507)).absorbed);
        assert_eq!(received(&sim.injected(), 1500), expected(65_507));
    }
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.unload();
}

/// The stack does not send such a packet either. We cannot know that before it says so.
fn what_its_sender_does_not_want_divided_is_refused() {
    let sim = load();
    let session = open(&sim);
    let mut sent = BOTH[0].leaving(&payload(4_000));
    sent[6] = 0x40;
    decided(&sim, &session, &Packet::outbound(sent), Verdict::Accept);
    assert!(sim.injected().is_empty());
    let counters = session.counters().unwrap();
    assert_eq!(counters.event(Event::InjectionsRefused), 1);
    assert!(counters.balanced(), "{counters:?}");
    close(session);
    sim.unload();
    let said = messages().join("\n");
    assert!(said.contains("the network stack refused"), "{said}");
}

/// There is memory for the fragments of some datagrams only.
fn all_fragments_leave_or_none() {
    const SENT: u64 = 60;
    let sim = load();
    let session = open(&sim);
    sim.complete_injections(Completion::Held);
    for number in 0..SENT {
        let ends = Ends::udp(2000 + number as u16);
        sim.classify(&Packet::outbound(ends.leaving(&payload(65_507))));
    }
    for request in requests(&session) {
        session
            .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
            .unwrap();
    }
    let counters = session.counters().unwrap();
    let lost =
        counters.reason(Reason::DroppedInjectFailed) + counters.reason(Reason::DroppedNoBuffer);
    assert!(lost > 0 && lost < SENT, "{lost}");
    assert!(counters.balanced(), "{counters:?}");
    sim.complete_injections(Completion::Elsewhere);
    sim.release_injections(usize::MAX);
    let left = sim.injected();
    assert_eq!(left.len() as u64, (SENT - lost) * 45);
    close(session);
    sim.unload();
}
