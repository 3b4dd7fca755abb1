//! The answer to a blocked packet: TCP RST or ICMP unreachable.

use core::fmt;

use kext_types::{Address, IpVersion, protocol};

use crate::bytes::put;
use crate::frame::Frame;
use crate::transport::{IcmpMessage, TCP_HEADER, TcpFlags, TcpSegment, TransportInfo};
use crate::{Headers, ipv4, ipv6};

/// The longest reply that [`build`] writes, in bytes: an ICMPv6 error may fill the minimum IPv6
/// MTU (RFC 4443 §2.4 (c)).
pub const MAX_REPLY_LEN: usize = 1280;

/// An answer that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reply {
    /// What it is.
    pub kind: ReplyKind,
    /// How many bytes of the buffer it takes, 40 to [`MAX_REPLY_LEN`].
    pub len: usize,
}

/// The kinds of answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyKind {
    /// A TCP RST segment.
    TcpReset,
    /// ICMP type 3 code 3 or ICMPv6 type 1 code 4, port unreachable.
    Unreachable,
}

/// Why a packet gets no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ReplyForbidden {
    /// It is a TCP RST (RFC 9293 §3.10.7.1).
    Reset,
    /// It is an ICMP error message or redirect (RFC 1122 §3.2.2, RFC 4443 §2.4 (e)).
    IcmpError,
    /// It is an ICMP message that asks for nothing.
    IcmpNotQuery,
    /// Its destination is a multicast, broadcast or unspecified address.
    Destination,
    /// Its source is not one host's address: multicast, broadcast, unspecified, class E, or
    /// loopback with a destination that is not.
    Source,
    /// It is a fragment after the first.
    LaterFragment,
    /// It is cut short, so that the header that decides or shapes the answer is missing.
    HeaderMissing,
    /// It is a TCP segment on its way along a source route: the header's destination is not the
    /// connection's.
    SourceRouted,
    /// The bytes are not those that the headers were parsed from.
    Mismatch,
    /// The buffer is too small for the answer; [`MAX_REPLY_LEN`] always suffices.
    NoRoom,
}

impl fmt::Display for ReplyForbidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Reset => "a TCP RST is not answered",
            Self::IcmpError => "an ICMP error is not answered",
            Self::IcmpNotQuery => "an ICMP message that asks for nothing is not answered",
            Self::Destination => "the destination is not one host's address",
            Self::Source => "the source is not one host's address",
            Self::LaterFragment => "a fragment after the first is not answered",
            Self::HeaderMissing => "the transport header is missing",
            Self::SourceRouted => "the segment is on a source route",
            Self::Mismatch => "the packet is shorter than its headers",
            Self::NoRoom => "the buffer is too small for the answer",
        })
    }
}

impl core::error::Error for ReplyForbidden {}

/// Writes the answer to `packet` into `out`, from the IP header on, with its checksums.
///
/// `packet` holds the bytes that `headers` were parsed from. `identification` becomes the IPv4
/// identification field; callers vary it from reply to reply (RFC 6864 §4.3), IPv6 has none. On an
/// error what `out` holds is unspecified.
pub fn build(
    packet: &[u8],
    headers: &Headers,
    identification: u16,
    out: &mut [u8],
) -> Result<Reply, ReplyForbidden> {
    may_answer(headers)?;
    let whole = packet.get(..headers.total_len as usize).unwrap_or(packet);
    if whole.len() < usize::from(headers.transport) {
        return Err(ReplyForbidden::Mismatch);
    }
    let answered = Answered {
        headers,
        identification,
    };
    if let TransportInfo::Tcp(segment) = headers.transport_info {
        answered.reset(segment, out)
    } else {
        answered.unreachable(whole, out)
    }
    .ok_or(ReplyForbidden::NoRoom)
}

/// Whether a packet with these headers may be answered at all: all that [`build`] refuses but
/// [`ReplyForbidden::Mismatch`] and [`ReplyForbidden::NoRoom`], before there is a buffer.
pub fn may_answer(headers: &Headers) -> Result<(), ReplyForbidden> {
    if headers.is_later_fragment() {
        return Err(ReplyForbidden::LaterFragment);
    }
    let version = headers.version;
    let destination = headers.destination;
    if destination.is_multicast(version)
        || destination.is_broadcast(version)
        || destination.is_unspecified(version)
    {
        return Err(ReplyForbidden::Destination);
    }
    if !is_one_host(version, headers.source)
        || (is_loopback(version, headers.source) && !is_loopback(version, destination))
    {
        return Err(ReplyForbidden::Source);
    }
    match headers.transport_info {
        TransportInfo::Missing => Err(ReplyForbidden::HeaderMissing),
        TransportInfo::Tcp(segment) if segment.flags.contains(TcpFlags::RST) => {
            Err(ReplyForbidden::Reset)
        }
        TransportInfo::Tcp(_) if headers.source_routed => Err(ReplyForbidden::SourceRouted),
        TransportInfo::Icmp(_) if headers.is_icmp_error() => Err(ReplyForbidden::IcmpError),
        TransportInfo::Icmp(message) if !is_query(version, message) => {
            Err(ReplyForbidden::IcmpNotQuery)
        }
        TransportInfo::Tcp(_) | TransportInfo::Icmp(_) | TransportInfo::Other => Ok(()),
    }
}

/// Whether the address names one host (RFC 1122 §3.2.2, RFC 1812 §4.3.2.7, RFC 4443 §2.4 (e.6)).
/// Subnet broadcast and anycast addresses cannot be told by their bytes.
fn is_one_host(version: IpVersion, address: Address) -> bool {
    match version {
        // "This network" 0/8; 224/4 is multicast, 240/4 class E and the limited broadcast address.
        IpVersion::V4 => !matches!(address.v4_bytes()[0], 0 | 224..),
        IpVersion::V6 => !address.is_multicast(version) && !address.is_unspecified(version),
    }
}

fn is_loopback(version: IpVersion, address: Address) -> bool {
    address.to_ip(version).is_loopback()
}

/// Whether the message asks for an answer, so that an error may tell that there will be none.
fn is_query(version: IpVersion, message: IcmpMessage) -> bool {
    match version {
        // Echo; timestamp, information and address mask (RFC 792, RFC 950); extended echo
        // (RFC 8335 §2). Router solicitations go to multicast or broadcast addresses.
        IpVersion::V4 => matches!(message.icmp_type, 8 | 13 | 15 | 17 | 42),
        // Echo; node information (RFC 4620 §4); extended echo.
        IpVersion::V6 => matches!(message.icmp_type, 128 | 139 | 160),
    }
}

/// The longest ICMP error over IPv4, RFC 1812 §4.3.2.3.
const MAX_IPV4_ERROR: usize = 576;
/// The ICMP header of an error: type, code, checksum, four unused bytes.
const ICMP_HEADER: usize = 8;

/// What every reply to one packet has in common.
struct Answered<'a> {
    /// Of the packet to be answered.
    headers: &'a Headers,
    identification: u16,
}

impl Answered<'_> {
    /// RFC 9293 §3.10.7.1: the answer of a connection that does not exist.
    fn reset(&self, segment: TcpSegment, out: &mut [u8]) -> Option<Reply> {
        const NO_OPTIONS: u8 = (TCP_HEADER as u8 / 4) << 4;
        let (sequence, acknowledgement, flags) = if segment.flags.contains(TcpFlags::ACK) {
            (segment.acknowledgement, 0, TcpFlags::RST)
        } else {
            let acknowledgement = segment.sequence.wrapping_add(segment.segment_len);
            (0, acknowledgement, TcpFlags::RST.with(TcpFlags::ACK))
        };
        let mut tcp = [0; TCP_HEADER];
        put(&mut tcp, 0, &self.headers.destination_port.to_be_bytes())?;
        put(&mut tcp, 2, &self.headers.source_port.to_be_bytes())?;
        put(&mut tcp, 4, &sequence.to_be_bytes())?;
        put(&mut tcp, 8, &acknowledgement.to_be_bytes())?;
        put(&mut tcp, 12, &[NO_OPTIONS, flags.0])?;
        let len = self.write(protocol::TCP, &tcp, &[], out)?;
        Some(Reply {
            kind: ReplyKind::TcpReset,
            len,
        })
    }

    /// RFC 792 "Destination Unreachable" and RFC 4443 §3.1, with as much of the packet as fits.
    fn unreachable(&self, packet: &[u8], out: &mut [u8]) -> Option<Reply> {
        let (number, type_and_code, room) = match self.headers.version {
            IpVersion::V4 => (
                protocol::ICMP,
                [3, 3],
                MAX_IPV4_ERROR - ipv4::MIN_HEADER - ICMP_HEADER,
            ),
            IpVersion::V6 => (
                protocol::ICMPV6,
                [1, 4],
                MAX_REPLY_LEN - ipv6::HEADER - ICMP_HEADER,
            ),
        };
        let quote = packet.get(..room).unwrap_or(packet);
        let mut icmp = [0; ICMP_HEADER];
        put(&mut icmp, 0, &type_and_code)?;
        let len = self.write(number, &icmp, quote, out)?;
        Some(Reply {
            kind: ReplyKind::Unreachable,
            len,
        })
    }

    /// Writes a packet from the answered packet's destination to its source; `None` if it does
    /// not fit.
    fn write(&self, number: u8, header: &[u8], data: &[u8], out: &mut [u8]) -> Option<usize> {
        let frame = Frame {
            version: self.headers.version,
            source: self.headers.destination,
            destination: self.headers.source,
            identification: self.identification,
        };
        frame.write(number, header, data, out)
    }
}

#[cfg(test)]
mod tests;
