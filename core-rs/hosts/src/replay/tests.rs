//! The replay host as user mode sees it: bytes in, bytes out.

mod batches;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kext_types::{Capacities, Config, Decision, Direction, Reason, Timestamp, Verdict};
use kext_wire::receive::{PayloadMode, ReceiveRequest, ReceiveResponse, ReceivedRequest};
use kext_wire::verdicts::{SetVerdictsRequest, VerdictEntry};
use kext_wire::{ControlCode, Status};

use super::{ReplayError, ReplayHost, ReplayOptions};
use crate::capture::{CaptureReader, CaptureWriter, Outgoing, Record};

/// A file that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        let name = format!("kext-replay-{}-{name}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 2_000];
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    kext_packet::testing::udp(&mut buffer, source, destination, payload).to_vec()
}

/// Writes a capture of these packets, each at a number of milliseconds.
fn capture(name: &str, packets: &[(u64, Vec<u8>)]) -> Scratch {
    let file = Scratch::new(name);
    let mut writer = CaptureWriter::create(&file.0).unwrap();
    for (ms, data) in packets {
        writer
            .write(&Outgoing {
                time: Timestamp::from_nanos(1_700_000_000_000_000_000 + ms * 1_000_000),
                interface: 0,
                direction: Direction::Outbound,
                data,
                original_len: 0,
                comment: "",
            })
            .unwrap();
    }
    writer.finish().unwrap();
    file
}

fn flows(count: u16) -> Vec<(u64, Vec<u8>)> {
    (1..=count)
        .map(|port| {
            let remote = format!("198.51.100.20:{port}");
            (
                u64::from(port),
                udp("192.0.2.10:40000", &remote, b"payload"),
            )
        })
        .collect()
}

/// The options of a replay at the pace of the time stamps.
fn at_own_pace() -> ReplayOptions {
    ReplayOptions {
        realtime: true,
        ..ReplayOptions::default()
    }
}

fn receive(host: &ReplayHost, wait_ms: Option<u32>) -> Result<Vec<ReceivedRequest>, Status> {
    let mut input = [0; ReceiveRequest::LEN];
    let request = ReceiveRequest {
        max_requests: 64,
        payload: PayloadMode::None,
        wait_ms,
    };
    request.encode(&mut input).unwrap();
    let mut output = vec![0; 1 << 16];
    let len = host.ioctl(ControlCode::Receive.to_u32(), &input, &mut output)?;
    let response = ReceiveResponse::decode(&output[..len]).unwrap();
    Ok(response.iter().map(|(request, _)| request).collect())
}

fn decide(host: &ReplayHost, requests: &[ReceivedRequest], verdict: Verdict) {
    let decision = Decision {
        verdict,
        permanent: true,
    };
    for request in requests {
        let mut input = [0; 64];
        let entries = [VerdictEntry::new(request.id, decision)];
        let len = SetVerdictsRequest::encode(&entries, &mut input).unwrap();
        let code = ControlCode::SetVerdicts.to_u32();
        host.ioctl(code, &input[..len], &mut [0; 64]).unwrap();
    }
}

fn open(file: &Scratch, options: ReplayOptions) -> ReplayHost {
    ReplayHost::open(&file.0, options).unwrap()
}

/// Answers every request until the capture ends.
fn run(host: &ReplayHost, verdict: Verdict) -> usize {
    let mut requests = 0;
    loop {
        match receive(host, None) {
            Ok(batch) => {
                requests += batch.len();
                decide(host, &batch, verdict);
            }
            Err(Status::END_OF_FILE) => return requests,
            Err(status) => panic!("{status}"),
        }
    }
}

#[test]
fn each_flow_is_asked_for_once_and_the_capture_ends() {
    let mut packets = flows(20);
    packets.extend(flows(20));
    let file = capture("once", &packets);
    let host = open(&file, ReplayOptions::default());
    assert_eq!(run(&host, Verdict::Accept), 20);
    let counters = host.extension.engine().counters();
    // The first of the second round comes before its flow's verdict and waits with it.
    assert_eq!(counters.reason(Reason::PermittedVerdict), 21);
    assert_eq!(counters.reason(Reason::PermittedCache), 19);
    let report = host.report();
    assert_eq!((report.records, report.presented), (40, 40));
    assert!(report.local_inferred && report.local.starts_with("192.0.2.10 "));
    assert_eq!(report.bytes_read, report.bytes_total);
}

#[test]
fn packets_wait_for_the_reader_and_a_poll_gets_on_too() {
    let file = capture("poll", &flows(3));
    let host = open(&file, ReplayOptions::default());
    assert_eq!(host.report().records, 0);
    let first = receive(&host, Some(0)).unwrap();
    assert_eq!((first.len(), host.report().records), (3, 3));
}

#[test]
fn what_leaves_is_written_with_direction_and_reason() {
    let file = capture("leave", &flows(2));
    let output = Scratch::new("leave-out");
    let options = ReplayOptions {
        output: Some(output.0.clone()),
        ..ReplayOptions::default()
    };
    let host = open(&file, options);
    run(&host, Verdict::Block);
    host.close().unwrap();
    host.close().unwrap();
    let mut reader = CaptureReader::open(&output.0).unwrap();
    let mut record = Record::default();
    let mut replies = 0;
    while reader.read_into(&mut record).unwrap() {
        let headers = kext_packet::testing::parse(&record.data);
        assert_eq!(headers.destination.v4_bytes(), [192, 0, 2, 10]);
        replies += 1;
    }
    assert_eq!(replies, 2);
    let bytes = std::fs::read(&output.0).unwrap();
    let comment = b"inbound reply to a blocked packet";
    assert!(bytes.windows(comment.len()).any(|window| window == comment));
}

#[test]
fn two_runs_write_the_same_bytes() {
    let file = capture("same", &flows(10));
    let runs = ["same-1", "same-2"].map(|name| {
        let output = Scratch::new(name);
        let options = ReplayOptions {
            output: Some(output.0.clone()),
            ..ReplayOptions::default()
        };
        let host = open(&file, options);
        run(&host, Verdict::RedirectDns);
        host.close().unwrap();
        std::fs::read(&output.0).unwrap()
    });
    assert_eq!(runs[0], runs[1]);
}

#[test]
fn held_packets_expire_by_the_captures_own_clock() {
    let mut packets = flows(1);
    packets.push((31_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let file = capture("expire", &packets);
    let host = open(&file, ReplayOptions::default());
    receive(&host, None).unwrap();
    receive(&host, None).unwrap();
    let counters = host.extension.engine().counters();
    assert_eq!(counters.reason(Reason::PermittedHoldLimit), 1);
    assert_eq!(counters.totals().held, 1);
}

#[test]
fn closing_settles_and_ends_every_request() {
    let file = capture("close", &flows(2));
    let host = open(&file, ReplayOptions::default());
    receive(&host, None).unwrap();
    host.close().unwrap();
    assert_eq!(host.extension.engine().counters().totals().held, 0);
    assert_eq!(receive(&host, None), Err(Status::FILE_CLOSED));
}

#[test]
fn a_read_at_the_captures_pace_waits_and_can_be_cancelled_without_loss() {
    let mut packets = flows(1);
    packets.push((60_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let file = capture("pace", &packets);
    let host = Arc::new(open(&file, at_own_pace()));
    assert_eq!(receive(&host, None).unwrap().len(), 1);
    // The next packet is a minute away: a wait ends when it is over.
    let started = Instant::now();
    assert_eq!(receive(&host, Some(20)), Ok(vec![]));
    assert!(started.elapsed() >= Duration::from_millis(20));
    let reader = {
        let host = Arc::clone(&host);
        std::thread::spawn(move || receive(&host, None))
    };
    std::thread::sleep(Duration::from_millis(50));
    host.cancel();
    assert_eq!(reader.join().unwrap(), Err(Status::CANCELLED));
    assert!(started.elapsed() < Duration::from_secs(30));
    let reader = {
        let host = Arc::clone(&host);
        std::thread::spawn(move || receive(&host, None))
    };
    std::thread::sleep(Duration::from_millis(50));
    host.close().unwrap();
    assert_eq!(reader.join().unwrap(), Err(Status::FILE_CLOSED));
}

#[test]
fn a_capture_that_breaks_off_is_replayed_up_to_there() {
    let file = capture("broken", &flows(3));
    let mut bytes = std::fs::read(&file.0).unwrap();
    bytes.truncate(bytes.len() - 5);
    std::fs::write(&file.0, bytes).unwrap();
    let host = open(&file, ReplayOptions::default());
    assert_eq!(run(&host, Verdict::Accept), 2);
    let failure = host.failure().unwrap();
    assert!(matches!(*failure, ReplayError::Capture(_)));
    assert!(failure.to_string().contains("record 3"), "{failure}");
}

#[test]
fn what_cannot_be_opened_says_why() {
    let missing = ReplayHost::open(Path::new("/nonexistent.pcap"), ReplayOptions::default());
    let message = missing.err().unwrap().to_string();
    assert!(message.contains("/nonexistent.pcap"), "{message}");
    let file = capture("config", &flows(1));
    let options = ReplayOptions {
        config: Config {
            loop_limit: 0,
            ..Config::default()
        },
        ..ReplayOptions::default()
    };
    let output = capture("config-out", &flows(2));
    let before = std::fs::read(&output.0).unwrap();
    let options = ReplayOptions {
        output: Some(output.0.clone()),
        ..options
    };
    let message = ReplayHost::open(&file.0, options)
        .err()
        .unwrap()
        .to_string();
    assert!(message.contains("loop_limit"), "{message}");
    assert_eq!(std::fs::read(&output.0).unwrap(), before);
}

fn options_with(output: &Scratch) -> ReplayOptions {
    ReplayOptions {
        output: Some(output.0.clone()),
        ..ReplayOptions::default()
    }
}

fn records(file: &Scratch) -> Vec<Record> {
    let reader = CaptureReader::open(&file.0).unwrap();
    reader.map(Result::unwrap).collect()
}

#[test]
fn padding_of_the_link_layer_is_not_written() {
    let packet = udp("192.0.2.10:40000", "198.51.100.20:1", b"x");
    let mut padded = packet.clone();
    padded.resize(46, 0xee);
    // The first is held and released, the second permitted where it stands.
    let file = capture("padding", &[(0, padded.clone()), (1, padded)]);
    let output = Scratch::new("padding-out");
    let host = open(&file, options_with(&output));
    assert_eq!(run(&host, Verdict::Accept), 1);
    host.close().unwrap();
    let written = records(&output);
    assert_eq!(written.len(), 2);
    for record in written {
        assert_eq!(record.data, packet);
        assert_eq!(record.original_len as usize, packet.len());
    }
}

#[test]
fn a_packet_cut_short_is_written_with_its_length_by_its_header() {
    let packet = udp("192.0.2.10:40000", "198.51.100.20:1", &[7; 100]);
    let file = Scratch::new("cut");
    let mut writer = CaptureWriter::create(&file.0).unwrap();
    for _ in 0..2 {
        writer
            .write(&Outgoing {
                time: Timestamp::from_nanos(1),
                interface: 0,
                direction: Direction::Outbound,
                data: &packet[..60],
                // With four bytes of the link layer behind it.
                original_len: packet.len() as u32 + 4,
                comment: "",
            })
            .unwrap();
    }
    writer.finish().unwrap();
    let output = Scratch::new("cut-out");
    let host = open(&file, options_with(&output));
    run(&host, Verdict::Accept);
    host.close().unwrap();
    let written = records(&output);
    assert_eq!(written.len(), 2);
    for record in written {
        assert_eq!(record.data, packet[..60]);
        assert_eq!(record.original_len as usize, packet.len());
    }
}

#[test]
fn time_that_begins_with_zero_passes_like_any_other() {
    let file = Scratch::new("zero");
    let mut writer = CaptureWriter::create(&file.0).unwrap();
    for (seconds, port) in [(0, 1), (40, 2)] {
        writer
            .write(&Outgoing {
                time: Timestamp::from_nanos(seconds * 1_000_000_000),
                interface: 0,
                direction: Direction::Outbound,
                data: &udp("192.0.2.10:40000", &format!("198.51.100.20:{port}"), b"x"),
                original_len: 0,
                comment: "",
            })
            .unwrap();
    }
    writer.finish().unwrap();
    let output = Scratch::new("zero-out");
    let host = open(&file, options_with(&output));
    receive(&host, None).unwrap();
    receive(&host, None).unwrap();
    host.close().unwrap();
    // The first packet reached the hold limit at its own time, not at the next packet's.
    let first = records(&output)[0].time.as_nanos();
    assert_eq!(first, 30_000_000_000);
}

#[test]
fn a_shutdown_ends_a_read_that_waits() {
    let mut packets = flows(1);
    packets.push((60_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let file = capture("shutdown", &packets);
    let host = Arc::new(open(&file, at_own_pace()));
    receive(&host, None).unwrap();
    let reader = {
        let host = Arc::clone(&host);
        std::thread::spawn(move || receive(&host, Some(20_000)))
    };
    std::thread::sleep(Duration::from_millis(50));
    let started = Instant::now();
    let code = ControlCode::ShutdownRequest.to_u32();
    host.ioctl(code, &[], &mut []).unwrap();
    assert_eq!(reader.join().unwrap(), Err(Status::FILE_CLOSED));
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "it waited until its wait was over"
    );
    assert_eq!(host.report().records, 2, "the next packet was read ahead");
    assert_eq!(host.report().presented, 1, "but not presented");
}

#[test]
fn a_wake_between_looking_and_sleeping_is_not_lost() {
    let backend = super::Backend::new(None, true).unwrap();
    let started = Instant::now();
    let until = started + Duration::from_secs(20);
    let seen = backend.wakes();
    backend.wake();
    backend.sleep(seen, until);
    assert!(started.elapsed() < Duration::from_secs(10));
}

#[test]
fn the_capture_is_never_written_over() {
    let file = capture("over", &flows(1));
    let before = std::fs::read(&file.0).unwrap();
    let error = ReplayHost::open(&file.0, options_with(&file));
    assert!(matches!(error, Err(ReplayError::OutputIsCapture(_))));
    assert_eq!(std::fs::read(&file.0).unwrap(), before);
}

#[test]
fn an_answer_shorter_than_its_input_leaves_the_rest_of_the_output() {
    let host = open(&capture("short", &flows(1)), ReplayOptions::default());
    let mut output = [0xee; 4];
    let code = ControlCode::GetConnectionsStats.to_u32();
    let answer = host.ioctl(code, &[0; 64], &mut output);
    assert_eq!((answer, output), (Ok(0), [0xee; 4]));
}

#[test]
fn a_shutdown_or_close_ends_a_read_at_whatever_moment_it_comes() {
    let mut packets = flows(1);
    packets.push((60_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let file = capture("moment", &packets);
    let started = Instant::now();
    for round in 0..200_u32 {
        let options = ReplayOptions {
            capacities: Capacities {
                flows: 1_024,
                packets: 16,
                packet_bytes: 1 << 17,
                ..Capacities::default()
            },
            ..at_own_pace()
        };
        let host = open(&file, options);
        receive(&host, None).unwrap();
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| receive(&host, Some(30_000)));
            // From before the read begins to after it sleeps.
            for _ in 0..round * 200 {
                std::hint::spin_loop();
            }
            if round % 2 == 0 {
                host.close().unwrap();
            } else {
                let code = ControlCode::ShutdownRequest.to_u32();
                host.ioctl(code, &[], &mut []).unwrap();
            }
            assert_eq!(reader.join().unwrap(), Err(Status::FILE_CLOSED));
        });
    }
    assert!(started.elapsed() < Duration::from_secs(25));
}

#[cfg(unix)]
#[test]
fn a_pipe_is_read_once() {
    let bytes = std::fs::read(&capture("piped", &flows(3)).0).unwrap();
    let pipe = Scratch::new("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe.0).status();
    assert!(made.unwrap().success());
    let path = pipe.0.clone();
    let writer = std::thread::spawn(move || std::fs::write(path, bytes));
    let host = open(&pipe, ReplayOptions::default());
    assert_eq!(run(&host, Verdict::Accept), 3);
    writer.join().unwrap().unwrap();
    assert!(host.report().local.starts_with("none "));
    assert_eq!(host.report().bytes_total, 0);
}

#[test]
fn at_its_own_pace_time_goes_on_between_packets() {
    let mut packets = flows(1);
    packets.push((60_000, udp("192.0.2.10:40000", "198.51.100.20:9", b"later")));
    let file = capture("limit", &packets);
    let options = ReplayOptions {
        config: Config {
            hold_limit_ms: 100,
            ..Config::default()
        },
        ..at_own_pace()
    };
    let host = open(&file, options);
    assert_eq!(receive(&host, None).unwrap().len(), 1);
    assert_eq!(receive(&host, Some(400)), Ok(vec![]));
    let counters = host.extension.engine().counters();
    assert_eq!(counters.reason(Reason::PermittedHoldLimit), 1);
    assert_eq!(host.report().presented, 1);
}

#[test]
fn malformed_packets_are_told_with_their_place_and_what_is_wrong() {
    let good = udp("192.0.2.10:40000", "198.51.100.20:9", b"x");
    let mut short_header = good.clone();
    short_header[0] = 0x44;
    let mut beyond = good.clone();
    beyond[2..4].copy_from_slice(&200_u16.to_be_bytes());
    let mut chain = vec![0x60, 0, 0, 0, 0, 72, 60, 64];
    chain.extend([0x20; 32]);
    // Nine destination options headers, one more than is walked.
    for _ in 0..9 {
        chain.extend([60, 0, 1, 4, 0, 0, 0, 0]);
    }
    let packets = [good, short_header, beyond, chain, Vec::new()];
    let timed: Vec<_> = (1..).zip(packets).collect();
    let file = capture("malformed", &timed);
    let host = open(&file, ReplayOptions::default());
    run(&host, Verdict::Accept);
    let report = host.report();
    assert_eq!((report.malformed, report.too_short), (4, 1));
    let expected = [
        ("record 2 at byte ", "header length"),
        ("record 3 at byte ", "IP length beyond"),
        ("record 4 at byte ", "extension headers"),
        ("record 5 at byte ", "the 0 bytes captured"),
    ];
    for (told, (place, problem)) in report.first_malformed.iter().zip(expected) {
        assert!(told.starts_with(place) && told.contains(problem), "{told}");
    }
    let counters = host.extension.engine().counters();
    assert_eq!(counters.reason(Reason::PermittedUnparsable), 3);
}
