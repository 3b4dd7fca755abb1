//! Whole packets with right checksums, for tests.
//!
//! Part of the feature `testing`. Each builder writes a packet into the caller's buffer, from the
//! IP header on, and returns the part that it filled. Ends are the standard library's addresses;
//! both must be of one family.
//!
//! # Panics
//!
//! Every builder panics if the buffer is too small, the packet too long, or the families differ:
//! a test that does so is wrong.

// Said once, for all builders, above.
#![allow(clippy::missing_panics_doc)]

use core::net::{IpAddr, SocketAddr};

use kext_types::{Address, IpVersion, protocol};

use crate::checksum::{self, Sum};
use crate::{Headers, TcpFlags};

/// A UDP datagram.
pub fn udp<'a>(
    out: &'a mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    payload: &[u8],
) -> &'a mut [u8] {
    let mut header = [0; 8];
    header[0..2].copy_from_slice(&source.port().to_be_bytes());
    header[2..4].copy_from_slice(&destination.port().to_be_bytes());
    header[4..6].copy_from_slice(&((8 + payload.len()) as u16).to_be_bytes());
    transport(
        out,
        source.ip(),
        destination.ip(),
        protocol::UDP,
        &header,
        payload,
    )
}

/// What a TCP segment says beside its ports.
#[derive(Clone, Copy, Debug)]
pub struct Tcp<'p> {
    /// The control bits.
    pub flags: TcpFlags,
    /// The sequence number.
    pub sequence: u32,
    /// The acknowledgement number.
    pub acknowledgement: u32,
    /// The data.
    pub payload: &'p [u8],
}

/// A TCP segment without options.
pub fn tcp<'a>(
    out: &'a mut [u8],
    source: SocketAddr,
    destination: SocketAddr,
    segment: &Tcp<'_>,
) -> &'a mut [u8] {
    let mut header = [0; 20];
    header[0..2].copy_from_slice(&source.port().to_be_bytes());
    header[2..4].copy_from_slice(&destination.port().to_be_bytes());
    header[4..8].copy_from_slice(&segment.sequence.to_be_bytes());
    header[8..12].copy_from_slice(&segment.acknowledgement.to_be_bytes());
    header[12..14].copy_from_slice(&[5 << 4, segment.flags.0]);
    header[14..16].copy_from_slice(&u16::MAX.to_be_bytes());
    transport(
        out,
        source.ip(),
        destination.ip(),
        protocol::TCP,
        &header,
        segment.payload,
    )
}

/// An ICMP or ICMPv6 message, by the family; `rest` are the bytes 4 to 7 of its header (identifier
/// and sequence number of an echo).
pub fn icmp<'a>(
    out: &'a mut [u8],
    source: IpAddr,
    destination: IpAddr,
    (icmp_type, code): (u8, u8),
    rest: [u8; 4],
    payload: &[u8],
) -> &'a mut [u8] {
    let [r0, r1, r2, r3] = rest;
    let header = [icmp_type, code, 0, 0, r0, r1, r2, r3];
    let number = if source.is_ipv4() {
        protocol::ICMP
    } else {
        protocol::ICMPV6
    };
    transport(out, source, destination, number, &header, payload)
}

/// An IP packet with this protocol number and payload, TTL 64.
pub fn ip<'a>(
    out: &'a mut [u8],
    source: IpAddr,
    destination: IpAddr,
    number: u8,
    payload: &[u8],
) -> &'a mut [u8] {
    let start = ip_header(out, source, destination, number, payload.len());
    let end = start + payload.len();
    out[start..end].copy_from_slice(payload);
    &mut out[..end]
}

/// Makes the IPv4 header checksum of a packet right that a test has changed.
pub fn fix_ipv4_header(packet: &mut [u8]) {
    checksum::fill_ipv4_header(packet).expect("a whole IPv4 header");
}

/// The headers of a packet that is all there.
pub fn parse(packet: &[u8]) -> Headers {
    Headers::parse(packet, packet.len()).expect("a packet that can be parsed")
}

/// Writes an IP header and returns its length.
fn ip_header(
    out: &mut [u8],
    source: IpAddr,
    destination: IpAddr,
    number: u8,
    payload_len: usize,
) -> usize {
    let total_len = |len: usize| u16::try_from(len).expect("an IP packet's length");
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            out[..20].fill(0);
            out[0] = 0x45;
            out[2..4].copy_from_slice(&total_len(20 + payload_len).to_be_bytes());
            out[8..10].copy_from_slice(&[64, number]);
            out[12..16].copy_from_slice(&source.octets());
            out[16..20].copy_from_slice(&destination.octets());
            fix_ipv4_header(out);
            20
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            out[..4].copy_from_slice(&[0x60, 0, 0, 0]);
            out[4..6].copy_from_slice(&total_len(payload_len).to_be_bytes());
            out[6..8].copy_from_slice(&[number, 64]);
            out[8..24].copy_from_slice(&source.octets());
            out[24..40].copy_from_slice(&destination.octets());
            40
        }
        _ => panic!("addresses of two families: {source} and {destination}"),
    }
}

fn transport<'a>(
    out: &'a mut [u8],
    source: IpAddr,
    destination: IpAddr,
    number: u8,
    header: &[u8],
    data: &[u8],
) -> &'a mut [u8] {
    let version = match source {
        IpAddr::V4(_) => IpVersion::V4,
        IpAddr::V6(_) => IpVersion::V6,
    };
    let len = header.len() + data.len();
    let placement = checksum::placement(version, number).expect("a known checksum");
    let sum = if placement.has_pseudo_header {
        let (source, destination) = (Address::from(source), Address::from(destination));
        Sum::pseudo_header(version, source, destination, number, len as u32)
    } else {
        Sum::new()
    };
    let mut checksum = sum.add_bytes(header).add_bytes(data).checksum();
    if placement.zero_is_none {
        checksum = checksum::udp_sent(checksum);
    }
    let start = ip_header(out, source, destination, number, len);
    let (data_start, end) = (start + header.len(), start + len);
    out[start..data_start].copy_from_slice(header);
    out[data_start..end].copy_from_slice(data);
    out[start + placement.offset..][..2].copy_from_slice(&checksum.to_be_bytes());
    &mut out[..end]
}
