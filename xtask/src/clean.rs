//! `cargo xtask clean`: back to what a fresh clone has.

use std::{fs, io};

use crate::failure::{Failure, Result};
use crate::run::run as run_command;
use crate::workspace::Workspace;

/// What chores and their tools leave behind outside cargo's own folder.
const LEFT: [&str; 6] = [
    ".venv",
    ".hypothesis",
    ".mypy_cache",
    ".pytest_cache",
    ".ruff_cache",
    "tests/fuzz/target",
];

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    for folder in LEFT.map(|name| workspace.path(name)) {
        match fs::remove_dir_all(&folder) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Failure::file(folder, source));
            }
            _ => {}
        }
    }
    run_command(workspace.cargo().arg("clean"))
}
