//! Fragments that come before their first one, through the extension.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use kext_extension::Classification;
use kext_packet::testing::fix_ipv4_header;
use kext_types::Reason;
use kext_wire::ControlCode;
use kext_wire::v1::VerdictInfo;

/// The three fragments of a datagram.
fn fragments() -> [Vec<u8>; 3] {
    let whole = udp(LOCAL, REMOTE, &(0..64).collect::<Vec<u8>>());
    [(0, 24), (24, 48), (48, 72)].map(|(from, to)| {
        let mut out = [&whole[..20], &whole[20 + from..20 + to]].concat();
        let field = (from as u16 / 8) | if to < 72 { 0x2000 } else { 0 };
        out[2..4].copy_from_slice(&44_u16.to_be_bytes());
        out[4..6].copy_from_slice(&77_u16.to_be_bytes());
        out[6..8].copy_from_slice(&field.to_be_bytes());
        fix_ipv4_header(&mut out);
        out
    })
}

fn decide(extension: &TestExtension, id: u32, number: i8) {
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number }.encode(&mut input).unwrap();
    ioctl(extension, ControlCode::SetVerdict, &input, 0).unwrap();
}

fn sent(extension: &TestExtension) -> Vec<Vec<u8>> {
    let mut injected = extension.host().injected.lock();
    injected.drain(..).map(|(bytes, _)| bytes).collect()
}

#[test]
fn early_fragments_leave_behind_their_first_one() {
    let extension = open();
    let [first, second, third] = fragments();
    // Its flow waits for its verdict.
    let absorbed = Classification::Absorb(None);
    for fragment in [&third, &first, &second] {
        assert_eq!(outbound(&extension, fragment), absorbed);
    }
    let request = receive_v1(&extension);
    decide(&extension, request.id, 2);
    assert_eq!(sent(&extension), [&first, &third, &second].map(Vec::clone));
    // Its flow is known: the first one leaves by injection too, or it would be overtaken.
    assert_eq!(outbound(&extension, &third), absorbed);
    let leading = outbound(&extension, &first);
    let reason = Reason::PermittedCache;
    assert_eq!(leading, Classification::Absorb(Some(reason)));
    assert_eq!(sent(&extension), [first, third]);
    let permitted = Classification::Permit(reason);
    assert_eq!(outbound(&extension, &second), permitted);
    assert!(extension.engine().counters().totals().balanced());
}

#[test]
fn without_a_buffer_the_first_one_goes_and_the_early_ones_are_counted() {
    let extension = open();
    let [first, second, third] = fragments();
    outbound(&extension, &first);
    decide(&extension, receive_v1(&extension).id, 2);
    for fragment in [&second, &third] {
        outbound(&extension, fragment);
    }
    sent(&extension);
    outbound(&extension, &third);
    extension.host().refusals.store(2, Ordering::Relaxed);
    let permitted = Classification::Permit(Reason::PermittedCache);
    assert_eq!(outbound(&extension, &first), permitted);
    let counters = extension.engine().counters();
    assert_eq!(counters.reason(Reason::DroppedNoBuffer), 1);
    assert!(counters.totals().balanced());
    assert_eq!(counters.totals().held, 0);
}
