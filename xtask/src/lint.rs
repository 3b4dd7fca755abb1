//! `cargo xtask lint`: everything that can be said about the sources without running them.
//!
//! Every step runs even if one before it failed: a person wants all faults at once.

use crate::deps;
use crate::docs;
use crate::failure::{Failure, Result};
use crate::headers;
use crate::report::{Counts, Step, report};
use crate::run::{installed, run, works};
use crate::venv::Venv;
use crate::workspace::{Workspace, extension};

/// The separate workspace of the fuzz targets: it needs a C++ compiler, so nothing else may.
const FUZZ: &str = "tests/fuzz/Cargo.toml";

const STEPS: &[Step] = &[
    Step {
        name: "deps",
        about: "who imports whom; Cargo.lock is up to date",
        promised: true,
        run: |workspace| one(deps::run(workspace, &[])),
    },
    Step {
        name: "headers",
        about: "every source file opens with what it is for",
        promised: true,
        run: |workspace| one(headers::check(workspace)),
    },
    Step {
        name: "rustfmt",
        about: "the form of Rust code",
        promised: true,
        run: rustfmt,
    },
    Step {
        name: "clippy",
        about: "Rust lints, all targets, warnings are errors",
        promised: true,
        run: clippy,
    },
    Step {
        name: "rustdoc",
        about: "the Rust documentation builds without warnings",
        promised: true,
        run: rustdoc,
    },
    Step {
        name: "fuzz-targets",
        about: "the fuzz targets compile without warnings",
        promised: false,
        run: fuzz_targets,
    },
    Step {
        name: "shellcheck",
        about: "shell scripts",
        promised: true,
        run: shellcheck,
    },
    Step {
        name: "ruff",
        about: "Python lints",
        promised: true,
        run: |workspace| python(workspace, &["-m", "ruff", "check"]),
    },
    Step {
        name: "ruff-format",
        about: "the form of Python code",
        promised: true,
        run: |workspace| python(workspace, &["-m", "ruff", "format", "--check"]),
    },
    Step {
        name: "mypy",
        about: "Python types, strict",
        promised: true,
        run: |workspace| python(workspace, &["-m", "mypy"]),
    },
    Step {
        name: "stubtest",
        about: "the stubs of the native module say what the built module is",
        promised: true,
        run: stubtest,
    },
    Step {
        name: "site",
        about: "the documentation site builds without warnings: links, names, files",
        promised: true,
        run: |workspace| one(docs::build(workspace)),
    },
];

pub(crate) fn run_all(workspace: &Workspace, _: &[String]) -> Result<()> {
    report(workspace, &STEPS.iter().collect::<Vec<_>>())
}

/// A step that is one test.
fn one(result: Result<()>) -> Result<Counts> {
    result.map(|()| Counts::ONE)
}

fn component(workspace: &Workspace, name: &str) -> Result<()> {
    if works(workspace.cargo().args([name, "--version"])) {
        return Ok(());
    }
    let package = if name == "fmt" { "rustfmt" } else { name };
    Err(Failure::missing(
        format!("this Rust toolchain has no `cargo {name}`"),
        format!("rustup component add {package}"),
    ))
}

fn rustfmt(workspace: &Workspace) -> Result<Counts> {
    component(workspace, "fmt")?;
    let manifests: &[&str] = if workspace.path(FUZZ).exists() {
        &["Cargo.toml", FUZZ]
    } else {
        &["Cargo.toml"]
    };
    for manifest in manifests {
        let mut fmt = workspace.cargo();
        run(fmt.args(["fmt", "--all", "--check", "--manifest-path", manifest]))?;
    }
    Ok(Counts::ONE)
}

fn clippy(workspace: &Workspace) -> Result<Counts> {
    component(workspace, "clippy")?;
    let mut clippy = workspace.cargo();
    clippy.args([
        "clippy",
        "--workspace",
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    one(run(&mut clippy))
}

fn rustdoc(workspace: &Workspace) -> Result<Counts> {
    let mut doc = workspace.cargo();
    doc.args(["doc", "--workspace", "--no-deps"])
        .env("RUSTDOCFLAGS", "-D warnings");
    one(run(&mut doc))
}

fn fuzz_targets(workspace: &Workspace) -> Result<Counts> {
    if !workspace.path(FUZZ).exists() {
        return Ok(Counts::default());
    }
    if !installed("c++") {
        return Err(Failure::missing(
            "libFuzzer needs a C++ compiler",
            "install one (Debian, Ubuntu: g++)",
        ));
    }
    component(workspace, "clippy")?;
    let mut clippy = workspace.cargo();
    clippy.args([
        "clippy",
        "--manifest-path",
        FUZZ,
        "--all-targets",
        "--",
        "-D",
        "warnings",
    ]);
    one(run(&mut clippy))
}

fn shellcheck(workspace: &Workspace) -> Result<Counts> {
    if !installed("shellcheck") {
        return Err(Failure::missing(
            "shellcheck is not installed",
            "install it (Debian, Ubuntu, Fedora, Homebrew: shellcheck)",
        ));
    }
    let mut scripts = workspace.sources()?;
    scripts.retain(|path| extension(path) == "sh");
    scripts.push(workspace.path(".ci/run"));
    let mut shellcheck = workspace.command("shellcheck");
    for script in scripts {
        shellcheck.arg(workspace.shown(&script));
    }
    one(run(&mut shellcheck))
}

fn python(workspace: &Workspace, arguments: &[&str]) -> Result<Counts> {
    let venv = Venv::open(workspace)?;
    venv.install_tools()?;
    one(run(venv.python().args(arguments)))
}

fn stubtest(workspace: &Workspace) -> Result<Counts> {
    let venv = Venv::open(workspace)?;
    venv.install_package()?;
    venv.install_tools()?;
    let mut stubtest = venv.python();
    stubtest
        .args(["-m", "mypy.stubtest", "portmaster_kext._native"])
        .args(["--mypy-config-file", "pyproject.toml"]);
    let exceptions = "python/stubtest-allowlist.txt";
    if workspace.path(exceptions).exists() {
        stubtest.args(["--allowlist", exceptions]);
    }
    one(run(&mut stubtest))
}
