//! The IOCTL protocol of portmaster-kext: codes, messages, bytes.
//!
//! This is `docs/wire-format.md` in code, used unchanged by the extension (decodes inputs, encodes
//! outputs in place) and by clients (the reverse). Nothing here allocates, panics or keeps state.
//!
//! - Fixed messages are owned values with `decode` and `encode`; messages with a table or payload
//!   are views that borrow the bytes and were checked whole when they were decoded.
//! - Decoding is total: any bytes give a value or a [`DecodeError`] that names the message, the
//!   field and the byte. Trailing bytes, non-zero reserved bytes and unknown numbers are errors.
//! - Encoding writes the whole message or, with [`BufferTooSmall`], nothing.
//! - Raw structures are private; the layout of every field is asserted against the document when
//!   the crate is compiled.

#![no_std]
#![forbid(unsafe_code)]

#[macro_use]
mod layout;

mod code;
mod error;
mod flow;
mod header;
mod status;

pub mod config;
pub mod counters;
pub mod events;
pub mod flows;
pub mod hello;
pub mod payload;
pub mod process_path;
pub mod receive;
pub mod v1;
pub mod verdicts;

pub use code::{ControlCode, DEVICE_TYPE, ctl_code};
pub use error::{BufferTooSmall, DecodeError, DecodeErrorKind};
pub use header::{HEADER_LEN, MAGIC, VERSION};
pub use status::Status;

/// The most requests, verdicts or flows in one extended message.
pub const MAX_BATCH: u32 = 4_096;
