//! What clients compare their answers with.

use super::Reply;
use std::collections::VecDeque;

/// Compares what comes with what is to come.
#[derive(Debug, Default)]
pub struct Ear {
    waits: VecDeque<Reply>,
    input: Vec<u8>,
    /// Servers that have answered, in order; empty for a line from anyone.
    pub answered: Vec<String>,
    /// Bytes compared.
    pub bytes: u64,
}

impl Ear {
    /// Waits for these too.
    pub fn expect(&mut self, replies: &[Reply]) {
        self.waits.extend(replies.iter().cloned());
    }

    /// Whether nothing more is to come.
    pub fn is_content(&self) -> bool {
        self.waits.is_empty() && self.input.is_empty()
    }

    /// Takes in what has come.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn hear(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.input.extend_from_slice(bytes);
        while !self.input.is_empty() {
            let shown = |bytes: &[u8]| String::from_utf8_lossy(&bytes[..bytes.len().min(160)]).into_owned();
            let (length, server) = match self.waits.front() {
                None => return Err(format!("bytes that no one asked for: {:?}", shown(&self.input))),
                Some(Reply::Line(start)) => {
                    let Some(end) = self.input.iter().position(|b| *b == b'\n') else { return Ok(()) };
                    if !self.input.starts_with(start.as_bytes()) {
                        return Err(format!("{:?} where a line with {start} was to come", shown(&self.input)));
                    }
                    (end + 1, String::new())
                }
                Some(Reply::Of(candidates)) => {
                    let input = &self.input;
                    let agrees = |c: &&(String, Vec<u8>)| {
                        let n = c.1.len().min(input.len());
                        c.1[..n] == input[..n]
                    };
                    let Some((server, bytes)) = candidates.iter().find(agrees) else {
                        let names: Vec<&str> = candidates.iter().map(|c| c.0.as_str()).collect();
                        return Err(format!("not what {} answers: {:?}", names.join(" or "), shown(input)));
                    };
                    if input.len() < bytes.len() {
                        return Ok(());
                    }
                    (bytes.len(), server.clone())
                }
            };
            self.input.drain(..length);
            self.waits.pop_front();
            self.answered.push(server);
            self.bytes += length as u64;
        }
        Ok(())
    }
}
