//! `cargo xtask test [TIER]...`: the test tiers, in order from quick to slow.
//!
//! What belongs in which tier is told in docs/testing.md.

use std::process::Command;

use crate::driver;
use crate::failure::{Failure, Result};
use crate::interleavings;
use crate::no_std;
use crate::report::{Counts, Step, report};
use crate::run::{output, run, succeeded, watched, works};
use crate::venv::Venv;
use crate::workspace::{Workspace, extension, files_below};

/// How long `fuzz-live` searches with each target, in seconds.
const FUZZ_SECONDS: u32 = 15;

const TIERS: &[Step] = &[
    Step {
        name: "unit",
        about: "Rust tests beside the code, properties, golden messages, stored fuzz inputs",
        promised: true,
        run: unit,
    },
    Step {
        name: "interleavings",
        about: "races of the engine, under a model checker of schedules",
        promised: true,
        run: interleavings::check,
    },
    Step {
        name: "no-std",
        about: "the driver's core builds for a target without std",
        promised: true,
        run: no_std::build_each,
    },
    Step {
        name: "driver",
        about: "the Windows driver builds, twice to the same bytes, and is what it has to be",
        promised: true,
        run: driver::tier,
    },
    Step {
        name: "package",
        about: "the driver is signed, and its signature holds for no other file",
        promised: true,
        run: driver::package::tier,
    },
    Step {
        name: "replay",
        about: "captures through the whole system, from Python, by the public interface",
        promised: true,
        run: replay,
    },
    Step {
        name: "ntsim",
        about: "the driver that ships, loaded into Linux processes with a strict simulated kernel",
        promised: true,
        run: ntsim,
    },
    Step {
        name: "ntsim-python",
        about: "the public Python interface over that driver, by tests that the replay passes too",
        promised: true,
        run: ntsim_python,
    },
    Step {
        name: "memcheck",
        about: "the same driver under Valgrind, which sees each byte that it reads or writes",
        promised: true,
        run: memcheck,
    },
    Step {
        name: "emulator",
        about: "the driver's registration and its end, in an emulator of others",
        promised: true,
        run: emulator,
    },
    Step {
        name: "fuzz-live",
        about: "a short search for new inputs that break something",
        promised: false,
        run: fuzz_live,
    },
];

pub(crate) fn run_tiers(workspace: &Workspace, names: &[String]) -> Result<()> {
    if let Some(unknown) = names
        .iter()
        .find(|name| TIERS.iter().all(|tier| tier.name != **name))
    {
        let known: Vec<_> = TIERS.iter().map(|tier| tier.name).collect();
        return Err(Failure::Usage(format!(
            "there is no tier `{unknown}`; the tiers are {}",
            known.join(", ")
        )));
    }
    let chosen: Vec<&Step> = TIERS
        .iter()
        .filter(|tier| names.is_empty() || names.iter().any(|name| name == tier.name))
        .collect();
    report(workspace, &chosen)
}

fn unit(workspace: &Workspace) -> Result<Counts> {
    let mut cargo = workspace.cargo();
    cargo.args(["test", "--workspace", "--no-fail-fast"]);
    // The Python module cannot be linked into a test program; the tier `replay` tests it.
    cargo.args(["--exclude", "portmaster-kext-native"]);
    // Their tests load drivers, which the tiers `ntsim` and `ntsim-python` build.
    cargo.args(["--exclude", "kext-ntsim", "--exclude", "kext-ntsim-server"]);
    let (status, seen) = watched(&mut cargo)?;
    let counts = count_cargo(&seen);
    if counts.failed == 0 {
        // Also when it did not compile, or a test ended the process.
        succeeded(&cargo, status)?;
    }
    Ok(counts)
}

fn replay(workspace: &Workspace) -> Result<Counts> {
    pytest(
        with_package(workspace)?
            .python()
            .args(["-m", "pytest", "-m", "not ntsim"]),
    )
}

fn ntsim_python(workspace: &Workspace) -> Result<Counts> {
    build_for_ntsim(workspace)?;
    let mut cargo = workspace.cargo();
    cargo.args(["build", "--release", "--package", "kext-ntsim-server"]);
    cargo.arg("--message-format=json-render-diagnostics");
    let server = executable(&output(&mut cargo)?).ok_or_else(|| {
        Failure::Faults(vec!["cargo does not say where kext-ntsim-server is".into()])
    })?;
    let venv = with_package(workspace)?;
    pytest(
        venv.python()
            .args(["-m", "pytest", "-m", "ntsim"])
            .env("NTSIM_SERVER", server),
    )
}

/// Where cargo has put the program, by its messages in JSON.
fn executable(messages: &str) -> Option<String> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .find_map(|message| message["executable"].as_str().map(str::to_owned))
}

/// The environment, with the package and what tests need.
fn with_package(workspace: &Workspace) -> Result<Venv<'_>> {
    let venv = Venv::open(workspace)?;
    venv.install_package()?;
    venv.install_tools()?;
    Ok(venv)
}

fn emulator(workspace: &Workspace) -> Result<Counts> {
    driver::build_for_ntsim(workspace)?;
    let venv = Venv::open(workspace)?;
    venv.install_tools()?;
    if venv.install_emulator().is_err() {
        return Err(Failure::missing(
            "the emulator could not be installed, see above",
            "see to it that pip reaches PyPI; versions are in pyproject.toml",
        ));
    }
    pytest(venv.python().args(["-m", "pytest", "tests/emulator"]))
}

/// Runs pytest, and counts.
fn pytest(pytest: &mut Command) -> Result<Counts> {
    let (status, seen) = watched(pytest)?;
    let counts = seen
        .lines()
        .rev()
        .find_map(count_pytest)
        .unwrap_or_default();
    // Status 5: nothing was collected. The report then says that nothing ran.
    if counts.failed == 0 && status.code() != Some(5) {
        succeeded(pytest, status)?;
    }
    Ok(counts)
}

fn ntsim(workspace: &Workspace) -> Result<Counts> {
    let tests = [
        "--lib", "--test", "kernel", "--test", "wfp", "--test", "driver",
    ];
    run_in_ntsim(workspace, &tests)
}

fn memcheck(workspace: &Workspace) -> Result<Counts> {
    if !works(workspace.command("valgrind").arg("--version")) {
        return Err(Failure::missing(
            "Valgrind is needed",
            "install it (Debian, Ubuntu: valgrind)",
        ));
    }
    run_in_ntsim(workspace, &["--test", "memcheck"])
}

/// Builds the drivers that are loaded into the simulated kernel, where that runs.
pub(crate) fn build_for_ntsim(workspace: &Workspace) -> Result<()> {
    if !cfg!(all(target_os = "linux", target_arch = "x86_64")) {
        return Err(Failure::missing(
            "the driver is code for x86-64, and the simulated kernel is for Linux",
            "run this on Linux, on such a machine",
        ));
    }
    driver::build_for_ntsim(workspace)
}

/// Runs some tests of the simulated kernel, with the drivers that they load.
fn run_in_ntsim(workspace: &Workspace, tests: &[&str]) -> Result<Counts> {
    build_for_ntsim(workspace)?;
    let mut cargo = workspace.cargo();
    cargo.args([
        "test",
        "--release",
        "--package",
        "kext-ntsim",
        "--no-fail-fast",
    ]);
    cargo.args(tests);
    let (status, seen) = watched(&mut cargo)?;
    let counts = count_cargo(&seen);
    if counts.failed == 0 {
        succeeded(&cargo, status)?;
    }
    Ok(counts)
}

fn fuzz_live(workspace: &Workspace) -> Result<Counts> {
    let nightly = |arguments: &[&str]| {
        let mut cargo = workspace.command("rustup");
        cargo.args(["run", "nightly", "cargo"]).args(arguments);
        cargo
    };
    if !works(&mut nightly(&["fuzz", "--version"])) {
        return Err(Failure::missing(
            "a nightly toolchain with cargo-fuzz is needed",
            "rustup toolchain install nightly && cargo install cargo-fuzz",
        ));
    }
    let targets = workspace.path("tests/fuzz/fuzz_targets");
    if !targets.is_dir() {
        return Ok(Counts::default());
    }
    let mut counts = Counts::default();
    for file in files_below(&targets)? {
        let Some(target) = file.file_stem().and_then(|stem| stem.to_str()) else {
            continue;
        };
        if extension(&file) != "rs" {
            continue;
        }
        let result = fuzz_one(workspace, target, nightly(&["fuzz", "run"]));
        match result {
            Ok(()) => counts.passed += 1,
            Err(failure) => {
                println!("{failure}");
                counts.failed += 1;
            }
        }
    }
    Ok(counts)
}

/// New inputs go to a folder of their own; the stored corpus only gives the start.
fn fuzz_one(workspace: &Workspace, target: &str, mut fuzz: Command) -> Result<()> {
    let found = workspace.path("target/fuzz-found").join(target);
    std::fs::create_dir_all(&found).map_err(|source| Failure::file(&found, source))?;
    fuzz.args(["--fuzz-dir", "tests/fuzz", target]).arg(&found);
    let stored = workspace.path("tests/fuzz/corpus").join(target);
    if stored.is_dir() {
        fuzz.arg(stored);
    }
    fuzz.arg("--")
        .arg(format!("-max_total_time={FUZZ_SECONDS}"));
    run(&mut fuzz)
}

/// The sum of cargo's lines `test result: ok. 3 passed; 0 failed; 1 ignored; …`.
pub(crate) fn count_cargo(seen: &str) -> Counts {
    let mut total = Counts::default();
    for line in seen.lines() {
        if let Some((_, rest)) = line
            .strip_prefix("test result: ")
            .and_then(|rest| rest.split_once(". "))
        {
            total += Counts {
                passed: number_before(rest, "passed"),
                failed: number_before(rest, "failed"),
                skipped: number_before(rest, "ignored"),
            };
        }
    }
    total
}

/// The counts of pytest's last line, `3 passed, 1 skipped in 0.52s`; `None` for any other line.
///
/// A test that is expected to fail is not a test that passed: it counts as skipped.
fn count_pytest(line: &str) -> Option<Counts> {
    let line = line.trim_matches('=').trim();
    let (facts, _) = line.rsplit_once(" in ")?;
    let counts = Counts {
        passed: number_before(facts, "passed") + number_before(facts, "xpassed"),
        failed: number_before(facts, "failed") + number_before(facts, "error"),
        skipped: number_before(facts, "skipped") + number_before(facts, "xfailed"),
    };
    (counts != Counts::default()).then_some(counts)
}

/// The number before a word: 3 for `passed` in `3 passed, 1 skipped`; 0 where the word is absent.
/// The word may also stand in its plural.
fn number_before(text: &str, word: &str) -> u32 {
    text.split([',', ';'])
        .filter_map(|fact| fact.trim().split_once(' '))
        .filter(|(_, name)| name.strip_suffix('s').unwrap_or(name) == word)
        .find_map(|(number, _)| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(passed: u32, failed: u32, skipped: u32) -> Counts {
        Counts {
            passed,
            failed,
            skipped,
        }
    }

    #[test]
    fn the_counts_of_all_test_programs_are_added() {
        let seen = "running 3 tests\n\
            test a ... ok\n\
            test result: ok. 3 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.00s\n\
            a line that says: test result: ok. 9 passed\n\
            test result: FAILED. 40 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 1.10s\n";
        assert_eq!(count_cargo(seen), counts(43, 2, 1));
    }

    #[test]
    fn cargo_says_where_a_program_is() {
        let messages = "{\"reason\":\"compiler-artifact\",\"executable\":null}\n\
            {\"reason\":\"compiler-artifact\",\"executable\":\"/target/release/x\"}\n\
            {\"reason\":\"build-finished\",\"success\":true}\n";
        assert_eq!(executable(messages).as_deref(), Some("/target/release/x"));
        assert_eq!(executable("{}\nno JSON"), None);
    }

    #[test]
    fn the_last_line_of_pytest_is_understood_in_both_styles() {
        let plain = count_pytest("12 passed, 1 skipped in 0.35s");
        assert_eq!(plain, Some(counts(12, 0, 1)));
        let framed = count_pytest(
            "= 1 failed, 2 passed, 3 skipped, 4 xfailed, 5 xpassed, 6 errors in 9.81s (0:00:09) =",
        );
        assert_eq!(framed, Some(counts(7, 7, 7)));
        assert_eq!(count_pytest("1 error in 0.10s"), Some(counts(0, 1, 0)));
    }

    #[test]
    fn other_lines_of_pytest_are_no_counts() {
        assert_eq!(count_pytest("no tests ran in 0.01s"), None);
        assert_eq!(count_pytest("tests/test_cli.py ....  [100%]"), None);
        assert_eq!(count_pytest(""), None);
    }
}
