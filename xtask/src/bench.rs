//! `cargo xtask bench`: the engine's operations measured one by one, then rule policies, then the
//! replay path, from packet to verdict and back, and then the same from Python.

use crate::failure::Result;
use crate::run::run as run_command;
use crate::venv::Venv;
use crate::workspace::Workspace;

/// The ways of asking Python for verdicts, measured.
const PYTHON: &str = "python/benches/paths.py";

/// Where its figures go for other programs.
const FIGURES: &str = "target/bench/python.json";

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    for (package, bench) in [
        ("kext-engine", "engine"),
        ("kext-rules", "rules"),
        ("kext-hosts", "replay"),
    ] {
        let mut cargo = workspace.cargo();
        run_command(cargo.args(["bench", "--package", package, "--bench", bench]))?;
    }
    let venv = Venv::open(workspace)?;
    venv.install_package()?;
    run_command(venv.python().args([PYTHON, "--json", FIGURES]))
}
