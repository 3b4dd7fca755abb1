//! Addresses of the v1 interface: four 32-bit words in host order.

use kext_types::{Address, IpVersion};
use zerocopy::little_endian::U32;

use crate::DecodeError;
use crate::error::Place;

/// Four words, the most significant first; an IPv4 address is the first word.
pub(super) type Words = [U32; 4];

/// The words of an address.
pub(super) fn to_words(version: IpVersion, address: Address) -> Words {
    match version {
        IpVersion::V4 => {
            let word = u32::from_be_bytes(address.v4_bytes());
            [U32::new(word), U32::ZERO, U32::ZERO, U32::ZERO]
        }
        IpVersion::V6 => {
            let whole = address.to_bits();
            [96, 64, 32, 0].map(|shift| U32::new((whole >> shift) as u32))
        }
    }
}

/// The address in the words; for IPv4 all but the first are ignored.
pub(super) fn from_words(version: IpVersion, words: Words) -> Address {
    match version {
        IpVersion::V4 => {
            let [word, ..] = words;
            Address::v4(word.get().to_be_bytes())
        }
        IpVersion::V6 => {
            let whole = words
                .iter()
                .fold(0_u128, |whole, word| whole << 32 | u128::from(word.get()));
            Address::v6(whole.to_be_bytes())
        }
    }
}

/// The IPv6 flag of a version.
pub(super) const fn to_flag(version: IpVersion) -> u8 {
    match version {
        IpVersion::V4 => 0,
        IpVersion::V6 => 1,
    }
}

/// The version of an IPv6 flag.
pub(super) fn from_flag(place: Place, offset: usize, flag: u8) -> Result<IpVersion, DecodeError> {
    match flag {
        0 => Ok(IpVersion::V4),
        1 => Ok(IpVersion::V6),
        other => Err(place.unknown("ipv6", offset, other)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_ipv4_address_is_one_host_order_number() {
        let words = to_words(IpVersion::V4, Address::v4([192, 0, 2, 1]));
        assert_eq!(words.map(U32::get), [0xC000_0201, 0, 0, 0]);
    }

    #[test]
    fn the_most_significant_word_of_ipv6_is_first() {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
        bytes[15] = 7;
        let words = to_words(IpVersion::V6, Address::v6(bytes));
        assert_eq!(words.map(U32::get), [0x2001_0db8, 0, 0, 7]);
    }

    #[test]
    fn the_other_words_of_ipv4_are_ignored() {
        let words = [0xC000_0201, 1, 2, 3].map(U32::new);
        let address = from_words(IpVersion::V4, words);
        assert_eq!(address, Address::v4([192, 0, 2, 1]));
    }

    proptest! {
        #[test]
        fn addresses_come_back(bytes: [u8; 16], v4: [u8; 4]) {
            let v6 = Address::v6(bytes);
            prop_assert_eq!(from_words(IpVersion::V6, to_words(IpVersion::V6, v6)), v6);
            let v4 = Address::v4(v4);
            prop_assert_eq!(from_words(IpVersion::V4, to_words(IpVersion::V4, v4)), v4);
        }
    }
}
