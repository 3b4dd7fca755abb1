//! The classic pcap format: a file header of 24 bytes, then records behind headers of 16.

use pcap_parser::{
    LegacyPcapBlock, PcapError, nom, parse_pcap_frame, parse_pcap_frame_be, parse_pcap_header,
};

use super::error::{At, CaptureErrorKind};
use super::reader::{Record, io_error};
use super::source::Source;
use super::timing::{Fraction, pcap_time};
use super::{LinkType, MAX_RECORD_LEN};

const FILE_HEADER: usize = 24;
const RECORD_HEADER: usize = 16;

/// The four magic numbers as they stand in a file: micro- and nanoseconds, big and little endian.
pub(super) const MAGICS: [[u8; 4]; 4] = [
    [0xa1, 0xb2, 0xc3, 0xd4],
    [0xa1, 0xb2, 0x3c, 0x4d],
    [0xd4, 0xc3, 0xb2, 0xa1],
    [0x4d, 0x3c, 0xb2, 0xa1],
];

type FrameParser =
    for<'a> fn(&'a [u8]) -> nom::IResult<&'a [u8], LegacyPcapBlock<'a>, PcapError<&'a [u8]>>;

/// What the file header says.
#[derive(Clone, Copy)]
pub(super) struct Pcap {
    big_endian: bool,
    fraction: Fraction,
    link_type: LinkType,
}

impl Pcap {
    /// Reads the header of a file that starts with one of [`MAGICS`].
    pub(super) fn open(source: &mut Source) -> Result<Self, CaptureErrorKind> {
        let bytes = source.peek(FILE_HEADER).map_err(io_error("read"))?;
        let Ok((_, header)) = parse_pcap_header(bytes) else {
            return Err(CaptureErrorKind::TruncatedHeader {
                format: "pcap",
                needed: FILE_HEADER as u32,
                available: bytes.len() as u64,
            });
        };
        let at = |offset| At { record: 0, offset };
        if header.version_major != 2 {
            return Err(CaptureErrorKind::UnknownVersion {
                format: "pcap",
                major: header.version_major,
                minor: header.version_minor,
                at: at(4),
            });
        }
        // The upper six bits say how long the frame check sequence is, which IP's own length makes
        // irrelevant; the class bits below them would change the meaning of the number.
        let number = header.network.0.cast_unsigned() & 0x03ff_ffff;
        let Some(link_type) = LinkType::from_number(number) else {
            let at = at(20);
            return Err(CaptureErrorKind::UnsupportedLinkType { number, at });
        };
        let pcap = Self {
            big_endian: header.is_bigendian(),
            fraction: if header.is_nanosecond_precision() {
                Fraction::Nanos
            } else {
                Fraction::Micros
            },
            link_type,
        };
        source.take(FILE_HEADER);
        Ok(pcap)
    }

    /// Reads the next record; `false` at the end of the file.
    pub(super) fn read_into(
        self,
        source: &mut Source,
        record: &mut Record,
        at: At,
    ) -> Result<bool, CaptureErrorKind> {
        let header = source.peek(RECORD_HEADER).map_err(io_error("read"))?;
        if header.is_empty() {
            return Ok(false);
        }
        let Some(length) = header.get(8..12).and_then(|bytes| bytes.first_chunk()) else {
            return Err(truncated(at, RECORD_HEADER, header.len()));
        };
        let length = if self.big_endian {
            u32::from_be_bytes(*length)
        } else {
            u32::from_le_bytes(*length)
        };
        // Before anything is read or allocated by the length that the file states.
        if length > MAX_RECORD_LEN {
            return Err(CaptureErrorKind::RecordTooLong { at, length });
        }
        let needed = RECORD_HEADER + length as usize;
        let bytes = source.peek(needed).map_err(io_error("read"))?;
        let parse: FrameParser = if self.big_endian {
            parse_pcap_frame_be
        } else {
            parse_pcap_frame
        };
        // The length is within limits, so the only thing that can be wrong is that bytes are
        // missing.
        let Ok((_, frame)) = parse(bytes) else {
            return Err(truncated(at, needed, bytes.len()));
        };
        record.time = pcap_time(frame.ts_sec, frame.ts_usec, self.fraction);
        record.interface = 0;
        record.link_type = self.link_type;
        record.set_data(frame.data, frame.origlen);
        source.take(needed);
        Ok(true)
    }
}

fn truncated(at: At, needed: usize, available: usize) -> CaptureErrorKind {
    CaptureErrorKind::TruncatedRecord {
        at,
        needed: needed as u64,
        available: available as u64,
    }
}
