//! Reading capture files of either format.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use kext_types::Timestamp;

use super::error::{At, CaptureError, CaptureErrorKind};
use super::pcap::{self, Pcap};
use super::pcapng::{self, Pcapng};
use super::source::Source;
use super::{LinkType, MAX_RECORD_LEN};

/// One captured packet, as the file has it.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Record {
    /// Its number in the file, counted from 1.
    pub number: u64,
    /// When it was captured. Times of consecutive records may step back. A pcapng simple packet
    /// has no time of its own and takes that of the record before it.
    pub time: Timestamp,
    /// The interface it was captured on, counted from 0 through the file: interfaces of a later
    /// section go on where the section before it ended. Always 0 in a classic pcap file.
    pub interface: u32,
    /// The link layer that `data` begins with.
    pub link_type: LinkType,
    /// The bytes that were captured, link layer included, at most
    /// [`MAX_RECORD_LEN`](super::MAX_RECORD_LEN).
    pub data: Vec<u8>,
    /// How many bytes the packet had on the wire; never less than `data` has.
    pub original_len: u32,
}

impl Record {
    /// Takes over the bytes, in the memory of those of the record before.
    pub(super) fn set_data(&mut self, data: &[u8], original_len: u32) {
        self.data.clear();
        if data.len() > self.data.capacity() {
            // Doubled like any vector, so that growing records cost few allocations, but never
            // beyond the longest record.
            let doubled = self.data.capacity() * 2;
            self.data
                .reserve_exact(doubled.min(MAX_RECORD_LEN as usize).max(data.len()));
        }
        self.data.extend_from_slice(data);
        // Some writers state less than they wrote; what is there was there.
        self.original_len = original_len.max(data.len() as u32);
    }
}

enum Format {
    Pcap(Pcap),
    Pcapng(Pcapng),
}

/// Reads the records of a capture file in order, in constant memory.
///
/// The window on the file is 320 KiB. A record's bytes are copied once, into memory that
/// [`read_into`](Self::read_into) reuses, and a length is checked before anything is allocated or
/// read by it.
///
/// As an iterator it gives each record in memory of its own. After an error there are no more
/// records.
pub struct CaptureReader {
    file: PathBuf,
    file_len: Option<u64>,
    source: Source,
    format: Format,
    records: u64,
    last_time: Timestamp,
    done: bool,
}

impl CaptureReader {
    /// Opens a capture file and reads its header.
    ///
    /// # Errors
    /// The file cannot be opened or read, is empty, is neither pcap nor pcapng, is cut off within
    /// its header, has an unknown version or, for pcap, a link type without support.
    pub fn open(path: &Path) -> Result<Self, CaptureError> {
        let fail = |kind| CaptureError {
            file: path.to_path_buf(),
            kind,
        };
        let file = File::open(path).map_err(|source| fail(io_error("open")(source)))?;
        // A pipe has no length, and no progress to show.
        let file_len = file
            .metadata()
            .ok()
            .filter(std::fs::Metadata::is_file)
            .map(|metadata| metadata.len());
        Self::start(Box::new(file), path.to_path_buf(), file_len)
    }

    /// Reads a capture from any stream; `name` stands for the file's name in errors.
    ///
    /// # Errors
    /// Those of [`open`](Self::open).
    pub fn from_reader(
        reader: impl Read + Send + 'static,
        name: impl Into<PathBuf>,
    ) -> Result<Self, CaptureError> {
        Self::start(Box::new(reader), name.into(), None)
    }

    fn start(
        reader: Box<dyn Read + Send>,
        file: PathBuf,
        file_len: Option<u64>,
    ) -> Result<Self, CaptureError> {
        let mut source = Source::new(reader);
        match open_format(&mut source) {
            Ok(format) => Ok(Self {
                file,
                file_len,
                source,
                format,
                records: 0,
                last_time: Timestamp::default(),
                done: false,
            }),
            Err(kind) => Err(CaptureError { file, kind }),
        }
    }

    /// Reads the next record into `record`, reusing its memory; `false` at the end of the file.
    ///
    /// # Errors
    /// The file cannot be read, ends within a record, or has one that is too long, contradicts
    /// itself or is of an interface or link layer that is not known. `record` is then unspecified,
    /// and every later call returns `false`.
    pub fn read_into(&mut self, record: &mut Record) -> Result<bool, CaptureError> {
        if self.done {
            return Ok(false);
        }
        let at = At {
            record: self.records.saturating_add(1),
            offset: self.source.position(),
        };
        record.number = at.record;
        let result = match &mut self.format {
            Format::Pcap(pcap) => pcap.read_into(&mut self.source, record, at),
            Format::Pcapng(pcapng) => {
                // What a simple packet has for a time.
                record.time = self.last_time;
                pcapng.read_into(&mut self.source, record, at)
            }
        };
        match result {
            Ok(true) => {
                self.records = at.record;
                self.last_time = record.time;
                Ok(true)
            }
            Ok(false) => {
                self.done = true;
                Ok(false)
            }
            Err(kind) => {
                self.done = true;
                Err(CaptureError {
                    file: self.file.clone(),
                    kind,
                })
            }
        }
    }

    /// How many bytes of the file have been read into records.
    pub fn position(&self) -> u64 {
        self.source.position()
    }

    /// The file's length in bytes when it was opened; `None` for what is no regular file.
    pub fn file_len(&self) -> Option<u64> {
        self.file_len
    }

    /// The file's name as it was given.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

impl Iterator for CaptureReader {
    type Item = Result<Record, CaptureError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = Record::default();
        match self.read_into(&mut record) {
            Ok(true) => Some(Ok(record)),
            Ok(false) => None,
            Err(error) => Some(Err(error)),
        }
    }
}

impl fmt::Debug for CaptureReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureReader")
            .field("file", &self.file)
            .field("records", &self.records)
            .field("position", &self.position())
            .finish_non_exhaustive()
    }
}

/// Tells the format by the first bytes and reads its header.
fn open_format(source: &mut Source) -> Result<Format, CaptureErrorKind> {
    let first = source.peek(8).map_err(io_error("read"))?;
    if first.is_empty() {
        return Err(CaptureErrorKind::Empty);
    }
    // A file of fewer than four bytes is a cut-off header if they are the start of a magic number.
    let begins = |magic: &[u8; 4]| first.starts_with(magic) || magic.starts_with(first);
    if begins(&pcapng::MAGIC) {
        Pcapng::open(source).map(Format::Pcapng)
    } else if pcap::MAGICS.iter().any(begins) {
        Pcap::open(source).map(Format::Pcap)
    } else {
        Err(CaptureErrorKind::NotACapture {
            first: first.to_vec(),
        })
    }
}

/// Turns an error of the operating system into ours.
pub(super) fn io_error(action: &'static str) -> impl Fn(io::Error) -> CaptureErrorKind {
    move |source| CaptureErrorKind::Io { action, source }
}
