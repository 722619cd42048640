//! One thing that is not as it should be, and what to do about it.

use std::fmt;

use serde::Serialize;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// A worker would not start, would lose something, or would stand still.
    Error,
    /// It would run, less well than it could.
    Warning,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    pub severity: Severity,
    /// What it is about, such as `queue catalog`.
    pub about: String,
    pub problem: String,
    pub fix: String,
}

impl Finding {
    pub fn error(about: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Error, about: about.into(), problem: problem.into(), fix: fix.into() }
    }

    pub fn warning(about: impl Into<String>, problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { severity: Severity::Warning, ..Self::error(about, problem, fix) }
    }

    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = if self.is_error() { "error" } else { "warning" };
        write!(f, "{severity}: {}: {}\n  fix: {}", self.about, self.problem, self.fix)
    }
}
