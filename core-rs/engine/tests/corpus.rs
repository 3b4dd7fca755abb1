//! The stored corpus of the fuzz target `operations`, on a stable toolchain.

use std::fs;
use std::path::Path;

#[path = "../../../tests/fuzz/src/operations.rs"]
mod operations;

#[test]
fn the_corpus_keeps_every_invariant() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/operations");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        operations::operate(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 20, "only {files} files");
}
