//! `cargo xtask wheel`: a release wheel, one for every Python from 3.10 on (abi3).

use crate::failure::Result;
use crate::run::run as run_command;
use crate::venv::Venv;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    let venv = Venv::open(workspace)?;
    venv.install_tools()?;
    let mut maturin = venv.python();
    run_command(maturin.args([
        "-m",
        "maturin",
        "build",
        "--release",
        "--out",
        "target/wheels",
    ]))
}
