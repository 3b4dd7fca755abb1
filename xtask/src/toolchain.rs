//! Compilers for targets that are not this machine.
//!
//! Two can do it, and the first that is there is taken: the one that builds the rest, if rustup has
//! added the target to it, or Debian's, which lives beside rustup and ships the sources of `core`
//! and `alloc`.

use std::path::Path;
use std::process::Command;

use crate::failure::{Failure, Result};
use crate::run::{output, run};
use crate::workspace::Workspace;

/// Debian's packages, and the file by which each is known to be there.
const DEBIAN: [(&str, &str); 3] = [
    ("rustc-web", DEBIAN_RUSTC),
    ("cargo-web", DEBIAN_CARGO),
    (
        "rust-web-src",
        "/usr/lib/rustlib/src/rust/library/core/Cargo.toml",
    ),
];
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";

/// What can build for a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// The compiler that builds the rest, with the target installed.
    Current,
    /// Debian's compiler, which builds `core` and `alloc` as well.
    Debian,
}

impl Toolchain {
    /// Finds one, and installs nothing.
    pub(crate) fn find(workspace: &Workspace, target: &str) -> Result<Self> {
        if has_target(workspace, target) {
            return Ok(Self::Current);
        }
        let lacking = debian_lacks();
        if lacking.is_empty() {
            return Ok(Self::Debian);
        }
        Err(Failure::missing(
            format!("no toolchain here builds for {target}"),
            format!(
                "rustup target add {target}, or on Debian apt-get install {}",
                lacking.join(" ")
            ),
        ))
    }

    /// Finds one, or has rustup add the target to the compiler that builds the rest.
    pub(crate) fn find_or_add(workspace: &Workspace, target: &str) -> Result<Self> {
        Self::find(workspace, target).or_else(|missing| {
            let mut add = workspace.command("rustup");
            if run(add.args(["target", "add", target])).is_ok() && has_target(workspace, target) {
                Ok(Self::Current)
            } else {
                Err(missing)
            }
        })
    }

    /// `cargo COMMAND` for the target. `std_features` are those of the standard library, where it
    /// is built with the rest.
    pub(crate) fn cargo(
        self,
        workspace: &Workspace,
        command: &str,
        target: &str,
        std_features: &[&str],
    ) -> Command {
        let mut cargo = match self {
            Self::Current => workspace.cargo(),
            Self::Debian => workspace.command(DEBIAN_CARGO),
        };
        cargo.args([command, "--target", target]);
        if self == Self::Debian {
            // -Z options on a stable compiler need the bootstrap switch. What the other toolchain
            // put into the environment must not reach this one.
            cargo
                .arg("-Zbuild-std=core,alloc")
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1")
                .env_remove("CARGO")
                .env_remove("RUSTUP_TOOLCHAIN")
                .env_remove("LD_LIBRARY_PATH");
            if !std_features.is_empty() {
                cargo.arg(format!("-Zbuild-std-features={}", std_features.join(",")));
            }
        }
        cargo
    }

    /// The folder of the compiler: its own libraries and programs are below it.
    pub(crate) fn sysroot(self, workspace: &Workspace) -> Result<String> {
        let mut rustc = match self {
            Self::Current => workspace.command("rustc"),
            Self::Debian => workspace.command(DEBIAN_RUSTC),
        };
        output(rustc.args(["--print", "sysroot"])).map(|folder| folder.trim().to_owned())
    }
}

/// Debian's packages that are not installed.
fn debian_lacks() -> Vec<&'static str> {
    DEBIAN
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(package, _)| *package)
        .collect()
}

/// Whether the current compiler has the target's `core`. Asked of the compiler, not of rustup: the
/// toolchain may come from elsewhere.
fn has_target(workspace: &Workspace, target: &str) -> bool {
    let mut rustc = workspace.command("rustc");
    let Ok(folder) = output(rustc.args(["--print", "target-libdir", "--target", target])) else {
        return false;
    };
    Path::new(folder.trim()).is_dir()
}
