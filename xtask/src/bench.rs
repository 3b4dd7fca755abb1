//! `cargo xtask bench`: the replay path measured, from packet to verdict and back.

use crate::failure::Result;
use crate::run::run as run_command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    let mut bench = workspace.cargo();
    run_command(bench.args(["bench", "--package", "kext-hosts", "--bench", "replay"]))
}
