//! Packets that are not asked for like others: special classes, what cannot be parsed, fragments.

use std::time::Duration;

use kext_packet::testing;
use kext_types::{
    Arrival, Config, Direction, FragmentPolicy, Policy, ProcessId, Reason, Special, Verdict,
};

use crate::common::*;

/// Presents a packet under the default configuration, and under one with a switch turned.
#[track_caller]
fn assert_switch(packet: &[u8], reason: Reason, turn: impl Fn(&mut Config)) {
    let bench = Bench::small();
    assert_eq!(bench.outbound(packet).reason(), reason);
    bench.assert_balanced(0);
    let bench = Bench::with(turn);
    assert_eq!(bench.outbound(packet), End::Held(true));
    bench.assert_balanced(1);
}

#[test]
fn infrastructure_has_a_switch() {
    let dhcp = udp("192.0.2.10:68", "192.0.2.1:67", 0);
    let turn = |config: &mut Config| config.infrastructure = Special::Ask;
    assert_switch(&dhcp, Reason::PermittedInfrastructure, turn);
}

#[test]
fn broadcast_has_a_switch() {
    let packet = udp("192.0.2.10:9999", "255.255.255.255:9999", 0);
    let turn = |config: &mut Config| config.broadcast = Special::Ask;
    assert_switch(&packet, Reason::PermittedBroadcast, turn);
}

#[test]
fn multicast_has_a_switch() {
    let turn = |config: &mut Config| config.multicast = Special::Ask;
    let v4 = udp("192.0.2.10:5353", "224.0.0.251:5353", 0);
    assert_switch(&v4, Reason::PermittedMulticast, turn);
    let v6 = udp("[2001:db8::1]:5353", "[ff02::fb]:5353", 0);
    assert_switch(&v6, Reason::PermittedMulticast, turn);
}

#[test]
fn the_fast_track_has_a_switch() {
    let turn = |config: &mut Config| config.fast_track = Special::Ask;
    for port in [53, 717] {
        let packet = udp("192.0.2.10:40000", &format!("192.0.2.10:{port}"), 0);
        assert_switch(&packet, Reason::PermittedFastTrack, turn);
    }
    let bench = Bench::small();
    let other = udp("192.0.2.10:40000", "192.0.2.10:54", 0);
    assert_eq!(bench.outbound(&other), End::Held(true));
    let afar = udp("192.0.2.10:40000", "192.0.2.11:53", 0);
    assert_eq!(bench.outbound(&afar), End::Held(true));
}

#[test]
fn a_cached_verdict_comes_before_a_special_class() {
    let bench = Bench::with(|config| config.multicast = Special::Ask);
    let packet = udp("192.0.2.10:5353", "224.0.0.251:5353", 0);
    bench.teach(&packet, Direction::Outbound, Verdict::Block);
    bench.engine.set_config(Config::default()).unwrap();
    assert_eq!(bench.outbound(&packet).reason(), Reason::BlockedCache);
}

#[test]
fn special_classes_need_no_reader() {
    let bench = Bench::with(|config| config.no_reader = Policy::Block);
    bench.engine.set_reader(false);
    let dhcp = udp("192.0.2.10:68", "192.0.2.1:67", 0);
    assert_eq!(
        bench.outbound(&dhcp).reason(),
        Reason::PermittedInfrastructure
    );
}

#[test]
fn what_cannot_be_parsed_goes_by_policy() {
    for (policy, expected) in [
        (Policy::Permit, Reason::PermittedUnparsable),
        (Policy::Block, Reason::BlockedUnparsable),
    ] {
        let bench = Bench::with(|config| config.unparsable = policy);
        let whole = udp(HERE, THERE, 1);
        for packet in [&[][..], &[0x45], &[0x15; 40], &whole[..27]] {
            assert_eq!(bench.outbound(packet).reason(), expected);
        }
        bench.assert_balanced(0);
    }
}

#[test]
fn dishonest_fragments_are_blocked_whatever_the_policy() {
    let bench = Bench::small();
    // Too short for its ports, and a first fragment of no multiple of 8 bytes.
    let whole = udp_of(HERE, THERE, &[1; 64]);
    let mut tiny = fragment(&tcp(HERE, THERE, kext_packet::TcpFlags::SYN), 1, 0, 8);
    tiny[6] = 0x20;
    testing::fix_ipv4_header(&mut tiny);
    for packet in [tiny, fragment(&whole, 2, 0, 20)] {
        assert_eq!(bench.outbound(&packet).reason(), Reason::BlockedFragment);
    }
}

/// First and later fragments of a datagram.
fn fragments(id: u16) -> [Vec<u8>; 3] {
    let whole = udp_of(HERE, THERE, &(0..100).collect::<Vec<u8>>());
    [0, 40, 80].map(|offset| fragment(&whole, id, offset, 40))
}

#[test]
fn fragments_follow_their_first_into_the_hold() {
    let bench = Bench::small();
    let [first, second, third] = fragments(1);
    assert_eq!(bench.outbound(&first), End::Held(true));
    assert_eq!(bench.outbound(&second), End::Held(false));
    assert_eq!(bench.outbound(&third), End::Held(false));
    let request = bench.request();
    assert_eq!(request.flow.remote_port, 443);
    let out = bench.verdict(request.id, always(Verdict::Accept));
    assert_eq!(out[1].bytes.as_ref(), Some(&second));
    assert_eq!(out.len(), 3);
    let [first, second, _] = fragments(2);
    assert_eq!(bench.outbound(&first).reason(), Reason::PermittedCache);
    assert_eq!(bench.outbound(&second).reason(), Reason::PermittedCache);
    bench.assert_balanced(0);
}

#[test]
fn later_fragments_can_be_blocked_or_permitted_instead() {
    for (policy, expected) in [
        (FragmentPolicy::Block, Reason::BlockedFragment),
        (FragmentPolicy::Permit, Reason::PermittedFragment),
    ] {
        let bench = Bench::with(|config| config.fragments = policy);
        let [first, second, _] = fragments(1);
        assert_eq!(bench.outbound(&first), End::Held(true));
        assert_eq!(bench.outbound(&second).reason(), expected);
    }
}

#[test]
fn our_own_packets_pass_until_they_loop() {
    let bench = Bench::small();
    let packet = udp(HERE, THERE, 1);
    for (passes, expected) in [
        (1, Reason::PermittedInjected),
        (3, Reason::PermittedInjected),
        (4, Reason::DroppedLoopGuard),
        (255, Reason::DroppedLoopGuard),
    ] {
        let arrival = Arrival {
            passes,
            ..arrival(Direction::Outbound)
        };
        assert_eq!(bench.present(&packet, &arrival).reason(), expected);
    }
    bench.assert_balanced(0);
}

#[test]
fn a_process_id_once_known_stays_with_the_flow() {
    let bench = Bench::small();
    let known = Arrival {
        process_id: ProcessId::new(77),
        ..arrival(Direction::Outbound)
    };
    bench.present(&udp(HERE, THERE, 1), &known);
    bench.inbound(&udp(THERE, HERE, 2));
    let request = bench.request();
    assert_eq!(request.arrival.process_id, ProcessId::new(77));
    bench.verdict(request.id, always(Verdict::Accept));
    let mut seen = Vec::new();
    bench.engine.list_flows(0, |flow| {
        seen.push(flow.process_id);
        true
    });
    assert_eq!(seen, [ProcessId::new(77)]);
}

proptest::proptest! {
    /// Whatever comes from the network ends or is held, and is counted.
    #[test]
    fn any_bytes_are_counted(
        packets in proptest::collection::vec(
            (0..3_u8, proptest::collection::vec(proptest::prelude::any::<u8>(), 0..80)),
            1..40,
        ),
    ) {
        let bench = Bench::small();
        let (mut held, mut refused) = (0, 0);
        for (version, mut packet) in packets {
            // Mostly something that looks like IP and may be parsed.
            if let (Some(first), 4 | 6) = (packet.first_mut(), 2 * version + 2) {
                *first = if version == 1 { 0x45 } else { 0x60 };
            }
            match bench.inbound(&packet) {
                End::Held(_) => held += 1,
                End::Ended(action) => {
                    refused += u64::from(reason(&action) == Reason::DroppedFragmentOrphan);
                }
            }
            bench.early();
        }
        let made_room = bench.reason(Reason::DroppedPacketCacheFull)
            + bench.reason(Reason::DroppedFlowFull)
            + bench.reason(Reason::DroppedFragmentOrphan) - refused;
        bench.assert_balanced(held - made_room);
        bench.abandon();
        bench.sleep(Duration::from_secs(1));
        bench.tick();
        bench.assert_balanced(0);
    }
}

#[test]
fn fragments_of_infrastructure_are_infrastructure() {
    let bench = Bench::small();
    let dhcp = udp_of("192.0.2.10:68", "192.0.2.1:67", &[0; 64]);
    for offset in [0, 40] {
        let end = bench.outbound(&fragment(&dhcp, 9, offset, 40));
        assert_eq!(end.reason(), Reason::PermittedInfrastructure, "{offset}");
    }
}

/// On a loopback interface each packet comes twice: out of one end, into the other.
#[test]
fn fragments_follow_the_first_of_their_own_direction() {
    let bench = Bench::small();
    let whole = udp_of("192.0.2.10:1000", "192.0.2.10:2000", &[0; 64]);
    let [first, later] = [0, 40].map(|offset| fragment(&whole, 9, offset, 40));
    bench.outbound(&first);
    bench.inbound(&first);
    bench.outbound(&later);
    bench.inbound(&later);
    for local_port in [1_000, 2_000] {
        let request = bench.request();
        assert_eq!(request.flow.local_port, local_port);
        let out = bench.verdict(request.id, always(Verdict::Accept));
        let directions: Vec<_> = out.iter().map(|out| out.info.arrival.direction).collect();
        assert_eq!(directions, [request.arrival.direction; 2]);
    }
}
