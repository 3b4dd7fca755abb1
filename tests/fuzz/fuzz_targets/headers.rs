//! Any bytes through the header walk, compared with an independent dissector.

#![no_main]

#[path = "../src/headers.rs"]
mod headers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| headers::walk(bytes));
