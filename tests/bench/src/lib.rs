//! What benches share: measuring, reporting, and an engine full of flows with their packets.

// Figures for people.
#![allow(clippy::cast_precision_loss)]
#![allow(
    clippy::missing_panics_doc,
    reason = "what panics ends a bench, and nothing else"
)]

pub mod measure;
pub mod scene;
pub mod spin;
