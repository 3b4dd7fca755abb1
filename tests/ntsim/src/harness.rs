//! Tests in processes of their own.
//!
//! A test program lists its tests and calls [`main`]. Each test runs in a child of the program, so
//! that a violation, which ends the process, ends that test only; a test may also expect one.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::{Arguments, Failed, Trial};

use crate::check::{Check, EXIT_VIOLATION};

/// A child is told by this which test to run.
const CHILD: &str = "NTSIM_TEST";
/// How Valgrind ends a process in which it has found something.
const EXIT_FOUND: i32 = 99;
/// As long as a test may take.
const PATIENCE: Duration = Duration::from_mins(5);

/// How a test has to end.
#[derive(Clone, Copy, Debug)]
pub enum Outcome {
    /// It returns.
    Passes,
    /// The driver breaks this rule, and the report says this.
    Violates(Check, &'static str),
    /// Valgrind finds something, and says this.
    Finds(&'static str),
    /// It waits for this, and is ignored until then.
    Awaits(&'static str),
}

/// A test.
#[derive(Clone, Copy, Debug)]
pub struct Test {
    /// What it shows.
    pub name: &'static str,
    /// How it has to end.
    pub outcome: Outcome,
    /// The test itself.
    pub run: fn(),
}

/// Runs the tests that the command line chooses. `needs` are files without which no test can run:
/// tests are ignored then.
pub fn main(tests: &'static [Test], needs: &[PathBuf]) -> ExitCode {
    run_all(tests, needs, Around::Nothing)
}

/// The same, each test under Valgrind's checker of memory.
pub fn main_under_valgrind(tests: &'static [Test], needs: &[PathBuf]) -> ExitCode {
    run_all(tests, needs, Around::Valgrind)
}

/// What a test runs under.
#[derive(Clone, Copy, Debug)]
enum Around {
    Nothing,
    Valgrind,
}

impl Around {
    /// Starts this program again.
    fn command(self) -> std::io::Result<Command> {
        let program = env::current_exe()?;
        Ok(match self {
            Self::Nothing => Command::new(program),
            Self::Valgrind => {
                let mut valgrind = Command::new("valgrind");
                valgrind
                    .arg("--quiet")
                    .arg(format!("--error-exitcode={EXIT_FOUND}"))
                    // What was freed is not given out again while a test runs.
                    .arg("--freelist-vol=1000000000")
                    .arg(program);
                valgrind
            }
        })
    }
}

fn run_all(tests: &'static [Test], needs: &[PathBuf], around: Around) -> ExitCode {
    if let Ok(name) = env::var(CHILD) {
        let test = tests
            .iter()
            .find(|test| test.name == name)
            .expect("the parent knows its tests");
        (test.run)();
        return ExitCode::SUCCESS;
    }
    let missing: Vec<&PathBuf> = needs.iter().filter(|file| !file.is_file()).collect();
    for file in &missing {
        eprintln!(
            "ntsim: {} is not built: cargo xtask test ntsim",
            file.display()
        );
    }
    let ready = missing.is_empty();
    let trials = tests
        .iter()
        .map(|test| {
            let awaits = matches!(test.outcome, Outcome::Awaits(_));
            Trial::test(test.name, move || run(test, around)).with_ignored_flag(!ready || awaits)
        })
        .collect();
    let arguments = Arguments::from_args();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn run(test: &Test, around: Around) -> Result<(), Failed> {
    let mut child = around
        .command()?
        .env(CHILD, test.name)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut pipes = [
        child.stdout.take().map(reader),
        child.stderr.take().map(reader),
    ];
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if start.elapsed() > PATIENCE {
            child.kill()?;
            child.wait()?;
            return Err(format!("not done after {} s", PATIENCE.as_secs()).into());
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let said: String = pipes
        .iter_mut()
        .filter_map(|pipe| pipe.take()?.join().ok())
        .collect();
    match test.outcome {
        Outcome::Passes | Outcome::Awaits(_) if status.success() => Ok(()),
        Outcome::Passes | Outcome::Awaits(_) => Err(format!("{status}\n{said}").into()),
        Outcome::Finds(text) => {
            if status.code() == Some(EXIT_FOUND) && said.contains(text) {
                Ok(())
            } else {
                Err(format!("{status}, not a finding that says `{text}`\n{said}").into())
            }
        }
        Outcome::Violates(check, text) => {
            let title = format!("ntsim: violation: {}\n", check.name());
            let bites = status.code() == Some(EXIT_VIOLATION)
                && said.contains(&title)
                && said.contains(text);
            if bites {
                Ok(())
            } else {
                let expected = format!("a violation of `{}` that says `{text}`", check.name());
                Err(format!("{status}, not {expected}\n{said}").into())
            }
        }
    }
}

fn reader(mut pipe: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = pipe.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

/// A file that `cargo xtask` builds: below `target/driver`.
pub fn built(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../target/driver")
        .join(name)
}
