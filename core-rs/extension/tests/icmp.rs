//! ICMP errors about redirected flows, there and back.

mod common;

use common::*;
use kext_extension::Classification;
use kext_packet::testing::{self, parse};
use kext_types::{Address, Config, Reason, RedirectTarget};
use kext_wire::ControlCode;
use kext_wire::v1::VerdictInfo;

const TARGET: &str = "203.0.113.53:53";
const ROUTER: &str = "198.51.100.1";

fn error(source: &str, destination: &str, quote: &[u8]) -> Vec<u8> {
    let mut out = vec![0; quote.len() + 60];
    let (source, destination) = (source.parse().unwrap(), destination.parse().unwrap());
    testing::icmp(&mut out, source, destination, (3, 3), [0; 4], quote).to_vec()
}

/// Redirects a flow of LOCAL to REMOTE, and gives what was sent to the target.
fn redirected(extension: &TestExtension) -> Vec<u8> {
    let redirect_dns = RedirectTarget {
        v4: Address::v4([203, 0, 113, 53]),
        v6: Address::UNSPECIFIED,
        port: 53,
    };
    let config = Config {
        redirect_dns,
        ..Config::default()
    };
    extension.engine().set_config(config).unwrap();
    let id = hold(extension, &udp(LOCAL, REMOTE, b"question")).id;
    let mut input = [0; VerdictInfo::LEN];
    VerdictInfo { id, number: 5 }.encode(&mut input).unwrap();
    ioctl(extension, ControlCode::SetVerdict, &input, 0).unwrap();
    last(extension)
}

fn last(extension: &TestExtension) -> Vec<u8> {
    extension.host().injected.lock().last().unwrap().0.clone()
}

#[test]
fn an_error_about_a_redirected_packet_is_about_the_packet_that_was_sent() {
    for (from, seen_from) in [("203.0.113.53", "198.51.100.20"), (ROUTER, ROUTER)] {
        let extension = open();
        let sent = redirected(&extension);
        assert_eq!(sent, udp(LOCAL, TARGET, b"question"));
        let ended = inbound(&extension, &error(from, "192.0.2.10", &sent));
        let reason = Reason::RedirectedReturn;
        assert_eq!(ended, Classification::Absorb(Some(reason)));
        let expected = error(seen_from, "192.0.2.10", &udp(LOCAL, REMOTE, b"question"));
        assert_eq!(last(&extension), expected);
    }
}

/// Our own error about an answer that came from the target, sent to whom we believe it came from.
#[test]
fn an_error_about_an_answer_goes_to_the_target() {
    let extension = open();
    redirected(&extension);
    inbound(&extension, &udp(TARGET, LOCAL, b"answer"));
    let answer = last(&extension);
    assert_eq!(answer, udp(REMOTE, LOCAL, b"answer"));
    let ended = outbound(&extension, &error("192.0.2.10", "198.51.100.20", &answer));
    let reason = Reason::RedirectedCache;
    assert_eq!(ended, Classification::Absorb(Some(reason)));
    let expected = error("192.0.2.10", "203.0.113.53", &udp(TARGET, LOCAL, b"answer"));
    assert_eq!(last(&extension), expected);
    parse(&last(&extension));
}
