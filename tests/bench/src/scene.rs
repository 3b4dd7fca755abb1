//! An engine with flows in it, and the packets of these flows.

use std::time::Instant;

use kext_engine::{Action, Classified, Delivery, Engine, Lane, Releases};
use kext_types::{
    Address, Arrival, Capacities, Config, Decision, Direction, FlowKey, Interface, IpVersion,
    PacketId, Reason, Timestamp, Verdict, protocol,
};

use crate::spin::Spin;

/// An engine with the locks of a kernel.
pub type Bench = Engine<Spin>;

/// The time at which everything happens.
pub const NOW: Timestamp = Timestamp::from_nanos(1_700_000_000_000_000_000);

/// Which way packets go.
pub const ARRIVAL: Arrival = Arrival {
    direction: Direction::Outbound,
    interface: Interface {
        index: 1,
        sub_index: 0,
    },
    compartment: 1,
    process_id: None,
    passes: 0,
    path_mtu: None,
};

/// A verdict for one packet.
pub const ONCE: Decision = Decision {
    verdict: Verdict::Accept,
    permanent: false,
};

const ACCEPT: Decision = Decision {
    verdict: Verdict::Accept,
    permanent: true,
};

/// How flows differ.
#[derive(Clone, Copy)]
pub enum Spread {
    /// By local port and remote address.
    Both,
    /// By remote address only: all on one local port.
    OnePort,
}

impl Spread {
    fn ends(self, flow: u32) -> (u16, [u8; 4]) {
        match self {
            Self::Both => (
                1_024 + (flow & 0x3fff) as u16,
                (0x0b00_0000 + (flow >> 14)).to_be_bytes(),
            ),
            Self::OnePort => (40_000, (0x0b00_0000 + flow).to_be_bytes()),
        }
    }

    /// The flow with a number.
    #[must_use]
    pub fn key(self, flow: u32) -> FlowKey {
        let (local_port, remote) = self.ends(flow);
        FlowKey {
            local: Address::v4([192, 0, 2, 10]),
            remote: Address::v4(remote),
            local_port,
            remote_port: 443,
            version: IpVersion::V4,
            protocol: protocol::TCP,
        }
    }

    /// A TCP segment of the flow: 64 bytes with 24 of payload.
    #[must_use]
    pub fn packet(self, flow: u32) -> Packet {
        let (local_port, remote) = self.ends(flow);
        let mut packet = [0; 64];
        packet[0] = 0x45;
        packet[3] = 64;
        packet[8] = 64;
        packet[9] = protocol::TCP;
        packet[12..16].copy_from_slice(&[192, 0, 2, 10]);
        packet[16..20].copy_from_slice(&remote);
        packet[20..22].copy_from_slice(&local_port.to_be_bytes());
        packet[22..24].copy_from_slice(&443_u16.to_be_bytes());
        packet[32] = 0x50;
        packet[33] = 0x10;
        packet
    }
}

/// A packet.
pub type Packet = [u8; 64];

/// An engine with room for so many flows, and a reader.
pub fn engine(flows: u32, packets: u32) -> Bench {
    let capacities = Capacities {
        flows,
        packets,
        packet_bytes: 32 << 20,
        ..Capacities::default()
    };
    let engine = Engine::try_new(capacities, Config::default(), 42).expect("memory");
    engine.set_reader(true);
    engine
}

/// Presents a packet; says whether it was held.
pub fn present(engine: &Bench, packet: &Packet, now: Timestamp) -> bool {
    present_on(engine, &engine.lane(0), packet, now)
}

/// The same in a lane.
#[inline]
pub fn present_on(engine: &Bench, lane: &Lane<'_>, packet: &Packet, now: Timestamp) -> bool {
    match engine.classify_on(lane, &packet[..], packet.len(), &ARRIVAL, now) {
        Classified::Held { .. } => true,
        Classified::Settled { settled, .. } => {
            settled.obligation.end(reason(&settled.action));
            false
        }
    }
}

/// Holds a packet of a new flow and takes its request.
#[inline]
pub fn hold(engine: &Bench, lane: &Lane<'_>, spread: Spread, flow: u32) -> PacketId {
    assert!(present_on(engine, lane, &spread.packet(flow), NOW));
    match engine.deliver(|held| Some(held.info.id)) {
        Delivery::Delivered(id) => id,
        _ => panic!("no request waits"),
    }
}

/// Decides the next request's flow for good, and times the step that caches it.
pub fn time_insertion(engine: &Bench, now: Timestamp) -> u32 {
    let Delivery::Delivered(id) = engine.deliver(|held| Some(held.info.id)) else {
        panic!("no request waits");
    };
    let mut releases = engine.decide(id, ACCEPT, now).expect("a held packet");
    while let Some(release) = {
        let started = Instant::now();
        match releases.next(|len| {
            Some(Buffer {
                bytes: [0; 64],
                len,
            })
        }) {
            None => return u32::try_from(started.elapsed().as_nanos()).unwrap_or(u32::MAX),
            some => some,
        }
    } {
        release
            .settled
            .obligation
            .end(reason(&release.settled.action));
    }
    0
}

/// Takes some requests, as a batch does, with their payload; whether there may be more.
#[inline]
pub fn deliver_some(engine: &Bench, ids: &mut Vec<PacketId>) -> bool {
    let mut payload = [0; 64];
    engine.deliver_some(|held| {
        ids.push(held.info.id);
        Some(std::hint::black_box(held.copy_to(&mut payload)))
    })
}

/// Decides a held packet for itself and lets it go, as the extension does.
#[inline]
pub fn decide_once(engine: &Bench, lane: &Lane<'_>, id: PacketId) {
    let allocate = |len| {
        Some(Buffer {
            bytes: [0; 64],
            len,
        })
    };
    let (first, releases) = engine
        .decide_on(lane, id, ONCE, NOW, allocate)
        .expect("a held packet");
    let first = first.expect("its packet");
    std::hint::black_box(&first.buffer);
    first.settled.obligation.end(reason(&first.settled.action));
    drain(releases);
}

/// Gives the next request a permanent verdict and lets its packets go.
fn decide_next(engine: &Bench, now: Timestamp) {
    let Delivery::Delivered(id) = engine.deliver(|held| Some(held.info.id)) else {
        panic!("no request waits");
    };
    drain(engine.decide(id, ACCEPT, now).expect("a held packet"));
}

/// Lets packets go, each through one buffer on the stack.
pub fn drain(mut releases: Releases<'_, Spin>) -> u32 {
    let mut count = 0;
    while let Some(release) = releases.next(|len| {
        Some(Buffer {
            bytes: [0; 64],
            len,
        })
    }) {
        std::hint::black_box(&release.buffer);
        release
            .settled
            .obligation
            .end(reason(&release.settled.action));
        count += 1;
    }
    count
}

struct Buffer {
    bytes: Packet,
    len: usize,
}

impl AsMut<[u8]> for Buffer {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[..self.len]
    }
}

/// Teaches the engine these flows, one verdict each.
pub fn teach(engine: &Bench, spread: Spread, flows: std::ops::Range<u32>) {
    for flow in flows {
        if present(engine, &spread.packet(flow), NOW) {
            decide_next(engine, NOW);
        }
    }
}

fn reason(action: &Action) -> Reason {
    match *action {
        Action::Permit(reason)
        | Action::Block(reason)
        | Action::Drop(reason)
        | Action::Redirect(reason, _) => reason,
    }
}
