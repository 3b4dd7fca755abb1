//! Any packets and any device requests, in any order and from several threads: an answer each, no
//! panic, and the balance holds.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use common::*;
use kext_extension::{Attempt, Dispatch};
use kext_packet::Headers;
use kext_types::{Direction, PacketId, ProcessId, Reason, Verdict};
use kext_wire::v1::{PayloadRequest, VerdictInfo};
use kext_wire::{ControlCode, Status};
use proptest::collection::vec;
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Operation {
    /// A packet: a sound one, with bytes of it replaced, cut, and with this much more on the wire.
    Packet {
        tcp: bool,
        port: u8,
        inbound: bool,
        changes: Vec<(usize, u8)>,
        cut: usize,
        more: usize,
    },
    /// A verdict for one of the first ids.
    Verdict {
        id: u32,
        number: i8,
    },
    /// A request of any code with any bytes and room.
    Request {
        code: usize,
        input: Vec<u8>,
        room: usize,
        timed_out: bool,
    },
    /// A correct message with one byte changed.
    Extended {
        code: usize,
        body: Vec<u8>,
        room: usize,
    },
    /// Payload of a flow, and the path of a process.
    Tell {
        tcp: bool,
        port: u8,
        inbound: bool,
        bytes: u64,
        path: Vec<u8>,
    },
    Pass(u64),
    Open,
    Close,
    Refuse,
}

fn operation() -> impl Strategy<Value = Operation> {
    let changes = vec((0..60_usize, any::<u8>()), 0..4);
    let codes = ControlCode::ALL.len();
    prop_oneof![
        6 => (any::<bool>(), 1..6_u8, any::<bool>(), changes, 0..80_usize, 0..9_usize).prop_map(
            |(tcp, port, inbound, changes, cut, more)| Operation::Packet {
                tcp, port, inbound, changes, cut, more,
            }
        ),
        4 => (0..4_000_u32, -7..8_i8).prop_map(|(id, number)| Operation::Verdict { id, number }),
        2 => (0..codes, vec(any::<u8>(), 0..100), 0..200_usize, any::<bool>()).prop_map(
            |(code, input, room, timed_out)| Operation::Request { code, input, room, timed_out }
        ),
        3 => (8..codes, vec(0..6_u8, 0..90), 0..400_usize).prop_map(
            |(code, body, room)| Operation::Extended { code, body, room }
        ),
        1 => (any::<bool>(), 1..6_u8, any::<bool>(), any::<u64>(), vec(any::<u8>(), 0..600))
            .prop_map(|(tcp, port, inbound, bytes, path)| Operation::Tell {
                tcp, port, inbound, bytes, path,
            }),
        1 => (0..40_000_000_000_u64).prop_map(Operation::Pass),
        1 => Just(Operation::Open),
        1 => Just(Operation::Close),
        1 => Just(Operation::Refuse),
    ]
}

fn packet(tcp: bool, port: u8, inbound: bool) -> Vec<u8> {
    let remote = format!("198.51.100.20:{port}");
    let (source, destination) = if inbound {
        (remote.as_str(), LOCAL)
    } else {
        (LOCAL, remote.as_str())
    };
    if tcp {
        syn(source, destination)
    } else {
        udp(source, destination, b"some data")
    }
}

/// Dispatches, and demands what holds of every answer.
fn request(extension: &TestExtension, code: u32, input: &[u8], room: usize, attempt: Attempt) {
    let mut buffer = vec![0xAA; input.len().max(room)];
    buffer[..input.len()].copy_from_slice(input);
    let before = buffer.clone();
    match extension.dispatch(code, &mut buffer, input.len(), room, attempt) {
        Dispatch::Pend { .. } => {
            assert_ne!(attempt, Attempt::TimedOut);
            assert_eq!(buffer, before, "a pended request's buffer was touched");
        }
        Dispatch::Complete {
            status,
            information,
        } if status.is_success() => assert!(information <= room),
        Dispatch::Complete {
            status,
            information,
        } => {
            assert_eq!(information, 0);
            assert_eq!(buffer, before, "{status}: the buffer was touched");
        }
    }
}

fn apply(extension: &TestExtension, operation: Operation) {
    match operation {
        Operation::Packet {
            tcp,
            port,
            inbound,
            changes,
            cut,
            more,
        } => {
            let mut bytes = packet(tcp, port, inbound);
            for (at, byte) in changes {
                if let Some(place) = bytes.get_mut(at) {
                    *place = byte;
                }
            }
            let on_wire = bytes.len() + more;
            bytes.truncate(cut.max(1));
            let direction = if inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            };
            extension.classify(&extension.lane(0), &bytes[..], on_wire, &arrival(direction));
        }
        Operation::Verdict { id, number } => {
            let mut input = [0; VerdictInfo::LEN];
            VerdictInfo { id, number }.encode(&mut input).unwrap();
            let code = ControlCode::SetVerdict.to_u32();
            request(extension, code, &input, 0, Attempt::Normal);
        }
        Operation::Request {
            code,
            input,
            room,
            timed_out,
        } => {
            let attempt = if timed_out {
                Attempt::TimedOut
            } else {
                Attempt::Normal
            };
            let code = ControlCode::ALL[code].to_u32();
            request(extension, code, &input, room, attempt);
        }
        Operation::Extended { code, body, room } => {
            let code = ControlCode::ALL[code];
            let mut input = b"PMKX\x01\x00".to_vec();
            input.extend(code.function().to_le_bytes());
            input.extend((16 + body.len() as u32).to_le_bytes());
            input.extend([0; 4]);
            input.extend(body);
            request(extension, code.to_u32(), &input, room, Attempt::Normal);
        }
        Operation::Tell {
            tcp,
            port,
            inbound,
            bytes,
            path,
        } => {
            let packet = packet(tcp, port, inbound);
            let direction = if inbound {
                Direction::Inbound
            } else {
                Direction::Outbound
            };
            let headers = Headers::parse(&packet, packet.len()).unwrap();
            extension.add_payload(&headers.flow_key(direction), direction, bytes);
            extension.set_process_path(ProcessId::new(port.into()).unwrap(), &path);
        }
        Operation::Pass(nanos) => {
            extension.host().clock.fetch_add(nanos, Ordering::Relaxed);
            extension.tick();
        }
        Operation::Open => {
            let _ = extension.open();
        }
        Operation::Close => extension.close(),
        Operation::Refuse => extension.host().refusals.store(1, Ordering::Relaxed),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn any_sequence_ends_in_balance(operations in vec(operation(), 0..80)) {
        let extension = open();
        for operation in operations {
            apply(&extension, operation);
            prop_assert!(extension.engine().counters().totals().balanced());
        }
        extension.close();
        // What came after an earlier closing may still wait for its first fragment.
        extension.host().clock.fetch_add(1_000_000_000, Ordering::Relaxed);
        while extension.tick() {}
        let counters = extension.engine().counters();
        prop_assert_eq!(counters.totals().held, 0);
        prop_assert_eq!(counters.reason(Reason::DroppedUnsettled), 0);
        prop_assert!(counters.totals().balanced());
    }
}

#[test]
fn owners_that_come_and_go_leave_nothing_held_and_always_are_asked() {
    let extension = open();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        // Packets of a few flows, all the time.
        for tcp in [false, true] {
            let (extension, done) = (&extension, &done);
            scope.spawn(move || {
                while !done.load(Ordering::Relaxed) {
                    for port in 1..=4 {
                        outbound(extension, &packet(tcp, port, false));
                    }
                    extension.host().injected.lock().clear();
                }
            });
        }
        // The owner before shuts down late, while others close and open.
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let _ = ioctl(&extension, ControlCode::ShutdownRequest, &[], 0);
                thread::yield_now();
            }
        });
        for round in 0..300 {
            let read = ioctl_status(&extension, ControlCode::RecvVerdictReq, &[], 72);
            if let (Status::SUCCESS, bytes) = read {
                let id = u32::from_le_bytes(bytes[..4].try_into().unwrap());
                assert!(PacketId::new(id.into()).is_some());
                let verdict = Verdict::ALL[round % Verdict::ALL.len()];
                let mut input = [0; VerdictInfo::LEN];
                let number = -verdict.number().cast_signed();
                VerdictInfo { id, number }.encode(&mut input).unwrap();
                ioctl(&extension, ControlCode::SetVerdict, &input, 0).unwrap();
                let mut input = [0; PayloadRequest::LEN];
                PayloadRequest { id, len: 1 }.encode(&mut input).unwrap();
                let _ = ioctl(&extension, ControlCode::GetPayload, &input, 1);
            }
            extension.close();
            // Whoever shuts down may have a packet on its way still; its flow is then left to the tick.
            let opened = (0..100_000).any(|_| {
                extension.tick();
                thread::yield_now();
                extension.open().is_ok()
            });
            if !opened {
                done.store(true, Ordering::Relaxed);
                panic!("the device stays busy");
            }
        }
        done.store(true, Ordering::Relaxed);
    });
    // Whatever came in between: a new owner is asked, and leaves nothing behind.
    extension.close();
    let counters = extension.engine().counters();
    assert_eq!(counters.totals().held, 0);
    assert_eq!(counters.reason(Reason::DroppedUnsettled), 0);
    assert!(counters.totals().balanced());
    extension.open().unwrap();
    hold(&extension, &packet(true, 9, false));
}
