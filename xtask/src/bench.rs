//! `cargo xtask bench`: the engine's operations measured one by one, then the driver in the simulated
//! kernel, then rule policies, then the replay path, from packet to verdict and back, and then the same
//! from Python.

use crate::failure::{Failure, Result};
use crate::run::run as run_command;
use crate::test;
use crate::venv::Venv;
use crate::workspace::Workspace;

/// The ways of asking Python for verdicts, measured.
const PYTHON: &str = "python/benches/paths.py";

/// Where its figures go for other programs.
const FIGURES: &str = "target/bench/python.json";

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    let bench = |package, name| {
        let mut cargo = workspace.cargo();
        run_command(cargo.args(["bench", "--package", package, "--bench", name]))
    };
    bench("kext-engine", "engine")?;
    match test::build_for_ntsim(workspace) {
        Ok(()) => bench("kext-ntsim", "driver")?,
        Err(missing @ Failure::Missing { .. }) => println!("the driver is not measured: {missing}"),
        Err(other) => return Err(other),
    }
    bench("kext-rules", "rules")?;
    bench("kext-hosts", "replay")?;
    let venv = Venv::open(workspace)?;
    venv.install_package()?;
    run_command(venv.python().args([PYTHON, "--json", FIGURES]))
}
