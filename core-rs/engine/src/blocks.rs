//! The bytes of held packets: a pool of equal blocks, chained to a packet's length.
//!
//! Nothing fragments and nothing is searched: a packet of any length fits whenever enough blocks are
//! free, and gives them back as one chain.

use kext_types::MAX_PACKET_LEN;

use crate::memory::{OutOfMemory, Vec, filled};

/// Bytes in a block: a small packet wastes little, a 1,500-byte one takes six.
pub(crate) const BLOCK: usize = 256;
/// The longest chain.
pub(crate) const MAX_CHAIN: usize = MAX_PACKET_LEN.div_ceil(BLOCK);

const NIL: u32 = u32::MAX;

/// The blocks of one packet.
#[derive(Debug)]
pub(crate) struct Chain {
    head: u32,
    tail: u32,
    len: u32,
}

impl Chain {
    /// A chain of no blocks.
    pub(crate) const EMPTY: Self = Self {
        head: NIL,
        tail: NIL,
        len: 0,
    };

    /// Bytes stored.
    pub(crate) const fn len(&self) -> usize {
        self.len as usize
    }

    const fn blocks(&self) -> usize {
        self.len().div_ceil(BLOCK)
    }
}

pub(crate) struct BlockPool {
    bytes: Vec<[u8; BLOCK]>,
    next: Vec<u32>,
    free_head: u32,
    free: usize,
}

impl BlockPool {
    /// A pool of `capacity` bytes, rounded down to whole blocks.
    pub(crate) fn try_new(capacity: usize) -> Result<Self, OutOfMemory> {
        let blocks = capacity / BLOCK;
        let mut index = 0;
        let next = filled("the links of packet blocks", blocks, || {
            index += 1;
            if index == blocks { NIL } else { index as u32 }
        })?;
        Ok(Self {
            bytes: filled("packet blocks", blocks, || [0; BLOCK])?,
            next,
            free_head: if blocks == 0 { NIL } else { 0 },
            free: blocks,
        })
    }

    /// Whether `len` bytes fit into an empty pool.
    pub(crate) fn could_fit(&self, len: usize) -> bool {
        len <= MAX_PACKET_LEN && len.div_ceil(BLOCK) <= self.bytes.len()
    }

    /// Whether `len` bytes fit now.
    pub(crate) const fn fits(&self, len: usize) -> bool {
        len.div_ceil(BLOCK) <= self.free
    }

    /// Stores a packet; the caller has seen that it fits.
    pub(crate) fn store(&mut self, packet: &[u8]) -> Option<Chain> {
        if !self.could_fit(packet.len()) || !self.fits(packet.len()) {
            return None;
        }
        let mut chain = Chain {
            head: self.free_head,
            ..Chain::EMPTY
        };
        let mut at = self.free_head;
        // Bound: MAX_CHAIN, checked by `could_fit`.
        for part in packet.chunks(BLOCK) {
            self.bytes
                .get_mut(at as usize)?
                .get_mut(..part.len())?
                .copy_from_slice(part);
            chain.tail = at;
            at = *self.next.get(at as usize)?;
        }
        if packet.is_empty() {
            return Some(Chain::EMPTY);
        }
        chain.len = packet.len() as u32;
        self.free_head = at;
        self.free -= chain.blocks();
        Some(chain)
    }

    /// Copies a packet's first bytes, as many as fit, and says how many.
    pub(crate) fn copy(&self, chain: &Chain, out: &mut [u8]) -> usize {
        let wanted = chain.len().min(out.len());
        let mut at = chain.head;
        // Bound: MAX_CHAIN, as `wanted` is at most the chain's length.
        for part in out.get_mut(..wanted).unwrap_or_default().chunks_mut(BLOCK) {
            if let Some(block) = self.bytes.get(at as usize)
                && let Some(bytes) = block.get(..part.len())
            {
                part.copy_from_slice(bytes);
            }
            at = self.next.get(at as usize).copied().unwrap_or(NIL);
        }
        wanted
    }

    /// Takes a packet's blocks back.
    pub(crate) fn free(&mut self, chain: Chain) {
        if chain.len == 0 {
            return;
        }
        if let Some(next) = self.next.get_mut(chain.tail as usize) {
            *next = self.free_head;
            self.free_head = chain.head;
            self.free += chain.blocks();
        }
    }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use std::vec;
    use std::vec::Vec;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        #[cfg_attr(miri, ignore = "millions of bytes")]
        fn what_is_stored_comes_back_until_it_is_freed(
            operations in prop::collection::vec((any::<bool>(), 0..3_000usize, any::<u8>()), 0..200)
        ) {
            let blocks = 64;
            let mut pool = BlockPool::try_new(blocks * BLOCK).unwrap();
            let mut stored: Vec<(Chain, Vec<u8>)> = Vec::new();
            for (store, len, fill) in operations {
                if store {
                    let packet: Vec<u8> = (0..len).map(|i| fill.wrapping_add(i as u8)).collect();
                    let used: usize = stored.iter().map(|(c, _)| c.blocks()).sum();
                    prop_assert_eq!(pool.free, blocks - used);
                    match pool.store(&packet) {
                        Some(chain) => stored.push((chain, packet)),
                        None => prop_assert!(used + len.div_ceil(BLOCK) > blocks),
                    }
                } else if !stored.is_empty() {
                    let (chain, _) = stored.swap_remove(len % stored.len());
                    pool.free(chain);
                }
                for (chain, packet) in &stored {
                    let mut out = vec![0; packet.len() + 3];
                    prop_assert_eq!(pool.copy(chain, &mut out), packet.len());
                    prop_assert_eq!(&out[..packet.len()], &packet[..]);
                }
            }
        }
    }

    #[test]
    fn the_largest_packet_fits_and_a_larger_one_never() {
        let pool = BlockPool::try_new(1 << 17).unwrap();
        assert!(pool.could_fit(MAX_PACKET_LEN));
        assert!(!pool.could_fit(MAX_PACKET_LEN + 1));
    }
}
