//! Packets whose bytes are in several pieces of memory: the same comes of them as of those in one, and a
//! packet of a cached flow is not copied.

use kext_client::{Counters, Session};
use kext_ntsim::harness::{self, Test};
use kext_ntsim::{Classified, Completion, Direction, Injected, Packet, Sim, calls_of, guard_pages};
use kext_ntsim_drivers::Defect;
use kext_types::{Reason, Verdict};

use crate::packets::{
    BOTH, EVERY, bytes, close, decided, once, open, permanent, request, requests,
};
use crate::traffic::Ends;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "pieces::every_cut_comes_to_the_same",
        every_cut_comes_to_the_same,
    ),
    passes("pieces::every_cut_is_held_whole", every_cut_is_held_whole),
    passes(
        "pieces::cached_packets_are_not_copied",
        cached_packets_are_not_copied,
    ),
    passes(
        "pieces::a_cached_packet_makes_the_calls_of_the_bench",
        a_cached_packet_makes_the_calls_of_the_bench,
    ),
    passes(
        "pieces::loopback_is_looked_at_in_pieces",
        loopback_is_looked_at_in_pieces,
    ),
];

/// What a packet comes to: the answer, what was injected for it, and how it was counted.
fn present(
    sim: &Sim,
    session: &Session,
    packet: &Packet,
) -> (Classified, Vec<Injected>, Vec<(Reason, u64)>) {
    let before = session.counters().unwrap();
    let classified = sim.classify(packet);
    let injected = sim.injected();
    let after = session.counters().unwrap();
    assert!(after.balanced(), "{after:?}");
    (classified, injected, changes(&before, &after))
}

fn changes(before: &Counters, after: &Counters) -> Vec<(Reason, u64)> {
    Reason::ALL
        .iter()
        .map(|reason| (*reason, after.reason(*reason) - before.reason(*reason)))
        .filter(|(_, more)| *more > 0)
        .collect()
}

/// Split over two pieces at every byte of its headers and the first of its payload.
fn every_cut_comes_to_the_same() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    let verdicts = [
        Verdict::Accept,
        Verdict::Block,
        Verdict::Drop,
        Verdict::RedirectDns,
    ];
    for (number, verdict) in verdicts.into_iter().enumerate() {
        for mut ends in EVERY {
            ends.local.1 += 100 * number as u16;
            let first = Packet::outbound(ends.leaving(b"first"));
            decided(&sim, &session, &first, verdict);
            sim.injected();
            for direction in BOTH {
                let packet = Packet::new(direction, bytes(&ends, direction, b"payload"));
                let expected = present(&sim, &session, &packet);
                let length = bytes(&ends, direction, b"").len();
                for cut in 1..=length {
                    let split = packet.clone().split(&[cut]);
                    let mut found = present(&sim, &session, &split);
                    // Answers are numbered.
                    for (found, expected) in found.1.iter_mut().zip(&expected.1) {
                        if verdict == Verdict::Block && !ends.v6 {
                            found.bytes[4..6].copy_from_slice(&expected.bytes[4..6]);
                            found.bytes[10..12].copy_from_slice(&expected.bytes[10..12]);
                        }
                    }
                    assert_eq!(found, expected, "{ends:?} {verdict:?} {direction:?} {cut}");
                }
            }
        }
    }
    close(session);
    sim.unload();
}

fn every_cut_is_held_whole() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        for direction in BOTH {
            let length = bytes(&ends, direction, b"").len();
            for cut in 1..=length {
                let mut ends = ends;
                ends.local.1 += 10 * cut as u16;
                let sent = bytes(&ends, direction, b"payload");
                let packet = Packet::new(direction, sent.clone()).split(&[cut]);
                assert!(sim.classify(&packet).absorbed);
                let request = request(&session);
                assert_eq!(&*request.payload, sent, "cut at {cut}");
                session
                    .set_verdict(request.info.id.get(), once(Verdict::Accept))
                    .unwrap();
                assert_eq!(sim.injected()[0].bytes, sent, "cut at {cut}");
            }
        }
    }
    close(session);
    sim.unload();
}

/// With every block for packets on its way, those of cached flows pass all the same.
fn cached_packets_are_not_copied() {
    let sim = load();
    let session = open(&sim);
    let accepted = Ends::tcp(100);
    let dropped = Ends::tcp(101);
    for (ends, verdict) in [(accepted, Verdict::Accept), (dropped, Verdict::Drop)] {
        decided(
            &sim,
            &session,
            &Packet::outbound(ends.leaving(b"")),
            verdict,
        );
    }
    sim.injected();
    sim.complete_injections(Completion::Held);
    let blocks = 1_024 + 128 + 32;
    // A thousand at a time, as many as can be held.
    for round in 0..2 {
        for port in 0..blocks / 2 {
            let ends = Ends::udp(1_000 + round * 1_000 + port);
            assert!(sim.classify(&Packet::outbound(ends.leaving(b"x"))).absorbed);
        }
        for request in requests(&session) {
            session
                .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
                .unwrap();
        }
        session.flush().unwrap();
    }
    assert_eq!(sim.injections(), usize::from(blocks));
    let counters = || session.counters().unwrap();
    // The flags of the segment are in the first piece, then they are not.
    for direction in BOTH {
        for (ends, permitted) in [(accepted, true), (dropped, false)] {
            let packet = Packet::new(direction, bytes(&ends, direction, b"more")).split(&[40]);
            assert_eq!(sim.classify(&packet).permitted, permitted);
        }
    }
    assert_eq!(counters().reason(Reason::PermittedCache), 2);
    assert_eq!(counters().reason(Reason::DroppedCache), 2);
    assert_eq!(counters().reason(Reason::PermittedUnparsable), 0);
    let packet = Packet::outbound(dropped.leaving(b"more")).split(&[30]);
    assert!(sim.classify(&packet).permitted);
    assert_eq!(counters().reason(Reason::PermittedUnparsable), 1);
    sim.release_injections(usize::MAX);
    close(session);
    sim.unload();
}

/// What a bench subtracts as the simulation's share is what the driver calls, but for the lock of a flow:
/// the bench counts that to the extension.
fn a_cached_packet_makes_the_calls_of_the_bench() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends::tcp(100);
    decided(
        &sim,
        &session,
        &Packet::outbound(ends.leaving(b"")),
        Verdict::Accept,
    );
    sim.injected();
    let calls = || BOTH.map(|direction| Packet::new(direction, bytes(&ends, direction, b"more")));
    let shipped = calls().map(|packet| {
        let mut calls = calls_of(|| {
            assert!(sim.classify(&packet).permitted);
        });
        let locks = calls.len();
        calls.retain(|call| !call.contains("SpinLock"));
        assert_eq!(locks - calls.len(), 2, "one is taken and released");
        calls
    });
    close(session);
    sim.unload();
    let path = harness::built("NtsimBroken64.sys");
    let service = format!("{}", Defect::OnlyCalls as u32);
    let sim = Sim::load_as(&path, &service).expect("the driver loads");
    let alone = calls().map(|packet| {
        calls_of(|| {
            assert!(sim.classify(&packet).permitted);
        })
    });
    assert_eq!(alone, shipped);
    sim.unload();
}

/// What a machine sends to itself is presented as it leaves; as it comes only if it may be an answer of a
/// redirect target, which its first piece or both tell.
fn loopback_is_looked_at_in_pieces() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends {
        local: (1, 6000),
        remote: (1, 53),
        ..Ends::udp(0)
    };
    for cut in 1..28 {
        let mut other = ends;
        other.local.1 += cut as u16;
        other.remote.1 = 54;
        let passes = Packet::new(Direction::Inbound, other.coming(b"x"));
        let before = session.counters().unwrap().seen();
        assert!(sim.classify(&passes.loopback().split(&[cut])).permitted);
        assert_eq!(session.counters().unwrap().seen(), before);
        let answer = Packet::new(Direction::Inbound, ends.coming(b"x"));
        sim.classify(&answer.loopback().split(&[cut]));
        assert_eq!(
            session.counters().unwrap().seen(),
            before + 1,
            "cut at {cut}"
        );
    }
    close(session);
    sim.unload();
}
