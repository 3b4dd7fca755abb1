//! Buckets of tags: where a key of a hash table can stand, found in a few instructions.
//!
//! A bucket is a word with a byte for each of its [`WAYS`] ways: 0 where the way is free, else a byte
//! of the hash. A key may stand in one of two buckets. All ways of one are compared at once.

/// Ways in a bucket: one byte of a tag word each.
pub(crate) const WAYS: usize = 8;
/// A bit of every byte of a word.
const LOW_BITS: u64 = 0x0101_0101_0101_0101;
const HIGH_BITS: u64 = LOW_BITS << 7;

/// How many buckets a table for so many entries has: a power of two, at least one.
pub(crate) const fn buckets_for(entries: usize) -> usize {
    entries.div_ceil(WAYS).next_power_of_two()
}

/// The two buckets of a hash in a table of `mask` and one buckets.
#[inline]
pub(crate) const fn buckets(hash: u64, mask: usize) -> [usize; 2] {
    [hash as usize & mask, (hash >> 32) as usize & mask]
}

/// A byte of the hash that chooses no bucket of a table of up to 2^24 buckets; never 0.
///
/// All eight bits count: a way that is looked at in vain may be another processor's, or in nobody's
/// cache.
#[inline]
pub(crate) const fn tag_of(hash: u64) -> u8 {
    let tag = (hash >> 56) as u8;
    tag + (tag == 0) as u8
}

/// The ways of a bucket that may hold a key of this hash.
#[inline]
pub(crate) const fn candidates(word: u64, hash: u64) -> Ways {
    Ways(zero_bytes(word ^ (LOW_BITS * tag_of(hash) as u64)))
}

/// The free ways of a bucket.
#[inline]
pub(crate) const fn free(word: u64) -> Ways {
    Ways(zero_bytes(word))
}

/// The tag of a way.
pub(crate) const fn tag_at(word: u64, way: usize) -> u8 {
    (word >> (way % WAYS * 8)) as u8
}

/// What has to be flipped in a bucket's word to give a way this tag.
pub(crate) const fn change(word: u64, way: usize, tag: u8) -> u64 {
    ((tag_at(word, way) ^ tag) as u64) << (way % WAYS * 8)
}

/// Some ways of a bucket, from the lowest on.
pub(crate) struct Ways(u64);

impl Ways {
    pub(crate) const fn number(&self) -> u32 {
        self.0.count_ones()
    }
}

impl Iterator for Ways {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        if self.0 == 0 {
            return None;
        }
        let way = self.0.trailing_zeros() / 8;
        self.0 &= self.0 - 1;
        Some(way as usize)
    }
}

/// The high bit of each byte of a word that is zero. The sum of a byte's low bits cannot carry.
const fn zero_bytes(word: u64) -> u64 {
    !(((word & !HIGH_BITS) + !HIGH_BITS) | word) & HIGH_BITS
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_bucket_is_its_ways(
            tags in prop::array::uniform8(prop_oneof![Just(0), Just(1), Just(0x80), any::<u8>()]),
            hash: u64,
            way in 0..WAYS,
            tag: u8,
        ) {
            let word = u64::from_le_bytes(tags);
            for (way, tag) in tags.into_iter().enumerate() {
                prop_assert_eq!(tag_at(word, way), tag);
                prop_assert_eq!(free(word).any(|free| free == way), tag == 0);
                let candidate = candidates(word, hash).any(|candidate| candidate == way);
                prop_assert_eq!(candidate, tag == tag_of(hash));
            }
            prop_assert_eq!(free(word).number() as usize, free(word).count());
            let mut changed = tags;
            changed[way] = tag;
            prop_assert_eq!(word ^ change(word, way, tag), u64::from_le_bytes(changed));
        }
    }
}
