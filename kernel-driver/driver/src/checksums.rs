//! Checksums that somebody else was to compute, made whole.

use kext_nt::net_buffer::Vouched;
use kext_packet::Headers;
use kext_packet::checksum::{self, Sum};
use kext_types::protocol;

/// Where an IPv4 header has its checksum.
const IPV4_CHECKSUM: usize = 10;

/// Computes the checksums of a packet that were left to the network card. What cannot have been left
/// to it, because its place or its extent is unknown, stays as it is.
fn complete(packet: &mut [u8]) {
    let len = packet.len();
    if let Ok(headers) = Headers::parse(packet, len)
        && checksum::fill(packet, &headers).is_none()
    {
        repair_ipv4_header(packet);
    }
}

/// Whose checksums of a packet are to be computed, before it is sent or received anew.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Missing {
    /// All that stand in it are right, or are to be found wrong by the receiver.
    None,
    /// They were left to the network card.
    Left,
    /// The network card vouches for these, and the copy does not say so.
    Vouched(Vouched),
}

impl Missing {
    /// Of packets that were received.
    pub(crate) fn vouched(vouched: Vouched) -> Self {
        if vouched == Vouched::default() {
            Self::None
        } else {
            Self::Vouched(vouched)
        }
    }

    /// Whether a checksum of a whole packet is missing; not where the receiver has to look itself.
    pub(crate) fn is_of(self, packet: &[u8]) -> bool {
        match self {
            Self::None => false,
            Self::Left => true,
            Self::Vouched(vouched) => Headers::parse(packet, packet.len()).is_ok_and(|headers| {
                let is_vouched = match headers.protocol {
                    protocol::TCP => vouched.tcp,
                    protocol::UDP => vouched.udp,
                    _ => false,
                };
                is_vouched && checksum::is_right(packet, &headers) == Some(false)
            }),
        }
    }

    /// Computes them.
    pub(crate) fn complete(self, packet: &mut [u8]) {
        if self.is_of(packet) {
            complete(packet);
        }
    }
}

/// Computes the checksum of an IPv4 header anew, if it is wrong: after reassembly it may be.
pub(crate) fn repair_ipv4_header(packet: &mut [u8]) -> Option<()> {
    let first = *packet.first()?;
    if first >> 4 != 4 {
        return None;
    }
    let header = packet.get_mut(..usize::from(first & 0x0f) * 4)?;
    if Sum::new().add_bytes(header).folded() == 0xffff {
        return Some(());
    }
    header.get_mut(IPV4_CHECKSUM..IPV4_CHECKSUM + 2)?.fill(0);
    let right = Sum::new().add_bytes(header).checksum();
    header
        .get_mut(IPV4_CHECKSUM..IPV4_CHECKSUM + 2)?
        .copy_from_slice(&right.to_be_bytes());
    Some(())
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use kext_packet::testing;
    use std::vec::Vec;

    fn udp() -> Vec<u8> {
        let mut buffer = [0; 100];
        let end = |text: &str| text.parse().unwrap();
        let (source, destination) = (end("192.0.2.1:1000"), end("198.51.100.2:53"));
        testing::udp(&mut buffer, source, destination, b"question").to_vec()
    }

    #[test]
    fn what_was_left_to_the_card_is_computed() {
        let right = udp();
        let mut left = right.clone();
        left[10..12].fill(0);
        left[26..28].copy_from_slice(&[0x12, 0x34]);
        complete(&mut left);
        assert_eq!(left, right);
    }

    /// Nobody vouches for the others: what is wrong there was damaged on its way.
    #[test]
    fn what_the_card_vouches_for_is_computed_and_nothing_else() {
        let right = udp();
        let mut wrong = right.clone();
        wrong[26] ^= 0x55;
        let vouched = |tcp, udp| Missing::vouched(Vouched { tcp, udp });
        for (missing, is_missing) in [
            (vouched(false, true), true),
            (vouched(true, true), true),
            (vouched(true, false), false),
            (vouched(false, false), false),
        ] {
            assert_eq!(missing.is_of(&wrong), is_missing);
            assert!(!missing.is_of(&right));
            let mut packet = wrong.clone();
            missing.complete(&mut packet);
            assert_eq!(packet == right, is_missing);
        }
        // A fragment has no checksum of its own, and none is computed for a datagram without one.
        let mut none = right.clone();
        none[26..28].fill(0);
        assert!(!vouched(true, true).is_of(&none));
        wrong[6] = 0x20;
        assert!(!vouched(true, true).is_of(&wrong));
    }

    #[test]
    fn a_header_is_repaired_only_if_it_is_wrong() {
        let right = udp();
        let mut packet = right.clone();
        repair_ipv4_header(&mut packet).unwrap();
        assert_eq!(packet, right);
        packet[11] ^= 1;
        repair_ipv4_header(&mut packet).unwrap();
        assert_eq!(packet, right);
    }

    #[test]
    fn a_fragment_keeps_its_transport_checksum() {
        let mut packet = udp();
        packet[6] = 0x20;
        let transport = packet[20..].to_vec();
        complete(&mut packet);
        assert_eq!(packet[20..], transport);
        assert_eq!(Sum::new().add_bytes(&packet[..20]).folded(), 0xffff);
    }

    #[test]
    fn what_is_no_packet_is_left_alone() {
        for bytes in [&[][..], &[0x4f, 1, 2], &[0x60; 40], &[0x41; 20]] {
            let mut packet = bytes.to_vec();
            complete(&mut packet);
            repair_ipv4_header(&mut packet);
            assert_eq!(packet.len(), bytes.len());
        }
    }
}
