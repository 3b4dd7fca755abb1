//! Addresses and ports changed in place, checksums updated with them.

use core::fmt;

use kext_types::{Address, IpVersion, protocol};

use crate::Headers;
use crate::bytes::{put, word};
use crate::checksum::{self, IPV4_CHECKSUM, Placement, Sum};

/// What to change; `None` leaves an end as it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rewrite {
    /// The new source address and port.
    pub source: Option<(Address, u16)>,
    /// The new destination address and port.
    pub destination: Option<(Address, u16)>,
}

/// Why a packet cannot be rewritten. Nothing was changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RewriteError {
    /// Nothing is known of this protocol's checksum, or it has no ports to change.
    Protocol(u8),
    /// The new address is no IPv4 address, and the packet is IPv4.
    Family,
    /// The packet is on a source route (IPv4 LSRR or SSRR, an IPv6 routing header with segments
    /// left): the checksum is over another destination than the header's.
    SourceRouted,
    /// An authentication header covers the addresses (RFC 4302 §3.3.3).
    Authenticated,
    /// The bytes are not those that the headers were parsed from.
    Mismatch,
}

impl fmt::Display for RewriteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Protocol(number) => {
                return write!(f, "packets of protocol {number} cannot be rewritten so");
            }
            Self::Family => "the new address is not an IPv4 address",
            Self::SourceRouted => "the packet is on a source route",
            Self::Authenticated => "the packet has an authentication header",
            Self::Mismatch => "the packet is shorter than its headers",
        })
    }
}

impl core::error::Error for RewriteError {}

/// Changes addresses and ports of `packet` in place and updates the IPv4 header checksum and the
/// transport checksum incrementally (RFC 1624).
///
/// `packet` holds the bytes that `headers` were parsed from; `headers` describe the old packet
/// afterwards. A first fragment has its transport checksum updated, which is over the addresses
/// too; a later fragment only has its addresses changed. Of a packet cut short what is there is
/// changed. Ports of protocols without ports must be given as 0.
pub fn rewrite(packet: &mut [u8], headers: &Headers, change: &Rewrite) -> Result<(), RewriteError> {
    let plan = Plan::new(packet, headers, change)?;
    // Nothing fails from here on: the plan found every place.
    for (end, place) in [
        (change.source, plan.source),
        (change.destination, plan.destination),
    ] {
        if let Some((address, port)) = end {
            plan.apply(packet, headers.version, place, address, port);
        }
    }
    Ok(())
}

/// Changes an ICMP error about a packet that was rewritten as if it had not been.
///
/// `change` is what a packet of the flow that goes the error's way would be changed by. The quoted
/// packet went the other way, so its source gets the new destination and the reverse. The error's own
/// destination is the quoted source. Its own source is changed only if it is the quoted destination:
/// a router on the way has its own address. All checksums are updated incrementally: the quoted ones
/// (as far as they are quoted), that of the ICMP message and that of the IPv4 header.
pub fn rewrite_error(
    packet: &mut [u8],
    headers: &Headers,
    change: &Rewrite,
) -> Result<(), RewriteError> {
    const ICMP_HEADER: usize = 8;
    const ICMP_CHECKSUM: usize = 2;
    let quoted = headers.quoted(packet).ok_or(RewriteError::Mismatch)?;
    if quoted.version != headers.version {
        return Err(RewriteError::Mismatch);
    }
    let from_quoted_end = headers.source == quoted.destination;
    let own = Rewrite {
        source: change.source.filter(|_| from_quoted_end).map(without_port),
        destination: change.destination.map(without_port),
    };
    let reversed = Rewrite {
        source: change.destination,
        destination: change.source,
    };
    let transport = usize::from(headers.transport);
    let (_, quote) = packet
        .split_at_checked(transport + ICMP_HEADER)
        .ok_or(RewriteError::Mismatch)?;
    // Of both before anything is changed: an error changes nothing.
    Plan::new(quote, &quoted, &reversed)?;
    Plan::new(packet, headers, &own)?;

    let (_, quote) = packet
        .split_at_mut_checked(transport + ICMP_HEADER)
        .ok_or(RewriteError::Mismatch)?;
    // Everything that changes: checksums stand within the first 18 bytes of a transport header.
    let end = quote.len().min(usize::from(quoted.transport) + 18);
    let sum = |quote: &[u8]| {
        Sum::new()
            .add_bytes(quote.get(..end).unwrap_or_default())
            .folded()
    };
    let before = sum(quote);
    rewrite(quote, &quoted, &reversed)?;
    let after = sum(quote);
    update_at(
        packet,
        transport + ICMP_CHECKSUM,
        false,
        &before.to_be_bytes(),
        &after.to_be_bytes(),
    );
    rewrite(packet, headers, &own)
}

fn without_port((address, _): (Address, u16)) -> (Address, u16) {
    (address, 0)
}

/// Where one end's address and port are, in bytes from the start of the packet.
#[derive(Clone, Copy)]
struct Place {
    address: usize,
    /// `None` if there is no port, or not in this packet.
    port: Option<usize>,
}

/// Where everything is that may change.
struct Plan {
    source: Place,
    destination: Place,
    /// Where the transport checksum is, if it is here and in use.
    checksum: Option<(usize, Placement)>,
}

impl Plan {
    fn new(packet: &[u8], headers: &Headers, change: &Rewrite) -> Result<Self, RewriteError> {
        if headers.source_routed {
            return Err(RewriteError::SourceRouted);
        }
        if headers.authenticated {
            return Err(RewriteError::Authenticated);
        }
        let placement = checksum::placement(headers.version, headers.protocol)
            .ok_or(RewriteError::Protocol(headers.protocol))?;
        let has_ports = !matches!(headers.protocol, protocol::ICMP | protocol::ICMPV6);
        for (address, port) in [change.source, change.destination].into_iter().flatten() {
            if headers.version == IpVersion::V4 && !address.is_v4_mapped() {
                return Err(RewriteError::Family);
            }
            if port != 0 && !has_ports {
                return Err(RewriteError::Protocol(headers.protocol));
            }
        }

        let transport = usize::from(headers.transport);
        let has_transport = !headers.is_later_fragment();
        let ports_here = has_ports && has_transport;
        let ports_end = if ports_here { transport + 4 } else { transport };
        if packet.len() < ports_end {
            return Err(RewriteError::Mismatch);
        }
        let (source, destination) = match headers.version {
            IpVersion::V4 => (12, 16),
            IpVersion::V6 => (8, 24),
        };
        let at = transport + placement.offset;
        let checksum = word(packet, at)
            .filter(|_| has_transport)
            .filter(|checksum| !(placement.zero_is_none && *checksum == 0))
            .map(|_| (at, placement));
        Ok(Self {
            source: Place {
                address: source,
                port: ports_here.then_some(transport),
            },
            destination: Place {
                address: destination,
                port: ports_here.then_some(transport + 2),
            },
            checksum,
        })
    }

    fn apply(
        &self,
        packet: &mut [u8],
        version: IpVersion,
        place: Place,
        address: Address,
        port: u16,
    ) {
        let has_pseudo_header = self
            .checksum
            .as_ref()
            .is_some_and(|(_, placement)| placement.has_pseudo_header);
        match version {
            IpVersion::V4 => {
                let new = address.v4_bytes();
                self.replace(packet, place.address, new, has_pseudo_header, true);
            }
            IpVersion::V6 => {
                let new = address.bytes();
                self.replace(packet, place.address, new, has_pseudo_header, false);
            }
        }
        if let Some(offset) = place.port {
            self.replace(packet, offset, port.to_be_bytes(), true, false);
        }
    }

    /// Puts `new` at `offset` and updates the checksums that are over that place.
    fn replace<const N: usize>(
        &self,
        packet: &mut [u8],
        offset: usize,
        new: [u8; N],
        in_transport_checksum: bool,
        in_ipv4_checksum: bool,
    ) {
        let Some(old) = packet.get(offset..).and_then(|at| at.first_chunk::<N>()) else {
            return;
        };
        let old = *old;
        put(packet, offset, &new);
        if in_ipv4_checksum {
            update_at(packet, IPV4_CHECKSUM, false, &old, &new);
        }
        if let Some((at, placement)) = self.checksum.as_ref().filter(|_| in_transport_checksum) {
            update_at(packet, *at, placement.zero_is_none, &old, &new);
        }
    }
}

fn update_at(packet: &mut [u8], offset: usize, zero_is_none: bool, old: &[u8], new: &[u8]) {
    if let Some(checksum) = word(packet, offset) {
        let updated = checksum::update(checksum, old, new);
        let sent = if zero_is_none {
            checksum::udp_sent(updated)
        } else {
            updated
        };
        put(packet, offset, &sent.to_be_bytes());
    }
}

#[cfg(test)]
mod tests;
