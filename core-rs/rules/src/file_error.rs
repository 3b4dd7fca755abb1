//! What can be wrong with a file of rules, and where.

use std::fmt;

use crate::error::{Problem, RuleError, RuleLabel};
use crate::words::BadValue;

/// A file that is no policy: where, which rule, what is wrong, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TomlError {
    /// Where in the file, unless it is about the file as a whole.
    pub place: Option<Place>,
    /// The rule, if it is about one.
    pub rule: Option<RuleLabel>,
    /// The key, and the index of the item in its list: `remote[2]`.
    pub key: Option<String>,
    /// What is wrong. Boxed, so that results stay small.
    pub problem: Box<TomlProblem>,
}

/// A place in a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

/// What can be wrong with a file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TomlProblem {
    /// It is not TOML.
    #[error("this is not TOML: {message}")]
    Syntax {
        /// In the parser's words.
        message: String,
    },
    /// A key that means nothing.
    #[error("there is no such key: use {}", known.join(", "))]
    UnknownKey {
        /// The keys that there are.
        known: &'static [&'static str],
    },
    /// A rule, or a default, without a verdict.
    #[error("the verdict is missing: add verdict = \"block\", or another verdict")]
    NoVerdict,
    /// Neither a rule nor a default.
    #[error("there is no rule: write [[rule]], and the keys of the rule below it")]
    NoRules,
    /// A value that is not what it was to be.
    #[error(transparent)]
    Value(BadValue),
    /// A condition that cannot be meant as it stands.
    #[error(transparent)]
    Condition(Problem),
    /// More than a policy can hold.
    #[error(transparent)]
    Bound(RuleError),
}

impl fmt::Display for TomlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Place { line, column }) = self.place {
            write!(f, "line {line}, column {column}: ")?;
        }
        if let Some(rule) = &self.rule {
            write!(f, "{rule}: ")?;
        }
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        self.problem.fmt(f)
    }
}

impl std::error::Error for TomlError {}

impl Place {
    /// The place of a byte of the text.
    pub(crate) fn of(text: &str, offset: usize) -> Self {
        let before = text.get(..offset).unwrap_or(text);
        let line = before.rsplit('\n').next().unwrap_or(before);
        Self {
            line: 1 + before.matches('\n').count(),
            column: 1 + line.chars().count(),
        }
    }
}
