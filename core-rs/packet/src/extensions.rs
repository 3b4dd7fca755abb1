//! The headers between the IP header and the transport header.
//!
//! In IPv6 these are the extension headers (RFC 8200 §4, RFC 7045), in IPv4 only the
//! authentication header. ESP and "no next header" are none: they end the walk like a transport
//! protocol, because nothing behind them can be read.

use kext_types::{IpVersion, protocol};

use crate::error::{ParseError, ParseErrorKind};
use crate::headers::{Fragment, IpHeader, View};
use crate::ipv6;

/// How many extension headers are walked; a packet with more is unparsable.
///
/// RFC 8200 §4.1 recommends an order in which seven occur at most; one more is slack.
pub const MAX_EXTENSIONS: usize = 8;

/// How many bytes of extension headers are walked; a packet with more is unparsable.
pub const MAX_EXTENSION_BYTES: usize = 512;

/// What the walk found.
pub(crate) struct Chain {
    /// The protocol that ends the chain.
    pub(crate) protocol: u8,
    /// Where its header (or a later fragment's data) starts.
    pub(crate) end: u16,
    pub(crate) fragment: Option<Fragment>,
    /// Where the data starts that fragments divide among them.
    pub(crate) fragment_data: u16,
    /// How many bytes of headers, as the IP length field counts, each fragment repeats.
    pub(crate) unfragmentable: u16,
    pub(crate) source_routed: bool,
    pub(crate) authenticated: bool,
    has_fragment_header: bool,
}

/// Walks from the end of the IP header to the transport header.
///
/// Most packets have nothing between the two. For their sake what is found is never written to memory: it
/// would be read in other widths there, which stalls the processor.
#[inline(always)]
pub(crate) fn walk(view: &View<'_>, ip: &IpHeader) -> Result<Chain, ParseError> {
    let none = Chain::new(ip);
    if none.is_at_end(ip.version) {
        return Ok(none);
    }
    let Chain {
        protocol,
        end,
        fragment,
        fragment_data,
        unfragmentable,
        source_routed,
        authenticated,
        has_fragment_header,
    } = walk_on(view.held, view.total_len, *ip)?;
    Ok(Chain {
        protocol,
        end,
        fragment,
        fragment_data,
        unfragmentable,
        source_routed,
        authenticated,
        has_fragment_header,
    })
}

/// Walks over what stands between.
#[inline(never)]
fn walk_on(held: &[u8], total_len: usize, ip: IpHeader) -> Result<Chain, ParseError> {
    let view = View { held, total_len };
    let mut chain = Chain::new(&ip);
    // Bound: MAX_EXTENSIONS headers. A chain cannot loop, since each step goes forward; the bound
    // is what keeps a long one from costing much.
    for _ in 0..MAX_EXTENSIONS {
        if chain.is_at_end(ip.version) {
            return Ok(chain);
        }
        chain.step(&view, &ip)?;
    }
    if chain.is_at_end(ip.version) {
        return Ok(chain);
    }
    Err(ParseErrorKind::TooManyExtensions.at(chain.end.into()))
}

impl Chain {
    /// Nothing stands between the IP header and the transport header.
    #[inline(always)]
    fn new(ip: &IpHeader) -> Self {
        Self {
            protocol: ip.next,
            end: ip.end,
            fragment: ip.fragment,
            fragment_data: ip.end,
            unfragmentable: ip.end,
            source_routed: ip.source_routed,
            authenticated: false,
            has_fragment_header: false,
        }
    }

    /// Whether no extension header is next. What follows the fragment header of a later fragment
    /// is data, whatever its number says.
    #[inline]
    fn is_at_end(&self, version: IpVersion) -> bool {
        self.fragment.is_some_and(Fragment::is_later) || !is_extension(version, self.protocol)
    }

    /// Steps over the extension header at `end`.
    fn step(&mut self, view: &View<'_>, ip: &IpHeader) -> Result<(), ParseError> {
        let start = usize::from(self.end);
        // A packet that ends too early by its own length, or only because a capture cut it.
        let truncated = |end: usize| {
            if self.fragment.is_some() && end > view.total_len {
                // RFC 7112 §5: a first fragment has all headers.
                ParseErrorKind::TinyFragment.at(start)
            } else {
                ParseErrorKind::TruncatedExtension.at(start)
            }
        };
        // Every extension header is 8 bytes or longer.
        let header = view.at::<[u8; 8]>(start).ok_or(truncated(start + 8))?;
        let &[next, length, _, fourth, ..] = header;
        let len = match self.protocol {
            protocol::FRAGMENT => 8,
            // RFC 4302 §2.2: in units of four bytes, two of them not counted.
            protocol::AH => (usize::from(length) + 2) * 4,
            _ => (usize::from(length) + 1) * 8,
        };
        let end = start + len;
        if end > view.held.len() {
            return Err(truncated(end));
        }
        if end - usize::from(ip.end) > MAX_EXTENSION_BYTES {
            return Err(ParseErrorKind::ExtensionsTooLong.at(start));
        }
        match self.protocol {
            protocol::HOP_BY_HOP if self.end != ip.end => {
                return Err(ParseErrorKind::MisplacedHopByHop.at(start));
            }
            protocol::AH if len < 12 => return Err(ParseErrorKind::BadExtension.at(start)),
            protocol::AH => self.authenticated = true,
            // RFC 8200 §4.4: the fourth byte is "segments left" in every type.
            protocol::ROUTING => self.source_routed |= fourth != 0,
            protocol::FRAGMENT => self.fragment_header(*header, start)?,
            _ => {}
        }
        self.protocol = next;
        // At most 60 + MAX_EXTENSION_BYTES.
        self.end = end as u16;
        Ok(())
    }

    /// RFC 8200 §4.5; an atomic fragment is a whole packet (RFC 6946).
    fn fragment_header(&mut self, header: [u8; 8], start: usize) -> Result<(), ParseError> {
        let [_, _, o0, o1, i0, i1, i2, i3] = header;
        if self.has_fragment_header {
            return Err(ParseErrorKind::RepeatedFragmentHeader.at(start));
        }
        self.has_fragment_header = true;
        let word = u16::from_be_bytes([o0, o1]);
        let (offset, more) = (word & !7, word & 1 != 0);
        if offset != 0 || more {
            self.fragment = Some(Fragment {
                id: u32::from_be_bytes([i0, i1, i2, i3]),
                offset,
                len: 0,
                more,
            });
            self.fragment_data = (start + 8) as u16;
            // The payload length does not count the IP header, and the reassembled packet has no
            // fragment header.
            self.unfragmentable = (start - ipv6::HEADER) as u16;
        }
        Ok(())
    }
}

/// Whether this protocol number is a header that says what follows it.
#[inline]
fn is_extension(version: IpVersion, number: u8) -> bool {
    match version {
        IpVersion::V4 => number == protocol::AH,
        IpVersion::V6 => matches!(
            number,
            protocol::HOP_BY_HOP
                | protocol::ROUTING
                | protocol::FRAGMENT
                | protocol::AH
                | protocol::DESTINATION_OPTIONS
                | protocol::MOBILITY
                | protocol::HIP
                | protocol::SHIM6
        ),
    }
}
