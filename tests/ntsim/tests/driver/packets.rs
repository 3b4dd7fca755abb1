//! Packets through the driver: held, decided, injected, in every shape.

use kext_client::{FLUSH_INTERVAL, PayloadMode, Received, Request, Session, Wait};
use kext_ntsim::harness::Test;
use kext_ntsim::{
    Classified, Completion, Direction, Endpoint, Faults, LoadError, Packet, Sim, Status,
    clear_faults, deepest_stack, guard_pages, messages, set_engine_running, set_faults,
};
use kext_types::{Decision, Event, Reason, Verdict};

use crate::traffic::{Ends, partial};
use crate::transport::DeviceTransport;
use crate::{driver, load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes(
        "packets::nobody_reads_and_all_is_permitted",
        nobody_reads_and_all_is_permitted,
    ),
    passes(
        "packets::a_packet_is_held_and_let_go",
        a_packet_is_held_and_let_go,
    ),
    passes("packets::a_flow_is_cached", a_flow_is_cached),
    passes(
        "packets::blocked_packets_are_answered",
        blocked_packets_are_answered,
    ),
    passes(
        "packets::dropped_packets_are_not_answered",
        dropped_packets_are_not_answered,
    ),
    passes(
        "packets::dns_is_redirected_and_comes_back",
        dns_is_redirected_and_comes_back,
    ),
    passes("packets::all_shapes_come_through", all_shapes_come_through),
    passes(
        "packets::lists_of_several_lose_none",
        lists_of_several_lose_none,
    ),
    passes(
        "packets::partial_checksums_are_made_whole",
        partial_checksums_are_made_whole,
    ),
    passes(
        "packets::checksums_that_the_card_vouches_for_are_made_whole",
        checksums_that_the_card_vouches_for_are_made_whole,
    ),
    passes(
        "packets::loopback_is_decided_as_it_leaves",
        loopback_is_decided_as_it_leaves,
    ),
    passes(
        "packets::decided_by_others_is_left_alone",
        decided_by_others_is_left_alone,
    ),
    passes("packets::fragments_are_seen_once", fragments_are_seen_once),
    passes(
        "packets::what_is_no_packet_is_permitted",
        what_is_no_packet_is_permitted,
    ),
    passes(
        "packets::a_header_that_the_sender_made_up_is_not_believed",
        a_header_that_the_sender_made_up_is_not_believed,
    ),
    passes(
        "packets::injections_complete_when_they_like",
        injections_complete_when_they_like,
    ),
    passes(
        "packets::closing_lets_held_packets_go",
        closing_lets_held_packets_go,
    ),
    passes(
        "packets::unloading_lets_nothing_behind",
        unloading_lets_nothing_behind,
    ),
    passes(
        "packets::the_hold_limit_ends_waiting",
        the_hold_limit_ends_waiting,
    ),
    passes(
        "packets::the_engine_may_come_later_and_go",
        the_engine_may_come_later_and_go,
    ),
    passes(
        "packets::the_stack_may_not_be_ready",
        the_stack_may_not_be_ready,
    ),
    passes("packets::processes_are_told", processes_are_told),
    passes("packets::each_call_fails_once", each_call_fails_once),
    passes(
        "packets::threads_with_faults_keep_the_balance",
        threads_with_faults_keep_the_balance,
    ),
];

pub(crate) const ABSORBED: Classified = Classified {
    permitted: false,
    absorbed: true,
    hard: true,
    called: 1,
};

pub(crate) fn permanent(verdict: Verdict) -> Decision {
    Decision {
        verdict,
        permanent: true,
    }
}

pub(crate) fn once(verdict: Verdict) -> Decision {
    Decision {
        verdict,
        permanent: false,
    }
}

pub(crate) fn open(sim: &Sim) -> Session {
    let transport = DeviceTransport::new(sim.open().unwrap());
    Session::over(Box::new(transport), FLUSH_INTERVAL).unwrap()
}

pub(crate) fn close(session: Session) {
    session.close().unwrap();
    drop(session);
}

/// The requests that wait.
pub(crate) fn requests(session: &Session) -> Vec<Request> {
    match session.receive(4096, PayloadMode::Whole, Wait::No).unwrap() {
        Received::Batch(batch) => batch.requests,
        _ => Vec::new(),
    }
}

/// The one request that waits.
pub(crate) fn request(session: &Session) -> Request {
    let mut requests = requests(session);
    assert_eq!(requests.len(), 1);
    requests.remove(0)
}

pub(crate) const EVERY: [Ends; 4] = [
    Ends::tcp(1000),
    Ends::udp(1001),
    Ends::tcp(1002).over_v6(),
    Ends::udp(1003).over_v6(),
];

pub(crate) const BOTH: [Direction; 2] = [Direction::Outbound, Direction::Inbound];

pub(crate) fn bytes(ends: &Ends, direction: Direction, payload: &[u8]) -> Vec<u8> {
    match direction {
        Direction::Outbound => ends.leaving(payload),
        Direction::Inbound => ends.coming(payload),
    }
}

fn nobody_reads_and_all_is_permitted() {
    let sim = load();
    for ends in EVERY {
        for direction in BOTH {
            let result = sim.classify(&Packet::new(direction, bytes(&ends, direction, b"x")));
            assert!(result.permitted && !result.absorbed, "{result:?}");
        }
    }
    assert!(sim.injected().is_empty());
    sim.unload();
}

/// Whatever is held comes out again as it was, on its interface, and is seen and permitted again.
fn a_packet_is_held_and_let_go() {
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        for direction in BOTH {
            let sent = bytes(&ends, direction, b"some payload");
            let packet = Packet::new(direction, sent.clone())
                .interface(21, 22)
                .compartment(Some(3));
            assert_eq!(sim.classify(&packet), ABSORBED);
            let request = request(&session);
            assert_eq!(&*request.payload, sent);
            assert_eq!(request.info.size as usize, sent.len());
            assert_eq!(request.info.interface.index, 21);
            assert_eq!(request.info.interface.sub_index, 22);
            assert_eq!(request.info.compartment, 3);
            session
                .set_verdict(request.info.id.get(), once(Verdict::Accept))
                .unwrap();
            let injected = sim.injected();
            assert_eq!(injected.len(), 1);
            let injected = &injected[0];
            assert_eq!(injected.bytes, sent);
            assert_eq!(injected.direction, direction);
            assert_eq!(injected.compartment, 3);
            assert_eq!(injected.wrong, None);
            assert!(injected.classified.permitted, "{injected:?}");
            if direction == Direction::Inbound {
                assert_eq!(injected.interface, (21, 22));
            }
        }
    }
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    assert_eq!(counters.held(), 0);
    close(session);
    sim.unload();
}

fn a_flow_is_cached() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends::tcp(2000);
    sim.classify(&Packet::outbound(ends.leaving(b"")));
    sim.classify(&Packet::outbound(ends.leaving(b"second")));
    let request = request(&session);
    session
        .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
        .unwrap();
    // Both held packets of the flow leave, in their order.
    let lengths: Vec<usize> = sim.injected().iter().map(|one| one.bytes.len()).collect();
    assert_eq!(lengths, [40, 46]);
    for direction in BOTH {
        let result = sim.classify(&Packet::new(direction, bytes(&ends, direction, b"more")));
        assert!(result.permitted);
    }
    assert!(sim.injected().is_empty());
    assert!(requests(&session).is_empty());
    assert_eq!(session.flows().count(), 1);
    close(session);
    sim.unload();
}

pub(crate) fn decided(sim: &Sim, session: &Session, packet: &Packet, verdict: Verdict) {
    assert_eq!(sim.classify(packet), ABSORBED);
    let request = request(session);
    session
        .set_verdict(request.info.id.get(), permanent(verdict))
        .unwrap();
}

fn blocked_packets_are_answered() {
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        let packet = Packet::outbound(ends.leaving(b"x"));
        decided(&sim, &session, &packet, Verdict::Block);
        let answers = sim.injected();
        assert_eq!(answers.len(), 1, "{ends:?}");
        // To whoever sent the packet: to us.
        assert_eq!(answers[0].direction, Direction::Inbound);
        assert_eq!(answers[0].wrong, None);
        assert!(answers[0].classified.permitted);
        // The next is blocked at once.
        let result = sim.classify(&packet);
        assert!(!result.permitted, "{result:?}");
        assert_eq!(sim.injected().len(), 1);
    }
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.unload();
}

fn dropped_packets_are_not_answered() {
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        let packet = Packet::outbound(ends.leaving(b"x"));
        decided(&sim, &session, &packet, Verdict::Drop);
        assert!(!sim.classify(&packet).permitted);
        assert!(sim.injected().is_empty());
    }
    close(session);
    sim.unload();
}

/// A question to another resolver goes to ours instead; its answer looks as if it came from there.
fn dns_is_redirected_and_comes_back() {
    let sim = load();
    let session = open(&sim);
    for ends in [Ends::udp(3000), Ends::udp(3001).over_v6()] {
        let ends = Ends {
            remote: (9, 53),
            ..ends
        };
        let packet = Packet::outbound(ends.leaving(b"question"));
        decided(&sim, &session, &packet, Verdict::RedirectDns);
        let redirected = sim.injected();
        assert_eq!(redirected.len(), 1);
        assert_eq!(redirected[0].wrong, None);
        assert_ne!(redirected[0].bytes, ends.leaving(b"question"));
        assert!(redirected[0].classified.permitted);
        let result = sim.classify(&packet);
        assert!(result.absorbed);
        assert_eq!(sim.injected().len(), 1);
    }
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.unload();
}

/// Split over MDLs, with memory before the packet, with IP options; with guard pages.
fn all_shapes_come_through() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    let splits: [&[usize]; 6] = [&[], &[1], &[10, 15, 1], &[20, 8], &[40], &[41, 1, 1]];
    for (number, split) in splits.iter().enumerate() {
        for headroom in [0, 5, 64] {
            for ends in EVERY {
                for direction in BOTH {
                    let mut ends = ends;
                    ends.local.1 += number as u16 * 100 + headroom as u16;
                    let sent = bytes(&ends, direction, b"payload of a packet");
                    let packet = Packet::new(direction, sent.clone())
                        .split(split)
                        .headroom(headroom);
                    assert_eq!(sim.classify(&packet), ABSORBED);
                    let request = request(&session);
                    assert_eq!(&*request.payload, sent);
                    session
                        .set_verdict(request.info.id.get(), once(Verdict::Accept))
                        .unwrap();
                    let injected = sim.injected();
                    assert_eq!(injected[0].bytes, sent, "{ends:?} {direction:?} {split:?}");
                }
            }
        }
    }
    close(session);
    sim.unload();
    assert!(
        deepest_stack() < 8 * 1024,
        "{} bytes of stack",
        deepest_stack()
    );
}

/// One list with three packets: the first is of a cached flow, the others are held. None is lost.
fn lists_of_several_lose_none() {
    let sim = load();
    let session = open(&sim);
    let known = Ends::udp(4000);
    decided(
        &sim,
        &session,
        &Packet::outbound(known.leaving(b"x")),
        Verdict::Accept,
    );
    sim.injected();
    for in_chain in [false, true] {
        let others = [
            Ends::udp(4001 + u16::from(in_chain)),
            Ends::udp(4003 + u16::from(in_chain)),
        ];
        let mut packet = Packet::outbound(known.leaving(b"first"));
        for other in others {
            packet = if in_chain {
                packet.chained(other.leaving(b"other"))
            } else {
                packet.and(other.leaving(b"other"))
            };
        }
        packet = packet.and(known.leaving(b"last"));
        assert_eq!(sim.classify(&packet), ABSORBED);
        let mut left: Vec<Vec<u8>> = sim
            .injected()
            .into_iter()
            .map(|injected| injected.bytes)
            .collect();
        assert_eq!(left, [known.leaving(b"first"), known.leaving(b"last")]);
        for request in requests(&session) {
            session
                .set_verdict(request.info.id.get(), once(Verdict::Accept))
                .unwrap();
        }
        left.extend(sim.injected().into_iter().map(|injected| injected.bytes));
        assert_eq!(left.len(), 4);
    }
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.unload();
}

fn partial_checksums_are_made_whole() {
    let sim = load();
    let session = open(&sim);
    for ends in EVERY {
        let whole = ends.leaving(b"odd");
        let family = if ends.v6 { 2 } else { 1 | 1 << 4 };
        let bits = family | if ends.protocol == 6 { 1 << 2 } else { 1 << 3 };
        let packet = Packet::outbound(partial(&whole, &ends)).checksums(bits);
        assert_eq!(sim.classify(&packet), ABSORBED);
        let request = request(&session);
        session
            .set_verdict(request.info.id.get(), once(Verdict::Accept))
            .unwrap();
        let injected = sim.injected();
        assert_eq!(injected[0].wrong, None);
        assert_eq!(injected[0].bytes, whole, "{ends:?}");
    }
    close(session);
    sim.unload();
}

/// A virtual card delivers what was never computed and says that it is right; our copy does not say so.
/// What nobody vouches for stays wrong, so that the receiver finds out.
fn checksums_that_the_card_vouches_for_are_made_whole() {
    let sim = load();
    let session = open(&sim);
    for (number, ends) in EVERY.into_iter().enumerate() {
        let (own, other) = if ends.protocol == 6 {
            (1 << 3, 1 << 4)
        } else {
            (1 << 4, 1 << 3)
        };
        let invalid = if ends.protocol == 6 { 1 << 7 } else { own };
        for (round, (bits, is_vouched)) in [
            (own, true),
            (own | 1 << 5, true),
            (invalid, true),
            (0, false),
            (other, false),
        ]
        .into_iter()
        .enumerate()
        {
            for split in [&[][..], &[30]] {
                let mut ends = ends;
                ends.local.1 = (6000 + number * 100 + round * 10 + split.len()) as u16;
                let whole = ends.coming(b"odd");
                let mut came = partial(&whole, &ends);
                // The header of IPv4 is another matter.
                came[..20].copy_from_slice(&whole[..20]);
                let packet = Packet::inbound(came.clone()).checksums(bits).split(split);
                assert_eq!(sim.classify(&packet), ABSORBED);
                session
                    .set_verdict(request(&session).info.id.get(), once(Verdict::Accept))
                    .unwrap();
                let injected = sim.injected();
                assert_eq!(
                    injected[0].wrong.is_none(),
                    is_vouched,
                    "{ends:?} {bits:#x}"
                );
                let expected = if is_vouched { &whole } else { &came };
                assert_eq!(&injected[0].bytes, expected, "{ends:?} {bits:#x}");
            }
        }
    }
    // Also of a packet that is permitted in a list that is not.
    let known = Ends::udp(6900);
    let came = partial(&known.coming(b"x"), &known);
    let packet = Packet::inbound(came.clone()).checksums(1 << 4);
    decided(&sim, &session, &packet, Verdict::Accept);
    sim.injected();
    let list = packet.and(partial(&Ends::udp(6901).coming(b"y"), &Ends::udp(6901)));
    assert_eq!(sim.classify(&list), ABSORBED);
    assert_eq!(sim.injected()[0].bytes, known.coming(b"x"));
    close(session);
    sim.unload();
}

fn loopback_is_decided_as_it_leaves() {
    let sim = load();
    let session = open(&sim);
    let ends = Ends::udp(5000);
    assert_eq!(
        sim.classify(&Packet::outbound(ends.leaving(b"x")).loopback()),
        ABSORBED
    );
    let request = request(&session);
    session
        .set_verdict(request.info.id.get(), once(Verdict::Accept))
        .unwrap();
    let injected = sim.injected();
    assert_eq!(injected.len(), 1);
    assert_eq!(injected[0].direction, Direction::Outbound);
    // As it comes it is not asked about again.
    let arrived = sim.classify(&Packet::inbound(ends.leaving(b"x")).loopback());
    assert!(arrived.permitted);
    assert!(requests(&session).is_empty());
    close(session);
    sim.unload();
}

/// Without the right to decide the driver touches nothing; a soft decision of others does not bind.
fn decided_by_others_is_left_alone() {
    for (blocks, hard) in [(true, true), (false, true), (true, false), (false, false)] {
        let sim = load();
        let session = open(&sim);
        sim.set_filters_of_others(&[(u16::MAX, blocks, hard)]);
        let result = sim.classify(&Packet::outbound(Ends::udp(6000).leaving(b"x")));
        if hard {
            assert_eq!((result.permitted, result.absorbed), (!blocks, false));
            assert!(requests(&session).is_empty());
        } else {
            assert_eq!(result, ABSORBED);
        }
        close(session);
        sim.unload();
    }
}

/// The second indication, with the flag of fragments, is not about a packet of its own.
fn fragments_are_seen_once() {
    const IS_FRAGMENT: u32 = 0x20;
    let sim = load();
    let session = open(&sim);
    let packet = Packet::inbound(Ends::udp(7000).coming(b"x"));
    let again = sim.classify(&packet.clone().flags(IS_FRAGMENT));
    assert!(again.permitted);
    assert!(requests(&session).is_empty());
    assert_eq!(sim.classify(&packet), ABSORBED);
    assert_eq!(requests(&session).len(), 1);
    close(session);
    sim.unload();
}

/// Cut off, empty headers, other versions: policy decides, and nothing breaks.
fn what_is_no_packet_is_permitted() {
    guard_pages(true);
    let sim = load();
    let session = open(&sim);
    let whole = Ends::tcp(8000).leaving(b"payload");
    for length in 1..whole.len() {
        for direction in BOTH {
            for split in [&[][..], &[3][..]] {
                let packet = Packet::new(direction, whole[..length].to_vec()).split(split);
                sim.classify(&packet);
            }
        }
    }
    for first in [0x00, 0x40, 0x4f, 0x60, 0xff] {
        let mut bytes = whole.clone();
        bytes[0] = first;
        for direction in BOTH {
            sim.classify(&Packet::new(direction, bytes.clone()));
        }
    }
    for header_size in [0, 1, 19, 40, 47] {
        sim.classify(&Packet::inbound(whole.clone()).header_size(header_size));
    }
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.settle();
    sim.unload();
}

/// Where the length of the header leaves its extension headers out, a header is found inside of them.
fn a_header_that_the_sender_made_up_is_not_believed() {
    let sim = load();
    let session = open(&sim);
    let honest = Ends::udp(8100).over_v6().coming(b"payload");
    let made_up = Ends {
        remote: (77, 443),
        ..Ends::udp(8100).over_v6()
    }
    .coming(b"payload");
    // Destination options with one that has a whole IPv6 header as its data.
    let mut sent = honest[..40].to_vec();
    sent[6] = 60;
    sent.extend([17, 5, 0x1e, 44, 0, 0, 0, 0]);
    sent.extend(&made_up[..40]);
    sent.extend(&honest[40..]);
    let length = (sent.len() - 40) as u16;
    sent[4..6].copy_from_slice(&length.to_be_bytes());

    let packet = Packet::inbound(sent.clone());
    let unparsable = |session: &Session| {
        let counters = session.counters().unwrap();
        assert!(counters.balanced(), "{counters:?}");
        counters.reason(Reason::PermittedUnparsable)
    };
    for split in [&[][..], &[10]] {
        let before = unparsable(&session);
        let told = packet.clone().split(split).told_header_size(40);
        assert!(sim.classify(&told).permitted);
        assert!(
            requests(&session).is_empty(),
            "a made-up header is asked about"
        );
        assert_eq!(unparsable(&session), before + 1);
    }
    // Where it is told right the packet is what it is.
    assert_eq!(sim.classify(&packet), ABSORBED);
    assert_eq!(&*request(&session).payload, sent);
    close(session);
    sim.unload();
}

fn injections_complete_when_they_like() {
    for completion in [Completion::AtOnce, Completion::Held, Completion::Elsewhere] {
        let sim = load();
        let session = open(&sim);
        sim.complete_injections(completion);
        // The next two completions say that the packet was not sent: it is gone then, and freed.
        sim.injection_results(&[
            Status(0xC000_009A_u32.cast_signed()),
            Status(0xC000_0206_u32.cast_signed()),
        ]);
        for port in 0..8 {
            sim.classify(&Packet::outbound(Ends::udp(9000 + port).leaving(b"x")));
        }
        for request in requests(&session) {
            session
                .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
                .unwrap();
        }
        if completion == Completion::Held {
            assert_eq!(sim.injections(), 8);
            assert_eq!(sim.release_injections(3), 3);
        }
        sim.settle();
        let counters = session.counters().unwrap();
        let refused = counters.event(Event::InjectionsRefused);
        assert_eq!(refused, 2, "{completion:?}");
        assert!(counters.balanced(), "{counters:?}");
        close(session);
        sim.unload();
        assert!(sim_is_empty());
        let said = messages().join("\n");
        assert!(said.contains("the network stack refused"), "{said}");
    }
}

fn sim_is_empty() -> bool {
    // Unloading has looked already; a second driver starts from nothing.
    load().unload();
    true
}

fn closing_lets_held_packets_go() {
    let sim = load();
    let session = open(&sim);
    for port in 0..100 {
        sim.classify(&Packet::outbound(Ends::udp(port + 1).leaving(b"x")));
    }
    close(session);
    sim.advance(std::time::Duration::from_millis(200));
    // Nobody reads any more, and the policy for that is to permit.
    assert_eq!(sim.injected().len(), 100);
    let result = sim.classify(&Packet::outbound(Ends::udp(500).leaving(b"x")));
    assert!(result.permitted && !result.absorbed);
    sim.unload();
}

/// Packets held, reads pended, injections outstanding: the handle closes and the driver goes.
fn unloading_lets_nothing_behind() {
    for completion in [Completion::Held, Completion::Elsewhere, Completion::AtOnce] {
        let sim = load();
        let device = sim.open().unwrap();
        sim.complete_injections(completion);
        let hello = kext_wire::ControlCode::RecvVerdictReq.to_u32();
        for port in 0..300 {
            sim.classify(&Packet::outbound(Ends::udp(port + 1).leaving(b"x")));
        }
        for _ in 0..300 {
            device.ioctl(hello, b"NA", 72).unwrap();
        }
        let reads: Vec<_> = (0..20).map(|_| device.start(hello, b"NA", 72)).collect();
        device.close();
        assert!(reads.iter().all(kext_ntsim::Pending::ended));
        sim.unload();
    }
}

fn the_hold_limit_ends_waiting() {
    let sim = load();
    let session = open(&sim);
    sim.classify(&Packet::outbound(Ends::udp(1).leaving(b"x")));
    sim.advance(std::time::Duration::from_secs(29));
    assert!(sim.injected().is_empty());
    sim.advance(std::time::Duration::from_secs(2));
    assert_eq!(session.counters().unwrap().held(), 0);
    assert!(session.counters().unwrap().balanced());
    close(session);
    sim.unload();
}

/// The service starts after the driver, stops, and starts again.
fn the_engine_may_come_later_and_go() {
    set_engine_running(false);
    let sim = load();
    assert_eq!(sim.engine_objects(), (0, 0, 0, 0));
    let callouts = sim.callouts().len();
    assert!(callouts >= 4, "{callouts}");
    for _ in 0..3 {
        sim.set_engine_running(true);
        sim.settle();
        let (providers, sublayers, added, filters) = sim.engine_objects();
        assert_eq!((providers, added), (1, callouts));
        assert!(sublayers >= 1 && filters >= callouts);
        assert_eq!(
            sim.classify(&Packet::outbound(Ends::udp(1).leaving(b"x")))
                .called,
            1
        );
        sim.set_engine_running(false);
        sim.settle();
        assert_eq!(sim.engine_objects(), (0, 0, 0, 0));
    }
    sim.unload();
    set_engine_running(true);
}

/// Injection is not possible yet: packets are decided, and none is lost without a count.
fn the_stack_may_not_be_ready() {
    let sim = load();
    let session = open(&sim);
    sim.stack_ready(false);
    sim.classify(&Packet::outbound(Ends::udp(1).leaving(b"x")));
    for request in requests(&session) {
        let _ = session.set_verdict(request.info.id.get(), permanent(Verdict::Accept));
    }
    assert!(sim.injected().is_empty());
    assert!(session.counters().unwrap().balanced());
    sim.stack_ready(true);
    sim.classify(&Packet::outbound(Ends::udp(2).leaving(b"x")));
    for request in requests(&session) {
        session
            .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
            .unwrap();
    }
    assert_eq!(sim.injected().len(), 1);
    close(session);
    sim.unload();
}

pub(crate) fn endpoint(ends: &Ends, process: u64, accepts: bool) -> Endpoint {
    Endpoint {
        protocol: ends.protocol,
        local: ends.address(ends.local.0),
        remote: ends.address(ends.remote.0),
        local_port: ends.local.1,
        remote_port: ends.remote.1,
        process,
        path: r"\device\harddiskvolume1\program.exe".into(),
        flow: u64::from(ends.local.1),
        handle: u64::from(ends.local.1) + 1000,
        accepts,
        flags: 0,
        reason: 0,
    }
}

/// Whose a connection is, the layers of sockets say before its first packet is seen.
fn processes_are_told() {
    let sim = load();
    let session = open(&sim);
    for (number, ends) in EVERY.into_iter().enumerate() {
        let process = 500 + number as u64;
        sim.authorize(&endpoint(&ends, process, false));
        sim.classify(&Packet::outbound(ends.leaving(b"x")));
        let request = request(&session);
        assert_eq!(
            request.info.process_id.map(kext_types::ProcessId::get),
            Some(process)
        );
        session
            .set_verdict(request.info.id.get(), permanent(Verdict::Accept))
            .unwrap();
        sim.close_endpoint(&endpoint(&ends, process, false));
    }
    close(session);
    sim.unload();
}

/// A run of everything: two packets held, one verdict, the rest left to closing.
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
        let transport = DeviceTransport::new(device);
        if let Ok(session) = Session::over(Box::new(transport), FLUSH_INTERVAL) {
            let ends = Ends::udp(1);
            sim.authorize(&endpoint(&ends, 5, false));
            sim.classify(&Packet::outbound(ends.leaving(b"x")).split(&[3]));
            sim.classify(&Packet::inbound(Ends::tcp(2).coming(b"x")));
            if let Ok(Received::Batch(batch)) = session.receive(16, PayloadMode::Whole, Wait::No) {
                for (at, request) in batch.requests.iter().enumerate() {
                    let verdict = [Verdict::Accept, Verdict::Block][at % 2];
                    let _ = session.set_verdict(request.info.id.get(), permanent(verdict));
                }
            }
            sim.classify(&Packet::outbound(Ends::udp(3).leaving(b"x")));
            // What is injected is on its way through the callouts again.
            sim.settle();
            assert!(session.counters().unwrap().balanced());
            session.close().unwrap();
        }
    }
    sim.advance(std::time::Duration::from_secs(2));
    sim.settle();
    sim.unload();
    Some(())
}

fn each_call_fails_once() {
    set_faults(Faults::Count);
    scenario().unwrap();
    let (calls, sites) = clear_faults();
    assert!(sites > 60, "{calls} calls from {sites} places");
    for number in 0..sites {
        set_faults(Faults::Site(number));
        scenario();
        clear_faults();
    }
    for number in 0..calls {
        set_faults(Faults::Nth(number));
        scenario();
        clear_faults();
    }
    eprintln!("{calls} calls from {sites} places");
}

/// Four threads classify, two read, one decides, one clears, time passes; calls fail now and then.
fn threads_with_faults_keep_the_balance() {
    let rounds: u64 = std::env::var("NTSIM_ROUNDS")
        .ok()
        .and_then(|rounds| rounds.parse().ok())
        .unwrap_or(3000);
    for seed in [1, 2] {
        let sim = load();
        let session = open(&sim);
        set_faults(Faults::Often { one_in: 50, seed });
        let ids = std::sync::Mutex::new(Vec::new());
        let done = std::sync::atomic::AtomicU32::new(0);
        let over = || done.load(std::sync::atomic::Ordering::SeqCst) == 4;
        std::thread::scope(|scope| {
            for thread in 0..4_u64 {
                let (sim, done) = (&sim, &done);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let ends = EVERY[(round % 4) as usize];
                        let port = (round * 7 + thread) % 500;
                        let ends = Ends {
                            local: (ends.local.0, 1000 + port as u16),
                            ..ends
                        };
                        let direction = BOTH[(round % 3 % 2) as usize];
                        let split = [&[][..], &[10], &[25, 3]][(round % 3) as usize];
                        let sent = bytes(&ends, direction, &[thread as u8; 9]);
                        sim.classify(&Packet::new(direction, sent).split(split));
                    }
                    done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                });
            }
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over() {
                        let received = session.receive(64, PayloadMode::First(20), Wait::No);
                        if let Ok(Received::Batch(batch)) = received {
                            let mut ids = ids.lock().unwrap();
                            ids.extend(batch.requests.iter().map(|request| request.info.id.get()));
                        }
                        std::thread::yield_now();
                    }
                });
            }
            scope.spawn(|| {
                let mut count = 0_usize;
                while !over() {
                    let next = ids.lock().unwrap().pop();
                    let Some(id) = next else {
                        std::thread::yield_now();
                        continue;
                    };
                    count += 1;
                    let verdict = [Verdict::Accept, Verdict::Block, Verdict::Drop][count % 3];
                    let decision = Decision {
                        verdict,
                        permanent: count.is_multiple_of(2),
                    };
                    let _ = session.set_verdict(id, decision);
                }
            });
            scope.spawn(|| {
                while !over() {
                    session.clear_cache().unwrap();
                    sim.advance(std::time::Duration::from_millis(50));
                    std::thread::yield_now();
                }
            });
        });
        clear_faults();
        sim.settle();
        let counters = session.counters().unwrap();
        assert!(counters.balanced(), "{counters:?}");
        assert!(counters.seen() >= 4 * rounds);
        close(session);
        sim.advance(std::time::Duration::from_secs(1));
        assert!(
            sim.injected()
                .iter()
                .all(|injected| injected.wrong.is_none())
        );
        sim.unload();
    }
}
