//! Connects that wait for their verdict before their first packet.

use std::collections::HashMap;
use std::time::Duration;

use kext_engine::{Authorized, ConnectId, MAX_CONNECTS};
use kext_packet::{MAX_STAND_IN_LEN, TcpFlags, stand_in};
use kext_types::{
    Address, Arrival, Config, Decision, Direction, Event, FlowKey, IpVersion, Policy, ProcessId,
    Reason, Special, Verdict, VerdictOutcome, protocol,
};
use proptest::prelude::*;

use crate::common::*;

/// The connect of the tests: from [`HERE`] to [`THERE`].
fn flow() -> FlowKey {
    numbered_flow(40_000)
}

fn numbered_flow(port: u16) -> FlowKey {
    FlowKey {
        local: Address::v4([192, 0, 2, 10]),
        remote: Address::v4([198, 51, 100, 20]),
        local_port: port,
        remote_port: 443,
        version: IpVersion::V4,
        protocol: protocol::TCP,
    }
}

fn syn() -> Vec<u8> {
    tcp(HERE, THERE, TcpFlags::SYN)
}

const SOCKET: u64 = 77;

fn holding() -> Bench {
    Bench::with(|config| config.hold_connects = true)
}

impl Bench {
    fn authorize(&self, flow: &FlowKey) -> Authorized {
        self.engine.authorize(flow, SOCKET, false, self.now())
    }

    fn again(&self, flow: &FlowKey) -> Authorized {
        self.engine.authorize(flow, SOCKET, true, self.now())
    }

    /// Asks about a connect, and holds it as it has to be.
    #[track_caller]
    fn hold(&self, flow: &FlowKey) -> ConnectId {
        let Authorized::Hold(id) = self.authorize(flow) else {
            panic!("not to be held");
        };
        self.held(id, flow);
        id
    }

    fn held(&self, id: ConnectId, flow: &FlowKey) {
        let mut buffer = [0; MAX_STAND_IN_LEN];
        let len = stand_in(flow, &mut buffer).unwrap();
        let arrival = Arrival {
            process_id: ProcessId::new(9),
            ..arrival(Direction::Outbound)
        };
        self.engine
            .hold_connect(id, flow, &buffer[..len], &arrival, self.now());
    }

    /// The connects that the host is to end, by their places.
    fn decided(&self) -> Vec<ConnectId> {
        std::iter::from_fn(|| self.engine.next_decided_connect(self.now())).collect()
    }

    /// What the one connect is told when its hold ends.
    #[track_caller]
    fn told(&self, id: ConnectId, flow: &FlowKey) -> Authorized {
        assert_eq!(self.decided(), [id]);
        self.again(flow)
    }
}

#[test]
fn without_the_switch_nothing_is_said() {
    let bench = Bench::small();
    assert_eq!(bench.authorize(&flow()), Authorized::PassOn);
    assert_eq!(bench.engine.counters().totals().seen, 0);
    // Not even by what is cached.
    bench.teach(&syn(), Direction::Outbound, Verdict::Block);
    assert_eq!(bench.authorize(&flow()), Authorized::PassOn);
    assert_eq!(bench.event(Event::ConnectNotHeld), 0);
}

#[test]
fn what_is_asked_about_is_a_syn_of_the_process() {
    let bench = holding();
    bench.hold(&flow());
    bench.assert_balanced(1);
    let request = bench.request();
    assert_eq!(request.flow, flow());
    assert_eq!(request.arrival.direction, Direction::Outbound);
    assert_eq!(request.arrival.process_id, ProcessId::new(9));
    assert_eq!((request.size, request.held_len), (40, 40));
    assert_eq!(bench.try_request(), None);
    assert_eq!(bench.event(Event::Requests), 1);
}

#[test]
fn a_permanent_verdict_is_told_and_cached() {
    for (verdict, told, reason) in [
        (
            Verdict::Accept,
            Authorized::PassOn,
            Reason::PermittedConnect,
        ),
        (
            Verdict::RedirectTunnel,
            Authorized::PassOn,
            Reason::PermittedConnect,
        ),
        (Verdict::Block, Authorized::Refuse, Reason::BlockedConnect),
        (Verdict::Drop, Authorized::Refuse, Reason::DroppedConnect),
    ] {
        let bench = holding();
        let id = bench.hold(&flow());
        let out = bench.verdict(bench.request().id, always(verdict));
        // Nothing is sent, and nobody is answered.
        assert_eq!(reasons(&out), [reason]);
        assert!(out[0].bytes.is_none());
        assert!(matches!(out[0].action, kext_engine::Action::Drop(_)));
        assert_eq!(bench.told(id, &flow()), told);
        bench.assert_balanced(0);
        // From now on the cache decides about new ones.
        assert_eq!(bench.engine.lookup(&flow(), bench.now()), Some(verdict));
        let packet = bench.outbound(&syn()).reason();
        assert!(packet.name().ends_with("_cache"), "{packet:?}");
        assert_eq!(bench.authorize(&flow()), told);
        bench.assert_balanced(0);
        assert_eq!(bench.event(Event::Requests), 1);
    }
}

#[test]
fn a_verdict_for_once_is_that_of_the_first_packet_as_well() {
    for (verdict, reason) in [
        (Verdict::Accept, Reason::PermittedVerdict),
        (Verdict::RedirectDns, Reason::RedirectedVerdict),
    ] {
        let bench = holding();
        let id = bench.hold(&flow());
        bench.verdict(bench.request().id, once(verdict));
        assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
        // What is no first packet is none.
        assert_eq!(
            bench.outbound(&tcp(HERE, THERE, TcpFlags::ACK)),
            End::Held(true)
        );
        let ack = bench.request().id;
        bench.verdict(ack, once(Verdict::Drop));
        assert_eq!(bench.outbound(&syn()).reason(), reason);
        // Once: whatever comes next is asked about.
        assert_eq!(bench.outbound(&syn()), End::Held(true));
        bench.assert_balanced(1);
        assert_eq!(bench.engine.lookup(&flow(), bench.now()), None);
    }
    for verdict in [Verdict::Block, Verdict::Drop] {
        let bench = holding();
        let id = bench.hold(&flow());
        bench.verdict(bench.request().id, once(verdict));
        assert_eq!(bench.told(id, &flow()), Authorized::Refuse);
        // The next attempt is asked about.
        let next = bench.hold(&flow());
        bench.verdict(bench.request().id, once(Verdict::Accept));
        assert_eq!(bench.told(next, &flow()), Authorized::PassOn);
        bench.assert_balanced(0);
    }
}

#[test]
fn the_first_packet_does_not_overtake_and_does_not_come_late() {
    let bench = holding();
    let id = bench.hold(&flow());
    // A packet of the same flow waits behind.
    assert_eq!(
        bench.inbound(&tcp(THERE, HERE, TcpFlags::SYN)),
        End::Held(false)
    );
    bench.verdict(bench.request().id, once(Verdict::Accept));
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    assert_eq!(bench.outbound(&syn()), End::Held(false));

    let bench = holding();
    let id = bench.hold(&flow());
    bench.verdict(bench.request().id, once(Verdict::Accept));
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    bench.sleep(Duration::from_secs(6));
    assert_eq!(bench.outbound(&syn()), End::Held(true));
}

#[test]
fn packets_of_the_flow_wait_behind_their_connect() {
    let bench = holding();
    let id = bench.hold(&flow());
    assert_eq!(bench.outbound(&syn()), End::Held(false));
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(
        reasons(&out),
        [Reason::PermittedConnect, Reason::PermittedVerdict]
    );
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    // A connect is no packet.
    let mut packets = 0;
    bench.engine.list_flows(0, |flow| {
        packets += flow.outbound.packets;
        true
    });
    assert_eq!(packets, 1);
}

#[test]
fn the_hold_limit_ends_the_wait_by_policy() {
    for (policy, told, reason) in [
        (Policy::Permit, Authorized::PassOn, Reason::PermittedConnect),
        (Policy::Block, Authorized::Refuse, Reason::BlockedConnect),
    ] {
        let bench = Bench::with(|config| {
            config.hold_connects = true;
            config.hold_limit = policy;
        });
        let id = bench.hold(&flow());
        let request = bench.request();
        bench.sleep(Duration::from_secs(31));
        assert_eq!(reasons(&bench.tick()), [reason]);
        assert_eq!(
            bench
                .decide(request.id, always(Verdict::Accept))
                .unwrap_err(),
            not_held(VerdictOutcome::Expired)
        );
        assert_eq!(bench.told(id, &flow()), told);
        if policy == Policy::Permit {
            // It has waited long enough.
            assert_eq!(bench.outbound(&syn()).reason(), Reason::PermittedHoldLimit);
        }
        bench.assert_balanced(0);
    }
}

#[test]
fn the_end_of_the_reader_ends_the_wait_by_policy() {
    for (policy, told) in [
        (Policy::Permit, Authorized::PassOn),
        (Policy::Block, Authorized::Refuse),
    ] {
        let bench = Bench::with(|config| {
            config.hold_connects = true;
            config.no_reader = policy;
        });
        let id = bench.hold(&flow());
        bench.abandon();
        assert_eq!(bench.told(id, &flow()), told);
        bench.assert_balanced(0);
        // Without a reader connects are not held.
        assert_eq!(
            bench.authorize(&numbered_flow(1)),
            Authorized::PassOn,
            "{policy:?}"
        );
    }
}

#[test]
fn what_makes_room_goes_on_by_its_packets() {
    let bench = holding();
    let id = bench.hold(&flow());
    let first = bench.request().id;
    for flow in 0..16 {
        bench.outbound(&numbered(flow, 0));
    }
    assert_eq!(
        bench.decide(first, always(Verdict::Block)).unwrap_err(),
        not_held(VerdictOutcome::Evicted)
    );
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    assert_eq!(bench.reason(Reason::PermittedConnect), 1);
    assert_eq!(bench.reason(Reason::DroppedPacketCacheFull), 0);
    assert_eq!(bench.event(Event::ConnectNotHeld), 1);
    // Nobody has decided: it is asked about.
    assert_eq!(bench.outbound(&syn()), End::Held(true));
    bench.assert_balanced(16);
}

#[test]
fn what_the_host_cannot_hold_is_asked_about_as_a_packet_only() {
    let bench = holding();
    let Authorized::Hold(id) = bench.authorize(&flow()) else {
        panic!("not to be held");
    };
    bench.engine.let_connect_pass(id);
    assert_eq!(bench.try_request(), None);
    assert_eq!(bench.event(Event::ConnectNotHeld), 1);
    assert_eq!(bench.outbound(&syn()), End::Held(true));
    assert!(bench.decided().is_empty());
    bench.assert_balanced(1);
}

#[test]
fn what_is_decided_before_it_is_held_does_not_wait() {
    let bench = holding();
    let Authorized::Hold(id) = bench.authorize(&flow()) else {
        panic!("not to be held");
    };
    bench.teach(&syn(), Direction::Outbound, Verdict::Block);
    bench.held(id, &flow());
    assert_eq!(bench.told(id, &flow()), Authorized::Refuse);
    bench.assert_balanced(0);

    let bench = holding();
    let Authorized::Hold(id) = bench.authorize(&flow()) else {
        panic!("not to be held");
    };
    bench.engine.set_reader(false);
    bench.held(id, &flow());
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    assert_eq!(bench.outbound(&syn()).reason(), Reason::PermittedNoReader);
    bench.assert_balanced(0);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of connects")]
fn a_full_table_holds_no_more_connects() {
    let capacities = kext_types::Capacities {
        packets: 4_096,
        packet_bytes: 16 << 20,
        ..SMALL
    };
    let config = Config {
        hold_connects: true,
        ..Config::default()
    };
    let bench = Bench::new(capacities, config);
    let mut held = 0;
    let mut passed = 0;
    for port in 1..=2_000 {
        match bench.authorize(&numbered_flow(port)) {
            Authorized::Hold(id) => {
                bench.held(id, &numbered_flow(port));
                held += 1;
            }
            Authorized::PassOn => passed += 1,
            Authorized::Refuse => panic!("refused"),
        }
    }
    assert!(
        held <= MAX_CONNECTS && held > MAX_CONNECTS * 9 / 10,
        "{held}"
    );
    assert_eq!(bench.event(Event::ConnectNotHeld), passed);
    bench.assert_balanced(held as u64);
    // As many can be held again when these are over.
    bench.abandon();
    assert_eq!(bench.decided().len(), held);
    bench.engine.set_reader(true);
    assert!(matches!(bench.authorize(&flow()), Authorized::Hold(_)));
}

#[test]
fn a_closed_socket_ends_its_wait_and_leaves_the_question() {
    let bench = holding();
    let id = bench.hold(&flow());
    let request = bench.request();
    // Another socket between the same ends.
    bench.engine.close_connect(&flow(), SOCKET + 1);
    assert!(bench.decided().is_empty());
    bench.engine.close_connect(&flow(), SOCKET);
    bench.engine.close_connect(&flow(), SOCKET);
    assert_eq!(bench.decided(), [id]);
    bench.assert_balanced(1);
    let out = bench.verdict(request.id, always(Verdict::Accept));
    assert_eq!(reasons(&out), [Reason::BlockedConnect]);
    assert!(bench.decided().is_empty());
    bench.assert_balanced(0);
    // The answer is good for the next one.
    assert_eq!(bench.outbound(&syn()).reason(), Reason::PermittedCache);
}

/// What was decided for a socket is not for the next one between the same ends.
#[test]
fn a_socket_that_was_closed_takes_its_answer_along() {
    for again in [false, true] {
        let bench = holding();
        let id = bench.hold(&flow());
        bench.verdict(bench.request().id, once(Verdict::Accept));
        assert_eq!(bench.decided(), [id]);
        if again {
            assert_eq!(bench.again(&flow()), Authorized::PassOn);
        }
        bench.engine.close_connect(&flow(), SOCKET);
        assert_eq!(
            bench.outbound(&syn()),
            End::Held(true),
            "asked again: {again}"
        );
    }
}

#[test]
fn a_place_that_was_closed_and_taken_again_is_anothers() {
    let bench = holding();
    let id = bench.hold(&flow());
    let request = bench.request();
    bench.engine.close_connect(&flow(), SOCKET);
    assert_eq!(bench.told(id, &flow()), Authorized::Refuse);
    bench.sleep(Duration::from_secs(6));
    assert_eq!(bench.again(&flow()), Authorized::PassOn, "forgotten");
    // The stand-in of the first is still there; the second takes its place.
    let second = bench.hold(&numbered_flow(1));
    assert_eq!(second, id);
    bench.verdict(request.id, always(Verdict::Block));
    assert!(bench.decided().is_empty());
    bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(bench.told(second, &numbered_flow(1)), Authorized::PassOn);
}

#[test]
fn one_connect_at_a_time_between_two_ends() {
    let bench = holding();
    let id = bench.hold(&flow());
    assert_eq!(
        bench
            .engine
            .authorize(&flow(), SOCKET + 1, false, bench.now()),
        Authorized::PassOn
    );
    assert_eq!(bench.event(Event::ConnectNotHeld), 1);
    bench.verdict(bench.request().id, once(Verdict::Block));
    assert_eq!(bench.decided(), [id]);
    // Who asks is told of its own connect only.
    assert_eq!(
        bench
            .engine
            .authorize(&flow(), SOCKET + 1, true, bench.now()),
        Authorized::PassOn
    );
    assert_eq!(bench.again(&flow()), Authorized::Refuse);
}

#[test]
fn other_questions_about_a_connect_change_nothing() {
    let bench = holding();
    // Authorized long ago.
    assert_eq!(bench.again(&flow()), Authorized::PassOn);
    bench.teach(&syn(), Direction::Outbound, Verdict::Block);
    assert_eq!(bench.again(&flow()), Authorized::PassOn);
    // While it waits.
    let other = numbered_flow(1);
    let id = bench.hold(&other);
    assert_eq!(bench.again(&other), Authorized::PassOn);
    bench.verdict(bench.request().id, once(Verdict::Block));
    assert_eq!(bench.told(id, &other), Authorized::Refuse);
}

#[test]
fn what_was_decided_is_forgotten_when_nobody_asks() {
    let bench = holding();
    let id = bench.hold(&flow());
    bench.verdict(bench.request().id, once(Verdict::Block));
    assert_eq!(bench.decided(), [id]);
    bench.sleep(Duration::from_secs(6));
    assert_eq!(bench.again(&flow()), Authorized::PassOn);
    bench.hold(&flow());
}

#[test]
fn a_clearing_leaves_connects_waiting() {
    let bench = holding();
    let id = bench.hold(&flow());
    bench.engine.clear_cache();
    bench.verdict(bench.request().id, always(Verdict::Accept));
    assert_eq!(bench.told(id, &flow()), Authorized::PassOn);
    assert_eq!(bench.outbound(&syn()).reason(), Reason::PermittedCache);
}

#[test]
fn own_redirect_targets_are_asked_about_by_switch_only() {
    let own = FlowKey {
        remote: Address::v4([192, 0, 2, 10]),
        remote_port: 53,
        ..flow()
    };
    assert_eq!(holding().authorize(&own), Authorized::PassOn);
    let bench = Bench::with(|config| {
        config.hold_connects = true;
        config.fast_track = Special::Ask;
    });
    assert!(matches!(bench.authorize(&own), Authorized::Hold(_)));
}

/// What can happen to connects, in any order.
#[derive(Clone, Copy, Debug)]
enum Step {
    Connect(u16),
    /// One that the host cannot hold.
    Pass(u16),
    Packet(u16),
    Verdict(Verdict, bool),
    Close(u16),
    Again(u16),
    Sleep(u64),
    Reader(bool),
    Clear,
    /// The host ends what it is to end.
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let port = 1_u16..6;
    let verdict = prop_oneof![
        Just(Verdict::Accept),
        Just(Verdict::Block),
        Just(Verdict::Drop),
        Just(Verdict::RedirectDns),
    ];
    prop_oneof![
        4 => port.clone().prop_map(Step::Connect),
        1 => port.clone().prop_map(Step::Pass),
        4 => port.clone().prop_map(Step::Packet),
        4 => (verdict, any::<bool>()).prop_map(|(verdict, lasting)| Step::Verdict(verdict, lasting)),
        1 => port.clone().prop_map(Step::Close),
        1 => port.prop_map(Step::Again),
        2 => (1_u64..40).prop_map(Step::Sleep),
        1 => any::<bool>().prop_map(Step::Reader),
        1 => Just(Step::Clear),
        2 => Just(Step::End),
    ]
}

/// A host, which holds what it is told to hold.
struct Holder {
    bench: Bench,
    /// What it holds, by place.
    held: HashMap<usize, FlowKey>,
}

impl Holder {
    fn end(&mut self) {
        for id in self.bench.decided() {
            let flow = self.held.remove(&id.place());
            self.bench.again(&flow.expect("ended, and not held"));
        }
    }

    fn run(&mut self, step: Step) {
        let bench = &self.bench;
        match step {
            Step::Connect(port) => {
                let flow = numbered_flow(port);
                if let Authorized::Hold(id) = bench.authorize(&flow) {
                    assert_eq!(self.held.insert(id.place(), flow), None, "held twice");
                    bench.held(id, &flow);
                }
            }
            Step::Pass(port) => {
                if let Authorized::Hold(id) = bench.authorize(&numbered_flow(port)) {
                    bench.engine.let_connect_pass(id);
                }
            }
            Step::Packet(port) => {
                bench.outbound(&tcp(&format!("192.0.2.10:{port}"), THERE, TcpFlags::SYN));
            }
            Step::Verdict(verdict, permanent) => {
                if let Some(request) = bench.try_request() {
                    let _ = bench.decide(request.id, Decision { verdict, permanent });
                }
            }
            Step::Close(port) => bench.engine.close_connect(&numbered_flow(port), SOCKET),
            Step::Again(port) => {
                bench.again(&numbered_flow(port));
            }
            Step::Sleep(seconds) => {
                bench.sleep(Duration::from_secs(seconds));
                bench.tick();
            }
            Step::Reader(true) => bench.engine.set_reader(true),
            Step::Reader(false) => {
                bench.abandon();
            }
            Step::Clear => bench.engine.clear_cache(),
            Step::End => self.end(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 100 }))]

    /// Whatever happens, each connect that is held is ended once, and everything is counted once.
    #[test]
    fn every_hold_ends_once(steps in prop::collection::vec(step(), 0..120)) {
        let mut holder = Holder { bench: holding(), held: HashMap::new() };
        for step in steps {
            holder.run(step);
            let totals = holder.bench.engine.counters().totals();
            prop_assert!(totals.balanced(), "{:?}", totals);
        }
        holder.bench.abandon();
        holder.end();
        prop_assert!(holder.held.is_empty());
        holder.bench.assert_balanced(0);
    }
}

/// The host may ask for reasons of its own, before it has ended the hold and after.
#[test]
fn a_decided_connect_is_told_the_same_as_often_as_the_host_asks() {
    for (verdict, told) in [
        (Verdict::Block, Authorized::Refuse),
        (Verdict::Accept, Authorized::PassOn),
    ] {
        let bench = holding();
        let id = bench.hold(&flow());
        bench.verdict(bench.request().id, once(verdict));
        assert_eq!(bench.again(&flow()), told, "before the hold ends");
        assert_eq!(bench.decided(), [id]);
        for _ in 0..3 {
            assert_eq!(bench.again(&flow()), told);
        }
        // A new connect between the same ends is another one.
        if verdict == Verdict::Block {
            bench.hold(&flow());
        } else {
            assert_eq!(bench.outbound(&syn()).reason(), Reason::PermittedVerdict);
            assert_eq!(bench.outbound(&syn()), End::Held(true), "the second packet");
        }
    }
}

#[test]
fn a_connect_that_was_closed_counts_as_refused_whatever_lets_its_stand_in_go() {
    for verdict in [Verdict::Accept, Verdict::Drop] {
        let bench = holding();
        let id = bench.hold(&flow());
        let request = bench.request();
        bench.engine.close_connect(&flow(), SOCKET);
        assert_eq!(bench.told(id, &flow()), Authorized::Refuse);
        let out = bench.verdict(request.id, once(verdict));
        assert_eq!(reasons(&out), [Reason::BlockedConnect]);
        bench.assert_balanced(0);
    }
    // One that makes room for packets.
    let bench = holding();
    let id = bench.hold(&flow());
    bench.engine.close_connect(&flow(), SOCKET);
    assert_eq!(bench.told(id, &flow()), Authorized::Refuse);
    for flow in 0..16 {
        bench.outbound(&numbered(flow, 0));
    }
    assert_eq!(bench.reason(Reason::BlockedConnect), 1);
    assert_eq!(bench.reason(Reason::PermittedConnect), 0);
    assert_eq!(bench.event(Event::ConnectNotHeld), 0);
}
