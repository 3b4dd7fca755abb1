//! What can be wrong with a capture file, and where in it.

use std::fmt;
use std::io;
use std::path::PathBuf;

use thiserror::Error;

use super::MAX_RECORD_LEN;
use super::link_names::link_type_name;

/// A capture file that cannot be read or written any further.
#[derive(Debug, Error)]
#[error("{}: {kind}", file.display())]
pub struct CaptureError {
    /// The file, as it was named when it was opened.
    pub file: PathBuf,
    /// What is wrong with it.
    pub kind: CaptureErrorKind,
}

/// Where in a capture file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct At {
    /// The number of the record that is, or would have been, read; counted from 1. 0 is the file's
    /// header.
    pub record: u64,
    /// The offset of its first byte (its header's, not its data's) from the start of the file; in
    /// the file's header, that of the field.
    pub offset: u64,
}

impl fmt::Display for At {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.record {
            0 => write!(f, "file header at byte {}", self.offset),
            record => write!(f, "record {record} at byte {}", self.offset),
        }
    }
}

/// What is wrong with a capture file.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum CaptureErrorKind {
    /// The file has no bytes.
    #[error("the file is empty: not even a pcap or pcapng header")]
    Empty,

    /// The file starts like neither format.
    #[error("not a capture: the first bytes \"{}\" are neither a pcap nor a pcapng magic number{}",
        first.escape_ascii(), hint(first))]
    NotACapture {
        /// Up to the first eight bytes of the file.
        first: Vec<u8>,
    },

    /// The file ends within its header.
    #[error(
        "truncated {format} file header: {available} bytes at byte 0, and it takes at least {needed}"
    )]
    TruncatedHeader {
        /// "pcap" or "pcapng".
        format: &'static str,
        /// The header's length, in bytes.
        needed: u32,
        /// How many bytes of it there are.
        available: u64,
    },

    /// The file's version of its format is not known.
    #[error("{format} version {major}.{minor} is not known ({at})")]
    UnknownVersion {
        /// "pcap" or "pcapng".
        format: &'static str,
        /// The major version in the header.
        major: u16,
        /// The minor version in the header.
        minor: u16,
        /// Where the header is.
        at: At,
    },

    /// The file ends within a record.
    #[error("truncated {at}: it takes {needed} bytes, and the file ends after {available}")]
    TruncatedRecord {
        /// The record.
        at: At,
        /// The record's length with its header, as far as that is known, in bytes.
        needed: u64,
        /// How many bytes of it there are.
        available: u64,
    },

    /// A record states a length that no capture tool writes.
    #[error(
        "{at} is {length} bytes long, and records of more than {MAX_RECORD_LEN} bytes are refused"
    )]
    RecordTooLong {
        /// The record.
        at: At,
        /// The length that it states, in bytes.
        length: u32,
    },

    /// A pcapng block contradicts itself.
    #[error("bad block of type {block_type:#010x} before or in {at}: {problem}")]
    BadBlock {
        /// Where the block is. Blocks that are no packets count for the record after them.
        at: At,
        /// The block's type.
        block_type: u32,
        /// The contradiction.
        problem: BlockProblem,
    },

    /// A pcapng packet names an interface that its section does not describe.
    #[error("{at} is from interface {interface}, and its section describes {described} before it")]
    UnknownInterface {
        /// The record.
        at: At,
        /// The interface number in the section.
        interface: u32,
        /// How many interfaces the section has described so far.
        described: u32,
    },

    /// There is no way to find IP packets behind this link layer.
    #[error("link type {} is not supported ({at})", NamedLinkType(*number))]
    UnsupportedLinkType {
        /// The LINKTYPE number.
        number: u32,
        /// The record that has it; for pcap, the file's first.
        at: At,
    },

    /// The operating system refused.
    #[error("cannot {action}: {source}")]
    Io {
        /// What was tried: "open", "read", "create" or "write".
        action: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
}

/// How a pcapng block contradicts itself or a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum BlockProblem {
    /// Its length is too small for its type or no multiple of four.
    #[error("its length is {0}")]
    Length(u32),
    /// The length at its end is not that at its start.
    #[error("its length is {0} at its start and {1} at its end")]
    LengthMismatch(u32, u32),
    /// It describes an interface in more bytes than are read.
    #[error("it is {0} bytes long, and interface descriptions of more than {1} bytes are refused")]
    DescriptionTooLong(u32, u32),
    /// Its packet does not fit into it.
    #[error("its packet of {0} bytes does not fit into its {1} bytes")]
    PacketOutside(u32, u32),
    /// It is a section header without a byte order.
    #[error("{0:#010x} is no byte-order magic")]
    ByteOrder(u32),
    /// Its content cannot be parsed.
    #[error("its content cannot be parsed")]
    Content,
    /// It describes one interface more than a section may have.
    #[error("it is one interface more than the {0} that a section may have")]
    TooManyInterfaces(u32),
}

/// A link type by number, shown with its registered name.
struct NamedLinkType(u32);

impl fmt::Display for NamedLinkType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match link_type_name(self.0) {
            Some(name) => write!(f, "LINKTYPE_{name} ({})", self.0),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A guess at what a file that is no capture is, from its first bytes.
fn hint(first: &[u8]) -> &'static str {
    match first {
        [0x1f, 0x8b, ..] => " (compressed with gzip: decompress it first)",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => " (compressed with zstd: decompress it first)",
        [0xfd, b'7', b'z', b'X', b'Z', ..] => " (compressed with xz: decompress it first)",
        [0x34, 0xcd, 0xb2, 0xa1, ..] | [0xa1, 0xb2, 0xcd, 0x34, ..] => {
            " (the \"modified pcap\" variant, which is not supported)"
        }
        _ => "",
    }
}
