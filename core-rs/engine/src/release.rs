//! Held packets on their way out, one at a time and in order.

use kext_sync::RawLock;
use kext_types::{Event, Policy, Timestamp, VerdictOutcome};

use crate::action::{self, Action, PolicyReasons, Release, Settled};
use crate::counters::Tally;
use crate::packet_cache::{Due, Next, PacketCache, Taken};
use crate::table::Handle;
use crate::{Engine, NotHeld};

/// The packets that a verdict, the hold limit or the end of a reader sets free.
///
/// Each packet has to be let go before the next one is asked for: this is what keeps a flow's packets
/// in order while others arrive. What is not asked for is left to the tick.
#[must_use = "packets stay held until they are asked for"]
pub struct Releases<'a, R: RawLock> {
    engine: &'a Engine<R>,
    counters: Tally<'a>,
    first: Option<(Taken, Action)>,
    flow: Option<Handle>,
    /// How many more packets may be let go here; a flow that fills as fast as it empties must not
    /// keep a verdict's caller for ever.
    budget: u32,
}

impl<'a, R: RawLock> Releases<'a, R> {
    fn new(
        engine: &'a Engine<R>,
        counters: Tally<'a>,
        first: Option<(Taken, Action)>,
        flow: Option<Handle>,
    ) -> Self {
        Self {
            engine,
            counters,
            first,
            flow,
            budget: engine.capacities.flow_packets.saturating_mul(2),
        }
    }

    /// The packets of a flow that was decided.
    pub(crate) fn of_flow(
        engine: &'a Engine<R>,
        counters: Tally<'a>,
        flow: Option<Handle>,
    ) -> Self {
        Self::new(engine, counters, None, flow)
    }

    /// A packet that was taken, and what is to be done with it.
    pub(crate) fn of_taken(
        engine: &'a Engine<R>,
        counters: Tally<'a>,
        first: Option<(Taken, Action)>,
    ) -> Self {
        let flow = first.as_ref().map(|(taken, _)| taken.pending);
        Self::new(engine, counters, first, flow)
    }

    /// The same, but at most so many packets; what remains is left to the tick.
    pub fn at_most(mut self, packets: u32) -> Self {
        self.budget = self.budget.min(packets);
        self
    }

    /// The next packet, with its bytes in a buffer from `allocate` where they are needed.
    ///
    /// `allocate` runs under the packet cache's lock: it must not wait, and must not call the engine.
    #[inline]
    pub fn next<B: AsMut<[u8]>>(
        &mut self,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<Release<'a, B>> {
        let mut packets = self.engine.packets.lock();
        self.next_locked(&mut packets, allocate)
    }

    /// The same under the lock.
    #[inline]
    pub(crate) fn next_locked<B: AsMut<[u8]>>(
        &mut self,
        packets: &mut PacketCache,
        allocate: impl FnOnce(usize) -> Option<B>,
    ) -> Option<Release<'a, B>> {
        let engine = self.engine;
        let counters = self.counters;
        let (taken, mut action, lasting) = if let Some((taken, action)) = self.first.take() {
            (taken, action, false)
        } else {
            let flow = self.flow.take()?;
            // A flow that has ended is ended here: the tick need not look at it.
            if self.budget == 0 && packets.has_packets(flow) {
                packets.stall(flow, counters);
                return None;
            }
            let next = packets.next(flow, counters, |key, pending, decided| {
                engine.cache(key, pending, decided, counters);
            });
            let Next::Packet(taken, fate) = next else {
                return None;
            };
            self.flow = Some(flow);
            let action = packets.action(&taken, &fate)?;
            (taken, action, true)
        };
        packets.end_wait(&taken, &mut action, lasting);
        self.budget = self.budget.saturating_sub(1);
        let info = *packets.info(&taken)?;
        let obligation = counters.unhold();
        let buffer = packets.carry(&taken, action.needs_bytes(), allocate);
        Some(Release {
            settled: Settled { obligation, action },
            info,
            buffer,
        })
    }
}

impl<R: RawLock> Drop for Releases<'_, R> {
    /// What was taken but never asked for ends here, counted; what was not taken is left to the tick.
    fn drop(&mut self) {
        if self.first.is_none() && self.flow.is_none() {
            return;
        }
        let mut packets = self.engine.packets.lock();
        if let Some((taken, mut action)) = self.first.take() {
            packets.end_wait(&taken, &mut action, false);
            drop(self.counters.unhold());
            packets.carry::<[u8; 0]>(&taken, false, |_| None);
        }
        if let Some(flow) = self.flow.take() {
            packets.stall(flow, self.counters);
        }
    }
}

/// The oldest packet that a reader left behind.
pub(crate) fn abandoned<R: RawLock>(engine: &Engine<R>) -> Option<Releases<'_, R>> {
    let mut packets = engine.packets.lock();
    if !packets.holds_abandoned() {
        return None;
    }
    // Its flow may be one of those that were left.
    in_turn(engine, &mut packets, |packets| {
        take_abandoned(engine, packets)
    })
}

/// The next thing that time has brought about.
pub(crate) fn due<R: RawLock>(engine: &Engine<R>, now: Timestamp) -> Option<Releases<'_, R>> {
    let mut packets = engine.packets.lock();
    in_turn(engine, &mut packets, |packets| {
        if packets.holds_abandoned() {
            return take_abandoned(engine, packets);
        }
        let limit = u64::try_from(engine.settings.hold_limit().as_nanos()).unwrap_or(u64::MAX);
        let before = Timestamp::from_nanos(now.as_nanos().checked_sub(limit)?);
        let taken = packets.take_oldest(Due::Before(before))?;
        let policy = engine.settings.policies().hold_limit();
        Some(by_policy(engine, taken, policy, &action::HOLD_LIMIT))
    })
}

/// A flow that was left to the tick, or what is to be settled, in turn.
fn in_turn<'a, R: RawLock>(
    engine: &'a Engine<R>,
    packets: &mut PacketCache,
    settle: impl Fn(&mut PacketCache) -> Option<Releases<'a, R>>,
) -> Option<Releases<'a, R>> {
    let left = |packets: &mut PacketCache| {
        let flow = packets.unstall()?;
        Some(Releases::of_flow(
            engine,
            engine.counters.shared(),
            Some(flow),
        ))
    };
    if packets.continues_first() {
        left(packets).or_else(|| settle(packets))
    } else {
        settle(packets).or_else(|| left(packets))
    }
}

fn take_abandoned<'a, R: RawLock>(
    engine: &'a Engine<R>,
    packets: &mut PacketCache,
) -> Option<Releases<'a, R>> {
    let taken = packets.take_oldest(Due::Abandoned)?;
    let policy = engine.settings.policies().no_reader();
    Some(by_policy(engine, taken, policy, &action::NO_READER))
}

fn by_policy<'a, R: RawLock>(
    engine: &'a Engine<R>,
    taken: Taken,
    policy: Policy,
    reasons: &PolicyReasons,
) -> Releases<'a, R> {
    let first = (taken, Action::of_policy(policy, reasons));
    Releases::of_taken(engine, engine.counters.shared(), Some(first))
}

impl NotHeld {
    /// The counter of a verdict that met this.
    pub(crate) fn event(&self) -> Event {
        match self.outcome {
            VerdictOutcome::AlreadyDecided => Event::VerdictAlreadyDecided,
            VerdictOutcome::Evicted | VerdictOutcome::Expired | VerdictOutcome::Abandoned => {
                Event::VerdictTooLate
            }
            VerdictOutcome::InvalidVerdict => Event::VerdictInvalid,
            VerdictOutcome::Applied | VerdictOutcome::UnknownId => Event::VerdictUnknownId,
        }
    }
}
