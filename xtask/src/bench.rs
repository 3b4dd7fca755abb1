//! `cargo xtask bench`: the engine's operations measured one by one, then rule policies, then the
//! replay path, from packet to verdict and back.

use crate::failure::Result;
use crate::run::run as run_command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    for (package, bench) in [
        ("kext-engine", "engine"),
        ("kext-rules", "rules"),
        ("kext-hosts", "replay"),
    ] {
        let mut cargo = workspace.cargo();
        run_command(cargo.args(["bench", "--package", package, "--bench", bench]))?;
    }
    Ok(())
}
