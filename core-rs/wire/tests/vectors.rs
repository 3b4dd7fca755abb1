//! Golden messages: values, files and the hand-written hex of `tests/vectors/index.toml` agree.
//!
//! With `KEXT_BLESS_VECTORS=1` (set by `cargo xtask vectors --bless`) the files of the extended
//! interface are rewritten from the values first. Those of v1 never are.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use kext_types::{
    Address, Arrival, Capacities, Config, Decision, Direction, Disposition, Event, FlowEnd,
    FlowEnded, FlowInfo, FlowKey, FlowOrigin, FragmentPolicy, Interface, IpVersion, PacketId,
    Policy, ProcessId, ProcessPath, Reason, RedirectTarget, RequestInfo, Special, Timestamp,
    Traffic, Verdict, VerdictOutcome,
};
use kext_wire::config::{self, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{Counter, CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsResponse, EventsWriter};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse, ListFlowsWriter};
use kext_wire::hello::{Features, HelloRequest, HelloResponse, HostKind};
use kext_wire::payload::{self, ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::process_path::{ProcessPathRequest, ProcessPathResponse};
use kext_wire::receive::{
    PayloadMode, ReceiveRequest, ReceiveResponse, ReceiveWriter, ReceivedRequest,
};
use kext_wire::v1;
use kext_wire::verdicts::{
    InPlace, Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry,
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/vectors")
}

/// What an encoder writes, in a buffer full of other bytes.
fn written<E: std::fmt::Debug>(encode: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Vec<u8> {
    let mut out = vec![0xA5; 4_096];
    let len = encode(&mut out).unwrap();
    out.truncate(len);
    out
}

/// The bytes of a golden file after checking that `encoded` is what it holds.
fn golden(file: &str, encoded: &[u8]) -> Vec<u8> {
    let path = folder().join(file);
    let bless = std::env::var_os("KEXT_BLESS_VECTORS").is_some_and(|value| value == "1");
    if bless && file.starts_with("ext/") {
        fs::write(&path, encoded).unwrap();
    }
    let bytes = fs::read(&path).unwrap();
    assert_eq!(encoded, bytes, "{file}: the encoder writes something else");
    bytes
}

fn v4_flow() -> FlowKey {
    FlowKey {
        local: Address::v4([10, 0, 0, 2]),
        remote: Address::v4([192, 0, 2, 1]),
        local_port: 51_000,
        remote_port: 443,
        version: IpVersion::V4,
        protocol: 6,
    }
}

fn v6_flow() -> FlowKey {
    let v6 = |text: &str| Address::from(text.parse::<std::net::IpAddr>().unwrap());
    FlowKey {
        local: v6("2001:db8::2"),
        remote: v6("2001:db8:1:2:3:4:5:6"),
        local_port: 5_353,
        remote_port: 53,
        version: IpVersion::V6,
        protocol: 17,
    }
}

fn v4_request() -> RequestInfo {
    RequestInfo {
        id: PacketId::new((1 << 32) + 7).unwrap(),
        time: Timestamp::from_nanos(1_000_000_000),
        flow: v4_flow(),
        arrival: Arrival {
            direction: Direction::Outbound,
            interface: Interface {
                index: 5,
                sub_index: 2,
            },
            compartment: 1,
            process_id: ProcessId::new(0x1234),
            passes: 0,
            path_mtu: None,
        },
        size: 60,
        held_len: 60,
    }
}

fn v6_request() -> RequestInfo {
    RequestInfo {
        id: PacketId::new((1 << 32) + 8).unwrap(),
        time: Timestamp::from_nanos(1_000_000_001),
        flow: v6_flow(),
        arrival: Arrival {
            direction: Direction::Inbound,
            interface: Interface {
                index: 3,
                sub_index: 0,
            },
            compartment: 0,
            process_id: None,
            passes: 0,
            path_mtu: None,
        },
        size: 1_280,
        held_len: 2,
    }
}

#[test]
fn v1_version() {
    let value = v1::VersionAnswer::CURRENT;
    let bytes = golden("v1/version_answer.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::VersionAnswer::decode(&bytes), Ok(value));
}

#[test]
fn v1_packet_info() {
    let mut value = v1::PacketInfo::from_request(&v4_request());
    let bytes = golden("v1/packet_info_v4.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::PacketInfo::decode(&bytes), Ok(value));

    value = v1::PacketInfo::from_request(&v6_request());
    value.id = 0xDEAD_BEEF;
    value.packet_size = 1_280;
    let bytes = golden("v1/packet_info_v6.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::PacketInfo::decode(&bytes), Ok(value));
}

#[test]
fn v1_verdicts() {
    let value = v1::VerdictInfo { id: 7, number: -3 };
    let bytes = golden("v1/verdict_info.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::VerdictInfo::decode(&bytes), Ok(value));
    let decision = Decision {
        verdict: Verdict::Block,
        permanent: false,
    };
    assert_eq!(value.decision(), Some(decision));

    for (file, flow, verdict) in [
        ("v1/verdict_update_v4.bin", v4_flow(), Verdict::Drop),
        ("v1/verdict_update_v6.bin", v6_flow(), Verdict::RedirectDns),
    ] {
        let value = v1::VerdictUpdate { flow, verdict };
        let bytes = golden(file, &written(|out| value.encode(out)));
        assert_eq!(v1::VerdictUpdate::decode(&bytes), Ok(value));
    }
}

#[test]
fn v1_payload() {
    let value = v1::PayloadRequest { id: 7, len: 60 };
    let bytes = golden("v1/payload_request.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::PayloadRequest::decode(&bytes), Ok(value));
}

#[test]
fn v1_stats() {
    let value = v1::StatsRequest { room: 2 };
    let bytes = golden("v1/stats_request.bin", &written(|out| value.encode(out)));
    assert_eq!(v1::StatsRequest::decode(&bytes), Ok(value));

    let values = [
        v1::Connection {
            flow: v4_flow(),
            received: 4_096,
            transmitted: 1 << 32,
        },
        v1::Connection {
            flow: v6_flow(),
            received: 0,
            transmitted: 80,
        },
    ];
    let mut out = [0xA5; 128];
    for (index, value) in values.iter().enumerate() {
        value.encode_at(&mut out, index).unwrap();
    }
    let bytes = golden("v1/stats_answer.bin", &out);
    let decoded: Result<Vec<_>, _> = v1::connections(&bytes).unwrap().collect();
    assert_eq!(decoded.unwrap(), values);
}

#[test]
fn hello() {
    let value = HelloRequest {
        lowest: 1,
        highest: 3,
        wanted: Features::RECEIVE_PAYLOAD.union(Features::SET_CONFIG),
    };
    let bytes = golden("ext/hello_request.bin", &written(|out| value.encode(out)));
    assert_eq!(HelloRequest::decode(&bytes), Ok(value));

    let capacities = Capacities::default();
    let value = HelloResponse::new([0, 1, 2], Features::ALL, capacities, HostKind::Replay);
    let bytes = golden("ext/hello_response.bin", &written(|out| value.encode(out)));
    assert_eq!(HelloResponse::decode(&bytes), Ok(value));
}

#[test]
fn receive_request() {
    let value = ReceiveRequest {
        max_requests: 256,
        payload: PayloadMode::First(64),
        wait_ms: Some(1_500),
    };
    let bytes = golden("ext/receive_request.bin", &written(|out| value.encode(out)));
    assert_eq!(ReceiveRequest::decode(&bytes), Ok(value));
}

#[test]
fn receive_response() {
    let payloads: [&[u8]; 2] = [&[0x45, 0, 0, 0x3C], &[0x60, 0]];
    let requests = [v4_request(), v6_request()];
    let encoded = written(|out| {
        let mut writer = ReceiveWriter::new(out, 2, PayloadMode::First(4))?;
        for (request, payload) in requests.iter().zip(payloads) {
            writer.push(request, |slot| {
                slot.copy_from_slice(payload);
                slot.len()
            })?;
        }
        Ok::<_, kext_wire::BufferTooSmall>(writer.finish(3))
    });
    let bytes = golden("ext/receive_response.bin", &encoded);
    let response = ReceiveResponse::decode(&bytes).unwrap();
    assert_eq!((response.len(), response.queued()), (2, 3));
    for ((received, payload), (sent, expected)) in
        response.iter().zip(requests.iter().zip(payloads))
    {
        assert_eq!(received, ReceivedRequest::from(sent));
        assert_eq!(payload, expected);
    }

    let encoded = written(|out| {
        ReceiveWriter::new(out, 2, PayloadMode::Whole).map(|writer| writer.finish(0))
    });
    let bytes = golden("ext/receive_response_empty.bin", &encoded);
    assert!(ReceiveResponse::decode(&bytes).unwrap().is_empty());
}

#[test]
fn set_verdicts() {
    let high = 1_u64 << 32;
    let entries = [(high + 7, 2), (high + 8, -3), (high + 9, 99)]
        .map(|(id, number)| VerdictEntry { id, number });
    let encoded = written(|out| SetVerdictsRequest::encode(&entries, out));
    let bytes = golden("ext/set_verdicts_request.bin", &encoded);
    let request = SetVerdictsRequest::decode(&bytes).unwrap();
    assert!(request.iter().eq(entries));

    let outcomes = [
        VerdictOutcome::Applied.into(),
        Outcome {
            outcome: VerdictOutcome::AlreadyDecided,
            first: Decision::from_number(-4),
        },
        VerdictOutcome::InvalidVerdict.into(),
    ];
    let encoded = written(|out| SetVerdictsResponse::encode(&outcomes, out));
    let golden_bytes = golden("ext/set_verdicts_response.bin", &encoded);
    let response = SetVerdictsResponse::decode(&golden_bytes).unwrap();
    assert_eq!(response.applied(), 1);
    assert!(response.iter().eq(outcomes));

    // The driver's way gives the same bytes.
    let mut buffer = bytes;
    let len = buffer.len();
    let mut answers = outcomes.into_iter();
    let answer = InPlace::new(&mut buffer, len, len).unwrap();
    let len = answer.answer(|_| answers.next().unwrap());
    assert_eq!(buffer[..len], golden_bytes);
}

#[test]
fn read_payload() {
    let value = ReadPayloadRequest {
        id: (1 << 32) + 7,
        max: None,
    };
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/read_payload_request.bin", &encoded);
    assert_eq!(ReadPayloadRequest::decode(&bytes), Ok(value));

    let packet = [0x45, 0, 0, 0x3C];
    let encoded = written(|out| {
        payload::write_held(out, 60, 4, |slot| {
            slot.copy_from_slice(&packet);
            4
        })
    });
    let bytes = golden("ext/read_payload_response.bin", &encoded);
    let value = ReadPayloadResponse {
        outcome: VerdictOutcome::Applied.into(),
        packet_size: 60,
        bytes: &packet,
    };
    assert_eq!(ReadPayloadResponse::decode(&bytes), Ok(value));

    let value = ReadPayloadResponse::not_held(VerdictOutcome::Expired.into());
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/read_payload_response_expired.bin", &encoded);
    assert_eq!(ReadPayloadResponse::decode(&bytes), Ok(value));
}

#[test]
fn counters() {
    let encoded = written(|out| CountersRequest.encode(out));
    let bytes = golden("ext/counters_request.bin", &encoded);
    assert_eq!(CountersRequest::decode(&bytes), Ok(CountersRequest));

    let values = [
        Counter::of_reason(Reason::PermittedCache, 5),
        Counter::of_reason(Reason::DroppedLoopGuard, 1),
        Counter::of_event(Event::Seen, 6),
        Counter {
            number: 199,
            disposition: Some(Disposition::Blocked),
            value: 1 << 63,
        },
    ];
    let encoded = written(|out| CountersResponse::encode(values.into_iter(), out));
    let bytes = golden("ext/counters_response.bin", &encoded);
    let response = CountersResponse::decode(&bytes).unwrap();
    assert!(response.iter().eq(values));
    assert_eq!(values[3].name(), None);
}

#[test]
fn configuration() {
    let encoded = written(|out| GetConfigRequest.encode(out));
    let bytes = golden("ext/get_config_request.bin", &encoded);
    assert_eq!(GetConfigRequest::decode(&bytes), Ok(GetConfigRequest));

    let v6 = |last| Address::v6([0x20, 1, 0x0d, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let changed = Config {
        no_reader: Policy::Block,
        unparsable: Policy::Block,
        hold_limit: Policy::Block,
        fragments: FragmentPolicy::Permit,
        infrastructure: Special::Ask,
        broadcast: Special::Ask,
        multicast: Special::Ask,
        fast_track: Special::Ask,
        ask_each_packet: true,
        // The message is that of the time before this field: it means the same still.
        hold_connects: false,
        loop_limit: 255,
        hold_limit_ms: 100,
        flow_idle_ms: 86_400_000,
        flow_closed_ms: 1_000,
        replies_per_second: 0,
        redirect_dns: RedirectTarget {
            v4: Address::v4([127, 0, 0, 53]),
            v6: v6(0x53),
            port: 5_353,
        },
        redirect_tunnel: RedirectTarget {
            v4: Address::v4([192, 0, 2, 1]),
            v6: v6(1),
            port: 1,
        },
    };
    for (file, message, value) in [
        (
            "ext/get_config_response.bin",
            ConfigMessage::GetResponse,
            Config::default(),
        ),
        (
            "ext/set_config_request.bin",
            ConfigMessage::SetRequest,
            changed,
        ),
        (
            "ext/set_config_request_hold_connects.bin",
            ConfigMessage::SetRequest,
            Config {
                hold_connects: true,
                ..changed
            },
        ),
        (
            "ext/set_config_response.bin",
            ConfigMessage::SetResponse,
            Config::default(),
        ),
    ] {
        let encoded = written(|out| config::encode(message, &value, out));
        let bytes = golden(file, &encoded);
        assert_eq!(config::decode(message, &bytes), Ok(value));
    }
}

#[test]
fn list_flows() {
    let value = ListFlowsRequest {
        cursor: 0,
        max: 4_096,
    };
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/list_flows_request.bin", &encoded);
    assert_eq!(ListFlowsRequest::decode(&bytes), Ok(value));

    let entry = FlowInfo {
        flow: v6_flow(),
        verdict: Verdict::RedirectDns,
        origin: FlowOrigin::WayBack,
        process_id: ProcessId::new(0x1234),
        outbound: Traffic {
            packets: 1,
            bytes: 80,
        },
        inbound: Traffic {
            packets: 2,
            bytes: 2_560,
        },
        payload_outbound: 32,
        payload_inbound: 2_464,
        first_seen: Timestamp::from_nanos(1_000_000_000),
        last_seen: Timestamp::from_nanos(2_000_000_000),
    };
    let encoded = written(|out| {
        ListFlowsWriter::new(out, 4_096).map(|mut writer| {
            assert!(writer.push(&entry));
            writer.finish(0x4321)
        })
    });
    let bytes = golden("ext/list_flows_response.bin", &encoded);
    let response = ListFlowsResponse::decode(&bytes).unwrap();
    assert_eq!(response.cursor(), 0x4321);
    assert!(response.iter().eq([entry]));
}

#[test]
fn process_path() {
    let value = ProcessPathRequest { process_id: 0x1234 };
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/process_path_request.bin", &encoded);
    assert_eq!(ProcessPathRequest::decode(&bytes), Ok(value));

    let utf16: Vec<u8> = r"\d\a.exe"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    let value = ProcessPathResponse {
        path: ProcessPath {
            utf16: &utf16,
            is_cut: true,
        },
    };
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/process_path_response.bin", &encoded);
    assert_eq!(ProcessPathResponse::decode(&bytes), Ok(value));
}

#[test]
fn events() {
    let value = EventsRequest {
        max: 256,
        keep: true,
    };
    let encoded = written(|out| value.encode(out));
    let bytes = golden("ext/events_request.bin", &encoded);
    assert_eq!(EventsRequest::decode(&bytes), Ok(value));

    let flow = FlowInfo {
        flow: v6_flow(),
        verdict: Verdict::RedirectDns,
        origin: FlowOrigin::Verdict,
        process_id: ProcessId::new(0x1234),
        outbound: Traffic {
            packets: 1,
            bytes: 80,
        },
        inbound: Traffic {
            packets: 2,
            bytes: 2_560,
        },
        payload_outbound: 32,
        payload_inbound: 2_464,
        first_seen: Timestamp::from_nanos(1_000_000_000),
        last_seen: Timestamp::from_nanos(2_000_000_000),
    };
    let event = FlowEnded {
        flow,
        end: FlowEnd::Evicted,
    };
    let encoded = written(|out| {
        EventsWriter::new(out, 1).map(|mut writer| {
            writer.push(&event);
            assert!(writer.is_full());
            writer.push(&event);
            writer.finish(5, 3)
        })
    });
    let bytes = golden("ext/events_response.bin", &encoded);
    let response = EventsResponse::decode(&bytes).unwrap();
    assert_eq!((response.lost(), response.waiting()), (5, 3));
    assert!(response.iter().eq([event]));
}

/// The index is read by line: `file = "…"`, then `hex = '''` up to `'''`, comments after `#`.
fn index() -> Vec<(String, Vec<u8>)> {
    let text = fs::read_to_string(folder().join("index.toml")).unwrap();
    let mut entries = Vec::new();
    let (mut file, mut hex): (String, Option<String>) = (String::new(), None);
    for line in text.lines() {
        match (&mut hex, line) {
            (None, "hex = '''") => hex = Some(String::new()),
            (None, line) => {
                if let Some(name) = line.strip_prefix("file = ") {
                    name.trim_matches('"').clone_into(&mut file);
                }
            }
            (Some(digits), "'''") => {
                let bytes = digits.split_whitespace();
                let bytes = bytes.map(|byte| u8::from_str_radix(byte, 16).unwrap());
                entries.push((file.clone(), bytes.collect()));
                hex = None;
            }
            (Some(digits), line) => {
                digits.push_str(line.split('#').next().unwrap());
                digits.push(' ');
            }
        }
    }
    entries
}

#[test]
fn the_index_spells_every_file() {
    let entries = index();
    for (file, bytes) in &entries {
        assert_eq!(&fs::read(folder().join(file)).unwrap(), bytes, "{file}");
    }
    let listed: BTreeSet<_> = entries.into_iter().map(|(file, _)| file).collect();
    let mut present = BTreeSet::new();
    for group in ["v1", "ext"] {
        for entry in fs::read_dir(folder().join(group)).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            present.insert(format!("{group}/{name}"));
        }
    }
    assert_eq!(listed, present);
}
