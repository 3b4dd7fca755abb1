//! Any sequence of operations on a small engine, with the invariants checked after each.
//!
//! The input is a list of operations: a byte chooses one, the next few are its arguments. What the
//! engine should answer is the model's matter (`core-rs/engine/tests/model`); this asks less of
//! it, but on every kind of packet, whole or in pieces, with a cache that overflows, and with every
//! operation there is.

#[path = "events.rs"]
mod events;
#[path = "packets.rs"]
mod packets;

use std::collections::{HashMap, HashSet};
use std::net::{Ipv4Addr, SocketAddr};

use kext_engine::{
    Action, Classified, Delivery, EARLY_FRAGMENTS, EarlyFragment, Engine, NotHeld, Releases,
};
use kext_packet::{Headers, rewrite, testing};
use kext_types::{
    Address, Arrival, Capacities, Config, Decision, Direction, FlowInfo, FlowKey, FlowOrigin,
    FragmentPolicy, Interface, PacketId, Policy, ProcessId, Reason, RedirectTarget, Special,
    Timestamp, Traffic, Verdict, VerdictOutcome,
};

use events::Ledger;
use packets::{build, error_about, packet_of};

type Mutex = parking_lot::RawMutex;

const CAPACITIES: Capacities = Capacities {
    flows: 1_024,
    packets: 16,
    packet_bytes: 1 << 17,
    flow_packets: 4,
    fragments: 16,
};
/// The clock's start.
const START: u64 = 1_700_000_000_000_000_000;
/// Longer inputs say no more.
const MAX_OPERATIONS: usize = 512;
/// Ids remembered for verdicts that come late.
const IDS: usize = 32;
/// Flows that floods bring, in all: more than the cache has room for, and than events can wait.
const FLOOD: u16 = 4_096;

/// The rest of the input.
struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    fn bytes(&mut self, len: usize) -> &'a [u8] {
        let (bytes, rest) = self.0.split_at(len.min(self.0.len()));
        self.0 = rest;
        bytes
    }
}

/// Runs the operations of this input, then closes the engine and lets everything go.
pub(crate) fn operate(bytes: &[u8]) {
    let mut scene = Scene::new();
    let mut input = Input(bytes);
    for _ in 0..MAX_OPERATIONS {
        if scene.step(&mut input).is_none() {
            break;
        }
        scene.check();
        scene.observe();
    }
    scene.close();
}

struct Scene {
    engine: Engine<Mutex>,
    now: u64,
    /// Packets held by our own count: put in, less those that were let go.
    put_in: u64,
    let_go: u64,
    gone: HashSet<PacketId>,
    ids: Vec<PacketId>,
    flows: Vec<FlowKey>,
    cursor: u64,
    ledger: Ledger,
    /// When it last looked at the cache.
    observed: u64,
    /// When the first of the verdicts was given that the tick may still have to carry out.
    left_to_tick: Option<u64>,
    /// Whether this operation has presented packets.
    presented: bool,
    flooded: u16,
}

impl Scene {
    fn new() -> Self {
        let engine = Engine::try_new(CAPACITIES, Config::default(), 42).unwrap();
        engine.set_reader(true);
        Self {
            engine,
            now: START,
            put_in: 0,
            let_go: 0,
            gone: HashSet::new(),
            ids: Vec::new(),
            flows: Vec::new(),
            cursor: 0,
            ledger: Ledger::default(),
            observed: START,
            left_to_tick: None,
            presented: false,
            flooded: 0,
        }
    }

    fn now(&self) -> Timestamp {
        Timestamp::from_nanos(self.now)
    }

    fn observe(&mut self) {
        let from = self.observed.min(self.left_to_tick.unwrap_or(u64::MAX));
        let times = [from, self.now].map(Timestamp::from_nanos);
        self.ledger.observe(&self.engine, times, self.presented);
        (self.observed, self.presented) = (self.now, false);
    }

    /// `None` at the end of the input.
    fn step(&mut self, input: &mut Input<'_>) -> Option<()> {
        let operation = input.byte()?;
        if let Some(rare) = operation.checked_sub(240) {
            return self.rare_step(rare, input);
        }
        match operation % 20 {
            0..=5 => self.present_built(input)?,
            6 => self.present_raw(input)?,
            7 => self.present_fragment(input)?,
            8 | 9 => self.deliver(input.byte()?),
            10 | 11 => self.decide(input.byte()?, input.byte()?),
            12 => self.tick(input.byte()?),
            13 => {
                // Up to twice the idle limit, in steps from a millisecond.
                let shift = input.byte()? % 21;
                self.now += 1_000_000 << shift;
            }
            14 => self.configure(input.byte()?, input.byte()?),
            15 => match input.byte()? % 4 {
                0 => self.engine.set_reader(false),
                1 => self.settle_abandoned(),
                _ => self.engine.set_reader(true),
            },
            16 => self.update(input.byte()?, input.byte()?),
            17 => {
                self.engine.clear_cache();
                self.ledger.clear();
            }
            18 => self.list(input.byte()?),
            _ => self.ask(input.byte()?),
        }
        Some(())
    }

    /// What came later, or would take too much of the time. Stored inputs mean what they did.
    fn rare_step(&mut self, rare: u8, input: &mut Input<'_>) -> Option<()> {
        match rare {
            0 | 1 => self.ledger.keep(&self.engine, input.byte()? % 4 != 0),
            2 => self.ledger.hoard(&self.engine, input.byte()? % 4 != 0),
            3 | 4 => self.look_up(input.byte()?),
            5 | 6 => self.flood(input.byte()?),
            7..=9 => self.present_error(input)?,
            10 | 11 => self.present_answer(input.byte()?, input.byte()?),
            12 | 13 => self.limit(input.byte()?, input.byte()?),
            14 => self.reopen(),
            _ => self.engine.drop_early(),
        }
        Some(())
    }

    // ---- packets --------------------------------------------------------------------------------

    fn present_built(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (ends, kind, arrival) = (input.byte()?, input.byte()?, input.byte()?);
        let packet = build(ends, kind);
        self.present(&packet, packet.len(), arrival);
        Some(())
    }

    /// Bytes as they come, perhaps cut by a capture.
    fn present_raw(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (len, missing, arrival) = (input.byte()?, input.byte()?, input.byte()?);
        let bytes = input.bytes(len.into());
        self.present(bytes, bytes.len() + usize::from(missing), arrival);
        Some(())
    }

    /// A piece of a built IPv4 datagram, whole or in conflict with others.
    fn present_fragment(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (ends, kind, arrival) = (input.byte()?, input.byte()?, input.byte()?);
        let (place, id) = (input.byte()?, input.byte()? % 8);
        let mut packet = build(ends & 0x7f, kind);
        if packet.first()? >> 4 == 4 {
            let offset = u16::from(place & 0x7f);
            let more = u16::from(place >> 7) << 13;
            packet.get_mut(4..6)?.copy_from_slice(&[0, id]);
            packet
                .get_mut(6..8)?
                .copy_from_slice(&(offset | more).to_be_bytes());
            testing::fix_ipv4_header(&mut packet);
        }
        self.present(&packet, packet.len(), arrival);
        Some(())
    }

    /// An ICMP error about a built packet that goes the other way, whole or without its end.
    fn present_error(&mut self, input: &mut Input<'_>) -> Option<()> {
        let (ends, kind, arrival) = (input.byte()?, input.byte()?, input.byte()?);
        let cut = usize::from(input.byte()? & 0x3f);
        let quoted = build(ends, kind);
        self.present_about(quoted.get(..quoted.len() - cut.min(quoted.len()))?, arrival);
        Some(())
    }

    fn present_about(&mut self, quoted: &[u8], arrival: u8) {
        if let Some(error) = error_about(quoted) {
            self.present(&error, error.len(), arrival);
        }
    }

    /// A packet of the flow of the answers to a redirected one, or an ICMP error about one.
    fn present_answer(&mut self, which: u8, arrival: u8) {
        let mut ways_back = Vec::new();
        self.engine.list_flows(0, |info| {
            if info.origin == FlowOrigin::WayBack {
                ways_back.push(info.flow);
            }
            ways_back.len() <= usize::from(which & 0x7f)
        });
        let Some(flow) = ways_back.last() else {
            return;
        };
        let inbound = arrival & 1 != 0;
        if which & 0x80 == 0 {
            let packet = packet_of(flow, inbound);
            self.present(&packet, packet.len(), arrival);
        } else {
            self.present_about(&packet_of(flow, !inbound), arrival);
        }
    }

    /// Many flows, each of which is permitted for good, if somebody is there to ask.
    fn flood(&mut self, eights: u8) {
        for _ in 0..=u16::from(eights) * 8 {
            if self.flooded == FLOOD {
                return;
            }
            self.flooded += 1;
            self.now += 5_000;
            let source = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 1).into(), 20_000 + self.flooded);
            let destination = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 2).into(), 443);
            let mut out = [0; 64];
            let packet = testing::udp(&mut out, source, destination, &[0; 16]);
            self.present(packet, packet.len(), 0);
            // Bound: the requests that can wait.
            for _ in 0..CAPACITIES.packets {
                if self.engine.queued_requests() == 0 {
                    break;
                }
                self.deliver(0);
                let id = *self.ids.last().expect("delivered");
                let flow = self.engine.look(id, |held| held.info.flow);
                if flow.is_ok_and(|flow| flow.local_port == source.port()) {
                    self.decide(0, 1);
                }
            }
            let (flow, now) = (
                testing::parse(packet).flow_key(Direction::Outbound),
                self.now(),
            );
            if self.engine.lookup(&flow, now) == Some(Verdict::Accept) {
                self.ledger.cached(FlowInfo {
                    flow,
                    verdict: Verdict::Accept,
                    origin: FlowOrigin::Verdict,
                    process_id: None,
                    outbound: Traffic {
                        packets: 1,
                        bytes: packet.len() as u64,
                    },
                    inbound: Traffic::default(),
                    payload_outbound: 0,
                    payload_inbound: 0,
                    first_seen: now,
                    last_seen: now,
                });
            }
        }
    }

    fn present(&mut self, packet: &[u8], on_wire: usize, arrival: u8) {
        self.presented = true;
        let arrival = Arrival {
            direction: if arrival & 1 == 0 {
                Direction::Outbound
            } else {
                Direction::Inbound
            },
            interface: Interface {
                index: 3,
                sub_index: 0,
            },
            compartment: 1,
            process_id: ProcessId::new(u64::from(arrival & 2)),
            passes: arrival.saturating_sub(240),
            path_mtu: None,
        };
        let classified = self.engine.classify(packet, on_wire, &arrival, self.now());
        if end_presented(classified, packet) {
            self.put_in += 1;
            let headers = Headers::parse(packet, on_wire).expect("held, so parsed");
            let flow = headers.flow_key(arrival.direction);
            if !self.flows.contains(&flow) && self.flows.len() < IDS {
                self.flows.push(flow);
            }
        }
        let first = Headers::parse(packet, on_wire).ok();
        let direction = arrival.direction;
        // Bound: as many as can wait.
        for _ in 0..EARLY_FRAGMENTS {
            let allocate = |len| Some(vec![0; len]);
            let early = first
                .as_ref()
                .and_then(|first| self.engine.next_early(first, direction, allocate));
            let Some(early) = early else {
                assert!(
                    !self.engine.has_early(),
                    "a first fragment left some behind"
                );
                return;
            };
            let EarlyFragment {
                obligation,
                arrival,
                on_wire,
                buffer,
            } = early;
            self.let_go += 1;
            let packet = buffer.expect("memory is never short here");
            let size = on_wire as usize;
            let now = self.now();
            let again = self
                .engine
                .classify_early(obligation, &packet, size, &arrival, now);
            self.put_in += u64::from(end_presented(again, &packet));
        }
    }

    // ---- requests and verdicts ------------------------------------------------------------------

    fn deliver(&mut self, how: u8) {
        let before = self.engine.queued_requests();
        let delivered = self.engine.deliver(|held| {
            let mut bytes = vec![0; held.info.held_len as usize + 1];
            assert_eq!(held.copy_to(&mut bytes), held.info.held_len as usize);
            (how < 250).then_some(held.info.id)
        });
        match delivered {
            Delivery::Empty => assert_eq!(before, 0),
            Delivery::Refused => assert_eq!(self.engine.queued_requests(), before),
            Delivery::Delivered(id) => {
                assert_eq!(self.engine.queued_requests(), before - 1);
                assert!(!self.gone.contains(&id), "asked for after it went");
                assert_eq!(self.engine.resolve_v1(id.v1()), Ok(id));
                if self.ids.len() == IDS {
                    self.ids.remove(0);
                }
                self.ids.push(id);
            }
        }
    }

    fn decide(&mut self, which: u8, what: u8) {
        let verdict = Verdict::ALL[usize::from(what >> 2) % Verdict::ALL.len()];
        let decision = Decision {
            verdict,
            permanent: what & 1 != 0,
        };
        let id = match self.ids.iter().rev().nth(usize::from(which) % IDS) {
            Some(id) => *id,
            None => match PacketId::new(u64::from(which) << 4) {
                Some(id) => id,
                None => return,
            },
        };
        let held = self.engine.look(id, |held| held.info.id);
        // One in two is left to the tick.
        let most = if what & 2 == 0 { u32::MAX } else { 1 };
        if most == 1 {
            self.left_to_tick.get_or_insert(self.now);
        }
        let decided = self.engine.decide(id, decision, self.now());
        match decided.map(|releases| drain(releases, most)) {
            Ok(gone) => {
                assert_eq!(held, Ok(id));
                self.note(gone);
            }
            Err(not_held) => {
                let decided = not_held.outcome == VerdictOutcome::AlreadyDecided;
                assert!(decided || held == Err(not_held));
            }
        }
    }

    fn ask(&mut self, what: u8) {
        let id = PacketId::new(u64::from(what)).and_then(|id| self.engine.look(id, |_| ()).err());
        if let Some(not_held) = id {
            assert_eq!(self.engine.refuse(not_held), not_held);
        }
        let _: Result<PacketId, NotHeld> = self.engine.resolve_v1(u32::from(what) << 24);
        let _ = self.engine.may_reply(self.now());
    }

    // ---- time -----------------------------------------------------------------------------------

    /// Some of what is due, or all of it.
    fn tick(&mut self, how: u8) {
        // Bound: each release but the last of a flow takes a packet.
        for _ in 0..u32::from(how) {
            let Some(releases) = self.engine.tick(self.now()) else {
                // What was cached by the tick is observed with its verdict's time.
                self.observe();
                self.left_to_tick = None;
                break;
            };
            let gone = drain(releases, if how & 1 == 0 { u32::MAX } else { 2 });
            self.note(gone);
        }
    }

    fn settle_abandoned(&mut self) {
        for _ in 0..=CAPACITIES.packets * 2 {
            let Some(releases) = self.engine.settle_abandoned() else {
                return;
            };
            let gone = drain(releases, u32::MAX);
            self.note(gone);
        }
        panic!("the abandoned packets have no end");
    }

    // ---- configuration and cache ----------------------------------------------------------------

    fn configure(&mut self, a: u8, b: u8) {
        let bit = |byte: u8, bit: u8| byte >> bit & 1 != 0;
        let policy = |block| if block { Policy::Block } else { Policy::Permit };
        let special = |ask| if ask { Special::Ask } else { Special::Permit };
        let config = Config {
            no_reader: policy(bit(a, 0)),
            unparsable: policy(bit(a, 1)),
            hold_limit: policy(bit(a, 2)),
            fragments: match a >> 3 & 3 {
                0 | 1 => FragmentPolicy::Follow,
                2 => FragmentPolicy::Block,
                _ => FragmentPolicy::Permit,
            },
            infrastructure: special(bit(a, 5)),
            broadcast: special(bit(a, 6)),
            multicast: special(bit(a, 7)),
            fast_track: special(bit(b, 0)),
            ask_each_packet: bit(b, 1),
            // Zero is out of range.
            loop_limit: b >> 2 & 7,
            replies_per_second: u32::from(b >> 5),
            ..self.engine.config()
        };
        self.set_config(config);
    }

    /// Limits of time, and where redirects go.
    fn limit(&mut self, a: u8, b: u8) {
        // Some are out of range.
        let steps = [500, 1_000, 5_000, 60_000, 600_000, 86_400_000, 86_400_001];
        let ms = |choice: u8| steps[usize::from(choice) % steps.len()];
        let target = RedirectTarget {
            v4: if b & 0x40 == 0 {
                Address::UNSPECIFIED
            } else {
                Address::v4([203, 0, 113, 53])
            },
            v6: Address::UNSPECIFIED,
            port: 53 + u16::from(b >> 7),
        };
        let config = Config {
            flow_idle_ms: ms(a & 7),
            flow_closed_ms: ms(a >> 3 & 7),
            hold_limit_ms: ms(b & 7),
            redirect_dns: target,
            ..self.engine.config()
        };
        self.set_config(config);
    }

    fn set_config(&self, config: Config) {
        let before = self.engine.config();
        let in_force = match self.engine.set_config(config) {
            Ok(()) => config,
            Err(_) => before,
        };
        assert_eq!(self.engine.config(), in_force);
    }

    fn update(&mut self, which: u8, what: u8) {
        let Some(flow) = self.flows.get(usize::from(which) % IDS) else {
            return;
        };
        let verdict = Verdict::ALL[usize::from(what) % Verdict::ALL.len()];
        self.engine.update_verdict(flow, verdict, self.now());
    }

    fn look_up(&mut self, which: u8) {
        let Some(flow) = self.flows.get(usize::from(which) % IDS) else {
            return;
        };
        let verdict = self.engine.lookup(flow, self.now());
        // It was seen now, and is there again.
        assert_eq!(self.engine.lookup(flow, self.now()), verdict);
    }

    /// What a host does when its device is closed, and when it is opened again.
    fn reopen(&mut self) {
        self.engine.set_reader(false);
        self.settle_abandoned();
        self.engine.drop_early();
        self.ledger.keep(&self.engine, false);
        assert_eq!(self.engine.queued_requests(), 0);
        self.engine.set_reader(true);
    }

    fn list(&mut self, room: u8) {
        let mut left = room;
        let mut has_room = || {
            let room = left > 0;
            left = left.saturating_sub(1);
            room
        };
        if room & 1 == 0 {
            let mut seen = HashMap::new();
            self.cursor = self.engine.list_flows(self.cursor, |info| {
                assert!(info.first_seen <= info.last_seen);
                let shown = has_room();
                if shown {
                    let before = seen.insert(info.flow, info.verdict);
                    assert!(before.is_none(), "a flow shown twice");
                }
                shown
            });
        } else {
            let mut seen = HashSet::new();
            self.engine.report_traffic(|flow, bytes| {
                assert_ne!(bytes, [0, 0], "a report of nothing");
                let shown = has_room();
                assert!(!shown || seen.insert(*flow), "a flow reported twice");
                shown
            });
        }
    }

    // ---- what must hold -------------------------------------------------------------------------

    fn note(&mut self, gone: Vec<PacketId>) {
        self.let_go += gone.len() as u64;
        for id in gone {
            assert!(self.gone.insert(id), "{id:?} went twice");
            assert!(
                self.engine.look(id, |_| ()).is_err(),
                "{id:?} is held after it went"
            );
        }
    }

    fn check(&self) {
        let counters = self.engine.counters();
        let totals = counters.totals();
        assert!(totals.balanced(), "{totals:?}");
        let room = u64::from(CAPACITIES.packets) + u64::from(EARLY_FRAGMENTS);
        assert!(totals.held <= room, "{totals:?}");
        assert!(u64::from(self.engine.queued_requests()) <= totals.held);
        let made_room = [Reason::DroppedPacketCacheFull, Reason::DroppedFlowFull];
        let made_room: u64 = made_room.map(|reason| counters.reason(reason)).iter().sum();
        let accounted = self.let_go + made_room + totals.held;
        // Early fragments that nobody came for have ended too; other orphans were never put in.
        let orphans = counters.reason(Reason::DroppedFragmentOrphan);
        assert!(
            (accounted..=accounted + orphans).contains(&self.put_in),
            "one end each"
        );
    }

    /// Without a reader nothing stays.
    fn close(mut self) {
        self.ledger.hoard(&self.engine, false);
        self.engine.set_reader(false);
        self.tick(0xfe);
        self.engine.drop_early();
        self.check();
        assert_eq!(self.engine.counters().totals().held, 0, "hostages");
        assert_eq!(self.engine.queued_requests(), 0);
        assert!(self.engine.tick(self.now()).is_none());
        self.observe();
    }
}

/// Ends a packet as it was decided; says whether it is held instead.
fn end_presented(classified: Classified<'_>, packet: &[u8]) -> bool {
    match classified {
        Classified::Held { .. } => true,
        Classified::Settled { settled, headers } => {
            if let Action::Redirect(_, change) = &settled.action {
                let headers = headers.expect("redirected, so parsed");
                let _ = rewrite::rewrite(&mut packet.to_vec(), &headers, change);
            }
            settled.obligation.end(reason(&settled.action));
            false
        }
    }
}

/// Lets packets go, at most so many, and says which.
fn drain(mut releases: Releases<'_, Mutex>, most: u32) -> Vec<PacketId> {
    let mut gone: Vec<PacketId> = Vec::new();
    for _ in 0..most {
        let Some(release) = releases.next(|len| Some(vec![0_u8; len])) else {
            break;
        };
        let info = release.info;
        if let Some(before) = gone.last() {
            assert!(before.get() < info.id.get(), "{before:?} was overtaken");
        }
        gone.push(info.id);
        match (&release.settled.action, &release.buffer) {
            (Action::Drop(_), None) => {}
            (action, Some(bytes)) => {
                assert_eq!(bytes.len(), info.held_len as usize);
                let headers = Headers::parse(bytes, info.size as usize).expect("parsed before");
                let direction = info.arrival.direction;
                let own = headers.flow_key(direction);
                if !headers.is_later_fragment() && own != info.flow {
                    let about = headers.quoted_flow(bytes, direction);
                    assert_eq!(about, Some(info.flow), "held under a strange flow");
                }
                if let Action::Redirect(_, change) = action {
                    let _ = rewrite::rewrite(&mut bytes.clone(), &headers, change);
                }
            }
            (action, buffer) => panic!("{action:?} with {:?}", buffer.is_some()),
        }
        let reason = reason(&release.settled.action);
        release.settled.obligation.end(reason);
    }
    gone
}

fn reason(action: &Action) -> Reason {
    match *action {
        Action::Permit(reason)
        | Action::Block(reason)
        | Action::Drop(reason)
        | Action::Redirect(reason, _) => reason,
    }
}
