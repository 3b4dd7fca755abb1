//! The verdict engine: what happens to a packet, decided and counted.
//!
//! # One flow's life
//!
//! A packet is [classified](Engine::classify). Its flow is not in the verdict cache, so a copy goes
//! into the packet cache and a verdict request into the queue; later packets of the flow join it. A
//! reader takes the [request](Engine::deliver) and gives a [verdict](Engine::decide). A permanent one
//! lets every held packet of the flow go in order of arrival, then stands in the verdict cache, where
//! the flow's next packets find it at once. Idle for too long, the flow is asked for again.
//!
//! Where the host can hold a connect before its first packet, a flow may begin so: see
//! [`Engine::authorize`].
//!
//! # Rules of this crate
//!
//! It owns no packet that the host owns, calls nobody back except to allocate a buffer, and never
//! allocates itself after [`Engine::try_new`]. No path's cost grows with the number of entries. What
//! is to be done comes back as a value that has to be settled, and is counted when it is.
//!
//! Locks, in the order in which they may be taken: the packet cache's; inside it one turn to
//! insert into the verdict cache, inside that one of its flows and that flow's cold part; or the
//! settings; or that of what is told of flows. The fragment table's, that of the paths and the reply
//! limiter's are taken alone; that of the events last.

#![no_std]
#![forbid(unsafe_code)]

mod action;
mod authorize;
mod blocks;
mod classify;
mod connects;
mod counters;
mod events;
mod flow_stats;
mod flow_table;
mod fragments;
mod hash;
mod ids;
mod limiter;
mod list;
mod memory;
mod packet_bytes;
mod packet_cache;
mod pending;
mod process_paths;
mod ranges;
mod redirect;
mod release;
mod settings;
mod slots;
mod table;
mod tags;
mod told;
mod verdict_cache;

use kext_sync::atomic::{AtomicU32, Ordering};
use kext_sync::{Lock, RawLock};
use kext_types::{
    Address, Arrival, Capacities, CapacityError, Config, ConfigError, Decision, Direction, Event,
    FlowEnded, FlowInfo, FlowKey, Interface, IpVersion, PacketId, ProcessId, ProcessPath,
    RequestInfo, Timestamp, Verdict,
};

pub use action::{Action, Release, Settled};
pub use classify::{Classified, EarlyFragment};
pub use connects::{Authorized, ConnectId, MAX_CONNECTS};
pub use counters::{Counters, Lane, Obligation, Totals};
pub use fragments::EARLY_FRAGMENTS;
pub use ids::NotHeld;
pub use memory::OutOfMemory;
pub use packet_bytes::PacketBytes;
pub use packet_cache::{Delivery, HeldPacket};
pub use release::Releases;

use action::Fate;
use counters::Tally;
use fragments::FragmentTable;
use hash::KeyHasher;
use limiter::TokenBucket;
use memory::Own;
use packet_cache::{PacketCache, Packets};
use pending::{Decided, Pending};
use process_paths::ProcessPaths;
use redirect::{PORT_ATTEMPTS, Translation};
use settings::Settings;
use told::Told;
use verdict_cache::VerdictCache;

/// Requests delivered before others may come to the lock.
const DELIVERED_AT_ONCE: usize = 32;
/// Payload bytes copied before others may come to the lock.
const COPIED_AT_ONCE: usize = 1 << 14;

/// Why an engine cannot be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartError {
    /// A capacity is out of its range.
    Capacity(CapacityError),
    /// A configuration value is out of its range.
    Config(ConfigError),
    /// The memory for the capacities could not be had.
    Memory(OutOfMemory),
}

impl core::fmt::Display for StartError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Capacity(error) => write!(f, "capacity {error}"),
            Self::Config(error) => write!(f, "configuration value {error}"),
            Self::Memory(error) => error.fmt(f),
        }
    }
}

impl core::error::Error for StartError {}

/// The verdict engine. `R` is the host's lock.
pub struct Engine<R> {
    settings: Own<Settings<R>>,
    counters: Counters,
    flows: Own<VerdictCache<R>>,
    packets: Own<Packets<R>>,
    fragments: Own<Lock<R, FragmentTable>>,
    /// How many early fragments may go on, readable without the lock.
    early_ready: AtomicU32,
    /// How many early fragments wait, likewise.
    early_waiting: AtomicU32,
    replies: Lock<R, TokenBucket>,
    told: Own<Lock<R, Told>>,
    /// Whether anything was ever told of flows: most hosts tell the process with the packet, and see no
    /// payload.
    was_told: AtomicU32,
    paths: Own<Lock<R, ProcessPaths>>,
    /// Whether somebody reads requests, readable without a lock.
    reader: AtomicU32,
    hasher: KeyHasher,
    capacities: Capacities,
}

impl<R: RawLock> Engine<R> {
    /// An engine with all its memory. `seed` keys its hash tables: random in a kernel, fixed where
    /// runs must repeat.
    pub fn try_new(capacities: Capacities, config: Config, seed: u64) -> Result<Self, StartError> {
        capacities.validate().map_err(StartError::Capacity)?;
        config.validate().map_err(StartError::Config)?;
        let allocate = || {
            Ok(Self {
                settings: Own::try_new("settings", || Ok(Settings::new(config)))?,
                counters: Counters::try_new()?,
                flows: Own::try_new("verdict cache", || VerdictCache::try_new(capacities.flows))?,
                packets: Own::try_new("packet cache", || Packets::try_new(&capacities))?,
                fragments: Own::try_new("fragment table", || {
                    FragmentTable::try_new(capacities.fragments).map(Lock::new)
                })?,
                early_ready: AtomicU32::new(0),
                early_waiting: AtomicU32::new(0),
                replies: Lock::new(TokenBucket::new()),
                told: Own::try_new("what is told of flows", || Told::try_new().map(Lock::new))?,
                was_told: AtomicU32::new(0),
                paths: Own::try_new("paths of processes", || {
                    ProcessPaths::try_new().map(Lock::new)
                })?,
                reader: AtomicU32::new(0),
                hasher: KeyHasher::new(seed),
                capacities,
            })
        };
        allocate().map_err(StartError::Memory)
    }

    /// The counters.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// A place to count for one of the threads that present packets. Any number is good; two lanes of
    /// one number at once, or of two that are 64 apart, cost time.
    pub fn lane(&self, number: usize) -> Lane<'_> {
        self.counters.lane(number)
    }

    /// The capacities that the engine was made with.
    pub fn capacities(&self) -> &Capacities {
        &self.capacities
    }

    /// The configuration in force.
    pub fn config(&self) -> Config {
        self.settings.whole()
    }

    /// Replaces the configuration, if all its values are in range.
    pub fn set_config(&self, config: Config) -> Result<(), ConfigError> {
        config.validate()?;
        self.settings.replace(config);
        Ok(())
    }

    // ---- what is told of flows ------------------------------------------------------------------

    /// Says which process a flow belongs to, where the host learns it apart from the packets. It is
    /// told with the verdict requests of the flow that are delivered from now on, and stands with the
    /// cached flow. The last 4,096 flows told of are remembered.
    pub fn set_owner(&self, flow: &FlowKey, process_id: ProcessId, now: Timestamp) {
        let hash = self.hasher.hash(flow);
        let idle_limit = self.settings.idle_limit(false);
        // In this order: a packet that is held meanwhile either finds it in the table, or is found.
        self.told
            .lock()
            .set_owner(hash, flow, process_id, now, idle_limit);
        self.was_told.store(1, Ordering::Release);
        self.packets.lock().set_owner(hash, flow, process_id);
        self.flows
            .set_owner(hash, flow, &self.settings, now, process_id);
    }

    /// Whose a flow is, if that was told.
    fn owner(&self, hash: u64, flow: &FlowKey) -> Option<ProcessId> {
        if self.was_told.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.told.lock().owner(hash, flow)
    }

    /// Says that a program has sent or received so many bytes of a flow's payload, where the host sees
    /// that apart from the packets. They stand with the cached flow. Of a flow that is not cached, the
    /// last 4,096 told of, they are remembered until it is, while somebody reads requests.
    pub fn add_payload(&self, flow: &FlowKey, direction: Direction, bytes: u64, now: Timestamp) {
        let hash = self.hasher.hash(flow);
        let bytes = match direction {
            Direction::Outbound => [bytes, 0],
            Direction::Inbound => [0, bytes],
        };
        let cached = self
            .flows
            .add_payload(hash, flow, &self.settings, now, bytes);
        // Without a reader no verdict will come.
        if cached || self.reader.load(Ordering::Relaxed) == 0 {
            return;
        }
        let idle_limit = self.settings.idle_limit(false);
        self.told
            .lock()
            .add_payload(hash, flow, bytes, now, idle_limit);
        self.was_told.store(1, Ordering::Release);
        // The flow may have been cached between the two: whoever cached it looked too early then.
        let cached = self
            .flows
            .add_payload(hash, flow, &self.settings, now, [0; 2]);
        if cached {
            self.move_payload(hash, flow, now);
        }
    }

    /// The same of payload that a program has received from this machine itself. It was told when it was
    /// sent, as another flow's; but if this flow is redirected to this machine, it is the only sign of what
    /// came back to it.
    pub fn add_returned_payload(&self, flow: &FlowKey, bytes: u64) {
        let hash = self.hasher.hash(flow);
        self.flows.add_returned_payload(hash, flow, bytes);
    }

    /// Adds to a cached flow what payload was told of before. If it is not cached any more, that
    /// payload has ended with it.
    fn move_payload(&self, hash: u64, flow: &FlowKey, now: Timestamp) {
        if self.was_told.load(Ordering::Acquire) == 0 {
            return;
        }
        let idle_limit = self.settings.idle_limit(false);
        let bytes = self.told.lock().take_payload(hash, flow, now, idle_limit);
        if bytes != [0; 2] {
            self.flows
                .add_payload(hash, flow, &self.settings, now, bytes);
        }
    }

    /// Caches the fate of a flow whose last held packet has gone; the packet cache is locked.
    fn cache(&self, flow: &FlowKey, pending: &Pending, decided: &Decided, counters: Tally<'_>) {
        self.flows
            .insert(flow, pending, decided, &self.settings, counters);
        let now = decided.time.max(pending.stats.last_seen);
        self.move_payload(pending.hash, flow, now);
    }

    /// Says that a flow's connection has ended: it stays cached as one of which a RST was seen, since
    /// its last packets may still come. A flow that waits for its verdict goes on waiting.
    pub fn end_flow(&self, flow: &FlowKey) {
        let hash = self.hasher.hash(flow);
        self.flows.end_connection(hash, flow);
        let packets = self.packets.lock();
        if !packets.is_pending(hash, flow) && self.was_told.load(Ordering::Acquire) != 0 {
            self.told.lock().forget(hash, flow);
        }
        drop(packets);
    }

    /// Says which program a process runs, as UTF-16 in little endian. The last 1,024 processes told of
    /// are remembered.
    pub fn set_process_path(&self, process_id: ProcessId, utf16: &[u8], now: Timestamp) {
        let hash = self.hasher.hash(&process_id);
        self.paths.lock().set(hash, process_id, utf16, now);
    }

    /// Shows the path of a process's program, if one was told, under a lock: `show` must not wait and
    /// must not call the engine.
    pub fn process_path<T>(
        &self,
        process_id: ProcessId,
        show: impl FnOnce(ProcessPath<'_>) -> T,
    ) -> Option<T> {
        let hash = self.hasher.hash(&process_id);
        self.paths.lock().get(hash, process_id).map(show)
    }

    // ---- redirects ------------------------------------------------------------------------------

    /// A flow's fate under a verdict that a packet of this direction was given.
    fn fate(&self, verdict: Verdict, flow: &FlowKey, direction: Direction, now: Timestamp) -> Fate {
        let config = match verdict {
            Verdict::Accept | Verdict::Block | Verdict::Drop => {
                return Fate::Verdict(verdict, None);
            }
            Verdict::RedirectDns | Verdict::RedirectTunnel => self.settings.whole(),
        };
        let hash = self.hasher.hash(flow);
        // Bound: PORT_ATTEMPTS.
        let translation = config.redirect_target(verdict).and_then(|target| {
            (0..PORT_ATTEMPTS)
                .map_while(|attempt| Translation::attempt(flow, direction, target, hash, attempt))
                .find(|translation| self.claim(translation, verdict, flow, now))
        });
        Fate::Verdict(verdict, translation)
    }

    /// Makes sure that the answers to a redirected flow find their way back. `false` if they could
    /// not be told from another flow's packets.
    fn claim(
        &self,
        translation: &Translation,
        verdict: Verdict,
        flow: &FlowKey,
        now: Timestamp,
    ) -> bool {
        if translation.is_identity(flow) {
            return true;
        }
        let (key, way_back) = translation.way_back(flow, verdict);
        let hash = self.hasher.hash(&key);
        self.flows.claim_way_back(
            hash,
            key,
            way_back,
            &self.settings,
            now,
            self.counters.shared(),
        )
    }

    // ---- requests and verdicts ------------------------------------------------------------------

    /// Says that somebody reads requests from now on, or that nobody does. What is held then is
    /// settled by [`Engine::settle_abandoned`] or the [tick](Engine::tick), even if another reader
    /// comes.
    pub fn set_reader(&self, reader: bool) {
        self.packets.lock().set_reader(reader);
        self.reader.store(reader.into(), Ordering::Relaxed);
    }

    /// Shows the oldest undelivered request to `deliver`, which delivers it by giving something.
    ///
    /// `deliver` runs under the packet cache's lock: it must not wait, and must not call the engine.
    pub fn deliver<T>(&self, deliver: impl FnOnce(&HeldPacket<'_>) -> Option<T>) -> Delivery<T> {
        self.packets.lock().deliver(deliver)
    }

    /// Shows the oldest undelivered requests to `deliver`, one after another, until it refuses one.
    /// It says how many bytes it copied: after many, or after many requests, this ends, so that others
    /// come to the lock. Says whether to go on: a request may wait that was not refused.
    ///
    /// `deliver` is bound like that of [`Engine::deliver`].
    pub fn deliver_some(&self, mut deliver: impl FnMut(&HeldPacket<'_>) -> Option<usize>) -> bool {
        let mut packets = self.packets.lock();
        let mut copied = 0;
        // Bound: DELIVERED_AT_ONCE.
        for _ in 0..DELIVERED_AT_ONCE {
            match packets.deliver(&mut deliver) {
                Delivery::Delivered(bytes) => copied += bytes,
                Delivery::Empty | Delivery::Refused => return false,
            }
            if copied >= COPIED_AT_ONCE {
                break;
            }
        }
        true
    }

    /// How many requests wait for a reader.
    pub fn queued_requests(&self) -> u32 {
        self.packets.queued_requests()
    }

    /// Shows a held packet. `look` is bound like [`Engine::deliver`]'s function.
    pub fn look<T>(
        &self,
        id: PacketId,
        look: impl FnOnce(&HeldPacket<'_>) -> T,
    ) -> Result<T, NotHeld> {
        self.packets.lock().look(id).map(|held| look(&held))
    }

    /// The id of the held packet with this name in the v1 interface.
    pub fn resolve_v1(&self, id: u32) -> Result<PacketId, NotHeld> {
        self.packets.lock().find_v1(id)
    }

    /// Decides a held packet, or with a permanent verdict its flow. What this sets free comes from
    /// the [`Releases`].
    pub fn decide(
        &self,
        id: PacketId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Releases<'_, R>, NotHeld> {
        let counters = self.counters.shared();
        let mut packets = self.packets.lock();
        self.decide_locked(&mut packets, counters, id, decision, now)
    }

    /// The same, counted in a lane, and with the first packet that this sets free: it saves taking the
    /// lock again for it. `allocate` is bound like that of [`Releases::next`].
    #[inline]
    pub fn decide_on<'a, B: AsMut<[u8]>>(
        &'a self,
        lane: &'a Lane<'_>,
        id: PacketId,
        decision: Decision,
        now: Timestamp,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Result<(Option<Release<'a, B>>, Releases<'a, R>), NotHeld> {
        let mut packets = self.packets.lock();
        let mut releases = self.decide_locked(&mut packets, lane.tally(), id, decision, now)?;
        let first = releases.next_locked(&mut packets, allocate);
        drop(packets);
        Ok((first, releases))
    }

    #[inline]
    fn decide_locked<'a>(
        &'a self,
        packets: &mut PacketCache,
        counters: Tally<'a>,
        id: PacketId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Releases<'a, R>, NotHeld> {
        // A clearing from here on forgets this verdict, though it still decides what is held.
        let epoch = self.flows.epoch();
        let decidable = packets.decidable(id).map(|(slot, info, flow)| {
            // A flow goes the way of its first packet, whichever of it was asked about.
            let direction = if decision.permanent {
                self.flows.expect(flow.hash, now);
                flow.stats.opened
            } else {
                info.arrival.direction
            };
            (
                slot,
                self.fate(decision.verdict, &info.flow, direction, now),
            )
        });
        counters.count(match &decidable {
            Ok(_) => Event::VerdictApplied,
            Err(not_held) => not_held.event(),
        });
        let (slot, fate) = decidable?;
        Ok(if decision.permanent {
            let decided = Decided {
                decision,
                time: now,
                fate,
                epoch,
            };
            Releases::of_flow(self, counters, packets.decide_flow(slot, decided))
        } else {
            let first = packets.decide_packet(slot, decision).and_then(|taken| {
                let action = packets.action(&taken, &fate)?;
                Some((taken, action))
            });
            Releases::of_taken(self, counters, first)
        })
    }

    /// Counts a verdict for an id that can be none, and says what became of it.
    pub fn refuse(&self, not_held: NotHeld) -> NotHeld {
        self.counters.count(not_held.event());
        not_held
    }

    // ---- time -----------------------------------------------------------------------------------

    /// Settles the oldest packet that a reader left behind, by the no-reader policy. `None` when
    /// there is none, or when another thread is letting that packet's flow go: the tick then settles
    /// what remains.
    pub fn settle_abandoned(&self) -> Option<Releases<'_, R>> {
        release::abandoned(self)
    }

    /// Whether a packet is held that a reader left behind.
    pub fn holds_abandoned(&self) -> bool {
        self.packets.lock().holds_abandoned()
    }

    /// Goes on with a flow whose packets were too many to let go at once, or settles one packet that
    /// a reader left behind or that has been held up to the hold limit, in turn. `None` when there is nothing
    /// to do now. While packets keep coming there may always be something: callers bound their loop.
    pub fn tick(&self, now: Timestamp) -> Option<Releases<'_, R>> {
        if self.early_waiting.load(Ordering::Relaxed) > 0 {
            self.expire_early(Some(now));
        }
        release::due(self, now)
    }

    /// Whether one more answer to a blocked packet may be sent now.
    pub fn may_reply(&self, now: Timestamp) -> bool {
        let rate = self.settings.whole().replies_per_second;
        self.replies.lock().take(rate, now)
    }

    // ---- events ---------------------------------------------------------------------------------

    /// Whether flows that leave the verdict cache are to be told of from now on; not until this is
    /// called. Turned off, those that wait are forgotten.
    pub fn keep_events(&self, keep: bool) {
        self.flows.events().keep(keep);
    }

    /// Takes the oldest event.
    pub fn next_event(&self) -> Option<FlowEnded> {
        self.flows.events().take()
    }

    /// How many events wait, and how many found no room since the start.
    pub fn waiting_and_lost_events(&self) -> (u32, u64) {
        self.flows.events().waiting_and_lost()
    }

    // ---- the verdict cache ----------------------------------------------------------------------

    /// Forgets every cached verdict, in constant time. Held packets stay held.
    pub fn clear_cache(&self) {
        self.flows.clear(self.counters.shared());
    }

    /// The verdict of a cached flow, if it is cached and has not been idle for too long. It then counts
    /// as seen now; no packet is counted. The way back of a redirected flow has that flow's verdict.
    pub fn lookup(&self, flow: &FlowKey, now: Timestamp) -> Option<Verdict> {
        let hash = self.hasher.hash(flow);
        self.flows
            .lookup(hash, flow, &self.settings, now, self.counters.shared())
    }

    /// Replaces the verdict of a cached flow. `false` if it is not cached; a flow that waits for its
    /// verdict is not, nor is the way back of a redirected one. Whoever sent the flow's first packet is
    /// the one whom a redirecting verdict redirects.
    pub fn update_verdict(&self, flow: &FlowKey, verdict: Verdict, now: Timestamp) -> bool {
        let hash = self.hasher.hash(flow);
        let Some(opened) = self.flows.opened(hash, flow, &self.settings, now) else {
            return false;
        };
        let fate = self.fate(verdict, flow, opened, now);
        self.flows.update(hash, flow, opened, fate)
    }

    /// Shows cached flows from `cursor` on (0 to begin), under a lock: `show` must not wait and must
    /// not call the engine. It does so until `show` refuses one or a bounded part
    /// of the cache was looked at. Returns the cursor to go on from, 0 at the end.
    pub fn list_flows(&self, cursor: u64, show: impl FnMut(&FlowInfo) -> bool) -> u64 {
        self.flows.list(cursor, show)
    }

    /// Shows flows with traffic since they were last shown by this function, and that traffic's bytes
    /// outbound and inbound, until `show` refuses one. It comes first the next time. `show` is bound like that of
    /// [`Engine::list_flows`].
    pub fn report_traffic(&self, show: impl FnMut(&FlowKey, [u64; 2]) -> bool) {
        self.flows.report_traffic(show);
    }
}

/// Stands where no flow has stood yet.
const ANY_FLOW: FlowKey = FlowKey {
    local: Address::UNSPECIFIED,
    remote: Address::UNSPECIFIED,
    local_port: 0,
    remote_port: 0,
    version: IpVersion::V4,
    protocol: 0,
};

/// Stands where no packet has been held yet.
const ANY_REQUEST: RequestInfo = RequestInfo {
    id: match PacketId::new(u64::MAX) {
        Some(id) => id,
        None => unreachable!(),
    },
    time: Timestamp::from_nanos(0),
    flow: ANY_FLOW,
    arrival: Arrival {
        direction: Direction::Outbound,
        interface: Interface {
            index: 0,
            sub_index: 0,
        },
        compartment: 0,
        process_id: None,
        passes: 0,
        path_mtu: None,
    },
    size: 0,
    held_len: 0,
};
