//! The tier `interleavings`: models of the engine's races under a checker of schedules.

use std::env;

use crate::failure::{Failure, Result};
use crate::report::Counts;
use crate::run::{succeeded, watched};
use crate::test::count_cargo;
use crate::workspace::Workspace;

/// Swaps the locks and atomics of kext-sync for the checker's, in the whole build.
const FLAG: &str = "--cfg shuttle";

pub(crate) fn check(workspace: &Workspace) -> Result<Counts> {
    let mut cargo = workspace.cargo();
    cargo.args([
        "test",
        "--package",
        "kext-engine",
        "--test",
        "interleavings",
    ]);
    // A folder of its own, or every change between tiers would build everything anew.
    cargo.args(["--target-dir", "target/interleavings"]);
    let flags = match env::var("RUSTFLAGS") {
        Ok(flags) => format!("{flags} {FLAG}"),
        Err(_) => FLAG.into(),
    };
    cargo.env("RUSTFLAGS", flags);
    // Many short runs: quick ones, but with the checks of a test build.
    cargo.env("CARGO_PROFILE_TEST_OPT_LEVEL", "2");
    let (status, seen) = watched(&mut cargo)?;
    let counts = count_cargo(&seen);
    if counts.failed == 0 {
        succeeded(&cargo, status)?;
        if counts.passed == 0 {
            // The models are there under the flag only.
            return Err(Failure::Faults(vec![format!(
                "{FLAG} did not reach the models"
            )]));
        }
    }
    Ok(counts)
}
