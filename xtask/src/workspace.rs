//! The folder that everything lies in, and what lies there.

use std::env;
use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::failure::{Failure, Result};

/// Folders with source text of ours.
const SOURCES: [&str; 6] = [
    ".ci",
    "core-rs",
    "kernel-driver",
    "python",
    "tests",
    "xtask",
];

/// Folders that hold no source text, wherever they are.
const NOT_SOURCES: [&str; 4] = ["target", "__pycache__", "corpus", "artifacts"];

/// The repository.
pub(crate) struct Workspace {
    root: PathBuf,
}

impl Workspace {
    /// The parent of this crate's own folder, which cargo tells at run time.
    pub(crate) fn find() -> Result<Self> {
        env::var_os("CARGO_MANIFEST_DIR")
            .and_then(|xtask| Some(Path::new(&xtask).parent()?.to_owned()))
            .map(|root| Self { root })
            .ok_or_else(|| Failure::Usage("start the chores with `cargo xtask`".into()))
    }

    /// A path below the root.
    pub(crate) fn path(&self, relative: &str) -> PathBuf {
        self.root.join(relative)
    }

    /// A program, started in the root.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new(program);
        command.current_dir(&self.root);
        command
    }

    /// The cargo that started us.
    pub(crate) fn cargo(&self) -> Command {
        self.command(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// A path as messages show it: relative to the root.
    pub(crate) fn shown(&self, path: &Path) -> String {
        path.strip_prefix(&self.root)
            .unwrap_or(path)
            .display()
            .to_string()
    }

    /// Every source file of ours, in a stable order.
    pub(crate) fn sources(&self) -> Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for folder in SOURCES.map(|name| self.path(name)) {
            if folder.is_dir() {
                files.extend(files_below(&folder)?);
            }
        }
        Ok(files)
    }
}

/// Every file below a folder, in a stable order; build output and hidden folders are left out.
pub(crate) fn files_below(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).map_err(|source| Failure::file(&folder, source))?;
        for entry in entries {
            let entry = entry.map_err(|source| Failure::file(&folder, source))?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let kind = entry
                .file_type()
                .map_err(|source| Failure::file(entry.path(), source))?;
            // Links are not followed: a loop of them must not keep us here.
            if kind.is_dir() && !name.starts_with('.') && !NOT_SOURCES.contains(&&*name) {
                folders.push(entry.path());
            } else if kind.is_file() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    Ok(files)
}

/// The extension of a file, or nothing.
pub(crate) fn extension(path: &Path) -> &str {
    path.extension().and_then(OsStr::to_str).unwrap_or("")
}
