//! A small driver that keeps every rule but one: which, the name of its service says.
//!
//! It exists to show that each check of ntsim bites. Its device answers four requests: echo, wait,
//! let go, and misbehave. What is wrong with each [`Defect`] is told beside it, in `defects.rs`.

#![no_std]
#![cfg(target_arch = "x86_64")]
#![allow(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    clippy::wildcard_imports,
    clippy::cast_ptr_alignment,
    clippy::missing_panics_doc,
    clippy::too_many_lines,
    clippy::many_single_char_names,
    unsafe_op_in_unsafe_fn,
    reason = "it is wrong on purpose, and runs in ntsim only"
)]

mod defects;
mod device;
mod names;
#[cfg(windows)]
mod runtime;
mod wfp;

pub use defects::Defect;
pub use device::DriverEntry;

/// A control code of this driver: buffered, read and write access.
const fn code(function: u32) -> u32 {
    40_000 << 16 | 3 << 14 | function << 2
}

/// Returns its input.
pub const ECHO: u32 = code(0x900);
/// Stays pended until it is let go or cancelled.
pub const WAIT: u32 = code(0x901);
/// Completes the request that waits.
pub const LET_GO: u32 = code(0x902);
/// Does what the defect is about, if that is not done elsewhere.
pub const MISBEHAVE: u32 = code(0x903);
