//! The virtual environment `.venv`: made once, filled when what it was filled from has changed.
//!
//! Every chore that needs Python comes through here, so that `demo`, `test`, `lint` and `wheel`
//! share one environment and one build of the package. What was installed is remembered in stamp
//! files inside the environment; removing `.venv` is always safe.

use std::collections::hash_map::DefaultHasher;
use std::env;
use std::fs;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::failure::{Failure, Result};
use crate::run::{run, works};
use crate::workspace::{Workspace, extension, files_below};

/// The oldest Python that the package supports; `requires-python` in pyproject.toml says the same.
const OLDEST: (u32, u32) = (3, 10);

/// The oldest pip that knows dependency groups (PEP 735).
const PIP: &str = "pip>=25.1";

/// A virtual environment that exists and has pip.
pub(crate) struct Venv<'a> {
    workspace: &'a Workspace,
    folder: PathBuf,
}

impl<'a> Venv<'a> {
    /// Makes the environment, or takes the one that is there if it is sound.
    ///
    /// # Errors
    ///
    /// [`Failure::Missing`] if there is no Python that is new enough, or none that can make
    /// environments.
    pub(crate) fn open(workspace: &'a Workspace) -> Result<Self> {
        let venv = Self {
            workspace,
            folder: workspace.path(".venv"),
        };
        let sound = version(venv.python()).is_some_and(|version| version >= OLDEST)
            && works(venv.python().args(["-m", "pip", "--version"]));
        if !sound {
            venv.make()?;
        }
        Ok(venv)
    }

    fn make(&self) -> Result<()> {
        let python = find_python(self.workspace)?;
        let mut make = self.workspace.command(python);
        make.args(["-m", "venv", "--clear"]).arg(&self.folder);
        run(&mut make).map_err(|failure| match failure {
            Failure::Status { .. } => Failure::missing(
                "this Python cannot make virtual environments",
                "install its venv module (Debian, Ubuntu: python3-venv)",
            ),
            other => other,
        })
    }

    /// The package, as a stranger installs it: `pip install .`, again whenever its sources change.
    pub(crate) fn install_package(&self) -> Result<()> {
        let mut sources = ["Cargo.toml", "Cargo.lock", "pyproject.toml"]
            .map(|name| self.workspace.path(name))
            .to_vec();
        for folder in ["core-rs", "python"] {
            sources.extend(files_below(&self.workspace.path(folder))?);
        }
        sources.retain(|path| {
            matches!(
                extension(path),
                "rs" | "toml" | "lock" | "py" | "pyi" | "typed"
            )
        });
        self.once("package", &sources, || {
            println!("building and installing the package; the first time takes a few minutes");
            // Else pip keeps an installation of the same version.
            let mut remove = self.python();
            remove.args([
                "-m",
                "pip",
                "uninstall",
                "--quiet",
                "--yes",
                "portmaster-kext",
            ]);
            run(&mut remove)?;
            run(self.pip().arg("."))
        })
    }

    /// What tests and lints need: the group `dev` of pyproject.toml.
    pub(crate) fn install_tools(&self) -> Result<()> {
        let group = [self.workspace.path("pyproject.toml")];
        self.once("tools", &group, || {
            run(self.pip().args(["--upgrade", PIP]))?;
            run(self.pip().args(["--group", "dev"]))
        })
    }

    /// The emulator in which the driver is loaded: the group `emulator` of pyproject.toml.
    pub(crate) fn install_emulator(&self) -> Result<()> {
        let group = [self.workspace.path("pyproject.toml")];
        self.once("emulator", &group, || {
            run(self.pip().args(["--upgrade", PIP]))?;
            run(self.pip().args(["--group", "emulator"]))
        })
    }

    /// What the documentation site is built with: the group `docs` of pyproject.toml.
    pub(crate) fn install_docs(&self) -> Result<()> {
        let group = [self.workspace.path("pyproject.toml")];
        self.once("docs", &group, || {
            run(self.pip().args(["--upgrade", PIP]))?;
            run(self.pip().args(["--group", "docs"]))
        })
    }

    /// Python of the environment, started in the root.
    pub(crate) fn python(&self) -> Command {
        self.program("python")
    }

    /// A program that the environment installed.
    pub(crate) fn program(&self, name: &str) -> Command {
        let folder = if cfg!(windows) { "Scripts" } else { "bin" };
        self.workspace.command(self.folder.join(folder).join(name))
    }

    fn pip(&self) -> Command {
        let mut pip = self.python();
        pip.args(["-m", "pip", "install", "--quiet"])
            .env("PIP_DISABLE_PIP_VERSION_CHECK", "1")
            .env("PIP_REQUIRE_VIRTUALENV", "1");
        pip
    }

    /// Does something unless it was done for the same contents of the same files.
    fn once(&self, name: &str, files: &[PathBuf], work: impl FnOnce() -> Result<()>) -> Result<()> {
        let stamp = self.folder.join(format!(".stamp-{name}"));
        let now = fingerprint(files)?;
        if fs::read_to_string(&stamp).is_ok_and(|then| then == now) {
            return Ok(());
        }
        work()?;
        fs::write(&stamp, now).map_err(|source| Failure::file(stamp, source))
    }
}

/// Names and contents as one number. It only has to notice changes on one machine, so the standard
/// library's hasher will do.
fn fingerprint(files: &[PathBuf]) -> Result<String> {
    let mut hasher = DefaultHasher::new();
    for file in files {
        file.hash(&mut hasher);
        fs::read(file)
            .map_err(|source| Failure::file(file, source))?
            .hash(&mut hasher);
    }
    Ok(format!("{:016x}", hasher.finish()))
}

/// A Python that is new enough: `$PYTHON`, else the usual names.
fn find_python(workspace: &Workspace) -> Result<PathBuf> {
    let wanted = env::var_os("PYTHON").map(PathBuf::from);
    let names = [
        "python3",
        "python",
        "python3.14",
        "python3.13",
        "python3.12",
        "python3.11",
        "python3.10",
    ];
    let mut too_old = Vec::new();
    for name in wanted.into_iter().chain(names.map(PathBuf::from)) {
        match version(workspace.command(&name)) {
            Some(version) if version >= OLDEST => return Ok(name),
            Some((major, minor)) => too_old.push(format!("{} is {major}.{minor}", name.display())),
            None => {}
        }
    }
    let (major, minor) = OLDEST;
    let found = if too_old.is_empty() {
        "found none".to_owned()
    } else {
        too_old.join(", ")
    };
    Err(Failure::missing(
        format!("Python {major}.{minor} or newer is needed ({found})"),
        "install one, or name it in the environment variable PYTHON",
    ))
}

/// The version of an interpreter, or `None` if it does not run.
fn version(mut python: Command) -> Option<(u32, u32)> {
    let output = python
        .args(["-c", "import sys; print(*sys.version_info[:2])"])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()
        .ok()?;
    parse_version(&String::from_utf8_lossy(&output.stdout))
}

fn parse_version(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.trim().split_once(' ')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert_eq!(parse_version("3 9\n"), Some((3, 9)));
        assert!(parse_version("3 9").is_some_and(|version| version < OLDEST));
        assert!(parse_version("3 14").is_some_and(|version| version > OLDEST));
        assert_eq!(parse_version(""), None);
    }

    #[test]
    fn a_fingerprint_sees_contents_and_names() -> Result<()> {
        let folder = env::temp_dir().join(format!("kext-venv-{}", std::process::id()));
        let write = |name: &str, text: &str| {
            let path = folder.join(name);
            fs::write(&path, text).map_err(|source| Failure::file(&path, source))?;
            Ok::<_, Failure>(path)
        };
        fs::create_dir_all(&folder).map_err(|source| Failure::file(&folder, source))?;
        let first = fingerprint(&[write("a", "one")?])?;
        assert_eq!(first, fingerprint(&[write("a", "one")?])?);
        assert_ne!(first, fingerprint(&[write("a", "two")?])?);
        assert_ne!(first, fingerprint(&[write("b", "one")?])?);
        fs::remove_dir_all(&folder).map_err(|source| Failure::file(&folder, source))
    }
}
