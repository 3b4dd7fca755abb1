//! Each rule, and a driver that breaks it and no other.

use super::*;
use crate::driver::VERSION;
use crate::driver::sample::{self, put, put_words};

const PDB: &str = "a.pdb";
const CHECKSUM: usize = sample::OPTIONAL_HEADER + 64;

fn version() -> Vec<u8> {
    VERSION.bytes()
}

/// A driver that keeps every rule but what the caller breaks; its checksum is right.
fn driver(broken: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut file = sample::driver(&version(), PDB);
    broken(&mut file);
    let sum = sum(&file, CHECKSUM);
    put_words(&mut file, CHECKSUM, &[sum]);
    file
}

/// What all rules say about a file, without the common names.
fn faults(file: &[u8]) -> Vec<String> {
    let imports = ["ntoskrnl.exe!First", "ntoskrnl.exe!Second"].map(str::to_owned);
    let expected = Expected {
        imports: &BTreeSet::from(imports),
        version: &version(),
        pdb: (PDB, sample::ID),
        names: &BTreeMap::from([(0x1000, "DriverEntry".to_owned())]),
    };
    CHECKS
        .iter()
        .flat_map(|check| check.faults(file, &expected))
        .collect()
}

/// The faults of a driver that is broken in one way.
fn broken(how: impl FnOnce(&mut Vec<u8>)) -> Vec<String> {
    faults(&driver(how))
}

#[test]
fn a_driver_that_keeps_the_rules_passes() {
    assert_eq!(broken(|_| ()), Vec::<String>::new());
}

#[test]
fn programs_are_not_drivers() {
    assert_eq!(
        broken(|file| put(file, sample::OPTIONAL_HEADER + 68, &[3])),
        ["a 64-bit program for the kernel: the subsystem is 3, not native"]
    );
    assert_eq!(
        broken(|file| put(file, sample::FILE_HEADER, &[0x64, 0xaa])),
        ["a 64-bit program for the kernel: the machine is 0xaa64, not x86-64"]
    );
    assert_eq!(
        broken(|file| put(file, sample::FILE_HEADER + 18, &[0x22, 0x20])),
        ["a 64-bit program for the kernel: the attributes 0x2022 are not those of a program"]
    );
}

#[test]
fn the_pdb_has_to_be_found_by_its_name() {
    assert_eq!(
        broken(|file| put(file, sample::PDB_NAME, b"/")),
        ["the PDB is found: it is called /.pdb, not a.pdb"]
    );
    assert_eq!(
        broken(|file| put(file, sample::PDB_ID, b"W")),
        ["the PDB is found: it is that of another build"]
    );
    assert_eq!(
        broken(|file| put_words(file, sample::directory(6), &[0, 0])),
        ["the PDB is found: it names none"]
    );
}

#[test]
fn the_entry_has_to_be_code() {
    assert_eq!(
        broken(|file| put_words(file, sample::OPTIONAL_HEADER + 16, &[0x2000])),
        ["the entry point is code: nothing executable at 0x2000"]
    );
}

#[test]
fn every_flag_is_wanted() {
    assert_eq!(
        broken(|file| put(file, sample::OPTIONAL_HEADER + 70, &[0, 0])),
        ["NX_COMPAT", "DYNAMIC_BASE", "HIGH_ENTROPY_VA"]
            .map(|flag| format!("no-execute data, any address: {flag} is not set"))
    );
}

#[test]
fn code_that_can_be_written_is_found() {
    assert_eq!(
        broken(|file| put_words(file, sample::section(0) + 36, &[0xe000_0020])),
        ["no section is writable and executable: .text is"]
    );
}

#[test]
fn sections_off_their_page_are_found() {
    assert_eq!(
        broken(|file| put_words(file, sample::OPTIONAL_HEADER + 32, &[0x800])),
        ["sections start on pages: the alignment is 2048, not 4096"]
    );
    let moved = broken(|file| put_words(file, sample::section(4) + 12, &[0x4800]));
    assert_eq!(moved[0], "sections start on pages: .reloc is at 0x4800");
}

#[test]
fn paged_code_is_found() {
    assert_eq!(
        broken(|file| put(file, sample::section(0), b"PAGE\0")),
        ["nothing is paged or discarded: PAGE is not resident"]
    );
    assert_eq!(
        broken(|file| put_words(file, sample::section(0) + 36, &[0x6200_0020])),
        ["nothing is paged or discarded: .text is not resident"]
    );
}

#[test]
fn a_driver_that_cannot_be_moved_is_found() {
    assert_eq!(
        broken(|file| put(file, sample::FILE_HEADER + 18, &[0x23])),
        ["it can be moved: relocations are stripped"]
    );
    assert_eq!(
        broken(|file| put_words(file, sample::directory(5), &[0, 0])),
        ["it can be moved: there are no relocations"]
    );
}

#[test]
fn a_wrong_checksum_is_found() {
    let mut file = driver(|_| ());
    let right = sum(&file, CHECKSUM);
    put_words(&mut file, CHECKSUM, &[right + 1]);
    let wrong = right + 1;
    assert_eq!(
        faults(&file),
        [format!(
            "the checksum is right: it is {wrong:#x}, and should be {right:#x}"
        )]
    );
}

#[test]
fn the_checksum_adds_words_and_the_length() {
    assert_eq!(
        sum(&[1, 2, 3, 4, 9, 9, 9, 9, 5], 4),
        0x0201 + 0x0403 + 5 + 9
    );
    assert_eq!(sum(&[0xff, 0xff, 2, 0], 4), 2 + 4);
}

#[test]
fn another_version_is_found() {
    assert_eq!(
        broken(|file| put(file, sample::VERSION, b"X")),
        ["the version resource is there: it is not that of this version"]
    );
    assert_eq!(
        broken(|file| put_words(file, sample::directory(2), &[0, 0])),
        ["the version resource is there: there is none"]
    );
}

#[test]
fn imports_have_to_be_the_list() {
    assert_eq!(
        broken(|file| put(file, sample::SECOND_IMPORT, b"Strange")),
        [
            "imports are those reviewed: ntoskrnl.exe!Strange is imported, but not in the list",
            "imports are those reviewed: ntoskrnl.exe!Second is in the list, but not imported",
        ]
    );
    let library = broken(|file| put(file, sample::MODULE, b"fwpuclnt.dll"));
    assert_eq!(
        library[0],
        "imports are those reviewed: fwpuclnt.dll is not a module that a driver imports from"
    );
    let check = broken(|file| put(file, sample::SECOND_IMPORT, b"__chkstk"));
    assert_eq!(
        check[0],
        "imports are those reviewed: __chkstk is the compiler's: \
         a frame over 4 KiB, or a check of the C library"
    );
}

#[test]
fn delayed_imports_and_exports_are_found() {
    assert_eq!(
        broken(|file| put_words(file, sample::directory(13), &[0x2000, 40])),
        ["imports are those reviewed: there are delayed imports"]
    );
    assert_eq!(
        broken(|file| put_words(file, sample::directory(0), &[0x2000, 40])),
        ["imports are those reviewed: there are exports"]
    );
}

#[test]
fn a_large_frame_is_found_by_its_name() {
    let file = driver(|file| put(file, sample::UNWIND_CODE - 2, &[2, 0, 4, 1, 127, 0]));
    assert_eq!(
        faults(&file),
        ["every stack frame is small: DriverEntry takes 1024 bytes, at most 1023 may be"]
    );
    assert_eq!(largest_frame(&file), Some(1024));
    assert_eq!(largest_frame(&driver(|_| ())), Some(40));
}

#[test]
fn a_driver_without_unwind_tables_is_found() {
    assert_eq!(
        broken(|file| put_words(file, sample::directory(3), &[0, 0])),
        ["every stack frame is small: there are no unwind tables"]
    );
}

#[test]
fn what_is_no_image_fails_every_rule() {
    assert_eq!(faults(b"no image").len(), CHECKS.len());
    let whole = driver(|_| ());
    for length in 0..whole.len() {
        assert!(!faults(&whole[..length]).is_empty(), "{length} bytes");
    }
}
