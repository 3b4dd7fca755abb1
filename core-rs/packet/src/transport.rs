//! Transport headers: ports, and the little more that replies need.

use core::mem::offset_of;

use kext_types::{IpVersion, protocol};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{ParseError, ParseErrorKind};
use crate::extensions::Chain;
use crate::headers::{Fragment, View};

/// Length of the TCP header without options, in bytes (RFC 9293 §3.1).
pub(crate) const TCP_HEADER: usize = 20;

/// What the transport header says beside the ports.
///
/// The tag is a word of its own: packed between the fields it would be read in another width than it
/// was written in, which stalls the processor for each packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum TransportInfo {
    /// A TCP segment with its whole fixed header.
    Tcp(TcpSegment),
    /// An ICMP message over IPv4 or an ICMPv6 message over IPv6.
    Icmp(IcmpMessage),
    /// Another protocol, of which nothing more is read.
    Other,
    /// The transport header is not there: a later fragment, or a packet cut short inside it.
    Missing,
}

/// The fields of a TCP header that an answer is made from, RFC 9293 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpSegment {
    /// SEG.SEQ.
    pub sequence: u32,
    /// SEG.ACK; without meaning unless [`TcpFlags::ACK`] is set.
    pub acknowledgement: u32,
    /// The control bits.
    pub flags: TcpFlags,
    /// SEG.LEN: data bytes, and one each for SYN and FIN (RFC 9293 §3.4). In a first fragment only
    /// the data of that fragment counts.
    pub segment_len: u32,
}

/// TCP control bits, RFC 9293 §3.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// No more data from the sender.
    pub const FIN: Self = Self(0x01);
    /// Synchronise sequence numbers.
    pub const SYN: Self = Self(0x02);
    /// Reset the connection.
    pub const RST: Self = Self(0x04);
    /// Push.
    pub const PSH: Self = Self(0x08);
    /// The acknowledgement field counts.
    pub const ACK: Self = Self(0x10);
    /// The urgent pointer counts.
    pub const URG: Self = Self(0x20);

    /// Whether every bit of `other` is set.
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// Whether a bit of `others` is set.
    pub const fn any(self, others: Self) -> bool {
        self.0 & others.0 != 0
    }

    /// The bits of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// The first fields of an ICMP message, RFC 792 and RFC 4443 §2.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IcmpMessage {
    /// The type; its meaning depends on the IP version.
    pub icmp_type: u8,
    /// The code.
    pub code: u8,
    /// The identifier of an echo request or reply, in host order; `None` for other messages.
    pub echo_id: Option<u16>,
}

/// What all protocols with ports begin with.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Ports {
    source: U16,
    destination: U16,
}

/// The TCP header without options, RFC 9293 §3.1.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TcpHeader {
    ports: Ports,
    sequence: U32,
    acknowledgement: U32,
    offset: u8,
    flags: u8,
    window: U16,
    checksum: U16,
    urgent: U16,
}

const _: () = assert!(size_of::<TcpHeader>() == TCP_HEADER);

/// What was read of the transport header.
pub(crate) struct Transport {
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) info: TransportInfo,
}

impl Transport {
    const fn portless(info: TransportInfo) -> Self {
        Self {
            source_port: 0,
            destination_port: 0,
            info,
        }
    }
}

/// Length of the shortest header, in bytes, of the protocols that are looked into.
#[inline]
fn min_header(version: IpVersion, number: u8) -> Option<usize> {
    match (version, number) {
        (_, protocol::TCP) => Some(TCP_HEADER),
        // RFC 4340 §5.1 with short sequence numbers; RFC 9260 §3.1.
        (_, protocol::DCCP | protocol::SCTP) => Some(12),
        // For ICMP: each message that RFC 792, 4443, 4861 or 3810 defines is as long as this.
        (_, protocol::UDP | protocol::UDP_LITE)
        | (IpVersion::V4, protocol::ICMP)
        | (IpVersion::V6, protocol::ICMPV6) => Some(8),
        _ => None,
    }
}

/// Reads the transport header at the end of `chain`.
#[inline(always)]
pub(crate) fn parse(
    view: &View<'_>,
    version: IpVersion,
    chain: &Chain,
) -> Result<Transport, ParseError> {
    if chain.fragment.is_some_and(Fragment::is_later) {
        return Ok(Transport::portless(TransportInfo::Missing));
    }
    let Some(min_header) = min_header(version, chain.protocol) else {
        return Ok(Transport::portless(TransportInfo::Other));
    };
    let start = usize::from(chain.end);
    let len = view.total_len.saturating_sub(start);
    if len < min_header {
        let kind = if chain.fragment.is_some() {
            ParseErrorKind::TinyFragment
        } else {
            ParseErrorKind::TruncatedTransport
        };
        return Err(kind.at(start));
    }
    if matches!(chain.protocol, protocol::ICMP | protocol::ICMPV6) {
        return Ok(Transport::portless(icmp(view, version, start)));
    }
    // All the others begin with the two ports.
    let ports: &Ports = view
        .at(start)
        .ok_or(ParseErrorKind::TruncatedTransport.at(start))?;
    let info = if chain.protocol == protocol::TCP {
        tcp(view, chain, start, len)?
    } else {
        TransportInfo::Other
    };
    Ok(Transport {
        source_port: ports.source.get(),
        destination_port: ports.destination.get(),
        info,
    })
}

/// `len` is what the IP header leaves for the segment.
#[inline(always)]
fn tcp(
    view: &View<'_>,
    chain: &Chain,
    start: usize,
    len: usize,
) -> Result<TransportInfo, ParseError> {
    let Some(header) = view.at::<TcpHeader>(start) else {
        return Ok(TransportInfo::Missing);
    };
    let header_len = usize::from(header.offset >> 4) * 4;
    let bad = ParseErrorKind::BadTransportHeader.at(start + offset_of!(TcpHeader, offset));
    if header_len < TCP_HEADER {
        return Err(bad);
    }
    let data_len = match len.checked_sub(header_len) {
        Some(data_len) => data_len as u32,
        None if chain.fragment.is_some() => return Err(ParseErrorKind::TinyFragment.at(start)),
        None => return Err(bad),
    };
    let flags = TcpFlags(header.flags);
    let syn_and_fin =
        u32::from(flags.contains(TcpFlags::SYN)) + u32::from(flags.contains(TcpFlags::FIN));
    Ok(TransportInfo::Tcp(TcpSegment {
        sequence: header.sequence.get(),
        acknowledgement: header.acknowledgement.get(),
        flags,
        segment_len: data_len + syn_and_fin,
    }))
}

fn icmp(view: &View<'_>, version: IpVersion, start: usize) -> TransportInfo {
    let Some(&[icmp_type, code, _, _, i0, i1, _, _]) = view.at::<[u8; 8]>(start) else {
        return TransportInfo::Missing;
    };
    let is_echo = match version {
        IpVersion::V4 => matches!(icmp_type, 0 | 8),
        IpVersion::V6 => matches!(icmp_type, 128 | 129),
    };
    TransportInfo::Icmp(IcmpMessage {
        icmp_type,
        code,
        echo_id: is_echo.then_some(u16::from_be_bytes([i0, i1])),
    })
}
