//! Why a capture cannot be replayed.

use std::path::PathBuf;

use kext_engine::{OutOfMemory, StartError};
use kext_types::ConfigError;
use kext_wire::Status;
use thiserror::Error;

use crate::capture::CaptureError;

/// Why a capture cannot be replayed.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum ReplayError {
    /// The capture cannot be read, or the output cannot be written.
    #[error(transparent)]
    Capture(#[from] CaptureError),
    /// Writing the output would destroy the capture.
    #[error("{}: the output is the capture that is to be replayed", .0.display())]
    OutputIsCapture(PathBuf),
    /// A capacity or a configuration value is out of range.
    #[error("{0}")]
    Config(ConfigError),
    /// The memory that the capacities ask for cannot be had.
    #[error("{0}")]
    Memory(OutOfMemory),
    /// The extension could not be opened.
    #[error("the extension could not be opened: {0}")]
    Open(Status),
}

impl From<StartError> for ReplayError {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Capacity(error) | StartError::Config(error) => Self::Config(error),
            StartError::Memory(error) => Self::Memory(error),
        }
    }
}
