//! The pcapng format (draft-ietf-opsawg-pcapng): sections of blocks, each with its own byte order
//! and interfaces.

use super::error::{At, BlockProblem, CaptureErrorKind};
use super::pcapng_fields::{
    ByteOrder, ENHANCED_PACKET, Interface, OBSOLETE_PACKET, Packet, SIMPLE_PACKET,
};
use super::reader::{Record, io_error};
use super::source::Source;
use super::{LinkType, MAX_RECORD_LEN};

/// The type of a section header block, the same in both byte orders.
pub(super) const MAGIC: [u8; 4] = [0x0a, 0x0d, 0x0d, 0x0a];

const SECTION_HEADER: u32 = 0x0a0d_0d0a;
const INTERFACE_DESCRIPTION: u32 = 1;

/// Type and length in front of every block.
const BLOCK_HEADER: usize = 8;
/// The length again behind it.
const BLOCK_TRAILER: usize = 4;
/// The smallest section header: block header, byte order, version, section length, trailer.
const SECTION_LEN: u32 = 28;
/// The longest interface description that is parsed. Its options take up to twelve times as much
/// memory while that is done.
const MAX_DESCRIPTION: u32 = 32 * 1024;
/// The most interfaces in one section.
const MAX_INTERFACES: usize = 4_096;

/// The block at hand.
#[derive(Clone, Copy)]
struct Block {
    at: At,
    kind: u32,
    /// With header and trailer; a multiple of four, at least 12.
    length: u32,
}

/// The state of the section that is read.
pub(super) struct Pcapng {
    order: ByteOrder,
    interfaces: Vec<Interface>,
    /// How many interfaces earlier sections had.
    earlier_interfaces: u32,
}

impl Pcapng {
    /// Reads the first section's header.
    pub(super) fn open(source: &mut Source) -> Result<Self, CaptureErrorKind> {
        let mut pcapng = Self {
            order: ByteOrder::Little,
            interfaces: Vec::new(),
            earlier_interfaces: 0,
        };
        let at = At {
            record: 1,
            offset: 0,
        };
        let opened = pcapng
            .block(source, at)
            .and_then(|block| block.map_or(Ok(()), |block| pcapng.section(source, block)));
        match opened {
            Ok(()) => Ok(pcapng),
            Err(CaptureErrorKind::TruncatedRecord {
                needed, available, ..
            }) => Err(CaptureErrorKind::TruncatedHeader {
                format: "pcapng",
                needed: u32::try_from(needed).unwrap_or(u32::MAX).max(SECTION_LEN),
                available,
            }),
            Err(error) => Err(error),
        }
    }

    /// Reads up to the next packet and it into `record`; `false` at the end of the file. A packet
    /// without a time keeps the one that `record` has.
    pub(super) fn read_into(
        &mut self,
        source: &mut Source,
        record: &mut Record,
        mut at: At,
    ) -> Result<bool, CaptureErrorKind> {
        // Bound: every round takes at least the 12 bytes of a block from the file.
        loop {
            at.offset = source.position();
            let Some(block) = self.block(source, at)? else {
                return Ok(false);
            };
            match block.kind {
                SECTION_HEADER => self.section(source, block)?,
                INTERFACE_DESCRIPTION => self.interface(source, block)?,
                OBSOLETE_PACKET | SIMPLE_PACKET | ENHANCED_PACKET => {
                    self.packet(source, block, record)?;
                    return Ok(true);
                }
                _ => self.finish(source, block, 0)?,
            }
        }
    }

    /// The next block's header, which is not taken; `None` at the end of the file. A section
    /// header's byte order becomes ours.
    fn block(&mut self, source: &mut Source, at: At) -> Result<Option<Block>, CaptureErrorKind> {
        const WANTED: usize = BLOCK_HEADER + 4;
        let bytes = source.peek(WANTED).map_err(io_error("read"))?;
        if bytes.is_empty() {
            return Ok(None);
        }
        let Some([t0, t1, t2, t3, l0, l1, l2, l3, o0, o1, o2, o3]) = bytes.first_chunk::<WANTED>()
        else {
            return Err(truncated(at, WANTED as u64, bytes.len() as u64));
        };
        let block_type = [*t0, *t1, *t2, *t3];
        let bad = |block_type, problem| CaptureErrorKind::BadBlock {
            at,
            block_type,
            problem,
        };
        if block_type == MAGIC {
            self.order = match u32::from_be_bytes([*o0, *o1, *o2, *o3]) {
                0x1a2b_3c4d => ByteOrder::Big,
                0x4d3c_2b1a => ByteOrder::Little,
                other => return Err(bad(SECTION_HEADER, BlockProblem::ByteOrder(other))),
            };
        }
        let kind = self.order.u32(block_type);
        let length = self.order.u32([*l0, *l1, *l2, *l3]);
        if length < WANTED as u32 || !length.is_multiple_of(4) {
            return Err(bad(kind, BlockProblem::Length(length)));
        }
        Ok(Some(Block { at, kind, length }))
    }

    /// Starts a new section: its interfaces are numbered from 0 again.
    fn section(&mut self, source: &mut Source, block: Block) -> Result<(), CaptureErrorKind> {
        if block.length < SECTION_LEN {
            return Err(block.bad(BlockProblem::Length(block.length)));
        }
        // Only the version is of interest, so that comments of any length do no harm.
        let bytes = source
            .peek(SECTION_LEN as usize)
            .map_err(io_error("read"))?;
        let Some(&[m0, m1, n0, n1]) = bytes.get(12..16).and_then(|bytes| bytes.first_chunk())
        else {
            return Err(block.truncated(bytes.len() as u64));
        };
        let [major, minor] = [self.order.u16([m0, m1]), self.order.u16([n0, n1])];
        if major != 1 {
            return Err(CaptureErrorKind::UnknownVersion {
                format: "pcapng",
                major,
                minor,
                at: block.at,
            });
        }
        let described = self.interfaces.len() as u32;
        self.earlier_interfaces = self.earlier_interfaces.saturating_add(described);
        self.interfaces.clear();
        self.finish(source, block, 0)
    }

    fn interface(&mut self, source: &mut Source, block: Block) -> Result<(), CaptureErrorKind> {
        if self.interfaces.len() >= MAX_INTERFACES {
            return Err(block.bad(BlockProblem::TooManyInterfaces(MAX_INTERFACES as u32)));
        }
        let bytes = block.whole(source)?;
        let interface =
            Interface::parse(bytes, self.order).ok_or_else(|| block.bad(BlockProblem::Content))?;
        self.interfaces.push(interface);
        self.finish(source, block, 0)
    }

    fn packet(
        &self,
        source: &mut Source,
        block: Block,
        record: &mut Record,
    ) -> Result<(), CaptureErrorKind> {
        let fixed = Packet::fixed_len(block.kind);
        // In the block's length are its header and trailer, so this cannot be less than nothing.
        let body = block.length - (BLOCK_HEADER + BLOCK_TRAILER) as u32;
        let Some(room) = body.checked_sub(fixed as u32) else {
            return Err(block.bad(BlockProblem::Length(block.length)));
        };
        let header = BLOCK_HEADER + fixed;
        let bytes = source.peek(header).map_err(io_error("read"))?;
        let Some(fields) = bytes.get(BLOCK_HEADER..header) else {
            return Err(block.truncated(bytes.len() as u64));
        };
        let packet = Packet::parse(block.kind, fields, self.order, self.interfaces.first());
        let Some(interface) = self.interfaces.get(packet.interface as usize) else {
            return Err(CaptureErrorKind::UnknownInterface {
                at: block.at,
                interface: packet.interface,
                described: self.interfaces.len() as u32,
            });
        };
        let number = interface.link_type;
        let Some(link_type) = LinkType::from_number(number) else {
            let at = block.at;
            return Err(CaptureErrorKind::UnsupportedLinkType { number, at });
        };
        // Before anything is read or allocated by the length that the file states.
        if packet.captured > MAX_RECORD_LEN {
            return Err(CaptureErrorKind::RecordTooLong {
                at: block.at,
                length: packet.captured,
            });
        }
        if packet.captured > room {
            return Err(block.bad(BlockProblem::PacketOutside(packet.captured, room)));
        }
        let end = header + packet.captured as usize;
        let bytes = source.peek(end).map_err(io_error("read"))?;
        let Some(data) = bytes.get(header..end) else {
            return Err(block.truncated(bytes.len() as u64));
        };
        if let Some(ticks) = packet.ticks {
            record.time = interface.clock.time(ticks);
        }
        record.interface = self.earlier_interfaces.saturating_add(packet.interface);
        record.link_type = link_type;
        record.set_data(data, packet.original);
        source.take(end);
        self.finish(source, block, end as u64)
    }

    /// Takes what is left of a block of which `taken` bytes have been taken, and compares the
    /// length at its end.
    fn finish(
        &self,
        source: &mut Source,
        block: Block,
        taken: u64,
    ) -> Result<(), CaptureErrorKind> {
        let rest = u64::from(block.length)
            .saturating_sub(BLOCK_TRAILER as u64)
            .saturating_sub(taken);
        let skipped = source.skip(rest).map_err(io_error("read"))?;
        let trailer = source.peek(BLOCK_TRAILER).map_err(io_error("read"))?;
        let Some(bytes) = trailer.first_chunk().filter(|_| skipped == rest) else {
            return Err(block.truncated(taken + skipped + trailer.len() as u64));
        };
        let length = self.order.u32(*bytes);
        if length != block.length {
            return Err(block.bad(BlockProblem::LengthMismatch(block.length, length)));
        }
        source.take(BLOCK_TRAILER);
        Ok(())
    }
}

impl Block {
    /// The whole block, which is a description, without taking it.
    fn whole(self, source: &mut Source) -> Result<&[u8], CaptureErrorKind> {
        if self.length > MAX_DESCRIPTION {
            return Err(self.bad(BlockProblem::DescriptionTooLong(
                self.length,
                MAX_DESCRIPTION,
            )));
        }
        let bytes = source
            .peek(self.length as usize)
            .map_err(io_error("read"))?;
        if bytes.len() < self.length as usize {
            return Err(self.truncated(bytes.len() as u64));
        }
        Ok(bytes)
    }

    fn bad(self, problem: BlockProblem) -> CaptureErrorKind {
        CaptureErrorKind::BadBlock {
            at: self.at,
            block_type: self.kind,
            problem,
        }
    }

    fn truncated(self, available: u64) -> CaptureErrorKind {
        truncated(self.at, self.length.into(), available)
    }
}

fn truncated(at: At, needed: u64, available: u64) -> CaptureErrorKind {
    CaptureErrorKind::TruncatedRecord {
        at,
        needed,
        available,
    }
}
