//! Clocks and waiting.

use core::time::Duration;

use kext_nt_sys::ke;

use crate::irql::Passive;

/// Units of the kernel's times in a second: each is 100 ns.
pub const UNITS_PER_SECOND: u64 = 10_000_000;
/// Nanoseconds in one unit.
pub const NANOS_PER_UNIT: u64 = 100;

/// From 1601-01-01, where the kernel's system time starts, to 1970-01-01, in units.
const UNIX_EPOCH: u64 = 11_644_473_600 * UNITS_PER_SECOND;

/// Units since the machine started, those in which it slept included. Never steps back.
///
/// IRQL: any.
#[inline]
pub fn since_start() -> u64 {
    let mut counter = 0;
    // SAFETY: callable at any level; it writes one number.
    unsafe { ke::KeQueryInterruptTimePrecise(&raw mut counter) }
}

/// Units since 1970-01-01 00:00 UTC. Steps when somebody sets the clock.
///
/// IRQL: any.
pub fn since_1970() -> u64 {
    let mut units = 0;
    // SAFETY: callable at any level; it writes one number.
    unsafe { ke::KeQuerySystemTimePrecise(&raw mut units) };
    units.cast_unsigned().saturating_sub(UNIX_EPOCH)
}

/// A duration in units, at most as many as a timer takes.
pub(crate) fn units(duration: Duration) -> u64 {
    let units = duration.as_nanos() / u128::from(NANOS_PER_UNIT);
    u64::try_from(units)
        .unwrap_or(u64::MAX)
        .min(i64::MAX.cast_unsigned())
}

/// The moment so long after another, in units; the end of time if it is further away.
///
/// IRQL: any.
pub fn after(start: u64, duration: Duration) -> u64 {
    start.saturating_add(units(duration))
}

/// Waits.
///
/// IRQL: `PASSIVE_LEVEL`.
pub fn sleep(_: &Passive, duration: Duration) {
    let mut interval = units(duration).cast_signed().wrapping_neg();
    // SAFETY: at PASSIVE_LEVEL, as the token says; the interval is read only.
    let _ = unsafe { ke::KeDelayExecutionThread(ke::KernelMode, 0, &raw mut interval) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_become_units_and_saturate() {
        assert_eq!(units(Duration::from_millis(1)), 10_000);
        assert_eq!(units(Duration::MAX), i64::MAX.cast_unsigned());
        assert_eq!(after(5, Duration::from_micros(1)), 15);
        assert_eq!(after(u64::MAX - 1, Duration::from_secs(1)), u64::MAX);
    }
}
