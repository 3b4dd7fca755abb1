//! Why a packet's headers could not be walked, and where.

use core::fmt;

/// A packet that cannot be parsed: what is wrong, and at which byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ParseError {
    /// What is wrong.
    pub kind: ParseErrorKind,
    /// Where the header or field at fault starts, in bytes from the start of the IP header.
    pub offset: u32,
}

/// What is wrong with a packet that cannot be parsed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ParseErrorKind {
    /// There are no bytes at all.
    Empty,
    /// The version field is this number, neither 4 nor 6.
    UnknownVersion(u8),
    /// The bytes end inside the IP header.
    TruncatedHeader,
    /// The IPv4 header length is below 20 bytes (RFC 791 §3.1).
    HeaderLengthTooSmall,
    /// The IPv4 header length is more than the packet's total length.
    HeaderBeyondPacket,
    /// The IPv4 total length is below 20 bytes.
    IpLengthTooSmall,
    /// The packet's length by its own header is more than was on the wire.
    IpLengthBeyondPacket,
    /// An IPv6 payload longer than the length field can state (RFC 2675).
    Jumbogram,
    /// There are more than [`crate::MAX_EXTENSIONS`] extension headers.
    TooManyExtensions,
    /// The extension headers are longer than [`crate::MAX_EXTENSION_BYTES`] together.
    ExtensionsTooLong,
    /// The packet ends inside an extension header.
    TruncatedExtension,
    /// An authentication header shorter than its fixed part (RFC 4302 §2.2).
    BadExtension,
    /// A hop-by-hop header that is not the first extension header (RFC 8200 §4.1).
    MisplacedHopByHop,
    /// A second fragment header (RFC 8200 §4.1: each extension header occurs at most once).
    RepeatedFragmentHeader,
    /// A first fragment without the whole transport header, or a later one that would overwrite
    /// it (RFC 1858 §3, RFC 3128, RFC 7112 §5).
    TinyFragment,
    /// A fragment that is not the last, of a length that is no multiple of 8 (RFC 791 §3.2,
    /// RFC 8200 §4.5).
    BadFragmentLength,
    /// A fragment that would end beyond the largest packet (RFC 8200 §4.5).
    FragmentBeyondPacket,
    /// The packet ends inside the transport header.
    TruncatedTransport,
    /// A TCP data offset below 20 bytes or beyond the segment (RFC 9293 §3.1).
    BadTransportHeader,
}

impl ParseErrorKind {
    /// Whether this is a fragment that no sender makes in good faith. A firewall blocks it
    /// whatever its policy for other unparsable packets.
    pub const fn is_bad_fragment(self) -> bool {
        matches!(
            self,
            Self::RepeatedFragmentHeader
                | Self::TinyFragment
                | Self::BadFragmentLength
                | Self::FragmentBeyondPacket
        )
    }
}

impl ParseErrorKind {
    /// This error at a byte offset from the start of the IP header.
    pub(crate) const fn at(self, offset: usize) -> ParseError {
        ParseError {
            kind: self,
            offset: offset as u32,
        }
    }
}

impl fmt::Display for ParseErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "no bytes",
            Self::UnknownVersion(version) => return write!(f, "IP version {version}"),
            Self::TruncatedHeader => "the bytes end inside the IP header",
            Self::HeaderLengthTooSmall => "IPv4 header length below 20 bytes",
            Self::HeaderBeyondPacket => "IPv4 header longer than the packet",
            Self::IpLengthTooSmall => "IPv4 total length below 20 bytes",
            Self::IpLengthBeyondPacket => "IP length beyond the packet",
            Self::Jumbogram => "IPv6 jumbogram",
            Self::TooManyExtensions => "too many extension headers",
            Self::ExtensionsTooLong => "extension headers too long",
            Self::TruncatedExtension => "the packet ends inside an extension header",
            Self::BadExtension => "authentication header too short",
            Self::MisplacedHopByHop => "hop-by-hop header not in first place",
            Self::RepeatedFragmentHeader => "a second fragment header",
            Self::TinyFragment => "fragment splits or overwrites the transport header",
            Self::BadFragmentLength => "fragment length is no multiple of 8",
            Self::FragmentBeyondPacket => "fragment ends beyond the largest packet",
            Self::TruncatedTransport => "the packet ends inside the transport header",
            Self::BadTransportHeader => "TCP header length out of range",
        })
    }
}

impl fmt::Display for ParseError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (byte {} of the packet)", self.kind, self.offset)
    }
}

impl core::error::Error for ParseError {}
