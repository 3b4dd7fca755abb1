//! Loading, unloading, the device, and requests that need no packet.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;

use kext_client::{FLUSH_INTERVAL, HostKind, PayloadMode, Received, Session, Wait};
use kext_ntsim::harness::Test;
use kext_ntsim::{
    Caller, Faults, LoadError, Packet, Sim, Status, at_call, clear_faults, deepest_stack,
    failed_calls, guard_pages, kept_requests, set_faults, waiting_threads,
};
use kext_wire::receive::{ReceiveRequest, ReceiveResponse};
use kext_wire::{ControlCode, Status as Wire};

use crate::traffic::Ends;
use crate::transport::DeviceTransport;
use crate::{driver, load, passes};

pub(crate) const TESTS: &[Test] = &[
    passes("device::it_loads_and_unloads", it_loads_and_unloads),
    passes("device::it_loads_again_after_unloading", it_loads_again),
    passes(
        "device::loading_twice_fails_in_words",
        loading_twice_fails_in_words,
    ),
    passes(
        "device::it_is_for_administrators_only",
        it_is_for_administrators_only,
    ),
    passes("device::it_has_one_owner", it_has_one_owner),
    passes(
        "device::names_below_it_are_refused",
        names_below_it_are_refused,
    ),
    passes("device::v1_version_is_answered", v1_version_is_answered),
    passes(
        "device::unknown_codes_are_refused",
        unknown_codes_are_refused,
    ),
    passes("device::the_client_says_hello", the_client_says_hello),
    passes(
        "device::a_v1_read_ends_after_a_second",
        a_v1_read_ends_after_a_second,
    ),
    passes(
        "device::a_read_with_a_limit_ends_in_time",
        a_read_with_a_limit_ends_in_time,
    ),
    passes("device::a_read_is_cancelled", a_read_is_cancelled),
    passes(
        "device::reads_end_when_the_handle_closes",
        reads_end_when_the_handle_closes,
    ),
    passes(
        "device::reads_end_where_only_close_comes",
        reads_end_where_only_close_comes,
    ),
    passes("device::reads_end_at_shutdown", reads_end_at_shutdown),
    passes(
        "device::a_read_from_before_the_shutdown_takes_nothing",
        a_read_from_before_the_shutdown_takes_nothing,
    ),
    passes(
        "device::cancelling_races_with_time",
        cancelling_races_with_time,
    ),
    passes(
        "device::unloading_waits_for_who_keeps_a_read",
        unloading_waits_for_who_keeps_a_read,
    ),
    passes(
        "device::time_passes_without_an_owner",
        time_passes_without_an_owner,
    ),
    passes("device::with_guard_pages", with_guard_pages),
    passes(
        "device::each_call_fails_once_while_loading",
        each_call_fails_once_while_loading,
    ),
    passes(
        "device::random_requests_break_nothing",
        random_requests_break_nothing,
    ),
];

const CANCELLED: Status = Status(Wire::CANCELLED.0.cast_signed());

fn it_loads_and_unloads() {
    let sim = load();
    let (devices, links) = sim.names();
    assert_eq!(devices, [r"\Device\PortmasterKext"]);
    assert_eq!(links.len(), 1);
    sim.unload();
    assert!(
        deepest_stack() < 8 * 1024,
        "{} bytes of stack",
        deepest_stack()
    );
}

fn it_loads_again() {
    for _ in 0..3 {
        load().unload();
    }
}

fn loading_twice_fails_in_words() {
    let sim = load();
    match Sim::load(&driver()) {
        Err(LoadError::Entry(status)) => assert!(status.0 < 0),
        other => panic!("{other:?}"),
    }
    let said = sim.messages().join("\n");
    assert!(said.contains("not loaded"), "{said}");
    sim.unload();
}

fn it_is_for_administrators_only() {
    let sim = load();
    let list = sim.access_list(r"\Device\PortmasterKext").unwrap();
    let who: Vec<&str> = list.iter().map(|(who, _)| who.as_str()).collect();
    assert_eq!(who, ["S-1-5-18", "S-1-5-32-544"]);
    for path in [r"\??\PortmasterKext", r"\??\PortmasterKext\below"] {
        sim.open_path(path, Caller::User).unwrap_err();
    }
    sim.open_path(r"\??\PortmasterKext", Caller::System)
        .unwrap()
        .close();
    sim.unload();
}

fn it_has_one_owner() {
    let sim = load();
    let device = sim.open().unwrap();
    sim.open().unwrap_err();
    device.close();
    sim.open().unwrap().close();
    sim.unload();
}

fn names_below_it_are_refused() {
    let sim = load();
    sim.open_path(r"\??\PortmasterKext\below", Caller::System)
        .unwrap_err();
    sim.open().unwrap().close();
    sim.unload();
}

fn v1_version_is_answered() {
    let sim = load();
    let device = sim.open().unwrap();
    let answer = device.ioctl(ControlCode::Version.to_u32(), b"", 4).unwrap();
    assert_eq!(answer[0], 1);
    assert_eq!(answer.len(), 4);
    device.close();
    sim.unload();
}

fn unknown_codes_are_refused() {
    let sim = load();
    let device = sim.open().unwrap();
    let version = ControlCode::Version.to_u32();
    for code in [0, 1, version + 1, version + 3, version | 0x3ffc, u32::MAX] {
        assert!(device.ioctl(code, b"", 64).is_err(), "{code:#x}");
    }
    device.close();
    sim.unload();
}

fn session(sim: &Sim) -> Session {
    let transport = DeviceTransport::new(sim.open().unwrap());
    Session::over(Box::new(transport), FLUSH_INTERVAL).unwrap()
}

fn the_client_says_hello() {
    let sim = load();
    let session = session(&sim);
    assert_eq!(session.hello().host, HostKind::Wfp);
    assert!(
        session
            .counters()
            .unwrap()
            .into_iter()
            .all(|counter| counter.value == 0)
    );
    let config = session.config().unwrap();
    assert_eq!(session.set_config(&config).unwrap(), config);
    assert!(session.list_flows(0, 100).unwrap().flows.is_empty());
    match session.receive(16, PayloadMode::None, Wait::No).unwrap() {
        Received::Timeout => {}
        other => panic!("{other:?}"),
    }
    session.close().unwrap();
    drop(session);
    sim.unload();
}

fn receive(wait: Option<Duration>) -> Vec<u8> {
    let request = ReceiveRequest {
        max_requests: 16,
        payload: PayloadMode::None,
        wait_ms: wait.map(|wait| wait.as_millis() as u32),
    };
    let mut bytes = vec![0; ReceiveRequest::LEN];
    request.encode(&mut bytes).unwrap();
    bytes
}

/// Its successor is an empty answer, not an error, as v1 has it.
fn a_v1_read_ends_after_a_second() {
    let sim = load();
    let device = sim.open().unwrap();
    let pending = device.start(ControlCode::RecvVerdictReq.to_u32(), b"NA", 72);
    sim.advance(Duration::from_millis(999));
    assert!(!pending.ended());
    sim.advance(Duration::from_millis(2));
    assert!(pending.ended());
    let (status, output) = pending.wait_status();
    assert_eq!(status.0.cast_unsigned(), Wire::TIMEOUT.0);
    assert!(output.is_empty());
    device.close();
    sim.unload();
}

fn a_read_with_a_limit_ends_in_time() {
    let sim = load();
    let device = sim.open().unwrap();
    let code = ControlCode::Receive.to_u32();
    let times = [50, 20, 30_000, 20].map(Duration::from_millis);
    let reads = times.map(|time| device.start(code, &receive(Some(time)), 4096));
    let start = sim.time();
    let for_ever = device.start(code, &receive(None), 4096);
    for (now, ended) in [(19, 0), (21, 2), (49, 2), (51, 3), (29_999, 3), (30_001, 4)] {
        let passed = Duration::from_millis(now);
        sim.advance((start + passed).saturating_sub(sim.time()));
        let count = reads.iter().filter(|read| read.ended()).count();
        assert_eq!(count, ended, "after {now} ms");
    }
    sim.advance(Duration::from_hours(1));
    assert!(!for_ever.ended());
    for_ever.cancel();
    assert_eq!(for_ever.wait(), Err(CANCELLED));
    device.close();
    sim.unload();
}

fn a_read_is_cancelled() {
    let sim = load();
    let device = sim.open().unwrap();
    let read = || device.start(ControlCode::Receive.to_u32(), &receive(None), 4096);
    let reads = [read(), read(), read()];
    reads[1].cancel();
    assert_eq!(reads[1].wait(), Err(CANCELLED));
    assert!(!reads[0].ended() && !reads[2].ended());
    reads[0].cancel();
    reads[2].cancel();
    assert_eq!(sim.requests(), 0);
    device.close();
    sim.unload();
}

fn reads_end_when_the_handle_closes() {
    let sim = load();
    let device = sim.open().unwrap();
    let reads: Vec<_> = (0..50)
        .map(|_| device.start(ControlCode::Receive.to_u32(), &receive(None), 4096))
        .collect();
    device.close();
    for read in reads {
        assert!(read.wait().is_err());
    }
    sim.open().unwrap().close();
    sim.unload();
}

fn reads_end_where_only_close_comes() {
    let sim = load();
    let device = sim.open().unwrap();
    let read = device.start(ControlCode::Receive.to_u32(), &receive(None), 4096);
    device.close_without_cleanup();
    assert!(read.wait().is_err());
    sim.open().unwrap().close();
    sim.unload();
}

fn reads_end_at_shutdown() {
    let sim = load();
    let device = sim.open().unwrap();
    let read = device.start(ControlCode::Receive.to_u32(), &receive(None), 4096);
    sim.shutdown();
    assert!(read.wait().is_err());
    device.close();
    sim.unload();
}

/// Somebody may open the device as soon as the shutdown has ended the session of who had it.
fn a_read_from_before_the_shutdown_takes_nothing() {
    let sim = Arc::new(load());
    let old = sim.open().unwrap();
    let read = old.start(ControlCode::Receive.to_u32(), &receive(None), 4096);
    let opened = Arc::new(Mutex::new(None));
    let (at, place) = (Arc::clone(&sim), Arc::clone(&opened));
    let open = move || {
        let mut place = place.lock().unwrap();
        if place.is_none() {
            *place = Some(at.open().unwrap());
            at.classify(&Packet::outbound(Ends::udp(1).leaving(b"x")));
        }
    };
    // The earliest moment: before a deferred call has ended the reads.
    let early = open.clone();
    at_call(
        "KeInsertQueueDpc",
        || true,
        move || std::thread::spawn(early).join().unwrap(),
    );
    sim.shutdown();
    // That has come, or does not come any more.
    at_call("none", || false, || ());
    open();
    assert!(read.wait().is_err(), "it took the new owner's request");
    let code = ControlCode::Receive.to_u32();
    assert!(
        old.ioctl(code, &receive(Some(Duration::ZERO)), 4096)
            .is_err()
    );
    let new = opened.lock().unwrap().take().unwrap();
    let taken = new
        .ioctl(code, &receive(Some(Duration::ZERO)), 4096)
        .unwrap();
    assert_eq!(ReceiveResponse::decode(&taken).unwrap().len(), 1);
    // What is left of the old one ends nothing of the new one's.
    old.close();
    assert!(
        new.ioctl(code, &receive(Some(Duration::ZERO)), 4096)
            .is_ok()
    );
    new.close();
    drop(open);
    Arc::into_inner(sim).unwrap().unload();
}

/// Three threads: one reads, one cancels, one lets time pass. Every read ends exactly once.
fn cancelling_races_with_time() {
    let sim = load();
    let device = sim.open().unwrap();
    for round in 0..1500 {
        let wait = Duration::from_millis(1 + round % 3);
        let read = device.start(ControlCode::Receive.to_u32(), &receive(Some(wait)), 4096);
        std::thread::scope(|scope| {
            scope.spawn(|| sim.advance(wait));
            scope.spawn(|| read.cancel());
        });
        let _ = read.wait();
    }
    assert_eq!(sim.requests(), 0);
    device.close();
    sim.unload();
}

/// Once a read is kept somebody else may end it, close the device, and unload the driver, before the thread
/// that keeps it has gone on.
fn unloading_waits_for_who_keeps_a_read() {
    static UNLOADED: AtomicBool = AtomicBool::new(false);
    let sim = load();
    let device = Arc::new(sim.open().unwrap());
    let also = Arc::clone(&device);
    let (told, thread) = mpsc::channel();
    // The lock on the time for which the timer of reads is set.
    at_call(
        "KeAcquireSpinLockRaiseToDpc",
        || kept_requests() > 0,
        move || {
            let unloading = std::thread::spawn(move || {
                also.close_meanwhile();
                // The last that is given back.
                at_call(
                    "IoDeleteDevice",
                    || true,
                    || UNLOADED.store(true, Ordering::SeqCst),
                );
                sim.unload();
            });
            told.send(unloading).unwrap();
            while waiting_threads() == 0 && !UNLOADED.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        },
    );
    let wait = Some(Duration::from_secs(5));
    let read = device.start(ControlCode::Receive.to_u32(), &receive(wait), 4096);
    read.wait().unwrap_err();
    thread.recv().unwrap().join().unwrap();
}

fn time_passes_without_an_owner() {
    let sim = load();
    sim.advance(Duration::from_mins(10));
    sim.unload();
}

fn with_guard_pages() {
    guard_pages(true);
    let sim = load();
    let session = session(&sim);
    session.counters().unwrap();
    sim.advance(Duration::from_secs(2));
    session.close().unwrap();
    drop(session);
    sim.unload();
}

/// As many runs as there are calls that can fail, each in this process: the driver has to refuse to
/// load, and leave nothing behind.
fn each_call_fails_once_while_loading() {
    set_faults(Faults::Count);
    let sim = load();
    let (calls, sites) = clear_faults();
    sim.unload();
    assert!(
        calls >= sites && sites > 10,
        "{calls} calls from {sites} places"
    );
    for number in 0..calls {
        set_faults(Faults::Nth(number));
        let loaded = Sim::load(&driver());
        clear_faults();
        match loaded {
            Err(LoadError::Entry(status)) => assert!(status.0 < 0),
            Err(other) => panic!("{other:?}"),
            Ok(sim) => {
                // Some things the driver can do without.
                eprintln!("loads although {} failed", failed_calls().join(", "));
                sim.open().unwrap().close();
                sim.unload();
            }
        }
    }
}

/// Requests of all codes with random bytes, a good part of them with a right header.
fn random_requests_break_nothing() {
    let sim = load();
    let device = sim.open().unwrap();
    let mut random = 0x1234_5678_9abc_def1_u64;
    let mut next = move || {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random
    };
    let count: u32 = std::env::var("NTSIM_REQUESTS")
        .ok()
        .and_then(|count| count.parse().ok())
        .unwrap_or(200_000);
    let mut pending = Vec::new();
    for _ in 0..count {
        let code = ControlCode::ALL[(next() % ControlCode::ALL.len() as u64) as usize];
        if code == ControlCode::ShutdownRequest && next() % 64 != 0 {
            continue;
        }
        let length = (next() % 80) as usize;
        let mut input: Vec<u8> = (0..length).map(|_| next() as u8).collect();
        if next() % 4 != 0 && length >= kext_wire::HEADER_LEN {
            let header = receive(None);
            input[..kext_wire::HEADER_LEN].copy_from_slice(&header[..kext_wire::HEADER_LEN]);
            // Else few would get past it.
            input[6..8].copy_from_slice(&code.function().to_le_bytes());
            input[8..12].copy_from_slice(&(length as u32).to_le_bytes());
            for byte in &mut input[kext_wire::HEADER_LEN..] {
                if next() % 3 != 0 {
                    *byte = 0;
                }
            }
        }
        let output = (next() % 5000) as usize;
        let code = if next() % 50 == 0 {
            next() as u32
        } else {
            code.to_u32()
        };
        let request = device.start(code, &input, output);
        if !request.ended() {
            pending.push(request);
        }
        if pending.len() > 32 || next() % 97 == 0 {
            for request in pending.drain(..) {
                request.cancel();
            }
        }
        if next() % 101 == 0 {
            sim.advance(Duration::from_millis(next() % 3000));
        }
    }
    device.close();
    sim.unload();
}
