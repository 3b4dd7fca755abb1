//! A host for tests: time that is set by hand, and packets that leave into a list.

#![allow(dead_code)] // Each test file uses a part of it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use kext_extension::{
    Attempt, Classification, ConnectId, Dispatch, Extension, Host, InjectError, Injection,
};
use kext_packet::TcpFlags;
use kext_packet::testing::{self, Tcp};
use kext_types::{Arrival, Capacities, Config, Direction, Interface, Timestamp};
use kext_wire::hello::HostKind;
use kext_wire::v1::PacketInfo;
use kext_wire::{ControlCode, Status};
use parking_lot::Mutex;

#[derive(Default)]
pub(crate) struct TestHost {
    pub(crate) clock: AtomicU64,
    pub(crate) injected: Mutex<Vec<(Vec<u8>, Injection)>>,
    /// How many buffers may still be had; none are refused at first.
    pub(crate) refusals: AtomicU32,
    pub(crate) inject_failures: AtomicU32,
    pub(crate) woken: AtomicU32,
    /// Places of the connects whose hold was ended.
    pub(crate) ended: Mutex<Vec<usize>>,
    /// How many packets were refused after they were taken.
    pub(crate) refused: AtomicU32,
}

fn take_one(counter: &AtomicU32) -> bool {
    counter
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
        .is_ok()
}

impl Host for TestHost {
    type Lock = parking_lot::RawMutex;
    type Buffer = Vec<u8>;

    const KIND: HostKind = HostKind::Replay;

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000 + self.clock.load(Ordering::Relaxed))
    }

    fn random(&self) -> u64 {
        42
    }

    fn allocate(&self, len: usize) -> Option<Vec<u8>> {
        (!take_one(&self.refusals)).then(|| vec![0; len])
    }

    fn inject(&self, mut buffer: Vec<u8>, injection: &Injection) -> Result<(), InjectError> {
        if take_one(&self.inject_failures) {
            return Err(InjectError);
        }
        buffer.truncate(injection.len);
        self.injected.lock().push((buffer, *injection));
        Ok(())
    }

    fn injections_refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed).into()
    }

    fn requests_ready(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    fn end_hold(&self, connect: ConnectId) {
        self.ended.lock().push(connect.place());
    }
}

pub(crate) type TestExtension = Extension<TestHost>;

/// An extension with small tables that somebody reads.
pub(crate) fn open() -> TestExtension {
    let capacities = Capacities {
        flows: 1_024,
        packets: 64,
        packet_bytes: 1 << 18,
        ..Capacities::default()
    };
    let extension = Extension::try_new(TestHost::default(), capacities, Config::default()).unwrap();
    extension.open().unwrap();
    extension
}

pub(crate) const LOCAL: &str = "192.0.2.10:40000";
pub(crate) const REMOTE: &str = "198.51.100.20:443";

pub(crate) fn udp(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut buffer = vec![0; 70_000];
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().unwrap(), destination.parse().unwrap());
    testing::udp(&mut buffer, source, destination, payload).to_vec()
}

pub(crate) fn syn(source: &str, destination: &str) -> Vec<u8> {
    let mut buffer = vec![0; 200];
    let segment = Tcp {
        flags: TcpFlags::SYN,
        sequence: 1_000,
        acknowledgement: 0,
        payload: &[],
    };
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    testing::tcp(&mut buffer, source, destination, &segment).to_vec()
}

pub(crate) fn arrival(direction: Direction) -> Arrival {
    Arrival {
        direction,
        interface: Interface {
            index: 7,
            sub_index: 1,
        },
        compartment: 3,
        process_id: None,
        passes: 0,
        path_mtu: None,
    }
}

pub(crate) fn outbound(extension: &TestExtension, packet: &[u8]) -> Classification {
    extension.classify(
        &extension.lane(0),
        packet,
        packet.len(),
        &arrival(Direction::Outbound),
    )
}

pub(crate) fn inbound(extension: &TestExtension, packet: &[u8]) -> Classification {
    extension.classify(
        &extension.lane(0),
        packet,
        packet.len(),
        &arrival(Direction::Inbound),
    )
}

/// Holds one packet and takes its request.
pub(crate) fn hold(extension: &TestExtension, packet: &[u8]) -> PacketInfo {
    assert_eq!(outbound(extension, packet), Classification::Absorb(None));
    receive_v1(extension)
}

pub(crate) fn receive_v1(extension: &TestExtension) -> PacketInfo {
    let bytes = ioctl(
        extension,
        ControlCode::RecvVerdictReq,
        b"NA",
        PacketInfo::LEN,
    )
    .unwrap();
    PacketInfo::decode(&bytes).unwrap()
}

/// Sends a request and gives its answer; a request that would wait times out.
pub(crate) fn ioctl(
    extension: &TestExtension,
    code: ControlCode,
    input: &[u8],
    output_len: usize,
) -> Result<Vec<u8>, Status> {
    match ioctl_status(extension, code, input, output_len) {
        (status, bytes) if status.is_success() => Ok(bytes),
        (status, _) => Err(status),
    }
}

/// The same, with the status of a success.
pub(crate) fn ioctl_status(
    extension: &TestExtension,
    code: ControlCode,
    input: &[u8],
    output_len: usize,
) -> (Status, Vec<u8>) {
    let mut buffer: Vec<u8> = (0..input.len().max(output_len)).map(unwritten).collect();
    buffer[..input.len()].copy_from_slice(input);
    let code = code.to_u32();
    let dispatch = |buffer: &mut [u8], attempt| {
        extension.dispatch(code, buffer, input.len(), output_len, attempt)
    };
    let first = dispatch(&mut buffer, Attempt::Normal);
    let dispatched = match first {
        Dispatch::Pend { .. } => dispatch(&mut buffer, Attempt::TimedOut),
        Dispatch::Complete { .. } => first,
    };
    let Dispatch::Complete {
        status,
        information,
    } = dispatched
    else {
        panic!("a request that timed out is still pended");
    };
    assert!(
        information <= output_len,
        "more was written than there is room"
    );
    buffer.truncate(information);
    // In a kernel what nobody has written is the kernel's. A padding is three bytes long, or longer.
    let kept = |at: &usize| (0..3).all(|next| buffer.get(at + next) == Some(&unwritten(at + next)));
    let unwritten = (input.len()..information).find(kept);
    assert_eq!(
        unwritten, None,
        "bytes are answered that were never written"
    );
    (status, buffer)
}

/// What stands in a buffer before anybody writes there: another byte at each place.
fn unwritten(place: usize) -> u8 {
    ((place as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48) as u8
}
