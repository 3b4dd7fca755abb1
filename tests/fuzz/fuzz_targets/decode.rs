//! Any bytes through every decoder of the wire crate.

#![no_main]

#[path = "../src/decode.rs"]
mod decode;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| decode::decode_everything(bytes));
