//! The IPv4 header, RFC 791 §3.1.

use kext_types::{Address, IpVersion};
use zerocopy::byteorder::network_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{ParseError, ParseErrorKind};
use crate::headers::{Fragment, IpHeader};

/// Length of the header without options, in bytes.
pub(crate) const MIN_HEADER: usize = 20;

/// The header without options. Each field is read where it is: copying the header first would have
/// every packet wait for the copy.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    version_and_length: u8,
    service: u8,
    total_len: U16,
    id: U16,
    flags_and_offset: U16,
    hop_limit: u8,
    next: u8,
    checksum: U16,
    source: U32,
    destination: U32,
}

const _: () = assert!(size_of::<Header>() == MIN_HEADER);

/// Parses the header at the start of `bytes`, whose version field is 4.
#[inline(always)]
pub(crate) fn parse(bytes: &[u8]) -> Result<IpHeader, ParseError> {
    let (header, options) =
        Header::ref_from_prefix(bytes).map_err(|_| ParseErrorKind::TruncatedHeader.at(0))?;
    let header_len = usize::from(header.version_and_length & 0x0f) * 4;
    let total_len = header.total_len.get();
    if header_len < MIN_HEADER {
        return Err(ParseErrorKind::HeaderLengthTooSmall.at(0));
    }
    if usize::from(total_len) < MIN_HEADER {
        return Err(ParseErrorKind::IpLengthTooSmall.at(2));
    }
    if header_len > usize::from(total_len) {
        return Err(ParseErrorKind::HeaderBeyondPacket.at(0));
    }
    let options = options
        .get(..header_len - MIN_HEADER)
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    Ok(IpHeader {
        version: IpVersion::V4,
        source: Address::v4(header.source.get().to_be_bytes()),
        destination: Address::v4(header.destination.get().to_be_bytes()),
        total_len: total_len.into(),
        length_field: 2,
        end: header_len as u16,
        next: header.next,
        hop_limit: header.hop_limit,
        fragment: fragment(header.id.get(), header.flags_and_offset.get()),
        source_routed: !options.is_empty() && has_source_route(options),
    })
}

#[inline]
fn fragment(id: u16, flags_and_offset: u16) -> Option<Fragment> {
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;
    let more = flags_and_offset & MORE != 0;
    // At most 0x1fff * 8 = 65,528.
    let offset = (flags_and_offset & OFFSET) << 3;
    (more || offset != 0).then_some(Fragment {
        id: id.into(),
        offset,
        len: 0,
        more,
    })
}

/// Whether there is a loose or strict source route with addresses left (RFC 791 §3.1).
///
/// Options that make no sense end the search: they are the receiver's business.
fn has_source_route(mut options: &[u8]) -> bool {
    const END: u8 = 0;
    const NO_OPERATION: u8 = 1;
    const LOOSE_ROUTE: u8 = 131;
    const STRICT_ROUTE: u8 = 137;
    // Bound: every turn takes a byte or more of the 40 that options have at most.
    while let [kind, rest @ ..] = options {
        options = match (*kind, rest) {
            (END, _) => return false,
            (NO_OPERATION, rest) => rest,
            (LOOSE_ROUTE | STRICT_ROUTE, [length, pointer, ..]) if pointer <= length => {
                return true;
            }
            (_, [length, ..]) => match options.get(usize::from((*length).max(2))..) {
                Some(rest) => rest,
                None => return false,
            },
            (_, []) => return false,
        };
    }
    false
}
