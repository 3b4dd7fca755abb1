//! What decoders refuse: every golden message cut, extended, or with one value wrong.

use std::fs;
use std::path::Path;

use kext_wire::config::{self, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsResponse};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse};
use kext_wire::hello::{HelloRequest, HelloResponse};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::process_path::{ProcessPathRequest, ProcessPathResponse};
use kext_wire::receive::{ReceiveRequest, ReceiveResponse};
use kext_wire::verdicts::{SetVerdictsRequest, SetVerdictsResponse};
use kext_wire::{DecodeError, Status, v1};

type Decoder = fn(&[u8]) -> Result<(), DecodeError>;

/// The decoder of each golden file.
const DECODERS: &[(&str, Decoder)] = &[
    ("v1/version_answer", |b| {
        v1::VersionAnswer::decode(b).map(drop)
    }),
    ("v1/packet_info_v4", |b| v1::PacketInfo::decode(b).map(drop)),
    ("v1/packet_info_v6", |b| v1::PacketInfo::decode(b).map(drop)),
    ("v1/verdict_info", |b| v1::VerdictInfo::decode(b).map(drop)),
    ("v1/payload_request", |b| {
        v1::PayloadRequest::decode(b).map(drop)
    }),
    ("v1/verdict_update_v4", |b| {
        v1::VerdictUpdate::decode(b).map(drop)
    }),
    ("v1/verdict_update_v6", |b| {
        v1::VerdictUpdate::decode(b).map(drop)
    }),
    ("ext/hello_request", |b| HelloRequest::decode(b).map(drop)),
    ("ext/hello_response", |b| HelloResponse::decode(b).map(drop)),
    ("ext/receive_request", |b| {
        ReceiveRequest::decode(b).map(drop)
    }),
    ("ext/receive_response", |b| {
        ReceiveResponse::decode(b).map(drop)
    }),
    ("ext/receive_response_empty", |b| {
        ReceiveResponse::decode(b).map(drop)
    }),
    ("ext/set_verdicts_request", |b| {
        SetVerdictsRequest::decode(b).map(drop)
    }),
    ("ext/set_verdicts_response", |b| {
        SetVerdictsResponse::decode(b).map(drop)
    }),
    ("ext/read_payload_request", |b| {
        ReadPayloadRequest::decode(b).map(drop)
    }),
    ("ext/read_payload_response", |b| {
        ReadPayloadResponse::decode(b).map(drop)
    }),
    ("ext/read_payload_response_expired", |b| {
        ReadPayloadResponse::decode(b).map(drop)
    }),
    ("ext/counters_request", |b| {
        CountersRequest::decode(b).map(drop)
    }),
    ("ext/counters_response", |b| {
        CountersResponse::decode(b).map(drop)
    }),
    ("ext/get_config_request", |b| {
        GetConfigRequest::decode(b).map(drop)
    }),
    ("ext/get_config_response", |b| {
        config::decode(ConfigMessage::GetResponse, b).map(drop)
    }),
    ("ext/set_config_request", |b| {
        config::decode(ConfigMessage::SetRequest, b).map(drop)
    }),
    ("ext/set_config_response", |b| {
        config::decode(ConfigMessage::SetResponse, b).map(drop)
    }),
    ("ext/list_flows_request", |b| {
        ListFlowsRequest::decode(b).map(drop)
    }),
    ("ext/list_flows_response", |b| {
        ListFlowsResponse::decode(b).map(drop)
    }),
    ("ext/events_request", |b| EventsRequest::decode(b).map(drop)),
    ("ext/events_response", |b| {
        EventsResponse::decode(b).map(drop)
    }),
    ("ext/process_path_request", |b| {
        ProcessPathRequest::decode(b).map(drop)
    }),
    ("ext/process_path_response", |b| {
        ProcessPathResponse::decode(b).map(drop)
    }),
];

fn golden(name: &str) -> Vec<u8> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors");
    fs::read(folder.join(name).with_extension("bin")).unwrap()
}

/// Makes an extended message's length field say what its length is.
fn with_length(mut bytes: Vec<u8>) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap();
    if let Some(field) = bytes.get_mut(8..12) {
        field.copy_from_slice(&length.to_le_bytes());
    }
    bytes
}

fn assert_wrong_length(name: &str, decode: Decoder, bytes: &[u8]) {
    let error = decode(bytes).expect_err(name);
    let status = error.status();
    assert_eq!(status, Status::INFO_LENGTH_MISMATCH, "{name}: {error}");
}

#[test]
fn a_message_that_was_cut_or_extended_is_refused() {
    for (name, decode) in DECODERS {
        let bytes = golden(name);
        decode(&bytes).unwrap();
        for len in 0..bytes.len() {
            assert_wrong_length(name, *decode, &bytes[..len]);
        }
        let mut longer = bytes;
        longer.push(0);
        assert_wrong_length(name, *decode, &longer);
    }
}

/// The same with a length field that agrees: the parts must still fit together.
#[test]
fn an_extended_message_of_another_length_is_refused_though_its_header_agrees() {
    for (name, decode) in DECODERS.iter().filter(|(name, _)| name.starts_with("ext/")) {
        let bytes = golden(name);
        // Not below the header, where the length field itself is cut. The payload of a receive
        // may end with bytes that no record speaks of.
        for len in 16..bytes.len() {
            let cut = with_length(bytes[..len].to_vec());
            assert!(decode(&cut).is_err(), "{name} cut to {len} bytes");
        }
        let mut longer = bytes;
        longer.push(0);
        let refused = decode(&with_length(longer)).is_err();
        assert_eq!(refused, !name.starts_with("ext/receive_response"), "{name}");
    }
}

#[test]
fn stats_requests_need_four_bytes_and_room() {
    for len in 0..4 {
        let error = v1::StatsRequest::decode(&[0; 4][..len]).unwrap_err();
        assert_eq!(error.status(), Status::INFO_LENGTH_MISMATCH);
    }
    let request = v1::StatsRequest::decode(&[2, 0, 0, 0, 9]).unwrap();
    assert_eq!(request.entries(128), Ok(2));
    assert_eq!(request.entries(127).unwrap_err().needed, 128);
    let huge = v1::StatsRequest { room: u32::MAX };
    assert!(huge.entries(4_096).is_err());
    assert!(v1::connections(&[0; 63]).is_err());
    let mut answer = golden("v1/stats_answer");
    answer[64 + 56] = 2;
    let error = v1::connections(&answer).unwrap().nth(1).unwrap();
    let error = error.unwrap_err();
    assert_eq!((error.field, error.offset), ("ipv6", 120));
}

/// File, bytes to put at an offset, and the error's field, offset and status.
type Mistake = (
    &'static str,
    usize,
    &'static [u8],
    &'static str,
    usize,
    Status,
);

const BAD: Status = Status::INVALID_PARAMETER;
const LEN: Status = Status::INFO_LENGTH_MISMATCH;
const REV: Status = Status::REVISION_MISMATCH;

const RECORD: usize = 32;
const SECOND: usize = 32 + 88;

#[rustfmt::skip]
const MISTAKES: &[Mistake] = &[
    // v1
    ("v1/packet_info_v4", 16, &[2], "direction", 16, BAD),
    ("v1/packet_info_v4", 17, &[2], "ipv6", 17, BAD),
    ("v1/verdict_info", 4, &[1], "verdict", 4, BAD),
    ("v1/verdict_info", 4, &[7], "verdict", 4, BAD),
    ("v1/verdict_info", 4, &[0xFF], "verdict", 4, BAD),
    ("v1/verdict_info", 4, &[0x80], "verdict", 4, BAD),
    ("v1/verdict_update_v4", 36, &[2], "ipv6", 36, BAD),
    ("v1/verdict_update_v4", 38, &[0], "verdict", 38, BAD),
    ("v1/verdict_update_v4", 38, &[1], "verdict", 38, BAD),
    ("v1/verdict_update_v4", 38, &[7], "verdict", 38, BAD),
    ("v1/verdict_update_v4", 38, &[0xFD], "verdict", 38, BAD),
    // the header
    ("ext/hello_request", 0, &[0], "magic", 0, BAD),
    ("ext/hello_request", 3, &[0], "magic", 0, BAD),
    ("ext/hello_request", 4, &[0], "version", 4, REV),
    ("ext/hello_request", 4, &[2], "version", 4, REV),
    ("ext/hello_request", 6, &[0x11], "kind", 6, BAD),
    ("ext/hello_request", 8, &[0x21], "length", 8, LEN),
    ("ext/hello_request", 11, &[0xFF], "length", 8, LEN),
    ("ext/hello_request", 12, &[1], "reserved", 12, BAD),
    ("ext/hello_request", 15, &[1], "reserved", 12, BAD),
    // HELLO
    ("ext/hello_request", 18, &[0], "highest", 18, BAD),
    ("ext/hello_request", 23, &[1], "reserved", 20, BAD),
    ("ext/hello_response", 19, &[1], "reserved", 18, BAD),
    ("ext/hello_response", 23, &[1], "reserved", 23, BAD),
    ("ext/hello_response", 60, &[3], "host", 60, BAD),
    // RECEIVE
    ("ext/receive_request", 16, &[0, 0, 0, 0], "max_requests", 16, BAD),
    ("ext/receive_request", 16, &[1, 16, 0, 0], "max_requests", 16, BAD),
    ("ext/receive_request", 31, &[1], "reserved", 28, BAD),
    ("ext/receive_response", 16, &[1, 16, 0, 0], "count", 16, BAD),
    ("ext/receive_response", 16, &[3], "count", 16, LEN),
    ("ext/receive_response", 16, &[1], "reserved", 120, BAD),
    ("ext/receive_response", 24, &[0xCF], "payload_start", 24, BAD),
    ("ext/receive_response", 24, &[0xD7], "payload_start", 24, BAD),
    ("ext/receive_response", 28, &[1], "reserved", 28, BAD),
    ("ext/receive_response", RECORD, &[0; 8], "id", RECORD, BAD),
    ("ext/receive_response", RECORD, &[0; 4], "id", RECORD, BAD),
    ("ext/receive_response", RECORD + 24, &[1], "local", RECORD + 24, BAD),
    ("ext/receive_response", RECORD + 50, &[0], "remote", RECORD + 40, BAD),
    ("ext/receive_response", RECORD + 60, &[5], "version", RECORD + 60, BAD),
    ("ext/receive_response", RECORD + 62, &[2], "direction", RECORD + 62, BAD),
    ("ext/receive_response", RECORD + 63, &[2], "flags", RECORD + 63, BAD),
    ("ext/receive_response", SECOND + 63, &[0x80], "flags", SECOND + 63, BAD),
    ("ext/receive_response", RECORD + 80, &[0xCF], "payload_offset", RECORD + 80, BAD),
    ("ext/receive_response", RECORD + 80, &[0xFF; 4], "payload_offset", RECORD + 80, BAD),
    ("ext/receive_response", RECORD + 80, &[0xD3], "payload_len", RECORD + 84, BAD),
    ("ext/receive_response", RECORD + 84, &[0], "payload_offset", RECORD + 80, BAD),
    ("ext/receive_response", SECOND + 84, &[0xFF; 4], "payload_len", SECOND + 84, BAD),
    // SET_VERDICTS
    ("ext/set_verdicts_request", 16, &[0], "count", 16, BAD),
    ("ext/set_verdicts_request", 16, &[1, 16, 0, 0], "count", 16, BAD),
    ("ext/set_verdicts_request", 16, &[2], "length", 8, LEN),
    ("ext/set_verdicts_request", 20, &[1], "reserved", 20, BAD),
    ("ext/set_verdicts_request", 24 + 16 + 15, &[1], "reserved", 24 + 16 + 9, BAD),
    ("ext/set_verdicts_response", 16, &[4], "length", 8, LEN),
    ("ext/set_verdicts_response", 20, &[2], "applied", 20, BAD),
    ("ext/set_verdicts_response", 24, &[7], "outcome", 24, BAD),
    ("ext/set_verdicts_response", 25, &[2], "first", 25, BAD),
    ("ext/set_verdicts_response", 29, &[1], "first", 29, BAD),
    ("ext/set_verdicts_response", 35, &[1], "reserved", 34, BAD),
    // READ_PAYLOAD
    ("ext/read_payload_request", 28, &[1], "reserved", 28, BAD),
    ("ext/read_payload_response", 16, &[7], "outcome", 16, BAD),
    ("ext/read_payload_response", 16, &[1], "len", 20, BAD),
    ("ext/read_payload_response", 17, &[2], "first", 17, BAD),
    ("ext/read_payload_response", 18, &[1], "reserved", 18, BAD),
    ("ext/read_payload_response", 20, &[5], "len", 20, LEN),
    ("ext/read_payload_response", 28, &[1], "reserved", 28, BAD),
    ("ext/read_payload_response_expired", 24, &[1], "packet_size", 24, BAD),
    // COUNTERS
    ("ext/counters_request", 12, &[1], "reserved", 12, BAD),
    ("ext/counters_response", 16, &[0xFF; 4], "length", 8, LEN),
    ("ext/counters_response", 20, &[1], "reserved", 20, BAD),
    ("ext/counters_response", 24 + 2, &[4], "disposition", 26, BAD),
    ("ext/counters_response", 24 + 48 + 2, &[254], "disposition", 74, BAD),
    ("ext/counters_response", 24 + 16 + 7, &[1], "reserved", 24 + 16 + 3, BAD),
    // GET_CONFIG, SET_CONFIG
    ("ext/get_config_request", 6, &[0x16], "kind", 6, BAD),
    ("ext/get_config_response", 6, &[0x16], "kind", 6, BAD),
    ("ext/set_config_request", 16, &[2], "no_reader", 16, BAD),
    ("ext/set_config_request", 17, &[2], "unparsable", 17, BAD),
    ("ext/set_config_request", 18, &[2], "hold_limit", 18, BAD),
    ("ext/set_config_request", 19, &[3], "fragments", 19, BAD),
    ("ext/set_config_request", 20, &[2], "infrastructure", 20, BAD),
    ("ext/set_config_request", 21, &[2], "broadcast", 21, BAD),
    ("ext/set_config_request", 22, &[2], "multicast", 22, BAD),
    ("ext/set_config_request", 23, &[2], "fast_track", 23, BAD),
    ("ext/set_config_request", 24, &[2], "ask_each_packet", 24, BAD),
    ("ext/set_config_request", 25, &[0], "loop_limit", 25, BAD),
    ("ext/set_config_request", 26, &[0, 0], "redirect_dns.port", 26, BAD),
    ("ext/set_config_request", 28, &[0, 0], "redirect_tunnel.port", 28, BAD),
    ("ext/set_config_request", 30, &[2], "hold_connects", 30, BAD),
    ("ext/set_config_request", 31, &[1], "reserved", 31, BAD),
    ("ext/set_config_request", 32, &[99], "hold_limit_ms", 32, BAD),
    ("ext/set_config_request", 32, &[0xC1, 0x27, 9], "hold_limit_ms", 32, BAD),
    ("ext/set_config_request", 36, &[1], "flow_idle_ms", 36, BAD),
    ("ext/set_config_request", 40, &[0xE7], "flow_closed_ms", 40, BAD),
    ("ext/set_config_request", 44, &[0x41, 0x42, 0x0F], "replies_per_second", 44, BAD),
    // LIST_FLOWS
    ("ext/list_flows_request", 24, &[0, 0], "max", 24, BAD),
    ("ext/list_flows_request", 24, &[1, 16], "max", 24, BAD),
    ("ext/list_flows_request", 28, &[1], "reserved", 28, BAD),
    ("ext/list_flows_response", 24, &[2], "length", 8, LEN),
    ("ext/list_flows_response", 24, &[1, 16], "count", 24, BAD),
    ("ext/list_flows_response", 28, &[1], "reserved", 28, BAD),
    ("ext/list_flows_response", 32 + 36, &[4], "local", 32, BAD),
    ("ext/list_flows_response", 32 + 36, &[0], "version", 32 + 36, BAD),
    ("ext/list_flows_response", 32 + 38, &[0xFB], "verdict", 32 + 38, BAD),
    ("ext/list_flows_response", 32 + 38, &[0], "verdict", 32 + 38, BAD),
    ("ext/list_flows_response", 32 + 39, &[3], "origin", 32 + 39, BAD),
    // EVENTS
    ("ext/events_request", 16, &[0, 0], "max", 16, BAD),
    ("ext/events_request", 16, &[1, 16], "max", 16, BAD),
    ("ext/events_request", 20, &[2], "keep", 20, BAD),
    ("ext/events_request", 21, &[1], "reserved", 21, BAD),
    ("ext/events_response", 24, &[2], "length", 8, LEN),
    ("ext/events_response", 24, &[1, 16], "count", 24, BAD),
    ("ext/events_response", 32 + 38, &[0], "verdict", 32 + 38, BAD),
    ("ext/events_response", 32 + 112, &[5], "end", 32 + 112, BAD),
    ("ext/events_response", 32 + 113, &[1], "reserved", 32 + 113, BAD),
    // PROCESS_PATH
    ("ext/process_path_response", 16, &[0x0F], "len", 16, LEN),
    ("ext/process_path_response", 16, &[0x09, 0x02], "len", 16, BAD),
    ("ext/process_path_response", 20, &[2], "is_cut", 20, BAD),
    ("ext/process_path_response", 23, &[1], "reserved", 21, BAD),
];

#[test]
fn a_wrong_value_is_named_with_its_field_and_offset() {
    for (name, at, wrong, field, offset, status) in MISTAKES {
        let (_, decode) = DECODERS.iter().find(|(file, _)| file == name).unwrap();
        let mut bytes = golden(name);
        bytes[*at..at + wrong.len()].copy_from_slice(wrong);
        let error = decode(&bytes).expect_err(name);
        assert_eq!(
            (error.field, error.offset),
            (*field, *offset),
            "{name}: {error}"
        );
        assert_eq!(error.status(), *status, "{name}: {error}");
    }
}

/// v1 padding is ignored: any byte there changes nothing.
#[test]
fn v1_padding_is_ignored() {
    let mut info = golden("v1/packet_info_v4");
    let value = v1::PacketInfo::decode(&info).unwrap();
    info[4..8].fill(0xFF);
    assert_eq!(v1::PacketInfo::decode(&info), Ok(value));

    let mut verdict = golden("v1/verdict_info");
    let value = v1::VerdictInfo::decode(&verdict).unwrap();
    verdict[5..].fill(0xFF);
    assert_eq!(v1::VerdictInfo::decode(&verdict), Ok(value));

    let mut update = golden("v1/verdict_update_v4");
    let value = v1::VerdictUpdate::decode(&update).unwrap();
    update[39] = 0xFF;
    update[4..16].fill(0xFF);
    update[20..32].fill(0xFF);
    assert_eq!(v1::VerdictUpdate::decode(&update), Ok(value));
}

/// Id 0 or verdict 0 is ignored by v1, even beside a number that is no verdict.
#[test]
fn v1_verdicts_to_ignore_are_no_error() {
    for bytes in [[0, 0, 0, 0, 99, 0, 0, 0], [7, 0, 0, 0, 0, 0, 0, 0]] {
        let info = v1::VerdictInfo::decode(&bytes).unwrap();
        assert!(info.is_ignored());
        assert_eq!(info.decision(), None);
    }
}
