//! The IPv6 header, RFC 8200 §3, and the numbers of neighbour discovery.

use kext_types::{Address, IpVersion, protocol};

use crate::error::{ParseError, ParseErrorKind};
use crate::headers::IpHeader;

/// Length of the header, in bytes.
pub(crate) const HEADER: usize = 40;

/// The first ICMPv6 type of neighbour discovery, RFC 4861 §4.1.
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
/// The last one, RFC 4861 §4.5.
pub(crate) const REDIRECT: u8 = 137;

/// Parses the header at the start of `bytes`, whose version field is 6.
pub(crate) fn parse(bytes: &[u8]) -> Result<IpHeader, ParseError> {
    const PAYLOAD_LENGTH: usize = 4;
    let (&[_, _, _, _, l0, l1, next, hop_limit], rest) = bytes
        .split_first_chunk()
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    let (source, rest) = rest
        .split_first_chunk::<16>()
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    let destination = rest
        .first_chunk::<16>()
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    let payload_len = u16::from_be_bytes([l0, l1]);
    // RFC 2675 §3: length zero says that a hop-by-hop option has the length.
    if payload_len == 0 && next == protocol::HOP_BY_HOP {
        return Err(ParseErrorKind::Jumbogram.at(PAYLOAD_LENGTH));
    }
    Ok(IpHeader {
        version: IpVersion::V6,
        source: Address::v6(*source),
        destination: Address::v6(*destination),
        total_len: HEADER as u32 + u32::from(payload_len),
        length_field: PAYLOAD_LENGTH,
        end: HEADER as u16,
        next,
        hop_limit,
        fragment: None,
        source_routed: false,
    })
}
