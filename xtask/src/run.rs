//! Running other programs, and saying which.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};

use crate::failure::{Failure, Result};

/// Runs a command in the foreground; its output goes where ours goes.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    println!("$ {}", shown(command));
    let status = command
        .status()
        .map_err(|source| started(command, source))?;
    succeeded(command, status)
}

/// Runs a command and returns what it wrote to its standard output.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command
        .stderr(Stdio::inherit())
        .output()
        .map_err(|source| started(command, source))?;
    succeeded(command, output.status)?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Runs a command, shows its standard output line by line, and returns it with the exit status.
///
/// For test runners: they fail by status, and their last words hold the counts.
pub(crate) fn watched(command: &mut Command) -> Result<(ExitStatus, String)> {
    println!("$ {}", shown(command));
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|source| started(command, source))?;
    let mut seen = String::new();
    if let Some(pipe) = child.stdout.take() {
        // By bytes: a test may print what is not UTF-8.
        for line in BufReader::new(pipe).split(b'\n') {
            let line = line.map_err(|source| started(command, source))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            seen.push_str(&line);
            seen.push('\n');
        }
    }
    let status = child.wait().map_err(|source| started(command, source))?;
    Ok((status, seen))
}

/// Whether a command can be started and succeeds, without showing anything.
pub(crate) fn works(command: &mut Command) -> bool {
    command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok_and(|status| status.success())
}

/// The same for a program by name, asked for its version.
pub(crate) fn installed(program: &str) -> bool {
    works(Command::new(program).arg("--version"))
}

/// An error if the status says so.
pub(crate) fn succeeded(command: &Command, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    let command = shown(command);
    Err(Failure::Status { command, status })
}

fn started(command: &Command, source: std::io::Error) -> Failure {
    let command = shown(command);
    Failure::Start { command, source }
}

/// A command as a person would type it: the program without its folder, then the arguments.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let program = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(program)
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}
