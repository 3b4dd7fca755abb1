//! Any packet answered and rewritten.

#![no_main]

#[path = "../src/answers.rs"]
mod answers;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| answers::answer(bytes));
