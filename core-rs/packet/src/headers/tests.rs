//! The walk, on packets written out by hand.

use super::*;
use crate::testing::{self, parse};
use std::string::ToString;
use std::vec::Vec;

/// 10.0.0.2:4660 → 192.0.2.1:53, UDP, 20 + 8 bytes, identification 0xabcd.
const UDP4: [u8; 28] = [
    0x45, 0, 0, 28, 0xab, 0xcd, 0, 0, 64, 17, 0, 0, 10, 0, 0, 2, 192, 0, 2, 1, // IP
    0x12, 0x34, 0, 53, 0, 8, 0, 0, // UDP
];

fn v6(next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = std::vec![0x60, 0, 0, 0, 0, payload.len() as u8, next, 64];
    packet[4..6].copy_from_slice(&(payload.len() as u16).to_be_bytes());
    packet.extend([0x20; 16]);
    packet.extend([0x30; 16]);
    packet.extend(payload);
    packet
}

/// An extension header of `len` bytes, all options padding (or "segments left 0").
fn extension(next: u8, len: usize) -> Vec<u8> {
    let mut header = std::vec![0; len];
    header[0] = next;
    header[1] = (len / 8 - 1) as u8;
    header
}

const UDP: [u8; 8] = [0x12, 0x34, 0, 53, 0, 8, 0, 0];

fn error(packet: &[u8]) -> ParseError {
    Headers::parse(packet, packet.len()).unwrap_err()
}

#[test]
fn a_plain_udp_packet() {
    let headers = parse(&UDP4);
    assert_eq!(headers.version, IpVersion::V4);
    assert_eq!(headers.source, Address::v4([10, 0, 0, 2]));
    assert_eq!(headers.destination, Address::v4([192, 0, 2, 1]));
    assert_eq!((headers.source_port, headers.destination_port), (4660, 53));
    assert_eq!((headers.total_len, headers.transport), (28, 20));
    assert_eq!(headers.fragment, None);
    assert!(!headers.source_routed && !headers.authenticated);
}

#[test]
fn both_directions_have_one_key() {
    let there = parse(&UDP4);
    let mut back = UDP4;
    back[12..16].copy_from_slice(&UDP4[16..20]);
    back[16..20].copy_from_slice(&UDP4[12..16]);
    back[20..22].copy_from_slice(&UDP4[22..24]);
    back[22..24].copy_from_slice(&UDP4[20..22]);
    let key = there.flow_key(Direction::Outbound);
    assert_eq!(key, parse(&back).flow_key(Direction::Inbound));
    assert_eq!((key.local_port, key.remote_port), (4660, 53));
    assert_eq!(key.local, Address::v4([10, 0, 0, 2]));
}

#[test]
fn padding_is_ignored_and_length_beyond_the_wire_is_not() {
    let mut padded = UDP4.to_vec();
    padded.extend([0xee; 18]);
    assert_eq!(parse(&padded), parse(&UDP4));
    let mut long = UDP4;
    long[3] = 29;
    assert_eq!(error(&long), ParseErrorKind::IpLengthBeyondPacket.at(2));
    // The same bytes as a capture's first 28 of 29.
    assert_eq!(Headers::parse(&long, 29).unwrap().total_len, 29);
    let mut v6_long = v6(17, &UDP);
    v6_long[5] = 9;
    assert_eq!(error(&v6_long), ParseErrorKind::IpLengthBeyondPacket.at(4));
}

#[test]
fn padding_is_no_transport_header() {
    let mut packet = UDP4;
    packet[3] = 27;
    assert_eq!(error(&packet), ParseErrorKind::TruncatedTransport.at(20));
}

#[test]
fn a_cut_packet_is_parsed_if_its_ports_are_there() {
    let headers = Headers::parse(&UDP4[..24], 28).unwrap();
    assert_eq!((headers.source_port, headers.destination_port), (4660, 53));
    assert_eq!(
        Headers::parse(&UDP4[..23], 28),
        Err(ParseErrorKind::TruncatedTransport.at(20))
    );
}

#[test]
fn what_is_wrong_with_an_ipv4_header() {
    assert_eq!(error(&[]), ParseErrorKind::Empty.at(0));
    assert_eq!(error(&[0x55]), ParseErrorKind::UnknownVersion(5).at(0));
    assert_eq!(error(&UDP4[..19]), ParseErrorKind::TruncatedHeader.at(0));
    let with = |at: usize, value: u8| {
        let mut packet = UDP4;
        packet[at] = value;
        error(&packet)
    };
    assert_eq!(with(0, 0x44), ParseErrorKind::HeaderLengthTooSmall.at(0));
    assert_eq!(with(0, 0x48), ParseErrorKind::HeaderBeyondPacket.at(0));
    assert_eq!(with(3, 19), ParseErrorKind::IpLengthTooSmall.at(2));
    assert_eq!(
        with(3, 19).to_string(),
        "IPv4 total length below 20 bytes (byte 2 of the packet)"
    );
}

#[test]
fn ipv4_options_are_stepped_over() {
    // IHL 6: four bytes of no-operation; the ports follow them.
    let mut packet = UDP4.to_vec();
    packet.splice(20..20, [1, 1, 1, 0]);
    packet[0] = 0x46;
    packet[3] = 32;
    let headers = parse(&packet);
    assert_eq!(headers.transport, 24);
    assert_eq!(headers.source_port, 4660);
    assert!(!headers.source_routed);
    // Cut inside the options.
    assert_eq!(
        Headers::parse(&packet[..22], 32),
        Err(ParseErrorKind::TruncatedHeader.at(0))
    );
}

#[test]
fn source_routes_are_seen_behind_other_options() {
    let with = |options: [u8; 12]| {
        let mut packet = UDP4.to_vec();
        packet.splice(20..20, options);
        packet[0] = 0x48;
        packet[3] = 40;
        parse(&packet).source_routed
    };
    // Record route of 3 bytes, no-operation, then a loose source route of one address.
    assert!(with([7, 3, 4, 1, 131, 7, 4, 10, 0, 0, 9, 0]));
    assert!(with([7, 3, 4, 1, 137, 7, 4, 10, 0, 0, 9, 0]));
    // Its pointer is past the end: the route has been followed.
    assert!(!with([7, 3, 4, 1, 131, 7, 8, 10, 0, 0, 9, 0]));
    // After the end of options; behind an option that overruns; option length 0.
    assert!(!with([0, 131, 7, 4, 10, 0, 0, 9, 0, 0, 0, 0]));
    assert!(!with([7, 99, 131, 7, 4, 10, 0, 0, 9, 0, 0, 0]));
    assert!(with([7, 0, 131, 7, 4, 10, 0, 0, 9, 0, 0, 0]));
}

#[test]
fn ipv6_extensions_are_walked_in_their_own_units() {
    // Hop-by-hop (16) → routing (8) → AH (length field 4: 24 bytes) → mobility → HIP → shim6
    // → destination options → UDP.
    let mut payload = extension(43, 16);
    payload.extend(extension(51, 8));
    let mut ah = std::vec![0; 24];
    ah[0] = 135;
    ah[1] = 4;
    payload.extend(ah);
    payload.extend(extension(139, 8));
    payload.extend(extension(140, 16));
    payload.extend(extension(60, 8));
    payload.extend(extension(17, 8));
    payload.extend(UDP);
    let headers = parse(&v6(0, &payload));
    assert_eq!(headers.protocol, 17);
    assert_eq!((headers.source_port, headers.destination_port), (4660, 53));
    assert_eq!(headers.transport, 40 + 16 + 8 + 24 + 8 + 16 + 8 + 8);
    assert!(headers.authenticated && !headers.source_routed);
}

#[test]
fn segments_left_make_a_source_route() {
    let mut payload = extension(17, 24);
    payload[3] = 1;
    payload.extend(UDP);
    assert!(parse(&v6(43, &payload)).source_routed);
}

#[test]
fn ipv4_walks_the_authentication_header_and_no_other() {
    let mut packet = UDP4.to_vec();
    packet[9] = 51;
    packet[3] = 40;
    packet.splice(20..20, [17, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let headers = parse(&packet);
    assert_eq!((headers.protocol, headers.transport), (17, 32));
    assert_eq!(headers.source_port, 4660);
    packet[21] = 0;
    assert_eq!(error(&packet), ParseErrorKind::BadExtension.at(20));
    packet[9] = 60;
    assert_eq!(parse(&packet).protocol, 60);
}

#[test]
fn esp_and_no_next_header_end_the_walk() {
    for number in [50, 59] {
        let mut payload = extension(number, 8);
        payload.extend([0xff; 8]);
        let headers = parse(&v6(60, &payload));
        assert_eq!(headers.protocol, number);
        assert_eq!(headers.transport, 48);
        assert_eq!((headers.source_port, headers.destination_port), (0, 0));
        assert_eq!(headers.transport_info, TransportInfo::Other);
    }
}

#[test]
fn eight_extensions_and_512_bytes_are_the_bound() {
    let chain = |count: usize, len: usize| {
        let mut payload = Vec::new();
        for number in 0..count {
            payload.extend(extension(if number + 1 == count { 17 } else { 60 }, len));
        }
        payload.extend(UDP);
        v6(60, &payload)
    };
    assert_eq!(parse(&chain(8, 64)).transport, 40 + 512);
    assert_eq!(
        error(&chain(9, 8)),
        ParseErrorKind::TooManyExtensions.at(104)
    );
    // The last header is the one that is too long.
    assert_eq!(error(&chain(8, 72)).kind, ParseErrorKind::ExtensionsTooLong);
    assert_eq!(
        error(&chain(1, 520)),
        ParseErrorKind::ExtensionsTooLong.at(40)
    );
}

#[test]
fn extensions_that_are_wrong() {
    let truncated = v6(60, &[17, 1, 0, 0, 0, 0, 0, 0]);
    assert_eq!(error(&truncated), ParseErrorKind::TruncatedExtension.at(40));
    assert_eq!(
        error(&v6(60, &[17])),
        ParseErrorKind::TruncatedExtension.at(40)
    );
    let mut late = extension(0, 8);
    late.extend(extension(17, 8));
    late.extend(UDP);
    assert_eq!(
        error(&v6(60, &late)),
        ParseErrorKind::MisplacedHopByHop.at(48)
    );
    assert_eq!(error(&v6(0, &[])), ParseErrorKind::Jumbogram.at(4));
    assert_eq!(parse(&v6(59, &[])).total_len, 40);
}

/// A fragment header; `word` is the offset in bytes, plus 1 if more follow.
fn fragment_header(next: u8, word: u16) -> Vec<u8> {
    let mut header = std::vec![next, 0];
    header.extend(word.to_be_bytes());
    header.extend([0xde, 0xad, 0xbe, 0xef]);
    header
}

#[test]
fn ipv6_fragments() {
    let mut first = extension(44, 8);
    first.extend(fragment_header(60, 1));
    first.extend(extension(17, 8));
    first.extend(UDP);
    let headers = parse(&v6(0, &first));
    assert!(headers.is_first_fragment() && !headers.is_later_fragment());
    assert_eq!((headers.protocol, headers.source_port), (17, 4660));
    let id = 0xdead_beef;
    let fragment = |offset, len, more| {
        Some(Fragment {
            id,
            offset,
            len,
            more,
        })
    };
    assert_eq!(headers.fragment, fragment(0, 16, true));

    // Number 60 and bytes that look like an extension header: data all the same.
    let mut later = fragment_header(60, 1480);
    later.extend(extension(17, 8));
    later.extend(UDP);
    let headers = parse(&v6(44, &later));
    assert!(headers.is_later_fragment() && !headers.is_first_fragment());
    assert_eq!(headers.fragment, fragment(1480, 16, false));
    assert_eq!((headers.protocol, headers.transport), (60, 48));
    assert_eq!((headers.source_port, headers.destination_port), (0, 0));
    assert_eq!(headers.transport_info, TransportInfo::Missing);

    // An atomic fragment; reserved bits set.
    let mut atomic = fragment_header(17, 6);
    atomic.extend(UDP);
    let headers = parse(&v6(44, &atomic));
    assert_eq!((headers.fragment, headers.source_port), (None, 4660));
}

#[test]
fn ipv4_fragments() {
    let mut packet = UDP4;
    packet[6..8].copy_from_slice(&[0x20, 0]);
    let headers = parse(&packet);
    let fragment = |offset, more| {
        Some(Fragment {
            id: 0xabcd,
            offset,
            len: 8,
            more,
        })
    };
    assert_eq!(headers.fragment, fragment(0, true));
    assert_eq!(headers.source_port, 4660);
    packet[6..8].copy_from_slice(&[0x00, 185]);
    let headers = parse(&packet);
    assert_eq!(headers.fragment, fragment(1480, false));
    assert_eq!(headers.source_port, 0);
    // A later fragment's protocol is not walked, authentication header or not.
    packet[9] = 51;
    assert_eq!(parse(&packet).transport, 20);
    // "Do not fragment" is none.
    packet[6..8].copy_from_slice(&[0x40, 0]);
    packet[9] = 17;
    assert_eq!(parse(&packet).fragment, None);
}

#[test]
fn fragments_that_no_honest_sender_makes() {
    let check = |packet: &[u8], kind: ParseErrorKind, at: usize| {
        assert_eq!(error(packet), kind.at(at));
        assert!(kind.is_bad_fragment());
    };
    // TCP: a first fragment of 8 bytes, a later one at byte 8.
    let mut packet = UDP4;
    packet[9] = 6;
    packet[6] = 0x20;
    check(&packet, ParseErrorKind::TinyFragment, 20);
    packet[6..8].copy_from_slice(&[0, 1]);
    check(&packet, ParseErrorKind::TinyFragment, 20);
    packet[7] = 2;
    check(&packet, ParseErrorKind::TinyFragment, 20);
    packet[7] = 3;
    assert!(parse(&packet).is_later_fragment());
    // More follow, but seven bytes of data.
    let mut packet = UDP4;
    packet[6..8].copy_from_slice(&[0x20, 9]);
    packet[3] = 27;
    check(&packet, ParseErrorKind::BadFragmentLength, 20);
    // 20 + 65,512 + 8 bytes is more than 65,535: "ping of death".
    packet[3] = 28;
    packet[6..8].copy_from_slice(&[0x1f, 0xfd]);
    check(&packet, ParseErrorKind::FragmentBeyondPacket, 20);
    packet[6..8].copy_from_slice(&[0x1f, 0xfb]);
    assert!(parse(&packet).is_later_fragment());
    // A first fragment that ends before the transport header, or inside the chain.
    check(
        &v6(44, &[fragment_header(60, 1), extension(17, 8)].concat()),
        ParseErrorKind::TinyFragment,
        56,
    );
    check(
        &v6(
            44,
            &[fragment_header(60, 1), extension(17, 16)[..8].to_vec()].concat(),
        ),
        ParseErrorKind::TinyFragment,
        48,
    );
    // The latter, but whole on the wire and cut by a capture: not the sender's fault.
    let whole = v6(
        44,
        &[fragment_header(60, 1), extension(17, 16), UDP.to_vec()].concat(),
    );
    assert_eq!(
        Headers::parse(&whole[..56], whole.len()),
        Err(ParseErrorKind::TruncatedExtension.at(48))
    );
    let twice = [fragment_header(44, 0), fragment_header(17, 0), UDP.to_vec()].concat();
    check(&v6(44, &twice), ParseErrorKind::RepeatedFragmentHeader, 48);
}

#[test]
fn each_protocol_with_ports_has_them() {
    let mut payload = [0; 20];
    payload[..8].copy_from_slice(&UDP);
    payload[12] = 0x50;
    for number in [6, 17, 33, 132, 136] {
        let headers = parse(&v6(number, &payload));
        assert_eq!((headers.source_port, headers.destination_port), (4660, 53));
    }
    // GRE, 6in4, OSPF, and ICMP in the wrong family have none.
    for number in [1, 41, 47, 89] {
        let headers = parse(&v6(number, &payload));
        assert_eq!((headers.source_port, headers.destination_port), (0, 0));
        assert_eq!(headers.transport_info, TransportInfo::Other);
    }
}

#[test]
fn tcp_lengths() {
    use crate::{TcpFlags, TcpSegment};
    let mut buffer = [0; 128];
    let segment = testing::Tcp {
        flags: TcpFlags::SYN.with(TcpFlags::FIN),
        sequence: 7,
        acknowledgement: 9,
        payload: &[1, 2, 3],
    };
    let (source, destination) = ("10.0.0.2:1".parse().unwrap(), "10.0.0.3:2".parse().unwrap());
    let packet = testing::tcp(&mut buffer, source, destination, &segment);
    let tcp = |segment_len| {
        TransportInfo::Tcp(TcpSegment {
            sequence: 7,
            acknowledgement: 9,
            flags: segment.flags,
            segment_len,
        })
    };
    assert_eq!(parse(packet).transport_info, tcp(3 + 2));
    // SEG.LEN is that of the packet, not of what a capture left of it.
    assert_eq!(
        Headers::parse(&packet[..40], 43).unwrap().transport_info,
        tcp(3 + 2)
    );
    assert_eq!(
        Headers::parse(&packet[..39], 43).unwrap().transport_info,
        TransportInfo::Missing
    );
    packet[32] = 0x40;
    assert_eq!(error(packet), ParseErrorKind::BadTransportHeader.at(32));
    packet[32] = 0x60;
    assert_eq!(error(packet), ParseErrorKind::BadTransportHeader.at(32));
}

#[test]
fn infrastructure_is_what_receivers_accept_as_such() {
    let (a, b) = ("fe80::1".parse().unwrap(), "ff02::1".parse().unwrap());
    let icmp = |icmp_type, code, hop_limit| {
        let mut buffer = [0; 64];
        let packet = testing::icmp(&mut buffer, a, b, (icmp_type, code), [0; 4], &[]);
        packet[7] = hop_limit;
        parse(packet).is_infrastructure()
    };
    for icmp_type in 0..=255 {
        let expected = (133..=137).contains(&icmp_type);
        assert_eq!(icmp(icmp_type, 0, 255), expected, "{icmp_type}");
    }
    assert!(!icmp(135, 0, 254));
    assert!(!icmp(135, 1, 255));

    let udp = |host: &str, source: u16, destination: u16| {
        let mut buffer = [0; 64];
        let ip: core::net::IpAddr = host.parse().unwrap();
        let ends = ((ip, source).into(), (ip, destination).into());
        parse(testing::udp(&mut buffer, ends.0, ends.1, &[])).is_infrastructure()
    };
    for (source, destination) in [(68, 67), (67, 68), (67, 67)] {
        assert!(udp("10.0.0.1", source, destination));
        assert!(!udp("fe80::1", source, destination));
    }
    for (source, destination) in [(546, 547), (547, 546), (547, 547)] {
        assert!(udp("fe80::1", source, destination));
        assert!(!udp("10.0.0.1", source, destination));
    }
    for (source, destination) in [(68, 68), (67, 53), (5000, 67), (546, 546)] {
        assert!(!udp("10.0.0.1", source, destination));
        assert!(!udp("fe80::1", source, destination));
    }
}

#[test]
fn an_icmp_error_tells_whom_it_is_about() {
    let ip = "192.0.2.9".parse().unwrap();
    let mut buffer = [0; 128];
    // RFC 792: the IP header and eight bytes more.
    let packet = testing::icmp(&mut buffer, ip, ip, (3, 1), [0; 4], &UDP4);
    let headers = parse(packet);
    let quoted = headers.quoted(packet).unwrap();
    assert_eq!(quoted.flow_key(Direction::Outbound).remote_port, 53);
    assert_eq!(headers.quoted(&packet[..40]), None);
    // An echo request quotes nothing.
    let packet = testing::icmp(&mut buffer, ip, ip, (8, 0), [0; 4], &UDP4);
    assert_eq!(parse(packet).quoted(packet), None);
}

/// RFC 4861 §4.5: what stands where errors quote is the target's address, whatever it looks like.
#[test]
fn a_redirect_of_ipv6_quotes_nothing() {
    let (router, here) = ("fe80::1".parse().unwrap(), "2001:db8::1".parse().unwrap());
    let mut buffer = [0; 128];
    let ends = (
        "[2001:db8::1]:5000".parse().unwrap(),
        "[2001:db8::9]:53".parse().unwrap(),
    );
    let quote = testing::udp(&mut buffer, ends.0, ends.1, b"question").to_vec();
    let mut buffer = [0; 128];
    let packet = testing::icmp(&mut buffer, router, here, (137, 0), [0; 4], &quote);
    // One that its receiver accepts, and one from afar.
    for hop_limit in [255, 64] {
        packet[7] = hop_limit;
        let headers = parse(packet);
        assert_eq!(headers.is_infrastructure(), hop_limit == 255);
        assert!(headers.is_icmp_error(), "it is not answered");
        assert_eq!(headers.quoted(packet), None);
        assert_eq!(headers.quoted_flow(packet, Direction::Inbound), None);
    }
}

#[test]
fn an_echo_has_an_identifier() {
    let (v4, v6) = ("192.0.2.1", "2001:db8::1");
    let mut buffer = [0; 64];
    let echoes = [(v4, 8), (v4, 0), (v6, 128), (v6, 129)].map(|case| (case, Some(0x1234)));
    let others = [(v4, 128), (v4, 13), (v6, 8), (v6, 130)].map(|case| (case, None));
    for ((ip, icmp_type), echo_id) in echoes.into_iter().chain(others) {
        let (ip, rest) = (ip.parse().unwrap(), [0x12, 0x34, 0, 1]);
        let packet = testing::icmp(&mut buffer, ip, ip, (icmp_type, 7), rest, &[]);
        let message = crate::IcmpMessage {
            icmp_type,
            code: 7,
            echo_id,
        };
        assert_eq!(parse(packet).transport_info, TransportInfo::Icmp(message));
    }
}

#[test]
fn both_ways_of_an_echo_are_one_flow_and_another_identifier_is_another() {
    for (here, there, request, reply) in [
        ("192.0.2.1", "192.0.2.9", 8, 0),
        ("2001:db8::1", "2001:db8::9", 128, 129),
    ] {
        let (here, there) = (here.parse().unwrap(), there.parse().unwrap());
        let mut buffer = [0; 64];
        let mut key = |(from, to), icmp_type, id: u8, direction| {
            let packet = testing::icmp(&mut buffer, from, to, (icmp_type, 0), [0, id, 0, 1], &[]);
            parse(packet).flow_key(direction)
        };
        let asked = key((here, there), request, 7, Direction::Outbound);
        assert_eq!((asked.local_port, asked.remote_port), (7, 0));
        assert_eq!(key((there, here), reply, 7, Direction::Inbound), asked);
        assert_ne!(key((here, there), request, 8, Direction::Outbound), asked);
    }
}

#[test]
fn an_error_is_believed_only_on_its_way_to_who_is_quoted() {
    let [here, router]: [core::net::IpAddr; 2] =
        ["192.0.2.1", "198.51.100.1"].map(|ip| ip.parse().unwrap());
    let mut buffer = [0; 64];
    let ends = (
        "192.0.2.1:5000".parse().unwrap(),
        "192.0.2.9:53".parse().unwrap(),
    );
    let quoted = testing::udp(&mut buffer, ends.0, ends.1, b"question").to_vec();
    let flow = parse(&quoted).flow_key(Direction::Outbound);
    let mut buffer = [0; 128];
    let about = |bytes: &[u8]| parse(bytes).quoted_flow(bytes, Direction::Inbound);
    for (len, expected) in [(quoted.len(), Some(flow)), (28, Some(flow)), (23, None)] {
        let quote = &quoted[..len];
        let error = testing::icmp(&mut buffer, router, here, (11, 0), [0; 4], quote);
        assert_eq!(about(error), expected, "{len} bytes quoted");
    }
    let error = testing::icmp(&mut buffer, router, here, (11, 0), [0; 4], &quoted).to_vec();
    let elsewhere = testing::icmp(&mut buffer, router, router, (11, 0), [0; 4], &quoted);
    assert_eq!(about(elsewhere), None);
    let nested = testing::icmp(&mut buffer, here, router, (11, 0), [0; 4], &error[20..]).to_vec();
    assert_eq!(about(&nested), None);
}

#[test]
fn what_is_missing_is_not_looked_for_in_the_padding() {
    let mut packet = v6(60, &[17, 1, 0, 0, 0, 0, 0, 0]);
    packet.extend([0; 16]);
    assert_eq!(error(&packet), ParseErrorKind::TruncatedExtension.at(40));

    let ip = "192.0.2.9".parse().unwrap();
    let mut buffer = [0; 128];
    let mut packet = testing::icmp(&mut buffer, ip, ip, (3, 1), [0; 4], &[]).to_vec();
    packet.extend(UDP4);
    assert_eq!(parse(&packet).quoted(&packet), None);
}

#[test]
fn fragmented_neighbour_discovery_is_not_accepted_as_such() {
    let mut first = fragment_header(58, 1);
    first.extend([135, 0, 0, 0, 0, 0, 0, 0]);
    let mut packet = v6(44, &first);
    packet[7] = 255;
    assert!(!parse(&packet).is_infrastructure());
    // The atomic fragment of the same.
    packet[43] = 0;
    assert!(parse(&packet).is_infrastructure());
}

#[test]
fn fragments_may_fill_the_largest_ipv6_payload_and_no_more() {
    let last = |offset| v6(44, &[fragment_header(17, offset), UDP.to_vec()].concat());
    assert!(parse(&last(65_520)).is_later_fragment());
    let kind = ParseErrorKind::FragmentBeyondPacket;
    assert_eq!(error(&last(65_528)), kind.at(48));
    // Headers that each fragment repeats count as well.
    let repeated = [extension(44, 8), fragment_header(17, 65_520), UDP.to_vec()].concat();
    assert_eq!(error(&v6(60, &repeated)), kind.at(56));
}
