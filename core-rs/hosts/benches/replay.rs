//! What replaying costs, against reading the same capture alone.
//!
//! Figures are medians of several runs on one thread, in packets a second; ratios are what to
//! compare between machines. Run by `make bench`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use kext_hosts::capture::{CaptureReader, LinkPacket, Record, network_layer};
use kext_hosts::replay::{ReplayHost, ReplayOptions};
use kext_packet::Headers;
use kext_types::{Config, Decision, Verdict};
use kext_wire::receive::{PayloadMode, ReceiveRequest, ReceiveResponse};
use kext_wire::verdicts::{SetVerdictsRequest, VerdictEntry};
use kext_wire::{ControlCode, Status};

const RUNS: usize = 9;
const BATCH: u32 = 256;

fn main() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/captures");
    let capture = largest(&folder).expect("a capture in tests/captures");
    let packets = read(&capture);
    println!(
        "{}: {packets} packets, medians of {RUNS} runs",
        name(&capture)
    );
    println!("{:<44} {:>12} {:>8}", "work", "packets/s", "ratio");
    let baseline = median(|| read(&capture));
    report("read the capture", packets, baseline, baseline);
    let walk = median(|| walk_headers(&capture));
    report("read, and walk the headers", packets, walk, baseline);
    let open = median(|| ReplayHost::open(&capture, ReplayOptions::default()).is_ok());
    report(
        "open the extension with all its memory",
        packets,
        open,
        baseline,
    );
    let permanent = median(|| replay(&capture, true));
    report(
        "replay, a verdict for each flow",
        packets,
        permanent,
        baseline,
    );
    let temporary = median(|| replay(&capture, false));
    report(
        "replay, a verdict for each packet",
        packets,
        temporary,
        baseline,
    );
}

fn largest(folder: &Path) -> Option<PathBuf> {
    std::fs::read_dir(folder)
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            path.extension()
                .is_some_and(|end| end == "pcap" || end == "pcapng")
        })
        .max_by_key(|path| read(path))
}

fn name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

fn median<T>(mut work: impl FnMut() -> T) -> Duration {
    let mut times: Vec<Duration> = (0..RUNS)
        .map(|_| {
            let started = Instant::now();
            std::hint::black_box(work());
            started.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[RUNS / 2]
}

#[allow(clippy::cast_precision_loss)] // Figures for people.
fn report(work: &str, packets: u64, time: Duration, baseline: Duration) {
    let rate = packets as f64 / time.as_secs_f64();
    let ratio = time.as_secs_f64() / baseline.as_secs_f64();
    println!("{work:<44} {rate:>12.0} {ratio:>7.2}x");
}

fn each_record(capture: &Path, mut see: impl FnMut(&Record)) -> u64 {
    let mut reader = CaptureReader::open(capture).expect("a readable capture");
    let mut record = Record::default();
    let mut records = 0;
    while reader.read_into(&mut record).expect("a whole capture") {
        see(&record);
        records += 1;
    }
    records
}

fn read(capture: &Path) -> u64 {
    each_record(capture, |_| ())
}

fn walk_headers(capture: &Path) -> u64 {
    let mut parsed = 0;
    each_record(capture, |record| {
        let found = network_layer(record.link_type, &record.data, record.original_len);
        if let LinkPacket::Ip {
            offset, on_wire, ..
        } = found
        {
            let packet = record.data.get(offset..).unwrap_or_default();
            parsed += u64::from(Headers::parse(packet, on_wire as usize).is_ok());
        }
    });
    parsed
}

/// Replays the capture in batches, accepting everything; gives the number of requests.
fn replay(capture: &Path, permanent: bool) -> u64 {
    let options = ReplayOptions {
        config: Config::ask_all(),
        ..ReplayOptions::default()
    };
    let host = ReplayHost::open(capture, options).expect("a readable capture");
    let decision = Decision {
        verdict: Verdict::Accept,
        permanent,
    };
    let request = ReceiveRequest {
        max_requests: BATCH,
        payload: PayloadMode::None,
        wait_ms: None,
    };
    let mut input = [0; ReceiveRequest::LEN];
    request.encode(&mut input).expect("room for the request");
    let mut output = vec![0; 1 << 17];
    let mut verdicts = vec![0; SetVerdictsRequest::len_for(BATCH as usize)];
    let mut outcomes = vec![0; 1 << 12];
    let mut requests = 0;
    loop {
        let len = match host.ioctl(ControlCode::Receive.to_u32(), &input, &mut output) {
            Ok(len) => len,
            Err(Status::END_OF_FILE) => return requests,
            Err(status) => panic!("{status}"),
        };
        let response = ReceiveResponse::decode(&output[..len]).expect("a response");
        let entries: Vec<VerdictEntry> = response
            .iter()
            .map(|(request, _)| VerdictEntry::new(request.id, decision))
            .collect();
        let len = SetVerdictsRequest::encode(&entries, &mut verdicts).expect("room for the batch");
        host.ioctl(
            ControlCode::SetVerdicts.to_u32(),
            &verdicts[..len],
            &mut outcomes,
        )
        .expect("outcomes");
        requests += entries.len() as u64;
    }
}
