//! The internet checksum: computed (RFC 1071), updated (RFC 1624), and where packets have it.

use kext_types::{Address, IpVersion, protocol};

use crate::Headers;
use crate::bytes::{put, word};

/// Offset of the header checksum in an IPv4 header.
pub(crate) const IPV4_CHECKSUM: usize = 10;

/// A ones' complement sum of 16-bit words in network order, RFC 1071 §1.
///
/// Holds the sum of any packet: 2³² words can be added before it might overflow.
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct Sum(u64);

impl Sum {
    /// The empty sum.
    pub const fn new() -> Self {
        Self(0)
    }

    /// Adds bytes that start at an even offset of what is summed up. An odd last byte counts as if
    /// a zero followed.
    pub fn add_bytes(self, bytes: &[u8]) -> Self {
        // Bound: the length of a packet. Words of 32 bits sum up to the same (RFC 1071 §2 (C)).
        let (words, rest) = bytes.as_chunks::<4>();
        let sum = words.iter().fold(self.0, |sum, word| {
            sum.wrapping_add(u32::from_be_bytes(*word).into())
        });
        let mut last = [0; 4];
        let rest = put(&mut last, 0, rest).map_or(0, |()| u32::from_be_bytes(last));
        Self(sum.wrapping_add(rest.into()))
    }

    /// Adds one 16-bit word.
    pub const fn add_word(self, word: u16) -> Self {
        Self(self.0.wrapping_add(word as u64))
    }

    /// Adds an address as it stands in a header: 4 or 16 bytes.
    pub fn add_address(self, version: IpVersion, address: Address) -> Self {
        match version {
            IpVersion::V4 => self.add_bytes(&address.v4_bytes()),
            IpVersion::V6 => self.add_bytes(&address.bytes()),
        }
    }

    /// The sum of a pseudo-header (RFC 9293 §3.1, RFC 8200 §8.1): `len` is that of the transport
    /// header and data in bytes.
    pub fn pseudo_header(
        version: IpVersion,
        source: Address,
        destination: Address,
        number: u8,
        len: u32,
    ) -> Self {
        Self::new()
            .add_address(version, source)
            .add_address(version, destination)
            .add_word(number.into())
            .add_bytes(&len.to_be_bytes())
    }

    /// The sum in 16 bits, carries added in: 0xFFFF for what includes its own right checksum.
    pub const fn folded(self) -> u16 {
        const fn fold(sum: u64) -> u64 {
            (sum >> 16) + (sum & 0xffff)
        }
        // Below 2⁶⁴ → 2⁴⁸ + 2¹⁶ → 2³² + 2¹⁷ → 2¹⁷ → 2¹⁶ + 1 → 2¹⁶.
        fold(fold(fold(fold(fold(self.0))))) as u16
    }

    /// The checksum of what was added.
    pub const fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The checksum of what had `checksum`, after bytes at an even offset in it became others, as many
/// (RFC 1624 eqn. 3).
///
/// Gives what a full computation would, never the other of the two zeros: the one case in which
/// the equation cannot tell them apart, nothing changed, is left alone.
pub(crate) fn update(checksum: u16, old: &[u8], new: &[u8]) -> u16 {
    if old == new {
        return checksum;
    }
    let without_old = Sum::new()
        .add_word(!checksum)
        .add_word(!Sum::new().add_bytes(old).folded());
    without_old.add_bytes(new).checksum()
}

/// A computed UDP checksum as it is sent: 0xFFFF for 0, because 0 says "none" (RFC 768).
pub const fn udp_sent(checksum: u16) -> u16 {
    if checksum == 0 { 0xffff } else { checksum }
}

/// Where a transport header has its checksum, and what that is over.
pub(crate) struct Placement {
    /// Offset from the start of the transport header.
    pub(crate) offset: usize,
    /// Whether addresses count, and not only the transport header and data.
    pub(crate) has_pseudo_header: bool,
    /// Whether zero says "none", so that a computed zero is sent as 0xFFFF.
    pub(crate) zero_is_none: bool,
}

/// `None` for protocols whose checksum is another one or unknown.
pub(crate) const fn placement(version: IpVersion, number: u8) -> Option<Placement> {
    let (offset, has_pseudo_header, zero_is_none) = match (version, number) {
        (_, protocol::TCP) => (16, true, false),
        // RFC 3828 §3.1 has UDP's rule for a computed zero.
        (_, protocol::UDP | protocol::UDP_LITE) => (6, true, true),
        (_, protocol::DCCP) => (6, true, false),
        (IpVersion::V4, protocol::ICMP) => (2, false, false),
        (IpVersion::V6, protocol::ICMPV6) => (2, true, false),
        _ => return None,
    };
    Some(Placement {
        offset,
        has_pseudo_header,
        zero_is_none,
    })
}

/// The transport header and data of a whole packet whose checksum is over all of them.
fn covered<'a>(packet: &'a [u8], headers: &Headers) -> Option<(Placement, &'a [u8])> {
    let is_partly_covered = matches!(headers.protocol, protocol::UDP_LITE | protocol::DCCP);
    if headers.fragment.is_some() || headers.source_routed || is_partly_covered {
        return None;
    }
    let placement = placement(headers.version, headers.protocol)?;
    let start = usize::from(headers.transport);
    let segment = packet.get(start..headers.total_len as usize)?;
    let segment = match headers.protocol {
        // What follows the UDP length is not UDP's (RFC 9868 §5).
        protocol::UDP => segment.get(..usize::from(word(segment, 4)?))?,
        _ => segment,
    };
    // The checksum must be within what it is over.
    word(segment, placement.offset)?;
    Some((placement, segment))
}

/// The sum of the first bytes of a segment of `len` bytes and of what else its checksum is over.
fn sum(headers: &Headers, placement: &Placement, first: &[u8], len: usize) -> Sum {
    let start = if placement.has_pseudo_header {
        Sum::pseudo_header(
            headers.version,
            headers.source,
            headers.destination,
            headers.protocol,
            len as u32,
        )
    } else {
        Sum::new()
    };
    start.add_bytes(first)
}

/// Whether the transport checksum of `packet`, which `headers` were parsed from, is right. A UDP
/// checksum of zero is.
///
/// `None` if it cannot be told: a fragment, a packet cut short or on a source route, a protocol
/// other than TCP, UDP, ICMP and ICMPv6.
pub fn is_right(packet: &[u8], headers: &Headers) -> Option<bool> {
    let (placement, segment) = covered(packet, headers)?;
    if placement.zero_is_none && word(segment, placement.offset) == Some(0) {
        return Some(true);
    }
    Some(sum(headers, &placement, segment, segment.len()).folded() == 0xffff)
}

/// Computes the IPv4 header checksum and the transport checksum of `packet` anew: for packets
/// whose checksum was left to the network card.
///
/// `None`, and nothing changed, where [`is_right`] cannot tell.
pub fn fill(packet: &mut [u8], headers: &Headers) -> Option<()> {
    let (placement, segment) = covered(packet, headers)?;
    // The sum with a zero in the checksum's place; both halves start at even offsets.
    let (before, rest) = segment.split_at_checked(placement.offset)?;
    let computed = sum(headers, &placement, before, segment.len())
        .add_bytes(rest.get(2..)?)
        .checksum();
    let sent = if placement.zero_is_none {
        udp_sent(computed)
    } else {
        computed
    };
    if headers.version == IpVersion::V4 {
        fill_ipv4_header(packet)?;
    }
    let offset = usize::from(headers.transport) + placement.offset;
    put(packet, offset, &sent.to_be_bytes())
}

/// Computes the header checksum of an IPv4 packet.
pub(crate) fn fill_ipv4_header(packet: &mut [u8]) -> Option<()> {
    let header_len = usize::from(packet.first()? & 0x0f) * 4;
    put(packet, IPV4_CHECKSUM, &[0, 0])?;
    let checksum = Sum::new().add_bytes(packet.get(..header_len)?).checksum();
    put(packet, IPV4_CHECKSUM, &checksum.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_rfc_1071() {
        // §3: the words 0001 f203 f4f5 f6f7 sum up to ddf2.
        let bytes = [0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7];
        assert_eq!(Sum::new().add_bytes(&bytes).folded(), 0xddf2);
        assert_eq!(Sum::new().add_bytes(&bytes).checksum(), !0xddf2);
    }

    #[test]
    fn an_odd_byte_is_the_high_half_of_a_word() {
        assert_eq!(Sum::new().add_bytes(&[1, 2, 3]).folded(), 0x0402);
        assert_eq!(Sum::new().add_bytes(&[1, 2, 3, 4, 5]).folded(), 0x0906);
    }

    #[test]
    fn the_largest_sum_folds() {
        assert_eq!(Sum(u64::MAX).folded(), 0xffff);
        assert_eq!(Sum(0).folded(), 0);
    }

    #[test]
    fn the_example_of_rfc_1624() {
        // §4: a header with checksum dd2f whose word 5555 becomes 3285 has checksum 0000, where
        // the equation of RFC 1141 gives ffff.
        assert_eq!(update(0xdd2f, &[0x55, 0x55], &[0x32, 0x85]), 0x0000);
    }

    #[test]
    fn an_unchanged_word_leaves_either_zero_alone() {
        assert_eq!(update(0xffff, &[0x12, 0x34], &[0x12, 0x34]), 0xffff);
        assert_eq!(update(0x0000, &[0x12, 0x34], &[0x12, 0x34]), 0x0000);
    }

    #[test]
    fn udp_sends_no_zero() {
        assert_eq!(udp_sent(0), 0xffff);
        assert_eq!(udp_sent(0xffff), 0xffff);
        assert_eq!(udp_sent(1), 1);
    }

    #[test]
    fn an_all_zero_message_has_checksum_ffff() {
        // An ICMP echo reply, identifier and sequence number 0, without data.
        let mut buffer = [0; 64];
        let ip = "127.0.0.1".parse().unwrap();
        let packet = crate::testing::icmp(&mut buffer, ip, ip, (0, 0), [0; 4], &[]);
        let headers = crate::testing::parse(packet);
        packet[22..24].copy_from_slice(&[0x12, 0x34]);
        assert_eq!(is_right(packet, &headers), Some(false));
        assert_eq!(fill(packet, &headers), Some(()));
        assert_eq!(packet[22..24], [0xff, 0xff]);
        assert_eq!(is_right(packet, &headers), Some(true));
    }

    #[test]
    fn what_follows_the_udp_length_does_not_count() {
        let mut buffer = [0; 64];
        let end = "10.0.0.1:9".parse().unwrap();
        let packet = crate::testing::udp(&mut buffer, end, end, &[1, 2, 3]);
        packet[25] -= 2;
        let headers = crate::testing::parse(packet);
        fill(packet, &headers).unwrap();
        let checksum = [packet[26], packet[27]];
        packet[30] ^= 1;
        assert_eq!(is_right(packet, &headers), Some(true));
        packet[28] ^= 1;
        assert_eq!(is_right(packet, &headers), Some(false));
        fill(packet, &headers).unwrap();
        assert_ne!([packet[26], packet[27]], checksum);
    }

    #[test]
    fn of_a_fragment_it_cannot_be_told() {
        let mut buffer = [0; 64];
        let end = "10.0.0.1:9".parse().unwrap();
        let packet = crate::testing::udp(&mut buffer, end, end, &[1; 8]);
        packet[6] = 0x20;
        let headers = crate::testing::parse(packet);
        assert_eq!(is_right(packet, &headers), None);
        let before = buffer;
        assert_eq!(fill(&mut buffer[..36], &headers), None);
        assert_eq!(buffer, before);
    }
}
