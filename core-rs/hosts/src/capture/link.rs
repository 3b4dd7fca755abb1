//! Where the IP packet of a captured frame begins.

use kext_types::Direction;

/// A link layer that IP packets are found behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum LinkType {
    /// BSD loopback: the address family in the byte order of the machine that captured.
    Null,
    /// Ethernet, with VLAN tags and `PPPoE`.
    Ethernet,
    /// OpenBSD loopback: the address family in network byte order.
    Loop,
    /// An IP packet of either version.
    #[default]
    Raw,
    /// An IPv4 packet.
    Ipv4,
    /// An IPv6 packet.
    Ipv6,
    /// Linux "cooked" capture, version 1.
    LinuxSll,
    /// Linux "cooked" capture, version 2.
    LinuxSll2,
}

impl LinkType {
    /// The link type with this LINKTYPE number, if it is supported. 12 and 14 are the numbers that
    /// some systems write for raw IP instead of 101.
    pub const fn from_number(number: u32) -> Option<Self> {
        Some(match number {
            0 => Self::Null,
            1 => Self::Ethernet,
            12 | 14 | 101 => Self::Raw,
            108 => Self::Loop,
            113 => Self::LinuxSll,
            228 => Self::Ipv4,
            229 => Self::Ipv6,
            276 => Self::LinuxSll2,
            _ => return None,
        })
    }

    /// The LINKTYPE number.
    pub const fn number(self) -> u32 {
        match self {
            Self::Null => 0,
            Self::Ethernet => 1,
            Self::Raw => 101,
            Self::Loop => 108,
            Self::LinuxSll => 113,
            Self::Ipv4 => 228,
            Self::Ipv6 => 229,
            Self::LinuxSll2 => 276,
        }
    }
}

/// What a captured frame carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkPacket {
    /// What the link layer says is an IP packet; at least one byte of it was captured.
    Ip {
        /// Where in the frame it begins.
        offset: usize,
        /// How many bytes there were from there on, on the wire: with padding and trailers of the
        /// link layer, and with what the snap length cut off.
        on_wire: u32,
        /// Which way it went, where the link layer knows.
        direction: Option<Direction>,
        /// The index of the interface it was captured on, where the link layer knows.
        interface: Option<u32>,
    },
    /// Something else.
    NotIp {
        /// The number by which the link layer names it: an `EtherType`, an address family, a PPP
        /// protocol, or (below 0x600, on Ethernet) the length of an IEEE 802.3 frame.
        protocol: u32,
    },
    /// Too little was captured to tell, or nothing behind the link layer.
    TooShort,
}

/// `EtherType` numbers (IANA "IEEE 802 Numbers").
mod ethertype {
    pub(super) const IPV4: u16 = 0x0800;
    pub(super) const IPV6: u16 = 0x86dd;
    pub(super) const VLAN: u16 = 0x8100;
    pub(super) const VLAN_SERVICE: u16 = 0x88a8;
    pub(super) const VLAN_OLD: u16 = 0x9100;
    pub(super) const PPPOE_SESSION: u16 = 0x8864;
    /// The smallest `EtherType`; less is the length of an IEEE 802.3 frame.
    pub(super) const FIRST: u16 = 0x0600;
}

/// VLAN tags that are walked; a frame with more is not IP.
const MAX_VLAN_TAGS: usize = 4;

/// Linux's packet type for what this machine sent.
const PACKET_OUTGOING: u16 = 4;

/// Finds the IP packet in a captured frame of `original_len` bytes on the wire. Total: any bytes
/// give an answer. Whether what is found is a whole and sound IP packet is not looked at.
pub fn network_layer(link_type: LinkType, data: &[u8], original_len: u32) -> LinkPacket {
    let found = match link_type {
        LinkType::Ethernet => ethernet(data),
        LinkType::Null | LinkType::Loop => loopback(data),
        LinkType::Raw | LinkType::Ipv4 | LinkType::Ipv6 => Some(Found::ip(0)),
        LinkType::LinuxSll => cooked(data),
        LinkType::LinuxSll2 => cooked2(data),
    };
    let Some(found) = found else {
        return LinkPacket::TooShort;
    };
    match found.payload {
        Payload::Other(protocol) => LinkPacket::NotIp { protocol },
        Payload::Ip(offset) if offset < data.len() => LinkPacket::Ip {
            offset,
            on_wire: original_len
                .max(u32::try_from(data.len()).unwrap_or(u32::MAX))
                .saturating_sub(u32::try_from(offset).unwrap_or(u32::MAX)),
            direction: found.direction,
            interface: found.interface,
        },
        Payload::Ip(_) => LinkPacket::TooShort,
    }
}

enum Payload {
    /// IP, from this offset on.
    Ip(usize),
    Other(u32),
}

struct Found {
    payload: Payload,
    direction: Option<Direction>,
    interface: Option<u32>,
}

impl Found {
    fn ip(offset: usize) -> Self {
        Self::of(Payload::Ip(offset))
    }

    fn of(payload: Payload) -> Self {
        Self {
            payload,
            direction: None,
            interface: None,
        }
    }
}

fn u16_at(data: &[u8], offset: usize) -> Option<u16> {
    let bytes = data.get(offset..)?.first_chunk()?;
    Some(u16::from_be_bytes(*bytes))
}

fn u32_at(data: &[u8], offset: usize) -> Option<u32> {
    let bytes = data.get(offset..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// Destination, source, `EtherType` or length.
fn ethernet(data: &[u8]) -> Option<Found> {
    let kind = u16_at(data, 12)?;
    if kind >= ethertype::FIRST {
        return behind_ethertype(data, kind, 14).map(Found::of);
    }
    // IEEE 802.3: LLC follows, and in it SNAP (RFC 1042) may name an EtherType.
    let other = Found::of(Payload::Other(kind.into()));
    let Some(snap) = data.get(14..20) else {
        return Some(other);
    };
    if snap == [0xaa, 0xaa, 0x03, 0, 0, 0] {
        let kind = u16_at(data, 20)?;
        return behind_ethertype(data, kind, 22).map(Found::of);
    }
    Some(other)
}

/// What an `EtherType` and the bytes from `offset` on stand for; `None` if too few were captured.
fn behind_ethertype(data: &[u8], mut kind: u16, mut offset: usize) -> Option<Payload> {
    // Bound: MAX_VLAN_TAGS.
    for _ in 0..MAX_VLAN_TAGS {
        match kind {
            ethertype::VLAN | ethertype::VLAN_SERVICE | ethertype::VLAN_OLD => {
                // Priority and VLAN id, then the EtherType of what is tagged.
                kind = u16_at(data, offset + 2)?;
                offset += 4;
            }
            _ => break,
        }
    }
    Some(match kind {
        ethertype::IPV4 | ethertype::IPV6 => Payload::Ip(offset),
        // RFC 2516 §4: version, type, code, session, length; then the PPP protocol.
        ethertype::PPPOE_SESSION => match u16_at(data, offset + 6)? {
            0x0021 | 0x0057 => Payload::Ip(offset + 8),
            other => Payload::Other(other.into()),
        },
        other => Payload::Other(other.into()),
    })
}

/// The address family in four bytes. No family is one in both byte orders, so both are accepted
/// for both types.
fn loopback(data: &[u8]) -> Option<Found> {
    const INET: u32 = 2;
    let family = u32_at(data, 0)?;
    let family = if family > 0xffff {
        family.swap_bytes()
    } else {
        family
    };
    Some(match family {
        // IPv6 is 10 on Linux, 23 on Windows, 24 on NetBSD and OpenBSD, 28 on FreeBSD, 30 on macOS.
        INET | 10 | 23 | 24 | 28 | 30 => Found::ip(4),
        other => Found::of(Payload::Other(other)),
    })
}

/// Packet type, hardware type, address length, address (8 bytes), protocol.
fn cooked(data: &[u8]) -> Option<Found> {
    let protocol = u16_at(data, 14)?;
    Some(Found {
        payload: behind_ethertype(data, protocol, 16)?,
        direction: cooked_direction(u16_at(data, 0)?),
        interface: None,
    })
}

/// Protocol, reserved, interface index, hardware type, packet type, address length, address.
fn cooked2(data: &[u8]) -> Option<Found> {
    const HEADER: usize = 20;
    let header = data.get(..HEADER)?;
    Some(Found {
        payload: behind_ethertype(data, u16_at(header, 0)?, HEADER)?,
        direction: cooked_direction(header.get(10).copied()?.into()),
        interface: Some(u32_at(header, 4)?),
    })
}

/// Linux's packet types: 0 to us, 1 broadcast, 2 multicast, 3 to another host, 4 from us.
fn cooked_direction(packet_type: u16) -> Option<Direction> {
    match packet_type {
        0..PACKET_OUTGOING => Some(Direction::Inbound),
        PACKET_OUTGOING => Some(Direction::Outbound),
        _ => None,
    }
}
