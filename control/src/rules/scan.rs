//! The lexer: the parser asks it for the kind of token that may stand at a place, because a path, a
//! value and an operator are written with the same characters.

use super::ast::Trivia;
use super::span::Span;

/// The longest text, name or path in a rule file, in bytes.
pub const MAX_TEXT: usize = 8 * 1024;

/// Quotes that word processors make of plain ones.
const TYPOGRAPHIC: [char; 8] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{201f}', '\u{2018}', '\u{2019}', '\u{201a}', '\u{201b}'];

/// A value as written, before its type is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Literal {
    /// The text, without quotes.
    pub text: String,
    /// Whether it stood in quotes.
    pub quoted: bool,
    /// `@`: the text names a list file.
    pub list: bool,
    /// `/i` behind it.
    pub ignore_case: bool,
    /// Where it stands.
    pub span: Span,
}

/// What is wrong with a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScanError {
    /// Found and expected.
    pub message: String,
    /// How to mend it.
    pub mend: Option<&'static str>,
    /// Where.
    pub span: Span,
}

/// A place in the text, and the comments passed on the way.
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    trivia: Vec<Trivia>,
}

fn is_word(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_'
}

/// What ends a bare value: blanks, and what the grammar needs.
fn ends_bare(c: char) -> bool {
    c.is_whitespace() || c.is_control() || "()\"',;{}#&|!=<>".contains(c)
}

impl<'a> Scanner<'a> {
    pub fn new(text: &'a str) -> Self {
        Scanner { text, at: 0, trivia: Vec::new() }
    }

    pub fn at(&self) -> usize {
        self.at
    }

    pub fn set(&mut self, at: usize) {
        self.at = at;
    }

    fn rest(&self) -> &'a str {
        &self.text[self.at..]
    }

    pub fn done(&mut self) -> bool {
        self.skip();
        self.at >= self.text.len()
    }

    /// Takes the comments and blank lines passed since the last call.
    pub fn take_trivia(&mut self) -> Vec<Trivia> {
        std::mem::take(&mut self.trivia)
    }

    fn note(&mut self, trivia: Trivia) {
        if trivia != Trivia::Blank || self.trivia.last() != Some(&Trivia::Blank) {
            self.trivia.push(trivia);
        }
    }

    /// Adds a comment that stood as code in the tutorial's own spelling.
    pub fn add_comment(&mut self, text: &str) {
        let line = text.lines().collect::<Vec<_>>().join(" ");
        self.trivia.push(Trivia::Comment(format!(" {}", line.trim())));
    }

    /// Passes blanks and comments, and keeps the comments.
    pub fn skip(&mut self) {
        let mut breaks = 0;
        while let Some(c) = self.rest().chars().next() {
            if c == '#' {
                let line = self.rest().lines().next().unwrap_or("");
                self.at += line.len();
                self.note(Trivia::Comment(line[1..].trim_end().to_owned()));
                breaks = 0;
            } else if c.is_whitespace() || c == '\u{feff}' {
                self.at += c.len_utf8();
                if c == '\n' {
                    breaks += 1;
                    if breaks == 2 {
                        self.note(Trivia::Blank);
                    }
                }
            } else {
                break;
            }
        }
    }

    /// Whether `symbol` stands next on this line.
    pub fn near(&self, symbol: &str) -> bool {
        self.rest().trim_start_matches([' ', '\t']).starts_with(symbol)
    }

    /// Passes C's `;` behind a statement, if it stands on this line.
    pub fn skip_semicolon(&mut self) {
        let rest = self.rest();
        let lead = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        if rest[lead..].starts_with(';') {
            self.at += lead + 1;
        }
    }

    /// A comment on the rest of this line.
    pub fn comment_behind(&mut self) -> Option<String> {
        let rest = self.rest();
        let lead = rest.len() - rest.trim_start_matches([' ', '\t']).len();
        let comment = rest[lead..].strip_prefix('#')?.lines().next().unwrap_or("");
        self.at += lead + 1 + comment.len();
        Some(comment.trim_end().to_owned())
    }

    /// Passes `symbol` if it stands next.
    pub fn eat(&mut self, symbol: &str) -> Option<Span> {
        self.skip();
        self.eat_here(symbol)
    }

    /// Passes `symbol` if it stands here, with no blank before it.
    pub fn eat_here(&mut self, symbol: &str) -> Option<Span> {
        self.rest().starts_with(symbol).then(|| {
            let start = self.at;
            self.at += symbol.len();
            Span::new(start, self.at)
        })
    }

    /// Whether `symbol` stands here, with no blank before it.
    pub fn here(&self, symbol: &str) -> bool {
        self.rest().starts_with(symbol)
    }

    /// Whether `symbol` stands next.
    pub fn looking_at(&mut self, symbol: &str) -> bool {
        self.skip();
        self.rest().starts_with(symbol)
    }

    /// The characters here that `accept` takes; may be empty.
    pub fn run_here(&mut self, accept: impl Fn(char) -> bool) -> (&'a str, Span) {
        let start = self.at;
        let rest = self.rest();
        let len = rest.find(|c: char| !accept(c)).unwrap_or(rest.len());
        self.at += len;
        (&rest[..len], Span::new(start, self.at))
    }

    /// A word: letters, digits and `_`. Nothing is passed if none stands here.
    pub fn word(&mut self) -> Option<(&'a str, Span)> {
        self.skip();
        let (text, span) = self.run_here(is_word);
        (!text.is_empty()).then_some((text, span))
    }

    /// The word that stands next, without passing it.
    pub fn peek_word(&mut self) -> Option<&'a str> {
        let (word, span) = self.word()?;
        self.at = span.start;
        Some(word)
    }

    /// What stands next, as an error names it.
    pub fn found(&mut self) -> (String, Span) {
        self.skip();
        let start = self.at;
        let rest = self.rest();
        let Some(first) = rest.chars().next() else {
            return ("the end of the file".to_owned(), Span::new(start, start));
        };
        let len = if is_word(first) {
            rest.find(|c| !is_word(c)).unwrap_or(rest.len())
        } else if ["&&", "||", "==", "!=", "<=", ">=", "//"].iter().any(|s| rest.starts_with(s)) {
            2
        } else {
            first.len_utf8()
        };
        let shown: String = rest[..len].chars().take(40).collect();
        (format!("`{shown}`"), Span::new(start, start + len))
    }

    /// A value: quoted, bare, or `@` and the name of a list file. In `raw` text (a pattern) only `\"`
    /// and `\'` are escapes, so that the pattern's own escapes stand as they are.
    pub fn literal(&mut self, raw: bool) -> Result<Option<Literal>, ScanError> {
        self.skip();
        let start = self.at;
        let list = self.eat_here("@").is_some();
        let quote = self.rest().chars().next();
        if let Some(quote @ ('"' | '\'')) = quote {
            let text = self.quoted(quote, raw && !list)?;
            let ignore_case = self.case_mark()?;
            let span = Span::new(start, self.at);
            return Ok(Some(Literal { text, quoted: true, list, ignore_case, span }));
        }
        let text = self.bare();
        let span = Span::new(start, self.at);
        if text.is_empty() {
            self.at = start;
            if list {
                return Err(ScanError {
                    message: "found `@`, expected the name of a list file after it".into(),
                    mend: Some("write @name or @\"name with blanks\""),
                    span: Span::new(start, start + 1),
                });
            }
            return Ok(None);
        }
        if text.len() > MAX_TEXT {
            return Err(too_long(span));
        }
        if let Some((at, quote)) = text.char_indices().find(|(_, c)| TYPOGRAPHIC.contains(c)) {
            let at = span.end - text.len() + at;
            return Err(ScanError {
                message: format!("found {quote}, a typographic quote, which is a character like any other here"),
                mend: Some("put the text between plain quotes: \"…\""),
                span: Span::new(at, at + quote.len_utf8()),
            });
        }
        if text.ends_with("/i") {
            return Err(ScanError {
                message: format!("`{text}`: is `/i` part of the text, or does it ask for either case?"),
                mend: Some("put the text in quotes: \"…\"/i ignores case, \"…/i\" is text"),
                span,
            });
        }
        Ok(Some(Literal { text: text.to_owned(), quoted: false, list, ignore_case: false, span }))
    }

    /// A name in quotes, which stand here: what follows it is not part of it.
    pub fn quoted_name(&mut self) -> Result<String, ScanError> {
        self.quoted('"', false)
    }

    /// A bare value: up to what ends one, or a `]` that it did not open.
    fn bare(&mut self) -> &'a str {
        let open = std::cell::Cell::new(0usize);
        let (text, _) = self.run_here(|c| match c {
            ']' if open.get() == 0 => false,
            _ if ends_bare(c) => false,
            _ => {
                open.set(match c {
                    '[' => open.get() + 1,
                    ']' => open.get() - 1,
                    _ => open.get(),
                });
                true
            }
        });
        text
    }

    /// `/i` directly behind a quoted text or a list.
    pub fn case_mark(&mut self) -> Result<bool, ScanError> {
        if self.eat_here("/").is_none() {
            return Ok(false);
        }
        let (flag, span) = self.run_here(is_word);
        if flag == "i" {
            return Ok(true);
        }
        Err(ScanError {
            message: format!("found `/{flag}` behind a value, expected `/i`"),
            mend: Some("`/i` (either case) is the only mark that a value may have"),
            span: Span::new(span.start - 1, span.end.max(span.start)),
        })
    }

    fn quoted(&mut self, quote: char, raw: bool) -> Result<String, ScanError> {
        let start = self.at;
        self.at += 1;
        let mut text = String::new();
        loop {
            let Some(c) = self.rest().chars().next().filter(|c| *c != '\n') else {
                return Err(ScanError {
                    message: format!("this text has no closing {quote}"),
                    mend: Some("a text ends on the line where it begins; \\n is a line break"),
                    span: Span::new(start, self.at),
                });
            };
            self.at += c.len_utf8();
            if c == quote {
                break;
            }
            if c != '\\' {
                text.push(c);
            } else {
                self.escape(raw, &mut text)?;
            }
            if text.len() > MAX_TEXT {
                return Err(too_long(Span::new(start, self.at)));
            }
        }
        Ok(text)
    }

    fn escape(&mut self, raw: bool, text: &mut String) -> Result<(), ScanError> {
        let slash = self.at - 1;
        let Some(c) = self.rest().chars().next().filter(|c| *c != '\n') else { return Ok(()) };
        self.at += c.len_utf8();
        match c {
            '"' | '\'' => text.push(c),
            _ if raw => text.extend(['\\', c]),
            '\\' => text.push(c),
            'n' => text.push('\n'),
            'r' => text.push('\r'),
            't' => text.push('\t'),
            _ => {
                return Err(ScanError {
                    message: format!("found `\\{c}`, expected one of \\\\ \\\" \\n \\r \\t"),
                    mend: Some("write \\\\ for a backslash; patterns' own escapes are for regex()"),
                    span: Span::new(slash, self.at),
                });
            }
        }
        Ok(())
    }

    /// Goes to the next line that begins like a rule, so that one mistake does not hide the next.
    pub fn recover(&mut self) {
        while let Some(at) = self.rest().find('\n') {
            self.at += at + 1;
            let line = self.rest().trim_start_matches([' ', '\t']);
            let word_end = line.find(|c: char| !is_word(c) && !"-.".contains(c)).unwrap_or(line.len());
            let behind = line[word_end..].trim_start_matches([' ', '\t']);
            let word = &line[..word_end];
            let begins = match word {
                "" => false,
                "if" => behind.starts_with('('),
                _ => {
                    word.eq_ignore_ascii_case("rule")
                        || behind.starts_with(':')
                        || behind.starts_with("if (")
                        || behind.starts_with("if(")
                }
            };
            if begins {
                self.trivia.clear();
                return;
            }
        }
        self.at = self.text.len();
    }
}

fn too_long(span: Span) -> ScanError {
    ScanError {
        message: format!("this text is longer than {MAX_TEXT} bytes"),
        mend: Some("put long lists into a file and name it with @file"),
        span,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn literal(text: &str, raw: bool) -> Result<Literal, String> {
        Scanner::new(text).literal(raw).map_err(|e| e.message).map(Option::unwrap)
    }

    #[test]
    fn values_quoted_bare_and_from_a_list() {
        assert_eq!(literal("chow@cs.uccs.edu)", false).unwrap().text, "chow@cs.uccs.edu");
        assert_eq!(literal("'a \"b\"'", false).unwrap().text, "a \"b\"");
        assert_eq!(literal(r#""a\"\\\n""#, false).unwrap().text, "a\"\\\n");
        assert!(literal("\"GIF\"/i", false).unwrap().ignore_case);
        let list = literal("@bad/hosts.txt)", false).unwrap();
        assert!(list.list && list.text == "bad/hosts.txt");
        assert!(literal("@\"a b\"/i", false).unwrap().ignore_case);
        for quoted in ["\u{201c}gif\u{201d}", "gif\u{201d}", "\u{2018}gif\u{2019}"] {
            assert!(literal(quoted, false).unwrap_err().contains("typographic quote"), "{quoted}");
        }
        assert_eq!(literal("\"\u{201c}gif\u{201d}\"", false).unwrap().text, "\u{201c}gif\u{201d}");
        assert!(literal("gif/i", false).unwrap_err().contains("part of the text"));
        assert!(literal("\"gif\"/x", false).unwrap_err().contains("expected `/i`"));
        assert!(literal("\"gif\nx\"", false).unwrap_err().contains("no closing"));
    }

    #[test]
    fn a_pattern_keeps_its_own_escapes() {
        assert_eq!(literal(r#""^/a\.b\"\\d""#, true).unwrap().text, r#"^/a\.b"\\d"#);
        assert!(literal(r#""a\.b""#, false).unwrap_err().contains(r"found `\.`"));
    }

    #[test]
    fn comments_are_kept_and_blank_lines_fold() {
        let mut scanner = Scanner::new("# one\n\n\n  # two\nx # three\n");
        scanner.skip();
        assert_eq!(
            scanner.take_trivia(),
            [Trivia::Comment(" one".into()), Trivia::Blank, Trivia::Comment(" two".into())]
        );
        assert_eq!(scanner.word().unwrap().0, "x");
        assert_eq!(scanner.comment_behind().as_deref(), Some(" three"));
    }
}
