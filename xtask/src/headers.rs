//! Every source file opens with what it is for.
//!
//! Machines cannot tell whether the sentence is true, but they can tell that there is one.

use std::fs;
use std::path::Path;

use crate::failure::{Failure, Result};
use crate::workspace::{Workspace, extension};

pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut faults = Vec::new();
    for path in workspace.sources()? {
        let Some(openings) = openings(&path) else {
            continue;
        };
        let text = fs::read_to_string(&path).map_err(|source| Failure::file(&path, source))?;
        if !opens_with(&text, openings) {
            faults.push(format!(
                "{} does not open with what it is for",
                workspace.shown(&path)
            ));
        }
    }
    Failure::unless_empty(faults)
}

/// How a file of this kind may begin; `None` for files that are not source text.
fn openings(path: &Path) -> Option<&'static [&'static str]> {
    match extension(path) {
        "rs" => Some(&["//!", "// "]),
        "py" | "pyi" => Some(&["\"\"\"", "r\"\"\"", "# "]),
        "sh" => Some(&["# "]),
        _ => None,
    }
}

/// Looks at the first line that says something: not the interpreter line of a script, not an empty
/// comment. A file with no text at all (`__init__.py`) has nothing to explain.
fn opens_with(text: &str, openings: &[&str]) -> bool {
    text.lines()
        .find(|line| !line.starts_with("#!/") && !matches!(line.trim(), "" | "#"))
        .is_none_or(|line| openings.iter().any(|opening| line.starts_with(opening)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(name: &str, text: &str) -> bool {
        openings(Path::new(name)).is_none_or(|openings| opens_with(text, openings))
    }

    #[test]
    fn files_that_explain_themselves_pass() {
        assert!(accepted("a.rs", "//! What it does.\n\nfn f() {}\n"));
        assert!(accepted(
            "a.py",
            "#!/usr/bin/env python3\n\"\"\"What it does.\"\"\"\n"
        ));
        assert!(accepted(
            "a.sh",
            "#!/usr/bin/env bash\n#\n# What it does.\n"
        ));
        assert!(accepted("__init__.py", ""));
        assert!(accepted("a.bin", "\0"));
    }

    #[test]
    fn files_that_do_not_are_found() {
        assert!(!accepted("a.rs", "use std::fs;\n//! Too late.\n"));
        assert!(!accepted("a.rs", "#![no_std]\n"));
        assert!(!accepted("a.py", "import os\n"));
        assert!(!accepted("a.sh", "#!/bin/sh\nset -e\n"));
    }
}
