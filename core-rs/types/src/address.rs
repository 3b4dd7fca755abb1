//! IP addresses of both families in one 16-byte form.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The version field of an IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum IpVersion {
    /// IPv4, RFC 791.
    V4 = 4,
    /// IPv6, RFC 8200.
    V6 = 6,
}

impl IpVersion {
    /// 4 or 6, as in the header.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The version with this number, if it is 4 or 6.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            4 => Some(Self::V4),
            6 => Some(Self::V6),
            _ => None,
        }
    }
}

/// An IPv4 or IPv6 address as 16 bytes in network order, IPv4 mapped (`::ffff:a.b.c.d`, RFC 4291
/// §2.5.5.2).
///
/// A mapped address may also stand in a real IPv6 header, so the family is always told by an
/// [`IpVersion`] beside the address, never by its bytes.
///
/// Kept as the two numbers that the bytes are, since every packet's addresses are compared and
/// hashed: both then stay in registers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Address {
    high: u64,
    low: u64,
}

impl Address {
    /// The all-zero IPv6 address, `::`.
    pub const UNSPECIFIED: Self = Self { high: 0, low: 0 };

    const MAPPED_PREFIX: u64 = 0xffff;

    /// An IPv4 address in its mapped form.
    #[inline]
    pub const fn v4(bytes: [u8; 4]) -> Self {
        Self {
            high: 0,
            low: Self::MAPPED_PREFIX << 32 | u32::from_be_bytes(bytes) as u64,
        }
    }

    /// An IPv6 address.
    #[inline]
    pub const fn v6(bytes: [u8; 16]) -> Self {
        let whole = u128::from_be_bytes(bytes);
        Self {
            high: (whole >> 64) as u64,
            low: whole as u64,
        }
    }

    /// The 16 bytes in network order, as one number: the first byte is the highest.
    #[inline]
    pub const fn to_bits(self) -> u128 {
        (self.high as u128) << 64 | self.low as u128
    }

    /// The 16 bytes in network order.
    #[inline]
    pub const fn bytes(&self) -> [u8; 16] {
        self.to_bits().to_be_bytes()
    }

    /// The last four bytes: the IPv4 address where this is one.
    #[inline]
    pub const fn v4_bytes(&self) -> [u8; 4] {
        (self.low as u32).to_be_bytes()
    }

    /// Whether the bytes have the form of a mapped IPv4 address.
    pub fn is_v4_mapped(&self) -> bool {
        self.high == 0 && self.low >> 32 == Self::MAPPED_PREFIX
    }

    /// The standard library's address of this family.
    pub fn to_ip(self, version: IpVersion) -> IpAddr {
        match version {
            IpVersion::V4 => IpAddr::V4(Ipv4Addr::from(self.v4_bytes())),
            IpVersion::V6 => IpAddr::V6(Ipv6Addr::from_bits(self.to_bits())),
        }
    }

    /// 224.0.0.0/4 or `ff00::/8`.
    pub fn is_multicast(&self, version: IpVersion) -> bool {
        self.to_ip(version).is_multicast()
    }

    /// The limited broadcast address 255.255.255.255 (RFC 919 §7). A subnet's own broadcast
    /// address cannot be told without its mask.
    pub fn is_broadcast(&self, version: IpVersion) -> bool {
        version == IpVersion::V4 && self.v4_bytes() == [255; 4]
    }

    /// 0.0.0.0 or `::`.
    pub fn is_unspecified(&self, version: IpVersion) -> bool {
        self.to_ip(version).is_unspecified()
    }
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(v4) => Self::v4(v4.octets()),
            IpAddr::V6(v6) => Self::v6(v6.octets()),
        }
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_v4_mapped() {
            fmt::Display::fmt(&Ipv4Addr::from(self.v4_bytes()), f)
        } else {
            fmt::Display::fmt(&Ipv6Addr::from_bits(self.to_bits()), f)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v4_is_mapped_and_comes_back() {
        let address = Address::v4([192, 0, 2, 1]);
        assert!(address.is_v4_mapped());
        assert_eq!(
            address.to_ip(IpVersion::V4),
            IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1))
        );
        assert_eq!(Address::from(address.to_ip(IpVersion::V4)), address);
    }

    #[test]
    fn family_decides_what_a_mapped_address_is() {
        let address = Address::v4([224, 0, 0, 1]);
        assert!(address.is_multicast(IpVersion::V4));
        assert!(!address.is_multicast(IpVersion::V6));
    }

    #[test]
    fn broadcast_is_v4_only() {
        assert!(Address::v4([255; 4]).is_broadcast(IpVersion::V4));
        assert!(!Address::v6([255; 16]).is_broadcast(IpVersion::V6));
    }
}
