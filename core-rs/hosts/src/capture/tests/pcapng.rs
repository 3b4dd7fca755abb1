//! Pcapng files.

use super::files::File;
use super::{failure, records};
use crate::capture::{LinkType, MAX_RECORD_LEN};

const SHB: usize = 28;
const IDB: usize = 20;

#[test]
fn both_byte_orders_and_all_packet_blocks() {
    for big_endian in [false, true] {
        let file = File::pcapng(big_endian)
            .interface(1, 0, &[])
            .interface(101, 4, &[]);
        let obsolete = file
            .body()
            .u16(1)
            .u16(7)
            .u32(0)
            .u32(5_000_000)
            .u32(3)
            .u32(9)
            .raw(b"old");
        let simple = file.body().u32(6).raw(b"simple");
        let file = file
            .packet(0, 2_000_001, b"abcde", 64)
            .block(2, &obsolete.bytes)
            .block(3, &simple.bytes);
        let records = records(&file.bytes);
        assert_eq!(records.len(), 3);

        assert_eq!(records[0].time.as_nanos(), 2_000_001_000);
        assert_eq!(records[0].interface, 0);
        assert_eq!(records[0].link_type, LinkType::Ethernet);
        assert_eq!(
            (&records[0].data[..], records[0].original_len),
            (&b"abcde"[..], 64)
        );

        assert_eq!(records[1].time.as_nanos(), 5_000_000_000);
        assert_eq!(records[1].interface, 1);
        assert_eq!(records[1].link_type, LinkType::Raw);
        assert_eq!(
            (&records[1].data[..], records[1].original_len),
            (&b"old"[..], 9)
        );

        // A simple packet is of interface 0 and has the time of the record before it.
        assert_eq!(records[2].number, 3);
        assert_eq!(records[2].time.as_nanos(), 5_000_000_000);
        assert_eq!(records[2].interface, 0);
        assert_eq!(
            (&records[2].data[..], records[2].original_len),
            (&b"simple"[..], 6)
        );
    }
}

#[test]
fn a_simple_packet_is_cut_to_the_snap_length() {
    let file = File::pcapng(false).interface(1, 5, &[]);
    let simple = file.body().u32(1_500).raw(b"12345");
    let record = &records(&file.block(3, &simple.bytes).bytes)[0];
    assert_eq!(
        (&record.data[..], record.original_len),
        (&b"12345"[..], 1_500)
    );
    assert_eq!(record.time.as_nanos(), 0);
}

#[test]
fn resolutions_and_offsets_in_both_byte_orders() {
    for big_endian in [false, true] {
        let offset = if big_endian {
            100_i64.to_be_bytes()
        } else {
            100_i64.to_le_bytes()
        };
        let time = |options: &[(u16, &[u8])], ticks| {
            let file = File::pcapng(big_endian).interface(1, 0, options);
            let records = records(&file.packet(0, ticks, b"", 0).bytes);
            records[0].time.as_nanos()
        };
        assert_eq!(time(&[], 7), 7_000);
        for exponent in 0..=9_u8 {
            let second = 10_u64.pow(exponent.into());
            assert_eq!(time(&[(9, &[exponent])], second), 1_000_000_000);
        }
        assert_eq!(time(&[(9, &[12])], 5_000), 5);
        assert_eq!(time(&[(9, &[0x94])], 3 << 19), 1_500_000_000);
        assert_eq!(time(&[(9, &[0xa0])], 1 << 33), 2_000_000_000);
        assert_eq!(time(&[(14, &offset)], 7), 100_000_007_000);
        assert_eq!(
            time(&[(9, &[9]), (2, b"eth0"), (14, &offset)], 7),
            100_000_000_007
        );
        // Nothing counts behind the end of the options, and values of no length are none.
        assert_eq!(time(&[(0, &[]), (9, &[9])], 7), 7_000);
        assert_eq!(time(&[(9, &[]), (14, &[1])], 7), 7_000);
    }
}

#[test]
fn each_interface_has_its_own_link_type_and_clock() {
    let file = File::pcapng(true)
        .interface(276, 0, &[(9, &[9])])
        .interface(0, 0, &[(9, &[3])])
        .packet(1, 5, b"x", 1)
        .packet(0, 5, b"y", 1);
    let records = records(&file.bytes);
    let seen: Vec<_> = records
        .iter()
        .map(|record| (record.link_type, record.time.as_nanos()))
        .collect();
    assert_eq!(
        seen,
        [(LinkType::Null, 5_000_000), (LinkType::LinuxSll2, 5)]
    );
}

#[test]
fn sections_have_their_own_byte_order_and_interfaces() {
    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .interface(1, 0, &[])
        .packet(1, 0, b"a", 1)
        .section(true)
        .interface(101, 0, &[])
        .packet(0, 0, b"b", 1)
        .section(false)
        .interface(228, 0, &[])
        .packet(0, 0, b"c", 1);
    let seen: Vec<_> = records(&file.bytes)
        .iter()
        .map(|record| (record.number, record.interface, record.link_type))
        .collect();
    let expected = [
        (1, 1, LinkType::Ethernet),
        (2, 2, LinkType::Raw),
        (3, 3, LinkType::Ipv4),
    ];
    assert_eq!(seen, expected);

    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .section(false)
        .packet(0, 0, b"", 0);
    let (_, message) = failure(&file.bytes);
    assert!(message.contains("describes 0 before it"), "{message}");
}

#[test]
fn other_blocks_are_skipped_however_long() {
    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .block(5, &[0; 40])
        .block(0x0bad, &vec![1; 1_000_000])
        .block(0x8000_0000, b"")
        .packet(0, 0, b"here", 4);
    assert_eq!(records(&file.bytes)[0].data, b"here");
}

#[test]
fn a_section_may_have_comments_of_any_length() {
    for big_endian in [false, true] {
        let file = File::pcapng(big_endian);
        let comment = "x".repeat(65_535);
        let body = file
            .body()
            .u32(0x1a2b_3c4d)
            .u16(1)
            .u16(0)
            .u32(!0)
            .u32(!0)
            .options(&[(1, comment.as_bytes()); 6]);
        let file = file.block(0x0a0d_0d0a, &body.bytes).interface(1, 0, &[]);
        assert_eq!(records(&file.packet(0, 0, b"abc", 3).bytes).len(), 1);
    }
}

#[test]
fn a_truncated_header_says_how_much_there_is() {
    let file = File::pcapng(true);
    for len in 1..SHB {
        let (_, message) = failure(&file.bytes[..len]);
        assert_eq!(
            message,
            format!(
                "test.cap: truncated pcapng file header: {len} bytes at byte 0, and it takes at \
                 least 28"
            )
        );
    }
}

#[test]
fn a_truncated_record_comes_after_all_whole_ones() {
    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .packet(0, 0, b"abc", 3);
    let start = file.bytes.len();
    let file = file.packet(0, 0, b"defgh", 5);
    for len in start + 1..file.bytes.len() {
        let (count, message) = failure(&file.bytes[..len]);
        let start_of_message = format!("test.cap: truncated record 2 at byte {start}: it takes ");
        let end = format!("and the file ends after {}", len - start);
        assert_eq!(count, 1);
        assert!(message.starts_with(&start_of_message), "{message}");
        assert!(message.ends_with(&end), "{message}");
    }
}

#[test]
fn a_packet_beyond_256_kib_is_refused_by_its_header() {
    let file = File::pcapng(false).interface(1, 0, &[]);
    let body = file
        .body()
        .u32(0)
        .u32(0)
        .u32(0)
        .u32(MAX_RECORD_LEN + 1)
        .u32(1);
    let file = file.u32(6).u32(0xffff_fff0).raw(&body.bytes);
    let (_, message) = failure(&file.bytes);
    assert_eq!(
        message,
        "test.cap: record 1 at byte 48 is 262145 bytes long, and records of more than 262144 \
         bytes are refused"
    );
}

#[test]
fn a_packet_of_an_interface_that_is_not_described_is_refused() {
    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .packet(0, 0, b"a", 1)
        .packet(3, 0, b"b", 1);
    let (count, message) = failure(&file.bytes);
    assert_eq!(count, 1);
    assert!(
        message.contains("is from interface 3, and its section describes 1 before it"),
        "{message}"
    );
    let (_, message) = failure(&File::pcapng(false).block(3, &[0; 4]).bytes);
    assert!(
        message.contains("record 1 at byte 28 is from interface 0"),
        "{message}"
    );
}

#[test]
fn a_link_type_without_support_matters_once_it_has_a_packet() {
    let file = File::pcapng(true)
        .interface(127, 0, &[])
        .interface(1, 0, &[])
        .packet(1, 0, b"a", 1);
    assert_eq!(records(&file.bytes).len(), 1);
    let offset = file.bytes.len();
    let (count, message) = failure(&file.packet(0, 0, b"b", 1).bytes);
    assert_eq!(count, 1);
    assert_eq!(
        message,
        format!(
            "test.cap: link type LINKTYPE_IEEE802_11_RADIOTAP (127) is not supported (record 2 at \
             byte {offset})"
        )
    );
}

#[test]
fn blocks_that_contradict_themselves_are_refused() {
    let file = File::pcapng(false).interface(1, 0, &[]);
    let expect = |file: File, problem: &str| {
        let (_, message) = failure(&file.bytes);
        assert!(
            message.starts_with("test.cap: bad block of type 0x"),
            "{message}"
        );
        assert!(message.contains("record 1 at byte "), "{message}");
        assert!(message.ends_with(problem), "{message}");
    };
    expect(file.clone().u32(6).u32(8).u32(0), "its length is 8");
    expect(file.clone().u32(6).u32(37).u32(0), "its length is 37");
    expect(file.clone().block(6, &[0; 16]), "its length is 28");
    expect(
        file.clone().u32(9).u32(12).u32(16),
        "its length is 12 at its start and 16 at its end",
    );
    let body = file.body().u32(0).u32(0).u32(0).u32(5).u32(5).raw(b"abcd");
    expect(
        file.clone().block(6, &body.bytes),
        "its packet of 5 bytes does not fit into its 4 bytes",
    );
    let body = file.body().u32(100).raw(b"abcd");
    expect(
        file.clone().block(3, &body.bytes),
        "its packet of 100 bytes does not fit into its 4 bytes",
    );
    expect(
        file.clone().block(1, &[0; 4]),
        "its content cannot be parsed",
    );
    expect(
        file.clone().block(1, &vec![0; 32_768]),
        "it is 32780 bytes long, and interface descriptions of more than 32768 bytes are refused",
    );
    expect(
        file.clone()
            .raw(&[0x0a, 0x0d, 0x0d, 0x0a, 28, 0, 0, 0, 1, 2, 3, 4]),
        "0x01020304 is no byte-order magic",
    );
    expect(
        file.clone()
            .block(0x0a0d_0d0a, &[0x4d, 0x3c, 0x2b, 0x1a, 1, 0, 0, 0]),
        "its length is 20",
    );
    let mut many = File::pcapng(false);
    for _ in 0..4_097 {
        many = many.interface(1, 0, &[]);
    }
    expect(
        many,
        "it is one interface more than the 4096 that a section may have",
    );
}

#[test]
fn an_unknown_version_is_refused() {
    let mut file = File::pcapng(false);
    file.bytes[12] = 3;
    let (_, message) = failure(&file.bytes);
    assert!(
        message.contains("pcapng version 3.0 is not known"),
        "{message}"
    );
}

#[test]
fn a_file_may_end_after_any_whole_block() {
    let file = File::pcapng(false)
        .interface(1, 0, &[])
        .packet(0, 0, b"abc", 3);
    assert!(records(&file.bytes[..SHB]).is_empty());
    assert!(records(&file.bytes[..SHB + IDB]).is_empty());
    assert_eq!(records(&file.bytes).len(), 1);
    assert_eq!(failure(file.cut(1)).0, 0);
}
