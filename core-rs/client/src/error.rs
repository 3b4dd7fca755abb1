//! Everything that a call can fail with.

use std::path::PathBuf;
use std::sync::Arc;

use kext_hosts::replay::ReplayError;
use kext_types::{ConfigError, Decision, Verdict};
use kext_wire::{DecodeError, Status};

use crate::BadDevice;

/// Why a call failed. Whatever failed has changed nothing, but for [`Session::close`], which closes
/// the session in any case, and [`Session::set_verdict_columns`] of more verdicts than one message has.
///
/// [`Session::close`]: crate::Session::close
/// [`Session::set_verdict_columns`]: crate::Session::set_verdict_columns
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The id was never given, or is too long settled to be remembered.
    #[error("no packet has the id {id}: it was never given, or was settled long ago")]
    UnknownId {
        /// The id.
        id: u64,
    },
    /// An earlier verdict stands.
    #[error(
        "packet {id} has been decided before: {}, for {}; one packet gets one verdict",
        verdict_name(first.verdict),
        if first.permanent { "its flow" } else { "this packet alone" }
    )]
    AlreadyDecided {
        /// The id.
        id: u64,
        /// The verdict that stands.
        first: Decision,
    },
    /// The packet was settled without a verdict.
    #[error("packet {id} is no longer held: {why}")]
    NotHeld {
        /// The id.
        id: u64,
        /// How it was settled.
        why: NotHeld,
    },
    /// The number is no verdict; the packet is still held, if it was.
    #[error("the number given for packet {id} is no verdict")]
    InvalidVerdict {
        /// The id.
        id: u64,
    },
    /// Not one verdict for each id.
    #[error("{ids} ids and {verdicts} verdicts were given, and must be as many")]
    Lengths {
        /// How many ids.
        ids: usize,
        /// How many verdicts.
        verdicts: usize,
    },
    /// The session has been closed, before the call or during it.
    #[error("this session is closed; open the device again")]
    Closed,
    /// This process is a copy of the one that opened the session (by `fork`).
    #[error(
        "this session belongs to the process that this one was forked from; open the device again \
         in the child"
    )]
    Forked,
    /// The wait was cancelled; no request was lost.
    #[error("the wait was cancelled; no request was lost")]
    Cancelled,
    /// The system has no more threads.
    #[error("no thread can be started to wait for requests: {0}")]
    NoThread(String),
    /// The device string is not understood, or what it names is not served here.
    #[error(transparent)]
    Device(#[from] BadDevice),
    /// The process that is said to serve the device cannot be reached.
    #[error("socket:{} cannot be opened: {why}; start the process that serves it", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// The connection to the process that serves the device has ended.
    #[error("the device is lost, with the connection to the process that serves it: {why}")]
    Lost {
        /// How.
        why: String,
    },
    /// The capture or the output file failed.
    #[error("{0}")]
    Replay(Arc<ReplayError>),
    /// A configuration value is out of its range.
    #[error("{0}")]
    InvalidConfig(ConfigError),
    /// The extension's answer cannot be read.
    #[error("the extension answered in a way that this client does not understand: {0}")]
    Answer(DecodeError),
    /// The extension speaks none of the versions that this client does.
    #[error(
        "the extension does not speak version {} of the extended interface; \
         install the driver and the client of one release",
        kext_wire::VERSION
    )]
    NoCommonVersion,
    /// The extension's answer does not fit the question.
    #[error("{call} was answered with {what}; install the driver and the client of one release")]
    Mismatch {
        /// The request.
        call: &'static str,
        /// What is wrong with the answer.
        what: &'static str,
    },
    /// Another status, which no correct call is answered with.
    #[error("{call} was refused: {status}")]
    Status {
        /// The request.
        call: &'static str,
        /// The status.
        status: Status,
    },
}

/// How a packet was settled before a verdict came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotHeld {
    /// It was the oldest when room was needed.
    #[error("it was dropped to make room for newer packets")]
    Evicted,
    /// It was held for as long as a packet may be.
    #[error("it had reached the hold limit, and policy decided it")]
    Expired,
    /// The reader that it was asked of went away.
    #[error("the reader that it was asked of had gone, and policy decided it")]
    Abandoned,
}

impl NotHeld {
    /// One word for it: `evicted`, `expired`, `abandoned`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Evicted => "evicted",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
        }
    }
}

const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Accept => "accept",
        Verdict::Block => "block",
        Verdict::Drop => "drop",
        Verdict::RedirectDns => "redirect_dns",
        Verdict::RedirectTunnel => "redirect_tunnel",
    }
}

impl From<ReplayError> for Error {
    fn from(error: ReplayError) -> Self {
        Self::from(Arc::new(error))
    }
}

impl From<Arc<ReplayError>> for Error {
    fn from(error: Arc<ReplayError>) -> Self {
        match *error {
            ReplayError::Config(config) => Self::InvalidConfig(config),
            _ => Self::Replay(error),
        }
    }
}

impl From<DecodeError> for Error {
    fn from(error: DecodeError) -> Self {
        Self::Answer(error)
    }
}
