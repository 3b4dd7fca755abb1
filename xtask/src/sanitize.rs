//! `cargo xtask sanitize [miri|address]`: the unit tests of the driver's core under a checker of
//! memory.
//!
//! These crates have no unsafe code but for a prefetch, so that this looks at the compiler's and their
//! dependencies' (zerocopy, `lock_api`) more than at ours. Miri sees the most and is slow: tests that
//! try thousands of values say `cfg_attr(miri, ignore)`, and properties run with few cases. The other
//! one runs everything.

use std::process::Command;

use crate::failure::{Failure, Result};
use crate::report::{Counts, Step, report};
use crate::run::{output, succeeded, watched, works};
use crate::test::count_cargo;
use crate::workspace::Workspace;

/// The crates that both checkers look at.
const CRATES: [&str; 5] = [
    "kext-types",
    "kext-sync",
    "kext-wire",
    "kext-packet",
    "kext-engine",
];

/// Cases of each property under Miri, which is some hundred times slower.
const MIRI_CASES: &str = "4";

const STEPS: &[Step] = &[
    Step {
        name: "miri",
        about: "undefined behaviour, in an interpreter",
        promised: false,
        run: miri,
    },
    Step {
        name: "address",
        about: "memory errors and leaks, by instrumented code",
        promised: false,
        run: address,
    },
];

pub(crate) fn run(workspace: &Workspace, names: &[String]) -> Result<()> {
    if let Some(unknown) = names
        .iter()
        .find(|name| STEPS.iter().all(|step| step.name != **name))
    {
        return Err(Failure::Usage(format!(
            "there is no sanitizer `{unknown}`; there are miri and address"
        )));
    }
    let chosen: Vec<&Step> = STEPS
        .iter()
        .filter(|step| names.is_empty() || names.iter().any(|name| name == step.name))
        .collect();
    report(workspace, &chosen)
}

fn nightly(workspace: &Workspace, program: &str) -> Command {
    let mut command = workspace.command("rustup");
    command.args(["run", "nightly", program]);
    command
}

fn miri(workspace: &Workspace) -> Result<Counts> {
    if !works(nightly(workspace, "cargo").args(["miri", "--version"])) {
        return Err(Failure::missing(
            "a nightly toolchain with Miri is needed",
            "rustup toolchain install nightly --component miri,rust-src",
        ));
    }
    let mut cargo = nightly(workspace, "cargo");
    cargo.args(["miri", "test", "--target-dir", "target/miri"]);
    // Properties look for the file of their failures; nothing else leaves the interpreter.
    cargo
        .env("MIRIFLAGS", "-Zmiri-disable-isolation")
        .env("PROPTEST_CASES", MIRI_CASES);
    test(&mut cargo, &["--lib"])
}

fn address(workspace: &Workspace) -> Result<Counts> {
    if !works(nightly(workspace, "cargo").arg("--version")) {
        return Err(Failure::missing(
            "a nightly toolchain is needed",
            "rustup toolchain install nightly",
        ));
    }
    let version = output(nightly(workspace, "rustc").arg("-vV"))?;
    let host = version
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap_or_default();
    let mut cargo = nightly(workspace, "cargo");
    // With a target named, build scripts and macros are left as they are.
    cargo.args(["test", "--target-dir", "target/address", "--target", host]);
    cargo.env("RUSTFLAGS", "-Zsanitizer=address");
    test(&mut cargo, &["--lib", "--tests"])
}

fn test(cargo: &mut Command, targets: &[&str]) -> Result<Counts> {
    for name in CRATES {
        cargo.args(["--package", name]);
    }
    cargo.args(targets).arg("--no-fail-fast");
    let (status, seen) = watched(cargo)?;
    let counts = count_cargo(&seen);
    if counts.failed == 0 {
        succeeded(cargo, status)?;
    }
    Ok(counts)
}
