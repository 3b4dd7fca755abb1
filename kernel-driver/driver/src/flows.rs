//! What the filter engine says of connections: which process they belong to, which program that runs, and
//! when they end; and what it is told of connects.
//!
//! These callouts look, and say nothing, but for a TCP connect where connects are held: it waits for its
//! verdict, and is authorized again when that has come. Only a device request or the clock ends a wait, so
//! never a call of a callout. Connections of a process to its own machine are two for the
//! filter engine; packets of theirs are presented as they leave, so the connecting end's is told.

use core::net::{IpAddr, SocketAddr};

use kext_extension::Authorization;
use kext_nt::callout::Classifier;
use kext_nt::classify::{Classify, Ends};
use kext_nt::layer::Layer;
use kext_types::{Address, Arrival, Direction, FlowKey, Interface, IpVersion, ProcessId, protocol};

use crate::kext::Kext;

/// A process connects, or sends a first datagram.
pub(crate) struct Connect;
/// A process is connected to, or sent a first datagram.
pub(crate) struct Accept;
/// A connection or a socket ends.
pub(crate) struct Closure;

impl Classifier for Connect {
    fn classify(mut call: Classify<'_>) {
        tell_owner(&call, &Layer::ALE_AUTH_CONNECT);
        match authorization(&call) {
            Authorization::PassOn => call.pass_on(),
            Authorization::Refuse => call.block(),
            Authorization::Hold => call.absorb(),
        }
    }
}

impl Classifier for Accept {
    fn classify(mut call: Classify<'_>) {
        let layer = &Layer::ALE_AUTH_RECV_ACCEPT;
        if !call.flags(&layer.fields).is_loopback() {
            tell_owner(&call, layer);
        }
        call.pass_on();
    }
}

impl Classifier for Closure {
    /// Of a socket of another protocol than TCP only its own end is named, whoever it had to do with:
    /// such flows end by being idle.
    fn classify(mut call: Classify<'_>) {
        if let Some(kext) = Kext::working()
            && let Some(ends) = call.ends(&Layer::ALE_ENDPOINT_CLOSURE)
            && ends.protocol == protocol::TCP
            && let Some(flow) = flow(&ends)
        {
            kext.extension.end_flow(&flow);
            kext.extension
                .end_connect(&flow, call.endpoint().unwrap_or(0));
        }
        call.pass_on();
    }
}

fn tell_owner(call: &Classify<'_>, layer: &Layer) {
    if let Some(kext) = Kext::working()
        && let Some(process_id) = call.process_id().and_then(ProcessId::new)
    {
        // First: whoever is told of the process may ask for its path at once.
        if let Some(path) = call.process_path() {
            kext.extension.set_process_path(process_id, path);
        }
        if let Some(flow) = call.ends(layer).as_ref().and_then(flow) {
            kext.extension.set_owner(&flow, process_id);
        }
    }
}

/// What a connect is told.
fn authorization(call: &Classify<'_>) -> Authorization {
    let layer = &Layer::ALE_AUTH_CONNECT;
    // Without the right somebody has decided for good, and nothing of ours could change it.
    if !call.may_decide() {
        return Authorization::PassOn;
    }
    let flags = call.flags(&layer.fields);
    let ends = call.ends(layer).filter(may_wait);
    let Some((kext, flow)) = Kext::working().zip(ends.as_ref().and_then(flow)) else {
        return Authorization::PassOn;
    };
    let endpoint = call.endpoint().unwrap_or(0);
    if flags.is_reauthorization() {
        return kext.extension.authorize_again(&flow, endpoint);
    }
    // What this machine sends to itself is decided by its packets.
    if flags.is_loopback() {
        return Authorization::PassOn;
    }
    let fields = &layer.fields;
    let value = |field: Option<u32>| field.and_then(|field| call.u32(field)).unwrap_or(0);
    let connect = kext_extension::Connect {
        flow,
        endpoint,
        arrival: Arrival {
            direction: Direction::Outbound,
            interface: Interface {
                index: value(fields.interface),
                sub_index: value(fields.sub_interface),
            },
            compartment: call.compartment(),
            process_id: call.process_id().and_then(ProcessId::new),
            passes: 0,
            path_mtu: None,
        },
    };
    let connects = &kext.host().connects;
    kext.extension
        .authorize(&connect, |id| connects.hold(id.place(), call).is_ok())
}

/// Whether a connect between these ends is one of TCP, with the ends that its packets will have.
fn may_wait(ends: &Ends) -> bool {
    ends.protocol == protocol::TCP && !ends.local.ip().is_unspecified() && ends.local.port() != 0
}

/// The flow between two ends; `None` for what is none: a listening socket, and ICMP, in which echoes
/// are told apart by an identifier that is not told here.
pub(crate) fn flow(ends: &Ends) -> Option<FlowKey> {
    let is_icmp = matches!(ends.protocol, protocol::ICMP | protocol::ICMPV6);
    if is_icmp || ends.remote.ip().is_unspecified() {
        return None;
    }
    let (version, local) = address(ends.local);
    let (_, remote) = address(ends.remote);
    Some(FlowKey {
        local,
        remote,
        local_port: ends.local.port(),
        remote_port: ends.remote.port(),
        version,
        protocol: ends.protocol,
    })
}

fn address(end: SocketAddr) -> (IpVersion, Address) {
    match end.ip() {
        IpAddr::V4(address) => (IpVersion::V4, Address::v4(address.octets())),
        IpAddr::V6(address) => (IpVersion::V6, Address::v6(address.octets())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(protocol: u8, local: &str, remote: &str) -> Ends {
        Ends {
            protocol,
            local: local.parse().unwrap(),
            remote: remote.parse().unwrap(),
        }
    }

    #[test]
    fn both_families_become_flows() {
        let v4 = flow(&ends(protocol::TCP, "192.0.2.1:40000", "198.51.100.2:443")).unwrap();
        assert_eq!(v4.version, IpVersion::V4);
        assert_eq!(v4.remote, Address::v4([198, 51, 100, 2]));
        assert_eq!((v4.local_port, v4.remote_port), (40_000, 443));
        // An address that looks like IPv4 stays what it is.
        let v6 = flow(&ends(
            protocol::UDP,
            "[::ffff:1.2.3.4]:1",
            "[2001:db8::1]:53",
        ))
        .unwrap();
        assert_eq!((v6.version, v6.protocol), (IpVersion::V6, protocol::UDP));
        assert_ne!(v6.local, v4.local);
    }

    #[test]
    fn only_a_connect_that_knows_its_ends_waits() {
        let there = "198.51.100.2:443";
        assert!(may_wait(&ends(protocol::TCP, "192.0.2.1:40000", there)));
        assert!(!may_wait(&ends(protocol::UDP, "192.0.2.1:40000", there)));
        assert!(!may_wait(&ends(protocol::TCP, "0.0.0.0:40000", there)));
        assert!(!may_wait(&ends(protocol::TCP, "192.0.2.1:0", there)));
    }

    #[test]
    fn a_listening_socket_and_icmp_are_no_flows() {
        assert_eq!(
            flow(&ends(protocol::TCP, "192.0.2.1:80", "0.0.0.0:0")),
            None
        );
        assert_eq!(flow(&ends(protocol::TCP, "[::1]:80", "[::]:0")), None);
        assert_eq!(
            flow(&ends(protocol::ICMP, "192.0.2.1:8", "198.51.100.2:0")),
            None
        );
        assert_eq!(flow(&ends(protocol::ICMPV6, "[::1]:128", "[::2]:0")), None);
    }
}
