//! A token bucket: at most so many answers a second.

use kext_types::Timestamp;

const SECOND: u64 = 1_000_000_000;

/// Tokens are counted in billionths, so that a nanosecond adds `rate` of them.
pub(crate) struct TokenBucket {
    tokens: u64,
    filled: Timestamp,
}

impl TokenBucket {
    pub(crate) const fn new() -> Self {
        Self {
            tokens: 0,
            filled: Timestamp::from_nanos(0),
        }
    }

    /// Takes one token, if there is one. `rate` tokens come each second and at most as many wait.
    pub(crate) fn take(&mut self, rate: u32, now: Timestamp) -> bool {
        let rate = u64::from(rate);
        let elapsed = u64::try_from(now.since(self.filled).as_nanos()).unwrap_or(u64::MAX);
        self.filled = self.filled.max(now);
        self.tokens = self
            .tokens
            .saturating_add(elapsed.saturating_mul(rate))
            .min(rate.saturating_mul(SECOND));
        match self.tokens.checked_sub(SECOND) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Timestamp {
        Timestamp::from_nanos(1_700_000_000_000_000_000 + ms * 1_000_000)
    }

    #[test]
    fn a_second_allows_the_rate_and_no_more() {
        let mut bucket = TokenBucket::new();
        let taken = (0..50).filter(|_| bucket.take(10, at(0))).count();
        assert_eq!(taken, 10);
        assert!(!bucket.take(10, at(99)));
        assert!(bucket.take(10, at(100)));
        let taken = (0..50).filter(|_| bucket.take(10, at(60_000))).count();
        assert_eq!(taken, 10);
    }

    #[test]
    fn a_rate_of_zero_allows_nothing_and_time_may_stand_still_or_step_back() {
        let mut bucket = TokenBucket::new();
        assert!(!bucket.take(0, at(0)));
        assert!(bucket.take(1, at(5_000)));
        assert!(!bucket.take(1, at(1_000)));
        assert!(!bucket.take(1, at(5_000)));
    }
}
