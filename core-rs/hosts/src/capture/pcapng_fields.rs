//! The fields of pcapng blocks in either byte order.
//!
//! Interface descriptions with their options are parsed by `pcap-parser`. Of all other blocks only
//! the fixed fields matter, and they are decoded here: the crate would collect their options, which
//! costs an allocation for each packet and, in a hostile file, eight times the file's bytes. The
//! values of `if_tsresol` and `if_tsoffset` are read here too: the crate's readings refuse powers of
//! two and take the offset for little endian in every file.

use pcap_parser::{
    InterfaceDescriptionBlock, OptionCode, parse_interfacedescriptionblock_be,
    parse_interfacedescriptionblock_le,
};

use super::timing::Clock;

pub(super) const OBSOLETE_PACKET: u32 = 2;
pub(super) const SIMPLE_PACKET: u32 = 3;
pub(super) const ENHANCED_PACKET: u32 = 6;

/// The byte order of a section.
#[derive(Clone, Copy)]
pub(super) enum ByteOrder {
    Big,
    Little,
}

impl ByteOrder {
    pub(super) fn u16(self, bytes: [u8; 2]) -> u16 {
        match self {
            Self::Big => u16::from_be_bytes(bytes),
            Self::Little => u16::from_le_bytes(bytes),
        }
    }

    pub(super) fn u32(self, bytes: [u8; 4]) -> u32 {
        match self {
            Self::Big => u32::from_be_bytes(bytes),
            Self::Little => u32::from_le_bytes(bytes),
        }
    }
}

/// What is known of an interface.
pub(super) struct Interface {
    pub(super) link_type: u32,
    /// 0 for no limit.
    pub(super) snap_len: u32,
    pub(super) clock: Clock,
}

impl Interface {
    /// Parses a whole interface description block.
    pub(super) fn parse(block: &[u8], order: ByteOrder) -> Option<Self> {
        let parsed = match order {
            ByteOrder::Big => parse_interfacedescriptionblock_be(block),
            ByteOrder::Little => parse_interfacedescriptionblock_le(block),
        };
        let (_, description) = parsed.ok()?;
        Some(Self {
            link_type: description.linktype.0.cast_unsigned(),
            snap_len: description.snaplen,
            clock: clock(&description, order),
        })
    }
}

/// A packet block's fixed fields.
pub(super) struct Packet {
    /// The interface's number in its section.
    pub(super) interface: u32,
    /// The time by the interface's clock, if the block has one.
    pub(super) ticks: Option<u64>,
    pub(super) captured: u32,
    pub(super) original: u32,
}

impl Packet {
    /// How many bytes the fixed fields of this kind of block take.
    pub(super) const fn fixed_len(kind: u32) -> usize {
        if kind == SIMPLE_PACKET { 4 } else { 20 }
    }

    /// Decodes the fixed fields: one word for a simple packet, five for the others. A simple packet
    /// is cut to the snap length of the section's first interface.
    pub(super) fn parse(
        kind: u32,
        fields: &[u8],
        order: ByteOrder,
        first: Option<&Interface>,
    ) -> Self {
        let (words, _) = fields.as_chunks::<4>();
        let word = |index: usize| words.get(index).map_or(0, |bytes| order.u32(*bytes));
        let stamped = |interface| Self {
            interface,
            ticks: Some(u64::from(word(1)) << 32 | u64::from(word(2))),
            captured: word(3),
            original: word(4),
        };
        match kind {
            SIMPLE_PACKET => Self {
                interface: 0,
                ticks: None,
                captured: match first {
                    Some(interface) if interface.snap_len != 0 => word(0).min(interface.snap_len),
                    _ => word(0),
                },
                original: word(0),
            },
            // Its first word is two numbers: the interface and how many packets were lost.
            OBSOLETE_PACKET => stamped(match order {
                ByteOrder::Big => word(0) >> 16,
                ByteOrder::Little => word(0) & 0xffff,
            }),
            _ => stamped(word(0)),
        }
    }
}

/// The options that say what the interface's time stamps mean; of one given twice, the first.
fn clock(description: &InterfaceDescriptionBlock<'_>, order: ByteOrder) -> Clock {
    let mut resolution = None;
    let mut offset = None;
    // Bound: a description has at most 32 KiB of options, each of at least four bytes.
    for option in &description.options {
        let Ok(value) = option.as_bytes() else {
            continue;
        };
        match option.code {
            OptionCode::EndOfOpt => break,
            OptionCode::IfTsresol => resolution = resolution.or(value.first().copied()),
            OptionCode::IfTsoffset => {
                let read = match order {
                    ByteOrder::Big => i64::from_be_bytes,
                    ByteOrder::Little => i64::from_le_bytes,
                };
                offset = offset.or(value.first_chunk().map(|bytes| read(*bytes)));
            }
            _ => {}
        }
    }
    Clock {
        resolution: resolution.unwrap_or(Clock::default().resolution),
        offset: offset.unwrap_or(Clock::default().offset),
    }
}
