//! The driver that ships in the simulated kernel under Valgrind, which sees each byte that code reads or
//! writes, and whether anything was written there before. And that it finds what is wrong.

#[path = "driver/traffic.rs"]
mod traffic;
#[path = "driver/transport.rs"]
mod transport;

use std::process::ExitCode;
use std::time::Duration;

use kext_client::{FLUSH_INTERVAL, PayloadMode, Received, Session, Wait};
use kext_ntsim::harness::{self, Outcome, Test};
use kext_ntsim::{Packet, Sim, plain_memory};
use kext_ntsim_drivers::{Defect, MISBEHAVE};
use kext_types::{Decision, Verdict};

use traffic::{Ends, partial};
use transport::DeviceTransport;

const SHIPPED: &str = "PortmasterKext64.sys";
const BROKEN: &str = "NtsimBroken64.sys";

/// The driver is loaded and unloaded, without a reader between.
fn nobody_reads() {
    plain_memory();
    let sim = Sim::load(&harness::built(SHIPPED)).expect("the driver loads");
    for ends in [Ends::tcp(1), Ends::udp(2).over_v6()] {
        sim.classify(&Packet::outbound(ends.leaving(b"out")));
        sim.classify(&Packet::inbound(ends.coming(b"in")));
    }
    sim.advance(Duration::from_secs(1));
    sim.unload();
}

/// Each verdict, for packets of each shape; then the cached flows, listed and forgotten.
fn packets_are_decided() {
    plain_memory();
    let sim = Sim::load(&harness::built(SHIPPED)).expect("the driver loads");
    let transport = DeviceTransport::new(sim.open().unwrap());
    let session = Session::over(Box::new(transport), FLUSH_INTERVAL).unwrap();
    let verdicts = [
        Verdict::Accept,
        Verdict::Block,
        Verdict::Drop,
        Verdict::RedirectDns,
        Verdict::RedirectTunnel,
    ];
    for (number, verdict) in verdicts.into_iter().enumerate() {
        for permanent in [false, true] {
            let decision = Decision { verdict, permanent };
            let port = 100 * number as u16 + u16::from(permanent);
            let every = [
                Ends::tcp(port),
                Ends::udp(port + 10),
                Ends::tcp(port).over_v6(),
                Ends::udp(port + 10).over_v6(),
            ];
            for (kind, ends) in every.iter().enumerate() {
                let whole = ends.leaving(b"payload");
                let packet = match kind {
                    0 => Packet::outbound(whole),
                    1 => Packet::outbound(partial(&whole, ends)).checksums(1 << 3),
                    _ => Packet::outbound(whole).split(&[kind * 15]).headroom(8),
                };
                sim.classify(&packet);
            }
            sim.classify(
                &Packet::inbound(Ends::udp(port + 20).coming(b"one"))
                    .and(Ends::udp(port + 21).coming(b"two"))
                    .chained(Ends::udp(port + 22).coming(b"three")),
            );
            decide_all(&session, decision);
            for ends in every {
                sim.classify(&Packet::outbound(ends.leaving(b"again")).split(&[30]));
                sim.classify(&Packet::inbound(ends.coming(b"back")));
            }
            decide_all(&session, decision);
            sim.injected();
        }
    }
    assert!(session.flows().count() > 0);
    assert!(session.counters().unwrap().balanced());
    sim.classify(&Packet::outbound(Ends::udp(9_999).leaving(b"left behind")));
    session.close().unwrap();
    drop(session);
    sim.unload();
}

fn decide_all(session: &Session, decision: Decision) {
    while let Received::Batch(batch) = session
        .receive(4_096, PayloadMode::Whole, Wait::No)
        .unwrap()
        && !batch.requests.is_empty()
    {
        for request in batch.requests {
            assert!(!request.payload.is_empty());
            session
                .set_verdict(request.info.id.get(), decision)
                .unwrap();
        }
        session.flush().unwrap();
    }
}

fn misbehave(defect: Defect) {
    plain_memory();
    let sim = Sim::load_as(&harness::built(BROKEN), &format!("{}", defect as u32)).unwrap();
    let device = sim.open().unwrap();
    let _ = device.ioctl(MISBEHAVE, b"some input", 16);
    device.close();
    sim.unload();
}

macro_rules! finds {
    ($name:literal, $defect:ident, $text:literal) => {
        Test {
            name: $name,
            outcome: Outcome::Finds($text),
            run: || misbehave(Defect::$defect),
        }
    };
}

static TESTS: [Test; 7] = [
    Test {
        name: "nobody_reads",
        outcome: Outcome::Passes,
        run: nobody_reads,
    },
    Test {
        name: "packets_are_decided",
        outcome: Outcome::Passes,
        run: packets_are_decided,
    },
    Test {
        name: "a_driver_without_a_defect_passes",
        outcome: Outcome::Passes,
        run: || misbehave(Defect::None),
    },
    finds!("bites_ReadAfterFree", ReadAfterFree, "Invalid read of size"),
    finds!(
        "bites_WriteAfterFree",
        WriteAfterFree,
        "Invalid write of size"
    ),
    finds!("bites_PoolOverrun", PoolOverrun, "Invalid write of size"),
    finds!(
        "bites_IrpWrittenAfter",
        IrpWrittenAfter,
        "Invalid write of size"
    ),
];

fn main() -> ExitCode {
    harness::main_under_valgrind(&TESTS, &[harness::built(SHIPPED), harness::built(BROKEN)])
}
