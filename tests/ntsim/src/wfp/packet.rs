//! Packets as tests describe them.

use kext_nt_sys::fwp::FWP_CONDITION_FLAG_IS_LOOPBACK;
use kext_nt_sys::ke::{DISPATCH_LEVEL, KIRQL, PASSIVE_LEVEL};

use super::checksum;
use super::layer::Kind;
use super::lent::Mark;

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Direction {
    /// It leaves.
    Outbound,
    /// It has come in.
    Inbound,
}

/// A packet, or several in one indication, at the `IPPACKET` layers.
#[derive(Clone, Debug)]
pub struct Packet {
    pub(crate) direction: Direction,
    /// Net buffer lists of net buffers of bytes.
    pub(crate) lists: Vec<Vec<Vec<u8>>>,
    pub(crate) interface: u32,
    pub(crate) sub_interface: u32,
    pub(crate) compartment: Option<u32>,
    pub(crate) flags: u32,
    pub(crate) checksums: u32,
    pub(crate) split: Vec<usize>,
    pub(crate) headroom: usize,
    pub(crate) header_size: Option<usize>,
    pub(crate) told_size: Option<usize>,
    pub(crate) path_mtu: Option<u32>,
    pub(crate) level: KIRQL,
    pub(crate) mark: Option<Mark>,
}

impl Packet {
    /// A packet of these bytes, from the IP header on.
    pub fn new(direction: Direction, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            direction,
            lists: vec![vec![bytes.into()]],
            interface: 7,
            sub_interface: 1,
            compartment: Some(1),
            flags: 0,
            checksums: 0,
            split: Vec::new(),
            headroom: 0,
            header_size: None,
            told_size: None,
            path_mtu: None,
            level: DISPATCH_LEVEL,
            mark: None,
        }
    }

    /// A packet that leaves.
    pub fn outbound(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Direction::Outbound, bytes)
    }

    /// A packet that has come in.
    pub fn inbound(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(Direction::Inbound, bytes)
    }

    /// One more packet in the same list: a further net buffer.
    #[must_use]
    pub fn and(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.lists
            .last_mut()
            .expect("there is one")
            .push(bytes.into());
        self
    }

    /// One more packet in a list of its own, chained to the last.
    #[must_use]
    pub fn chained(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.lists.push(vec![bytes.into()]);
        self
    }

    /// The interface and sub-interface.
    #[must_use]
    pub fn interface(mut self, index: u32, sub_index: u32) -> Self {
        (self.interface, self.sub_interface) = (index, sub_index);
        self
    }

    /// The compartment; nothing where the metadata do not say it.
    #[must_use]
    pub fn compartment(mut self, compartment: Option<u32>) -> Self {
        self.compartment = compartment;
        self
    }

    /// `FWP_CONDITION_FLAG_*`, besides those that are set.
    #[must_use]
    pub fn flags(mut self, flags: u32) -> Self {
        self.flags |= flags;
        self
    }

    /// From this machine to itself.
    #[must_use]
    pub fn loopback(self) -> Self {
        self.flags(FWP_CONDITION_FLAG_IS_LOOPBACK)
    }

    /// `TcpIpChecksumNetBufferListInfo`: what was left to the adapter, or what it found.
    #[must_use]
    pub fn checksums(mut self, bits: u32) -> Self {
        self.checksums = bits;
        self
    }

    /// Lengths of the MDLs that the packet is split over; the last has the rest.
    #[must_use]
    pub fn split(mut self, lengths: &[usize]) -> Self {
        self.split = lengths.to_vec();
        self
    }

    /// Free bytes before the packet, in its first MDL.
    #[must_use]
    pub fn headroom(mut self, bytes: usize) -> Self {
        self.headroom = bytes;
        self
    }

    /// What the metadata say of the length of the IP header, other than all headers before the
    /// transport header.
    #[must_use]
    pub fn header_size(mut self, bytes: usize) -> Self {
        self.header_size = Some(bytes);
        self
    }

    /// What the metadata say of the length of the IP header, other than where a packet that has come
    /// begins: as if extension headers did not count.
    #[must_use]
    pub fn told_header_size(mut self, bytes: usize) -> Self {
        self.told_size = Some(bytes);
        self
    }

    /// What the metadata say of the path MTU, other than what the stack takes.
    #[must_use]
    pub fn path_mtu(mut self, bytes: u32) -> Self {
        self.path_mtu = Some(bytes);
        self
    }

    /// Shown to callouts at `PASSIVE_LEVEL`.
    #[must_use]
    pub fn at_passive(mut self) -> Self {
        self.level = PASSIVE_LEVEL;
        self
    }

    /// Injected by another driver.
    #[must_use]
    pub fn injected_by_other(mut self) -> Self {
        self.mark = Some(Mark {
            handle: 1,
            context: 0,
            earlier: false,
        });
        self
    }

    pub(crate) fn first(&self) -> &[u8] {
        &self.lists[0][0]
    }

    pub(crate) fn is_v6(&self) -> bool {
        self.first().first().is_some_and(|byte| byte >> 4 == 6)
    }

    pub(crate) fn kind(&self) -> Kind {
        match self.direction {
            Direction::Inbound => Kind::InboundIpPacket,
            Direction::Outbound => Kind::OutboundIpPacket,
        }
    }

    /// Bytes of the IP header, as the metadata say.
    pub(crate) fn ip_header(&self) -> usize {
        self.header_size
            .or_else(|| checksum::headers(self.first()).map(|(length, ..)| length))
            .unwrap_or(0)
            .min(self.first().len())
    }
}
