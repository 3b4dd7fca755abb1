//! The reader is total and bounded on any bytes.

use proptest::prelude::*;

use super::files::{File, MICROS, NANOS};
use crate::capture::{CaptureReader, MAX_RECORD_LEN, Record};

/// Files with every kind of block, to be damaged.
fn sound_files() -> Vec<Vec<u8>> {
    let mut files = Vec::new();
    for big_endian in [false, true] {
        for magic in [MICROS, NANOS] {
            let file = File::pcap(big_endian, magic, 1).record(1, 2, &[7; 60], 60);
            files.push(file.record(3, 4, &[8; 90], 1_500).bytes);
        }
        let file = File::pcapng(big_endian)
            .interface(1, 96, &[(2, b"eth0"), (9, &[9]), (14, &[0; 8])])
            .interface(276, 0, &[(9, &[0x94])]);
        let old = file
            .body()
            .u16(1)
            .u16(0)
            .u32(0)
            .u32(9)
            .u32(3)
            .u32(3)
            .raw(b"old");
        let simple = file.body().u32(6).raw(b"simple");
        let file = file
            .packet(0, 1, &[7; 61], 61)
            .block(2, &old.bytes)
            .block(3, &simple.bytes)
            .block(5, &[0; 12])
            .section(!big_endian)
            .interface(101, 0, &[])
            .packet(0, 2, &[9; 33], 1_500);
        files.push(file.bytes);
    }
    files
}

/// Reads to the end, whatever it is, and checks what holds for every file.
fn exhaust(bytes: &[u8]) {
    let Ok(mut reader) = CaptureReader::from_reader(Chunks(bytes.to_vec(), 0), "fuzz") else {
        return;
    };
    let mut record = Record::default();
    let mut count = 0;
    while let Ok(true) = reader.read_into(&mut record) {
        count += 1;
        assert_eq!(record.number, count);
        assert!(record.data.len() <= MAX_RECORD_LEN as usize);
        assert!(record.data.len() <= bytes.len());
        assert!(record.original_len as usize >= record.data.len());
        assert!(record.data.capacity() <= MAX_RECORD_LEN as usize);
        assert!(reader.position() <= bytes.len() as u64);
    }
    // A record takes at least 16 bytes of file.
    assert!(count as usize * 16 <= bytes.len());
}

/// A reader that gives 1 to 7 bytes at a time and is interrupted in between.
struct Chunks(Vec<u8>, usize);

impl std::io::Read for Chunks {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.1 += 1;
        if self.1.is_multiple_of(5) {
            return Err(std::io::ErrorKind::Interrupted.into());
        }
        let len = (self.1 % 7 + 1).min(buffer.len()).min(self.0.len());
        buffer[..len].copy_from_slice(&self.0[..len]);
        self.0.drain(..len);
        Ok(len)
    }
}

#[test]
fn the_sound_files_are_sound() {
    for file in sound_files() {
        let reader = CaptureReader::from_reader(Chunks(file, 0), "sound").unwrap();
        assert!(reader.map(Result::unwrap).count() >= 2);
    }
}

proptest! {
    #[test]
    fn random_bytes(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        exhaust(&bytes);
    }

    #[test]
    fn random_bytes_behind_each_header(
        file in prop::sample::select(sound_files()),
        bytes in prop::collection::vec(any::<u8>(), 0..400),
    ) {
        let header = file.len().min(28);
        exhaust(&[&file[..header], &bytes].concat());
    }

    #[test]
    fn damaged_files(
        file in prop::sample::select(sound_files()),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut file = file;
        for (index, byte) in changes {
            let index = index.index(file.len());
            file[index] = byte;
        }
        exhaust(&file);
        exhaust(&file[..cut.index(file.len())]);
    }

    #[test]
    fn damaged_lengths(
        file in prop::sample::select(sound_files()),
        word in any::<prop::sample::Index>(),
        value in prop::sample::select(vec![0_u32, 1, 8, 12, 28, 0x7fff_ffff, 0xffff_fffc, u32::MAX]),
        big_endian in any::<bool>(),
    ) {
        let mut file = file;
        let at = word.index(file.len() / 4) * 4;
        let bytes = if big_endian { value.to_be_bytes() } else { value.to_le_bytes() };
        file[at..at + 4].copy_from_slice(&bytes);
        exhaust(&file);
    }
}
