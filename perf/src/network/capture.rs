//! What passed over the links, as a pcapng file (draft-ietf-opsawg-pcapng): one interface a node, and a comment on
//! each frame that a link lost, doubled, held back or changed. Any protocol analyser opens it.

use lcs_dataplane::worker::Nanos;
use std::io::{self, Write};

/// Writes frames to `sink` as they enter a link.
pub struct Capture {
    sink: Box<dyn Write>,
    interfaces: usize,
    left: u64,
    error: Option<io::Error>,
}

impl std::fmt::Debug for Capture {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Capture {{ interfaces: {}, left: {} }}", self.interfaces, self.left)
    }
}

impl Capture {
    /// A capture of the next `frames` frames.
    pub fn new(sink: Box<dyn Write>, frames: u64) -> Self {
        let mut capture = Capture { sink, interfaces: 0, left: frames, error: None };
        let mut body = vec![];
        body.extend(0x1a2b_3c4du32.to_le_bytes()); // byte order
        body.extend(1u16.to_le_bytes());
        body.extend(0u16.to_le_bytes());
        body.extend(u64::MAX.to_le_bytes()); // length of the section not given
        capture.block(0x0a0d_0d0a, body);
        capture
    }

    /// Names the next interface; its number is how many were named before.
    pub(crate) fn interface(&mut self, name: &str) {
        let mut body = vec![];
        body.extend(1u16.to_le_bytes()); // Ethernet
        body.extend(0u16.to_le_bytes());
        body.extend(0u32.to_le_bytes()); // no snap length
        option(&mut body, 2, name.as_bytes());
        option(&mut body, 9, &[9]); // time stamps in ns
        option(&mut body, 0, &[]);
        self.block(1, body);
        self.interfaces += 1;
    }

    pub(crate) fn interfaces(&self) -> usize {
        self.interfaces
    }

    pub(crate) fn frame(&mut self, interface: usize, at: Nanos, frame: &[u8], comment: &str) {
        if self.left == 0 {
            return;
        }
        self.left -= 1;
        let mut body = Vec::with_capacity(frame.len() + 64);
        body.extend((interface as u32).to_le_bytes());
        body.extend(((at >> 32) as u32).to_le_bytes());
        body.extend((at as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend((frame.len() as u32).to_le_bytes());
        body.extend(frame);
        body.resize(body.len().next_multiple_of(4), 0);
        if !comment.is_empty() {
            option(&mut body, 1, comment.as_bytes());
            option(&mut body, 0, &[]);
        }
        self.block(6, body);
    }

    /// Ends the capture.
    ///
    /// # Errors
    /// The first error that writing met; nothing was written after it.
    pub fn finish(mut self) -> io::Result<()> {
        match self.error.take() {
            Some(e) => Err(e),
            None => self.sink.flush(),
        }
    }

    fn block(&mut self, kind: u32, body: Vec<u8>) {
        if self.error.is_some() {
            return;
        }
        let len = (body.len() as u32 + 12).to_le_bytes();
        let mut block = Vec::with_capacity(body.len() + 12);
        block.extend(kind.to_le_bytes());
        block.extend(len);
        block.extend(body);
        block.extend(len);
        self.error = self.sink.write_all(&block).err();
    }
}

fn option(body: &mut Vec<u8>, code: u16, value: &[u8]) {
    body.extend(code.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    body.resize(body.len().next_multiple_of(4), 0);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[derive(Clone, Default)]
    struct Sink(Rc<RefCell<Vec<u8>>>);
    impl Write for Sink {
        fn write(&mut self, b: &[u8]) -> io::Result<usize> {
            self.0.borrow_mut().extend(b);
            Ok(b.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn every_block_says_its_length_at_both_ends_and_the_bound_holds() {
        let sink = Sink::default();
        let mut c = Capture::new(Box::new(sink.clone()), 1);
        c.interface("client");
        c.frame(0, 0x1_0000_0002, b"abcde", "lost");
        c.frame(0, 3, b"beyond the bound", "");
        c.finish().unwrap();
        let bytes = sink.0.borrow();
        let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
        let (mut at, mut kinds) = (0, vec![]);
        while at < bytes.len() {
            let len = word(at + 4) as usize;
            assert!(len.is_multiple_of(4));
            assert_eq!(word(at + len - 4) as usize, len);
            if word(at) == 6 {
                assert_eq!((word(at + 12), word(at + 16), word(at + 20)), (1, 2, 5));
                assert_eq!(&bytes[at + 28..at + 33], b"abcde");
                assert_eq!(&bytes[at + 40..at + 44], b"lost");
            }
            kinds.push(word(at));
            at += len;
        }
        assert_eq!(kinds, [0x0a0d_0d0a, 1, 6]);
    }
}
