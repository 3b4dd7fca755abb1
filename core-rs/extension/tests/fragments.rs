//! Fragments that come before their first one, through the extension.

mod common;

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use kext_extension::{Classification, Extension, Host, InjectError, Injection};
use kext_packet::testing::fix_ipv4_header;
use kext_types::{Capacities, Config, Direction, Policy, Reason, Timestamp};
use kext_wire::ControlCode;
use kext_wire::hello::HostKind;
use kext_wire::v1::VerdictInfo;

/// The three fragments of a datagram.
fn fragments() -> [Vec<u8>; 3] {
    let whole = udp(LOCAL, REMOTE, &(0..64).collect::<Vec<u8>>());
    [(0, 24), (24, 48), (48, 72)].map(|(from, to)| {
        let mut out = [&whole[..20], &whole[20 + from..20 + to]].concat();
        let field = (from as u16 / 8) | if to < 72 { 0x2000 } else { 0 };
        out[2..4].copy_from_slice(&44_u16.to_be_bytes());
        out[4..6].copy_from_slice(&77_u16.to_be_bytes());
        out[6..8].copy_from_slice(&field.to_be_bytes());
        fix_ipv4_header(&mut out);
        out
    })
}

fn decide(extension: &TestExtension, id: u32, number: i8) {
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number }.encode(&mut input).unwrap();
    ioctl(extension, ControlCode::SetVerdict, &input, 0).unwrap();
}

fn sent(extension: &TestExtension) -> Vec<Vec<u8>> {
    let mut injected = extension.host().injected.lock();
    injected.drain(..).map(|(bytes, _)| bytes).collect()
}

#[test]
fn early_fragments_leave_behind_their_first_one() {
    let extension = open();
    let [first, second, third] = fragments();
    // Its flow waits for its verdict.
    let absorbed = Classification::Absorb(None);
    for fragment in [&third, &first, &second] {
        assert_eq!(outbound(&extension, fragment), absorbed);
    }
    let request = receive_v1(&extension);
    decide(&extension, request.id, 2);
    assert_eq!(sent(&extension), [&first, &third, &second].map(Vec::clone));
    // Its flow is known: the first one leaves by injection too, or it would be overtaken.
    assert_eq!(outbound(&extension, &third), absorbed);
    let leading = outbound(&extension, &first);
    let reason = Reason::PermittedCache;
    assert_eq!(leading, Classification::Absorb(Some(reason)));
    assert_eq!(sent(&extension), [first, third]);
    let permitted = Classification::Permit(reason);
    assert_eq!(outbound(&extension, &second), permitted);
    assert!(extension.engine().counters().totals().balanced());
}

#[test]
fn without_a_buffer_the_first_one_goes_and_the_early_ones_are_counted() {
    let extension = open();
    let [first, second, third] = fragments();
    outbound(&extension, &first);
    decide(&extension, receive_v1(&extension).id, 2);
    for fragment in [&second, &third] {
        outbound(&extension, fragment);
    }
    sent(&extension);
    outbound(&extension, &third);
    extension.host().refusals.store(2, Ordering::Relaxed);
    let permitted = Classification::Permit(Reason::PermittedCache);
    assert_eq!(outbound(&extension, &first), permitted);
    let counters = extension.engine().counters();
    assert_eq!(counters.reason(Reason::DroppedNoBuffer), 1);
    assert!(counters.totals().balanced());
    assert_eq!(counters.totals().held, 0);
}

/// While a first fragment is copied, another processor presents a packet of another flow.
#[test]
fn nobody_elses_packet_lets_early_fragments_overtake_their_first_one() {
    static EXTENSION: OnceLock<Extension<Racing>> = OnceLock::new();
    #[derive(Default)]
    struct Racing(TestHost, AtomicBool);
    impl Host for Racing {
        type Lock = parking_lot::RawMutex;
        type Buffer = Vec<u8>;
        const KIND: HostKind = HostKind::Replay;

        fn now(&self) -> Timestamp {
            self.0.now()
        }
        fn random(&self) -> u64 {
            self.0.random()
        }
        fn allocate(&self, len: usize) -> Option<Vec<u8>> {
            if self.1.swap(false, Ordering::Relaxed) {
                present(&udp("192.0.2.10:9", "198.51.100.20:9", &[0; 8]));
            }
            self.0.allocate(len)
        }
        fn inject(&self, buffer: Vec<u8>, injection: &Injection) -> Result<(), InjectError> {
            self.0.inject(buffer, injection)
        }
        fn requests_ready(&self) {
            self.0.requests_ready();
        }
    }
    fn present(packet: &[u8]) {
        let extension = EXTENSION.get().unwrap();
        let _ = extension.classify(
            &extension.lane(0),
            packet,
            packet.len(),
            &arrival(Direction::Outbound),
        );
    }
    let config = Config {
        no_reader: Policy::Permit,
        ..Config::default()
    };
    let extension = EXTENSION.get_or_init(|| {
        Extension::try_new(Racing::default(), Capacities::default(), config).unwrap()
    });
    let [first, second, third] = fragments();
    present(&third);
    present(&second);
    extension.host().1.store(true, Ordering::Relaxed);
    present(&first);
    let injected = extension.host().0.injected.lock();
    let sent: Vec<_> = injected.iter().map(|(bytes, _)| bytes.clone()).collect();
    assert_eq!(sent, [first, third, second]);
}
