//! Any sequence of operations on a small engine.

#![no_main]

#[path = "../src/operations.rs"]
mod operations;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| operations::operate(bytes));
