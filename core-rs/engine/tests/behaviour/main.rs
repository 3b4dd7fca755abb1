//! The engine's rules, one test each, through its public interface.

#[path = "../common/mod.rs"]
mod common;

mod bounds;
mod classes;
mod connects;
mod events;
mod flows;
mod fragments;
mod icmp;
mod owners;
mod payload;
mod readers;
mod redirects;
mod releases;
mod verdicts;
