//! What happens to a packet that the host presents: the rules in their order.

use kext_packet::{Headers, TcpFlags, TransportInfo};
use kext_sync::atomic::Ordering;
use kext_sync::{Guard, RawLock};
use kext_types::{Arrival, Direction, FlowKey, FragmentPolicy, Reason, Timestamp, Verdict};

use crate::Engine;
use crate::action::{self, Action, Fate, Met, Settled};
use crate::connects::ConnectId;
use crate::counters::{Lane, Obligation, Tally};
use crate::fragments::{EARLY_FRAGMENTS, FragmentTable, Later, Origin};
use crate::packet_bytes::{PacketBytes, has_all};
use crate::packet_cache::{Hold, PacketsGuard};
use crate::settings::Policies;
use crate::verdict_cache::Hit;

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
    Pending(Hold, PacketsGuard<'a, R>),
    /// Nothing is known of the flow.
    UnknownFlow,
}

/// A packet whose headers were walked.
pub(crate) struct Presented<'a> {
    /// Without what the link layer added behind it.
    pub(crate) bytes: &'a [u8],
    pub(crate) headers: Headers,
    pub(crate) arrival: &'a Arrival,
    pub(crate) what: What,
    pub(crate) now: Timestamp,
    pub(crate) policies: Policies,
    pub(crate) counters: Tally<'a>,
}

/// A packet that its headers and the verdict cache alone do not decide.
///
/// It is made where that is known, and nowhere else: headers of other packets are never in memory.
struct Undecided {
    headers: Headers,
    /// Its flow's hash, and fate if it is cached, where that was looked up.
    known: Option<(u64, Option<Fate>)>,
    /// Whether it waited, and comes again.
    again: bool,
}

/// What is presented.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A packet of its flow.
    Packet,
    /// An ICMP error that goes the way of the flow that it is about.
    AboutAnother,
    /// No packet: it stands for this connect.
    Connect(ConnectId),
}

impl Presented<'_> {
    /// Whether it may be the first packet of a connect of this machine.
    pub(crate) fn may_open(&self) -> bool {
        self.arrival.direction == Direction::Outbound
            && matches!(self.headers.transport_info, TransportInfo::Tcp(segment)
                if segment.flags.contains(TcpFlags::SYN))
    }

    fn settle<'a>(&self, obligation: Obligation<'a>, action: Action) -> Classified<'a> {
        settle(obligation, action, Some(self.headers))
    }

    /// What came of a packet that was to be held.
    fn after_hold<'a>(&self, hold: Hold, obligation: Obligation<'a>) -> Classified<'a> {
        match hold {
            Hold::Held { request_raised } => {
                obligation.hold();
                Classified::Held { request_raised }
            }
            Hold::Refused(reason) => self.settle(obligation, Action::Drop(reason)),
            Hold::NoReader => {
                let action = Action::of_policy(self.policies.no_reader(), &action::NO_READER);
                self.settle(obligation, action)
            }
        }
    }
}

#[inline]
fn settle(obligation: Obligation<'_>, action: Action, headers: Option<Headers>) -> Classified<'_> {
    Classified::Settled {
        settled: Settled { obligation, action },
        headers,
    }
}

impl<R: RawLock> Engine<R> {
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
        let obligation = self.counters.shared().present();
        self.classify_bytes(obligation, bytes, on_wire, arrival, now, false)
    }

    /// The same of a packet that may be in pieces, counted in a [lane](Engine::lane).
    ///
    /// A packet whose pieces cannot be put together where that is necessary goes the way of one that
    /// cannot be parsed.
    #[inline(always)]
    pub fn classify_on<'a>(
        &'a self,
        lane: &'a Lane<'_>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Classified<'a> {
        let permit = |obligation, reason| settle(obligation, Action::Permit(reason), None);
        self.classify_then(lane, packet, on_wire, arrival, now, permit, |it| it)
    }

    /// The same for who goes on at once: a packet that its flow's verdict permits is for `permit`, which
    /// most packets are, all others for `otherwise`. What classifying came to is then written to memory
    /// for those only.
    #[expect(
        clippy::too_many_arguments,
        reason = "those of the above, and what is next"
    )]
    #[inline(always)]
    pub fn classify_then<'a, T>(
        &'a self,
        lane: &'a Lane<'_>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
        permit: impl FnOnce(Obligation<'a>, Reason) -> T,
        otherwise: impl FnOnce(Classified<'a>) -> T,
    ) -> T {
        let obligation = lane.tally().present();
        self.classify_counted(
            obligation, packet, on_wire, arrival, now, false, permit, otherwise,
        )
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
        self.classify_bytes(obligation, bytes, on_wire, arrival, now, true)
    }

    /// The same as the next, where it need not be fast.
    #[inline(never)]
    fn classify_bytes<'a>(
        &'a self,
        obligation: Obligation<'a>,
        bytes: &[u8],
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
        again: bool,
    ) -> Classified<'a> {
        let permit = |obligation, reason| settle(obligation, Action::Permit(reason), None);
        self.classify_counted(
            obligation,
            bytes,
            on_wire,
            arrival,
            now,
            again,
            permit,
            |it| it,
        )
    }

    /// Decides what happens to a packet that is presented, or that waited and comes `again`.
    #[expect(clippy::too_many_arguments, reason = "those of `classify_then`")]
    #[inline(always)]
    fn classify_counted<'a, T>(
        &'a self,
        obligation: Obligation<'a>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
        again: bool,
        permit: impl FnOnce(Obligation<'a>, Reason) -> T,
        otherwise: impl FnOnce(Classified<'a>) -> T,
    ) -> T {
        let counters = obligation.tally();
        let policies = self.settings.policies();
        let classified = 'decided: {
            if arrival.passes > policies.loop_limit() {
                break 'decided settle(obligation, Action::Drop(Reason::DroppedLoopGuard), None);
            }
            if arrival.passes > 0 {
                break 'decided settle(obligation, Action::Permit(Reason::PermittedInjected), None);
            }
            let whole =
                |obligation| self.classify_whole(obligation, packet, on_wire, arrival, now, again);
            let headers = match Headers::parse(packet.first(), on_wire) {
                Ok(headers) => headers,
                Err(_) if packet.has_more() => break 'decided whole(obligation),
                Err(error) => {
                    // A dishonest fragment is an attack on whoever reassembles it (RFC 1858, RFC 3128).
                    let action = if error.kind.is_bad_fragment() {
                        Action::Block(Reason::BlockedFragment)
                    } else {
                        Action::of_policy(policies.unparsable(), &action::UNPARSABLE)
                    };
                    break 'decided settle(obligation, action, None);
                }
            };
            if packet.has_more() && !has_all(&headers) {
                break 'decided whole(obligation);
            }
            // What most packets are: whole, and of a cached flow whose verdict needs no more of them.
            let origin = Origin::of(&headers, arrival.direction);
            let known = if headers.fragment.is_none()
                && !headers.is_icmp_error()
                && !(origin.infrastructure && policies.permits_infrastructure())
            {
                let hash = self.hasher.hash(&origin.flow);
                let hit = self.hit(hash, &origin.flow, arrival, &headers, now, counters);
                if let Some(Hit::Plain(verdict)) = hit
                    && let Some(action) = action::of_plain(verdict, Met::Cached)
                {
                    if let Action::Permit(reason) = action {
                        return permit(obligation, reason);
                    }
                    let headers = (verdict == Verdict::Block).then_some(headers);
                    break 'decided settle(obligation, action, headers);
                }
                Some((hash, hit.map(Hit::fate)))
            } else {
                None
            };
            let undecided = Undecided {
                headers,
                known,
                again,
            };
            self.classify_undecided(obligation, packet, undecided, arrival, now)
        };
        otherwise(classified)
    }

    /// Decides what happens to a packet that its headers and the verdict cache alone do not decide.
    // Not inlined: its frame would be added to that of its callers.
    #[inline(never)]
    fn classify_undecided<'a>(
        &'a self,
        obligation: Obligation<'a>,
        packet: &(impl PacketBytes + ?Sized),
        undecided: Undecided,
        arrival: &Arrival,
        now: Timestamp,
    ) -> Classified<'a> {
        let Undecided {
            headers,
            known,
            again,
        } = undecided;
        // Those that were read before may have been replaced: either are of the time of this packet.
        let (counters, policies) = (obligation.tally(), self.settings.policies());
        let origin = Origin::of(&headers, arrival.direction);
        let Some(bytes) = packet.all() else {
            let action = Action::of_policy(policies.unparsable(), &action::UNPARSABLE);
            return settle(obligation, action, None);
        };
        let mut presented = Presented {
            // Link-layer padding behind the packet is no part of it.
            bytes: bytes.get(..headers.total_len as usize).unwrap_or(bytes),
            headers,
            arrival,
            what: What::Packet,
            now,
            policies,
            counters,
        };
        match known {
            Some((hash, fate)) => {
                self.classify_flow(obligation, &presented, origin.flow, hash, fate.as_ref())
            }
            None => self.classify_special(obligation, &mut presented, again),
        }
    }

    /// The same of a packet whose headers are not all in its first bytes.
    #[cold]
    #[inline(never)]
    fn classify_whole<'a>(
        &'a self,
        obligation: Obligation<'a>,
        packet: &(impl PacketBytes + ?Sized),
        on_wire: usize,
        arrival: &Arrival,
        now: Timestamp,
        again: bool,
    ) -> Classified<'a> {
        let bytes = packet.all().unwrap_or_default();
        self.classify_bytes(obligation, bytes, on_wire, arrival, now, again)
    }

    /// Decides what happens to a fragment, an ICMP error or infrastructure.
    #[cold]
    fn classify_special<'a>(
        &'a self,
        obligation: Obligation<'a>,
        packet: &mut Presented<'_>,
        again: bool,
    ) -> Classified<'a> {
        let origin = Origin::of(&packet.headers, packet.arrival.direction);
        let origin = if packet.headers.fragment.is_none() {
            origin
        } else {
            match self.origin_of(packet, origin, again) {
                Belonging::To(origin) => origin,
                Belonging::Ends(action) => return packet.settle(obligation, action),
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
        if packet.policies.permits_infrastructure() && origin.infrastructure {
            return packet.settle(obligation, Action::Permit(Reason::PermittedInfrastructure));
        }
        // The rule of the flow that an ICMP error is about comes before one for its own two ends.
        if packet.headers.is_icmp_error() {
            match self.join(packet) {
                Joined::Cached(action) => return packet.settle(obligation, action),
                Joined::Pending(hold, _packets) => return packet.after_hold(hold, obligation),
                Joined::UnknownFlow => {}
            }
        }
        let hash = self.hasher.hash(&origin.flow);
        let fate = self.hit_by(packet, hash, &origin.flow);
        self.classify_flow(obligation, packet, origin.flow, hash, fate.as_ref())
    }

    /// Decides what happens to a packet of a flow, whose fate is known or not.
    ///
    /// Takes the flow by value, so that the caller need not have it in memory for packets that do not
    /// come here.
    #[inline(never)]
    fn classify_flow<'a>(
        &'a self,
        obligation: Obligation<'a>,
        packet: &Presented<'_>,
        flow: FlowKey,
        hash: u64,
        fate: Option<&Fate>,
    ) -> Classified<'a> {
        let flow = &flow;
        if let Some(fate) = fate {
            let action = self.cached_action(packet, hash, flow, fate);
            return packet.settle(obligation, action);
        }
        if let Some(reason) = self.permitted_unasked(packet, flow) {
            return packet.settle(obligation, Action::Permit(reason));
        }
        let mut packets = self.packets.lock();
        // The verdict may have come since the look-up before; from here on it cannot.
        if let Some(fate) = self.hit_by(packet, hash, flow) {
            drop(packets);
            let action = self.cached_action(packet, hash, flow, &fate);
            return packet.settle(obligation, action);
        }
        if let Some(action) = packets.first_of_connect(hash, flow, packet) {
            drop(packets);
            return packet.settle(obligation, action);
        }
        // Under the lock, or what is told meanwhile could be missed.
        let known = packet.arrival.process_id;
        let arrival = Arrival {
            process_id: known.or_else(|| self.owner(hash, flow)),
            ..*packet.arrival
        };
        let packet = Presented {
            arrival: &arrival,
            ..*packet
        };
        let hold = packets.hold(hash, flow, &packet);
        // Still under the lock, so that nobody lets it go before it is counted as held.
        packet.after_hold(hold, obligation)
    }

    /// Lets an ICMP error go the way of the flow that it is about, if that is cached or waits for its
    /// verdict. About a flow that is neither, nobody is asked by this: whoever can send us an error
    /// could have a verdict given for a flow that has not begun.
    fn join(&self, packet: &mut Presented<'_>) -> Joined<'_, R> {
        let direction = packet.arrival.direction;
        let Some(flow) = packet.headers.quoted_flow(packet.bytes, direction) else {
            return Joined::UnknownFlow;
        };
        let hash = self.hasher.hash(&flow);
        if let Some(fate) = self.flows.hit_by_error(hash, &flow, &self.settings, packet) {
            return Joined::Cached(self.cached_action(packet, hash, &flow, &fate));
        }
        let mut packets = self.packets.lock();
        // As for other packets: the verdict may have come since.
        if let Some(fate) = self.flows.hit_by_error(hash, &flow, &self.settings, packet) {
            drop(packets);
            return Joined::Cached(self.cached_action(packet, hash, &flow, &fate));
        }
        if !packets.is_pending(hash, &flow) {
            return Joined::UnknownFlow;
        }
        packet.what = What::AboutAnother;
        let hold = packets.hold(hash, &flow, packet);
        Joined::Pending(hold, packets)
    }

    /// The flow that a fragment belongs to, and whether it is infrastructure: as its first fragment, if
    /// it is a later one. `again` says that it waited for that.
    fn origin_of(&self, packet: &Presented<'_>, origin: Origin, again: bool) -> Belonging<'_, R> {
        let Presented {
            bytes,
            headers,
            arrival,
            now,
            policies,
            ..
        } = packet;
        let (direction, now) = (arrival.direction, *now);
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
            self.note_early(&table);
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
                self.note_early(&table);
                // Bound: EARLY_FRAGMENTS.
                for _ in 0..gone {
                    self.counters
                        .shared()
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

    /// Whether fragments that came before their first one may go on, now that it has come. Who
    /// presented it lets it go at once, and then takes the others by [`Engine::next_early`].
    pub fn has_early(&self) -> bool {
        self.early_ready.load(Ordering::Relaxed) > 0
    }

    /// Takes the next fragment that may go on behind the `first` one, which went this way, for
    /// [`Engine::classify_early`]. `allocate` runs under a lock of the engine: it must not wait, and
    /// must not call the engine.
    pub fn next_early<B: AsMut<[u8]>>(
        &self,
        first: &Headers,
        direction: Direction,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<EarlyFragment<'_, B>> {
        let mut table = self.fragments.lock();
        let taken = table.take_ready(&self.hasher, first, direction, allocate);
        self.note_early(&table);
        drop(table);
        taken.map(|(early, buffer)| EarlyFragment {
            obligation: self.counters.shared().unhold(),
            arrival: early.arrival,
            on_wire: early.on_wire,
            buffer,
        })
    }

    /// Writes down what is to be known without the lock.
    fn note_early(&self, table: &FragmentTable) {
        let (ready, waiting) = table.early();
        self.early_ready.store(ready, Ordering::Relaxed);
        self.early_waiting.store(waiting, Ordering::Relaxed);
    }

    /// Drops the fragments that wait for their first one, however long they have waited: their device
    /// is closed, or no packets come any more.
    pub fn drop_early(&self) {
        self.expire_early(None);
    }

    /// Drops the fragments that have waited for their first one for too long.
    pub(crate) fn expire_early(&self, now: Option<Timestamp>) {
        // Bound: EARLY_FRAGMENTS, each under a lock of its own.
        for _ in 0..EARLY_FRAGMENTS {
            let mut table = self.fragments.lock();
            if !table.expire(now) {
                return;
            }
            self.note_early(&table);
            drop(table);
            self.counters
                .shared()
                .unhold()
                .end(Reason::DroppedFragmentOrphan);
        }
    }

    #[inline(always)]
    fn hit(
        &self,
        hash: u64,
        flow: &FlowKey,
        arrival: &Arrival,
        headers: &Headers,
        now: Timestamp,
        counters: Tally<'_>,
    ) -> Option<Hit> {
        let found = self.flows.live(hash, flow, &self.settings, now, counters)?;
        found.hit(arrival, headers, now)
    }

    /// The same where it need not be fast.
    fn hit_by(&self, packet: &Presented<'_>, hash: u64, flow: &FlowKey) -> Option<Fate> {
        let Presented {
            headers,
            arrival,
            now,
            counters,
            ..
        } = packet;
        self.hit(hash, flow, arrival, headers, *now, *counters)
            .map(Hit::fate)
    }

    /// What a cached fate does with a packet. On the way there a redirected packet makes sure that
    /// its answers find the way back, which may have been evicted. If they have become another
    /// flow's meanwhile, the redirected flow moves to another source port.
    fn cached_action(
        &self,
        packet: &Presented<'_>,
        hash: u64,
        flow: &FlowKey,
        fate: &Fate,
    ) -> Action {
        let direction = packet.arrival.direction;
        if let Fate::Verdict(verdict, Some(translation)) = fate
            && translation.applies_to(direction)
            && !self.claim(translation, *verdict, flow, packet.now)
        {
            let moved = self.fate(*verdict, flow, direction, packet.now);
            // One that found no port now may find one for its next packet.
            if matches!(moved, Fate::Verdict(_, Some(_))) {
                self.flows.exchange(hash, flow, fate, moved);
            }
            return moved.action(flow, direction, Met::Cached);
        }
        fate.action(flow, direction, Met::Cached)
    }

    /// Why a packet of an unknown flow is permitted without a question, if it is.
    fn permitted_unasked(&self, packet: &Presented<'_>, flow: &FlowKey) -> Option<Reason> {
        let Headers {
            version,
            destination,
            ..
        } = &packet.headers;
        let policies = packet.policies;
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
}
