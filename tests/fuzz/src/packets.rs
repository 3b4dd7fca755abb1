//! The packets that operations present.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use kext_packet::testing::{self, Tcp};
use kext_packet::{Headers, TcpFlags};
use kext_types::{Address, FlowKey, IpVersion, protocol};

/// An ICMP error from a router to the sender of what it quotes, if that can be told.
pub(super) fn error_about(quoted: &[u8]) -> Option<Vec<u8>> {
    let headers = Headers::parse(quoted, quoted.len().max(2_048)).ok()?;
    let to = headers.source.to_ip(headers.version);
    let (router, message): (IpAddr, _) = match headers.version {
        IpVersion::V4 => (Ipv4Addr::new(203, 0, 113, 1).into(), (11, 0)),
        IpVersion::V6 => (
            Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1).into(),
            (3, 0),
        ),
    };
    let mut out = [0; 2_048];
    let quoted = &quoted[..quoted.len().min(1_200)];
    Some(testing::icmp(&mut out, router, to, message, [0; 4], quoted).to_vec())
}

/// A packet of a TCP or UDP flow.
pub(super) fn packet_of(flow: &FlowKey, inbound: bool) -> Vec<u8> {
    let end = |address: Address, port| SocketAddr::new(address.to_ip(flow.version), port);
    let (mut source, mut destination) = (
        end(flow.local, flow.local_port),
        end(flow.remote, flow.remote_port),
    );
    if inbound {
        (source, destination) = (destination, source);
    }
    let mut out = [0; 128];
    if flow.protocol == protocol::TCP {
        let segment = Tcp {
            flags: TcpFlags::ACK,
            sequence: 1,
            acknowledgement: 1,
            payload: &[],
        };
        testing::tcp(&mut out, source, destination, &segment).to_vec()
    } else {
        testing::udp(&mut out, source, destination, &[0; 8]).to_vec()
    }
}

/// A packet between one of a few pairs of ends.
pub(super) fn build(ends: u8, kind: u8) -> Vec<u8> {
    let (number, swapped, v6) = (ends & 7, ends & 8 != 0, ends & 0x80 != 0);
    let host = |last: u8| -> IpAddr {
        if v6 {
            Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last.into()).into()
        } else {
            Ipv4Addr::new(192, 0, 2, last).into()
        }
    };
    let mut source = SocketAddr::new(host(1), 10_000 + u16::from(number));
    let mut destination = match kind >> 6 {
        0 | 1 => SocketAddr::new(host(2), 443),
        // Own redirect targets, and ends that are treated on their own.
        2 => SocketAddr::new(host(1), 53),
        _ if v6 => SocketAddr::new("ff02::fb".parse().unwrap(), 5353),
        _ => SocketAddr::new([255; 4].into(), 67),
    };
    if swapped {
        (source, destination) = (destination, source);
    }
    let mut out = [0; 2_048];
    let packet = match kind & 7 {
        0..=2 => testing::udp(&mut out, source, destination, &[kind; 16]),
        3 | 4 => {
            let segment = Tcp {
                flags: TcpFlags(kind >> 1 & 0x17),
                sequence: 1,
                acknowledgement: 1,
                payload: &[kind],
            };
            testing::tcp(&mut out, source, destination, &segment)
        }
        5 => {
            let message = (if v6 { 128 } else { 8 }, 0);
            let (source, destination) = (source.ip(), destination.ip());
            testing::icmp(
                &mut out,
                source,
                destination,
                message,
                [0, number, 0, 1],
                b"ping",
            )
        }
        6 => testing::ip(&mut out, source.ip(), destination.ip(), 47, &[kind; 8]),
        // As long as a frame allows.
        _ => testing::udp(&mut out, source, destination, &[kind; 1_400]),
    };
    packet.to_vec()
}
