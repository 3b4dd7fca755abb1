//! Writing IP packets to a pcapng file that Wireshark opens.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kext_types::{Direction, Timestamp};
use pcap_file::pcapng::blocks::enhanced_packet::{EnhancedPacketBlock, EnhancedPacketOption};
use pcap_file::pcapng::blocks::interface_description::{
    InterfaceDescriptionBlock, InterfaceDescriptionOption, InterfaceTsResolution,
};
use pcap_file::pcapng::blocks::opt_common::CommonOption;
use pcap_file::pcapng::blocks::section_header::{SectionHeaderBlock, SectionHeaderOption};
use pcap_file::pcapng::{PcapNgWriteError, PcapNgWriter};
use pcap_file::{DataLink, Endianness};

use super::error::CaptureError;
use super::reader::io_error;

/// A packet to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outgoing<'a> {
    /// When it went.
    pub time: Timestamp,
    /// The number of the interface it went through; any number, each is described once.
    pub interface: u32,
    /// Which way it went.
    pub direction: Direction,
    /// The bytes from the IP header on.
    pub data: &'a [u8],
    /// How many bytes it had on the wire; what `data` has if this is less.
    pub original_len: u32,
    /// A comment for the reader of the file, cut to the 65,535 bytes that the format allows; none
    /// if empty.
    pub comment: &'a str,
}

/// Writes packets to a pcapng file: raw IP, nanoseconds, little endian. The same packets give the
/// same bytes on every machine.
///
/// [`finish`](Self::finish) reports whether everything has reached the file. Dropping the writer
/// writes what it can and reports nothing.
pub struct CaptureWriter {
    file: PathBuf,
    writer: PcapNgWriter<BufWriter<Box<dyn Write + Send>>>,
    /// The block number of each interface number that has been met.
    interfaces: HashMap<u32, u32>,
}

impl CaptureWriter {
    /// Creates the file, or empties it, and begins the capture.
    ///
    /// # Errors
    /// The file cannot be created or written.
    pub fn create(path: &Path) -> Result<Self, CaptureError> {
        let file = File::create(path).map_err(|source| CaptureError {
            file: path.to_path_buf(),
            kind: io_error("create")(source),
        })?;
        Self::from_writer(file, path)
    }

    /// Begins a capture in any stream; `name` stands for the file's name in errors.
    ///
    /// # Errors
    /// The stream cannot be written.
    pub fn from_writer(
        writer: impl Write + Send + 'static,
        name: impl Into<PathBuf>,
    ) -> Result<Self, CaptureError> {
        let file = name.into();
        let section = SectionHeaderBlock {
            endianness: Endianness::Little,
            major_version: 1,
            minor_version: 0,
            section_length: -1,
            options: vec![SectionHeaderOption::UserApplication(Cow::Borrowed(
                "portmaster-kext",
            ))],
        };
        let buffered = BufWriter::new(Box::new(writer) as Box<dyn Write + Send>);
        match PcapNgWriter::with_section_header(buffered, section) {
            Ok(writer) => Ok(Self {
                file,
                writer,
                interfaces: HashMap::new(),
            }),
            Err(error) => Err(write_error(file, error)),
        }
    }

    /// Writes a packet.
    ///
    /// # Errors
    /// The file cannot be written. It then ends somewhere within this packet or one before it.
    pub fn write(&mut self, packet: &Outgoing<'_>) -> Result<(), CaptureError> {
        let interface_id = self.interface_id(packet.interface)?;
        // Bits 0 and 1 of epb_flags: 1 inbound, 2 outbound.
        let flags = match packet.direction {
            Direction::Inbound => 1,
            Direction::Outbound => 2,
        };
        let mut options = vec![EnhancedPacketOption::Flags(flags)];
        let comment = cut(packet.comment, usize::from(u16::MAX));
        if !comment.is_empty() {
            let comment = CommonOption::Comment(Cow::Borrowed(comment));
            options.push(EnhancedPacketOption::Common(comment));
        }
        let data_len = u32::try_from(packet.data.len()).unwrap_or(u32::MAX);
        let block = EnhancedPacketBlock {
            interface_id,
            timestamp: Duration::from_nanos(packet.time.as_nanos()),
            original_len: packet.original_len.max(data_len),
            data: Cow::Borrowed(packet.data),
            options,
        };
        self.put(|writer| writer.write_pcapng_block(block))
    }

    /// Writes everything to the file and closes it.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn finish(self) -> Result<(), CaptureError> {
        let Self { file, writer, .. } = self;
        writer.into_inner().flush().map_err(|source| CaptureError {
            file,
            kind: io_error("write")(source),
        })
    }

    /// The block number of an interface, which is described the first time it is met.
    fn interface_id(&mut self, number: u32) -> Result<u32, CaptureError> {
        if let Some(id) = self.interfaces.get(&number) {
            return Ok(*id);
        }
        let block = InterfaceDescriptionBlock {
            linktype: DataLink::RAW,
            snaplen: 0,
            options: vec![
                InterfaceDescriptionOption::IfName(Cow::Owned(format!("interface {number}"))),
                InterfaceDescriptionOption::IfTsResol(InterfaceTsResolution::NANO),
            ],
        };
        self.put(|writer| writer.write_pcapng_block(block))?;
        let id = u32::try_from(self.interfaces.len()).unwrap_or(u32::MAX);
        self.interfaces.insert(number, id);
        Ok(id)
    }

    fn put(
        &mut self,
        write: impl FnOnce(
            &mut PcapNgWriter<BufWriter<Box<dyn Write + Send>>>,
        ) -> Result<usize, PcapNgWriteError>,
    ) -> Result<(), CaptureError> {
        match write(&mut self.writer) {
            Ok(_) => Ok(()),
            Err(error) => Err(write_error(self.file.clone(), error)),
        }
    }
}

impl fmt::Debug for CaptureWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureWriter")
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

fn write_error(file: PathBuf, error: PcapNgWriteError) -> CaptureError {
    let source = match error {
        PcapNgWriteError::Io(source) => source,
        // Only for blocks that contradict the format, which are not made here.
        other => std::io::Error::other(other),
    };
    CaptureError {
        file,
        kind: io_error("write")(source),
    }
}

/// The longest start of `text` of at most `len` bytes.
fn cut(text: &str, len: usize) -> &str {
    text.get(..text.floor_char_boundary(len)).unwrap_or(text)
}
