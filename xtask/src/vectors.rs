//! `cargo xtask vectors [--bless]`: the golden messages under tests/vectors.
//!
//! Only `--bless` writes them. A changed vector is a changed protocol: docs/wire-format.md comes
//! first, and the commit says what an old client sees.

use crate::failure::{Failure, Result};
use crate::run::run as run_command;
use crate::workspace::Workspace;

pub(crate) fn run(workspace: &Workspace, arguments: &[String]) -> Result<()> {
    let mut test = workspace.cargo();
    test.args(["test", "--package", "kext-wire", "--test", "vectors"]);
    match arguments {
        [] => {}
        [bless] if bless == "--bless" => {
            test.env("KEXT_BLESS_VECTORS", "1");
        }
        [other, ..] => return Err(Failure::Usage(format!("unexpected argument `{other}`"))),
    }
    run_command(&mut test)
}
