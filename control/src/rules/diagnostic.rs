//! Errors of a rule set: where, what was found, what was expected, and the line with a caret under it.

use std::fmt;

use serde::Serialize;

use super::span::{LineIndex, Position, Span};

/// What kind of mistake an error is. The set is refused whole for any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mistake {
    /// The text is not a rule set.
    Syntax,
    /// A variable or function that the language does not have.
    UnknownVariable,
    /// A relation or value that does not fit the variable.
    WrongType,
    /// A regular expression that does not compile within its limits.
    BadRegex,
    /// Text where an address or a network was expected.
    BadAddress,
    /// A group, server, queue or algorithm that the configuration does not have.
    UnknownName,
    /// Two rules with one name.
    DuplicateName,
    /// A service uses the set and nothing says what happens to the rest.
    MissingDefault,
    /// A list file that cannot be read, or an entry of it that is not a value.
    BadList,
    /// A stated limit was passed.
    Limit,
}

/// One error, complete in itself: it holds the line that it talks about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Diagnostic {
    /// What kind of mistake it is.
    pub mistake: Mistake,
    /// The file, as the caller named it.
    pub file: String,
    /// Where it begins.
    #[serde(flatten)]
    pub position: Position,
    /// How many characters of the line it covers, at least one.
    pub width: usize,
    /// What is wrong: found and expected.
    pub message: String,
    /// How to mend it, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mend: Option<String>,
    /// The line of the file.
    pub line_text: String,
}

impl Diagnostic {
    pub(crate) fn new(mistake: Mistake, file: &str, lines: &LineIndex, span: Span, message: impl Into<String>) -> Self {
        let position = lines.position(span.start);
        let end = lines.position(span.end);
        let line_text = lines.line(position.line).to_owned();
        let last = if end.line == position.line { end.column } else { line_text.chars().count() + 1 };
        Diagnostic {
            mistake,
            file: file.to_owned(),
            position,
            width: last.saturating_sub(position.column).max(1),
            message: message.into(),
            mend: None,
            line_text,
        }
    }

    pub(crate) fn with_mend(mut self, mend: impl Into<String>) -> Self {
        self.mend = Some(mend.into());
        self
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Position { line, column } = self.position;
        writeln!(f, "{}:{line}:{column}: error: {}", self.file, self.message)?;
        let number = line.to_string();
        let gutter = " ".repeat(number.len());
        writeln!(f, "{number} | {}", self.line_text)?;
        // Tabs are kept, so that the caret stands under its column whatever the tab width.
        let lead: String =
            self.line_text.chars().take(column - 1).map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
        write!(f, "{gutter} | {lead}{}", "^".repeat(self.width))?;
        if let Some(mend) = &self.mend {
            write!(f, "\n{gutter} = {mend}")?;
        }
        Ok(())
    }
}

/// All errors of a rule set, in file order; never empty when returned as an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Errors(pub Vec<Diagnostic>);

impl fmt::Display for Errors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, error) in self.0.iter().enumerate() {
            if at > 0 {
                writeln!(f)?;
            }
            write!(f, "{error}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Errors {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caret_stands_under_the_column() {
        let lines = LineIndex::new("R1: if (x)\n\tR2: iff (y)\n");
        let error =
            Diagnostic::new(Mistake::Syntax, "a.rules", &lines, Span::new(16, 19), "found `iff`, expected `if`")
                .with_mend("write `if`");
        assert_eq!(
            error.to_string(),
            "a.rules:2:6: error: found `iff`, expected `if`\n2 | \tR2: iff (y)\n  | \t    ^^^\n  = write `if`"
        );
    }
}
