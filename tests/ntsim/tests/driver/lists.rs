//! Lists that are taken apart, and what of them cannot go on: it is counted as lost, not as permitted.

use kext_client::{Counters, Session};
use kext_ntsim::harness::Test;
use kext_ntsim::{Completion, Faults, Packet, Sim, clear_faults, failed_calls, set_faults};
use kext_types::{Config, Reason, Special, Verdict};

use crate::packets::{ABSORBED, close, decided, once, open, requests};
use crate::traffic::Ends;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "lists::what_cannot_be_injected_is_dropped",
        what_cannot_be_injected_is_dropped,
    ),
    passes(
        "lists::what_has_no_memory_is_dropped",
        what_has_no_memory_is_dropped,
    ),
    passes(
        "lists::packets_that_were_not_asked_about_are_counted_when_lost",
        packets_that_were_not_asked_about_are_counted_when_lost,
    ),
    passes(
        "lists::lists_of_many_reasons_are_taken_apart",
        lists_of_many_reasons_are_taken_apart,
    ),
];

fn reason(counters: &Counters, reason: Reason) -> u64 {
    let found = counters
        .into_iter()
        .find(|counter| counter.number == reason.number());
    found.unwrap().value
}

/// A flow that is accepted and cached.
fn known(sim: &Sim, session: &Session) -> Ends {
    let known = Ends::udp(4_000);
    // What a driver before this one has sent at its end.
    sim.injected();
    let packet = Packet::outbound(known.leaving(b"x"));
    decided(sim, session, &packet, Verdict::Accept);
    assert_eq!(sim.injected().len(), 1);
    known
}

/// Two packets of a known flow around one of a new flow.
fn mixed(known: &Ends, port: u16) -> Packet {
    Packet::outbound(known.leaving(b"first"))
        .and(Ends::udp(port).leaving(b"held"))
        .and(known.leaving(b"last"))
}

/// Each call that can fail does, once: a packet is then lost or was permitted, and never both.
fn what_cannot_be_injected_is_dropped() {
    let sim = load();
    let session = open(&sim);
    let known = known(&sim, &session);
    let mut lost = 0;
    for number in 0.. {
        let before = session.counters().unwrap();
        set_faults(Faults::Nth(number));
        assert_eq!(
            sim.classify(&mixed(&known, 4_001 + number as u16)),
            ABSORBED
        );
        clear_faults();
        let failed = failed_calls();
        let counters = session.counters().unwrap();
        assert!(counters.balanced(), "{counters:?}");
        let left = sim.injected().len() as u64;
        let since = |of| reason(&counters, of) - reason(&before, of);
        let permitted = since(Reason::PermittedCache);
        let dropped = since(Reason::DroppedInjectFailed) + since(Reason::DroppedNoBuffer);
        assert_eq!((permitted, permitted + dropped), (left, 2), "{failed:?}");
        assert_eq!(counters.held(), before.held() + 1);
        lost += dropped;
        if failed.is_empty() {
            break;
        }
    }
    assert!(lost >= 2, "{lost}");
    close(session);
    sim.unload();
}

/// Every block is on its way, and none comes back: there is no memory for copies.
fn what_has_no_memory_is_dropped() {
    /// All blocks that the driver has, and some more.
    const BLOCKS: usize = 1_024 + 128 + 32 + 16;
    let sim = load();
    let session = open(&sim);
    let known = known(&sim, &session);
    sim.complete_injections(Completion::Held);
    for _ in 0..BLOCKS {
        sim.classify(&Packet::outbound(Ends::udp(5_000).leaving(b"x")));
        for request in requests(&session) {
            session
                .set_verdict(request.info.id.get(), once(Verdict::Accept))
                .unwrap();
        }
    }
    let before = session.counters().unwrap();
    assert_eq!(reason(&before, Reason::DroppedNoBuffer), 16);
    assert_eq!(sim.classify(&mixed(&known, 4_001)), ABSORBED);
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    let since = |of| reason(&counters, of) - reason(&before, of);
    assert_eq!(since(Reason::DroppedNoBuffer), 2);
    assert_eq!(since(Reason::PermittedCache), 0);
    sim.complete_injections(Completion::AtOnce);
    sim.release_injections(BLOCKS);
    // With memory they go again.
    sim.injected();
    assert_eq!(sim.classify(&mixed(&known, 4_002)), ABSORBED);
    assert_eq!(sim.injected().len(), 2);
    close(session);
    sim.unload();
}

/// Loopback that comes was presented as it left. If it is lost then, it is one more packet that is.
fn packets_that_were_not_asked_about_are_counted_when_lost() {
    let sim = load();
    let session = open(&sim);
    // What comes from the port of the resolver may be an answer, and is asked about.
    let config = Config {
        fast_track: Special::Ask,
        ..Config::default()
    };
    session.set_config(&config).unwrap();
    let ends = Ends {
        remote: (1, 53),
        ..Ends::udp(4_000)
    };
    // The addresses that the layer tells are of all packets of a call.
    let other = Ends {
        remote: (1, 443),
        ..Ends::udp(4_001)
    };
    let list = Packet::inbound(other.coming(b"not asked"))
        .chained(ends.coming(b"asked"))
        .loopback();
    let before = session.counters().unwrap();
    sim.stack_ready(false);
    assert_eq!(sim.classify(&list), ABSORBED);
    sim.stack_ready(true);
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    assert_eq!(counters.seen() - before.seen(), 2);
    assert_eq!(reason(&counters, Reason::DroppedInjectFailed), 1);
    assert_eq!(counters.held(), 1);
    close(session);
    sim.unload();
}

/// More changes of the reason than are remembered: nothing is lost, and each is counted as what it was.
fn lists_of_many_reasons_are_taken_apart() {
    let sim = load();
    let session = open(&sim);
    let known = known(&sim, &session);
    let group = Ends {
        remote: (224, 5_353),
        ..Ends::udp(4_001)
    };
    let mut multicast = group.leaving(b"x");
    multicast[16..20].copy_from_slice(&[224, 0, 0, 251]);
    let before = session.counters().unwrap();
    let mut list = Packet::outbound(known.leaving(b"0"));
    for _ in 0..6 {
        list = list.and(multicast.clone()).and(known.leaving(b"1"));
    }
    assert_eq!(sim.classify(&list), ABSORBED);
    assert_eq!(sim.injected().len(), 13);
    let counters = session.counters().unwrap();
    let since = |of| reason(&counters, of) - reason(&before, of);
    assert_eq!(since(Reason::PermittedCache), 7);
    assert_eq!(since(Reason::PermittedMulticast), 6);
    assert!(counters.balanced(), "{counters:?}");
    close(session);
    sim.unload();
}
