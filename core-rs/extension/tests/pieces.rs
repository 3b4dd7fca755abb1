//! Packets that the host has in pieces: the same comes of them as of the same packets in one piece, and
//! nobody asks for all of a packet whose headers decide it.

mod common;

use std::cell::Cell;

use common::*;
use kext_extension::{Classification, PacketBytes};
use kext_packet::testing;
use kext_types::{Direction, Event, Policy, Reason};
use kext_wire::v1::VerdictInfo;
use kext_wire::{ControlCode, Status};

/// A packet whose first bytes are at hand, and all of it on request, if it can be put together.
struct InTwo<'a> {
    bytes: &'a [u8],
    cut: usize,
    available: bool,
    asked: &'a Cell<u32>,
}

impl PacketBytes for InTwo<'_> {
    fn first(&self) -> &[u8] {
        &self.bytes[..self.cut]
    }

    fn all(&self) -> Option<&[u8]> {
        self.asked.set(self.asked.get() + 1);
        self.available.then_some(self.bytes)
    }

    fn has_more(&self) -> bool {
        self.cut < self.bytes.len()
    }
}

/// What a packet came to, and how often all of it was asked for.
fn present(
    extension: &TestExtension,
    bytes: &[u8],
    cut: usize,
    available: bool,
) -> (Classification, u32) {
    let asked = Cell::new(0);
    let packet = InTwo {
        bytes,
        cut,
        available,
        asked: &asked,
    };
    let lane = extension.lane(0);
    let arrival = arrival(Direction::Outbound);
    let classification = extension.classify(&lane, &packet, bytes.len(), &arrival);
    (classification, asked.get())
}

/// An extension that has given a flow of each kind this verdict, and has nothing to show for it.
fn decided(packets: &[Vec<u8>], number: i8) -> TestExtension {
    let extension = open();
    for packet in packets {
        let id = hold(&extension, packet).id;
        let mut input = [0; VerdictInfo::LEN];
        VerdictInfo { id, number }.encode(&mut input).unwrap();
        let (status, _) = ioctl_status(&extension, ControlCode::SetVerdict, &input, 0);
        assert_eq!(status, Status::SUCCESS);
    }
    extension.host().injected.lock().clear();
    extension
}

/// Of each protocol that is looked into, with both versions and with what an extension header adds.
fn packets() -> Vec<Vec<u8>> {
    let v6 = syn("[2001:db8::1]:3", "[2001:db8::2]:4");
    let mut extended = v6[..40].to_vec();
    extended[5] += 8;
    extended[6] = 60; // destination options
    extended.extend([6, 0, 1, 4, 0, 0, 0, 0]);
    extended.extend(&v6[40..]);
    extended[39] = 3;
    let mut buffer = [0; 100];
    let [from, to] = ["192.0.2.10", "198.51.100.20"].map(|it| it.parse().unwrap());
    let echo = testing::icmp(&mut buffer, from, to, (8, 0), [0, 1, 0, 2], b"echo").to_vec();
    vec![
        syn(LOCAL, REMOTE),
        udp(LOCAL, REMOTE, b"payload"),
        v6,
        udp("[2001:db8::1]:5", "[2001:db8::2]:6", b"payload"),
        extended,
        echo,
    ]
}

/// Both extensions have done the same, to the last byte and counter.
fn expect_same(whole: &TestExtension, split: &TestExtension, cut: usize) {
    let injected = |extension: &TestExtension| {
        let mut injected = extension.host().injected.lock();
        std::mem::take(&mut *injected)
    };
    assert_eq!(injected(whole), injected(split), "cut at {cut}");
    let [whole, split] = [whole, split].map(|it| it.engine().counters().totals());
    assert_eq!(whole, split, "cut at {cut}");
}

#[test]
fn every_cut_comes_to_the_same_under_every_verdict() {
    for number in 2..=6 {
        let packets = packets();
        let [whole, split] = [decided(&packets, number), decided(&packets, number)];
        for packet in &packets {
            for cut in 0..packet.len() {
                let expected = outbound(&whole, packet);
                let (found, _) = present(&split, packet, cut, true);
                assert_eq!(found, expected, "cut at {cut}, verdict {number}");
                expect_same(&whole, &split, cut);
            }
        }
    }
}

#[test]
fn every_cut_is_held_whole() {
    let packets = packets();
    for packet in &packets {
        for cut in 0..packet.len() {
            let [whole, split] = [open(), open()];
            outbound(&whole, packet);
            let (held, _) = present(&split, packet, cut, true);
            assert_eq!(held, Classification::Absorb(None));
            let [expected, found] = [&whole, &split].map(|extension| {
                let len = 1_000;
                ioctl(extension, ControlCode::RecvVerdictReq, b"NA", len).unwrap()
            });
            assert_eq!(found, expected, "cut at {cut}");
            expect_same(&whole, &split, cut);
        }
    }
}

#[test]
fn fragments_and_errors_come_to_the_same() {
    let mut buffer = [0; 200];
    let quoted = udp(LOCAL, REMOTE, b"payload");
    let [from, to] = ["192.0.2.10", "198.51.100.20"].map(|it| it.parse().unwrap());
    let error = testing::icmp(&mut buffer, from, to, (3, 3), [0; 4], &quoted).to_vec();
    let mut first = udp(LOCAL, REMOTE, &[0; 24]);
    first[6] = 0x20;
    testing::fix_ipv4_header(&mut first);
    let mut later = first.clone();
    later[6..8].copy_from_slice(&[0, 4]);
    testing::fix_ipv4_header(&mut later);
    for cut in 0..28 {
        let [whole, split] = [open(), open()];
        for packet in [&later, &first, &error, &later] {
            let expected = outbound(&whole, packet);
            assert_eq!(present(&split, packet, cut, true).0, expected, "at {cut}");
        }
        expect_same(&whole, &split, cut);
    }
}

#[test]
fn what_headers_decide_is_not_put_together() {
    let tcp = syn(LOCAL, REMOTE);
    for (number, expected) in [
        (2, Classification::Permit(Reason::PermittedCache)),
        (4, Classification::Discard(Reason::DroppedCache)),
    ] {
        let extension = decided(std::slice::from_ref(&tcp), number);
        let mut longer = tcp.clone();
        longer.extend([0; 100]);
        longer[3] += 100;
        testing::fix_ipv4_header(&mut longer);
        assert_eq!(present(&extension, &longer, 40, false), (expected, 0));
        // Where the flags of the segment are not there, they are looked for: they end connections.
        assert!(present(&extension, &longer, 30, true).1 > 0);
    }
    // Nor is one that nobody is told of.
    let extension = decided(std::slice::from_ref(&tcp), 3);
    let config = kext_types::Config {
        replies_per_second: 0,
        ..kext_types::Config::default()
    };
    extension.engine().set_config(config).unwrap();
    let mut longer = tcp;
    longer.extend([0; 100]);
    longer[3] += 100;
    testing::fix_ipv4_header(&mut longer);
    let blocked = Classification::Discard(Reason::BlockedCache);
    assert_eq!(present(&extension, &longer, 40, false), (blocked, 0));
}

#[test]
fn what_cannot_be_put_together_goes_by_policy() {
    let extension = open();
    let datagram = udp(LOCAL, REMOTE, b"payload");
    let permitted = Classification::Permit(Reason::PermittedUnparsable);
    for cut in [0, 10, 28] {
        assert_eq!(present(&extension, &datagram, cut, false).0, permitted);
    }
    let config = kext_types::Config {
        unparsable: Policy::Block,
        ..kext_types::Config::default()
    };
    extension.engine().set_config(config).unwrap();
    let blocked = Classification::Discard(Reason::BlockedUnparsable);
    assert_eq!(present(&extension, &datagram, 28, false).0, blocked);
    let counters = extension.engine().counters();
    assert!(counters.totals().balanced());
    assert_eq!(counters.totals().held, 0);
    // Of a cached flow it is blocked all the same; only the answer fails.
    let extension = decided(std::slice::from_ref(&datagram), 3);
    let blocked = Classification::Discard(Reason::BlockedCache);
    assert_eq!(present(&extension, &datagram, 28, false).0, blocked);
    assert_eq!(extension.engine().counters().event(Event::ReplyFailed), 1);
}
