//! The extension's counters at one moment.

use kext_types::{Disposition, Event, Reason};
use kext_wire::counters::Counter;

/// Every counter at one moment, in the order of the numbers.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Counters(Vec<Counter>);

impl FromIterator<Counter> for Counters {
    fn from_iter<I: IntoIterator<Item = Counter>>(counters: I) -> Self {
        let mut counters: Vec<_> = counters.into_iter().collect();
        counters.sort_by_key(|counter| counter.number);
        Self(counters)
    }
}

impl Counters {
    /// All of them.
    pub fn iter(&self) -> std::slice::Iter<'_, Counter> {
        self.0.iter()
    }

    /// The packets that ended for a reason.
    pub fn reason(&self, reason: Reason) -> u64 {
        self.number(reason.number())
    }

    /// How often an event happened.
    pub fn event(&self, event: Event) -> u64 {
        self.number(event.number())
    }

    /// The packets that ended in one of the four ways, reasons included that this client does not
    /// know.
    pub fn disposition(&self, disposition: Disposition) -> u64 {
        self.iter()
            .filter(|counter| counter.disposition == Some(disposition))
            .fold(0, |sum, counter| sum.saturating_add(counter.value))
    }

    /// Packets presented.
    pub fn seen(&self) -> u64 {
        self.event(Event::Seen)
    }

    /// Packets held.
    pub fn held(&self) -> u64 {
        self.event(Event::Held)
    }

    /// Packets that went on unchanged.
    pub fn permitted(&self) -> u64 {
        self.disposition(Disposition::Permitted)
    }

    /// Packets that were refused.
    pub fn blocked(&self) -> u64 {
        self.disposition(Disposition::Blocked)
    }

    /// Packets that were discarded in silence.
    pub fn dropped(&self) -> u64 {
        self.disposition(Disposition::Dropped)
    }

    /// Packets that went on with another address or port.
    pub fn redirected(&self) -> u64 {
        self.disposition(Disposition::Redirected)
    }

    /// Whether every packet that was seen is accounted for.
    pub fn balanced(&self) -> bool {
        let ended = Disposition::ALL
            .iter()
            .fold(0_u64, |sum, of| sum.saturating_add(self.disposition(*of)));
        self.seen() == ended.saturating_add(self.held())
    }

    fn number(&self, number: u16) -> u64 {
        self.0
            .binary_search_by_key(&number, |counter| counter.number)
            .ok()
            .and_then(|index| self.0.get(index))
            .map_or(0, |counter| counter.value)
    }
}

impl<'a> IntoIterator for &'a Counters {
    type Item = &'a Counter;
    type IntoIter = std::slice::Iter<'a, Counter>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counter(number: u16, disposition: Option<Disposition>, value: u64) -> Counter {
        Counter {
            number,
            disposition,
            value,
        }
    }

    #[test]
    fn an_unknown_reason_keeps_the_balance() {
        let mut parts = vec![
            counter(1_001, None, 1),
            counter(1_000, None, 10),
            counter(0, Some(Disposition::Permitted), 4),
            counter(99, Some(Disposition::Permitted), 5),
        ];
        let counters: Counters = parts.iter().copied().collect();
        assert_eq!((counters.seen(), counters.held()), (10, 1));
        assert_eq!(counters.permitted(), 9);
        assert!(counters.balanced());

        parts[3].disposition = None;
        assert!(!parts.into_iter().collect::<Counters>().balanced());
    }
}
