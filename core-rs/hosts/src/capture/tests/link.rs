//! Link layers.

use kext_types::Direction;
use proptest::prelude::*;

use crate::capture::{LinkPacket, LinkType, link_type_name, network_layer};

fn ip(offset: usize, on_wire: u32) -> LinkPacket {
    LinkPacket::Ip {
        offset,
        on_wire,
        direction: None,
        interface: None,
    }
}

fn ethernet(behind_addresses: &[u8]) -> LinkPacket {
    let frame = [&[0xee; 12], behind_addresses].concat();
    network_layer(LinkType::Ethernet, &frame, 1_000)
}

const fn other(protocol: u32) -> LinkPacket {
    LinkPacket::NotIp { protocol }
}

#[test]
fn ethernet_names_what_it_carries() {
    assert_eq!(ethernet(&[0x08, 0x00, 0x45]), ip(14, 986));
    assert_eq!(ethernet(&[0x86, 0xdd, 0x60]), ip(14, 986));
    assert_eq!(ethernet(&[0x08, 0x06, 0x00]), other(0x0806));
    assert_eq!(ethernet(&[0x08, 0x00]), LinkPacket::TooShort);
    assert_eq!(ethernet(&[0x08]), LinkPacket::TooShort);
}

#[test]
fn up_to_four_vlan_tags_of_any_kind() {
    let tags = [
        [0x81, 0, 0, 1],
        [0x88, 0xa8, 0, 2],
        [0x91, 0, 0, 3],
        [0x81, 0, 0, 4],
    ];
    for count in 1..=4 {
        let frame = [&tags[..count].concat()[..], &[0x86, 0xdd, 0x60]].concat();
        assert_eq!(ethernet(&frame), ip(14 + 4 * count, 986 - 4 * count as u32));
        assert_eq!(ethernet(&frame[..frame.len() - 2]), LinkPacket::TooShort);
    }
    let five = [&tags.concat()[..], &[0x81, 0, 0, 5, 0x08, 0x00, 0x45]].concat();
    assert_eq!(ethernet(&five), other(0x8100));
}

#[test]
fn ieee_802_3_is_not_ip_unless_snap_says_so() {
    assert_eq!(
        ethernet(&[0x00, 0x26, 0x42, 0x42, 0x03, 0, 0, 0]),
        other(0x26)
    );
    assert_eq!(ethernet(&[0x00, 0x03, 0x42]), other(3));
    let snap = [0x00, 0x40, 0xaa, 0xaa, 0x03, 0, 0, 0, 0x08, 0x00, 0x45];
    assert_eq!(ethernet(&snap), ip(22, 978));
    assert_eq!(ethernet(&snap[..9]), LinkPacket::TooShort);
}

#[test]
fn pppoe_sessions_are_walked() {
    let session = |protocol: [u8; 2]| {
        let frame = [&[0x88, 0x64, 0x11, 0, 0, 1, 0, 9][..], &protocol, &[0x45]].concat();
        ethernet(&frame)
    };
    assert_eq!(session([0x00, 0x21]), ip(22, 978));
    assert_eq!(session([0x00, 0x57]), ip(22, 978));
    assert_eq!(session([0xc0, 0x21]), other(0xc021));
}

#[test]
fn cooked_frames_know_direction_and_interface() {
    let expect = [
        (0, Some(Direction::Inbound)),
        (1, Some(Direction::Inbound)),
        (2, Some(Direction::Inbound)),
        (3, Some(Direction::Inbound)),
        (4, Some(Direction::Outbound)),
        (5, None),
        (255, None),
    ];
    for (packet_type, direction) in expect {
        let mut frame = vec![0; 17];
        frame[1] = packet_type;
        frame[14..16].copy_from_slice(&[0x08, 0x00]);
        assert_eq!(
            network_layer(LinkType::LinuxSll, &frame, 17),
            LinkPacket::Ip {
                offset: 16,
                on_wire: 1,
                direction,
                interface: None
            }
        );
        let mut frame = vec![0; 24];
        frame[..2].copy_from_slice(&[0x86, 0xdd]);
        frame[4..8].copy_from_slice(&[0, 0, 1, 7]);
        frame[10] = packet_type;
        assert_eq!(
            network_layer(LinkType::LinuxSll2, &frame, 100),
            LinkPacket::Ip {
                offset: 20,
                on_wire: 80,
                direction,
                interface: Some(263)
            }
        );
    }
    let arp = [0, 4, 0, 1, 0, 6, 0, 0, 0, 0, 0, 0, 0, 0, 8, 6, 0];
    assert_eq!(network_layer(LinkType::LinuxSll, &arp, 17), other(0x0806));
    assert_eq!(
        network_layer(LinkType::LinuxSll, &arp[..15], 17),
        LinkPacket::TooShort
    );
    assert_eq!(
        network_layer(LinkType::LinuxSll2, &[0; 19], 17),
        LinkPacket::TooShort
    );
}

#[test]
fn loopback_families_in_either_byte_order() {
    for link_type in [LinkType::Null, LinkType::Loop] {
        for family in [2, 10, 23, 24, 28, 30] {
            assert_eq!(
                network_layer(link_type, &[family, 0, 0, 0, 0x45], 5),
                ip(4, 1)
            );
            assert_eq!(
                network_layer(link_type, &[0, 0, 0, family, 0x45], 5),
                ip(4, 1)
            );
        }
        assert_eq!(network_layer(link_type, &[7, 0, 0, 0, 0x45], 5), other(7));
        assert_eq!(
            network_layer(link_type, &[2, 0, 0], 5),
            LinkPacket::TooShort
        );
        assert_eq!(
            network_layer(link_type, &[2, 0, 0, 0], 5),
            LinkPacket::TooShort
        );
    }
}

#[test]
fn raw_packets_begin_at_once() {
    for link_type in [LinkType::Raw, LinkType::Ipv4, LinkType::Ipv6] {
        assert_eq!(network_layer(link_type, &[0x45], 40), ip(0, 40));
        // An original length below what was captured is not believed.
        assert_eq!(network_layer(link_type, &[0x45, 0], 1), ip(0, 2));
        assert_eq!(network_layer(link_type, &[], 0), LinkPacket::TooShort);
    }
}

#[test]
fn numbers_of_supported_types_come_back_and_have_names() {
    for number in 0..=400 {
        if let Some(link_type) = LinkType::from_number(number) {
            assert_eq!(LinkType::from_number(link_type.number()), Some(link_type));
            assert!(link_type_name(number).is_some(), "{number}");
        }
    }
    assert_eq!(LinkType::from_number(12), Some(LinkType::Raw));
    assert_eq!(LinkType::from_number(105), None);
}

proptest! {
    #[test]
    fn any_frame_has_an_answer_within_it(
        number in prop::sample::select(vec![0_u32, 1, 12, 101, 108, 113, 228, 229, 276]),
        data in prop::collection::vec(any::<u8>(), 0..64),
        original_len in any::<u32>(),
    ) {
        let link_type = LinkType::from_number(number).unwrap();
        if let LinkPacket::Ip { offset, on_wire, .. } = network_layer(link_type, &data, original_len) {
            prop_assert!(offset < data.len());
            prop_assert!(on_wire as usize >= data.len() - offset);
        }
    }
}
