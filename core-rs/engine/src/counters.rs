//! Counters by reason, and the obligation to count.
//!
//! A packet that is presented becomes an [`Obligation`]: a value that must say how the packet ended.
//! Letting it go without a word counts the packet as forgotten, so that the balance holds whatever
//! the code around it does.

use core::cell::Cell;
use core::marker::PhantomData;

use kext_sync::atomic::{AtomicU8, AtomicU64, Ordering};
use kext_types::{Disposition, Event, Reason};

use crate::memory::{OutOfMemory, Own, Vec, filled};

/// Room for each disposition's reasons.
const REASONS_EACH: usize = 16;
const DISPOSITIONS: usize = Disposition::ALL.len();

/// Where a reason's counter stands: hundreds of its number choose the row.
const fn reason_slot(reason: Reason) -> usize {
    let number = reason.number() as usize;
    number / 100 * REASONS_EACH + number % 100
}

const fn event_slot(event: Event) -> usize {
    event.number() as usize - 1000
}

const _: () = {
    // Bound: the number of reasons, at compile time.
    let mut i = 0;
    while i < Reason::ALL.len() {
        assert!(Reason::ALL[i].number() as usize % 100 < REASONS_EACH);
        assert!(reason_slot(Reason::ALL[i]) < DISPOSITIONS * REASONS_EACH);
        i += 1;
    }
    let mut i = 0;
    while i < Event::ALL.len() {
        assert!(event_slot(Event::ALL[i]) < Event::ALL.len());
        i += 1;
    }
};

/// Lanes that count apart; those beyond share.
const LANES: usize = 64;

/// Every counter of the engine.
///
/// Each [`Lane`] counts in a stripe of its own: else every packet would move cache lines between
/// processors, and cost two locked instructions. A counter is the sum of its stripes.
pub struct Counters {
    /// LANES of them.
    lanes: Vec<Stripe>,
    /// For everything that has no lane.
    shared: Own<Counts>,
}

#[repr(align(128))]
struct Stripe {
    counts: Counts,
    taken: AtomicU8,
}

struct Counts {
    reasons: [AtomicU64; DISPOSITIONS * REASONS_EACH],
    events: [AtomicU64; Event::ALL.len()],
}

/// A place to count by one thread at a time, which needs no locked instruction for it.
///
/// A host keeps one for each thread that presents packets; or in a kernel for each processor, which
/// then must not be used below `DISPATCH_LEVEL`: who is interrupted while it counts, by another who
/// counts there, loses a count. It can go from thread to thread, but not be used by two at once.
pub struct Lane<'a> {
    counts: &'a Counts,
    alone: bool,
    taken: Option<&'a AtomicU8>,
    one_thread: PhantomData<Cell<()>>,
}

// A lane can be sent, and not shared; what counts in it cannot be sent away from it.
const _: () = {
    const fn sendable<T: Send>() {}
    sendable::<Lane<'_>>();
};

/// Where one thread counts, and how.
#[derive(Clone, Copy)]
pub(crate) struct Tally<'a> {
    counts: &'a Counts,
    /// Whether nobody else counts there meanwhile.
    alone: bool,
    /// What counts alone must not be used by two threads: a shared cell forbids it.
    one_thread: PhantomData<&'a Cell<()>>,
}

/// The sums of the counters at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Packets presented.
    pub seen: u64,
    /// Packets held now.
    pub held: u64,
    /// Ended packets by [`Disposition`], in the order of its numbers.
    pub ended: [u64; DISPOSITIONS],
}

impl Totals {
    /// Whether every packet seen is held or has ended.
    pub fn balanced(&self) -> bool {
        self.seen == self.held + self.ended.iter().sum::<u64>()
    }
}

impl Counts {
    const fn new() -> Self {
        Self {
            reasons: [const { AtomicU64::new(0) }; DISPOSITIONS * REASONS_EACH],
            events: [const { AtomicU64::new(0) }; Event::ALL.len()],
        }
    }
}

impl Counters {
    pub(crate) fn try_new() -> Result<Self, OutOfMemory> {
        Ok(Self {
            lanes: filled("counters", LANES, || Stripe {
                counts: Counts::new(),
                taken: AtomicU8::new(0),
            })?,
            shared: Own::try_new("counters", || Ok(Counts::new()))?,
        })
    }

    /// How many packets ended for this reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.sum(|counts| counts.reasons.get(reason_slot(reason)))
    }

    /// The value of an event's counter.
    pub fn event(&self, event: Event) -> u64 {
        self.sum(|counts| counts.events.get(event_slot(event)))
    }

    /// Wraps, as a packet may be held in one lane and let go in another. If that happens between
    /// the reading of the two, the sum is below zero, and told as zero.
    fn sum(&self, of: impl Fn(&Counts) -> Option<&AtomicU64>) -> u64 {
        let lanes = self.lanes.iter().map(|lane| &lane.counts);
        // Bound: LANES and one.
        let sum = lanes
            .chain([&*self.shared])
            .filter_map(|counts| Some(of(counts)?.load(Ordering::Relaxed)))
            .fold(0, u64::wrapping_add);
        sum.cast_signed().max(0).cast_unsigned()
    }

    /// The lane of this number, if nobody has it; else one that counts with everybody.
    pub(crate) fn lane(&self, number: usize) -> Lane<'_> {
        let free = self.lanes.get(number % LANES).filter(|lane| {
            // What its last owner counted is to be seen by the next.
            lane.taken.swap(1, Ordering::Acquire) == 0
        });
        match free {
            Some(lane) => Lane {
                counts: &lane.counts,
                alone: true,
                taken: Some(&lane.taken),
                one_thread: PhantomData,
            },
            None => Lane {
                counts: &self.shared,
                alone: false,
                taken: None,
                one_thread: PhantomData,
            },
        }
    }

    /// Counts with everybody.
    pub(crate) fn shared(&self) -> Tally<'_> {
        Tally::shared(&self.shared)
    }

    /// The sums; exact at a quiet moment.
    pub fn totals(&self) -> Totals {
        let mut totals = Totals {
            seen: self.event(Event::Seen),
            held: self.event(Event::Held),
            ended: [0; DISPOSITIONS],
        };
        // Bound: the number of reasons.
        for reason in Reason::ALL {
            if let Some(sum) = totals.ended.get_mut(reason.disposition() as usize) {
                *sum += self.reason(reason);
            }
        }
        totals
    }

    /// Counts one event.
    pub fn count(&self, event: Event) {
        self.shared().count(event);
    }
}

impl Lane<'_> {
    /// A packet that was presented here and permitted could not go on after all: it ends for this
    /// reason instead of the one that it ended for.
    pub fn correct(&self, before: Reason, after: Reason) {
        self.tally().correct(before, after);
    }

    /// A packet that was not presented here, as it was before, could not go on: one more that is lost.
    pub fn lose(&self, reason: Reason) {
        self.tally().present().end(reason);
    }

    pub(crate) fn tally(&self) -> Tally<'_> {
        Tally {
            alone: self.alone,
            ..Tally::shared(self.counts)
        }
    }
}

impl Drop for Lane<'_> {
    fn drop(&mut self) {
        if let Some(taken) = self.taken {
            taken.store(0, Ordering::Release);
        }
    }
}

impl<'a> Tally<'a> {
    const fn shared(counts: &'a Counts) -> Self {
        Self {
            counts,
            alone: false,
            one_thread: PhantomData,
        }
    }

    #[inline]
    fn add(self, counter: Option<&AtomicU64>, by: u64) {
        let Some(counter) = counter else {
            return;
        };
        if self.alone {
            let value = counter.load(Ordering::Relaxed).wrapping_add(by);
            counter.store(value, Ordering::Relaxed);
        } else {
            counter.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Counts one event.
    #[inline]
    pub(crate) fn count(self, event: Event) {
        self.add(self.counts.events.get(event_slot(event)), 1);
    }

    /// A packet that ended for one reason, and was counted here, ends for another after all.
    pub(crate) fn correct(self, before: Reason, after: Reason) {
        // Another stripe may hold what was counted; the sum is right.
        let counted = self.counts.reasons.get(reason_slot(before));
        self.add(counted, 1_u64.wrapping_neg());
        self.end(after);
    }

    /// A packet is presented.
    #[inline]
    pub(crate) fn present(self) -> Obligation<'a> {
        self.count(Event::Seen);
        Obligation {
            tally: self,
            open: true,
        }
    }

    /// A held packet leaves the packet cache.
    pub(crate) fn unhold(self) -> Obligation<'a> {
        let held = self.counts.events.get(event_slot(Event::Held));
        self.add(held, 1_u64.wrapping_neg());
        Obligation {
            tally: self,
            open: true,
        }
    }

    #[inline]
    fn end(self, reason: Reason) {
        self.add(self.counts.reasons.get(reason_slot(reason)), 1);
    }
}

/// The duty to say, exactly once, how a packet ended.
#[must_use = "a packet that nobody settles is counted as forgotten"]
pub struct Obligation<'a> {
    tally: Tally<'a>,
    open: bool,
}

impl<'a> Obligation<'a> {
    /// Where the packet is counted.
    pub(crate) fn tally(&self) -> Tally<'a> {
        self.tally
    }

    /// The packet ended for this reason.
    pub fn end(mut self, reason: Reason) {
        self.open = false;
        self.tally.end(reason);
    }

    /// The packet went into the packet cache, which now owes its end.
    pub(crate) fn hold(mut self) {
        self.open = false;
        self.tally.count(Event::Held);
    }
}

impl Drop for Obligation<'_> {
    fn drop(&mut self) {
        if self.open {
            self.tally.end(Reason::DroppedUnsettled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_and_event_has_a_counter_of_its_own() {
        let counters = Counters::try_new().unwrap();
        for reason in Reason::ALL {
            counters.shared().present().end(reason);
        }
        for reason in Reason::ALL {
            assert_eq!(counters.reason(reason), 1, "{reason:?}");
        }
        assert!(counters.totals().balanced());
    }

    #[test]
    fn a_forgotten_packet_is_counted() {
        let counters = Counters::try_new().unwrap();
        drop(counters.shared().present());
        assert_eq!(counters.reason(Reason::DroppedUnsettled), 1);
        assert!(counters.totals().balanced());
    }

    #[test]
    fn a_lane_is_one_owners_and_free_after_it() {
        let counters = Counters::try_new().unwrap();
        let first = counters.lane(3);
        let second = counters.lane(3 + LANES);
        assert!(first.tally().alone && !second.tally().alone);
        for lane in [&first, &second] {
            lane.tally().present().end(Reason::PermittedCache);
        }
        drop(first);
        assert!(counters.lane(3).tally().alone);
        assert_eq!(counters.reason(Reason::PermittedCache), 2);
        assert_eq!(counters.totals().seen, 2);
    }

    #[test]
    fn a_hold_seen_after_its_end_is_no_number_of_packets() {
        let counters = Counters::try_new().unwrap();
        // What a reader sees that passed the first stripe before the packet was held there.
        counters
            .lane(1)
            .tally()
            .unhold()
            .end(Reason::PermittedVerdict);
        assert_eq!(counters.event(Event::Held), 0);
        assert!(!counters.totals().balanced());
    }

    #[test]
    fn a_held_packet_balances_before_and_after_its_end() {
        let counters = Counters::try_new().unwrap();
        counters.shared().present().hold();
        assert_eq!(counters.totals().held, 1);
        assert!(counters.totals().balanced());
        counters
            .lane(1)
            .tally()
            .unhold()
            .end(Reason::PermittedVerdict);
        assert_eq!(counters.totals().held, 0);
        assert!(counters.totals().balanced());
    }
}
