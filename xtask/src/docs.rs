//! `cargo xtask docs`: the documentation site, built into `target/site` with warnings as errors.
//!
//! Pages are the Markdown under `docs/`, the reference comes from the Python package's docstrings.
//! That the examples in them do what they say is shown by the tests, not here.

use crate::failure::Result;
use crate::run::run as run_command;
use crate::venv::Venv;
use crate::workspace::Workspace;

/// Where the site's first page is, for whoever wants to look at it.
const FIRST_PAGE: &str = "target/site/index.html";

pub(crate) fn run(workspace: &Workspace, _: &[String]) -> Result<()> {
    build(workspace)?;
    println!("built: {}", workspace.path(FIRST_PAGE).display());
    Ok(())
}

/// Builds the site; any warning is an error.
pub(crate) fn build(workspace: &Workspace) -> Result<()> {
    let venv = Venv::open(workspace)?;
    // The reference of the command line is written from its parser.
    venv.install_package()?;
    venv.install_docs()?;
    // Not quiet: warnings that are not shown are not counted as errors either.
    let mut mkdocs = venv.python();
    mkdocs
        .args(["-m", "mkdocs", "build", "--strict"])
        // A notice about successors of the tool, for its users, not for ours.
        .env("NO_MKDOCS_2_WARNING", "1");
    run_command(&mut mkdocs)
}
