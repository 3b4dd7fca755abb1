//! `cargo xtask no-std`: the crates of the driver's core build for a target that has no std.
//!
//! Each crate is built alone, so that a feature which another crate switches on cannot hide a
//! dependency on std.

use crate::deps::NO_STD;
use crate::failure::Result;
use crate::report::{Counts, Step, report};
use crate::run::run;
use crate::toolchain::Toolchain;
use crate::workspace::Workspace;

/// A target without an operating system: code that needs std does not build for it.
const TARGET: &str = "x86_64-unknown-none";

pub(crate) fn run_alone(workspace: &Workspace, _: &[String]) -> Result<()> {
    let step = Step {
        name: "no-std",
        about: "the driver's core builds for a target without std",
        promised: true,
        run: build_each,
    };
    report(workspace, &[&step])
}

/// Builds every crate, and counts each as one test.
pub(crate) fn build_each(workspace: &Workspace) -> Result<Counts> {
    let toolchain = Toolchain::find_or_add(workspace, TARGET)?;
    let mut counts = Counts::default();
    for krate in NO_STD {
        let mut build = toolchain.cargo(workspace, "build", TARGET, &["compiler-builtins-mem"]);
        build.args(["--target-dir", "target/no-std", "--package", krate.name]);
        match run(&mut build) {
            Ok(()) => counts.passed += 1,
            Err(failure) => {
                println!("{failure}");
                counts.failed += 1;
            }
        }
    }
    Ok(counts)
}
