//! What is written, and that it is read again.

use std::io::Write;
use std::path::Path;
use std::sync::{Arc, Mutex};

use kext_types::{Direction, Timestamp};
use proptest::prelude::*;

use super::records;
use crate::capture::{CaptureErrorKind, CaptureWriter, LinkType, Outgoing};

/// A writer whose bytes can be looked at.
#[derive(Clone, Default)]
struct Shared(Arc<Mutex<Vec<u8>>>);

impl Write for Shared {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

fn written(packets: &[Outgoing<'_>]) -> Vec<u8> {
    let shared = Shared::default();
    let mut writer = CaptureWriter::from_writer(shared.clone(), "out.pcapng").unwrap();
    for packet in packets {
        writer.write(packet).unwrap();
    }
    writer.finish().unwrap();
    let bytes = shared.0.lock().unwrap();
    bytes.clone()
}

const PACKET: Outgoing<'static> = Outgoing {
    time: Timestamp::from_nanos(0x0102_0304_0506_0708),
    interface: 7,
    direction: Direction::Outbound,
    data: b"Epack",
    original_len: 1_500,
    comment: "accept",
};

#[test]
fn the_bytes_are_those_of_the_format() {
    #[rustfmt::skip]
    let expected = [
        // Section header with shb_userappl.
        &b"\x0a\x0d\x0d\x0a\x34\0\0\0\x4d\x3c\x2b\x1a\x01\0\0\0"[..],
        b"\xff\xff\xff\xff\xff\xff\xff\xff\x04\0\x0f\0portmaster-kext\0\0\0\0\0\x34\0\0\0",
        // Interface, LINKTYPE_RAW, with if_name and if_tsresol 9.
        b"\x01\0\0\0\x30\0\0\0\x65\0\0\0\0\0\0\0",
        b"\x02\0\x0b\0interface 7\0\x09\0\x01\0\x09\0\0\0\0\0\0\0\x30\0\0\0",
        // Packet with epb_flags 2 (outbound) and opt_comment.
        b"\x06\0\0\0\x40\0\0\0\0\0\0\0\x04\x03\x02\x01\x08\x07\x06\x05\x05\0\0\0\xdc\x05\0\0",
        b"Epack\0\0\0\x02\0\x04\0\x02\0\0\0\x01\0\x06\0accept\0\0\0\0\0\0\x40\0\0\0",
    ]
    .concat();
    assert_eq!(written(&[PACKET]), expected);
}

#[test]
fn inbound_and_no_comment() {
    let packet = Outgoing {
        direction: Direction::Inbound,
        comment: "",
        ..PACKET
    };
    let bytes = written(&[packet]);
    let end = b"\x02\0\x04\0\x01\0\0\0\0\0\0\0\x34\0\0\0";
    assert!(bytes.ends_with(end), "{bytes:x?}");
}

#[test]
fn a_capture_without_packets_is_read() {
    assert!(records(&written(&[])).is_empty());
}

#[test]
fn a_long_comment_is_cut_between_characters() {
    let comment = "ä".repeat(40_000);
    let packet = Outgoing {
        comment: &comment,
        ..PACKET
    };
    let bytes = written(&[packet]);
    assert_eq!(records(&bytes)[0].data, b"Epack");
    let text = String::from_utf8_lossy(&bytes);
    assert_eq!(text.matches('ä').count(), 32_767);
}

#[test]
fn a_path_that_cannot_be_written_is_named() {
    let path = Path::new("/no-such-directory/out.pcapng");
    let error = CaptureWriter::create(path).unwrap_err();
    assert!(matches!(
        error.kind,
        CaptureErrorKind::Io {
            action: "create",
            ..
        }
    ));
    let message = error.to_string();
    assert!(
        message.starts_with("/no-such-directory/out.pcapng: cannot create: "),
        "{message}"
    );
}

/// A disk that is full after some bytes.
struct Full(usize);

impl Write for Full {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let room = self.0.min(bytes.len());
        self.0 -= room;
        if room == 0 && !bytes.is_empty() {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        Ok(room)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_is_told_at_the_latest_when_finishing() {
    let mut writer = CaptureWriter::from_writer(Full(100), "full.pcapng").unwrap();
    writer.write(&PACKET).unwrap();
    let message = writer.finish().unwrap_err().to_string();
    assert!(
        message.starts_with("full.pcapng: cannot write: "),
        "{message}"
    );

    let mut writer = CaptureWriter::from_writer(Full(100), "full.pcapng").unwrap();
    let result = (0..10_000).try_for_each(|_| writer.write(&PACKET));
    assert!(result.unwrap_err().to_string().contains("cannot write"));
}

#[test]
fn a_dropped_writer_has_written_everything() {
    let shared = Shared::default();
    let mut writer = CaptureWriter::from_writer(shared.clone(), "out.pcapng").unwrap();
    writer.write(&PACKET).unwrap();
    drop(writer);
    assert_eq!(*shared.0.lock().unwrap(), written(&[PACKET]));
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        packets in prop::collection::vec(
            (
                any::<u64>(),
                0..4_u32,
                any::<bool>(),
                prop::collection::vec(any::<u8>(), 0..100),
                0..3_000_u32,
                ".{0,20}",
            ),
            0..20,
        )
    ) {
        let outgoing: Vec<_> = packets
            .iter()
            .map(|(time, interface, inbound, data, original_len, comment)| Outgoing {
                time: Timestamp::from_nanos(*time),
                interface: *interface,
                direction: if *inbound { Direction::Inbound } else { Direction::Outbound },
                data,
                original_len: *original_len,
                comment,
            })
            .collect();
        let bytes = written(&outgoing);
        prop_assert_eq!(&bytes, &written(&outgoing));
        let records = records(&bytes);
        prop_assert_eq!(records.len(), outgoing.len());
        let mut numbers = Vec::new();
        for (record, packet) in records.iter().zip(&outgoing) {
            if !numbers.contains(&packet.interface) {
                numbers.push(packet.interface);
            }
            prop_assert_eq!(record.time, packet.time);
            prop_assert_eq!(record.link_type, LinkType::Raw);
            prop_assert_eq!(numbers[record.interface as usize], packet.interface);
            prop_assert_eq!(&record.data[..], packet.data);
            prop_assert_eq!(record.original_len, packet.original_len.max(packet.data.len() as u32));
        }
    }
}
