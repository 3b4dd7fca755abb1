//! `cargo xtask no-std`: the crates of the driver's core build for a target that has no std.
//!
//! Each crate is built alone, so that a feature which another crate switches on cannot hide a
//! dependency on std. Two toolchains can do it, and the first that is there is taken: one of
//! rustup with the target, or Debian's, which ships the sources of `core` and `alloc`.

use std::path::Path;
use std::process::Command;

use crate::deps::NO_STD;
use crate::failure::{Failure, Result};
use crate::report::{Counts, Step, report};
use crate::run::{output, run};
use crate::workspace::Workspace;

/// A target without an operating system: code that needs std does not build for it.
const TARGET: &str = "x86_64-unknown-none";

/// Debian's packages `rustc-web`, `cargo-web` and `rust-web-src`, which live beside rustup.
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_SOURCES: &str = "/usr/lib/rustlib/src/rust/library/core/Cargo.toml";

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
    let toolchain = Toolchain::find(workspace)?;
    let mut counts = Counts::default();
    for krate in NO_STD {
        let mut build = toolchain.build(workspace);
        build.args(["--package", krate.name]);
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

/// What can build for [`TARGET`].
enum Toolchain {
    /// The compiler that builds the rest, with the target installed.
    Current,
    /// Debian's compiler, which builds `core` and `alloc` as well.
    Debian,
}

impl Toolchain {
    fn find(workspace: &Workspace) -> Result<Self> {
        if has_target(workspace) {
            return Ok(Self::Current);
        }
        if [DEBIAN_CARGO, DEBIAN_RUSTC, DEBIAN_SOURCES]
            .iter()
            .all(|file| Path::new(file).exists())
        {
            return Ok(Self::Debian);
        }
        let mut add = workspace.command("rustup");
        if run(add.args(["target", "add", TARGET])).is_ok() && has_target(workspace) {
            return Ok(Self::Current);
        }
        Err(Failure::missing(
            format!("no toolchain here builds for {TARGET}"),
            format!(
                "rustup target add {TARGET}, \
                 or on Debian apt-get install rustc-web cargo-web rust-web-src"
            ),
        ))
    }

    fn build(&self, workspace: &Workspace) -> Command {
        let mut cargo = match self {
            Self::Current => workspace.cargo(),
            Self::Debian => workspace.command(DEBIAN_CARGO),
        };
        cargo.args(["build", "--target", TARGET, "--target-dir", "target/no-std"]);
        if let Self::Debian = self {
            // -Z options on a stable compiler need the bootstrap switch. What the other toolchain
            // put into the environment must not reach this one.
            cargo
                .args([
                    "-Zbuild-std=core,alloc",
                    "-Zbuild-std-features=compiler-builtins-mem",
                ])
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env_remove("CARGO")
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("LD_LIBRARY_PATH");
        }
        cargo
    }
}

/// Whether the current compiler has the target's `core`. Asked of the compiler, not of rustup: the
/// toolchain may come from elsewhere.
fn has_target(workspace: &Workspace) -> bool {
    let mut rustc = workspace.command("rustc");
    let Ok(folder) = output(rustc.args(["--print", "target-libdir", "--target", TARGET])) else {
        return false;
    };
    Path::new(folder.trim()).is_dir()
}
