//! The extended requests: batches, outcomes, and messages that must be refused.

mod common;

use std::sync::atomic::Ordering;

use common::*;
use kext_extension::Classification;
use kext_packet::Headers;
use kext_types::{
    Config, Decision, Direction, Event, FlowOrigin, MAX_PACKET_LEN, PacketId, Policy, ProcessId,
    Reason, Special, Verdict, VerdictOutcome,
};
use kext_wire::config::{self, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{CountersRequest, CountersResponse};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse};
use kext_wire::hello::{Features, HelloRequest, HelloResponse, HostKind};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::process_path::{ProcessPathRequest, ProcessPathResponse};
use kext_wire::receive::{PayloadMode, ReceiveRequest, ReceiveResponse, ReceivedRequest};
use kext_wire::verdicts::{Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry};
use kext_wire::{BufferTooSmall, ControlCode, Status};

const ROOM: usize = 1 << 17;

fn message(encode: impl Fn(&mut [u8]) -> Result<usize, BufferTooSmall>) -> Vec<u8> {
    let mut bytes = vec![0; ROOM];
    let len = encode(&mut bytes).unwrap();
    bytes.truncate(len);
    bytes
}

fn receive_request(max_requests: u32, payload: PayloadMode) -> Vec<u8> {
    let request = ReceiveRequest {
        max_requests,
        payload,
        wait_ms: Some(0),
    };
    message(|out| request.encode(out))
}

fn receive(
    extension: &TestExtension,
    max: u32,
    payload: PayloadMode,
    room: usize,
) -> Result<Vec<(ReceivedRequest, Vec<u8>)>, Status> {
    let input = receive_request(max, payload);
    let bytes = ioctl(extension, ControlCode::Receive, &input, room)?;
    let response = ReceiveResponse::decode(&bytes).unwrap();
    Ok(response
        .iter()
        .map(|(request, payload)| (request, payload.to_vec()))
        .collect())
}

fn set_verdicts(extension: &TestExtension, entries: &[VerdictEntry]) -> Vec<Outcome> {
    let input = message(|out| SetVerdictsRequest::encode(entries, out));
    let bytes = ioctl(extension, ControlCode::SetVerdicts, &input, ROOM).unwrap();
    SetVerdictsResponse::decode(&bytes)
        .unwrap()
        .iter()
        .collect()
}

fn accept(id: PacketId) -> VerdictEntry {
    VerdictEntry::new(
        id,
        Decision {
            verdict: Verdict::Accept,
            permanent: true,
        },
    )
}

fn datagram(port: u16, len: usize) -> Vec<u8> {
    udp(
        LOCAL,
        &format!("198.51.100.20:{port}"),
        &vec![port as u8; len],
    )
}

#[test]
fn hello_tells_versions_features_and_capacities() {
    let extension = open();
    let hello = |lowest, highest, wanted| {
        let request = HelloRequest {
            lowest,
            highest,
            wanted,
        };
        let input = message(|out| request.encode(out));
        ioctl(&extension, ControlCode::Hello, &input, ROOM)
    };
    let answer = HelloResponse::decode(&hello(1, 9, Features::ALL).unwrap()).unwrap();
    assert_eq!(answer.version, 1);
    assert_eq!(answer.capacities, *extension.engine().capacities());
    assert_eq!(answer.host, HostKind::Replay);
    let version = answer.extension.map(|n| n.to_string()).join(".");
    assert_eq!(version, env!("CARGO_PKG_VERSION"));
    assert_eq!(hello(2, 9, Features::NONE), Err(Status::REVISION_MISMATCH));
    assert_eq!(hello(1, 1, Features(1 << 60)), Err(Status::NOT_SUPPORTED));
}

#[test]
fn a_batch_brings_requests_in_order_with_the_payload_asked_for() {
    let extension = open();
    let packets: Vec<_> = (1..=5)
        .map(|port| datagram(port, 100 * port as usize))
        .collect();
    for packet in &packets {
        outbound(&extension, packet);
    }
    let none = receive(&extension, 1, PayloadMode::None, ROOM).unwrap();
    assert_eq!(none.len(), 1);
    assert!(none[0].1.is_empty());
    let first = receive(&extension, 2, PayloadMode::First(40), ROOM).unwrap();
    assert_eq!(first.len(), 2);
    assert_eq!(first[1].1, packets[2][..40]);
    let whole = receive(&extension, 4_096, PayloadMode::Whole, ROOM).unwrap();
    assert_eq!(whole.len(), 2);
    assert_eq!(whole[1].1, packets[4]);
    assert_eq!(whole[1].0.size as usize, packets[4].len());
    assert_eq!(whole[1].0.interface.index, 7);
    assert_eq!(
        receive(&extension, 1, PayloadMode::Whole, ROOM).unwrap(),
        []
    );
}

#[test]
fn a_request_that_does_not_fit_stays_queued() {
    let extension = open();
    let large = udp(LOCAL, REMOTE, &vec![9; 60_000]);
    outbound(&extension, &datagram(1, 10));
    outbound(&extension, &large);
    let room = ReceiveResponse::MIN_OUTPUT + 200;
    let fits = receive(&extension, 10, PayloadMode::Whole, room).unwrap();
    assert_eq!(fits.len(), 1);
    let refused = receive(&extension, 10, PayloadMode::Whole, room);
    assert_eq!(refused, Err(Status::BUFFER_TOO_SMALL));
    let whole = receive(&extension, 10, PayloadMode::Whole, ROOM).unwrap();
    assert_eq!(whole[0].1, large);
}

#[test]
fn each_verdict_of_a_batch_has_its_own_outcome() {
    let extension = open();
    for port in 1..=3 {
        outbound(&extension, &datagram(port, 10));
    }
    let ids: Vec<_> = receive(&extension, 3, PayloadMode::None, ROOM)
        .unwrap()
        .iter()
        .map(|(request, _)| request.id)
        .collect();
    let never_given = PacketId::new(ids[2].get() + (1 << 40)).unwrap();
    let outcomes = set_verdicts(
        &extension,
        &[
            accept(ids[0]),
            accept(ids[0]),
            VerdictEntry {
                number: 99,
                ..accept(ids[1])
            },
            VerdictEntry {
                id: 0,
                ..accept(ids[1])
            },
            accept(never_given),
            accept(ids[2]),
        ],
    );
    let first = Decision::from_number(2);
    assert_eq!(
        outcomes,
        [
            Outcome::from(VerdictOutcome::Applied),
            Outcome {
                outcome: VerdictOutcome::AlreadyDecided,
                first
            },
            VerdictOutcome::InvalidVerdict.into(),
            VerdictOutcome::UnknownId.into(),
            VerdictOutcome::UnknownId.into(),
            VerdictOutcome::Applied.into(),
        ]
    );
    let counters = extension.engine().counters();
    assert_eq!(counters.event(Event::VerdictApplied), 2);
    assert_eq!(counters.reason(Reason::PermittedVerdict), 2);
    assert_eq!(counters.totals().held, 1);
}

#[test]
fn the_largest_packet_is_held_read_and_released_whole() {
    let extension = open();
    let mut packet = udp("[2001:db8:1::10]:1", "[2001:db8:2::20]:2", &vec![5; 65_000]);
    let len = MAX_PACKET_LEN;
    packet.resize(len, 6);
    packet[4..6].copy_from_slice(&u16::MAX.to_be_bytes());
    outbound(&extension, &packet);
    let requests = receive(&extension, 1, PayloadMode::None, ROOM).unwrap();
    let request = ReadPayloadRequest {
        id: requests[0].0.id.get(),
        max: None,
    };
    let input = message(|out| request.encode(out));
    let bytes = ioctl(&extension, ControlCode::ReadPayload, &input, ROOM).unwrap();
    assert_eq!(ReadPayloadResponse::decode(&bytes).unwrap().bytes, packet);
    let short = ioctl(&extension, ControlCode::ReadPayload, &input, len);
    assert_eq!(short, Err(Status::BUFFER_TOO_SMALL));
    set_verdicts(&extension, &[accept(requests[0].0.id)]);
    assert_eq!(extension.host().injected.lock()[0].0, packet);
}

#[test]
fn payload_of_a_packet_that_has_gone_says_what_became_of_it() {
    let extension = open();
    outbound(&extension, &datagram(1, 10));
    let id = receive(&extension, 1, PayloadMode::None, ROOM).unwrap()[0]
        .0
        .id;
    set_verdicts(&extension, &[accept(id)]);
    let read = |id| {
        let request = ReadPayloadRequest { id, max: Some(8) };
        let input = message(|out| request.encode(out));
        let bytes = ioctl(&extension, ControlCode::ReadPayload, &input, ROOM).unwrap();
        ReadPayloadResponse::decode(&bytes).unwrap().outcome
    };
    let gone = read(id.get());
    assert_eq!(gone.outcome, VerdictOutcome::AlreadyDecided);
    assert_eq!(gone.first.map(Decision::number), Some(2));
    assert_eq!(read(0).outcome, VerdictOutcome::UnknownId);
    assert_eq!(read(u64::MAX).outcome, VerdictOutcome::UnknownId);
}

#[test]
fn counters_balance_by_what_the_message_says() {
    let extension = open();
    for port in 1..=4 {
        outbound(&extension, &datagram(port, 10));
    }
    outbound(&extension, b"nonsense");
    let ids = receive(&extension, 2, PayloadMode::None, ROOM).unwrap();
    set_verdicts(&extension, &[accept(ids[0].0.id)]);
    extension.host().refused.store(3, Ordering::Relaxed);
    let input = message(|out| CountersRequest.encode(out));
    let bytes = ioctl(&extension, ControlCode::Counters, &input, ROOM).unwrap();
    let response = CountersResponse::decode(&bytes).unwrap();
    assert_eq!(response.len(), Reason::ALL.len() + Event::ALL.len());
    let value = |event: Event| {
        let found = response.iter().find(|c| c.event() == Some(event));
        found.unwrap().value
    };
    let ended: u64 = response
        .iter()
        .filter(|counter| counter.disposition.is_some())
        .map(|counter| counter.value)
        .sum();
    assert_eq!(value(Event::Seen), 5);
    assert_eq!(value(Event::Held), 3);
    assert_eq!(value(Event::InjectionsRefused), 3);
    assert_eq!(value(Event::Seen), ended + value(Event::Held));
}

#[test]
fn configuration_is_read_changed_and_checked() {
    let extension = open();
    let get = || {
        let input = message(|out| GetConfigRequest.encode(out));
        let bytes = ioctl(&extension, ControlCode::GetConfig, &input, ROOM).unwrap();
        config::decode(ConfigMessage::GetResponse, &bytes).unwrap()
    };
    let set = |config: &Config, room| {
        let input = message(|out| config::encode(ConfigMessage::SetRequest, config, out));
        ioctl(&extension, ControlCode::SetConfig, &input, room)
    };
    assert_eq!(get(), Config::default());
    let changed = Config {
        no_reader: Policy::Block,
        multicast: Special::Ask,
        hold_limit_ms: 5_000,
        ..Config::default()
    };
    assert_eq!(
        set(&changed, config::CONFIG_LEN - 1),
        Err(Status::BUFFER_TOO_SMALL)
    );
    assert_eq!(get(), Config::default());
    let answer = set(&changed, ROOM).unwrap();
    assert_eq!(
        config::decode(ConfigMessage::SetResponse, &answer),
        Ok(changed)
    );
    assert_eq!(get(), changed);
    let bad = Config {
        loop_limit: 0,
        ..changed
    };
    assert_eq!(set(&bad, ROOM), Err(Status::INVALID_PARAMETER));
    assert_eq!(get(), changed);
    // What was asked about multicast is now held.
    let multicast = udp(LOCAL, "224.0.0.251:5353", b"x");
    assert_eq!(
        outbound(&extension, &multicast),
        Classification::Absorb(None)
    );
}

#[test]
fn flows_are_listed_once_over_several_calls() {
    let extension = open();
    for port in 1..=40 {
        outbound(&extension, &datagram(port, 10));
        let id = receive(&extension, 1, PayloadMode::None, ROOM).unwrap()[0]
            .0
            .id;
        set_verdicts(&extension, &[accept(id)]);
    }
    let mut cursor = 0;
    let mut ports = Vec::new();
    for _ in 0..100 {
        let input = message(|out| ListFlowsRequest { cursor, max: 7 }.encode(out));
        let bytes = ioctl(&extension, ControlCode::ListFlows, &input, ROOM).unwrap();
        let response = ListFlowsResponse::decode(&bytes).unwrap();
        assert!(response.len() <= 7);
        for flow in response.iter() {
            assert_eq!(
                (flow.verdict, flow.origin),
                (Verdict::Accept, FlowOrigin::Verdict)
            );
            assert_eq!((flow.outbound.packets, flow.inbound.packets), (1, 0));
            ports.push(flow.flow.remote_port);
        }
        cursor = response.cursor();
        if cursor == 0 {
            break;
        }
    }
    assert_eq!(cursor, 0);
    ports.sort_unstable();
    assert_eq!(ports, (1..=40).collect::<Vec<_>>());
    // A cursor that nobody gave ends the listing.
    let input = message(|out| {
        ListFlowsRequest {
            cursor: u64::MAX,
            max: 7,
        }
        .encode(out)
    });
    let bytes = ioctl(&extension, ControlCode::ListFlows, &input, ROOM).unwrap();
    assert_eq!(ListFlowsResponse::decode(&bytes).unwrap().cursor(), 0);
}

#[test]
fn every_wrong_length_is_refused_and_touches_nothing() {
    let verdict = [accept(PacketId::new(1).unwrap())];
    let hello = HelloRequest {
        lowest: 1,
        highest: 1,
        wanted: Features::NONE,
    };
    let rows = [
        (
            ControlCode::Hello,
            message(|out| hello.encode(out)),
            HelloResponse::LEN,
        ),
        (
            ControlCode::Receive,
            receive_request(1, PayloadMode::None),
            ReceiveResponse::MIN_OUTPUT,
        ),
        (
            ControlCode::SetVerdicts,
            message(|out| SetVerdictsRequest::encode(&verdict, out)),
            SetVerdictsResponse::len_for(1),
        ),
        (
            ControlCode::ReadPayload,
            message(|out| ReadPayloadRequest { id: 1, max: None }.encode(out)),
            ReadPayloadResponse::FIXED_LEN,
        ),
        (
            ControlCode::Counters,
            message(|out| CountersRequest.encode(out)),
            CountersResponse::len_for(Reason::ALL.len() + Event::ALL.len()),
        ),
        (
            ControlCode::GetConfig,
            message(|out| GetConfigRequest.encode(out)),
            config::CONFIG_LEN,
        ),
        (
            ControlCode::SetConfig,
            message(|out| config::encode(ConfigMessage::SetRequest, &Config::ask_all(), out)),
            config::CONFIG_LEN,
        ),
        (
            ControlCode::ListFlows,
            message(|out| ListFlowsRequest { cursor: 0, max: 1 }.encode(out)),
            ListFlowsResponse::len_for(1),
        ),
        (
            ControlCode::ProcessPath,
            message(|out| ProcessPathRequest { process_id: 7 }.encode(out)),
            ProcessPathResponse::FIXED_LEN + PATH.len(),
        ),
    ];
    for (code, input, output) in rows {
        let extension = open();
        extension.set_process_path(ProcessId::new(7).unwrap(), PATH);
        outbound(&extension, &syn(LOCAL, REMOTE));
        let before = extension.engine().counters().totals();
        for len in (0..200).filter(|&len| len != input.len()) {
            let mut wrong = input.clone();
            wrong.resize(len, 0);
            let refused = ioctl(&extension, code, &wrong, 4_096);
            assert_eq!(refused, Err(Status::INFO_LENGTH_MISMATCH), "{code:?} {len}");
        }
        for room in 0..output {
            let refused = ioctl(&extension, code, &input, room);
            assert_eq!(refused, Err(Status::BUFFER_TOO_SMALL), "{code:?} {room}");
        }
        let mut stranger = input.clone();
        stranger[4] = 2;
        let refused = ioctl(&extension, code, &stranger, 4_096);
        assert_eq!(refused, Err(Status::REVISION_MISMATCH), "{code:?}");
        assert_eq!(extension.engine().counters().totals(), before, "{code:?}");
        assert_eq!(extension.engine().queued_requests(), 1, "{code:?}");
        assert_eq!(extension.engine().config(), Config::default(), "{code:?}");
    }
}

/// A path that a test tells: UTF-16, little endian.
const PATH: &[u8] = b"\\\0d\0\\\0a\0";

fn path_of(extension: &TestExtension, process_id: u64) -> Result<(Vec<u8>, bool), Status> {
    let input = message(|out| ProcessPathRequest { process_id }.encode(out));
    let bytes = ioctl(extension, ControlCode::ProcessPath, &input, ROOM)?;
    let path = ProcessPathResponse::decode(&bytes).unwrap().path;
    Ok((path.utf16.to_vec(), path.is_cut))
}

#[test]
fn the_path_of_a_process_is_what_was_told_or_nothing() {
    let extension = open();
    for unknown in [0, 1, 7, u64::MAX] {
        let refused = path_of(&extension, unknown).unwrap_err();
        assert_eq!(refused, Status::OBJECT_NAME_NOT_FOUND);
    }
    extension.set_process_path(ProcessId::new(7).unwrap(), PATH);
    assert_eq!(path_of(&extension, 7), Ok((PATH.to_vec(), false)));
    extension.set_process_path(ProcessId::new(8).unwrap(), &[1; 521]);
    assert_eq!(path_of(&extension, 8), Ok((vec![1; 520], false)));
    extension.set_process_path(ProcessId::new(8).unwrap(), &[1; 522]);
    assert_eq!(path_of(&extension, 8), Ok((vec![1; 520], true)));
}

#[test]
fn payload_is_listed_with_the_flow() {
    let extension = open();
    let packet = datagram(9, 10);
    let flow = Headers::parse(&packet, packet.len())
        .unwrap()
        .flow_key(Direction::Outbound);
    extension.add_payload(&flow, Direction::Outbound, 10);
    outbound(&extension, &packet);
    let id = receive(&extension, 1, PayloadMode::None, ROOM).unwrap()[0]
        .0
        .id;
    set_verdicts(&extension, &[accept(id)]);
    extension.add_payload(&flow, Direction::Inbound, 3);
    let input = message(|out| ListFlowsRequest { cursor: 0, max: 7 }.encode(out));
    let bytes = ioctl(&extension, ControlCode::ListFlows, &input, ROOM).unwrap();
    let listed = ListFlowsResponse::decode(&bytes)
        .unwrap()
        .iter()
        .next()
        .unwrap();
    assert_eq!((listed.payload_outbound, listed.payload_inbound), (10, 3));
}

#[test]
fn unknown_codes_are_refused_whatever_they_bring() {
    let extension = open();
    for code in [0, 0x9C40_E020, 0x9C40_E068, 0x9C40_E001, u32::MAX] {
        let mut buffer = [0; 64];
        let answer = extension.dispatch(code, &mut buffer, 8, 64, kext_extension::Attempt::Normal);
        assert_eq!(
            answer,
            kext_extension::Dispatch::Complete {
                status: Status::INVALID_DEVICE_REQUEST,
                information: 0
            }
        );
    }
}

proptest::proptest! {
    #[test]
    fn any_bytes_for_any_code_end_in_an_answer(
        code in 0..ControlCode::ALL.len(),
        input in proptest::collection::vec(proptest::num::u8::ANY, 0..128),
        fix_header in proptest::bool::ANY,
        room in 0..512_usize,
    ) {
        let code = ControlCode::ALL[code];
        let mut input = input;
        if fix_header && input.len() >= 16 {
            let header = message(|out| CountersRequest.encode(out));
            input[..16].copy_from_slice(&header);
            input[6..8].copy_from_slice(&code.function().to_le_bytes());
            let len = input.len() as u32;
            input[8..12].copy_from_slice(&len.to_le_bytes());
        }
        let extension = open();
        outbound(&extension, &syn(LOCAL, REMOTE));
        let _ = ioctl(&extension, code, &input, room);
        proptest::prop_assert!(extension.engine().counters().totals().balanced());
    }
}
