//! What identifies a flow.

use core::fmt;
use core::hash::{Hash, Hasher};

use crate::{Address, IpVersion};

/// Numbers of the IP protocol field that the code names (IANA "Assigned Internet Protocol
/// Numbers").
pub mod protocol {
    /// IPv6 hop-by-hop options, RFC 8200 §4.3.
    pub const HOP_BY_HOP: u8 = 0;
    /// ICMP for IPv4, RFC 792.
    pub const ICMP: u8 = 1;
    /// TCP, RFC 9293.
    pub const TCP: u8 = 6;
    /// UDP, RFC 768.
    pub const UDP: u8 = 17;
    /// DCCP, RFC 4340.
    pub const DCCP: u8 = 33;
    /// IPv6 routing header, RFC 8200 §4.4.
    pub const ROUTING: u8 = 43;
    /// IPv6 fragment header, RFC 8200 §4.5.
    pub const FRAGMENT: u8 = 44;
    /// Encapsulating security payload, RFC 4303.
    pub const ESP: u8 = 50;
    /// Authentication header, RFC 4302.
    pub const AH: u8 = 51;
    /// ICMP for IPv6, RFC 4443.
    pub const ICMPV6: u8 = 58;
    /// No next header, RFC 8200 §4.7.
    pub const NO_NEXT_HEADER: u8 = 59;
    /// IPv6 destination options, RFC 8200 §4.6.
    pub const DESTINATION_OPTIONS: u8 = 60;
    /// SCTP, RFC 9260.
    pub const SCTP: u8 = 132;
    /// IPv6 mobility header, RFC 6275.
    pub const MOBILITY: u8 = 135;
    /// UDP-Lite, RFC 3828.
    pub const UDP_LITE: u8 = 136;
    /// Host identity protocol, RFC 7401.
    pub const HIP: u8 = 139;
    /// Shim6, RFC 5533.
    pub const SHIM6: u8 = 140;
}

/// The 5-tuple of a flow, with the IP version.
///
/// Ends are *local* and *remote*, not source and destination, so that both directions of a flow
/// have the same key. Ports are in host order and 0 where the protocol has none. An ICMP or ICMPv6
/// echo has its identifier as the local port, whichever end asks, and 0 as the remote one.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// This machine's address.
    pub local: Address,
    /// The other end's address.
    pub remote: Address,
    /// This machine's port, or an echo's identifier.
    pub local_port: u16,
    /// The other end's port.
    pub remote_port: u16,
    /// The family of both addresses.
    pub version: IpVersion,
    /// The protocol of the transport header, see [`protocol`].
    pub protocol: u8,
}

impl Hash for FlowKey {
    /// Three wide words instead of a call for each field: this runs for every packet.
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.local.to_bits());
        state.write_u128(self.remote.to_bits());
        state.write_u64(
            u64::from(self.local_port)
                | u64::from(self.remote_port) << 16
                | u64::from(self.version.number()) << 32
                | u64::from(self.protocol) << 40,
        );
    }
}

impl fmt::Debug for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "protocol {} {}:{} <-> {}:{}",
            self.protocol,
            self.local.to_ip(self.version),
            self.local_port,
            self.remote.to_ip(self.version),
            self.remote_port
        )
    }
}
