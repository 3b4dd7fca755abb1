//! The stored corpus of the fuzz target, on a stable toolchain.

use std::fs;
use std::path::Path;

#[path = "../../../tests/fuzz/src/decode.rs"]
mod decode;

#[test]
fn the_corpus_is_decoded_without_a_panic() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus/decode");
    let mut files = 0;
    for entry in fs::read_dir(folder).unwrap() {
        decode::decode_everything(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 30, "only {files} files");
}
