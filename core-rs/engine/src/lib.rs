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
//! # Rules of this crate
//!
//! It owns no packet that the host owns, calls nobody back except to allocate a buffer, and never
//! allocates itself after [`Engine::try_new`]. No path's cost grows with the number of entries. What
//! is to be done comes back as a value that has to be settled, and is counted when it is.
//!
//! Locks, in the order in which they may be taken: the packet cache's; inside it one turn to
//! insert into the verdict cache, inside that one of its flows and that flow's cold part; or the
//! settings. The fragment table's and the reply limiter's are taken alone; that of the events last.

#![no_std]
#![forbid(unsafe_code)]

mod action;
mod blocks;
mod counters;
mod events;
mod flow_stats;
mod flow_table;
mod fragments;
mod hash;
mod limiter;
mod list;
mod memory;
mod packet_cache;
mod ranges;
mod redirect;
mod release;
mod settings;
mod table;
mod verdict_cache;

use kext_packet::Headers;
use kext_sync::atomic::{AtomicU32, Ordering};
use kext_sync::{Guard, Lock, RawLock};
use kext_types::{
    Arrival, Capacities, CapacityError, Config, ConfigError, Decision, Event, FlowEnded, FlowInfo,
    FlowKey, FragmentPolicy, PacketId, Reason, RequestInfo, Timestamp, Verdict,
};

pub use action::{Action, Release, Settled};
pub use counters::{Counters, Obligation, Totals};
pub use fragments::EARLY_FRAGMENTS;
pub use memory::OutOfMemory;
pub use packet_cache::{Delivery, HeldPacket, NotHeld};
pub use release::Releases;

use action::{Fate, Met};
use counters::Stripe;
use fragments::{FragmentTable, Later, Origin};
use hash::KeyHasher;
use limiter::TokenBucket;
use packet_cache::{Decided, Hold, PacketCache};
use redirect::{PORT_ATTEMPTS, Translation};
use settings::{Policies, Settings};
use verdict_cache::VerdictCache;

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

/// What classifying a packet came to.
pub enum Classified<'a> {
    /// Its fate is decided.
    Settled {
        /// What is to be done.
        settled: Settled<'a>,
        /// Its headers; `None` if they could not be parsed, or did not matter.
        headers: Option<Headers>,
    },
    /// It was copied into the packet cache; the host discards its own.
    Held {
        /// Whether a verdict request was raised, so that a waiting reader has to be woken.
        request_raised: bool,
    },
}

/// A fragment that came before its first one, and may go on.
#[must_use]
pub struct EarlyFragment<'a, B> {
    /// The duty to count it.
    pub obligation: Obligation<'a>,
    /// How it came.
    pub arrival: Arrival,
    /// Its length by its header, in bytes.
    pub on_wire: u32,
    /// Its bytes; `None` if the host had no buffer.
    pub buffer: Option<B>,
}

/// Where a packet belongs.
enum Belonging<'a, R: RawLock> {
    /// To this flow.
    To(Origin),
    /// Nowhere, and so it ends.
    Ends(Action),
    /// To a packet whose fragments overlap.
    Overlaps,
    /// To a packet whose first fragment has not come: it is kept. Until it is counted as held, nobody
    /// may let it go.
    Waits(Guard<'a, R, FragmentTable>),
}

/// What became of an ICMP error for the sake of the flow that it is about.
enum Joined<'a, R: RawLock> {
    /// The flow is cached: what its verdict does with the error.
    Cached(Action),
    /// The flow waits for its verdict, and what came of the attempt to wait with it. Until it is
    /// counted as held, nobody may let it go.
    Pending(Hold, Guard<'a, R, PacketCache>),
    /// Nothing is known of the flow.
    UnknownFlow,
}

/// The verdict engine. `R` is the host's lock.
pub struct Engine<R> {
    settings: Settings<R>,
    counters: Counters,
    flows: VerdictCache<R>,
    packets: Lock<R, PacketCache>,
    fragments: Lock<R, FragmentTable>,
    /// How many early fragments may go on, readable without the lock.
    early_ready: AtomicU32,
    replies: Lock<R, TokenBucket>,
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
                settings: Settings::new(config),
                counters: Counters::try_new()?,
                flows: VerdictCache::try_new(capacities.flows)?,
                packets: Lock::new(PacketCache::try_new(&capacities)?),
                fragments: Lock::new(FragmentTable::try_new(capacities.fragments)?),
                early_ready: AtomicU32::new(0),
                replies: Lock::new(TokenBucket::new()),
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

    // ---- packets --------------------------------------------------------------------------------

    /// Decides what happens to a packet that the host presents.
    ///
    /// `bytes` are what the host has of it, from the IP header on; `on_wire` is how many there were,
    /// more only if a capture cut the packet short.
    pub fn classify(
        &self,
        bytes: &[u8],
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Classified<'_> {
        self.classify_on(0, bytes, on_wire, arrival, now)
    }

    /// The same, counted apart for each `processor`, so that processors do not slow each other down.
    /// Any number is good, and a wrong one costs time only.
    pub fn classify_on(
        &self,
        processor: usize,
        bytes: &[u8],
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Classified<'_> {
        let obligation = self.counters.on(processor).present();
        self.classify_counted(obligation, bytes, on_wire, arrival, now, false)
    }

    /// Decides what happens to a fragment from [`Engine::next_early`], whose first one has come
    /// meanwhile.
    pub fn classify_early<'a>(
        &'a self,
        obligation: Obligation<'a>,
        bytes: &[u8],
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Classified<'a> {
        self.classify_counted(obligation, bytes, on_wire, arrival, now, true)
    }

    /// Decides what happens to a packet that is presented, or that waited and comes `again`.
    #[inline]
    fn classify_counted<'a>(
        &'a self,
        obligation: Obligation<'a>,
        bytes: &[u8],
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
        again: bool,
    ) -> Classified<'a> {
        let counters = obligation.stripe();
        let policies = self.settings.policies();
        let settle = |obligation, action, headers| Classified::Settled {
            settled: Settled { obligation, action },
            headers,
        };
        if arrival.passes > policies.loop_limit() {
            return settle(obligation, Action::Drop(Reason::DroppedLoopGuard), None);
        }
        if arrival.passes > 0 {
            return settle(obligation, Action::Permit(Reason::PermittedInjected), None);
        }
        let headers = match Headers::parse(bytes, on_wire) {
            Ok(headers) => headers,
            Err(error) => {
                // A dishonest fragment is an attack on whoever reassembles it (RFC 1858, RFC 3128).
                let action = if error.kind.is_bad_fragment() {
                    Action::Block(Reason::BlockedFragment)
                } else {
                    Action::of_policy(policies.unparsable(), &action::UNPARSABLE)
                };
                return settle(obligation, action, None);
            }
        };
        // Link-layer padding behind the packet is no part of it.
        let bytes = bytes.get(..headers.total_len as usize).unwrap_or(bytes);
        let origin = if headers.fragment.is_none() {
            Origin::of(&headers, arrival.direction)
        } else {
            match self.origin_of(&headers, bytes, arrival, policies, now, again) {
                Belonging::To(origin) => origin,
                Belonging::Ends(action) => return settle(obligation, action, Some(headers)),
                // RFC 5722 §4, RFC 8200 §4.5: nobody is told.
                Belonging::Overlaps => {
                    return settle(obligation, Action::Block(Reason::BlockedFragment), None);
                }
                Belonging::Waits(_table) => {
                    obligation.hold();
                    return Classified::Held {
                        request_raised: false,
                    };
                }
            }
        };
        if policies.permits_infrastructure() && origin.infrastructure {
            let action = Action::Permit(Reason::PermittedInfrastructure);
            return settle(obligation, action, Some(headers));
        }
        // The rule of the flow that an ICMP error is about comes before one for its own two ends.
        if headers.is_icmp_error() {
            match self.join(&headers, bytes, arrival, policies, now, counters) {
                Joined::Cached(action) => return settle(obligation, action, Some(headers)),
                Joined::Pending(hold, _packets) => {
                    return Self::after_hold(hold, obligation, headers, policies);
                }
                Joined::UnknownFlow => {}
            }
        }
        let flow = &origin.flow;
        let hash = self.hasher.hash(flow);
        let hit = self.hit(hash, flow, arrival, &headers, now, counters);
        // What most packets are: nothing beyond their key is needed, nor copied.
        if let Some(action) = hit.and_then(|fate| fate.plain_action(Met::Cached)) {
            return settle(obligation, action, Some(headers));
        }
        let packet = RequestInfo {
            id: PLACEHOLDER,
            time: now,
            flow: *flow,
            arrival: *arrival,
            size: headers.total_len,
            held_len: bytes.len() as u32,
        };
        if let Some(fate) = hit {
            let action = self.cached_action(hash, &fate, &packet);
            return settle(obligation, action, Some(headers));
        }
        if let Some(reason) = self.permitted_unasked(&headers, flow, policies) {
            return settle(obligation, Action::Permit(reason), Some(headers));
        }
        let mut packets = self.packets.lock();
        // The verdict may have come since the look-up above; from here on it cannot.
        if let Some(fate) = self.hit(hash, flow, arrival, &headers, now, counters) {
            drop(packets);
            let action = self.cached_action(hash, &fate, &packet);
            return settle(obligation, action, Some(headers));
        }
        let hold = packets.hold(
            hash,
            &packet,
            &headers,
            bytes,
            policies.asks_each_packet(),
            counters,
        );
        // Still under the lock, so that nobody lets it go before it is counted as held.
        Self::after_hold(hold, obligation, headers, policies)
    }

    /// What came of a packet that was to be held.
    fn after_hold(
        hold: Hold,
        obligation: Obligation<'_>,
        headers: Headers,
        policies: Policies,
    ) -> Classified<'_> {
        let action = match hold {
            Hold::Held { request_raised } => {
                obligation.hold();
                return Classified::Held { request_raised };
            }
            Hold::Refused(reason) => Action::Drop(reason),
            Hold::NoReader => Action::of_policy(policies.no_reader(), &action::NO_READER),
        };
        Classified::Settled {
            settled: Settled { obligation, action },
            headers: Some(headers),
        }
    }

    /// Lets an ICMP error go the way of the flow that it is about, if that is cached or waits for its
    /// verdict. About a flow that is neither, nobody is asked by this: whoever can send us an error
    /// could have a verdict given for a flow that has not begun.
    #[cold]
    fn join(
        &self,
        headers: &Headers,
        bytes: &[u8],
        arrival: &Arrival,
        policies: Policies,
        now: Timestamp,
        counters: Stripe<'_>,
    ) -> Joined<'_, R> {
        let Some(flow) = headers.quoted_flow(bytes, arrival.direction) else {
            return Joined::UnknownFlow;
        };
        let about = RequestInfo {
            id: PLACEHOLDER,
            time: now,
            flow,
            arrival: *arrival,
            size: headers.total_len,
            held_len: bytes.len() as u32,
        };
        let hash = self.hasher.hash(&flow);
        if let Some(fate) = self.hit(hash, &flow, arrival, headers, now, counters) {
            return Joined::Cached(self.cached_action(hash, &fate, &about));
        }
        let mut packets = self.packets.lock();
        // As for other packets: the verdict may have come since.
        if let Some(fate) = self.hit(hash, &flow, arrival, headers, now, counters) {
            drop(packets);
            return Joined::Cached(self.cached_action(hash, &fate, &about));
        }
        if !packets.is_pending(hash, &flow) {
            return Joined::UnknownFlow;
        }
        let ask_each = policies.asks_each_packet();
        let hold = packets.hold(hash, &about, headers, bytes, ask_each, counters);
        Joined::Pending(hold, packets)
    }

    /// The flow that a packet belongs to, and whether it is infrastructure: as its first fragment, if
    /// it is a later one. `again` says that it waited for that.
    fn origin_of(
        &self,
        headers: &Headers,
        bytes: &[u8],
        arrival: &Arrival,
        policies: Policies,
        now: Timestamp,
        again: bool,
    ) -> Belonging<'_, R> {
        let direction = arrival.direction;
        let origin = Origin::of(headers, direction);
        let Some(fragment) = &headers.fragment else {
            return Belonging::To(origin);
        };
        match (headers.is_first_fragment(), policies.fragments()) {
            (_, FragmentPolicy::Follow) => {}
            (true, _) => return Belonging::To(origin),
            (false, FragmentPolicy::Block) => {
                return Belonging::Ends(Action::Block(Reason::BlockedFragment));
            }
            (false, FragmentPolicy::Permit) => {
                return Belonging::Ends(Action::Permit(Reason::PermittedFragment));
            }
        }
        let hasher = &self.hasher;
        let mut table = self.fragments.lock();
        if headers.is_first_fragment() {
            let goes_on = table.first(hasher, headers, fragment, direction, origin, now);
            self.early_ready
                .store(table.count_ready(), Ordering::Relaxed);
            return if goes_on {
                Belonging::To(origin)
            } else {
                Belonging::Overlaps
            };
        }
        let later = if again {
            table.ready_again(hasher, headers, fragment, direction)
        } else {
            Some(table.later(hasher, headers, fragment, direction, now))
        };
        match later {
            Some(Later::Follows(origin)) => Belonging::To(origin),
            Some(Later::Overlaps) => Belonging::Overlaps,
            None => Belonging::Ends(Action::Drop(Reason::DroppedFragmentOrphan)),
            Some(Later::Early) => {
                let (kept, gone) = table.keep(hasher, headers, fragment, bytes, arrival, now);
                // Bound: EARLY_FRAGMENTS.
                for _ in 0..gone {
                    self.counters
                        .on(0)
                        .unhold()
                        .end(Reason::DroppedFragmentOrphan);
                }
                if kept {
                    Belonging::Waits(table)
                } else {
                    Belonging::Ends(Action::Drop(Reason::DroppedFragmentOrphan))
                }
            }
        }
    }

    /// Whether fragments that came before their first one may go on, now that it has come. The packet
    /// that was classified last then goes first, at once, and [`Engine::next_early`] gives the others.
    pub fn has_early(&self) -> bool {
        self.early_ready.load(Ordering::Relaxed) > 0
    }

    /// Takes the next fragment that may go on, for [`Engine::classify_early`]. `allocate` runs under
    /// a lock of the engine: it must not wait, and must not call the engine.
    pub fn next_early<B: AsMut<[u8]>>(
        &self,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<EarlyFragment<'_, B>> {
        let mut table = self.fragments.lock();
        let taken = table.take_ready(allocate);
        self.early_ready
            .store(table.count_ready(), Ordering::Relaxed);
        drop(table);
        taken.map(|(early, buffer)| EarlyFragment {
            obligation: self.counters.on(0).unhold(),
            arrival: early.arrival,
            on_wire: early.on_wire,
            buffer,
        })
    }

    /// Drops the fragments that wait for their first one, however long they have waited: their device
    /// is closed, or no packets come any more.
    pub fn drop_early(&self) {
        self.expire_early(None);
    }

    /// Drops the fragments that have waited for their first one for too long.
    fn expire_early(&self, now: Option<Timestamp>) {
        // Bound: EARLY_FRAGMENTS, each under a lock of its own.
        for _ in 0..EARLY_FRAGMENTS {
            if !self.fragments.lock().expire(now) {
                return;
            }
            self.counters
                .on(0)
                .unhold()
                .end(Reason::DroppedFragmentOrphan);
        }
    }

    #[inline]
    fn hit(
        &self,
        hash: u64,
        flow: &FlowKey,
        arrival: &Arrival,
        headers: &Headers,
        now: Timestamp,
        counters: Stripe<'_>,
    ) -> Option<Fate> {
        let found = self.flows.live(hash, flow, &self.settings, now, counters)?;
        found.hit(arrival, headers, now)
    }

    /// What a cached fate does with a packet. On the way there a redirected packet makes sure that
    /// its answers find the way back, which may have been evicted. If they have become another
    /// flow's meanwhile, the redirected flow moves to another source port.
    fn cached_action(&self, hash: u64, fate: &Fate, packet: &RequestInfo) -> Action {
        if let Fate::Verdict(verdict, Some(translation)) = fate
            && translation.applies_to(packet.arrival.direction)
            && !self.claim(translation, *verdict, &packet.flow, packet.time)
        {
            let moved = self.fate(*verdict, packet, packet.time);
            // One that found no port now may find one for its next packet.
            if matches!(moved, Fate::Verdict(_, Some(_))) {
                self.flows.exchange(hash, &packet.flow, fate, moved);
            }
            return moved.action(packet, Met::Cached);
        }
        fate.action(packet, Met::Cached)
    }

    /// Why a packet of an unknown flow is permitted without a question, if it is.
    fn permitted_unasked(
        &self,
        headers: &Headers,
        flow: &FlowKey,
        policies: Policies,
    ) -> Option<Reason> {
        let Headers {
            version,
            destination,
            ..
        } = headers;
        if policies.permits_broadcast() && destination.is_broadcast(*version) {
            Some(Reason::PermittedBroadcast)
        } else if policies.permits_multicast() && destination.is_multicast(*version) {
            Some(Reason::PermittedMulticast)
        } else if policies.permits_fast_track() && self.settings.is_fast_track(flow) {
            Some(Reason::PermittedFastTrack)
        } else {
            None
        }
    }

    // ---- redirects ------------------------------------------------------------------------------

    /// A flow's fate under a verdict that a packet of this direction was given.
    fn fate(&self, verdict: Verdict, packet: &RequestInfo, now: Timestamp) -> Fate {
        let config = match verdict {
            Verdict::Accept | Verdict::Block | Verdict::Drop => {
                return Fate::Verdict(verdict, None);
            }
            Verdict::RedirectDns | Verdict::RedirectTunnel => self.settings.whole(),
        };
        let flow = &packet.flow;
        let hash = self.hasher.hash(flow);
        // Bound: PORT_ATTEMPTS.
        let translation = config.redirect_target(verdict).and_then(|target| {
            (0..PORT_ATTEMPTS)
                .map_while(|attempt| {
                    Translation::attempt(flow, packet.arrival.direction, target, hash, attempt)
                })
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
            self.counters.on(0),
        )
    }

    // ---- requests and verdicts ------------------------------------------------------------------

    /// Says that somebody reads requests from now on, or that nobody does. What is held then is
    /// settled by [`Engine::settle_abandoned`] or the [tick](Engine::tick), even if another reader
    /// comes.
    pub fn set_reader(&self, reader: bool) {
        self.packets.lock().set_reader(reader);
    }

    /// Shows the oldest undelivered request to `deliver`, which delivers it by giving something.
    ///
    /// `deliver` runs under the packet cache's lock: it must not wait, and must not call the engine.
    pub fn deliver<T>(&self, deliver: impl FnOnce(&HeldPacket<'_>) -> Option<T>) -> Delivery<T> {
        self.packets.lock().deliver(deliver)
    }

    /// How many requests wait for a reader.
    pub fn queued_requests(&self) -> u32 {
        self.packets.lock().queued_requests()
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
        let packets = self.packets.lock();
        packets.find_v1(id).ok_or_else(|| packets.not_held_v1(id))
    }

    /// Decides a held packet, or with a permanent verdict its flow. What this sets free comes from
    /// the [`Releases`].
    pub fn decide(
        &self,
        id: PacketId,
        decision: Decision,
        now: Timestamp,
    ) -> Result<Releases<'_, R>, NotHeld> {
        let mut packets = self.packets.lock();
        // A clearing from here on forgets this verdict, though it still decides what is held.
        let epoch = self.flows.epoch();
        let decided = packets.decidable(id).map(|info| {
            let fate = self.fate(decision.verdict, &info, now);
            if decision.permanent {
                let decided = Decided {
                    decision,
                    fate,
                    epoch,
                };
                Releases::of_flow(self, packets.decide_flow(id, decided))
            } else {
                Releases::of_packet(self, packets.decide_packet(id, decision), fate)
            }
        });
        drop(packets);
        self.counters.count(match &decided {
            Ok(_) => Event::VerdictApplied,
            Err(not_held) => not_held.event(),
        });
        decided
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

    /// Goes on with a flow whose packets were too many to let go at once, or settles one packet that
    /// a reader left behind or that has been held up to the hold limit. `None` when there is nothing
    /// to do now. While packets keep coming there may always be something: callers bound their loop.
    pub fn tick(&self, now: Timestamp) -> Option<Releases<'_, R>> {
        self.expire_early(Some(now));
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
        self.flows.clear(self.counters.on(0));
    }

    /// The verdict of a cached flow, if it is cached and has not been idle for too long. It then counts
    /// as seen now; no packet is counted. The way back of a redirected flow has that flow's verdict.
    pub fn lookup(&self, flow: &FlowKey, now: Timestamp) -> Option<Verdict> {
        let hash = self.hasher.hash(flow);
        self.flows
            .lookup(hash, flow, &self.settings, now, self.counters.on(0))
    }

    /// Replaces the verdict of a cached flow. `false` if it is not cached; a flow that waits for its
    /// verdict is not, nor is the way back of a redirected one.
    pub fn update_verdict(&self, flow: &FlowKey, verdict: Verdict, now: Timestamp) -> bool {
        // The direction of an update is not known; flows that are redirected go out.
        let packet = RequestInfo {
            id: PLACEHOLDER,
            time: now,
            flow: *flow,
            arrival: OUTBOUND,
            size: 0,
            held_len: 0,
        };
        let hash = self.hasher.hash(flow);
        if !self.flows.contains(hash, flow, &self.settings, now) {
            return false;
        }
        let fate = self.fate(verdict, &packet, now);
        self.flows.update(hash, flow, fate)
    }

    /// Shows cached flows from `cursor` on (0 to begin), under a lock: `show` must not wait and must
    /// not call the engine. It does so until `show` refuses one or a bounded part
    /// of the cache was looked at. Returns the cursor to go on from, 0 at the end.
    pub fn list_flows(&self, cursor: u64, show: impl FnMut(&FlowInfo) -> bool) -> u64 {
        self.flows.list(cursor, show)
    }

    /// Shows flows with traffic since they were last shown by this function, their bytes being that
    /// traffic, until `show` refuses one. It comes first the next time. `show` is bound like that of
    /// [`Engine::list_flows`].
    pub fn report_traffic(&self, show: impl FnMut(&FlowInfo) -> bool) {
        self.flows.report_traffic(show);
    }
}

/// Stands where a packet has no id yet.
const PLACEHOLDER: PacketId = match PacketId::new(u64::MAX) {
    Some(id) => id,
    None => unreachable!(),
};

/// What is known of the packets of an update by 5-tuple.
const OUTBOUND: Arrival = Arrival {
    direction: kext_types::Direction::Outbound,
    interface: kext_types::Interface {
        index: 0,
        sub_index: 0,
    },
    compartment: 0,
    process_id: None,
    passes: 0,
};
