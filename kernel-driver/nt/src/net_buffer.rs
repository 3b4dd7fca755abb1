//! Packets that the filter engine lends: net buffer lists and the net buffers in them.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::slice;

use kext_nt_sys::ndis::{self, NET_BUFFER, NET_BUFFER_LIST};
use kext_nt_sys::types::{FALSE, PVOID};

/// Net buffer lists in a chain; usually one.
pub struct PacketList<'a> {
    first: *mut NET_BUFFER_LIST,
    lent: PhantomData<&'a mut NET_BUFFER_LIST>,
}

/// One net buffer list: packets that share what is known of them.
#[derive(Clone, Copy)]
pub struct Packets<'a> {
    list: NonNull<NET_BUFFER_LIST>,
    lent: PhantomData<&'a NET_BUFFER_LIST>,
}

/// Checksums that a network card says are right, whatever stands in the packet: a virtual one may never
/// have computed them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Vouched {
    /// Those of TCP.
    pub tcp: bool,
    /// Those of UDP.
    pub udp: bool,
}

/// One packet.
pub struct Packet<'a> {
    buffer: NonNull<NET_BUFFER>,
    lent: PhantomData<&'a mut NET_BUFFER>,
}

/// A packet whose start was moved to its IP header; it is moved back when this goes.
pub struct FromHeader<'a> {
    buffer: NonNull<NET_BUFFER>,
    moved: u32,
    lent: PhantomData<&'a mut NET_BUFFER>,
}

impl PacketList<'_> {
    /// # Safety
    ///
    /// The list is null or lent for `'a`, and nobody else reaches the packets in it meanwhile.
    pub(crate) const unsafe fn new(first: *mut NET_BUFFER_LIST) -> Self {
        Self {
            first,
            lent: PhantomData,
        }
    }

    /// The lists, one after the other.
    pub fn lists(&self) -> impl Iterator<Item = Packets<'_>> {
        let mut next = NonNull::new(self.first);
        // Bound: the chain that the filter engine lends.
        core::iter::from_fn(move || {
            let list = next?;
            // SAFETY: the chain is lent and ends in null.
            next = NonNull::new(unsafe { list.as_ref() }.Next);
            Some(Packets {
                list,
                lent: PhantomData,
            })
        })
    }

    /// Whether there is more than one packet.
    pub fn has_several(&self) -> bool {
        self.lists().flat_map(Packets::packets).nth(1).is_some()
    }
}

impl<'a> Packets<'a> {
    /// The packets, one after the other. The caller has one of them at a time.
    pub fn packets(self) -> impl Iterator<Item = Packet<'a>> {
        // SAFETY: the list is lent.
        let mut next = NonNull::new(unsafe { self.list.as_ref() }.FirstNetBuffer);
        // Bound: the list that the filter engine lends.
        core::iter::from_fn(move || {
            let buffer = next?;
            // SAFETY: the buffers of a list that is lent end in null.
            next = NonNull::new(unsafe { buffer.as_ref() }.Next);
            Some(Packet {
                buffer,
                lent: PhantomData,
            })
        })
    }

    /// Whether checksums of these packets were left to the network card to compute. To be asked of
    /// packets that are sent: of received ones the same bits say what the card has found.
    pub fn leaves_checksums(self) -> bool {
        const LEFT: u32 = ndis::NDIS_CHECKSUM_SEND_TCP
            | ndis::NDIS_CHECKSUM_SEND_UDP
            | ndis::NDIS_CHECKSUM_SEND_IP_HEADER;
        self.checksum_bits() & LEFT != 0
    }

    /// For which transport checksums of these packets the network card vouches. To be asked of packets
    /// that are received.
    pub fn vouched_checksums(self) -> Vouched {
        const TCP: u32 = ndis::NDIS_CHECKSUM_RECEIVE_TCP_SUCCEEDED
            | ndis::NDIS_CHECKSUM_RECEIVE_TCP_VALUE_INVALID;
        const UDP: u32 = ndis::NDIS_CHECKSUM_RECEIVE_UDP_SUCCEEDED;
        let bits = self.checksum_bits();
        let says = |yes: u32, no: u32| bits & yes != 0 && bits & no == 0;
        Vouched {
            tcp: says(TCP, ndis::NDIS_CHECKSUM_RECEIVE_TCP_FAILED),
            udp: says(UDP, ndis::NDIS_CHECKSUM_RECEIVE_UDP_FAILED),
        }
    }

    /// What is told of checksums: by the sender to the card, or by the card to the receiver.
    fn checksum_bits(self) -> u32 {
        // SAFETY: the list is lent; what it is told of follows its known part.
        let info = unsafe { &raw const (*self.list.as_ptr()).NetBufferListInfo };
        let info = info
            .cast::<PVOID>()
            .wrapping_add(ndis::TcpIpChecksumNetBufferListInfo);
        // SAFETY: every list has this entry. It is a number, though its type is a pointer's.
        unsafe { info.read() }.addr() as u32
    }

    pub(crate) const fn as_ptr(self) -> *mut NET_BUFFER_LIST {
        self.list.as_ptr()
    }
}

impl Packet<'_> {
    /// How many bytes the packet has from its start on, wherever that is.
    pub fn len(&self) -> u32 {
        // SAFETY: the packet is lent.
        unsafe { self.buffer.as_ref() }.DataLength
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Moves the packet's start back by so many bytes, to its IP header. `None` if the packet has not
    /// so many before its start.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn from_header(&mut self, back: u32) -> Option<FromHeader<'_>> {
        // SAFETY: the packet is lent.
        let room = unsafe { self.buffer.as_ref() }.DataOffset;
        // Else new memory would be put before it, with nothing in it.
        if back > room {
            return None;
        }
        if back > 0 {
            // SAFETY: the packet is lent to us alone, and has the room, so nothing is allocated.
            let status =
                unsafe { ndis::NdisRetreatNetBufferDataStart(self.buffer.as_ptr(), back, 0, None) };
            if status != ndis::NDIS_STATUS_SUCCESS {
                return None;
            }
        }
        Some(FromHeader {
            buffer: self.buffer,
            moved: back,
            lent: PhantomData,
        })
    }
}

impl FromHeader<'_> {
    /// How many bytes the packet has.
    pub fn len(&self) -> usize {
        // SAFETY: the packet is lent.
        unsafe { self.buffer.as_ref() }.DataLength as usize
    }

    /// Whether there is nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The first bytes of the packet, as many as lie together: all, none, or what is in its first piece
    /// of memory.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn first_bytes(&self) -> &[u8] {
        let len = self.first_len();
        let start = self.data(len, ptr::null_mut());
        if start.is_null() {
            return &[];
        }
        // SAFETY: so many bytes are there, in the packet, which is lent to us alone.
        unsafe { slice::from_raw_parts(start, len) }
    }

    /// How many bytes of the packet are in its first piece of memory.
    fn first_len(&self) -> usize {
        // SAFETY: the packet is lent.
        let buffer = unsafe { self.buffer.as_ref() };
        // SAFETY: as above; what describes its memory stays as it is meanwhile.
        let piece = unsafe { buffer.CurrentMdl.as_ref() };
        let in_piece = piece.map_or(0, |piece| {
            piece.ByteCount.saturating_sub(buffer.CurrentMdlOffset)
        });
        in_piece.min(buffer.DataLength) as usize
    }

    /// Copies the whole packet to where there is room for exactly it; `false` if it does not fit or
    /// cannot be read.
    ///
    /// IRQL: up to `DISPATCH_LEVEL`.
    pub fn copy_to(&self, to: &mut [u8]) -> bool {
        if to.len() != self.len() || to.is_empty() {
            return false;
        }
        let start = self.data(to.len(), to.as_mut_ptr());
        if start.is_null() {
            return false;
        }
        if !ptr::eq(start, to.as_ptr()) {
            // They lie together, and were not copied.
            // SAFETY: so many bytes are at both places, which are apart: one is the packet's.
            unsafe { ptr::copy_nonoverlapping(start, to.as_mut_ptr(), to.len()) };
        }
        true
    }

    /// Where the first bytes are: in the packet if they lie together, else in `storage`.
    fn data(&self, len: usize, storage: *mut u8) -> *mut u8 {
        // SAFETY: the packet is lent; the storage is null or has room for so many bytes.
        let data = unsafe {
            ndis::NdisGetDataBuffer(self.buffer.as_ptr(), len as u32, storage.cast(), 1, 0)
        };
        data.cast()
    }
}

impl Drop for FromHeader<'_> {
    fn drop(&mut self) {
        if self.moved > 0 {
            // SAFETY: the start was moved back by so much, over memory of the packet: no memory list
            // is to be freed.
            unsafe {
                ndis::NdisAdvanceNetBufferDataStart(self.buffer.as_ptr(), self.moved, FALSE, None);
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stand_in::FakePackets;
    use std::vec::Vec;

    /// Lists of packets, each packet of pieces of memory; the data begin after so many bytes.
    fn with(lists: &[&[&[&[u8]]]], start: u32, run: impl FnOnce(&PacketList<'_>)) {
        let packets = FakePackets::new(lists, start);
        // SAFETY: the lists live until the end of this function.
        run(&unsafe { PacketList::new(packets.first()) });
        assert!(packets.are_as_before(), "a start was not moved back");
    }

    #[test]
    fn every_packet_of_every_list_comes_once_and_in_order() {
        with(&[&[&[b"one"], &[b"two"]], &[], &[&[b"three"]]], 0, |list| {
            let mut seen = Vec::new();
            for mut packet in list.lists().flat_map(Packets::packets) {
                let view = packet.from_header(0).unwrap();
                seen.push(view.first_bytes().to_vec());
            }
            assert_eq!(seen, [&b"one"[..], b"two", b"three"]);
            assert!(list.has_several());
        });
        with(&[], 0, |list| assert_eq!(list.lists().count(), 0));
        with(&[&[&[b"alone"]]], 0, |list| assert!(!list.has_several()));
    }

    #[test]
    fn the_start_is_moved_to_the_header_and_back() {
        with(&[&[&[b"headerdata"]]], 6, |list| {
            let mut packet = list.lists().flat_map(Packets::packets).next().unwrap();
            assert_eq!((packet.len(), packet.is_empty()), (4, false));
            assert_eq!(packet.from_header(0).unwrap().first_bytes(), b"data");
            let view = packet.from_header(6).unwrap();
            assert_eq!((view.len(), view.first_bytes()), (10, &b"headerdata"[..]));
            drop(view);
            assert!(packet.from_header(7).is_none());
            assert_eq!(packet.from_header(0).unwrap().len(), 4);
        });
    }

    #[test]
    fn pieces_are_copied_whole_or_not_at_all() {
        with(&[&[&[b"head", b"er", b"data"]]], 4, |list| {
            let mut packet = list.lists().flat_map(Packets::packets).next().unwrap();
            let view = packet.from_header(4).unwrap();
            assert_eq!(view.first_bytes(), b"head");
            let mut copy = [0; 10];
            assert!(view.copy_to(&mut copy));
            assert_eq!(&copy, b"headerdata");
            assert!(!view.copy_to(&mut [0; 9]) && !view.copy_to(&mut [0; 11]));
            assert!(!view.copy_to(&mut []));
        });
    }

    #[test]
    fn what_lies_together_is_copied_too() {
        with(&[&[&[b"data"]]], 0, |list| {
            let mut packet = list.lists().flat_map(Packets::packets).next().unwrap();
            let mut copy = [0; 4];
            assert!(packet.from_header(0).unwrap().copy_to(&mut copy));
            assert_eq!(&copy, b"data");
        });
    }

    #[test]
    fn checksums_that_were_left_are_told() {
        let bits = [
            ndis::NDIS_CHECKSUM_SEND_TCP,
            ndis::NDIS_CHECKSUM_SEND_UDP,
            ndis::NDIS_CHECKSUM_SEND_IP_HEADER,
        ];
        let leaves = |bits: u32| {
            let packets = FakePackets::new(&[&[&[b"data"]]], 0);
            packets.set_checksums(bits);
            // SAFETY: the list lives until the end of this function.
            let list = unsafe { PacketList::new(packets.first()) };
            list.lists().all(Packets::leaves_checksums)
        };
        assert!(bits.into_iter().all(leaves));
        assert!(!leaves(0) && !leaves(ndis::NDIS_CHECKSUM_SEND_IS_IPV4));
    }

    #[test]
    fn what_the_card_vouches_for_is_told() {
        let vouched = |bits: u32| {
            let packets = FakePackets::new(&[&[&[b"data"]]], 0);
            packets.set_checksums(bits);
            // SAFETY: the list lives until the end of this function.
            let list = unsafe { PacketList::new(packets.first()) };
            let told = list.lists().map(Packets::vouched_checksums).next().unwrap();
            (told.tcp, told.udp)
        };
        assert_eq!(vouched(0), (false, false));
        assert_eq!(
            vouched(ndis::NDIS_CHECKSUM_RECEIVE_IP_SUCCEEDED),
            (false, false)
        );
        assert_eq!(
            vouched(ndis::NDIS_CHECKSUM_RECEIVE_TCP_SUCCEEDED),
            (true, false)
        );
        assert_eq!(
            vouched(ndis::NDIS_CHECKSUM_RECEIVE_TCP_VALUE_INVALID),
            (true, false)
        );
        assert_eq!(
            vouched(ndis::NDIS_CHECKSUM_RECEIVE_UDP_SUCCEEDED),
            (false, true)
        );
        let both =
            ndis::NDIS_CHECKSUM_RECEIVE_TCP_SUCCEEDED | ndis::NDIS_CHECKSUM_RECEIVE_TCP_FAILED;
        assert_eq!(vouched(both), (false, false));
    }
}
