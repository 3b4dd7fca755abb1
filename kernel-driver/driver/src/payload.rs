//! Payload as programs send and receive it, counted for each flow.
//!
//! These callouts look, and say nothing. They see what comes of packets that were let go: TCP's streams
//! without what was sent again, and datagrams put together. ICMP is left out, as its flows are not told
//! here.
//!
//! Of what this machine sends to itself both ends are shown. It is counted as it is sent, as its packets
//! are presented as they leave: under the flow of the end that sends. As it comes, it is counted for a flow
//! that is redirected to this machine.

use kext_nt::callout::Classifier;
use kext_nt::classify::{Classify, Ends};
use kext_nt::injection::Way;
use kext_nt::layer::Layer;
use kext_nt::net_buffer::Packets;
use kext_types::Direction;

use crate::flows::flow;
use crate::kext::Kext;

/// A piece of a TCP stream.
pub(crate) struct Stream;
/// A datagram.
pub(crate) struct Datagram;

impl Classifier for Stream {
    fn classify(mut call: Classify<'_>) {
        let layer = &Layer::STREAM;
        if let Some(piece) = call.piece(layer) {
            count(&call, layer, piece.way, piece.len as u64);
        }
        call.pass_piece_on(layer);
    }
}

impl Classifier for Datagram {
    fn classify(mut call: Classify<'_>) {
        let layer = &Layer::DATAGRAM_DATA;
        if let Some(way) = call.way(&layer.fields)
            && let Some(bytes) = datagrams(&mut call, layer, way)
        {
            count(&call, layer, way, bytes);
        }
        call.pass_on();
    }
}

/// How much payload the datagrams of a call have, if that is told. One that is received begins with it,
/// one that is sent with the transport header.
fn datagrams(call: &mut Classify<'_>, layer: &Layer, way: Way) -> Option<u64> {
    let kext = Kext::working()?;
    let family = call.family(layer)?;
    let header = match way {
        Way::Receive => 0,
        Way::Send => call.transport_header_size()?,
    };
    let packets = call.packets(layer);
    // What we have injected on its way out was counted before it was held.
    let counts = |list: &Packets<'_>| {
        way == Way::Receive || kext.host().injector.mark_of(*list, family, way).is_none()
    };
    let bytes = packets
        .lists()
        .filter(counts)
        .flat_map(Packets::packets)
        // Bound: what the filter engine shows in one call.
        .map(|packet| u64::from(packet.len().saturating_sub(header)))
        .fold(0, u64::saturating_add);
    Some(bytes)
}

fn count(call: &Classify<'_>, layer: &Layer, way: Way, bytes: u64) {
    if bytes > 0
        && let Some(kext) = Kext::working()
        && let Some(ends) = call.ends(layer)
        && let Some(flow) = flow(&ends)
    {
        let extension = kext.extension;
        let is_loopback = || call.flags(&layer.fields).is_loopback() || stays_here(&ends);
        match way {
            Way::Send => extension.add_payload(&flow, Direction::Outbound, bytes),
            Way::Receive if is_loopback() => extension.add_returned_payload(&flow, bytes),
            Way::Receive => extension.add_payload(&flow, Direction::Inbound, bytes),
        }
    }
}

/// Whether both ends are this machine's, as far as their addresses tell: not every layer is said to have
/// the flag for it.
fn stays_here(ends: &Ends) -> bool {
    let [local, remote] = [ends.local, ends.remote].map(|end| end.ip());
    local == remote || remote.is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_known_by_its_addresses() {
        let stays = |local: &str, remote: &str| {
            stays_here(&Ends {
                protocol: 6,
                local: local.parse().unwrap(),
                remote: remote.parse().unwrap(),
            })
        };
        assert!(stays("127.0.0.1:1", "127.0.0.2:2"));
        assert!(stays("192.0.2.1:1", "192.0.2.1:2"));
        assert!(stays("[::1]:1", "[::1]:2"));
        assert!(!stays("192.0.2.1:1", "192.0.2.2:1"));
        assert!(!stays("[2001:db8::1]:1", "[2001:db8::2]:1"));
    }
}
