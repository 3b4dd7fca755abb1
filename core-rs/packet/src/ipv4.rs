//! The IPv4 header, RFC 791 §3.1.

use kext_types::{Address, IpVersion};

use crate::error::{ParseError, ParseErrorKind};
use crate::headers::{Fragment, IpHeader};

/// Length of the header without options, in bytes.
pub(crate) const MIN_HEADER: usize = 20;

/// Parses the header at the start of `bytes`, whose version field is 4.
pub(crate) fn parse(bytes: &[u8]) -> Result<IpHeader, ParseError> {
    let header: &[u8; MIN_HEADER] = bytes
        .first_chunk()
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    let [
        first,
        _,
        l0,
        l1,
        i0,
        i1,
        f0,
        f1,
        hop_limit,
        next,
        _,
        _,
        addresses @ ..,
    ] = *header;
    let [s0, s1, s2, s3, d0, d1, d2, d3] = addresses;

    let header_len = usize::from(first & 0x0f) * 4;
    let total_len = u16::from_be_bytes([l0, l1]);
    if header_len < MIN_HEADER {
        return Err(ParseErrorKind::HeaderLengthTooSmall.at(0));
    }
    if usize::from(total_len) < MIN_HEADER {
        return Err(ParseErrorKind::IpLengthTooSmall.at(2));
    }
    if header_len > usize::from(total_len) {
        return Err(ParseErrorKind::HeaderBeyondPacket.at(0));
    }
    let options = bytes
        .get(MIN_HEADER..header_len)
        .ok_or(ParseErrorKind::TruncatedHeader.at(0))?;
    Ok(IpHeader {
        version: IpVersion::V4,
        source: Address::v4([s0, s1, s2, s3]),
        destination: Address::v4([d0, d1, d2, d3]),
        total_len: total_len.into(),
        length_field: 2,
        end: header_len as u16,
        next,
        hop_limit,
        fragment: fragment(u16::from_be_bytes([i0, i1]), u16::from_be_bytes([f0, f1])),
        source_routed: has_source_route(options),
    })
}

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
