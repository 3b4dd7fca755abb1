//! `cargo xtask captures [FOLDER]`: records the captures anew, in network namespaces of its own.
//!
//! The script says what it needs (Linux, root, some packages) and removes what it made.

use crate::failure::{Failure, Result};
use crate::run::run as run_command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    if let [_, extra, ..] = arguments {
        return Err(Failure::Usage(format!("unexpected argument `{extra}`")));
    }
    let mut record = workspace.command("bash");
    run_command(record.arg("tests/captures/record.sh").args(arguments))
}
