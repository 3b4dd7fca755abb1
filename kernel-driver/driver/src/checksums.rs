//! Checksums that somebody else was to compute, made whole.

use kext_packet::Headers;
use kext_packet::checksum::{self, Sum};

/// Where an IPv4 header has its checksum.
const IPV4_CHECKSUM: usize = 10;

/// Computes the checksums of a packet that were left to the network card. What cannot have been left
/// to it, because its place or its extent is unknown, stays as it is.
pub(crate) fn complete(packet: &mut [u8]) {
    let len = packet.len();
    if let Ok(headers) = Headers::parse(packet, len)
        && checksum::fill(packet, &headers).is_none()
    {
        repair_ipv4_header(packet);
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
