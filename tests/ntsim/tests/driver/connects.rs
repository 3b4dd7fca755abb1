//! Connects that are held until their verdict, through the driver and the simulated filter engine.

use std::time::Duration;

use kext_client::Session;
use kext_nt_sys::fwp::{
    FWP_CONDITION_FLAG_IS_REAUTHORIZE, FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE,
};
use kext_ntsim::harness::Test;
use kext_ntsim::{
    Classified, Endpoint, Faults, Held, LoadError, Packet, Sim, clear_faults, set_faults,
};
use kext_types::{Config, Decision, Event, Policy, ProcessId, Reason, Verdict};

use crate::packets::{close, endpoint, once, open, permanent, request, requests};
use crate::traffic::Ends;
use crate::{driver, load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "connects::without_the_switch_nothing_is_held",
        without_the_switch_nothing_is_held,
    ),
    passes("connects::a_verdict_is_told", a_verdict_is_told),
    passes(
        "connects::cached_verdicts_are_told_at_once",
        cached_verdicts_are_told_at_once,
    ),
    passes(
        "connects::a_verdict_for_once_is_that_of_the_syn",
        a_verdict_for_once_is_that_of_the_syn,
    ),
    passes("connects::the_request_shows_a_syn", the_request_shows_a_syn),
    passes("connects::others_are_not_held", others_are_not_held),
    passes(
        "connects::what_was_decided_is_told_as_often_as_asked",
        what_was_decided_is_told_as_often_as_asked,
    ),
    passes(
        "connects::the_hold_limit_ends_waiting",
        the_hold_limit_ends_waiting,
    ),
    passes(
        "connects::a_full_packet_cache_ends_waiting",
        a_full_packet_cache_ends_waiting,
    ),
    passes("connects::closing_ends_waiting", closing_ends_waiting),
    passes(
        "connects::a_closed_socket_ends_waiting",
        a_closed_socket_ends_waiting,
    ),
    passes(
        "connects::a_verdict_races_the_end_of_its_socket",
        a_verdict_races_the_end_of_its_socket,
    ),
    passes(
        "connects::what_cannot_be_held_is_asked_about_once",
        what_cannot_be_held_is_asked_about_once,
    ),
    passes(
        "connects::a_full_table_holds_no_more",
        a_full_table_holds_no_more,
    ),
    passes(
        "connects::the_engine_may_go_while_they_wait",
        the_engine_may_go_while_they_wait,
    ),
    passes("connects::closing_meets_connects", closing_meets_connects),
    passes("connects::each_call_fails_once", each_call_fails_once),
    passes(
        "connects::threads_leave_nothing_held",
        threads_leave_nothing_held,
    ),
];

const PROCESS: u64 = 4_321;

/// A connect of both families.
fn both(port: u16) -> [Ends; 2] {
    [Ends::tcp(port), Ends::tcp(port).over_v6()]
}

fn socket(ends: &Ends) -> Endpoint {
    Endpoint {
        // Both families of one port are two sockets.
        handle: u64::from(ends.local.1) * 2 + u64::from(ends.v6),
        flow: u64::from(ends.local.1) * 2 + u64::from(ends.v6) + 1,
        ..endpoint(ends, PROCESS, false)
    }
}

fn switch_on(session: &Session, change: impl FnOnce(&mut Config)) {
    let mut config = session.config().unwrap();
    config.hold_connects = true;
    change(&mut config);
    session.set_config(&config).unwrap();
}

/// A session that holds connects.
fn holding(sim: &Sim) -> Session {
    let session = open(sim);
    switch_on(&session, |_| ());
    session
}

/// Whether the one connect that was held goes on.
#[track_caller]
fn told(sim: &Sim) -> bool {
    let mut ended = sim.authorized();
    assert_eq!(ended.len(), 1, "{ended:?}");
    match ended.remove(0).1 {
        Held::Decided(classified) => {
            // A refusal is final, and no packet is taken away.
            assert_eq!(classified.hard, !classified.permitted);
            assert!(!classified.absorbed);
            classified.permitted
        }
        Held::Pended => panic!("held again"),
    }
}

fn decide(session: &Session, decision: Decision) {
    let id = request(session).info.id.get();
    session.set_verdict(id, decision).unwrap();
}

fn syn(sim: &Sim, ends: &Ends) -> Classified {
    sim.classify(&Packet::outbound(ends.leaving(b"")))
}

#[track_caller]
fn settled(session: &Session) {
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    assert_eq!(counters.held(), 0);
    assert_eq!(counters.reason(Reason::DroppedUnsettled), 0);
}

const PASSED_ON: Held = Held::Decided(Classified {
    permitted: true,
    absorbed: false,
    hard: false,
    called: 1,
});

const REFUSED: Held = Held::Decided(Classified {
    permitted: false,
    absorbed: false,
    hard: true,
    called: 1,
});

fn without_the_switch_nothing_is_held() {
    let sim = load();
    let session = open(&sim);
    for ends in both(1_000) {
        assert_eq!(sim.authorize(&socket(&ends)), PASSED_ON);
        assert!(!syn(&sim, &ends).permitted);
        decide(&session, permanent(Verdict::Block));
        // Whoever connects is told by an answer to its packet only.
        assert_eq!(sim.authorize(&socket(&ends)), PASSED_ON);
        assert_eq!(sim.injected().len(), 1);
    }
    let counters = session.counters().unwrap();
    for reason in [
        Reason::PermittedConnect,
        Reason::BlockedConnect,
        Reason::DroppedConnect,
    ] {
        assert_eq!(counters.reason(reason), 0);
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn a_verdict_is_told() {
    let sim = load();
    let session = holding(&sim);
    let verdicts = [
        (Verdict::Accept, true),
        (Verdict::RedirectTunnel, true),
        (Verdict::Block, false),
        (Verdict::Drop, false),
    ];
    let mut port = 1_000;
    for (verdict, goes_on) in verdicts {
        for decision in [permanent(verdict), once(verdict)] {
            port += 1;
            for ends in both(port) {
                assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
                assert_eq!(sim.pended(), 1);
                decide(&session, decision);
                assert_eq!(sim.pended(), 0);
                assert_eq!(told(&sim), goes_on, "{verdict:?}");
                // Nothing was sent, so nothing is answered, and nothing is let go.
                assert!(sim.injected().is_empty());
            }
        }
    }
    let counters = session.counters().unwrap();
    assert_eq!(counters.reason(Reason::PermittedConnect), 8);
    assert_eq!(counters.reason(Reason::BlockedConnect), 4);
    assert_eq!(counters.reason(Reason::DroppedConnect), 4);
    settled(&session);
    close(session);
    sim.unload();
}

fn cached_verdicts_are_told_at_once() {
    let sim = load();
    let session = holding(&sim);
    for (verdict, expected) in [
        (Verdict::Accept, PASSED_ON),
        (Verdict::Block, REFUSED),
        (Verdict::Drop, REFUSED),
    ] {
        for ends in both(1_000 + u16::from(verdict.number())) {
            sim.authorize(&socket(&ends));
            decide(&session, permanent(verdict));
            told(&sim);
            assert_eq!(sim.authorize(&socket(&ends)), expected, "{verdict:?}");
            assert_eq!(syn(&sim, &ends).permitted, expected == PASSED_ON);
        }
    }
    assert!(requests(&session).is_empty());
    settled(&session);
    close(session);
    sim.unload();
}

fn a_verdict_for_once_is_that_of_the_syn() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        sim.authorize(&socket(&ends));
        decide(&session, once(Verdict::Accept));
        assert!(told(&sim));
        assert!(syn(&sim, &ends).permitted);
        assert!(requests(&session).is_empty());
        // Whatever comes next is asked about.
        assert!(!syn(&sim, &ends).permitted);
        decide(&session, once(Verdict::Drop));
    }
    for ends in both(1_001) {
        sim.authorize(&socket(&ends));
        decide(&session, once(Verdict::RedirectDns));
        assert!(told(&sim));
        assert!(!syn(&sim, &ends).permitted);
        let injected = sim.injected();
        assert_eq!(injected.len(), 1);
        assert_ne!(injected[0].bytes, ends.leaving(b""));
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn the_request_shows_a_syn() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        sim.authorize(&socket(&ends));
        let request = request(&session);
        assert_eq!(request.info.process_id.map(ProcessId::get), Some(PROCESS));
        assert_eq!(request.info.interface.index, 7);
        let sent = ends.leaving(b"");
        assert_eq!(request.payload.len(), sent.len());
        // Addresses and ports.
        let (from, to) = if ends.v6 { (8, 44) } else { (12, 24) };
        assert_eq!(request.payload[from..to], sent[from..to]);
        session
            .set_verdict(request.info.id.get(), once(Verdict::Block))
            .unwrap();
        assert!(!told(&sim));
    }
    close(session);
    sim.unload();
}

fn others_are_not_held() {
    let sim = load();
    let session = holding(&sim);
    let ends = Ends::tcp(1_000);
    let udp = socket(&Ends::udp(1_000));
    let loopback = Endpoint {
        flags: 1,
        ..socket(&ends)
    };
    let again = Endpoint {
        flags: 4,
        ..socket(&ends)
    };
    let accepted = Endpoint {
        accepts: true,
        ..socket(&ends)
    };
    let no_address = Endpoint {
        local: vec![0; 4],
        ..socket(&ends)
    };
    for endpoint in [udp, loopback, again, accepted, no_address] {
        assert_eq!(sim.authorize(&endpoint), PASSED_ON, "{endpoint:?}");
    }
    // Somebody else has decided for good.
    for blocks in [true, false] {
        sim.set_filters_of_others(&[(u16::MAX, blocks, true)]);
        let Held::Decided(classified) = sim.authorize(&socket(&ends)) else {
            panic!("held");
        };
        assert_eq!(classified.permitted, !blocks);
        sim.set_filters_of_others(&[]);
    }
    assert!(requests(&session).is_empty());
    // Nobody reads.
    close(session);
    assert_eq!(sim.authorize(&socket(&ends)), PASSED_ON);
    sim.unload();
}

/// The filter engine may authorize a connect again for reasons of its own.
fn what_was_decided_is_told_as_often_as_asked() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        let socket = socket(&ends);
        let again = Endpoint {
            flags: socket.flags | FWP_CONDITION_FLAG_IS_REAUTHORIZE,
            reason: FWP_CONDITION_REAUTHORIZE_REASON_POLICY_CHANGE,
            ..socket.clone()
        };
        assert_eq!(sim.authorize(&socket), Held::Pended);
        assert_eq!(sim.authorize(&again), PASSED_ON, "not decided yet");
        decide(&session, once(Verdict::Block));
        assert!(!told(&sim));
        assert_eq!(sim.authorize(&again), REFUSED);
        // A new connect is another one.
        assert_eq!(sim.authorize(&socket), Held::Pended);
        decide(&session, once(Verdict::Accept));
        assert!(told(&sim));
        assert_eq!(sim.authorize(&again), PASSED_ON);
        assert!(syn(&sim, &ends).permitted, "the verdict is the SYN's");
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn the_hold_limit_ends_waiting() {
    let sim = load();
    let session = holding(&sim);
    for policy in [Policy::Permit, Policy::Block] {
        switch_on(&session, |config| config.hold_limit = policy);
        for ends in both(1_000) {
            assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
            sim.advance(Duration::from_secs(29));
            assert_eq!(sim.pended(), 1);
            sim.advance(Duration::from_secs(2));
            assert_eq!(told(&sim), policy == Policy::Permit);
            // The request went with the wait.
            assert!(requests(&session).is_empty());
            if policy == Policy::Permit {
                assert!(syn(&sim, &ends).permitted);
            }
        }
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn a_full_packet_cache_ends_waiting() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
    }
    for port in 0..1_024 {
        sim.classify(&Packet::outbound(Ends::udp(2_000 + port).leaving(b"x")));
    }
    // Not inside of a call of the filter engine.
    assert_eq!(sim.pended(), 2);
    sim.advance(Duration::from_millis(200));
    assert_eq!(sim.pended(), 0);
    for (_, held) in sim.authorized() {
        assert_eq!(held, PASSED_ON);
    }
    let counters = session.counters().unwrap();
    assert_eq!(counters.event(Event::ConnectNotHeld), 2);
    // Nobody has decided: the packet is asked about.
    assert!(!syn(&sim, &Ends::tcp(1_000)).permitted);
    close(session);
    sim.unload();
}

fn closing_ends_waiting() {
    for policy in [Policy::Permit, Policy::Block] {
        let sim = load();
        let session = holding(&sim);
        switch_on(&session, |config| config.no_reader = policy);
        for port in 0..40 {
            for ends in both(1_000 + port) {
                assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
            }
        }
        close(session);
        assert_eq!(sim.pended(), 0);
        let ended = sim.authorized();
        assert_eq!(ended.len(), 80);
        for (_, held) in ended {
            let expected = [PASSED_ON, REFUSED][usize::from(policy == Policy::Block)];
            assert_eq!(held, expected);
        }
        sim.unload();
    }
}

fn a_closed_socket_ends_waiting() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        let socket = socket(&ends);
        assert_eq!(sim.authorize(&socket), Held::Pended);
        sim.close_endpoint(&socket);
        sim.advance(Duration::from_millis(200));
        assert_eq!(sim.pended(), 0);
        // Who was asked may still answer, and that is good for the next one.
        decide(&session, permanent(Verdict::Block));
        assert!(sim.authorized().is_empty());
        assert_eq!(sim.authorize(&socket), REFUSED);
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn a_verdict_races_the_end_of_its_socket() {
    let sim = load();
    let session = holding(&sim);
    for round in 0..300_u16 {
        let ends = both(1_000 + round)[usize::from(round % 2)];
        let socket = socket(&ends);
        assert_eq!(sim.authorize(&socket), Held::Pended);
        let id = request(&session).info.id.get();
        let verdict = [Verdict::Accept, Verdict::Block][usize::from(round / 2 % 2)];
        std::thread::scope(|scope| {
            scope.spawn(|| session.set_verdict(id, once(verdict)).unwrap());
            scope.spawn(|| sim.close_endpoint(&socket));
            if round % 3 == 0 {
                scope.spawn(|| sim.advance(Duration::from_millis(150)));
            }
        });
        sim.advance(Duration::from_millis(200));
        assert_eq!(sim.pended(), 0, "round {round}");
        assert!(sim.authorized().len() <= 1);
    }
    settled(&session);
    close(session);
    sim.unload();
}

fn what_cannot_be_held_is_asked_about_once() {
    let sim = load();
    let session = holding(&sim);
    sim.stack_ready(false);
    for ends in both(1_000) {
        assert_eq!(sim.authorize(&socket(&ends)), PASSED_ON);
    }
    sim.stack_ready(true);
    assert!(requests(&session).is_empty());
    for ends in both(1_000) {
        assert!(!syn(&sim, &ends).permitted);
        decide(&session, permanent(Verdict::Accept));
    }
    assert!(requests(&session).is_empty());
    let counters = session.counters().unwrap();
    assert_eq!(counters.event(Event::ConnectNotHeld), 2);
    assert_eq!(counters.reason(Reason::PermittedConnect), 0);
    close(session);
    sim.unload();
}

fn a_full_table_holds_no_more() {
    let sim = load();
    let session = holding(&sim);
    let mut passed = 0;
    for port in 0..1_100 {
        match sim.authorize(&socket(&Ends::tcp(1_000 + port))) {
            Held::Pended => {}
            other @ Held::Decided(_) => {
                assert_eq!(other, PASSED_ON);
                passed += 1;
            }
        }
    }
    let held = sim.pended();
    assert_eq!(held + passed, 1_100);
    assert!((900..=1_024).contains(&held), "{held}");
    let counters = session.counters().unwrap();
    assert_eq!(counters.event(Event::ConnectNotHeld), passed as u64);
    for request in requests(&session) {
        session
            .set_verdict(request.info.id.get(), once(Verdict::Block))
            .unwrap();
    }
    assert_eq!(sim.pended(), 0);
    assert_eq!(sim.authorized().len(), held);
    // There is room again.
    assert_eq!(sim.authorize(&socket(&Ends::tcp(1))), Held::Pended);
    close(session);
    sim.unload();
}

fn the_engine_may_go_while_they_wait() {
    let sim = load();
    let session = holding(&sim);
    for ends in both(1_000) {
        assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
    }
    sim.set_engine_running(false);
    decide_each(&session, Verdict::Block);
    assert_eq!(sim.pended(), 0);
    // There is no filter any more by which we could be asked.
    for (_, held) in sim.authorized() {
        assert!(matches!(held, Held::Decided(classified) if classified.called == 0));
    }
    sim.set_engine_running(true);
    sim.settle();
    for ends in both(1_001) {
        assert_eq!(sim.authorize(&socket(&ends)), Held::Pended);
    }
    close(session);
    sim.unload();
}

fn decide_each(session: &Session, verdict: Verdict) {
    for request in requests(session) {
        session
            .set_verdict(request.info.id.get(), once(verdict))
            .unwrap();
    }
}

/// Whoever is about to hold a connect while the last reader goes holds nothing afterwards.
fn closing_meets_connects() {
    let sim = load();
    for round in 0..100_u16 {
        let session = holding(&sim);
        std::thread::scope(|scope| {
            for ends in both(1_000 + round * 4) {
                let sim = &sim;
                scope.spawn(move || {
                    for port in 0..4 {
                        let local = (ends.local.0, ends.local.1 + port);
                        sim.authorize(&socket(&Ends { local, ..ends }));
                    }
                });
            }
            scope.spawn(|| close(session));
        });
        sim.advance(Duration::from_millis(300));
        assert_eq!(sim.pended(), 0, "round {round}");
    }
    sim.unload();
}

/// Connects that are held, decided, closed and left to the end.
fn scenario() -> Option<()> {
    let sim = match Sim::load(&driver()) {
        Ok(sim) => sim,
        Err(LoadError::Entry(status)) => {
            assert!(status.0 < 0);
            return None;
        }
        Err(other) => panic!("{other:?}"),
    };
    if let Ok(device) = sim.open() {
        let transport = crate::transport::DeviceTransport::new(device);
        if let Ok(session) = Session::over(Box::new(transport), kext_client::FLUSH_INTERVAL) {
            switch_on(&session, |_| ());
            let ends = Ends::tcp(1);
            sim.authorize(&socket(&ends));
            sim.authorize(&socket(&ends.over_v6()));
            decide_each(&session, Verdict::Accept);
            syn(&sim, &ends);
            sim.authorize(&socket(&Ends::tcp(2)));
            sim.close_endpoint(&socket(&Ends::tcp(2)));
            sim.authorize(&socket(&Ends::tcp(3)));
            assert!(session.counters().unwrap().balanced());
            session.close().unwrap();
        }
    }
    sim.advance(Duration::from_secs(2));
    sim.settle();
    assert_eq!(sim.pended(), 0);
    sim.unload();
    Some(())
}

fn each_call_fails_once() {
    set_faults(Faults::Count);
    scenario().unwrap();
    let (_, sites) = clear_faults();
    for number in 0..sites {
        set_faults(Faults::Site(number));
        scenario();
        clear_faults();
    }
}

/// Two threads connect, one decides, one closes sockets, one clears, time passes; the driver is unloaded with
/// connects that wait.
fn threads_leave_nothing_held() {
    const ROUNDS: u16 = 800;
    let sim = load();
    let session = holding(&sim);
    let done = std::sync::atomic::AtomicU32::new(0);
    let over = || done.load(std::sync::atomic::Ordering::SeqCst) == 2;
    std::thread::scope(|scope| {
        for thread in 0..2_u16 {
            let (sim, done) = (&sim, &done);
            scope.spawn(move || {
                for round in 0..ROUNDS {
                    let ends = both(1_000 + round % 40)[usize::from(thread)];
                    let socket = socket(&ends);
                    sim.authorize(&socket);
                    syn(sim, &ends);
                    if round % 3 == 0 {
                        sim.close_endpoint(&socket);
                    }
                    // So that verdicts come, too, and not sockets' ends alone.
                    for _ in 0..10_000 {
                        if sim.pended() < 8 {
                            break;
                        }
                        std::thread::yield_now();
                    }
                }
                done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            });
        }
        scope.spawn(|| {
            let mut count = 0_usize;
            while !over() {
                for request in requests(&session) {
                    count += 1;
                    let verdict = [Verdict::Accept, Verdict::Block, Verdict::Drop][count % 3];
                    let decision = Decision {
                        verdict,
                        permanent: count.is_multiple_of(5),
                    };
                    let _ = session.set_verdict(request.info.id.get(), decision);
                }
                std::thread::yield_now();
            }
        });
        scope.spawn(|| {
            while !over() {
                session.clear_cache().unwrap();
                sim.advance(Duration::from_millis(50));
                std::thread::yield_now();
            }
        });
    });
    sim.settle();
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    for reason in [
        Reason::PermittedConnect,
        Reason::BlockedConnect,
        Reason::DroppedConnect,
    ] {
        assert!(counters.reason(reason) > 0, "{reason:?}: {counters:?}");
    }
    close(session);
    sim.advance(Duration::from_secs(1));
    assert_eq!(sim.pended(), 0);
    sim.unload();
}
