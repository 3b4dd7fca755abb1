//! Fragments that come before their first one, and fragments that overlap.

use std::time::Duration;

use kext_types::{Direction, Reason, Verdict};

use crate::common::*;

/// The five fragments of a datagram, 24 bytes of data each but the last.
fn five(id: u16) -> [Vec<u8>; 5] {
    let whole = udp_of(HERE, THERE, &(0..100).collect::<Vec<u8>>());
    [0, 24, 48, 72, 96].map(|offset| fragment(&whole, id, offset, 24))
}

#[test]
fn early_fragments_follow_their_first_into_the_hold_in_order() {
    let bench = Bench::small();
    let [first, second, third, ..] = five(1);
    assert_eq!(bench.outbound(&third), End::Held(false));
    assert_eq!(bench.outbound(&second), End::Held(false));
    assert!(bench.early().is_empty());
    bench.assert_balanced(2);
    assert_eq!(bench.outbound(&first), End::Held(true));
    let early = bench.early();
    assert_eq!(early.len(), 2);
    assert!(early.iter().all(|(_, end)| *end == End::Held(false)));
    let out = bench.verdict(bench.request().id, always(Verdict::Accept));
    let bytes: Vec<_> = out.into_iter().map(|out| out.bytes.unwrap()).collect();
    assert_eq!(bytes, [first, third, second]);
    bench.assert_balanced(0);
}

#[test]
fn early_fragments_get_the_cached_verdict_of_their_first() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let [first, second, third, ..] = five(1);
    bench.outbound(&third);
    bench.outbound(&second);
    assert_eq!(bench.outbound(&first).reason(), Reason::PermittedCache);
    let early: Vec<_> = bench
        .early()
        .into_iter()
        .map(|(bytes, end)| (bytes, end.reason()))
        .collect();
    let permitted = Reason::PermittedCache;
    assert_eq!(early, [(third, permitted), (second, permitted)]);
    bench.assert_balanced(0);
}

#[test]
fn early_fragments_wait_for_a_second() {
    let bench = Bench::small();
    let [first, second, third, ..] = five(1);
    bench.outbound(&second);
    bench.sleep(Duration::from_millis(999));
    bench.outbound(&third);
    assert!(bench.tick().is_empty());
    bench.assert_balanced(2);
    bench.sleep(Duration::from_millis(1));
    assert!(bench.tick().is_empty());
    assert_eq!(bench.reason(Reason::DroppedFragmentOrphan), 1);
    bench.assert_balanced(1);
    bench.outbound(&first);
    assert_eq!(bench.early(), [(third, End::Held(false))]);
}

#[test]
fn a_first_fragment_is_remembered_for_a_minute() {
    let bench = Bench::small();
    let [first, second, third, ..] = five(1);
    bench.outbound(&first);
    let [_, other, ..] = five(2);
    bench.outbound(&other);
    bench.sleep(Duration::from_mins(1));
    assert!(bench.tick().len() == 1, "the first one's hold is over");
    assert_eq!(bench.outbound(&second), End::Held(true));
    bench.sleep(Duration::from_nanos(1));
    assert_eq!(bench.outbound(&third), End::Held(false));
    bench.sleep(Duration::from_secs(1));
    bench.tick();
    assert_eq!(bench.reason(Reason::DroppedFragmentOrphan), 2);
    bench.assert_balanced(1);
}

#[test]
fn early_fragments_are_bounded_and_the_oldest_goes() {
    let bench = Bench::small();
    for id in 0..10_000 {
        let [_, second, ..] = five(id);
        bench.outbound(&second);
    }
    let held = bench.engine.counters().totals().held;
    assert!((1..=128).contains(&held), "{held}");
    let [first, ..] = five(9_999);
    bench.outbound(&first);
    assert_eq!(bench.early().len(), 1, "the newest is there");
    assert_eq!(bench.reason(Reason::DroppedFragmentOrphan), 10_000 - held);
    bench.assert_balanced(held + 1);
}

#[test]
fn early_fragments_are_bounded_in_bytes() {
    let bench = Bench::small();
    let whole = udp_of(HERE, THERE, &vec![0; 60_000]);
    for id in 0..20 {
        bench.outbound(&fragment(&whole, id, 8, 59_992));
    }
    let held = bench.engine.counters().totals().held;
    assert!((1..=4).contains(&held), "{held}");
    bench.assert_balanced(held);
}

/// RFC 5722: nothing more of the packet goes on.
#[test]
fn an_overlapping_fragment_ends_its_packet() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let whole = udp_of(HERE, THERE, &(0..100).collect::<Vec<u8>>());
    let [first, second, third, ..] = five(1);
    assert_eq!(bench.outbound(&first).reason(), Reason::PermittedCache);
    let overlapping = fragment(&whole, 1, 16, 24);
    let blocked = Reason::BlockedFragment;
    assert_eq!(bench.outbound(&overlapping).reason(), blocked);
    assert_eq!(bench.outbound(&second).reason(), blocked);
    assert_eq!(bench.outbound(&third).reason(), blocked);
    let [other, ..] = five(2);
    assert_eq!(bench.outbound(&other).reason(), Reason::PermittedCache);
    assert_eq!(bench.reason(blocked), 3);
    bench.assert_balanced(0);
}

#[test]
fn a_duplicate_fragment_is_blocked_alone() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let [first, second, third, ..] = five(1);
    bench.outbound(&first);
    bench.outbound(&second);
    for duplicate in [&first, &second] {
        assert_eq!(bench.outbound(duplicate).reason(), Reason::BlockedFragment);
    }
    assert_eq!(bench.outbound(&third).reason(), Reason::PermittedCache);
}

#[test]
fn a_first_fragment_over_early_ones_ends_them_too() {
    let bench = Bench::small();
    let whole = udp_of(HERE, THERE, &[7; 100]);
    bench.outbound(&fragment(&whole, 1, 16, 24));
    let [first, ..] = five(1);
    assert_eq!(bench.outbound(&first).reason(), Reason::BlockedFragment);
    let early = bench.early();
    assert_eq!(early.len(), 1);
    assert_eq!(early[0].1.reason(), Reason::BlockedFragment);
    bench.assert_balanced(0);
}

/// Identifications come again, after 65,536 packets.
#[test]
fn a_whole_packet_makes_room_for_the_next_of_its_identification() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    for _ in 0..3 {
        for fragment in five(1) {
            assert_eq!(bench.outbound(&fragment).reason(), Reason::PermittedCache);
        }
    }
}

/// Or whoever guesses an identification could end the packet that has it a minute later.
#[test]
fn what_waited_in_vain_does_not_count_as_come() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let [first, second, ..] = five(1);
    assert_eq!(bench.outbound(&second), End::Held(false));
    bench.sleep(Duration::from_secs(1));
    bench.tick();
    assert_eq!(bench.reason(Reason::DroppedFragmentOrphan), 1);
    for fragment in [&first, &second] {
        assert_eq!(bench.outbound(fragment).reason(), Reason::PermittedCache);
    }
    bench.assert_balanced(0);
}

#[test]
fn early_fragments_go_behind_their_own_first_only() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let [one, other] = [five(1), five(2)];
    for fragments in [&one, &other] {
        assert_eq!(bench.outbound(&fragments[1]), End::Held(false));
    }
    // Both first ones have come, and neither has been let go: what waits for one must not go with the
    // other, before it.
    bench.outbound(&one[0]);
    bench.outbound(&other[0]);
    let gone = |early: Vec<(Vec<u8>, End)>| early.into_iter().map(|e| e.0).collect::<Vec<_>>();
    assert_eq!(gone(bench.early()), [other[1].clone()]);
    assert!(bench.engine.has_early());
    bench.outbound(&one[0]);
    assert_eq!(gone(bench.early()), [one[1].clone()]);
    assert!(!bench.engine.has_early());
    bench.assert_balanced(0);
}

#[test]
fn what_had_to_make_room_does_not_count_as_come() {
    let bench = Bench::small();
    bench.teach(&udp(HERE, THERE, 0), Direction::Outbound, Verdict::Accept);
    let [first, second, ..] = five(1);
    bench.outbound(&second);
    for id in 2..6 {
        let [_, other, ..] = five(id);
        bench.outbound(&other);
    }
    for fragment in [&first, &second] {
        assert_eq!(bench.outbound(fragment).reason(), Reason::PermittedCache);
    }
}
