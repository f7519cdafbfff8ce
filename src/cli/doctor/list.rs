//! The list that `doctor` prints: a mark, what was checked, what came out, and how to mend it.

use crate::cli::common;
use crate::error::{Error, Result};

/// What came of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    Good,
    Note,
    Bad,
}

/// Why a check failed, and how to mend it.
pub(super) struct Fault {
    reason: String,
    mend: Option<String>,
}

impl Fault {
    /// A fault that no [`Error`] stands for.
    pub fn new(reason: String, mend: &str) -> Self {
        Self { reason, mend: Some(mend.into()) }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Self { reason: error.to_string(), mend: error.hint() }
    }
}

/// Prints line after line, and remembers whether anything failed.
pub(super) struct List {
    colored: bool,
    failed: bool,
}

impl List {
    /// An empty list.
    pub fn new(colored: bool) -> Self {
        Self { colored, failed: false }
    }

    /// Whether nothing failed.
    pub fn good(&self) -> bool {
        !self.failed
    }

    /// A heading.
    pub fn heading(&self, text: &str) -> Result<()> {
        common::print(&format!("{text}\n"))
    }

    /// Something that is well.
    pub fn well(&mut self, what: &str, text: &str) -> Result<()> {
        self.line(Mark::Good, what, text, None)
    }

    /// Something to know, which is no failure.
    pub fn note(&mut self, what: &str, text: &str, mend: Option<&str>) -> Result<()> {
        self.line(Mark::Note, what, text, mend)
    }

    /// A fault that does not stand in the way: it is noted.
    pub fn excuse(&mut self, what: &str, fault: Fault) -> Result<()> {
        self.line(Mark::Note, what, &fault.reason, fault.mend.as_deref())
    }

    /// A check that came out well, as `show` tells it, or failed. Gives what it found.
    pub fn check<T>(
        &mut self,
        what: &str,
        result: std::result::Result<T, impl Into<Fault>>,
        show: impl FnOnce(&T) -> String,
    ) -> Result<Option<T>> {
        match result {
            Ok(found) => {
                self.well(what, &show(&found))?;
                Ok(Some(found))
            }
            Err(fault) => {
                let fault = fault.into();
                self.failed = true;
                self.line(Mark::Bad, what, &fault.reason, fault.mend.as_deref())?;
                Ok(None)
            }
        }
    }

    fn line(&self, mark: Mark, what: &str, text: &str, mend: Option<&str>) -> Result<()> {
        let (sign, color) = match mark {
            Mark::Good => ('✓', 32),
            Mark::Note => ('!', 33),
            Mark::Bad => ('✗', 31),
        };
        let sign = if self.colored { format!("\x1b[{color}m{sign}\x1b[0m") } else { sign.to_string() };
        let mut lines = format!("{sign} {what:10}  {}\n", wrap(text));
        if let Some(mend) = mend {
            lines.push_str(&format!("{INDENT}{}\n", wrap(&format!("→ {mend}"))));
        }
        common::print(&lines)
    }
}

/// Columns before the text of a line.
const INDENT: &str = "              ";

/// Breaks a text between words, so that with the indent its lines have at most 80 columns where words allow.
fn wrap(text: &str) -> String {
    let width = 80 - INDENT.len();
    let (mut out, mut column) = (String::new(), 0);
    for word in text.split(' ') {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            out.push_str(&format!("\n{INDENT}"));
            column = 0;
        } else if column > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
    }
    out
}
