//! Hosts for the extension that run in user mode: the replay of captured packets.

#![forbid(unsafe_code)]

pub mod capture;
pub mod replay;
