//! Where the packets of a replay come from: a capture file, or the generator.

use std::path::Path;

use kext_types::{Arrival, Interface, Timestamp};

use super::ReplayError;
use super::local::LocalSide;
use super::synthetic::{Generator, Synthetic};
use crate::capture::{At, CaptureReader, LinkPacket, Record, network_layer};

/// Packets in their order, one at a time.
pub(super) enum Source {
    Capture(Box<Capture>),
    Synthetic(Generator),
}

/// A capture file with its present record.
pub(super) struct Capture {
    reader: CaptureReader,
    record: Record,
    /// Where the record is in the file.
    at: At,
    local: LocalSide,
}

/// What a record is.
pub(super) enum Found<'a> {
    /// It holds an IP packet.
    Packet(Packet<'a>),
    /// It holds something else.
    NotIp,
    /// It is too short to hold one; so many bytes were captured.
    TooShort(usize),
}

/// An IP packet that is to be presented.
#[derive(Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) on_wire: usize,
    pub(super) arrival: Arrival,
    /// Whether the direction was guessed.
    pub(super) guessed: bool,
}

impl Source {
    /// Opens a capture file.
    pub(super) fn capture(path: &Path, local: LocalSide) -> Result<Self, ReplayError> {
        Ok(Self::Capture(Box::new(Capture {
            reader: CaptureReader::open(path)?,
            record: Record::default(),
            at: At {
                record: 0,
                offset: 0,
            },
            local,
        })))
    }

    pub(super) fn synthetic(what: Synthetic) -> Self {
        Self::Synthetic(Generator::new(what))
    }

    /// Goes to the next record; `false` at the end.
    pub(super) fn advance(&mut self) -> Result<bool, ReplayError> {
        match self {
            Self::Capture(capture) => capture.advance(),
            Self::Synthetic(generator) => Ok(generator.advance()),
        }
    }

    /// The present record's time.
    pub(super) fn time(&self) -> Timestamp {
        match self {
            Self::Capture(capture) => capture.record.time,
            Self::Synthetic(generator) => generator.time(),
        }
    }

    /// The most bytes that the present record can have held.
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Capture(capture) => capture.record.data.len(),
            Self::Synthetic(generator) => generator.packet().len(),
        }
    }

    /// Where the present record is.
    pub(super) fn at(&self) -> At {
        match self {
            Self::Capture(capture) => capture.at,
            Self::Synthetic(generator) => At {
                record: generator.number(),
                offset: generator
                    .position()
                    .saturating_sub(generator.packet().len() as u64),
            },
        }
    }

    /// The present record.
    pub(super) fn found(&self) -> Found<'_> {
        match self {
            Self::Capture(capture) => capture.found(),
            Self::Synthetic(generator) => Found::Packet(Packet {
                bytes: generator.packet(),
                on_wire: generator.packet().len(),
                arrival: Generator::ARRIVAL,
                guessed: false,
            }),
        }
    }

    /// How many bytes have been read or made.
    pub(super) fn position(&self) -> u64 {
        match self {
            Self::Capture(capture) => capture.reader.position(),
            Self::Synthetic(generator) => generator.position(),
        }
    }

    /// How many there are in all; 0 if that is not known.
    pub(super) fn total(&self) -> u64 {
        match self {
            Self::Capture(capture) => capture.reader.file_len().unwrap_or(0),
            Self::Synthetic(generator) => generator.total(),
        }
    }

    /// Which side is local, in words, and whether that was inferred.
    pub(super) fn local(&self) -> (String, bool) {
        match self {
            Self::Capture(capture) => {
                let local = &capture.local;
                (local.description().to_owned(), local.is_inferred())
            }
            Self::Synthetic(_) => (Generator::description(), false),
        }
    }
}

impl Capture {
    fn advance(&mut self) -> Result<bool, ReplayError> {
        let offset = self.reader.position();
        let read = self.reader.read_into(&mut self.record)?;
        if read {
            self.at = At {
                record: self.record.number,
                offset,
            };
        }
        Ok(read)
    }

    fn found(&self) -> Found<'_> {
        let record = &self.record;
        let (offset, on_wire, told, interface) =
            match network_layer(record.link_type, &record.data, record.original_len) {
                LinkPacket::Ip {
                    offset,
                    on_wire,
                    direction,
                    interface,
                } => (offset, on_wire as usize, direction, interface),
                LinkPacket::NotIp { .. } => return Found::NotIp,
                LinkPacket::TooShort => return Found::TooShort(record.data.len()),
            };
        let bytes = record.data.get(offset..).unwrap_or_default();
        let (direction, guessed) = self.local.direction(bytes, on_wire, told);
        Found::Packet(Packet {
            bytes,
            on_wire,
            arrival: Arrival {
                direction,
                interface: Interface {
                    index: interface.unwrap_or(record.interface),
                    sub_index: 0,
                },
                compartment: 0,
                process_id: None,
                passes: 0,
                path_mtu: None,
            },
            guessed,
        })
    }
}
