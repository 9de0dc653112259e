//! What is wrong with a configuration: collected, so that all of it is told at once.
#![forbid(unsafe_code)]

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

/// Values are shown up to this many characters.
const SHOWN_VALUE: usize = 60;

/// Something that is wrong, or only remarkable, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file, as it was named.
    pub file: PathBuf,
    /// The line, from 1; `None`: the file as a whole.
    pub line: Option<usize>,
    /// The key with its section, `pools.0.size`, or the section; empty when there is none.
    pub key: String,
    /// The value as written, shortened; empty when it does not matter.
    pub value: String,
    /// What is wrong.
    pub message: String,
}

/// Everything that is wrong with a configuration, in the order of the file; never empty.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", lines(.0))]
pub struct Errors(pub Vec<Problem>);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        match (self.key.is_empty(), self.value.is_empty()) {
            (true, _) => {}
            (false, true) => write!(f, " {}:", self.key)?,
            (false, false) => write!(f, " {} = {}:", self.key, self.value)?,
        }
        write!(f, " {}", self.message)
    }
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(Problem::to_string).collect::<Vec<_>>().join("\n")
}

/// Collects what is found in one file.
pub(super) struct Report<'a> {
    path: &'a Path,
    text: &'a str,
    pub(super) errors: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Where something stands in the file: bytes from and to.
pub(super) type Place = Option<Range<usize>>;

impl<'a> Report<'a> {
    pub(super) fn new(path: &'a Path, text: &'a str) -> Self {
        Report { path, text, errors: Vec::new(), warnings: Vec::new() }
    }

    /// Something is wrong with a key or section as such.
    pub(super) fn error(&mut self, key: &str, place: &Place, message: impl Into<String>) {
        let problem = self.problem(key, place, false, message.into());
        self.errors.push(problem);
    }

    /// Something is wrong with a value, which is shown.
    pub(super) fn error_with_value(&mut self, key: &str, place: &Place, message: impl Into<String>) {
        let problem = self.problem(key, place, true, message.into());
        self.errors.push(problem);
    }

    /// Something is allowed but hardly meant.
    pub(super) fn warning(&mut self, key: &str, place: &Place, message: impl Into<String>) {
        let problem = self.problem(key, place, false, message.into());
        self.warnings.push(problem);
    }

    /// Whether nothing was found wrong with the key, so that others may be compared with it.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        self.errors.iter().all(|it| it.key != key)
    }

    /// Warnings, or else errors, in the order of the file; what concerns other files comes last.
    pub(super) fn finish(mut self) -> Result<Vec<Problem>, Errors> {
        for problems in [&mut self.errors, &mut self.warnings] {
            problems.sort_by_key(|it| (it.file != self.path, it.line.unwrap_or(usize::MAX)));
        }
        if self.errors.is_empty() { Ok(self.warnings) } else { Err(Errors(self.errors)) }
    }

    fn problem(&self, key: &str, place: &Place, with_value: bool, message: String) -> Problem {
        let line = place.as_ref().map(|it| line_of(self.text, it.start));
        let value = match place {
            Some(range) if with_value => shorten(self.text.get(range.clone()).unwrap_or("")),
            _ => String::new(),
        };
        Problem { file: self.path.to_owned(), line, key: key.to_owned(), value, message }
    }
}

/// The number of the line in which the byte stands.
pub(super) fn line_of(text: &str, offset: usize) -> usize {
    let before = text.as_bytes().iter().take(offset);
    1 + before.filter(|byte| **byte == b'\n').count()
}

/// One line of a value, not too long.
fn shorten(value: &str) -> String {
    let line = value.lines().next().unwrap_or("");
    let mut shown: String = line.chars().take(SHOWN_VALUE).collect();
    if shown.len() < value.len() {
        shown.push('…');
    }
    shown
}
