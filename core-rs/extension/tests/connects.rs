//! Connects that are held until their verdict: what the host is told, and when.

mod common;

use std::sync::atomic::Ordering;

use kext_extension::{Authorization, Classification, Connect};
use kext_packet::Headers;
use kext_types::{
    Address, Config, Decision, Direction, Event, FlowKey, IpVersion, Reason, Verdict, protocol,
};
use kext_wire::ControlCode;
use kext_wire::v1::{PacketInfo, PayloadRequest, VerdictInfo};
use kext_wire::verdicts::{SetVerdictsRequest, VerdictEntry};

use common::*;

const SOCKET: u64 = 7;

fn connect(port: u16) -> Connect {
    Connect {
        flow: FlowKey {
            local: Address::v4([192, 0, 2, 10]),
            remote: Address::v4([198, 51, 100, 20]),
            local_port: port,
            remote_port: 443,
            version: IpVersion::V4,
            protocol: protocol::TCP,
        },
        endpoint: SOCKET,
        arrival: arrival(Direction::Outbound),
    }
}

fn open_holding() -> TestExtension {
    let extension = open();
    let config = Config {
        hold_connects: true,
        ..Config::default()
    };
    extension.engine().set_config(config).unwrap();
    extension
}

fn hold(extension: &TestExtension, connect: &Connect) -> usize {
    let mut place = None;
    let told = extension.authorize(connect, |id| {
        place = Some(id.place());
        true
    });
    assert_eq!(told, Authorization::Hold);
    place.unwrap()
}

fn decide(extension: &TestExtension, info: &PacketInfo, verdict: Verdict, permanent: bool) {
    let decision = Decision { verdict, permanent };
    let mut input = [0; VerdictInfo::LEN];
    let number = decision.number();
    VerdictInfo {
        id: info.id,
        number,
    }
    .encode(&mut input)
    .unwrap();
    ioctl(extension, ControlCode::SetVerdict, &input, 0).unwrap();
}

fn ended(extension: &TestExtension) -> Vec<usize> {
    std::mem::take(&mut extension.host().ended.lock())
}

#[test]
fn a_verdict_ends_the_hold_and_nothing_is_injected() {
    for (verdict, told) in [
        (Verdict::Accept, Authorization::PassOn),
        (Verdict::Block, Authorization::Refuse),
        (Verdict::Drop, Authorization::Refuse),
    ] {
        for permanent in [true, false] {
            let extension = open_holding();
            let connect = connect(40_000);
            let place = hold(&extension, &connect);
            assert_eq!(extension.host().woken.load(Ordering::Relaxed), 1);
            let info = receive_v1(&extension);
            assert!(ended(&extension).is_empty());
            decide(&extension, &info, verdict, permanent);
            assert_eq!(ended(&extension), [place]);
            assert_eq!(extension.authorize_again(&connect.flow, SOCKET), told);
            assert!(extension.host().injected.lock().is_empty());
            let counters = extension.engine().counters();
            assert!(counters.totals().balanced());
            assert_eq!(counters.event(Event::InjectedReset), 0);
            if told == Authorization::PassOn {
                let end = outbound(&extension, &syn(LOCAL, REMOTE));
                assert!(matches!(end, Classification::Permit(_)), "{end:?}");
            }
        }
    }
}

#[test]
fn verdicts_in_one_message_end_every_hold() {
    let extension = open_holding();
    let places: Vec<_> = (1..=40)
        .map(|port| hold(&extension, &connect(port)))
        .collect();
    let mut requests = Vec::new();
    while extension.engine().deliver_some(|held| {
        requests.push(held.info.id);
        Some(0)
    }) {}
    let decision = Decision {
        verdict: Verdict::Accept,
        permanent: false,
    };
    let entries: Vec<_> = requests
        .iter()
        .map(|id| VerdictEntry::new(*id, decision))
        .collect();
    let mut input = vec![0; 4_096];
    let len = SetVerdictsRequest::encode(&entries, &mut input).unwrap();
    ioctl(&extension, ControlCode::SetVerdicts, &input[..len], 4_096).unwrap();
    assert_eq!(ended(&extension), places);
}

#[test]
fn the_payload_is_the_syn_that_will_be_sent() {
    let extension = open_holding();
    hold(&extension, &connect(40_000));
    let info = receive_v1(&extension);
    let request = PayloadRequest {
        id: info.id,
        len: 40,
    };
    let mut input = [0; PayloadRequest::LEN];
    request.encode(&mut input).unwrap();
    let payload = ioctl(&extension, ControlCode::GetPayload, &input, 40).unwrap();
    let headers = Headers::parse(&payload, payload.len()).unwrap();
    assert_eq!(headers.flow_key(Direction::Outbound), connect(40_000).flow);
}

#[test]
fn what_cannot_be_held_passes_and_is_asked_about_once() {
    let extension = open_holding();
    let told = extension.authorize(&connect(40_000), |_| false);
    assert_eq!(told, Authorization::PassOn);
    assert_eq!(
        outbound(&extension, &syn(LOCAL, REMOTE)),
        Classification::Absorb(None)
    );
    receive_v1(&extension);
    assert_eq!(extension.engine().queued_requests(), 0);
    assert!(ended(&extension).is_empty());
}

#[test]
fn closing_and_shutting_down_end_every_hold() {
    for shut_down in [true, false] {
        let extension = open_holding();
        let mut places: Vec<_> = (1..=40)
            .map(|port| hold(&extension, &connect(port)))
            .collect();
        if shut_down {
            ioctl(&extension, ControlCode::ShutdownRequest, b"", 0).unwrap();
        } else {
            extension.close();
        }
        let mut ended = ended(&extension);
        places.sort_unstable();
        ended.sort_unstable();
        assert_eq!(ended, places);
        let counters = extension.engine().counters();
        assert_eq!(counters.reason(Reason::PermittedConnect), 40);
        assert!(counters.totals().balanced());
    }
}

/// What happens while something is presented ends no hold: that is left to the tick, a few at a time.
#[test]
fn the_tick_ends_what_made_room() {
    let extension = open_holding();
    for port in 1..=40 {
        hold(&extension, &connect(port));
    }
    for port in 1..=64 {
        let packet = udp(&format!("192.0.2.10:{port}"), REMOTE, b"x");
        outbound(&extension, &packet);
    }
    assert!(ended(&extension).is_empty());
    let mut turns = Vec::new();
    loop {
        let more = extension.tick();
        turns.push(ended(&extension).len());
        if !more {
            break;
        }
    }
    assert_eq!(turns, [16, 16, 8]);
    assert_eq!(
        extension.engine().counters().event(Event::ConnectNotHeld),
        40
    );
}
