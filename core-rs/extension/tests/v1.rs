//! The v1 requests: correct calls as documented, wrong ones refused with nothing touched.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use kext_extension::Classification;
use kext_types::{Event, Reason, Verdict};
use kext_wire::v1::{
    Connection, PayloadRequest, StatsRequest, VerdictInfo, VerdictUpdate, connections,
};
use kext_wire::{ControlCode, Status};

fn set_verdict(extension: &TestExtension, id: u32, verdict: i8) -> Status {
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo {
        id,
        number: verdict,
    }
    .encode(&mut input)
    .unwrap();
    ioctl_status(extension, ControlCode::SetVerdict, &input, 0).0
}

fn accept(extension: &TestExtension, id: u32) {
    assert_eq!(set_verdict(extension, id, 2), Status::SUCCESS);
}

fn get_payload(
    extension: &TestExtension,
    id: u32,
    len: u32,
    room: usize,
) -> Result<Vec<u8>, Status> {
    let mut input = [0; PayloadRequest::LEN];
    PayloadRequest { id, len }.encode(&mut input).unwrap();
    ioctl(extension, ControlCode::GetPayload, &input, room)
}

#[test]
fn version_is_major_one() {
    let answer = ioctl(&open(), ControlCode::Version, &[], 4).unwrap();
    assert_eq!(answer, [1, 2, 0, 0]);
}

#[test]
fn a_request_tells_the_packet_and_its_verdict_lets_it_go() {
    let extension = open();
    let packet = syn(LOCAL, REMOTE);
    let info = hold(&extension, &packet);
    assert_ne!(info.id, 0);
    assert_eq!(info.packet_size as usize, packet.len());
    assert_eq!((info.flow.local_port, info.flow.remote_port), (40_000, 443));
    assert!(extension.host().injected.lock().is_empty());

    assert_eq!(set_verdict(&extension, info.id, 2), Status::SUCCESS);
    let injected = extension.host().injected.lock().clone();
    assert_eq!(injected.len(), 1);
    assert_eq!(injected[0].0, packet);
    assert_eq!(
        outbound(&extension, &packet),
        Classification::Permit(Reason::PermittedCache)
    );
}

#[test]
fn a_read_without_a_request_waits_a_second_then_brings_nothing() {
    let extension = open();
    let mut buffer = [0; 72];
    let code = ControlCode::RecvVerdictReq.to_u32();
    let pended = extension.dispatch(code, &mut buffer, 0, 72, kext_extension::Attempt::Normal);
    let wait = Some(std::time::Duration::from_secs(1));
    let most = 1;
    assert_eq!(pended, kext_extension::Dispatch::Pend { wait, most });
    let (status, bytes) = ioctl_status(&extension, ControlCode::RecvVerdictReq, b"NA", 72);
    assert_eq!((status, bytes.len()), (Status::TIMEOUT, 0));
    assert!(status.is_success());
}

#[test]
fn each_verdict_number_does_what_it_says() {
    for (number, reason, injected) in [
        (2, Reason::PermittedVerdict, 1),
        (-2, Reason::PermittedVerdict, 1),
        (3, Reason::BlockedVerdict, 1), // the RST
        (-3, Reason::BlockedVerdict, 1),
        (4, Reason::DroppedVerdict, 0),
        (-4, Reason::DroppedVerdict, 0),
        (5, Reason::RedirectedVerdict, 1),
        (-5, Reason::RedirectedVerdict, 1),
        (6, Reason::RedirectedVerdict, 1),
        (-6, Reason::RedirectedVerdict, 1),
    ] {
        let extension = open();
        let info = hold(&extension, &syn(LOCAL, REMOTE));
        assert_eq!(set_verdict(&extension, info.id, number), Status::SUCCESS);
        assert_eq!(extension.engine().counters().reason(reason), 1, "{number}");
        assert_eq!(extension.host().injected.lock().len(), injected, "{number}");
        let again = outbound(&extension, &syn(LOCAL, REMOTE));
        let asks_again = again == Classification::Absorb(None);
        assert_eq!(asks_again, number < 0, "{number}");
    }
}

#[test]
fn verdicts_that_decide_nothing_say_so_and_touch_nothing() {
    let extension = open();
    let info = hold(&extension, &syn(LOCAL, REMOTE));
    assert_eq!(set_verdict(&extension, 0, 2), Status::SUCCESS);
    assert_eq!(set_verdict(&extension, info.id, 0), Status::SUCCESS);
    assert_eq!(
        set_verdict(&extension, info.id ^ 1, 2),
        Status::SOME_NOT_MAPPED
    );
    for number in (i8::MIN..=i8::MAX).filter(|n| !matches!(n.unsigned_abs(), 0 | 2..=6)) {
        assert_eq!(
            set_verdict(&extension, info.id, number),
            Status::INVALID_PARAMETER,
            "{number}"
        );
    }
    assert_eq!(extension.engine().counters().totals().held, 1);
    assert_eq!(set_verdict(&extension, info.id, -4), Status::SUCCESS);
    assert_eq!(
        set_verdict(&extension, info.id, 2),
        Status::ALREADY_COMPLETE
    );
    assert!(Status::ALREADY_COMPLETE.is_success() && Status::SOME_NOT_MAPPED.is_success());
    let counters = extension.engine().counters();
    assert_eq!(counters.event(Event::VerdictUnknownId), 1);
    assert_eq!(counters.event(Event::VerdictAlreadyDecided), 1);
    assert_eq!(counters.event(Event::VerdictInvalid), 245);
}

#[test]
fn payload_wants_the_exact_length_and_leaves_the_packet_held() {
    let extension = open();
    let packet = udp(LOCAL, REMOTE, &[7; 500]);
    let info = hold(&extension, &packet);
    let len = info.packet_size;
    let room = packet.len();
    assert_eq!(get_payload(&extension, info.id, len, room).unwrap(), packet);
    assert_eq!(
        get_payload(&extension, info.id, len, room + 9).unwrap(),
        packet
    );
    let refused = |id, len, room| get_payload(&extension, id, len, room).unwrap_err();
    assert_eq!(
        refused(info.id, len - 1, room),
        Status::INSUFFICIENT_RESOURCES
    );
    assert_eq!(
        refused(info.id, len + 1, room + 1),
        Status::INSUFFICIENT_RESOURCES
    );
    assert_eq!(refused(info.id, len, room - 1), Status::INVALID_PARAMETER);
    assert_eq!(refused(0, len, room), Status::OBJECT_NAME_NOT_FOUND);
    assert_eq!(
        refused(info.id ^ 1, len, room),
        Status::OBJECT_NAME_NOT_FOUND
    );
    assert_eq!(extension.engine().counters().totals().held, 1);
}

#[test]
fn payload_of_more_than_ten_kibibytes_is_refused() {
    let extension = open();
    for (payload, fits) in [(10_240 - 28, true), (10_241 - 28, false)] {
        let packet = udp(
            LOCAL,
            &format!("198.51.100.20:{payload}"),
            &vec![1; payload],
        );
        let info = hold(&extension, &packet);
        let answer = get_payload(&extension, info.id, info.packet_size, packet.len());
        if fits {
            assert_eq!(answer.unwrap(), packet);
        } else {
            assert_eq!(answer.unwrap_err(), Status::INSUFFICIENT_RESOURCES);
        }
    }
}

#[test]
fn clearing_the_cache_makes_flows_ask_again_and_keeps_held_packets() {
    let extension = open();
    let info = hold(&extension, &syn(LOCAL, REMOTE));
    accept(&extension, info.id);
    let other = hold(&extension, &syn(LOCAL, "198.51.100.20:80"));
    ioctl(&extension, ControlCode::ClearCache, &[], 0).unwrap();
    assert_eq!(
        outbound(&extension, &syn(LOCAL, REMOTE)),
        Classification::Absorb(None)
    );
    assert_eq!(set_verdict(&extension, other.id, 2), Status::SUCCESS);
}

#[test]
fn an_update_replaces_a_cached_verdict_only() {
    let extension = open();
    let info = hold(&extension, &syn(LOCAL, REMOTE));
    let mut input = [0; VerdictUpdate::LEN];
    let verdict = Verdict::Drop;
    let flow = info.flow;
    VerdictUpdate { flow, verdict }.encode(&mut input).unwrap();
    let update = || ioctl_status(&extension, ControlCode::UpdateVerdict, &input, 0).0;
    assert_eq!(update(), Status::SOME_NOT_MAPPED);
    accept(&extension, info.id);
    assert_eq!(update(), Status::SUCCESS);
    assert_eq!(
        outbound(&extension, &syn(LOCAL, REMOTE)),
        Classification::Discard(Reason::DroppedCache)
    );
    // Only a verdict for good can be cached.
    for number in [-2_i8, 0, 1, 7] {
        input[38] = number.cast_unsigned();
        let status = ioctl_status(&extension, ControlCode::UpdateVerdict, &input, 0).0;
        assert_eq!(status, Status::INVALID_PARAMETER);
    }
}

#[test]
fn statistics_are_since_the_last_call_and_room_is_checked() {
    let extension = open();
    for port in 1..=3 {
        let info = hold(
            &extension,
            &udp(LOCAL, &format!("198.51.100.20:{port}"), b"abc"),
        );
        accept(&extension, info.id);
    }
    let stats = |room: u32, output_len: usize| {
        let mut input = vec![0; 4];
        StatsRequest { room }.encode(&mut input).unwrap();
        let bytes = ioctl(
            &extension,
            ControlCode::GetConnectionsStats,
            &input,
            output_len,
        )?;
        Ok(connections(&bytes)
            .unwrap()
            .map(Result::unwrap)
            .collect::<Vec<Connection>>())
    };
    assert_eq!(stats(3, 3 * 64 - 1), Err(Status::BUFFER_TOO_SMALL));
    assert_eq!(stats(u32::MAX, 4_096), Err(Status::BUFFER_TOO_SMALL));
    let first = stats(2, 2 * 64).unwrap();
    let second = stats(2, 2 * 64).unwrap();
    assert_eq!((first.len(), second.len()), (2, 1));
    assert!(
        first
            .iter()
            .chain(&second)
            .all(|c| (c.transmitted, c.received) == (31, 0))
    );
    assert_eq!(stats(10, 640).unwrap(), []);
    inbound(&extension, &udp("198.51.100.20:2", LOCAL, b"answer"));
    let answer = stats(10, 640).unwrap();
    assert_eq!((answer[0].transmitted, answer[0].received), (0, 34));
}

#[test]
fn shutdown_settles_what_is_held_and_ends_reads() {
    let extension = open();
    let info = hold(&extension, &syn(LOCAL, REMOTE));
    let woken = extension.host().woken.load(Ordering::Relaxed);
    ioctl(&extension, ControlCode::ShutdownRequest, &[], 0).unwrap();
    assert!(extension.host().woken.load(Ordering::Relaxed) > woken);
    let counters = extension.engine().counters();
    assert_eq!(counters.reason(Reason::PermittedNoReader), 1);
    assert_eq!(counters.totals().held, 0);
    assert_eq!(
        set_verdict(&extension, info.id, 2),
        Status::ALREADY_COMPLETE
    );
    // As the original's queue that was run down: a success without bytes.
    let (status, bytes) = ioctl_status(&extension, ControlCode::RecvVerdictReq, b"NA", 72);
    assert_eq!((status, bytes.len()), (Status::ABANDONED, 0));
    assert!(status.is_success());
    assert_eq!(
        outbound(&extension, &syn(LOCAL, REMOTE)),
        Classification::Permit(Reason::PermittedNoReader)
    );
    // The handle is still the owner's.
    assert_eq!(extension.open(), Err(Status::DEVICE_BUSY));
    extension.close();
    extension.open().unwrap();
    hold(&extension, &syn(LOCAL, REMOTE));
}

#[test]
fn wrong_lengths_are_refused_and_touch_nothing() {
    // The code, the input lengths that are right, and the smallest output.
    type IsRight = fn(usize) -> bool;
    let rows: [(ControlCode, IsRight, usize); 8] = [
        (ControlCode::Version, |len| len == 0, 4),
        (ControlCode::ShutdownRequest, |len| len == 0, 0),
        (ControlCode::RecvVerdictReq, |len| len <= 4_096, 72),
        (ControlCode::SetVerdict, |len| len == 8, 0),
        (ControlCode::GetPayload, |len| len == 8, 0),
        (ControlCode::ClearCache, |len| len == 0, 0),
        (ControlCode::UpdateVerdict, |len| len == 40, 0),
        (ControlCode::GetConnectionsStats, |len| len >= 4, 0),
    ];
    for (code, is_right, output) in rows {
        let extension = open();
        outbound(&extension, &syn(LOCAL, REMOTE));
        let before = extension.engine().counters().totals();
        for len in (0..200).chain([4_096, 4_097, 5_000]) {
            let input = vec![0; len];
            if !is_right(len) {
                let refused = ioctl(&extension, code, &input, 4_096);
                assert_eq!(refused, Err(Status::INFO_LENGTH_MISMATCH), "{code:?} {len}");
            }
        }
        let input = vec![0; (0..100).find(|&len| is_right(len)).unwrap()];
        for room in 0..output {
            let refused = ioctl(&extension, code, &input, room);
            assert_eq!(refused, Err(Status::BUFFER_TOO_SMALL), "{code:?} {room}");
        }
        assert_eq!(extension.engine().counters().totals(), before, "{code:?}");
        assert_eq!(extension.engine().queued_requests(), 1, "{code:?}");
    }
}
