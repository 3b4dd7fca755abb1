//! The model's verdict cache: a map, with the events of what leaves it.
//!
//! It never fills: pushing flows out is left to other tests.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use kext_engine::Action;
use kext_packet::TcpFlags;
use kext_types::{
    Config, Direction, FlowEnd, FlowEnded, FlowInfo, FlowKey, FlowOrigin, ProcessId, Timestamp,
    Traffic, Verdict,
};

use crate::fate::{Fate, Translation, can_be_redirected, ends, first_port};

/// How many events wait at most.
const EVENTS: usize = 1_024;
/// How many source ports a redirected flow tries.
const PORTS: u16 = 16;

/// What is known of a flow's packets.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stats {
    traffic: [Traffic; 2],
    process_id: Option<ProcessId>,
    first_seen: Timestamp,
    last_seen: Timestamp,
    pub(crate) opened: Direction,
    fins: [bool; 2],
    reset: bool,
}

/// A packet as the model sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seen {
    pub(crate) way: Direction,
    pub(crate) process_id: Option<ProcessId>,
    pub(crate) size: u64,
    /// Of a TCP segment.
    pub(crate) flags: Option<TcpFlags>,
}

impl Stats {
    pub(crate) fn new(opened: Direction, now: Timestamp) -> Self {
        Self {
            traffic: [Traffic::default(); 2],
            process_id: None,
            first_seen: now,
            last_seen: now,
            opened,
            fins: [false; 2],
            reset: false,
        }
    }

    pub(crate) fn add(&mut self, packet: &Seen, now: Timestamp) {
        self.add_error(packet);
        self.process_id = packet.process_id.or(self.process_id);
        self.last_seen = now;
        let Some(flags) = packet.flags else { return };
        if flags.contains(TcpFlags::SYN) {
            (self.fins, self.reset) = ([false; 2], false);
        }
        self.reset |= flags.contains(TcpFlags::RST);
        self.fins[packet.way as usize] |= flags.contains(TcpFlags::FIN);
    }

    /// An ICMP error about the flow.
    pub(crate) fn add_error(&mut self, packet: &Seen) {
        let traffic = &mut self.traffic[packet.way as usize];
        traffic.packets += 1;
        traffic.bytes += packet.size;
    }

    fn is_closed(&self) -> bool {
        self.reset || self.fins == [true; 2]
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    fate: Fate,
    origin: FlowOrigin,
    epoch: u32,
    stats: Stats,
}

#[derive(Default)]
pub(crate) struct Cache {
    entries: HashMap<FlowKey, Entry>,
    epoch: u32,
    pub(crate) cached: u64,
    pub(crate) expired: u64,
    keeps_events: bool,
    pub(crate) events: VecDeque<FlowEnded>,
    pub(crate) lost: u64,
}

impl Entry {
    fn has_verdict(&self) -> bool {
        matches!(self.fate, Fate::Verdict(..))
    }

    fn info(&self, flow: &FlowKey) -> FlowInfo {
        let [outbound, inbound] = self.stats.traffic;
        FlowInfo {
            flow: *flow,
            verdict: self.fate.verdict(),
            origin: self.origin,
            process_id: self.stats.process_id,
            outbound,
            inbound,
            payload_outbound: 0,
            payload_inbound: 0,
            first_seen: self.stats.first_seen,
            last_seen: self.stats.last_seen,
        }
    }

    fn is_idle(&self, config: &Config, now: Timestamp) -> bool {
        let limit = if self.stats.is_closed() {
            config.flow_closed_ms
        } else {
            config.flow_idle_ms
        };
        now.since(self.stats.last_seen) > Duration::from_millis(limit.into())
    }

    fn end_by_time(&self) -> FlowEnd {
        if self.stats.is_closed() {
            FlowEnd::Closed
        } else {
            FlowEnd::Idle
        }
    }
}

impl Cache {
    // ---- events ---------------------------------------------------------------------------------

    pub(crate) fn keep_events(&mut self, keep: bool) {
        self.keeps_events = keep;
        if !keep {
            self.events.clear();
        }
    }

    fn leaves(&mut self, flow: &FlowKey, entry: &Entry, end: FlowEnd) {
        let end = if entry.epoch == self.epoch {
            end
        } else {
            FlowEnd::Cleared
        };
        self.expired += u64::from(matches!(end, FlowEnd::Idle | FlowEnd::Closed));
        if self.keeps_events && entry.has_verdict() {
            if self.events.len() < EVENTS {
                let flow = entry.info(flow);
                self.events.push_back(FlowEnded { flow, end });
            } else {
                self.lost += 1;
            }
        }
    }

    // ---- flows ----------------------------------------------------------------------------------

    pub(crate) fn clear(&mut self) {
        self.epoch += 1;
    }

    /// Everything that a list shows.
    pub(crate) fn list(&self) -> HashMap<FlowKey, FlowInfo> {
        let live = self.entries.iter().filter(|(_, e)| e.epoch == self.epoch);
        live.map(|(flow, entry)| (*flow, entry.info(flow)))
            .collect()
    }

    /// The flows of the answers to flows that are redirected, in an order of their own, with the
    /// direction of the answers.
    pub(crate) fn ways_back(&self) -> Vec<(FlowKey, Direction)> {
        let mut all: Vec<_> = self
            .entries
            .iter()
            .filter_map(|(flow, entry)| match entry.fate {
                Fate::WayBack(_, direction, _) => Some((*flow, direction)),
                Fate::Verdict(..) => None,
            })
            .collect();
        all.sort_by_key(|(flow, _)| (flow.protocol, flow.local_port, flow.remote_port));
        all
    }

    fn live(&mut self, flow: &FlowKey, config: &Config, now: Timestamp) -> Option<&mut Entry> {
        let entry = *self.entries.get(flow)?;
        if entry.epoch != self.epoch || entry.is_idle(config, now) {
            self.leaves(flow, &entry, entry.end_by_time());
            self.entries.remove(flow);
        }
        self.entries.get_mut(flow)
    }

    pub(crate) fn lookup(
        &mut self,
        flow: &FlowKey,
        config: &Config,
        now: Timestamp,
    ) -> Option<Verdict> {
        let entry = self.live(flow, config, now)?;
        entry.stats.last_seen = now;
        Some(entry.fate.verdict())
    }

    /// What becomes of a packet of a cached flow, or of an ICMP error about it.
    pub(crate) fn hit(
        &mut self,
        flow: &FlowKey,
        packet: &Seen,
        is_error: bool,
        config: &Config,
        now: Timestamp,
    ) -> Option<Action> {
        let entry = self.live(flow, config, now)?;
        let (fate, way) = (entry.fate, packet.way);
        if matches!(fate, Fate::WayBack(_, back, _) if back != way) {
            return None;
        }
        if is_error {
            entry.stats.add_error(packet);
        } else {
            entry.stats.add(packet, now);
        }
        if let Fate::Verdict(verdict, Some(to)) = fate
            && to.forward == way
            && !self.claim(&to, verdict, flow, config, now)
        {
            let moved = self.fate(verdict, flow, way, config, now);
            if let (Fate::Verdict(_, Some(_)), Some(entry)) = (moved, self.entries.get_mut(flow)) {
                entry.fate = moved;
            }
            return Some(moved.action(flow, way, false));
        }
        Some(fate.action(flow, way, false))
    }

    /// Caches a flow that was decided.
    pub(crate) fn insert(&mut self, flow: &FlowKey, fate: Fate, stats: Stats) {
        if let Some(standing) = self.entries.get(flow).copied() {
            self.leaves(flow, &standing, FlowEnd::Replaced);
        }
        self.put(flow, fate, FlowOrigin::Verdict, stats);
    }

    fn put(&mut self, flow: &FlowKey, fate: Fate, origin: FlowOrigin, stats: Stats) {
        let epoch = self.epoch;
        let entry = Entry {
            fate,
            origin,
            epoch,
            stats,
        };
        self.entries.insert(*flow, entry);
        self.cached += 1;
    }

    pub(crate) fn update(
        &mut self,
        flow: &FlowKey,
        verdict: Verdict,
        config: &Config,
        now: Timestamp,
    ) -> bool {
        let cached = self.entries.get(flow).filter(|entry| {
            entry.epoch == self.epoch && entry.has_verdict() && !entry.is_idle(config, now)
        });
        let Some(opened) = cached.map(|entry| entry.stats.opened) else {
            return false;
        };
        let fate = self.fate(verdict, flow, opened, config, now);
        let entry = self.entries.get_mut(flow).unwrap();
        (entry.fate, entry.origin) = (fate, FlowOrigin::Update);
        true
    }

    // ---- redirects ------------------------------------------------------------------------------

    /// What a verdict means for a flow, where the packet that it is for goes `forward`.
    pub(crate) fn fate(
        &mut self,
        verdict: Verdict,
        flow: &FlowKey,
        forward: Direction,
        config: &Config,
        now: Timestamp,
    ) -> Fate {
        let target = match verdict {
            Verdict::RedirectDns => &config.redirect_dns,
            Verdict::RedirectTunnel => &config.redirect_tunnel,
            _ => return Fate::Verdict(verdict, None),
        };
        if !can_be_redirected(flow) {
            return Fate::Verdict(verdict, None);
        }
        let own = ends(flow, forward).0.1;
        let to = (0..PORTS).find_map(|attempt| {
            let to = Translation {
                forward,
                target: (target.v4, target.port),
                source_port: match attempt {
                    0 => own,
                    _ => 0xc000 | first_port(flow).wrapping_add(attempt - 1) & 0x3fff,
                },
            };
            self.claim(&to, verdict, flow, config, now).then_some(to)
        });
        Fate::Verdict(verdict, to)
    }

    fn claim(
        &mut self,
        to: &Translation,
        verdict: Verdict,
        flow: &FlowKey,
        config: &Config,
        now: Timestamp,
    ) -> bool {
        if to.is_identity(flow) {
            return true;
        }
        let (key, fate) = to.way_back(flow, verdict);
        if let Some(standing) = self.entries.get_mut(&key) {
            if standing.epoch == self.epoch && !standing.is_idle(config, now) {
                let same = standing.fate == fate;
                if same {
                    standing.stats.last_seen = now;
                }
                return same;
            }
            let standing = *standing;
            self.leaves(&key, &standing, standing.end_by_time());
        }
        let stats = Stats::new(to.forward.reversed(), now);
        self.put(&key, fate, FlowOrigin::WayBack, stats);
        true
    }
}
