//! The stored corpora of the fuzz targets about packets, on a stable toolchain.

use std::fs;
use std::path::Path;

#[path = "../../../tests/fuzz/src/answers.rs"]
mod answers;
#[path = "../../../tests/fuzz/src/headers.rs"]
mod headers;

#[track_caller]
fn each_input(target: &str, run: impl Fn(&[u8])) {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fuzz/corpus");
    let mut files = 0;
    for entry in fs::read_dir(corpus.join(target)).unwrap() {
        run(&fs::read(entry.unwrap().path()).unwrap());
        files += 1;
    }
    assert!(files >= 20, "only {files} files");
}

#[test]
fn the_corpus_is_walked_as_another_dissector_does() {
    each_input("headers", headers::walk);
}

#[test]
fn the_corpus_is_answered_and_rewritten() {
    each_input("answers", answers::answer);
}
