//! A smallest driver that keeps every rule, made byte by byte, so that tests can break one at a
//! time. Offsets into the file and addresses in the image are those of the constants.

/// Where the headers are in the file.
pub(super) const FILE_HEADER: usize = 0x44;
pub(super) const OPTIONAL_HEADER: usize = 0x58;
const DIRECTORIES: usize = OPTIONAL_HEADER + 112;
const SECTIONS: usize = OPTIONAL_HEADER + 240;
const SECTION_HEADER: usize = 40;

/// Name, offset in the file, flags. Section `n` of the table is at address `0x1000 * (n + 1)`.
const TABLE: [(&[u8; 8], usize, u32); 5] = [
    (b".text\0\0\0", 0x400, 0x6000_0020),
    (b".rdata\0\0", 0x600, 0x4000_0040),
    (b".pdata\0\0", 0x800, 0x4000_0040),
    (b".rsrc\0\0\0", 0xa00, 0x4000_0040),
    (b".reloc\0\0", 0x1000, 0x4200_0040),
];
const END: usize = 0x1200;

/// The first code of the one function's prologue.
pub(super) const UNWIND_CODE: usize = 0x600 + 0x124;
/// The name of the second import, and of the module that both are from.
pub(super) const SECOND_IMPORT: usize = 0x600 + 0x82;
pub(super) const MODULE: usize = 0x600 + 0xa0;
pub(super) const PDB_ID: usize = 0x600 + 0xe4;
pub(super) const PDB_NAME: usize = 0x600 + 0xf8;
/// The first string of the version resource.
pub(super) const VERSION: usize = 0xa00 + 0x60 + 6;

/// Where the header of a section is in the file.
pub(super) fn section(index: usize) -> usize {
    SECTIONS + index * SECTION_HEADER
}

/// Where an entry of the table of tables is in the file.
pub(super) fn directory(index: usize) -> usize {
    DIRECTORIES + index * 8
}

pub(super) fn put(file: &mut [u8], at: usize, bytes: &[u8]) {
    file[at..at + bytes.len()].copy_from_slice(bytes);
}

pub(super) fn put_words(file: &mut [u8], at: usize, words: &[u32]) {
    for (index, word) in words.iter().enumerate() {
        put(file, at + 4 * index, &word.to_le_bytes());
    }
}

/// The identifier that driver and PDB have in common.
pub(super) const ID: &[u8; 16] = b"which pdb it is.";

/// The driver, with a version resource and a PDB name of the caller's. The checksum is 0.
pub(super) fn driver(version: &[u8], pdb: &str) -> Vec<u8> {
    let mut file = vec![0; END];
    headers(&mut file);
    imports(&mut file, 0x600);
    debug(&mut file, 0x600, pdb);

    // One function, with a prologue that takes 32 bytes.
    put_words(&mut file, 0x800, &[0x1000, 0x1010, 0x2120]);
    put(&mut file, UNWIND_CODE - 4, &[1, 4, 1, 0, 4, 0x32]);
    put_words(&mut file, directory(3), &[0x3000, 12]);

    resource(&mut file, 0xa00, version);

    // One 64-bit address to be moved, and filler.
    put_words(&mut file, 0x1000, &[0x2000, 12, 0xa048]);
    put_words(&mut file, directory(5), &[0x5000, 12]);
    file
}

fn headers(file: &mut [u8]) {
    put(file, 0, b"MZ");
    put_words(file, 0x3c, &[0x40]);
    put(file, 0x40, b"PE\0\0");
    // x86-64, five sections, an optional header of 240 bytes, an executable of large addresses.
    put(file, FILE_HEADER, &[0x64, 0x86, 5, 0]);
    put(file, FILE_HEADER + 16, &[240, 0, 0x22, 0]);
    put(file, OPTIONAL_HEADER, &[0x0b, 0x02]);
    put_words(file, OPTIONAL_HEADER + 16, &[0x1000, 0x1000]); // entry, start of the code
    put(file, OPTIONAL_HEADER + 24, &0x1_4000_0000_u64.to_le_bytes());
    put_words(file, OPTIONAL_HEADER + 32, &[0x1000, 0x200]); // alignments
    put_words(file, OPTIONAL_HEADER + 56, &[0x6000, 0x400]); // sizes of image and headers
    put(file, OPTIONAL_HEADER + 68, &[1, 0, 0x60, 0x01]); // native; NX, moved, high addresses
    put_words(file, OPTIONAL_HEADER + 108, &[16]);
    let ends = TABLE.iter().skip(1).map(|(_, offset, _)| *offset);
    for (index, ((name, offset, flags), end)) in TABLE.iter().zip(ends.chain([END])).enumerate() {
        let at = section(index);
        let size = (end - offset) as u32;
        let address = 0x1000 * (index as u32 + 1);
        put(file, at, *name);
        put_words(file, at + 8, &[size, address, size, *offset as u32]);
        put_words(file, at + 36, &[*flags]);
    }
}

/// `ntoskrnl.exe!First` and `ntoskrnl.exe!Second`.
fn imports(file: &mut [u8], at: usize) {
    put_words(file, at, &[0x2030, 0, 0, 0x20a0, 0x2048]);
    for thunks in [0x30, 0x48] {
        put_words(file, at + thunks, &[0x2060, 0, 0x2080, 0]);
    }
    put(file, at + 0x62, b"First");
    put(file, SECOND_IMPORT, b"Second");
    put(file, MODULE, b"ntoskrnl.exe");
    put_words(file, directory(1), &[0x2000, 40]);
}

fn debug(file: &mut [u8], at: usize, pdb: &str) {
    let size = 24 + pdb.len() as u32 + 1;
    put_words(file, at + 0xc0, &[0, 0, 0, 2, size, 0x20e0, 0x6e0]);
    put(file, at + 0xe0, b"RSDS");
    put(file, PDB_ID, ID);
    put(file, PDB_NAME, pdb.as_bytes());
    put_words(file, directory(6), &[0x20c0, 28]);
}

/// Folder 16 (versions), folder 1 in it, and in that the resource in language 0x409.
fn resource(file: &mut [u8], at: usize, version: &[u8]) {
    const FOLDER: u32 = 1 << 31;
    let levels = [
        (0x00, 16, 0x18 | FOLDER),
        (0x18, 1, 0x30 | FOLDER),
        (0x30, 0x409, 0x48),
    ];
    for (level, id, to) in levels {
        put_words(file, at + level + 12, &[1 << 16, id, to]);
    }
    put_words(file, at + 0x48, &[0x4060, version.len() as u32, 0, 0]);
    put(file, at + 0x60, version);
    put_words(file, directory(2), &[0x4000, 0x600]);
}
