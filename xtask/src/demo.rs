//! `cargo xtask demo`: what a stranger runs first.
//!
//! Installs the package as anybody would, and replays a recorded capture under the example policy.

use crate::failure::Result;
use crate::run::run as run_command;
use crate::venv::Venv;
use crate::workspace::Workspace;

const CAPTURE: &str = "tests/captures/web.pcapng";
const POLICY: &str = "python/examples/policy.py";

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    let venv = Venv::open(workspace)?;
    venv.install_package()?;
    let mut replay = venv.program("portmaster-kext");
    run_command(replay.args(["replay", CAPTURE, "--policy", POLICY]))
}
