//! Classic pcap files, and files that are none.

use super::files::{File, MICROS, NANOS};
use super::{failure, open, records};
use crate::capture::{CaptureErrorKind, CaptureReader, LinkType, MAX_RECORD_LEN};

#[test]
fn both_byte_orders_and_both_units() {
    for big_endian in [false, true] {
        for (magic, first, second) in [
            (MICROS, 1_000_002_000, 3_000_004_000),
            (NANOS, 1_000_000_002, 3_000_000_004),
        ] {
            let file = File::pcap(big_endian, magic, 113)
                .record(1, 2, b"abc", 3)
                .record(3, 4, b"defgh", 1_500);
            let records = records(&file.bytes);
            assert_eq!(records.len(), 2);
            assert_eq!(records[0].number, 1);
            assert_eq!(records[0].time.as_nanos(), first);
            assert_eq!(records[0].data, b"abc");
            assert_eq!(records[0].original_len, 3);
            assert_eq!(records[0].link_type, LinkType::LinuxSll);
            assert_eq!(records[1].number, 2);
            assert_eq!(records[1].time.as_nanos(), second);
            assert_eq!(records[1].data, b"defgh");
            assert_eq!(records[1].original_len, 1_500);
            assert_eq!(records[1].interface, 0);
        }
    }
}

#[test]
fn no_records_zero_length_and_too_small_an_original_length() {
    let file = File::pcap(false, MICROS, 1);
    assert!(records(&file.bytes).is_empty());
    let file = file.record(1, 0, b"", 0).record(1, 0, b"abcd", 2);
    let records = records(&file.bytes);
    assert_eq!(records[0].data, b"");
    assert_eq!(records[0].original_len, 0);
    assert_eq!(records[1].data, b"abcd");
    assert_eq!(records[1].original_len, 4);
}

#[test]
fn many_records_cross_the_window() {
    let mut file = File::pcap(true, NANOS, 1);
    for number in 0..60_u32 {
        let data = vec![number as u8; 10_000 + number as usize];
        file = file.record(number, 0, &data, 10_000 + number);
    }
    let data = vec![9; MAX_RECORD_LEN as usize];
    let file = file.record(60, 0, &data, MAX_RECORD_LEN);
    let records = records(&file.bytes);
    assert_eq!(records.len(), 61);
    for (number, record) in records.iter().take(60).enumerate() {
        assert_eq!(record.data, vec![number as u8; 10_000 + number]);
    }
    assert_eq!(records[60].data.len(), MAX_RECORD_LEN as usize);
}

#[test]
fn an_empty_file_says_so() {
    let (_, message) = failure(b"");
    assert_eq!(
        message,
        "test.cap: the file is empty: not even a pcap or pcapng header"
    );
}

#[test]
fn a_text_file_is_shown_its_first_bytes() {
    let (_, message) = failure(b"GET / HTTP/1.1\r\n");
    assert_eq!(
        message,
        "test.cap: not a capture: the first bytes \"GET / HT\" are neither a pcap nor a pcapng \
         magic number"
    );
    let (_, message) = failure(b"\n");
    assert!(
        message.contains("truncated pcapng file header: 1 bytes"),
        "{message}"
    );
    let (_, message) = failure(b"\nx");
    assert!(message.contains("\"\\nx\""), "{message}");
    let (_, message) = failure(&[0x1f, 0x8b, 8, 0]);
    assert!(message.contains("gzip"), "{message}");
}

#[test]
fn a_truncated_header_says_how_much_there_is() {
    let file = File::pcap(true, MICROS, 1);
    for len in 1..24 {
        let (_, message) = failure(&file.bytes[..len]);
        let expected = format!(
            "test.cap: truncated pcap file header: {len} bytes at byte 0, and it takes at least 24"
        );
        assert_eq!(message, expected);
    }
}

#[test]
fn a_truncated_record_comes_after_all_whole_ones() {
    let file = File::pcap(false, MICROS, 1).record(1, 0, b"abc", 3);
    let start = file.bytes.len();
    let file = file.record(2, 0, b"defg", 4);
    for len in start + 1..file.bytes.len() {
        let (count, message) = failure(&file.bytes[..len]);
        let available = len - start;
        let needed = if available < 12 { 16 } else { 20 };
        assert_eq!(count, 1);
        assert_eq!(
            message,
            format!(
                "test.cap: truncated record 2 at byte {start}: it takes {needed} bytes, and the \
                 file ends after {available}"
            )
        );
    }
}

#[test]
fn a_record_beyond_256_kib_is_refused_by_its_header() {
    for big_endian in [false, true] {
        let header = File::pcap(big_endian, MICROS, 1).u32(0).u32(0);
        for length in [MAX_RECORD_LEN + 1, u32::MAX] {
            let file = header.clone().u32(length).u32(length);
            let (count, message) = failure(&file.bytes);
            assert_eq!(count, 0);
            assert_eq!(
                message,
                format!(
                    "test.cap: record 1 at byte 24 is {length} bytes long, and records of more \
                     than 262144 bytes are refused"
                )
            );
        }
    }
}

#[test]
fn a_link_type_without_support_is_refused_by_name() {
    let file = File::pcap(false, MICROS, 105).record(1, 0, b"abc", 3);
    let (count, message) = failure(&file.bytes);
    assert_eq!(count, 0);
    assert_eq!(
        message,
        "test.cap: link type LINKTYPE_IEEE802_11 (105) is not supported (file header at byte 20)"
    );
    let (_, message) = failure(&File::pcap(false, MICROS, 3_333).bytes);
    assert!(
        message.contains("link type 3333 is not supported"),
        "{message}"
    );
    let (_, message) = failure(&File::pcap(false, MICROS, 0x0224_0001).bytes);
    assert!(message.contains("link type 35913729 is"), "{message}");
}

#[test]
fn a_frame_check_sequence_does_not_change_the_link_type() {
    let file = File::pcap(true, MICROS, 0x4400_0001).record(1, 0, b"abc", 3);
    assert_eq!(records(&file.bytes)[0].link_type, LinkType::Ethernet);
}

#[test]
fn an_unknown_version_is_refused() {
    let mut file = File::pcap(true, MICROS, 1);
    file.bytes[5] = 9;
    let (_, message) = failure(&file.bytes);
    assert_eq!(
        message,
        "test.cap: pcap version 9.4 is not known (file header at byte 4)"
    );
}

#[test]
fn files_that_cannot_be_opened_or_read_are_named() {
    let directory = std::env::temp_dir();
    let missing = directory.join("kext-no-such-capture.pcap");
    let error = CaptureReader::open(&missing).unwrap_err();
    assert!(matches!(
        error.kind,
        CaptureErrorKind::Io { action: "open", .. }
    ));
    let message = error.to_string();
    assert!(
        message.contains("kext-no-such-capture.pcap: cannot open: "),
        "{message}"
    );
    let error = CaptureReader::open(&directory).unwrap_err();
    assert!(matches!(error.kind, CaptureErrorKind::Io { .. }), "{error}");
}

#[test]
fn position_and_length_tell_the_progress() {
    let file = File::pcap(false, MICROS, 1).record(1, 0, b"abc", 3);
    let path = std::env::temp_dir().join(format!("kext-progress-{}.pcap", std::process::id()));
    std::fs::write(&path, &file.bytes).unwrap();
    let mut reader = CaptureReader::open(&path).unwrap();
    assert_eq!((reader.position(), reader.file_len()), (24, Some(43)));
    assert_eq!(reader.next().unwrap().unwrap().data, b"abc");
    assert_eq!(reader.position(), 43);
    assert!(reader.next().is_none());
    std::fs::remove_file(&path).unwrap();
    assert_eq!(open(&file.bytes).unwrap().file_len(), None);
}
