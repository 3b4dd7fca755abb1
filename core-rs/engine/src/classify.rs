//! What happens to a packet that the host presents: the rules in their order.

use kext_packet::Headers;
use kext_sync::atomic::Ordering;
use kext_sync::{Guard, RawLock};
use kext_types::{Arrival, FlowKey, FragmentPolicy, Reason, RequestInfo, Timestamp};

use crate::action::{self, Action, Fate, Met, Settled};
use crate::counters::{Obligation, Stripe};
use crate::fragments::{EARLY_FRAGMENTS, FragmentTable, Later, Origin};
use crate::packet_cache::{Hold, PacketCache};
use crate::settings::Policies;
use crate::{Engine, PLACEHOLDER};

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
    pub(crate) fn expire_early(&self, now: Option<Timestamp>) {
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
}
