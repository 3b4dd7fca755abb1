//! Rewriting: what changes, what does not, and what is refused.

use std::vec::Vec;

use super::*;
use crate::TcpFlags;
use crate::checksum::Sum;
use crate::testing::{self, Tcp, parse};

const NEW_SOURCE: Address = Address::v4([203, 0, 113, 9]);
const NEW_DESTINATION: Address = Address::v4([198, 51, 100, 7]);

fn both(source_port: u16, destination_port: u16) -> Rewrite {
    Rewrite {
        source: Some((NEW_SOURCE, source_port)),
        destination: Some((NEW_DESTINATION, destination_port)),
    }
}

fn udp4() -> Vec<u8> {
    let mut buffer = [0; 64];
    let ends = (
        "10.0.0.2:5000".parse().unwrap(),
        "192.0.2.1:53".parse().unwrap(),
    );
    testing::udp(&mut buffer, ends.0, ends.1, b"question").to_vec()
}

fn rewritten(packet: &[u8], change: &Rewrite) -> Result<Vec<u8>, RewriteError> {
    let mut new = packet.to_vec();
    let result = rewrite(&mut new, &parse(packet), change);
    if result.is_err() {
        assert_eq!(new, packet, "an error changes nothing");
    }
    result.map(|()| new)
}

#[test]
fn addresses_ports_and_checksums_change_and_nothing_else() {
    let old = udp4();
    let new = rewritten(&old, &both(1024, 5353)).unwrap();
    let headers = parse(&new);
    assert_eq!(headers.source, NEW_SOURCE);
    assert_eq!(headers.destination, NEW_DESTINATION);
    assert_eq!(
        (headers.source_port, headers.destination_port),
        (1024, 5353)
    );
    assert_eq!(Sum::new().add_bytes(&new[..20]).folded(), 0xffff);
    assert_eq!(checksum::is_right(&new, &headers), Some(true));
    assert_eq!(new[..10], old[..10]);
    assert_eq!(new[24..26], old[24..26]);
    assert_eq!(new[28..], old[28..]);
}

#[test]
fn one_end_alone() {
    let old = udp4();
    let change = Rewrite {
        destination: Some((NEW_DESTINATION, 5353)),
        source: None,
    };
    let headers = parse(&rewritten(&old, &change).unwrap());
    assert_eq!(
        (headers.source, headers.source_port),
        (parse(&old).source, 5000)
    );
    assert_eq!(
        (headers.destination, headers.destination_port),
        (NEW_DESTINATION, 5353)
    );
    assert_eq!(rewritten(&old, &Rewrite::default()), Ok(old));
}

#[test]
fn no_udp_checksum_stays_none() {
    let mut old = udp4();
    old[26..28].copy_from_slice(&[0, 0]);
    let new = rewritten(&old, &both(1, 2)).unwrap();
    assert_eq!(new[26..28], [0, 0]);
    assert_eq!(Sum::new().add_bytes(&new[..20]).folded(), 0xffff);
}

#[test]
#[cfg_attr(miri, ignore = "thousands of values")]
fn a_udp_checksum_that_becomes_zero_is_sent_as_ffff() {
    let old = udp4();
    // The source port that makes the sum come out so: found, not computed.
    let zero = (1..=u16::MAX).find_map(|port| {
        let new = rewritten(&old, &both(port, 53)).unwrap();
        let sum = u16::from_be_bytes([new[26], new[27]]);
        assert_ne!(sum, 0);
        (sum == 0xffff).then_some(new)
    });
    let new = zero.unwrap();
    let headers = parse(&new);
    assert_eq!(checksum::is_right(&new, &headers), Some(true));
}

#[test]
fn all_fragments_of_a_packet_are_rewritten_to_one() {
    // The whole datagram, and the same in two fragments with 8 bytes each.
    let whole = udp4();
    let fragment = |from: usize, flags_and_offset: [u8; 2]| {
        let mut fragment = whole[..20].to_vec();
        fragment.extend(&whole[from..from + 8]);
        fragment[3] = 28;
        fragment[6..8].copy_from_slice(&flags_and_offset);
        testing::fix_ipv4_header(&mut fragment);
        fragment
    };
    let change = both(1024, 5353);
    let first = rewritten(&fragment(20, [0x20, 0]), &change).unwrap();
    let later = rewritten(&fragment(28, [0, 1]), &change).unwrap();
    for fragment in [&first, &later] {
        assert_eq!(Sum::new().add_bytes(&fragment[..20]).folded(), 0xffff);
        assert_eq!(parse(fragment).destination, NEW_DESTINATION);
    }
    let whole = rewritten(&whole, &change).unwrap();
    assert_eq!([&first[20..], &later[20..]].concat(), whole[20..]);
}

#[test]
fn of_a_cut_packet_what_is_there_is_changed() {
    let mut buffer = [0; 64];
    let ends = (
        "10.0.0.2:5000".parse().unwrap(),
        "192.0.2.1:53".parse().unwrap(),
    );
    let segment = Tcp {
        flags: TcpFlags::ACK,
        sequence: 1,
        acknowledgement: 2,
        payload: &[1, 2, 3],
    };
    let old = testing::tcp(&mut buffer, ends.0, ends.1, &segment).to_vec();
    let whole = rewritten(&old, &both(1024, 5353)).unwrap();
    // Cut before, inside and after the checksum at 36; half a checksum is left as it is.
    for len in 24..=old.len() {
        let mut cut = old[..len].to_vec();
        let headers = Headers::parse(&cut, old.len()).unwrap();
        rewrite(&mut cut, &headers, &both(1024, 5353)).unwrap();
        let same = if len == 37 { 36 } else { len };
        assert_eq!(cut[..same], whole[..same], "{len}");
    }
}

#[test]
fn padding_is_not_taken_for_a_checksum() {
    // TCP's checksum would be in the padding after a later fragment's eight bytes.
    let mut old = udp4()[..28].to_vec();
    old[3] = 28;
    old[7] = 100;
    old[9] = 6;
    testing::fix_ipv4_header(&mut old);
    old.extend([0xaa; 18]);
    let new = rewritten(&old, &both(1, 2)).unwrap();
    assert_eq!(new[20..], old[20..]);
}

#[test]
fn icmp_has_addresses_but_no_ports() {
    let mut buffer = [0; 128];
    for (source, destination, new) in [
        ("10.0.0.2", "10.0.0.3", NEW_SOURCE),
        ("2001:db8::2", "2001:db8::3", Address::v6([0x2a; 16])),
    ] {
        let ends = (source.parse().unwrap(), destination.parse().unwrap());
        let old = testing::icmp(&mut buffer, ends.0, ends.1, (128, 0), [9; 4], &[7; 11]).to_vec();
        let to = |port| Rewrite {
            source: Some((new, port)),
            destination: None,
        };
        let packet = rewritten(&old, &to(0)).unwrap();
        assert_eq!(parse(&packet).source, new);
        assert_eq!(checksum::is_right(&packet, &parse(&packet)), Some(true));
        let number = parse(&old).protocol;
        assert_eq!(rewritten(&old, &to(1)), Err(RewriteError::Protocol(number)));
    }
}

#[test]
fn what_is_refused() {
    let old = udp4();
    let with_protocol = |number: u8| {
        let mut packet = old.clone();
        packet.resize(36, 0);
        packet[9] = number;
        rewritten(&packet, &both(0, 0))
    };
    for number in [2, 47, 50, 132] {
        assert_eq!(with_protocol(number), Err(RewriteError::Protocol(number)));
    }
    // The second end's family is checked before the first is written.
    let mut change = both(1, 2);
    change.destination = Some((Address::v6([0x20; 16]), 2));
    assert_eq!(rewritten(&old, &change), Err(RewriteError::Family));

    let mut routed = old.clone();
    routed.splice(20..20, [131, 7, 4, 10, 0, 0, 9, 0]);
    routed[0] = 0x47;
    routed[3] += 8;
    assert_eq!(
        rewritten(&routed, &both(1, 2)),
        Err(RewriteError::SourceRouted)
    );

    let mut authenticated = old.clone();
    authenticated.splice(20..20, [17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    authenticated[9] = 51;
    authenticated[3] += 12;
    assert_eq!(
        rewritten(&authenticated, &both(1, 2)),
        Err(RewriteError::Authenticated)
    );

    let headers = parse(&old);
    let mut short = old[..23].to_vec();
    let result = rewrite(&mut short, &headers, &both(1, 2));
    assert_eq!(result, Err(RewriteError::Mismatch));
    assert_eq!(short, old[..23]);
}

/// A router's or an end's error about a datagram that went from S' to T, given S and D again.
#[test]
fn an_error_about_a_rewritten_packet_is_as_if_it_had_not_been() {
    for (asker, moved, target, destination, router, kind) in [
        (
            "10.0.0.2:5000",
            "10.0.0.2:50000",
            "203.0.113.9:53",
            "192.0.2.1:5353",
            "198.51.100.1",
            (3, 3),
        ),
        (
            "[2001:db8::2]:5000",
            "[2001:db8::2]:50000",
            "[2001:db8:1::9]:53",
            "[2001:db8:2::1]:5353",
            "2001:db8:3::1",
            (1, 4),
        ),
    ] {
        let [asker, moved, target, destination]: [std::net::SocketAddr; 4] =
            [asker, moved, target, destination].map(|end| end.parse().unwrap());
        let router = router.parse().unwrap();
        let change = Rewrite {
            source: Some((destination.ip().into(), destination.port())),
            destination: Some((asker.ip().into(), asker.port())),
        };
        for (from, expected_from) in [(target.ip(), destination.ip()), (router, router)] {
            for quote_len in [usize::MAX, 8] {
                let error_about = |from, source: std::net::SocketAddr, to| {
                    let mut buffer = [0; 100];
                    let quoted = testing::udp(&mut buffer, source, to, b"question");
                    let len = quoted.len() - 16 + quote_len.min(16);
                    let mut buffer = [0; 200];
                    let quote = &quoted[..len];
                    testing::icmp(&mut buffer, from, source.ip(), kind, [0; 4], quote).to_vec()
                };
                let mut packet = error_about(from, moved, target);
                let headers = parse(&packet);
                rewrite_error(&mut packet, &headers, &change).unwrap();
                let expected = error_about(expected_from, asker, destination);
                assert_eq!(packet, expected, "{from} {quote_len}");
            }
        }
    }
}

#[test]
fn an_error_that_cannot_be_rewritten_stays_as_it_was() {
    let [here, there] = ["10.0.0.2", "192.0.2.1"].map(|ip| ip.parse().unwrap());
    let mut buffer = [0; 200];
    let quote = udp4();
    let v6 = Rewrite {
        source: Some((Address::UNSPECIFIED, 1)),
        destination: Some((NEW_DESTINATION, 2)),
    };
    for (kind, quote, change) in [
        ((3, 3), &quote[..22], both(1, 2)),
        ((8, 0), &quote[..], both(1, 2)),
        ((3, 3), &quote[..], v6),
    ] {
        let packet = testing::icmp(&mut buffer, there, here, kind, [0; 4], quote);
        let before = packet.to_vec();
        assert!(rewrite_error(packet, &parse(&before), &change).is_err());
        assert_eq!(packet, before);
    }
}
