//! What is put together again is the packet.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::vec;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::testing;

const ID: u32 = 0x1234_5678;

fn udp(v6: bool, payload: usize) -> Vec<u8> {
    let ip = |last| -> IpAddr {
        if v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last).into()
        } else {
            Ipv4Addr::new(192, 0, 2, last as u8).into()
        }
    };
    let payload: Vec<u8> = (0..payload).map(|at| (at * 7 % 251) as u8).collect();
    let mut buffer = vec![0; payload.len() + 48];
    let (from, to) = (SocketAddr::new(ip(1), 1000), SocketAddr::new(ip(2), 53));
    let mut packet = testing::udp(&mut buffer, from, to, &payload).to_vec();
    if !v6 {
        packet[4..6].copy_from_slice(&[0xab, 0xcd]);
        testing::fix_ipv4_header(&mut packet);
    }
    packet
}

/// Puts these whole words behind an IPv4 header.
fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(20..20, options.iter().copied());
    packet[0] = 0x45 + (options.len() / 4) as u8;
    let len = packet.len() as u16;
    packet[2..4].copy_from_slice(&len.to_be_bytes());
    testing::fix_ipv4_header(&mut packet);
    packet
}

/// Puts these headers, by number and length, behind an IPv6 header.
fn with_extensions(packet: &[u8], chain: &[(u8, usize)]) -> Vec<u8> {
    let mut out = packet[..40].to_vec();
    let mut next_at = 6;
    for &(number, len) in chain {
        out[next_at] = number;
        next_at = out.len();
        let mut header = vec![0; len];
        header[1] = (len / 8 - 1) as u8;
        out.extend(header);
    }
    out[next_at] = packet[6];
    out.extend(&packet[40..]);
    let len = (out.len() - 40) as u16;
    out[4..6].copy_from_slice(&len.to_be_bytes());
    out
}

fn divide(packet: &[u8], mtu: usize) -> Result<Vec<Vec<u8>>, FragmentationError> {
    let fragmentation = Fragmentation::new(packet, &testing::parse(packet), mtu, ID)?;
    Ok((0..fragmentation.count())
        .map(|number| {
            let len = fragmentation.len_of(number);
            assert_eq!(fragmentation.write(number, &mut vec![0; len - 1]), None);
            let mut out = vec![0xee; len + 3];
            assert_eq!(fragmentation.write(number, &mut out), Some(len));
            assert_eq!(out.split_off(len), [0xee; 3]);
            out
        })
        .collect())
}

/// Headers of the first fragment without fragmentation, then all data in their order.
fn reassembled(fragments: &[Vec<u8>]) -> Vec<u8> {
    let first = &fragments[0];
    let v6 = first[0] >> 4 == 6;
    let mut data: Vec<u8> = Vec::new();
    for (number, fragment) in fragments.iter().enumerate() {
        let headers = testing::parse(fragment);
        assert_eq!(headers.total_len as usize, fragment.len());
        let known = headers.fragment.unwrap();
        assert_eq!(usize::from(known.offset), data.len());
        assert_eq!(known.more, number + 1 < fragments.len());
        assert_eq!(known.id, if v6 { ID } else { 0xabcd });
        data.extend(&fragment[fragment.len() - usize::from(known.len)..]);
        if !v6 {
            let header = &fragment[..usize::from(fragment[0] & 15) * 4];
            assert_eq!(checksum::Sum::new().add_bytes(header).folded(), 0xffff);
        }
    }
    let head = first.len() - usize::from(testing::parse(first).fragment.unwrap().len);
    let mut packet = first[..head].to_vec();
    if v6 {
        let fragment_header = packet.split_off(head - 8);
        let (_, at) = per_fragment_headers_of(&packet);
        packet[at] = fragment_header[0];
    }
    packet.extend(data);
    let len = if v6 { packet.len() - 40 } else { packet.len() } as u16;
    let at = if v6 { 4 } else { 2 };
    packet[at..at + 2].copy_from_slice(&len.to_be_bytes());
    if !v6 {
        packet[6] &= !0x20;
        testing::fix_ipv4_header(&mut packet);
    }
    packet
}

/// Where the headers that begin a fragment end and where the last says what follows, found from the end.
fn per_fragment_headers_of(head: &[u8]) -> (usize, usize) {
    let (mut end, mut at) = (40, 6);
    while end < head.len() {
        at = end;
        end += (usize::from(head[end + 1]) + 1) * 8;
    }
    assert_eq!(end, head.len());
    (end, at)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 2 } else { 512 }))]

    #[test]
    fn what_is_put_together_again_is_the_packet(
        v6 in any::<bool>(),
        payload in 1_300..64_900_usize,
        mtu in 1_280..9_100_usize,
        words in 0..=10_usize,
        chain in prop::collection::vec(
            (prop_oneof![Just(protocol::ROUTING), Just(protocol::DESTINATION_OPTIONS)], 1..8_usize),
            0..4,
        ),
    ) {
        let packet = if v6 {
            let chain: Vec<_> = chain.into_iter().map(|(number, units)| (number, units * 8)).collect();
            with_extensions(&udp(v6, payload), &chain)
        } else {
            with_options(&udp(v6, payload), &vec![1; words * 4])
        };
        prop_assume!(packet.len() > mtu);
        let fragments = divide(&packet, mtu).unwrap();
        prop_assert!(fragments.len() > 1 && fragments.len() <= MAX_FRAGMENTS);
        prop_assert!(fragments.iter().all(|fragment| fragment.len() <= mtu));
        prop_assert_eq!(reassembled(&fragments), packet);
    }

    #[test]
    fn any_bytes_are_divided_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 40..400),
        first in prop_oneof![Just(0x45_u8), Just(0x4f), Just(0x60)],
        mtu in 0..70_000_usize,
    ) {
        bytes[0] = first;
        let Ok(headers) = Headers::parse(&bytes, bytes.len()) else {
            return Ok(());
        };
        for len in [bytes.len(), 20, 41] {
            let part = bytes.get(..len).unwrap_or(&bytes);
            if let Ok(fragmentation) = Fragmentation::new(part, &headers, mtu, 0) {
                for number in 0..fragmentation.count() {
                    let mut out = [0; 600];
                    prop_assert_eq!(
                        fragmentation.write(number, &mut out),
                        Some(fragmentation.len_of(number))
                    );
                }
            }
        }
    }
}

#[test]
fn the_longest_packets_fit_the_bound() {
    for (v6, mtu, payload) in [
        (false, 576, 65_507),
        (true, 1280, 65_527),
        (false, 1500, 65_507),
    ] {
        let packet = udp(v6, payload);
        let fragments = divide(&packet, mtu).unwrap();
        assert_eq!(reassembled(&fragments), packet);
    }
    let long = with_options(&udp(false, 65_467), &[1; 40]);
    assert_eq!(divide(&long, 576).unwrap().len(), MAX_FRAGMENTS);
    assert_eq!(divide(&long, 568), Err(FragmentationError::TooMany));
}

/// RFC 791 §3.1: a source route is in every fragment, a recorded route and a time stamp only in the first.
#[test]
fn only_options_that_say_so_are_copied() {
    let route = [131, 7, 8, 192, 0, 2, 9];
    let mut options = vec![1, 7, 7, 4, 0, 0, 0, 0];
    options.extend(route);
    options.push(0);
    let packet = with_options(&udp(false, 3_000), &options);
    let fragments = divide(&packet, 1500).unwrap();
    assert_eq!(fragments[0][20..36], packet[20..36]);
    for later in &fragments[1..] {
        assert_eq!(later[0], 0x47);
        assert_eq!(later[20..27], route);
        assert_eq!(later[27], 0);
    }
    assert_eq!(reassembled(&fragments), packet);
    // One that says that it is longer than all is left to its receiver.
    let packet = with_options(&udp(false, 3_000), &[131, 9, 0, 0]);
    assert_eq!(divide(&packet, 1500).unwrap()[1][0], 0x45);
}

#[test]
fn a_fragment_of_ipv4_is_divided_further() {
    let mut packet = udp(false, 2_992);
    packet[6..8].copy_from_slice(&[0x20, 0x10]);
    testing::fix_ipv4_header(&mut packet);
    let fragments = divide(&packet, 1500).unwrap();
    let known = |fragment: &Vec<u8>| testing::parse(fragment).fragment.unwrap();
    let offsets: Vec<_> = fragments
        .iter()
        .map(|fragment| known(fragment).offset)
        .collect();
    assert_eq!(offsets, [128, 128 + 1480, 128 + 2960]);
    assert!(fragments.iter().all(|fragment| known(fragment).more));
}

#[test]
fn what_is_not_to_be_divided_is_refused() {
    let mut packet = udp(false, 3_000);
    packet[6] = 0x40;
    assert_eq!(divide(&packet, 1500), Err(FragmentationError::DontFragment));
    assert_eq!(
        divide(&udp(false, 3_000), 67),
        Err(FragmentationError::MtuTooSmall)
    );
    assert_eq!(
        divide(&udp(true, 3_000), 1279),
        Err(FragmentationError::MtuTooSmall)
    );
    let packet = with_extensions(&udp(true, 3_000), &[(protocol::FRAGMENT, 8)]);
    assert_eq!(divide(&packet, 1500), Err(FragmentationError::IsFragment));
    let packet = udp(true, 3_000);
    let short = Fragmentation::new(&packet[..2_000], &testing::parse(&packet), 1500, ID);
    assert_eq!(short.err(), Some(FragmentationError::NotWhole));
}
