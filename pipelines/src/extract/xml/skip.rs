//! Passing over what no rule asks for, as fast as memory gives it.

use memchr::memchr;

use super::text::find;
use super::{Step, XmlScanner};
use crate::extract::blocks::{BLOCK, markup};
use crate::extract::error::ExtractError;
use crate::extract::paths::MAX_DEPTH;

impl XmlScanner {
    /// Passes over elements that are on no path, counting only how deep they nest.
    pub(super) fn skip(&mut self, document: &[u8]) -> Result<Step, ExtractError> {
        loop {
            if self.scanned == self.at && document.len() - self.at >= 2 * BLOCK {
                self.skip_blocks(document)?;
                if self.skipped == 0 {
                    return Ok(Step::On);
                }
            }
            if document.get(self.at) != Some(&b'<') {
                let from = self.scanned.max(self.at);
                let Some(length) = memchr(b'<', &document[from..]) else { return self.starve(document.len()) };
                self.at = from + length;
                self.scanned = self.at;
            }
            match document.get(self.at + 1) {
                None => return self.starve(self.at),
                Some(b'/') => {
                    // The rest of the tag passes for text, of which nothing is kept.
                    self.skipped -= 1;
                    self.at += 2;
                    self.scanned = self.at;
                    if self.skipped == 0 {
                        return Ok(Step::On);
                    }
                }
                Some(b'!' | b'?') => {
                    return self.skip_declaration(document);
                }
                Some(_) => {
                    let Some(to) = self.tag_end(document, self.at)? else { return Ok(Step::Starved) };
                    self.skipped += usize::from(document[to - 2] != b'/');
                    if self.tracker.depth() + self.skipped > MAX_DEPTH {
                        return Err(ExtractError::Depth);
                    }
                    self.at = to;
                    self.scanned = to;
                }
            }
        }
    }

    /// The same for plain tags and text, a block at a time. Leaves off before anything else: a declaration, a quoted
    /// attribute, the last block.
    fn skip_blocks(&mut self, document: &[u8]) -> Result<(), ExtractError> {
        let deepest = MAX_DEPTH.saturating_sub(self.tracker.depth());
        let mut skipped = self.skipped;
        // Where what has not been dealt with begins: the open tag if there is one.
        let mut at = self.at;
        let mut in_tag = false;
        let (blocks, _) = document[self.at..].as_chunks::<BLOCK>();
        // One block less than there is, so that a byte after each mark can be looked at.
        let last = blocks.len() - 1;
        'blocks: for (place, block) in blocks[..last].iter().enumerate() {
            let base = self.at + place * BLOCK;
            let marks = markup(block);
            let mut rest = !0;
            loop {
                let marked = if in_tag { marks.stop } else { marks.open } & rest;
                if marked == 0 {
                    break;
                }
                let bit = marked.trailing_zeros();
                rest = (!1_u64) << bit;
                let mark = base + bit as usize;
                if in_tag {
                    match document[mark] {
                        b'>' => {
                            in_tag = false;
                            at = mark + 1;
                            skipped += usize::from(document[mark - 1] != b'/');
                            if skipped > deepest {
                                return Err(ExtractError::Depth);
                            }
                        }
                        b'<' => return Err(ExtractError::XmlSyntax),
                        _ => break 'blocks,
                    }
                    continue;
                }
                at = mark;
                match document[mark + 1] {
                    b'/' => {
                        skipped -= 1;
                        at = mark + 2;
                        if skipped == 0 {
                            break 'blocks;
                        }
                    }
                    b'!' | b'?' => break 'blocks,
                    _ => in_tag = true,
                }
            }
            if !in_tag {
                at = at.max(base + BLOCK);
            }
        }
        (self.at, self.scanned, self.skipped) = (at, at, skipped);
        Ok(())
    }

    fn skip_declaration(&mut self, document: &[u8]) -> Result<Step, ExtractError> {
        let rest = &document[self.at..];
        let (opening, closing): (&[u8], &[u8]) = match rest {
            [b'<', b'?', ..] => (b"<?", b"?>"),
            [b'<', b'!', b'-', b'-', ..] => (b"<!--", b"-->"),
            [b'<', b'!', b'-'] | [b'<', b'!'] => return self.starve(self.at),
            _ if rest.starts_with(b"<![CDATA[") => (b"<![CDATA[", b"]]>"),
            _ if b"<![CDATA[".starts_with(rest) => return self.starve(self.at),
            _ => return Err(ExtractError::XmlSyntax),
        };
        match find(document, self.scanned.max(self.at + opening.len()), closing) {
            Ok(to) => self.consume(to),
            Err(scanned) => self.starve(scanned),
        }
    }

    /// One past the `>` of the start tag at `at`; remembers how far it got.
    #[inline]
    pub(super) fn tag_end(&mut self, document: &[u8], at: usize) -> Result<Option<usize>, ExtractError> {
        let mut from = self.scanned.max(at + 1);
        loop {
            if self.quote == 0 {
                while from < document.len() && !TAG_STOP[document[from] as usize] {
                    from += 1;
                }
                match document.get(from) {
                    None => break,
                    Some(b'>') => {
                        self.scanned = at;
                        return Ok(Some(from + 1));
                    }
                    Some(b'<') => return Err(ExtractError::XmlSyntax),
                    Some(&quote) => self.quote = quote,
                }
            } else {
                let Some(length) = memchr(self.quote, &document[from..]) else { break };
                from += length;
                self.quote = 0;
            }
            from += 1;
        }
        self.scanned = document.len();
        Ok(None)
    }
}

/// Bytes that matter inside a start tag.
static TAG_STOP: [bool; 256] = {
    let mut table = [false; 256];
    table[b'>' as usize] = true;
    table[b'<' as usize] = true;
    table[b'"' as usize] = true;
    table[b'\'' as usize] = true;
    table
};
