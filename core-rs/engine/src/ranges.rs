//! Which bytes of a fragmented packet have come.

/// How many holes a packet may have at once, nearly: fragments in order or in reverse have none.
const MAX_RANGES: usize = 16;

/// What a fragment adds to those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Added {
    /// New bytes only.
    New,
    /// Nothing: a duplicate, or what could be one.
    Nothing,
    /// New bytes and old ones, or bytes behind the last; or there are too many holes to tell.
    Overlap,
}

/// The bytes that have come, as ranges that neither meet nor overlap.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ranges {
    /// Start and end; unused ones are empty.
    ranges: [(u16, u16); MAX_RANGES],
    /// Where the last fragment ends, once it has come.
    end: Option<u16>,
}

impl Ranges {
    pub(crate) const EMPTY: Self = Self {
        ranges: [(0, 0); MAX_RANGES],
        end: None,
    };

    /// Adds a fragment; an overlapping one is not added.
    pub(crate) fn add(&mut self, start: u16, len: u16, last: bool) -> Added {
        let mut new = (start, start.saturating_add(len));
        let furthest = self.ranges.iter().map(|range| range.1).max().unwrap_or(0);
        match self.end {
            Some(end) if new.1 > end || (last && new.1 != end) => return Added::Overlap,
            None if last && furthest > new.1 => return Added::Overlap,
            _ => {}
        }
        // Bound: MAX_RANGES, here and below.
        for &(start, end) in &self.ranges {
            if start < new.1 && new.0 < end {
                return if start <= new.0 && new.1 <= end {
                    Added::Nothing
                } else {
                    Added::Overlap
                };
            }
        }
        if last {
            self.end = Some(new.1);
        }
        if len == 0 {
            return Added::New;
        }
        for range in &mut self.ranges {
            if range.0 < range.1 && (range.1 == new.0 || range.0 == new.1) {
                new = (range.0.min(new.0), range.1.max(new.1));
                *range = (0, 0);
            }
        }
        match self.ranges.iter_mut().find(|range| range.0 == range.1) {
            Some(free) => {
                *free = new;
                Added::New
            }
            None => Added::Overlap,
        }
    }

    /// Whether every byte has come.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.ranges.contains(&(0, end)))
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a plain map of units of eight bytes.
        #[test]
        fn agrees_with_a_map(pieces in prop::collection::vec((0..12_u16, 1..5_u16), 1..12)) {
            let mut ranges = Ranges::EMPTY;
            let mut come = [false; 20];
            for (start, len) in pieces {
                let units = start as usize..(start + len) as usize;
                let old = come[units.clone()].iter().filter(|come| **come).count();
                let expected = match old {
                    0 => Added::New,
                    all if all == len as usize => Added::Nothing,
                    _ => Added::Overlap,
                };
                prop_assert_eq!(ranges.add(start * 8, len * 8, false), expected);
                if expected == Added::New {
                    come[units].fill(true);
                }
            }
        }

        #[test]
        fn is_complete_when_all_have_come_in_any_order(
            order in Just((0..16_u16).collect::<Vec<_>>()).prop_shuffle()
        ) {
            let mut ranges = Ranges::EMPTY;
            for (i, piece) in order.iter().enumerate() {
                prop_assert!(!ranges.is_complete(), "{} of 16", i);
                prop_assert_eq!(ranges.add(piece * 8, 8, *piece == 15), Added::New);
            }
            prop_assert!(ranges.is_complete());
        }
    }

    #[test]
    fn nothing_comes_behind_the_last() {
        let mut ranges = Ranges::EMPTY;
        assert_eq!(ranges.add(16, 8, true), Added::New);
        assert_eq!(ranges.add(24, 8, false), Added::Overlap);
        assert_eq!(ranges.add(8, 8, true), Added::Overlap, "another end");
        let mut ranges = Ranges::EMPTY;
        assert_eq!(ranges.add(16, 8, false), Added::New);
        assert_eq!(ranges.add(8, 8, true), Added::Overlap);
    }

    #[test]
    fn too_many_holes_are_an_overlap() {
        let mut ranges = Ranges::EMPTY;
        for piece in 0..16 {
            assert_eq!(ranges.add(piece * 16, 8, false), Added::New);
        }
        assert_eq!(ranges.add(16 * 16, 8, false), Added::Overlap);
        assert_eq!(ranges.add(8, 8, false), Added::New);
    }
}
