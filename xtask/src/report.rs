//! Steps with names, run one after the other, and the table and the line that close them.
//!
//! One rule for all chores that consist of steps: a step that fails does not stop the others; a
//! step that this machine cannot run is listed with the reason. Under `CI=true` a promised step
//! that did not run is a failure, so that a green run never hides one.

use std::env;
use std::fmt;
use std::ops::AddAssign;
use std::time::{Duration, Instant};

use crate::failure::{Failure, Result};
use crate::workspace::Workspace;

/// How many tests passed, failed, and were skipped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) passed: u32,
    pub(crate) failed: u32,
    pub(crate) skipped: u32,
}

impl Counts {
    /// A step that is one test.
    pub(crate) const ONE: Self = Self {
        passed: 1,
        failed: 0,
        skipped: 0,
    };

    const FAILED: Self = Self {
        passed: 0,
        failed: 1,
        skipped: 0,
    };

    const SKIPPED: Self = Self {
        passed: 0,
        failed: 0,
        skipped: 1,
    };
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

/// One step of a chore.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    /// One sentence for the reader of the output.
    pub(crate) about: &'static str,
    /// Whether CI may not do without it.
    pub(crate) promised: bool,
    pub(crate) run: fn(&Workspace) -> Result<Counts>,
}

/// What became of a step.
#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    Ran(Counts),
    Failed(String),
    NotRun(String),
}

impl Outcome {
    fn of(result: Result<Counts>) -> Self {
        match result {
            Ok(counts) if counts.passed == 0 && counts.failed == 0 => {
                Self::NotRun("there was nothing to run".into())
            }
            Ok(counts) => Self::Ran(counts),
            Err(failure @ Failure::Missing { .. }) => Self::NotRun(failure.to_string()),
            Err(failure) => Self::Failed(failure.to_string()),
        }
    }

    /// A step that did not run counts as one test: skipped, or failed if CI promises it.
    fn counts(&self, promised: bool) -> Counts {
        match self {
            Self::Ran(counts) => *counts,
            Self::Failed(_) => Counts::FAILED,
            Self::NotRun(_) if promised => Counts::FAILED,
            Self::NotRun(_) => Counts::SKIPPED,
        }
    }

    fn word(&self) -> &'static str {
        match self {
            Self::Ran(counts) if counts.failed == 0 => "passed",
            Self::Ran(_) | Self::Failed(_) => "FAILED",
            Self::NotRun(_) => "not run",
        }
    }
}

/// Runs every step, prints the table and the counts, and fails if any step did.
pub(crate) fn report(workspace: &Workspace, steps: &[&Step]) -> Result<()> {
    let strict = env::var("CI").is_ok_and(|value| matches!(value.as_str(), "true" | "1"));
    let mut rows = Vec::new();
    let mut total = Counts::default();
    for step in steps {
        println!("\n=== {}: {}", step.name, step.about);
        let start = Instant::now();
        let outcome = Outcome::of((step.run)(workspace));
        if let Outcome::Failed(why) | Outcome::NotRun(why) = &outcome {
            println!("{why}");
        }
        let counts = outcome.counts(strict && step.promised);
        println!("--- {}: {} ({counts})", step.name, outcome.word());
        total += counts;
        rows.push(row(step, &outcome, counts, start.elapsed()));
    }
    println!(
        "\n{:<14} {:<8} {:>7} {:>7} {:>7} {:>8}  note",
        "step", "result", "passed", "failed", "skipped", "seconds"
    );
    for row in rows {
        println!("{row}");
    }
    println!("\n{total}");
    if total.failed == 0 {
        Ok(())
    } else {
        Err(Failure::Reported)
    }
}

fn row(step: &Step, outcome: &Outcome, counts: Counts, time: Duration) -> String {
    let note = match outcome {
        Outcome::Ran(_) => "",
        // Only the first line: the rest was printed when it happened.
        Outcome::Failed(why) | Outcome::NotRun(why) => why.lines().next().unwrap_or(""),
    };
    let promise = match outcome {
        Outcome::NotRun(_) if counts.failed > 0 => " (promised in CI)",
        _ => "",
    };
    let row = format!(
        "{:<14} {:<8} {:>7} {:>7} {:>7} {:>8.1}  {note}{promise}",
        step.name,
        outcome.word(),
        counts.passed,
        counts.failed,
        counts.skipped,
        time.as_secs_f64(),
    );
    row.trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn missing() -> Outcome {
        Outcome::of(Err(Failure::missing("no Python", "install one")))
    }

    #[test]
    fn a_missing_tool_is_not_run_and_keeps_its_remedy() {
        assert_eq!(missing(), Outcome::NotRun("no Python: install one".into()));
    }

    #[test]
    fn what_did_not_run_is_skipped_or_failed_where_it_is_promised() {
        assert_eq!(missing().counts(false), Counts::SKIPPED);
        assert_eq!(missing().counts(true), Counts::FAILED);
    }

    #[test]
    fn only_skipped_tests_are_a_step_that_did_not_run() {
        let only_skipped = Outcome::of(Ok(Counts {
            skipped: 7,
            ..Counts::default()
        }));
        assert_eq!(only_skipped.counts(true), Counts::FAILED);
    }

    #[test]
    fn the_closing_line_has_its_promised_form() {
        let counts = Counts {
            passed: 12,
            failed: 0,
            skipped: 3,
        };
        assert_eq!(counts.to_string(), "12 passed, 0 failed, 3 skipped");
    }
}
