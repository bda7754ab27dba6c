//! What a replay tells: a record for each frame, and a report on the whole.

use lcs_control::render::counted;
use lcs_dataplane::DropReason;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// What became of one frame of the capture.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct FrameRecord {
    /// Its number in the capture, from 1.
    pub number: u64,
    /// Seconds since the first frame.
    pub time: f64,
    /// Interface of the director that it came in on; `None` when it was left out.
    pub interface: Option<String>,
    /// Its length on the wire, bytes.
    pub length: u32,
    /// The capture kept only its beginning; the rest was taken to be zeros.
    pub truncated: bool,
    /// `forward`; `answer` when an answer to its sender left in its place; `consume`, `kernel`, `drop`; or `skipped` when it was not
    /// given to the pipeline.
    pub verdict: &'static str,
    /// Why it was dropped or skipped.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The reason in a sentence.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub explanation: Option<String>,
    /// The virtual service whose connection it belongs to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// The server that was chosen for the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The frame as it came, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub frame: Option<String>,
    /// What each stage decided: stage and decision.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub steps: Vec<(String, String)>,
    /// The frame as it left, in words; with the verdict `answer`, what left in its place.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sent: Option<String>,
    /// What its sender was answered with, where that left in its place: the frame itself went nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
}

impl FrameRecord {
    /// The heading of the table whose lines [`FrameRecord`] prints.
    pub fn heading() -> String {
        format!("{:>7} {:>12} {:8} {:24} {:24} frame", "number", "seconds", "on", "verdict", "service/server")
    }
}

impl fmt::Display for FrameRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let on = self.interface.as_deref().unwrap_or("-");
        let verdict = match &self.reason {
            Some(reason) => format!("{} ({reason})", self.verdict),
            None => self.verdict.to_owned(),
        };
        let chosen = match (&self.service, &self.server) {
            (Some(service), Some(server)) => format!("{service}/{server}"),
            _ => "-".to_owned(),
        };
        write!(f, "{:>7} {:>12.6} {on:8} {verdict:24} {chosen:24} ", self.number, self.time)?;
        match &self.frame {
            Some(frame) => f.write_str(frame)?,
            None => write!(f, "{} bytes", self.length)?,
        }
        if self.truncated {
            f.write_str(" (only its beginning was captured)")?;
        }
        if let Some(answer) = &self.answer {
            write!(f, "; answered with {answer}")?;
        }
        Ok(())
    }
}

/// What one server got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct ServerShare {
    /// Frames of its connections, in both directions.
    pub frames: u64,
    /// Connections opened.
    pub connections: u64,
}

/// What became of a capture.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// Frames in the capture.
    pub frames: u64,
    /// Of these, sent on.
    pub forwarded: u64,
    /// Not sent on: an answer to their sender was sent in their place.
    pub answered: u64,
    /// Answered otherwise or used by the director itself.
    pub consumed: u64,
    /// For the kernel.
    pub to_kernel: u64,
    /// Dropped, by reason.
    pub dropped: BTreeMap<String, u64>,
    /// Not given to the pipeline, by reason.
    pub skipped: BTreeMap<String, u64>,
    /// Frames of which only the beginning was captured.
    pub truncated: u64,
    /// Frames written to the capture of what was sent.
    pub sent: u64,
    /// By service and server, as `service/server`.
    pub servers: BTreeMap<String, ServerShare>,
    /// Connections that timed out.
    pub expired: u64,
    /// Connections at the end.
    pub flows: usize,
    /// Seconds from the first to the last frame.
    pub seconds: f64,
    /// Frames with an earlier time than one before them; they were taken to come at the later time.
    pub out_of_order: u64,
    /// Next hops whose link-layer address was made up.
    pub made_up_next_hops: usize,
    /// What a user should know about the outcome.
    pub notes: Vec<String>,
    /// The whole capture was replayed. If not, `damaged` or the notes say why.
    pub complete: bool,
    /// Why the capture could not be read to its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub damaged: Option<String>,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Report { frames, forwarded, answered, consumed, to_kernel, seconds, .. } = self;
        let dropped: u64 = self.dropped.values().sum();
        writeln!(
            f,
            "{} in {seconds:.3} s: {forwarded} forwarded, {answered} answered, {consumed} consumed, {to_kernel} for the kernel, \
             {dropped} dropped",
            counted(*frames as usize, "frame")
        )?;
        for (reason, n) in &self.dropped {
            let why = DropReason::from_name(reason).map_or("", DropReason::explanation);
            writeln!(f, "  dropped {n}: {reason}: {why}")?;
        }
        for (reason, n) in &self.skipped {
            writeln!(f, "  left out {n}: {reason}")?;
        }
        for (name, share) in &self.servers {
            let (connections, frames) =
                (counted(share.connections as usize, "connection"), counted(share.frames as usize, "frame"));
            writeln!(f, "  {name}: {connections}, {frames}")?;
        }
        let (sent, left) = (counted(self.sent as usize, "frame"), counted(self.flows, "connection"));
        writeln!(f, "{sent} sent; {left} left, {} timed out", self.expired)?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        if let Some(damaged) = &self.damaged {
            writeln!(f, "the capture is damaged, and was replayed up to there: {damaged}")?;
        }
        Ok(())
    }
}
