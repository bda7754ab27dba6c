//! Regular expressions as rules use them: over bytes, ASCII classes, without look-around, found
//! anywhere unless anchored; compiled within stated limits.

use regex_automata::meta;

/// The most memory that one compiled pattern may take, in bytes.
pub const MAX_PATTERN_BYTES: usize = 1 << 20;
/// How deep the groups of a pattern may nest.
pub const MAX_PATTERN_DEPTH: u32 = 64;

/// A mistake in a pattern.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadPattern {
    /// What is wrong.
    pub message: String,
    /// The bytes of the pattern that it is about, if it is about a part.
    pub part: Option<(usize, usize)>,
}

/// Compiles a pattern for matching.
pub fn compile(pattern: &str, ignore_case: bool) -> Result<meta::Regex, BadPattern> {
    let parsed = regex_syntax::ParserBuilder::new()
        .unicode(false)
        .utf8(false)
        .case_insensitive(ignore_case)
        .nest_limit(MAX_PATTERN_DEPTH)
        .build()
        .parse(pattern);
    let hir = parsed.map_err(|error| {
        let (message, span) = match &error {
            regex_syntax::Error::Parse(e) => (e.kind().to_string(), Some(*e.span())),
            regex_syntax::Error::Translate(e) => (e.kind().to_string(), Some(*e.span())),
            other => (other.to_string(), None),
        };
        BadPattern { message, part: span.map(|s| (s.start.offset, s.end.offset)) }
    })?;
    let config = meta::Config::new().nfa_size_limit(Some(MAX_PATTERN_BYTES)).utf8_empty(false);
    meta::Builder::new().configure(config).build_from_hir(&hir).map_err(|error| BadPattern {
        message: match error.size_limit() {
            Some(_) => format!("compiles to more than {MAX_PATTERN_BYTES} bytes"),
            None => error.to_string(),
        },
        part: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_work_on_bytes_and_say_where_they_are_wrong() {
        assert!(compile("^/purchase", false).unwrap().is_match(b"/purchase.cgi".as_slice()));
        assert!(!compile("^/purchase", false).unwrap().is_match(b"/x/purchase".as_slice()));
        assert!(compile("gif$", true).unwrap().is_match(b"A.GIF".as_slice()));
        assert!(compile("a.c", false).unwrap().is_match(b"a\xffc".as_slice()));
        assert_eq!(compile("ab(c", false).unwrap_err().part, Some((2, 3)));
        assert!(compile("(?=a)", false).unwrap_err().message.contains("look"));
        assert!(compile("(((a{500}){500}){500})", false).unwrap_err().message.contains("more than"));
    }
}
