//! The header walk on any bytes: what it promises of its result, and what an independent dissector
//! finds in the same packet.

use etherparse::{IpNumber, IpSlice, TcpSlice, UdpHeaderSlice};
use kext_packet::{Headers, MAX_EXTENSION_BYTES, TransportInfo, checksum};
use kext_types::{Direction, MAX_PACKET_LEN, protocol};

/// The longest IP header and the longest chain of extension headers.
const MAX_TRANSPORT: usize = 60 + MAX_EXTENSION_BYTES;

/// Walks `bytes`, whole and cut short at every place where that could matter.
pub(crate) fn walk(bytes: &[u8]) {
    let whole = match Headers::parse(bytes, bytes.len()) {
        Ok(headers) => headers,
        Err(error) => {
            assert!(error.offset as usize <= bytes.len().min(MAX_TRANSPORT + 12));
            assert!(!error.to_string().is_empty());
            return;
        }
    };
    keep_promises(bytes, &whole);
    // Bound: no header that is looked at ends later.
    for len in 0..bytes.len().min(MAX_TRANSPORT + 20) {
        if let Some(part) = bytes.get(..len) {
            cut(part, bytes.len(), &whole);
        }
    }
    compare(bytes, &whole);
}

fn keep_promises(bytes: &[u8], headers: &Headers) {
    let total_len = headers.total_len as usize;
    let transport = usize::from(headers.transport);
    assert!((20..=MAX_PACKET_LEN).contains(&total_len) && total_len <= bytes.len());
    assert!((20..=MAX_TRANSPORT).contains(&transport) && transport <= total_len);
    if let Some(fragment) = headers.fragment {
        assert!(fragment.offset.is_multiple_of(8));
        assert!(
            fragment.more || fragment.is_later(),
            "a whole packet is none"
        );
    }
    if headers.is_later_fragment() {
        assert_eq!((headers.source_port, headers.destination_port), (0, 0));
        assert_eq!(headers.transport_info, TransportInfo::Missing);
    }
    let there = headers.flow_key(Direction::Outbound);
    let back = headers.flow_key(Direction::Inbound);
    assert_eq!((there.local, there.remote), (back.remote, back.local));
    if there.protocol == protocol::ICMP || there.protocol == protocol::ICMPV6 {
        // An echo's identifier stands for the local port whichever way it goes.
        assert_eq!(there.local_port, back.local_port);
        assert_eq!((there.remote_port, back.remote_port), (0, 0));
    } else {
        assert_eq!(
            (there.local_port, there.remote_port),
            (back.remote_port, back.local_port)
        );
    }
    if let Some(quoted) = headers.quoted(bytes) {
        assert!(headers.is_icmp_error() && !headers.is_infrastructure());
        assert!(quoted.total_len as usize <= MAX_PACKET_LEN);
    }
    // Padding is no part of the packet.
    let packet = bytes.get(..total_len).unwrap();
    assert_eq!(Headers::parse(packet, total_len), Ok(*headers));
    assert_eq!(
        checksum::is_right(packet, headers),
        checksum::is_right(bytes, headers)
    );
}

/// A cut by a capture makes the same packet or an error, never another packet.
fn cut(part: &[u8], on_wire: usize, whole: &Headers) {
    let Ok(cut) = Headers::parse(part, on_wire) else {
        return;
    };
    let info = cut.transport_info;
    let expected = match info {
        TransportInfo::Missing => info,
        _ => whole.transport_info,
    };
    assert_eq!(
        cut,
        Headers {
            transport_info: expected,
            ..*whole
        }
    );
}

/// Where the other dissector stops although this one goes on.
fn is_walked_by_us_only(number: u8) -> bool {
    matches!(
        number,
        protocol::AH | protocol::MOBILITY | protocol::HIP | protocol::SHIM6
    )
}

/// The same packet in the eyes of another dissector, where it accepts it too.
fn compare(bytes: &[u8], headers: &Headers) {
    let packet = bytes.get(..headers.total_len as usize).unwrap();
    // It takes an IPv6 length of zero for "as long as the bytes are".
    let Ok(ip) = IpSlice::from_slice(packet) else {
        return;
    };
    let version = headers.version;
    assert_eq!(headers.source.to_ip(version), ip.source_addr());
    assert_eq!(headers.destination.to_ip(version), ip.destination_addr());
    let payload = ip.payload();
    let IpNumber(number) = payload.ip_number;
    // What comes behind, a fragment header too, it has not seen.
    if is_walked_by_us_only(number) {
        return;
    }
    assert_eq!(headers.fragment.is_some(), ip.is_fragmenting_payload());
    // It walks on into the data of a later IPv6 fragment.
    if headers.is_later_fragment() {
        return;
    }
    assert_eq!(headers.protocol, number);
    let start = payload.payload.as_ptr().addr() - packet.as_ptr().addr();
    assert_eq!(usize::from(headers.transport), start);
    match headers.protocol {
        protocol::UDP => {
            let udp = UdpHeaderSlice::from_slice(payload.payload).unwrap();
            let ports = (udp.source_port(), udp.destination_port());
            assert_eq!((headers.source_port, headers.destination_port), ports);
        }
        protocol::TCP => compare_tcp(packet, headers, &ip, payload.payload),
        _ => {}
    }
}

fn compare_tcp(packet: &[u8], headers: &Headers, ip: &IpSlice<'_>, segment: &[u8]) {
    let tcp = TcpSlice::from_slice(segment).unwrap();
    let ports = (tcp.source_port(), tcp.destination_port());
    assert_eq!((headers.source_port, headers.destination_port), ports);
    let TransportInfo::Tcp(ours) = headers.transport_info else {
        panic!("a whole TCP header that was not read");
    };
    assert_eq!(ours.sequence, tcp.sequence_number());
    assert_eq!(ours.acknowledgement, tcp.acknowledgment_number());
    let len = tcp.payload().len() as u32 + u32::from(tcp.syn()) + u32::from(tcp.fin());
    assert_eq!(ours.segment_len, len);
    let computed = match ip {
        IpSlice::Ipv4(ip) => {
            let header = ip.header();
            tcp.calc_checksum_ipv4(header.source(), header.destination())
        }
        IpSlice::Ipv6(ip) => {
            let header = ip.header();
            tcp.calc_checksum_ipv6(header.source(), header.destination())
        }
    };
    if let (Some(right), Ok(computed)) = (checksum::is_right(packet, headers), computed) {
        // Zero in ones' complement has two forms.
        let same = computed == tcp.checksum() || (computed, tcp.checksum()) == (0, u16::MAX);
        assert_eq!(right, same);
    }
}
