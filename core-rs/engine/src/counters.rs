//! Counters by reason, and the obligation to count.
//!
//! A packet that is presented becomes an [`Obligation`]: a value that must say how the packet ended.
//! Letting it go without a word counts the packet as forgotten, so that the balance holds whatever
//! the code around it does.

use kext_sync::atomic::{AtomicU64, Ordering};
use kext_types::{Disposition, Event, Reason};

use crate::memory::{OutOfMemory, Vec, filled};

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

/// Processors that count apart; a power of two. Those beyond share.
const STRIPES: usize = 32;

/// Every counter of the engine.
///
/// Each processor counts in a stripe of its own, or every packet would move cache lines between
/// them. A counter is the sum of its stripes.
pub struct Counters {
    /// STRIPES of them.
    stripes: Vec<Counts>,
    /// Never counted in; there so that counting cannot fail.
    spare: Counts,
}

#[repr(align(128))]
struct Counts {
    reasons: [AtomicU64; DISPOSITIONS * REASONS_EACH],
    events: [AtomicU64; Event::ALL.len()],
}

/// The counters, as one processor counts.
#[derive(Clone, Copy)]
pub(crate) struct Stripe<'a>(&'a Counts);

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
            stripes: filled("counters", STRIPES, Counts::new)?,
            spare: Counts::new(),
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

    /// Wraps, as a packet may be held on one processor and let go on another. If that happens between
    /// the reading of the two, the sum is below zero, and told as zero.
    fn sum(&self, of: impl Fn(&Counts) -> Option<&AtomicU64>) -> u64 {
        // Bound: STRIPES.
        let sum = self
            .stripes
            .iter()
            .filter_map(|counts| Some(of(counts)?.load(Ordering::Relaxed)))
            .fold(0, u64::wrapping_add);
        sum.cast_signed().max(0).cast_unsigned()
    }

    /// The stripe of a processor.
    pub(crate) fn on(&self, processor: usize) -> Stripe<'_> {
        Stripe(self.stripes.get(processor % STRIPES).unwrap_or(&self.spare))
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
        self.on(0).count(event);
    }
}

impl<'a> Stripe<'a> {
    /// Counts one event.
    pub(crate) fn count(self, event: Event) {
        if let Some(counter) = self.0.events.get(event_slot(event)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A packet is presented.
    pub(crate) fn present(self) -> Obligation<'a> {
        self.count(Event::Seen);
        Obligation {
            counters: self,
            open: true,
        }
    }

    /// A held packet leaves the packet cache.
    pub(crate) fn unhold(self) -> Obligation<'a> {
        if let Some(counter) = self.0.events.get(event_slot(Event::Held)) {
            counter.fetch_sub(1, Ordering::Relaxed);
        }
        Obligation {
            counters: self,
            open: true,
        }
    }

    fn end(self, reason: Reason) {
        if let Some(counter) = self.0.reasons.get(reason_slot(reason)) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The duty to say, exactly once, how a packet ended.
#[must_use = "a packet that nobody settles is counted as forgotten"]
pub struct Obligation<'a> {
    counters: Stripe<'a>,
    open: bool,
}

impl<'a> Obligation<'a> {
    /// Where the packet is counted.
    pub(crate) fn stripe(&self) -> Stripe<'a> {
        self.counters
    }

    /// The packet ended for this reason.
    pub fn end(mut self, reason: Reason) {
        self.open = false;
        self.counters.end(reason);
    }

    /// The packet went into the packet cache, which now owes its end.
    pub(crate) fn hold(mut self) {
        self.open = false;
        self.counters.count(Event::Held);
    }
}

impl Drop for Obligation<'_> {
    fn drop(&mut self) {
        if self.open {
            self.counters.end(Reason::DroppedUnsettled);
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
            counters.on(0).present().end(reason);
        }
        for reason in Reason::ALL {
            assert_eq!(counters.reason(reason), 1, "{reason:?}");
        }
        assert!(counters.totals().balanced());
    }

    #[test]
    fn a_forgotten_packet_is_counted() {
        let counters = Counters::try_new().unwrap();
        drop(counters.on(0).present());
        assert_eq!(counters.reason(Reason::DroppedUnsettled), 1);
        assert!(counters.totals().balanced());
    }

    #[test]
    fn a_hold_seen_after_its_end_is_no_number_of_packets() {
        let counters = Counters::try_new().unwrap();
        // What a reader sees that passed the first stripe before the packet was held there.
        counters.on(1).unhold().end(Reason::PermittedVerdict);
        assert_eq!(counters.event(Event::Held), 0);
        assert!(!counters.totals().balanced());
    }

    #[test]
    fn a_held_packet_balances_before_and_after_its_end() {
        let counters = Counters::try_new().unwrap();
        counters.on(0).present().hold();
        assert_eq!(counters.totals().held, 1);
        assert!(counters.totals().balanced());
        counters.on(1).unhold().end(Reason::PermittedVerdict);
        assert_eq!(counters.totals().held, 0);
        assert!(counters.totals().balanced());
    }
}
