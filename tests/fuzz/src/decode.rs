//! What the fuzz target does with its input, and a normal test does with the stored corpus.

use std::fmt::Debug;

use kext_types::VerdictOutcome;
use kext_wire::config::{self, ConfigMessage, GetConfigRequest};
use kext_wire::counters::{Counter, CountersRequest, CountersResponse};
use kext_wire::events::{EventsRequest, EventsResponse, EventsWriter};
use kext_wire::flows::{ListFlowsRequest, ListFlowsResponse, ListFlowsWriter};
use kext_wire::hello::{HelloRequest, HelloResponse};
use kext_wire::payload::{ReadPayloadRequest, ReadPayloadResponse};
use kext_wire::process_path::{ProcessPathRequest, ProcessPathResponse};
use kext_wire::receive::{ReceiveRequest, ReceiveResponse};
use kext_wire::verdicts::{
    InPlace, Outcome, SetVerdictsRequest, SetVerdictsResponse, VerdictEntry,
};
use kext_wire::{BufferTooSmall, DecodeError, Status, v1};

/// Reads `bytes` as every message. What can be read must be written again as it was: the extended
/// messages bit for bit, those of v1 (whose padding is ignored) as the same value.
pub(crate) fn decode_everything(bytes: &[u8]) {
    decode_v1(bytes);
    decode_fixed(bytes);
    decode_tables(bytes);
    answer_in_place(bytes);
}

/// The value, or `None` after looking at the error: it must lie in or just behind the message,
/// show itself and have a status that is none of success.
fn ok<T>(decoded: Result<T, DecodeError>) -> Option<T> {
    let error = match decoded {
        Ok(value) => return Some(value),
        Err(error) => error,
    };
    assert!(error.to_string().contains(error.field));
    assert!(!Status::from(error).is_success());
    None
}

fn encoded(bytes: &[u8], encode: impl Fn(&mut [u8]) -> Result<usize, BufferTooSmall>) -> Vec<u8> {
    let mut out = vec![0xA5; bytes.len() + 8];
    let len = encode(&mut out).unwrap();
    assert!(out[len..].iter().all(|byte| *byte == 0xA5), "wrote too far");
    out.truncate(len);
    // One byte less is not enough, and then nothing is written.
    if let Some(shorter) = len.checked_sub(1) {
        let mut short = vec![0xA5; shorter];
        assert_eq!(encode(&mut short), Err(BufferTooSmall { needed: len }));
        assert!(short.iter().all(|byte| *byte == 0xA5));
    }
    out
}

fn same_value<T: PartialEq + Debug>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, BufferTooSmall>,
) {
    if let Some(value) = ok(decode(bytes)) {
        let again = encoded(bytes, |out| encode(&value, out));
        assert_eq!(decode(&again), Ok(value));
    }
}

fn same_bytes<T>(
    bytes: &[u8],
    decode: impl Fn(&[u8]) -> Result<T, DecodeError>,
    encode: impl Fn(&T, &mut [u8]) -> Result<usize, BufferTooSmall>,
) {
    if let Some(value) = ok(decode(bytes)) {
        assert_eq!(encoded(bytes, |out| encode(&value, out)), bytes);
    }
}

fn decode_v1(bytes: &[u8]) {
    same_value(bytes, v1::VersionAnswer::decode, v1::VersionAnswer::encode);
    same_value(bytes, v1::PacketInfo::decode, v1::PacketInfo::encode);
    same_value(bytes, v1::VerdictInfo::decode, v1::VerdictInfo::encode);
    same_value(
        bytes,
        v1::PayloadRequest::decode,
        v1::PayloadRequest::encode,
    );
    same_value(bytes, v1::VerdictUpdate::decode, v1::VerdictUpdate::encode);
    same_value(bytes, v1::StatsRequest::decode, v1::StatsRequest::encode);
    if let Some(connections) = ok(v1::connections(bytes)) {
        for connection in connections.filter_map(ok) {
            let again = encoded(bytes, |out| connection.encode(out));
            let mut again = v1::connections(&again).unwrap();
            assert_eq!(again.next(), Some(Ok(connection)));
        }
    }
}

fn decode_fixed(bytes: &[u8]) {
    same_bytes(bytes, HelloRequest::decode, HelloRequest::encode);
    same_bytes(bytes, HelloResponse::decode, HelloResponse::encode);
    same_bytes(bytes, ReceiveRequest::decode, ReceiveRequest::encode);
    same_bytes(
        bytes,
        ReadPayloadRequest::decode,
        ReadPayloadRequest::encode,
    );
    same_bytes(bytes, CountersRequest::decode, CountersRequest::encode);
    same_bytes(bytes, GetConfigRequest::decode, GetConfigRequest::encode);
    same_bytes(bytes, ListFlowsRequest::decode, ListFlowsRequest::encode);
    same_bytes(bytes, EventsRequest::decode, EventsRequest::encode);
    same_bytes(
        bytes,
        ProcessPathRequest::decode,
        ProcessPathRequest::encode,
    );
    for message in [
        ConfigMessage::GetResponse,
        ConfigMessage::SetRequest,
        ConfigMessage::SetResponse,
    ] {
        same_bytes(
            bytes,
            |bytes| config::decode(message, bytes),
            |config, out| config::encode(message, config, out),
        );
    }
}

fn decode_tables(bytes: &[u8]) {
    if let Some(response) = ok(ReceiveResponse::decode(bytes)) {
        // Where payload lies is the writer's choice, so only the reading is checked.
        assert_eq!(response.iter().count(), response.len());
        for (_, payload) in response.iter() {
            assert!(payload.len() <= bytes.len());
        }
    }
    if let Some(request) = ok(SetVerdictsRequest::decode(bytes)) {
        let entries: Vec<VerdictEntry> = request.iter().collect();
        assert_eq!(request.entry(entries.len()), None);
        let again = encoded(bytes, |out| SetVerdictsRequest::encode(&entries, out));
        assert_eq!(again, bytes);
    }
    if let Some(response) = ok(SetVerdictsResponse::decode(bytes)) {
        let outcomes: Vec<Outcome> = response.iter().collect();
        let again = encoded(bytes, |out| SetVerdictsResponse::encode(&outcomes, out));
        assert_eq!(again, bytes);
    }
    if let Some(response) = ok(ReadPayloadResponse::decode(bytes)) {
        assert_eq!(encoded(bytes, |out| response.encode(out)), bytes);
    }
    if let Some(response) = ok(ProcessPathResponse::decode(bytes)) {
        assert_eq!(encoded(bytes, |out| response.encode(out)), bytes);
    }
    if let Some(response) = ok(CountersResponse::decode(bytes)) {
        let counters: Vec<Counter> = response.iter().collect();
        let again = encoded(bytes, |out| {
            CountersResponse::encode(counters.iter().copied(), out)
        });
        assert_eq!(again, bytes);
    }
    if let Some(response) = ok(EventsResponse::decode(bytes)) {
        let mut out = vec![0xA5; bytes.len().max(EventsResponse::len_for(1))];
        let mut writer = EventsWriter::new(&mut out, u32::MAX).unwrap();
        for event in response.iter() {
            writer.push(&event);
        }
        let length = writer.finish(response.lost(), response.waiting());
        assert_eq!(&out[..length], bytes);
    }
    if let Some(response) = ok(ListFlowsResponse::decode(bytes)) {
        let mut out = vec![0xA5; bytes.len().max(ListFlowsResponse::len_for(1))];
        let mut writer = ListFlowsWriter::new(&mut out, u32::MAX).unwrap();
        assert!(response.iter().all(|entry| writer.push(&entry)));
        let len = writer.finish(response.cursor());
        assert_eq!(out.get(..len), Some(bytes));
    }
}

/// Answers the input as the extension does: the outcome of entry *i* must be told of entry *i*.
fn answer_in_place(bytes: &[u8]) {
    let Some(request) = SetVerdictsRequest::decode(bytes).ok() else {
        let mut buffer = bytes.to_vec();
        assert!(InPlace::new(&mut buffer, bytes.len(), bytes.len()).is_err());
        assert_eq!(buffer, bytes);
        return;
    };
    let judge = |entry: VerdictEntry| -> Outcome {
        match (entry.packet_id(), entry.decision()) {
            (None, _) => VerdictOutcome::UnknownId.into(),
            (_, None) => VerdictOutcome::InvalidVerdict.into(),
            (_, first) if entry.id.is_multiple_of(3) => Outcome {
                outcome: VerdictOutcome::AlreadyDecided,
                first,
            },
            _ => VerdictOutcome::Applied.into(),
        }
    };
    let expected: Vec<Outcome> = request.iter().map(judge).collect();
    let mut buffer = bytes.to_vec();
    let answer = InPlace::new(&mut buffer, bytes.len(), bytes.len()).unwrap();
    let len = answer.answer(judge);
    let response = SetVerdictsResponse::decode(&buffer[..len]).unwrap();
    assert!(response.iter().eq(expected));
}
