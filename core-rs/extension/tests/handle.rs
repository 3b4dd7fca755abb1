//! The handle: who may have it while the packets of the owner before are settled.

mod common;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use common::{LOCAL, REMOTE, arrival, syn};
use kext_extension::{Classification, Extension, Host, InjectError, Injection};
use kext_types::{Capacities, Config, Direction, Timestamp};
use kext_wire::Status;
use kext_wire::hello::HostKind;

/// A host in which a next owner tries to open the device whenever a packet leaves.
#[derive(Default)]
struct EagerHost {
    extension: OnceLock<Weak<Extension<EagerHost>>>,
    refused: AtomicU64,
}

impl Host for EagerHost {
    type Lock = parking_lot::RawMutex;
    type Buffer = Vec<u8>;

    const KIND: HostKind = HostKind::Replay;

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000)
    }

    fn random(&self) -> u64 {
        42
    }

    fn allocate(&self, len: usize) -> Option<Vec<u8>> {
        Some(vec![0; len])
    }

    fn inject(&self, _: Vec<u8>, _: &Injection) -> Result<(), InjectError> {
        let extension = self.extension.get().and_then(Weak::upgrade).unwrap();
        if extension.open() == Err(Status::DEVICE_BUSY) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn requests_ready(&self) {}
}

#[test]
fn a_next_owner_waits_until_the_last_ones_packets_are_settled() {
    let host = EagerHost::default();
    let capacities = Capacities::default();
    let extension = Arc::new(Extension::try_new(host, capacities, Config::default()).unwrap());
    let weak = Arc::downgrade(&extension);
    extension.host().extension.set(weak).unwrap();
    extension.open().unwrap();
    let outbound = |port: u16| {
        let packet = syn(LOCAL, &format!("198.51.100.20:{port}"));
        extension.classify(
            &extension.lane(0),
            &packet[..],
            packet.len(),
            &arrival(Direction::Outbound),
        )
    };
    for port in 1..=3 {
        assert_eq!(outbound(port), Classification::Absorb(None));
    }
    extension.close();
    assert_eq!(extension.host().refused.load(Ordering::Relaxed), 3);
    assert_eq!(extension.engine().counters().totals().held, 0);
    assert!(!extension.is_reading());

    extension.open().unwrap();
    assert!(extension.is_reading());
    let packet = syn(LOCAL, REMOTE);
    let held = extension.classify(
        &extension.lane(0),
        &packet[..],
        packet.len(),
        &arrival(Direction::Outbound),
    );
    assert_eq!(held, Classification::Absorb(None));
}
