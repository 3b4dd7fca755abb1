//! `cargo xtask CHORE`: the chores of this project, one command each.
//!
//! A chore is what a person would otherwise type as several commands; CI types the same ones. Each
//! chore has a file of its own here, and a row in [`CHORES`]. Nothing in the project depends on
//! this crate.

mod bench;
mod captures;
mod clean;
mod demo;
mod deps;
mod docs;
mod driver;
mod failure;
mod headers;
mod interleavings;
mod lint;
mod no_std;
mod report;
mod run;
mod sanitize;
mod test;
mod toolchain;
mod vectors;
mod venv;
mod wheel;
mod workspace;

use std::env;
use std::process::ExitCode;

use failure::{Failure, Result};
use workspace::Workspace;

/// One chore: what it is called, what it takes, what it does.
struct Chore {
    name: &'static str,
    arguments: &'static str,
    summary: &'static str,
    run: fn(&Workspace, &[String]) -> Result<()>,
}

/// Every chore, in the order in which `help` lists them.
const CHORES: &[Chore] = &[
    Chore {
        name: "demo",
        arguments: "",
        summary: "install into .venv and replay a recorded capture under the example policy",
        run: demo::run,
    },
    Chore {
        name: "test",
        arguments: "[TIER]...",
        summary: "run the test tiers (unit, interleavings, no-std, driver, replay, ...; default: all)",
        run: test::run_tiers,
    },
    Chore {
        name: "lint",
        arguments: "",
        summary: "format, lints, types, stubs, documentation, dependencies, shell scripts",
        run: lint::run_all,
    },
    Chore {
        name: "no-std",
        arguments: "",
        summary: "build the crates of the driver's core for a target without std",
        run: no_std::run_alone,
    },
    Chore {
        name: "driver",
        arguments: "[--twice]",
        summary: "build target/driver/PortmasterKext64.sys and check it; --twice: reproducibly",
        run: driver::run,
    },
    Chore {
        name: "package",
        arguments: "[OPTION]...",
        summary: "sign the driver for tests, and pack it for Microsoft's signing service",
        run: driver::package::run,
    },
    Chore {
        name: "deps",
        arguments: "",
        summary: "check who imports whom against the table in xtask/src/deps.rs",
        run: deps::run,
    },
    Chore {
        name: "vectors",
        arguments: "[--bless]",
        summary: "check the golden messages; --bless writes them anew",
        run: vectors::run,
    },
    Chore {
        name: "sanitize",
        arguments: "[miri|address]...",
        summary: "unit tests of the driver's core under checkers of memory (nightly Rust)",
        run: sanitize::run,
    },
    Chore {
        name: "docs",
        arguments: "",
        summary: "build the documentation site into target/site, warnings are errors",
        run: docs::run,
    },
    Chore {
        name: "bench",
        arguments: "",
        summary: "measure the engine, the driver, the replay path and the paths from Python",
        run: bench::run,
    },
    Chore {
        name: "wheel",
        arguments: "",
        summary: "build a release wheel into target/wheels",
        run: wheel::run,
    },
    Chore {
        name: "captures",
        arguments: "[FOLDER]",
        summary: "record the captures under tests/captures anew (Linux, root)",
        run: captures::run,
    },
    Chore {
        name: "clean",
        arguments: "",
        summary: "remove everything that was built, .venv included",
        run: clean::run,
    },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match dispatch(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // A report has said everything, and its last line is to stay the last.
            if !matches!(failure, Failure::Reported) {
                eprintln!("xtask: {failure}");
            }
            failure.exit_code()
        }
    }
}

fn dispatch(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        help();
        return Err(Failure::Usage("name a chore".into()));
    };
    if matches!(name.as_str(), "help" | "--help" | "-h") {
        help();
        return Ok(());
    }
    let Some(chore) = CHORES.iter().find(|chore| chore.name == name) else {
        help();
        return Err(Failure::Usage(format!("there is no chore `{name}`")));
    };
    if chore.arguments.is_empty() {
        no_arguments(rest)?;
    }
    (chore.run)(&Workspace::find()?, rest)
}

fn no_arguments(rest: &[String]) -> Result<()> {
    match rest.first() {
        None => Ok(()),
        Some(extra) => Err(Failure::Usage(format!("unexpected argument `{extra}`"))),
    }
}

fn help() {
    println!("usage: cargo xtask CHORE [ARGUMENT]...\n");
    for chore in CHORES {
        let call = format!("{} {}", chore.name, chore.arguments);
        println!("  {call:20} {}", chore.summary);
    }
}
