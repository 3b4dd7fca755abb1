//! Replies to packets of every kind, and to what must get none.

use core::net::{IpAddr, SocketAddr};
use std::vec::Vec;

use super::*;
use crate::checksum::Sum;
use crate::testing::{self, Tcp, parse};
use crate::{ParseErrorKind, checksum};

fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// The answer, or why there is none.
fn answer(packet: &[u8]) -> Result<(ReplyKind, Vec<u8>), ReplyForbidden> {
    answer_cut(packet, packet.len())
}

fn answer_cut(packet: &[u8], on_wire: usize) -> Result<(ReplyKind, Vec<u8>), ReplyForbidden> {
    let headers = Headers::parse(packet, on_wire).unwrap();
    let mut out = [0xee; MAX_REPLY_LEN];
    let reply = build(packet, &headers, 0x1234, &mut out)?;
    let bytes = &out[..reply.len];
    let answered = parse(bytes);
    assert_eq!(answered.total_len as usize, reply.len);
    assert_eq!(checksum::is_right(bytes, &answered), Some(true));
    if answered.version == IpVersion::V4 {
        assert_eq!(Sum::new().add_bytes(&bytes[..20]).folded(), 0xffff);
    }
    assert_eq!(answered.source, headers.destination);
    assert_eq!(answered.destination, headers.source);
    Ok((reply.kind, bytes.to_vec()))
}

fn udp(source: &str, destination: &str) -> Vec<u8> {
    let mut buffer = [0; 2048];
    testing::udp(&mut buffer, end(source), end(destination), &[7; 1400]).to_vec()
}

fn tcp(flags: TcpFlags, payload: &[u8]) -> Vec<u8> {
    let segment = Tcp {
        flags,
        sequence: u32::MAX,
        acknowledgement: 500,
        payload,
    };
    let mut buffer = [0; 128];
    testing::tcp(
        &mut buffer,
        end("10.0.0.2:40000"),
        end("192.0.2.1:80"),
        &segment,
    )
    .to_vec()
}

fn icmp(source: &str, destination: &str, icmp_type: u8) -> Vec<u8> {
    let mut buffer = [0; 128];
    let ends = (ip(source), ip(destination));
    testing::icmp(
        &mut buffer,
        ends.0,
        ends.1,
        (icmp_type, 0),
        [0; 4],
        &[0; 40],
    )
    .to_vec()
}

#[test]
fn a_reset_is_what_a_closed_port_sends() {
    let reset = |flags, payload: &[u8]| {
        let (kind, bytes) = answer(&tcp(flags, payload)).unwrap();
        assert_eq!((kind, bytes.len()), (ReplyKind::TcpReset, 40));
        let headers = parse(&bytes);
        assert_eq!((headers.source_port, headers.destination_port), (80, 40000));
        let TransportInfo::Tcp(segment) = headers.transport_info else {
            panic!("no TCP");
        };
        (segment.sequence, segment.acknowledgement, segment.flags)
    };
    let rst_ack = TcpFlags::RST.with(TcpFlags::ACK);
    // Without ACK: sequence 0, and all of the segment acknowledged, past the wrap.
    assert_eq!(reset(TcpFlags::SYN, &[]), (0, 0, rst_ack));
    assert_eq!(reset(TcpFlags::SYN, &[1, 2, 3]), (0, 3, rst_ack));
    assert_eq!(reset(TcpFlags(0), &[]), (0, u32::MAX, rst_ack));
    assert_eq!(reset(TcpFlags::FIN, &[1]), (0, 1, rst_ack));
    // With ACK: the sequence number that the sender expects, and no acknowledgement.
    for flags in [TcpFlags::SYN, TcpFlags::FIN, TcpFlags::PSH] {
        let flags = flags.with(TcpFlags::ACK);
        assert_eq!(reset(flags, &[1]), (500, 0, TcpFlags::RST));
    }
}

#[test]
fn ipv4_unreachable_quotes_up_to_576_bytes() {
    let packet = udp("10.0.0.2:5000", "192.0.2.1:53");
    let (kind, bytes) = answer(&packet).unwrap();
    assert_eq!((kind, bytes.len()), (ReplyKind::Unreachable, 576));
    assert_eq!(bytes[9], 1);
    assert_eq!(bytes[4..6], [0x12, 0x34]);
    assert_eq!(bytes[20..22], [3, 3]);
    assert_eq!(bytes[28..], packet[..548]);
    assert_eq!(parse(&bytes).quoted(&bytes).unwrap().destination_port, 53);
}

#[test]
fn ipv6_unreachable_quotes_up_to_1280_bytes() {
    let packet = udp("[2001:db8::2]:5000", "[2001:db8::1]:53");
    let (kind, bytes) = answer(&packet).unwrap();
    assert_eq!((kind, bytes.len()), (ReplyKind::Unreachable, 1280));
    assert_eq!(bytes[6], 58);
    assert_eq!(bytes[40..42], [1, 4]);
    assert_eq!(bytes[48..], packet[..1232]);
}

#[test]
fn a_short_packet_is_quoted_whole_and_without_padding() {
    let mut buffer = [0; 64];
    let ends = (end("10.0.0.2:1"), end("10.0.0.3:2"));
    let mut packet = testing::udp(&mut buffer, ends.0, ends.1, &[]).to_vec();
    packet.extend([0xee; 18]);
    let (_, bytes) = answer(&packet).unwrap();
    assert_eq!(bytes[28..], packet[..28]);
    // Of a cut one, what is there.
    let (_, bytes) = answer_cut(&packet[..24], 28).unwrap();
    assert_eq!(bytes[28..], packet[..24]);
}

#[test]
fn loopback_answers_loopback_only() {
    assert!(answer(&udp("127.0.0.1:1", "127.0.0.1:2")).is_ok());
    assert!(answer(&udp("[::1]:1", "[::1]:2")).is_ok());
    let forbidden = Err(ReplyForbidden::Source);
    assert_eq!(answer(&udp("127.0.0.1:1", "10.0.0.1:2")), forbidden);
    assert_eq!(answer(&udp("[::1]:1", "[2001:db8::1]:2")), forbidden);
}

#[test]
fn addresses_that_are_not_one_host() {
    for source in [
        "0.0.0.0:1",
        "0.1.2.3:1",
        "224.0.0.1:1",
        "240.0.0.1:1",
        "255.255.255.255:1",
    ] {
        let packet = udp(source, "10.0.0.1:2");
        assert_eq!(answer(&packet), Err(ReplyForbidden::Source), "{source}");
    }
    for source in ["[::]:1", "[ff02::1]:1"] {
        let packet = udp(source, "[2001:db8::1]:2");
        assert_eq!(answer(&packet), Err(ReplyForbidden::Source), "{source}");
    }
    for destination in ["0.0.0.0:1", "224.0.0.251:1", "255.255.255.255:1"] {
        let packet = udp("10.0.0.1:2", destination);
        assert_eq!(answer(&packet), Err(ReplyForbidden::Destination));
    }
    for destination in ["[::]:1", "[ff02::fb]:1"] {
        let packet = udp("[2001:db8::1]:2", destination);
        assert_eq!(answer(&packet), Err(ReplyForbidden::Destination));
    }
}

#[test]
#[cfg_attr(miri, ignore = "thousands of values")]
fn only_icmp_queries_are_answered() {
    for icmp_type in 0..=255 {
        let v4 = match icmp_type {
            8 | 13 | 15 | 17 | 42 => Ok(ReplyKind::Unreachable),
            3 | 4 | 5 | 11 | 12 => Err(ReplyForbidden::IcmpError),
            _ => Err(ReplyForbidden::IcmpNotQuery),
        };
        let got = answer(&icmp("10.0.0.1", "10.0.0.2", icmp_type)).map(|(kind, _)| kind);
        assert_eq!(got, v4, "{icmp_type}");
        let v6 = match icmp_type {
            128 | 139 | 160 => Ok(ReplyKind::Unreachable),
            0..128 | 137 => Err(ReplyForbidden::IcmpError),
            _ => Err(ReplyForbidden::IcmpNotQuery),
        };
        let got = answer(&icmp("2001:db8::1", "2001:db8::2", icmp_type)).map(|(kind, _)| kind);
        assert_eq!(got, v6, "{icmp_type}");
    }
}

#[test]
fn a_reset_is_not_answered() {
    let rst_ack = TcpFlags::RST.with(TcpFlags::ACK);
    for flags in [TcpFlags::RST, rst_ack] {
        assert_eq!(answer(&tcp(flags, &[])), Err(ReplyForbidden::Reset));
    }
}

#[test]
fn segments_without_their_header_are_not_answered() {
    let packet = tcp(TcpFlags::SYN, &[]);
    let cut = answer_cut(&packet[..39], 40);
    assert_eq!(cut, Err(ReplyForbidden::HeaderMissing));
    // All of the header and none of the data is enough.
    let packet = tcp(TcpFlags::SYN, &[1, 2]);
    assert!(answer_cut(&packet[..40], 42).is_ok());
}

#[test]
fn later_fragments_are_not_answered_and_first_ones_are() {
    let mut packet = udp("10.0.0.2:5000", "192.0.2.1:53");
    packet[6..8].copy_from_slice(&[0x20, 0]);
    assert!(answer(&packet).is_ok());
    packet[6..8].copy_from_slice(&[0x20, 0xb9]);
    assert_eq!(answer(&packet), Err(ReplyForbidden::LaterFragment));
}

#[test]
fn a_source_routed_segment_is_not_answered() {
    let mut packet = tcp(TcpFlags::SYN, &[]);
    // A loose source route of one address and one byte of padding.
    packet.splice(20..20, [131, 7, 4, 10, 0, 0, 9, 0]);
    packet[0] = 0x47;
    packet[3] = 48;
    assert_eq!(answer(&packet), Err(ReplyForbidden::SourceRouted));
}

#[test]
#[cfg_attr(miri, ignore = "thousands of values")]
fn buffers_too_small_and_strange_bytes_are_refused() {
    let packet = udp("10.0.0.2:5000", "192.0.2.1:53");
    let headers = parse(&packet);
    for len in 0..576 {
        let mut out = [0; 576];
        let result = build(&packet, &headers, 0, &mut out[..len]);
        assert_eq!(result, Err(ReplyForbidden::NoRoom));
    }
    let mut out = [0; MAX_REPLY_LEN];
    let result = build(&packet[..19], &headers, 0, &mut out);
    assert_eq!(result, Err(ReplyForbidden::Mismatch));
    assert_eq!(
        Headers::parse(&packet[..19], 20).map_err(|error| error.kind),
        Err(ParseErrorKind::TruncatedHeader)
    );
}
