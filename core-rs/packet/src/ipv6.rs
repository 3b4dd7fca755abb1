//! The IPv6 header, RFC 8200 §3, and the numbers of neighbour discovery.

use kext_types::{Address, IpVersion, protocol};
use zerocopy::byteorder::network_endian::{U16, U128};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{ParseError, ParseErrorKind};
use crate::headers::IpHeader;

/// Length of the header, in bytes.
pub(crate) const HEADER: usize = 40;

/// The first ICMPv6 type of neighbour discovery, RFC 4861 §4.1.
pub(crate) const ROUTER_SOLICITATION: u8 = 133;
/// The last one, RFC 4861 §4.5.
pub(crate) const REDIRECT: u8 = 137;

/// The header, each field read where it is.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    version_class_and_flow: [u8; 4],
    payload_len: U16,
    next: u8,
    hop_limit: u8,
    source: U128,
    destination: U128,
}

const _: () = assert!(size_of::<Header>() == HEADER);

/// Parses the header at the start of `bytes`, whose version field is 6.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8]) -> Result<IpHeader, ParseError> {
    const PAYLOAD_LENGTH: usize = 4;
    let (header, _) =
        Header::ref_from_prefix(bytes).map_err(|_| ParseErrorKind::TruncatedHeader.at(0))?;
    let payload_len = header.payload_len.get();
    // RFC 2675 §3: length zero says that a hop-by-hop option has the length.
    if payload_len == 0 && header.next == protocol::HOP_BY_HOP {
        return Err(ParseErrorKind::Jumbogram.at(PAYLOAD_LENGTH));
    }
    Ok(IpHeader {
        version: IpVersion::V6,
        source: Address::v6(header.source.get().to_be_bytes()),
        destination: Address::v6(header.destination.get().to_be_bytes()),
        total_len: HEADER as u32 + u32::from(payload_len),
        length_field: PAYLOAD_LENGTH,
        end: HEADER as u16,
        next: header.next,
        hop_limit: header.hop_limit,
        fragment: None,
        source_routed: false,
    })
}
