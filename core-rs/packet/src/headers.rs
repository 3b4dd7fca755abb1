//! The walk from the IP header to the 5-tuple.

use kext_types::{Address, Direction, FlowKey, IpVersion, protocol};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::error::{ParseError, ParseErrorKind};
use crate::extensions::{self, Chain};
use crate::transport::{self, TransportInfo};
use crate::{ipv4, ipv6};

/// What the headers of a packet say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Headers {
    /// The version of the (outer) IP header.
    pub version: IpVersion,
    /// The protocol after all extension headers, see [`protocol`]. In a later fragment that of the
    /// fragment header, which may be another extension header.
    pub protocol: u8,
    /// The source address.
    pub source: Address,
    /// The destination address by the IP header.
    pub destination: Address,
    /// The source port in host order; 0 where the protocol has none and in a later fragment.
    pub source_port: u16,
    /// The destination port, likewise.
    pub destination_port: u16,
    /// The IP packet's length in bytes by its own header, 20 to [`kext_types::MAX_PACKET_LEN`].
    pub total_len: u32,
    /// Where the transport header (or a later fragment's data) starts, in bytes from the start of
    /// the IP header, 20 to 572.
    pub transport: u16,
    /// TTL or hop limit.
    pub hop_limit: u8,
    /// Whether a source route is still to be followed: an IPv4 LSRR or SSRR option, or an IPv6
    /// routing header with segments left. The last destination is then another one.
    pub source_routed: bool,
    /// Whether an authentication header protects the packet (RFC 4302).
    pub authenticated: bool,
    /// `None` for a whole packet. An IPv6 "atomic fragment" is whole too (RFC 6946).
    pub fragment: Option<Fragment>,
    /// What the transport header says beside the ports.
    pub transport_info: TransportInfo,
}

/// Which piece of a fragmented packet this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fragment {
    /// The identification that all fragments of a packet share: 16 bits in IPv4, 32 in IPv6.
    pub id: u32,
    /// Where this fragment's data belongs, in bytes: a multiple of 8 up to 65,528.
    pub offset: u16,
    /// How many bytes of that data this fragment has, up to 65,535 less the offset.
    pub len: u16,
    /// Whether more fragments follow.
    pub more: bool,
}

impl Fragment {
    /// Whether this is not the first fragment, and so holds no header but the IP one's.
    pub const fn is_later(self) -> bool {
        self.offset != 0
    }
}

impl Headers {
    /// Walks the headers of the packet whose first bytes are `bytes`.
    ///
    /// `bytes` start at the IP header; they may end in link-layer padding, and a capture may have
    /// cut them. `on_wire` is how many bytes there were on the wire, padding included; no less
    /// than `bytes.len()` is assumed. A packet that says it is longer than `on_wire` is an error.
    /// One cut short is not, as long as its 5-tuple can be read.
    #[inline(always)]
    pub fn parse(bytes: &[u8], on_wire: usize) -> Result<Self, ParseError> {
        let ip = match bytes.first().map(|first| first >> 4) {
            None => return Err(ParseErrorKind::Empty.at(0)),
            Some(4) => ipv4::parse(bytes)?,
            Some(6) => ipv6::parse(bytes)?,
            Some(other) => return Err(ParseErrorKind::UnknownVersion(other).at(0)),
        };
        let total_len = ip.total_len as usize;
        if total_len > on_wire.max(bytes.len()) {
            return Err(ParseErrorKind::IpLengthBeyondPacket.at(ip.length_field));
        }
        let view = View {
            held: bytes.get(..total_len).unwrap_or(bytes),
            total_len,
        };
        let mut chain = extensions::walk(&view, &ip)?;
        if let Some(fragment) = chain.fragment {
            let len = check_fragment(&view, &chain, fragment)?;
            chain.fragment = Some(Fragment { len, ..fragment });
        }
        let transport = transport::parse(&view, ip.version, &chain)?;
        Ok(Self {
            version: ip.version,
            protocol: chain.protocol,
            source: ip.source,
            destination: ip.destination,
            source_port: transport.source_port,
            destination_port: transport.destination_port,
            total_len: ip.total_len,
            transport: chain.end,
            hop_limit: ip.hop_limit,
            source_routed: chain.source_routed,
            authenticated: chain.authenticated,
            fragment: chain.fragment,
            transport_info: transport.info,
        })
    }

    /// The headers of the packet that an ICMP error quotes; `None` if this is no ICMP error or
    /// the quote is not there or cannot be parsed.
    ///
    /// `bytes` are those that these headers were parsed from. A quote is commonly cut after eight
    /// bytes of its transport header (RFC 792), so its [`TransportInfo`] is often missing. A redirect
    /// of IPv6 quotes in an option, if at all (RFC 4861 §4.6.3), and is about a route: it has none.
    pub fn quoted(&self, bytes: &[u8]) -> Option<Self> {
        /// Type, code, checksum and four bytes that depend on the type.
        const ICMP_HEADER: usize = 8;
        let has_quote = match self.transport_info {
            TransportInfo::Icmp(message) => {
                self.is_icmp_error()
                    && (self.version == IpVersion::V4 || message.icmp_type != ipv6::REDIRECT)
            }
            _ => false,
        };
        if !has_quote {
            return None;
        }
        let whole = bytes.get(..self.total_len as usize).unwrap_or(bytes);
        let quote = whole.get(usize::from(self.transport) + ICMP_HEADER..)?;
        Self::parse(quote, usize::MAX).ok()
    }

    /// Whether this is the first of several fragments: the one with the transport header.
    pub fn is_first_fragment(&self) -> bool {
        self.fragment.is_some_and(|fragment| fragment.offset == 0)
    }

    /// Whether this is a fragment without transport header, and so without ports.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.is_some_and(Fragment::is_later)
    }

    /// The flow of a packet with these headers that goes this way.
    ///
    /// ICMP and ICMPv6 echoes have no ports; their identifier, which request and reply share
    /// (RFC 792, RFC 4443 §4), stands in the place of the local one whichever way they go.
    #[inline(always)]
    pub fn flow_key(&self, direction: Direction) -> FlowKey {
        let (local, remote) = direction.local_remote(self.source, self.destination);
        let (local_port, remote_port) = match self.echo_id() {
            Some(id) => (id, 0),
            None => direction.local_remote(self.source_port, self.destination_port),
        };
        FlowKey {
            local,
            remote,
            local_port,
            remote_port,
            version: self.version,
            protocol: self.protocol,
        }
    }

    /// The flow that an ICMP error which goes this way is about; `None` where [`Headers::quoted`]
    /// has nothing, and where what it has cannot be believed.
    ///
    /// The quoted packet went the other way. An error goes back to who sent that packet (RFC 1122
    /// §3.2.2, RFC 4443 §2.2), so that one with another destination is none. Errors are too short to
    /// be fragmented (RFC 1812 §4.3.2.3, RFC 4443 §2.4 (c)), and nobody sends them about later
    /// fragments (RFC 1122 §3.2.2).
    pub fn quoted_flow(&self, bytes: &[u8], direction: Direction) -> Option<FlowKey> {
        if self.fragment.is_some() {
            return None;
        }
        let quoted = self.quoted(bytes)?;
        (quoted.version == self.version
            && quoted.source == self.destination
            && !quoted.is_later_fragment()
            && !quoted.is_icmp_error())
        .then(|| quoted.flow_key(direction.reversed()))
    }

    /// The identifier of an ICMP or ICMPv6 echo request or reply.
    #[inline(always)]
    fn echo_id(&self) -> Option<u16> {
        match self.transport_info {
            TransportInfo::Icmp(message) => message.echo_id,
            _ => None,
        }
    }

    /// Whether this is an ICMP error or redirect: a message about another packet, which it quotes
    /// (RFC 1122 §3.2.2; RFC 4443 §2.1: all ICMPv6 types below 128; RFC 4861 §4.5).
    #[inline(always)]
    pub fn is_icmp_error(&self) -> bool {
        let TransportInfo::Icmp(message) = self.transport_info else {
            return false;
        };
        match self.version {
            // Unreachable, source quench, redirect, time exceeded, parameter problem.
            IpVersion::V4 => matches!(message.icmp_type, 3 | 4 | 5 | 11 | 12),
            IpVersion::V6 => message.icmp_type < 128 || message.icmp_type == ipv6::REDIRECT,
        }
    }

    /// Whether the machine needs this packet to have a working network at all:
    ///
    /// - neighbour discovery (ICMPv6 133 to 137) as its receiver accepts it: hop limit 255 and
    ///   code 0 (RFC 4861 §6.1, §7.1, §8.1), not fragmented (RFC 6980 §5);
    /// - DHCPv4 between the ports of client and server or of relay and server (RFC 2131 §4.1);
    /// - DHCPv6 likewise (RFC 8415 §7.2).
    ///
    /// Multicast listener discovery is not: it is multicast, and has that class's switch.
    #[inline(always)]
    pub fn is_infrastructure(&self) -> bool {
        const DHCP: (u16, u16) = (67, 68);
        const DHCPV6: (u16, u16) = (547, 546);
        match (self.version, self.protocol, self.transport_info) {
            (IpVersion::V6, protocol::ICMPV6, TransportInfo::Icmp(message)) => {
                (ipv6::ROUTER_SOLICITATION..=ipv6::REDIRECT).contains(&message.icmp_type)
                    && message.code == 0
                    && self.hop_limit == 255
                    && self.fragment.is_none()
            }
            (IpVersion::V4, protocol::UDP, _) => self.is_between(DHCP),
            (IpVersion::V6, protocol::UDP, _) => self.is_between(DHCPV6),
            _ => false,
        }
    }

    /// Whether the ports are server and client, either way, or server and server (a relay).
    #[inline]
    fn is_between(&self, (server, client): (u16, u16)) -> bool {
        let ports = (self.source_port, self.destination_port);
        ports == (client, server) || ports == (server, client) || ports == (server, server)
    }
}

/// What one of the two IP headers says, in the form that the rest of the walk shares.
#[derive(Clone, Copy)]
pub(crate) struct IpHeader {
    pub(crate) version: IpVersion,
    pub(crate) source: Address,
    pub(crate) destination: Address,
    pub(crate) total_len: u32,
    /// Offset of the field that `total_len` comes from, for errors.
    pub(crate) length_field: usize,
    /// Where the next header starts.
    pub(crate) end: u16,
    /// Which header that is.
    pub(crate) next: u8,
    pub(crate) hop_limit: u8,
    pub(crate) fragment: Option<Fragment>,
    pub(crate) source_routed: bool,
}

/// A packet's bytes without padding, and how many there were before a capture cut them.
pub(crate) struct View<'a> {
    /// At most `total_len` bytes.
    pub(crate) held: &'a [u8],
    pub(crate) total_len: usize,
}

impl View<'_> {
    /// The structure at `offset`, if all of it is held.
    #[inline]
    pub(crate) fn at<T: FromBytes + KnownLayout + Immutable + Unaligned>(
        &self,
        offset: usize,
    ) -> Option<&T> {
        let (found, _) = T::ref_from_prefix(self.held.get(offset..)?).ok()?;
        Some(found)
    }
}

/// Refuses fragments of a shape that no honest sender makes. Gives the length of the others' data.
fn check_fragment(view: &View<'_>, chain: &Chain, fragment: Fragment) -> Result<u16, ParseError> {
    let data_start = usize::from(chain.fragment_data);
    let data_len = view.total_len.saturating_sub(data_start);
    if fragment.more && (data_len == 0 || !data_len.is_multiple_of(8)) {
        return Err(ParseErrorKind::BadFragmentLength.at(data_start));
    }
    let end = usize::from(chain.unfragmentable) + usize::from(fragment.offset) + data_len;
    if end > usize::from(u16::MAX) {
        return Err(ParseErrorKind::FragmentBeyondPacket.at(data_start));
    }
    let overwrites_header = (1..transport::TCP_HEADER).contains(&usize::from(fragment.offset));
    if overwrites_header && chain.protocol == protocol::TCP {
        return Err(ParseErrorKind::TinyFragment.at(data_start));
    }
    // Not more than `end`.
    Ok(data_len as u16)
}

#[cfg(test)]
mod tests;
