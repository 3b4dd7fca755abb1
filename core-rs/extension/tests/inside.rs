//! What a host does from inside of sending a packet: present it again, present others, close.

mod common;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use common::*;
use kext_extension::{Classification, Extension, Host, InjectError, Injection, TICK_LIMIT};
use kext_packet::testing::fix_ipv4_header;
use kext_types::{Arrival, Capacities, Config, Direction, Policy, Reason, Timestamp};
use kext_wire::ControlCode;
use kext_wire::hello::HostKind;
use kext_wire::v1::{PacketInfo, VerdictInfo};
use parking_lot::Mutex;

type Act = Box<dyn Fn(&Extension<Inside>, &[u8], &Injection) + Send + Sync>;

/// A host that does something from inside of sending a packet, as its contract allows.
#[derive(Default)]
struct Inside {
    extension: OnceLock<Weak<Extension<Inside>>>,
    act: Mutex<Option<Arc<Act>>>,
    sent: Mutex<Vec<Vec<u8>>>,
    seconds: AtomicU64,
}

impl Host for Inside {
    type Lock = parking_lot::RawMutex;
    type Buffer = Vec<u8>;
    const KIND: HostKind = HostKind::Replay;

    fn now(&self) -> Timestamp {
        let seconds = 1_700_000_000 + self.seconds.load(Ordering::Relaxed);
        Timestamp::from_nanos(seconds * 1_000_000_000)
    }
    fn random(&self) -> u64 {
        42
    }
    fn allocate(&self, len: usize) -> Option<Vec<u8>> {
        Some(vec![0; len])
    }
    fn inject(&self, buffer: Vec<u8>, injection: &Injection) -> Result<(), InjectError> {
        let act = self.act.lock().clone();
        if let Some(act) = act {
            let extension = self.extension.get().and_then(Weak::upgrade).unwrap();
            act(&extension, &buffer, injection);
        } else {
            self.sent.lock().push(buffer);
        }
        Ok(())
    }
    fn requests_ready(&self) {}
}

fn make(capacities: Capacities, config: Config) -> Arc<Extension<Inside>> {
    let extension = Arc::new(Extension::try_new(Inside::default(), capacities, config).unwrap());
    let weak = Arc::downgrade(&extension);
    extension.host().extension.set(weak).unwrap();
    extension
}

fn acts(extension: &Extension<Inside>, act: Act) {
    *extension.host().act.lock() = Some(Arc::new(act));
}

fn present(extension: &Extension<Inside>, packet: &[u8]) -> Classification {
    let way = arrival(Direction::Outbound);
    extension.classify(&extension.lane(0), packet, packet.len(), &way)
}

fn request(extension: &Extension<Inside>) -> u32 {
    let mut buffer = [0; PacketInfo::LEN];
    let code = ControlCode::RecvVerdictReq.to_u32();
    let _ = extension.dispatch(
        code,
        &mut buffer,
        0,
        PacketInfo::LEN,
        kext_extension::Attempt::Normal,
    );
    PacketInfo::decode(&buffer).unwrap().id
}

fn decide(extension: &Extension<Inside>, id: u32, number: i8) {
    let mut buffer = [0; VerdictInfo::LEN];
    VerdictInfo { id, number }.encode(&mut buffer).unwrap();
    let code = ControlCode::SetVerdict.to_u32();
    let len = buffer.len();
    let _ = extension.dispatch(code, &mut buffer, len, 0, kext_extension::Attempt::Normal);
}

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

/// What is injected comes by the callout again, with one pass more, before it leaves.
#[test]
fn a_first_fragment_that_comes_again_when_injected_is_not_overtaken() {
    let config = Config {
        no_reader: Policy::Permit,
        ..Config::default()
    };
    let extension = make(Capacities::default(), config);
    acts(
        &extension,
        Box::new(|extension, packet, injection| {
            let again = Arrival {
                passes: injection.arrival.passes + 1,
                ..injection.arrival
            };
            let way = extension.classify(&extension.lane(0), packet, packet.len(), &again);
            assert_eq!(way, Classification::Permit(Reason::PermittedInjected));
            extension.host().sent.lock().push(packet.to_vec());
        }),
    );
    let [first, second, third] = fragments();
    for fragment in [&third, &second] {
        assert_eq!(present(&extension, fragment), Classification::Absorb(None));
    }
    present(&extension, &first);
    assert_eq!(*extension.host().sent.lock(), [first, third, second]);
}

/// A flow whose sender goes on while its packets leave.
#[test]
fn a_tick_lets_no_more_packets_go_than_it_says() {
    let extension = make(Capacities::default(), Config::default());
    extension.open().unwrap();
    let packet = udp(LOCAL, REMOTE, &[0; 8]);
    present(&extension, &packet);
    let id = request(&extension);
    acts(
        &extension,
        Box::new(move |extension, packet, _| {
            present(extension, packet);
            extension.host().sent.lock().push(Vec::new());
        }),
    );
    decide(&extension, id, 2);
    extension.host().sent.lock().clear();
    extension.tick();
    let sent = extension.host().sent.lock().len();
    assert!(sent <= TICK_LIMIT, "{sent} packets in one tick");
}

/// The same flow must not keep others beyond the hold limit.
#[test]
fn a_flow_that_never_ends_does_not_keep_others_from_the_hold_limit() {
    let extension = make(Capacities::default(), Config::default());
    extension.open().unwrap();
    present(&extension, &udp(LOCAL, REMOTE, &[0; 8]));
    let id = request(&extension);
    present(&extension, &udp("192.0.2.10:9", REMOTE, &[0; 8]));
    acts(
        &extension,
        Box::new(|extension, packet, _| {
            if packet[20..22] != 9_u16.to_be_bytes() {
                present(extension, packet);
            }
            extension.host().sent.lock().push(Vec::new());
        }),
    );
    decide(&extension, id, 2);
    extension.host().seconds.store(60, Ordering::Relaxed);
    for _ in 0..10 {
        extension.tick();
    }
    let counters = extension.engine().counters();
    assert_eq!(counters.reason(Reason::PermittedHoldLimit), 1);
}

/// The device is closed while a verdict is being carried out.
#[test]
fn closing_settles_all_flows_but_the_one_on_its_way() {
    static CLOSED: AtomicBool = AtomicBool::new(false);
    let extension = make(Capacities::default(), Config::default());
    extension.open().unwrap();
    present(&extension, &udp(LOCAL, REMOTE, &[1; 8]));
    let id = request(&extension);
    present(&extension, &udp(LOCAL, REMOTE, &[2; 8]));
    present(&extension, &udp("192.0.2.10:9", REMOTE, &[3; 8]));
    acts(
        &extension,
        Box::new(|extension, _, _| {
            if !CLOSED.swap(true, Ordering::Relaxed) {
                extension.close();
                // All but the second of the flow whose first is on its way.
                let held = extension.engine().counters().totals().held;
                let opened = extension.open().is_ok();
                assert!(held <= 1 && !opened, "held {held}, opened {opened}");
            }
        }),
    );
    // Accepts the first packet alone.
    decide(&extension, id, -2);
}
