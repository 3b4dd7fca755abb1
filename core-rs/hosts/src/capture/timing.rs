//! Time stamps of both formats as nanoseconds since 1970.

use kext_types::Timestamp;

const NANOS_PER_SEC: u128 = 1_000_000_000;

/// The unit of a classic pcap file's fractions of a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fraction {
    Micros,
    Nanos,
}

/// The time of a classic pcap record. A fraction of a second or more is taken as what it says.
pub(super) fn pcap_time(seconds: u32, fraction: u32, unit: Fraction) -> Timestamp {
    let nanos = match unit {
        Fraction::Micros => u64::from(fraction) * 1_000,
        Fraction::Nanos => u64::from(fraction),
    };
    // At most 2^32 * 10^9 + 2^32 * 10^3, far below 2^64.
    Timestamp::from_nanos(u64::from(seconds) * 1_000_000_000 + nanos)
}

/// How an interface of a pcapng file states time (`if_tsresol`, `if_tsoffset`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Clock {
    /// Bits 0 to 6: the exponent. Bit 7: whether the base is 2 rather than 10.
    pub(super) resolution: u8,
    /// Seconds to add.
    pub(super) offset: i64,
}

impl Default for Clock {
    fn default() -> Self {
        Self {
            resolution: 6,
            offset: 0,
        }
    }
}

impl Clock {
    /// The time that `ticks` stands for, rounded down to nanoseconds. Times that a [`Timestamp`]
    /// cannot state become its first or last moment.
    pub(super) fn time(self, ticks: u64) -> Timestamp {
        let ticks = u128::from(ticks);
        let exponent = u32::from(self.resolution & 0x7f);
        let nanos = if self.resolution & 0x80 == 0 {
            match 9_u32.checked_sub(exponent) {
                // At most 2^64 * 10^9, far below 2^127.
                Some(up) => ticks * 10_u128.pow(up),
                // 10^38 is the last power in range; by then nothing of 2^64 ticks is left.
                None => 10_u128
                    .checked_pow(exponent - 9)
                    .map_or(0, |divisor| ticks / divisor),
            }
        } else {
            // The exponent is at most 127, so the shift is in range.
            (ticks * NANOS_PER_SEC) >> exponent
        };
        let offset = i128::from(self.offset) * NANOS_PER_SEC.cast_signed();
        let nanos = nanos.cast_signed().saturating_add(offset).max(0);
        Timestamp::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(resolution: u8, offset: i64, ticks: u64) -> u64 {
        Clock { resolution, offset }.time(ticks).as_nanos()
    }

    #[test]
    fn powers_of_ten() {
        for exponent in 0..=9_u8 {
            let second = 10_u64.pow(exponent.into());
            assert_eq!(nanos(exponent, 0, 3 * second), 3_000_000_000, "{exponent}");
        }
        assert_eq!(nanos(6, 0, 1), 1_000);
        assert_eq!(nanos(12, 0, 1_234_567), 1_234);
        assert_eq!(nanos(19, 0, u64::MAX), 1_844_674_407);
        assert_eq!(nanos(28, 0, u64::MAX), 1);
        assert_eq!(nanos(29, 0, u64::MAX), 0);
        assert_eq!(nanos(127, 0, u64::MAX), 0);
    }

    #[test]
    fn powers_of_two() {
        assert_eq!(nanos(0x80, 0, 7), 7_000_000_000);
        assert_eq!(nanos(0x81, 0, 3), 1_500_000_000);
        assert_eq!(nanos(0x9e, 0, 1 << 30), 1_000_000_000);
        assert_eq!(nanos(0xa0, 0, 5 << 31), 2_500_000_000);
        assert_eq!(nanos(0xbf, 0, 1 << 63), 1_000_000_000);
        assert_eq!(nanos(0xff, 0, u64::MAX), 0);
    }

    #[test]
    fn offsets_and_the_ends_of_the_range() {
        assert_eq!(nanos(9, 5, 1), 5_000_000_001);
        assert_eq!(nanos(0, -5, 7), 2_000_000_000);
        assert_eq!(nanos(0, -5, 4), 0);
        assert_eq!(nanos(0, 0, u64::MAX), u64::MAX);
        assert_eq!(nanos(0, i64::MAX, u64::MAX), u64::MAX);
        assert_eq!(nanos(0, i64::MIN, 0), 0);
    }

    #[test]
    fn pcap_fractions_of_either_unit() {
        let micros = pcap_time(1, 5, Fraction::Micros);
        assert_eq!(micros.as_nanos(), 1_000_005_000);
        assert_eq!(pcap_time(1, 5, Fraction::Nanos).as_nanos(), 1_000_000_005);
        let last = pcap_time(u32::MAX, u32::MAX, Fraction::Micros);
        assert_eq!(last.as_nanos(), 4_294_971_589_967_295_000);
    }
}
