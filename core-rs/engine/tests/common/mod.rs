//! An engine on a bench: a clock that stands still, packets by the line, and every release drained.

// Each test crate uses a part of it.
#![allow(dead_code)]

use std::cell::Cell;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use kext_engine::{Action, Classified, Delivery, Engine, NotHeld, Releases};
use kext_packet::Headers;
use kext_packet::TcpFlags;
use kext_packet::testing::{self, Tcp};
use kext_types::{
    Arrival, Capacities, Config, Decision, Direction, Event, Interface, PacketId, Reason,
    RequestInfo, Timestamp, Verdict, VerdictOutcome,
};

/// The lock of the tests' engines.
pub(crate) type Mutex = parking_lot::RawMutex;

/// Where the bench's clock starts: 2023-11-14.
const START: u64 = 1_700_000_000_000_000_000;

/// How a presented packet went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// It is held; whether a request was raised.
    Held(bool),
    /// It ended so.
    Ended(Action),
}

impl End {
    /// The reason that the packet ended for; a held packet fails the test.
    #[track_caller]
    pub(crate) fn reason(self) -> Reason {
        match self {
            Self::Ended(action) => reason(&action),
            Self::Held(_) => panic!("the packet is held"),
        }
    }
}

/// The reason of an action.
pub(crate) fn reason(action: &Action) -> Reason {
    match *action {
        Action::Permit(reason)
        | Action::Block(reason)
        | Action::Drop(reason)
        | Action::Redirect(reason, _) => reason,
    }
}

/// A packet that left the packet cache.
#[derive(Debug)]
pub(crate) struct Out {
    pub(crate) action: Action,
    pub(crate) info: RequestInfo,
    pub(crate) bytes: Option<Vec<u8>>,
}

impl Out {
    pub(crate) fn reason(&self) -> Reason {
        reason(&self.action)
    }
}

/// The reasons of packets that left, in order.
pub(crate) fn reasons(out: &[Out]) -> Vec<Reason> {
    out.iter().map(Out::reason).collect()
}

/// The last byte of each packet that left, in order: the tests number packets by it.
#[track_caller]
pub(crate) fn marks(out: &[Out]) -> Vec<u8> {
    out.iter()
        .map(|out| *out.bytes.as_ref().expect("bytes").last().unwrap())
        .collect()
}

/// Asks for every release, copies its bytes, and counts it.
pub(crate) fn drain(releases: Releases<'_, Mutex>) -> Vec<Out> {
    drain_then(releases, |_| {})
}

/// The same, with something done after each release and before the next is asked for.
pub(crate) fn drain_then(
    mut releases: Releases<'_, Mutex>,
    mut then: impl FnMut(&Out),
) -> Vec<Out> {
    let mut all = Vec::new();
    while let Some(release) = releases.next(|len| Some(vec![0; len])) {
        let out = Out {
            action: release.settled.action,
            info: release.info,
            bytes: release.buffer,
        };
        release.settled.obligation.end(out.reason());
        then(&out);
        all.push(out);
    }
    all
}

/// An engine and its clock.
pub(crate) struct Bench {
    pub(crate) engine: Engine<Mutex>,
    now: Cell<u64>,
    /// The packet presented last, and the way it went.
    last: Cell<Option<(Headers, Direction)>>,
}

/// Small capacities: 16 packets, 8 a flow.
pub(crate) const SMALL: Capacities = Capacities {
    flows: 1_024,
    packets: 16,
    packet_bytes: 1 << 17,
    flow_packets: 8,
    fragments: 16,
};

impl Bench {
    /// An engine with a reader.
    pub(crate) fn new(capacities: Capacities, config: Config) -> Self {
        let engine = Engine::try_new(capacities, config, 42).unwrap();
        engine.set_reader(true);
        Self {
            engine,
            now: Cell::new(START),
            last: Cell::new(None),
        }
    }

    /// One of small capacities and the default configuration.
    pub(crate) fn small() -> Self {
        Self::new(SMALL, Config::default())
    }

    /// One of small capacities and the default configuration, changed.
    pub(crate) fn with(change: impl FnOnce(&mut Config)) -> Self {
        let mut config = Config::default();
        change(&mut config);
        Self::new(SMALL, config)
    }

    pub(crate) fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now.get())
    }

    pub(crate) fn sleep(&self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap();
        self.now.set(self.now.get() + ns);
    }

    /// Presents a packet and counts its end.
    pub(crate) fn present(&self, packet: &[u8], arrival: &Arrival) -> End {
        if let Ok(headers) = Headers::parse(packet, packet.len()) {
            self.last.set(Some((headers, arrival.direction)));
        }
        Self::end_of(
            self.engine
                .classify(packet, packet.len(), arrival, self.now()),
        )
    }

    /// Lets the fragments go on that waited for the packet presented last: their bytes and ends, in
    /// order.
    pub(crate) fn early(&self) -> Vec<(Vec<u8>, End)> {
        let mut all = Vec::new();
        let Some((first, direction)) = self.last.get() else {
            return all;
        };
        let allocate = |len| Some(vec![0; len]);
        while let Some(early) = self.engine.next_early(&first, direction, allocate) {
            let (size, arrival) = (early.on_wire as usize, early.arrival);
            let bytes: Vec<u8> = early.buffer.unwrap();
            let obligation = early.obligation;
            let end = Self::end_of(self.engine.classify_early(
                obligation,
                &bytes,
                size,
                &arrival,
                self.now(),
            ));
            all.push((bytes, end));
        }
        all
    }

    fn end_of(classified: Classified<'_>) -> End {
        match classified {
            Classified::Held { request_raised } => End::Held(request_raised),
            Classified::Settled { settled, .. } => {
                settled.obligation.end(reason(&settled.action));
                End::Ended(settled.action)
            }
        }
    }

    pub(crate) fn outbound(&self, packet: &[u8]) -> End {
        self.present(packet, &arrival(Direction::Outbound))
    }

    pub(crate) fn inbound(&self, packet: &[u8]) -> End {
        self.present(packet, &arrival(Direction::Inbound))
    }

    /// Takes the next request.
    #[track_caller]
    pub(crate) fn request(&self) -> RequestInfo {
        self.try_request().expect("a request")
    }

    pub(crate) fn try_request(&self) -> Option<RequestInfo> {
        match self.engine.deliver(|held| Some(*held.info)) {
            Delivery::Delivered(info) => Some(info),
            Delivery::Empty => None,
            Delivery::Refused => unreachable!("it was taken"),
        }
    }

    /// Gives a verdict and drains what it sets free.
    pub(crate) fn decide(&self, id: PacketId, decision: Decision) -> Result<Vec<Out>, NotHeld> {
        self.engine.decide(id, decision, self.now()).map(drain)
    }

    /// Gives a verdict that must decide something.
    #[track_caller]
    pub(crate) fn verdict(&self, id: PacketId, decision: Decision) -> Vec<Out> {
        self.decide(id, decision).expect("a held packet")
    }

    /// Presents a packet of a new flow and gives its flow a permanent verdict.
    #[track_caller]
    pub(crate) fn teach(&self, packet: &[u8], direction: Direction, verdict: Verdict) -> Out {
        assert_eq!(self.present(packet, &arrival(direction)), End::Held(true));
        let mut out = self.verdict(self.request().id, always(verdict));
        assert_eq!(out.len(), 1);
        out.remove(0)
    }

    /// Everything that is due now.
    pub(crate) fn tick(&self) -> Vec<Out> {
        let mut all = Vec::new();
        while let Some(releases) = self.engine.tick(self.now()) {
            all.extend(drain(releases));
        }
        all
    }

    /// The reader goes away, and what it leaves is settled.
    pub(crate) fn abandon(&self) -> Vec<Out> {
        self.engine.set_reader(false);
        let mut all = Vec::new();
        while let Some(releases) = self.engine.settle_abandoned() {
            all.extend(drain(releases));
        }
        all
    }

    pub(crate) fn reason(&self, reason: Reason) -> u64 {
        self.engine.counters().reason(reason)
    }

    pub(crate) fn event(&self, event: Event) -> u64 {
        self.engine.counters().event(event)
    }

    /// The balance, which holds whenever nothing is under way.
    #[track_caller]
    pub(crate) fn assert_balanced(&self, held: u64) {
        let totals = self.engine.counters().totals();
        assert!(totals.balanced(), "{totals:?}");
        assert_eq!(totals.held, held, "held");
        assert_eq!(self.reason(Reason::DroppedUnsettled), 0, "unsettled");
    }
}

/// A permanent verdict.
pub(crate) const fn always(verdict: Verdict) -> Decision {
    Decision {
        verdict,
        permanent: true,
    }
}

/// A verdict for one packet.
pub(crate) const fn once(verdict: Verdict) -> Decision {
    Decision {
        verdict,
        permanent: false,
    }
}

/// The outcome of a verdict that found nothing.
pub(crate) const fn not_held(outcome: VerdictOutcome) -> NotHeld {
    NotHeld { outcome, first: 0 }
}

pub(crate) const fn arrival(direction: Direction) -> Arrival {
    Arrival {
        direction,
        interface: Interface {
            index: 3,
            sub_index: 0,
        },
        compartment: 1,
        process_id: None,
        passes: 0,
        path_mtu: None,
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

pub(crate) fn end(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

/// This machine and another one.
pub(crate) const HERE: &str = "192.0.2.10:40000";
pub(crate) const THERE: &str = "198.51.100.20:443";

/// A datagram whose last byte is `mark`.
pub(crate) fn udp(source: &str, destination: &str, mark: u8) -> Vec<u8> {
    udp_of(source, destination, &[mark])
}

pub(crate) fn udp_of(source: &str, destination: &str, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0; payload.len() + 48];
    testing::udp(&mut out, end(source), end(destination), payload).to_vec()
}

/// A datagram of flow number `flow`, out of this machine.
pub(crate) fn numbered(flow: u16, mark: u8) -> Vec<u8> {
    udp(&format!("192.0.2.10:{}", 10_000 + flow), THERE, mark)
}

pub(crate) fn tcp(source: &str, destination: &str, flags: TcpFlags) -> Vec<u8> {
    let segment = Tcp {
        flags,
        sequence: 1,
        acknowledgement: 1,
        payload: &[],
    };
    let mut out = vec![0; 60];
    testing::tcp(&mut out, end(source), end(destination), &segment).to_vec()
}

/// An echo request.
pub(crate) fn ping(source: &str, destination: &str) -> Vec<u8> {
    let mut out = vec![0; 60];
    let rest = [0, 1, 0, 1];
    testing::icmp(&mut out, ip(source), ip(destination), (8, 0), rest, b"ping").to_vec()
}

/// Makes an IPv4 fragment of a packet without options: its data from `offset` on, `len` bytes.
pub(crate) fn fragment(packet: &[u8], id: u16, offset: usize, len: usize) -> Vec<u8> {
    let (header, data) = packet.split_at(20);
    let piece = &data[offset..data.len().min(offset + len)];
    let more = offset + piece.len() < data.len();
    let mut out = [header, piece].concat();
    let total = u16::try_from(out.len()).unwrap();
    let field = u16::try_from(offset / 8).unwrap() | if more { 0x2000 } else { 0 };
    out[2..4].copy_from_slice(&total.to_be_bytes());
    out[4..6].copy_from_slice(&id.to_be_bytes());
    out[6..8].copy_from_slice(&field.to_be_bytes());
    testing::fix_ipv4_header(&mut out);
    out
}
