//! Packets that are shown from inside of an injection of ours: a stack that answers at once nests.

use kext_client::Session;
use kext_ntsim::harness::Test;
use kext_ntsim::{Completion, Packet, Sim, at_call, deepest_stack};
use kext_types::{Decision, Verdict};

use crate::packets::open;
use crate::traffic::Ends;
use crate::{load, passes};

pub(crate) const TESTS: &[Test] = &[passes(
    "nested::a_stack_that_answers_at_once_does_not_exhaust_ours",
    a_stack_that_answers_at_once_does_not_exhaust_ours,
)];

/// How many packets answer each other.
const ROUNDS: u32 = 40;

fn redirect(session: &Session, sim: &Sim, packet: &Packet) {
    sim.classify(packet);
    let requests = crate::packets::requests(session);
    let decision = Decision {
        verdict: Verdict::RedirectDns,
        permanent: true,
    };
    for request in requests {
        session
            .set_verdict(request.info.id.get(), decision)
            .unwrap();
    }
}

/// Each packet that we inject makes the machine send another one of a redirected flow, before our call
/// returns: so do two ends on one machine that have much to say to each other.
fn answer_at_once(packet: Packet, left: u32) {
    if left == 0 {
        return;
    }
    at_call(
        "FwpsInjectNetworkSendAsync0",
        || true,
        move || {
            answer_at_once(packet.clone(), left - 1);
            kext_ntsim::classify(&packet);
        },
    );
}

fn a_stack_that_answers_at_once_does_not_exhaust_ours() {
    let sim = load();
    let session = open(&sim);
    sim.complete_injections(Completion::AtOnce);
    let ends = Ends {
        remote: (9, 53),
        ..Ends::udp(3000)
    };
    let packet = Packet::outbound(ends.leaving(b"question")).loopback();
    redirect(&session, &sim, &packet);
    answer_at_once(packet.clone(), ROUNDS);
    sim.classify(&packet);
    // The one that was held, the one that has begun, and its answers: none was lost.
    let left = sim.injected();
    assert_eq!(left.len(), ROUNDS as usize + 2);
    assert!(left.iter().all(|one| one.bytes == left[0].bytes));
    let counters = session.counters().unwrap();
    assert!(counters.balanced(), "{counters:?}");
    assert!(deepest_stack() < 8 * 1024, "{} bytes", deepest_stack());
    session.close().unwrap();
    drop(session);
    sim.unload();
}
