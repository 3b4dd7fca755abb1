//! Properties of the whole crate on generated packets, and the comparison with an independent
//! dissector.

use core::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use etherparse::{IpNumber, SlicedPacket, TransportSlice};
use kext_types::{Address, Direction, IpVersion, protocol};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::checksum::{self, Sum};
use crate::testing::{self, Tcp};
use crate::{Headers, MAX_REPLY_LEN, ReplyKind, Rewrite, TcpFlags, TransportInfo, reply, rewrite};

/// A packet of TCP, UDP or ICMP without options or extension headers, checksums right.
fn plain() -> impl Strategy<Value = Vec<u8>> {
    let ends = any::<bool>().prop_flat_map(|is_v4| {
        let ip = move || {
            any::<u128>().prop_map(move |bits| {
                if is_v4 {
                    IpAddr::from((bits as u32).to_be_bytes())
                } else {
                    IpAddr::from(bits.to_be_bytes())
                }
            })
        };
        (ip(), ip())
    });
    let numbers = (any::<[u16; 2]>(), any::<[u32; 2]>(), any::<[u8; 2]>());
    (ends, numbers, 0..3, vec(any::<u8>(), 0..80)).prop_map(
        |((source, destination), (ports, numbers, bytes), kind, payload)| {
            let mut buffer = [0; 256];
            let from = SocketAddr::new(source, ports[0]);
            let to = SocketAddr::new(destination, ports[1]);
            match kind {
                0 => testing::udp(&mut buffer, from, to, &payload),
                1 => {
                    let segment = Tcp {
                        flags: TcpFlags(bytes[0]),
                        sequence: numbers[0],
                        acknowledgement: numbers[1],
                        payload: &payload,
                    };
                    testing::tcp(&mut buffer, from, to, &segment)
                }
                _ => {
                    let kind = (bytes[0], bytes[1]);
                    let rest = numbers[0].to_be_bytes();
                    testing::icmp(&mut buffer, source, destination, kind, rest, &payload)
                }
            }
            .to_vec()
        },
    )
}

/// One IPv6 extension header that the dissector knows as well: its number and its length.
fn extension() -> impl Strategy<Value = (u8, usize)> {
    prop_oneof![
        (Just(protocol::DESTINATION_OPTIONS), 1..6_usize).prop_map(|(n, units)| (n, units * 8)),
        (Just(protocol::ROUTING), 1..6_usize).prop_map(|(n, units)| (n, units * 8)),
        (Just(protocol::AH), 3..9_usize).prop_map(|(n, units)| (n, units * 4)),
        // An atomic fragment: a whole packet all the same.
        Just((protocol::FRAGMENT, 8)),
    ]
}

/// Puts `chain` between the IPv6 header and the transport header.
fn with_extensions(packet: &[u8], chain: &[(u8, usize)]) -> Vec<u8> {
    let mut out = packet[..40].to_vec();
    let mut next_at = 6;
    let last = packet[6];
    for &(number, len) in chain {
        out[next_at] = number;
        next_at = out.len();
        let mut header = std::vec![0; len];
        header[1] = match number {
            protocol::FRAGMENT => 0,
            protocol::AH => (len / 4 - 2) as u8,
            _ => (len / 8 - 1) as u8,
        };
        out.extend(header);
    }
    out[next_at] = last;
    out.extend(&packet[40..]);
    let payload_len = (out.len() - 40) as u16;
    out[4..6].copy_from_slice(&payload_len.to_be_bytes());
    out
}

/// Puts options (whole words of no-operation) behind an IPv4 header.
fn with_options(packet: &[u8], words: usize) -> Vec<u8> {
    let mut out = packet.to_vec();
    out.splice(20..20, std::vec![1; words * 4]);
    out[0] = 0x45 + words as u8;
    let total_len = out.len() as u16;
    out[2..4].copy_from_slice(&total_len.to_be_bytes());
    testing::fix_ipv4_header(&mut out);
    out
}

/// Any of the above, as one packet in four is.
fn packet() -> impl Strategy<Value = Vec<u8>> {
    let chain = (any::<bool>(), vec(extension(), 0..5));
    (plain(), chain, 0..=10_usize).prop_map(|(packet, (hop_by_hop, mut chain), words)| {
        if packet[0] >> 4 == 4 {
            return with_options(&packet, words);
        }
        // One fragment header at most.
        let first = chain.iter().position(|(n, _)| *n == protocol::FRAGMENT);
        let mut at = 0..;
        chain.retain(|(n, _)| {
            let at = at.next();
            *n != protocol::FRAGMENT || at == first
        });
        if hop_by_hop {
            chain.insert(0, (protocol::HOP_BY_HOP, 16));
        }
        with_extensions(&packet, &chain)
    })
}

/// A packet with some bytes changed and its end cut off or padded.
fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let changes = vec((any::<prop::sample::Index>(), any::<u8>()), 0..6);
    (packet(), changes, 0..300_usize).prop_map(|(mut packet, changes, len)| {
        for (at, value) in changes {
            let at = at.index(packet.len());
            packet[at] = value;
        }
        if len < 200 {
            packet.resize(len, 0xee);
        }
        packet
    })
}

/// Runs everything that takes bytes from the network; only a panic is a failure.
fn run_everything(bytes: &[u8], on_wire: usize) {
    let Ok(headers) = Headers::parse(bytes, on_wire) else {
        return;
    };
    assert!(headers.total_len as usize <= on_wire.max(bytes.len()));
    let _ = headers.quoted(bytes);
    let _ = headers.is_infrastructure();
    let _ = headers.flow_key(Direction::Inbound);
    let _ = checksum::is_right(bytes, &headers);
    let mut out = [0; MAX_REPLY_LEN];
    if let Ok(reply) = reply::build(bytes, &headers, 0, &mut out) {
        check_reply(&headers, reply.kind, &out[..reply.len]);
    }
    let mut copy = bytes.to_vec();
    let end = Some((Address::v4([1, 2, 3, 4]), headers.source_port));
    let change = Rewrite {
        source: end,
        destination: end,
    };
    let result = rewrite::rewrite(&mut copy, &headers, &change);
    assert!(result.is_ok() || copy == bytes);
    assert_eq!(copy.len(), bytes.len());
    let _ = checksum::fill(&mut copy, &headers);
    // Headers of another packet: wrong, but no reason to panic.
    for len in [0, 19, 24, 41] {
        let part = bytes.get(..len).unwrap_or(bytes);
        let _ = reply::build(part, &headers, 0, &mut out);
        let _ = rewrite::rewrite(&mut part.to_vec(), &headers, &change);
        let _ = rewrite::rewrite_error(&mut part.to_vec(), &headers, &change);
        let _ = headers.quoted_flow(part, Direction::Inbound);
        let _ = checksum::fill(&mut part.to_vec(), &headers);
    }
}

fn check_reply(asked: &Headers, kind: ReplyKind, reply: &[u8]) {
    let headers = testing::parse(reply);
    assert_eq!(headers.total_len as usize, reply.len());
    assert_eq!(headers.source, asked.destination);
    assert_eq!(headers.destination, asked.source);
    assert_eq!(checksum::is_right(reply, &headers), Some(true));
    let key = asked.flow_key(Direction::Outbound);
    match kind {
        ReplyKind::TcpReset => assert_eq!(headers.flow_key(Direction::Inbound), key),
        ReplyKind::Unreachable => {
            let quoted = headers.quoted(reply);
            assert_eq!(quoted.map(|q| q.flow_key(Direction::Outbound)), Some(key));
        }
    }
    let mut out = [0; MAX_REPLY_LEN];
    assert!(reply::build(reply, &headers, 0, &mut out).is_err());
}

/// Whether the other dissector finds the checksums of TCP and ICMPv6 over IPv6 right.
fn has_right_checksum(bytes: &[u8]) -> bool {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let Some(etherparse::NetSlice::Ipv6(ip)) = &sliced.net else {
        return true;
    };
    let (source, destination) = (ip.header().source(), ip.header().destination());
    match &sliced.transport {
        Some(TransportSlice::Icmpv6(icmp)) => icmp.is_checksum_valid(source, destination),
        Some(TransportSlice::Tcp(tcp)) => {
            tcp.calc_checksum_ipv6(source, destination) == Ok(tcp.checksum())
        }
        _ => true,
    }
}

/// What the other dissector finds: addresses, protocol, ports and where the transport starts.
fn dissect(bytes: &[u8]) -> (IpAddr, IpAddr, u8, u16, u16, usize) {
    let sliced = SlicedPacket::from_ip(bytes).unwrap();
    let payload = sliced.ip_payload().unwrap();
    let start = payload.payload.as_ptr().addr() - bytes.as_ptr().addr();
    let (source, destination) = match sliced.net.as_ref().unwrap() {
        etherparse::NetSlice::Ipv4(ip) => (
            IpAddr::from(ip.header().source_addr()),
            IpAddr::from(ip.header().destination_addr()),
        ),
        etherparse::NetSlice::Ipv6(ip) => (
            IpAddr::from(ip.header().source_addr()),
            IpAddr::from(ip.header().destination_addr()),
        ),
        etherparse::NetSlice::Arp(_) => panic!("ARP"),
    };
    let (source_port, destination_port) = match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => (udp.source_port(), udp.destination_port()),
        Some(TransportSlice::Tcp(tcp)) => (tcp.source_port(), tcp.destination_port()),
        _ => (0, 0),
    };
    let IpNumber(number) = payload.ip_number;
    (
        source,
        destination,
        number,
        source_port,
        destination_port,
        start,
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 2048 }))]

    #[test]
    fn random_bytes_never_panic(
        mut bytes in vec(any::<u8>(), 0..200),
        version in prop_oneof![Just(None), Just(Some(0x45)), Just(Some(0x4f)), Just(Some(0x60))],
        more in 0..70_000_usize,
    ) {
        if let (Some(first), Some(version)) = (bytes.first_mut(), version) {
            *first = version;
        }
        run_everything(&bytes, bytes.len() + more);
    }

    #[test]
    fn mutated_packets_never_panic(bytes in mutated(), more in 0..300_usize) {
        run_everything(&bytes, bytes.len() + more);
        run_everything(&bytes, bytes.len());
    }

    #[test]
    fn the_walk_agrees_with_another_dissector(packet in packet()) {
        let headers = testing::parse(&packet);
        let version = headers.version;
        let ours = (
            headers.source.to_ip(version),
            headers.destination.to_ip(version),
            headers.protocol,
            headers.source_port,
            headers.destination_port,
            usize::from(headers.transport),
        );
        prop_assert_eq!(ours, dissect(&packet));
        prop_assert!(has_right_checksum(&packet));
        prop_assert_eq!(headers.total_len as usize, packet.len());
        prop_assert_eq!(headers.fragment, None);
    }

    #[test]
    fn every_cut_is_the_same_packet_or_an_error(packet in packet()) {
        let whole = testing::parse(&packet);
        for len in 0..packet.len() {
            if let Ok(cut) = Headers::parse(&packet[..len], packet.len()) {
                let info = cut.transport_info;
                let expected = if info == TransportInfo::Missing { info } else { whole.transport_info };
                prop_assert_eq!(cut, Headers { transport_info: expected, ..whole });
            }
            prop_assert!(Headers::parse(&packet[..len], len).is_err());
        }
    }

    #[test]
    fn updated_checksums_are_those_of_a_full_computation(
        packet in packet(),
        source in any::<([u8; 16], u16)>(),
        destination in any::<([u8; 16], u16)>(),
    ) {
        let headers = testing::parse(&packet);
        prop_assume!(!headers.authenticated && !headers.source_routed);
        let has_ports = matches!(headers.protocol, protocol::TCP | protocol::UDP);
        let end = |(bytes, port): ([u8; 16], u16)| {
            let address = match headers.version {
                IpVersion::V4 => Address::v4(*bytes.first_chunk().unwrap()),
                IpVersion::V6 => Address::v6(bytes),
            };
            Some((address, if has_ports { port } else { 0 }))
        };
        let there = Rewrite { source: end(source), destination: end(destination) };
        let mut new = packet.clone();
        rewrite::rewrite(&mut new, &headers, &there).unwrap();
        let new_headers = testing::parse(&new);
        prop_assert_eq!(Some((new_headers.source, new_headers.source_port)), there.source);
        prop_assert_eq!(
            Some((new_headers.destination, new_headers.destination_port)),
            there.destination
        );
        let mut full = new.clone();
        checksum::fill(&mut full, &new_headers).unwrap();
        prop_assert_eq!(&new, &full);

        let back = Rewrite {
            source: Some((headers.source, headers.source_port)),
            destination: Some((headers.destination, headers.destination_port)),
        };
        rewrite::rewrite(&mut new, &new_headers, &back).unwrap();
        prop_assert_eq!(new, packet);
    }

    #[test]
    fn an_updated_word_is_as_computed_anew(
        mut words in vec(any::<u16>(), 2..40),
        at in any::<prop::sample::Index>(),
        new in any::<u16>(),
    ) {
        // Some word is not zero, as in every packet: see `checksum::update`.
        words.push(1);
        let checksum = |words: &[u16]| {
            words.iter().fold(Sum::new(), |sum, word| sum.add_word(*word)).checksum()
        };
        let before = checksum(&words);
        let at = at.index(words.len() - 1);
        let updated = checksum::update(before, &words[at].to_be_bytes(), &new.to_be_bytes());
        words[at] = new;
        prop_assert_eq!(updated, checksum(&words));
    }
}
