//! What can go wrong in a chore.

use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::{fmt, io};

pub(crate) type Result<T> = std::result::Result<T, Failure>;

/// Why a chore stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line makes no sense.
    Usage(String),
    /// Something that this machine lacks, and how to get it. A tier that needs it is "not run".
    Missing { what: String, remedy: String },
    /// A program could not be started.
    Start { command: String, source: io::Error },
    /// A program ran and said that it failed.
    Status { command: String, status: ExitStatus },
    /// A file could not be read or written.
    File { path: PathBuf, source: io::Error },
    /// A check of ours found these faults, one a line.
    Faults(Vec<String>),
    /// A report that has been printed already ended with failures.
    Reported,
}

impl Failure {
    pub(crate) fn missing(what: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Missing {
            what: what.into(),
            remedy: remedy.into(),
        }
    }

    pub(crate) fn file(path: impl Into<PathBuf>, source: io::Error) -> Self {
        Self::File {
            path: path.into(),
            source,
        }
    }

    /// `Ok` if there are no faults.
    pub(crate) fn unless_empty(faults: Vec<String>) -> Result<()> {
        if faults.is_empty() {
            Ok(())
        } else {
            Err(Self::Faults(faults))
        }
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Usage(what) => write!(f, "{what}"),
            Self::Missing { what, remedy } => write!(f, "{what}: {remedy}"),
            Self::Start { command, source } => write!(f, "cannot start `{command}`: {source}"),
            Self::Status { command, status } => write!(f, "`{command}` failed ({status})"),
            Self::File { path, source } => write!(f, "{}: {source}", path.display()),
            Self::Faults(faults) => match faults.as_slice() {
                [only] => write!(f, "{only}"),
                all => {
                    write!(f, "{} faults", all.len())?;
                    all.iter().try_for_each(|fault| write!(f, "\n  {fault}"))
                }
            },
            Self::Reported => write!(f, "a step failed; the table says which"),
        }
    }
}
