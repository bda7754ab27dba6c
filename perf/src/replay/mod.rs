//! `lcs replay`: one pass of a capture through a pipeline, and for each frame the verdict, its reason, and the chosen server.
//!
//! The pipeline is the one that `lcs run` uses, on one worker; its clock is the capture's, so time-outs act as they would have. There
//! is no kernel: link-layer addresses that only it could tell are made up, and the report says how many. What the pipeline would
//! hand to the kernel ends there.

mod answer;
mod report;

pub use report::{FrameRecord, Report, ServerShare};

use lcs_control::config::Configuration;
use lcs_control::director::launch::memory_environment;
use lcs_control::model::{Model, Refused};
use lcs_dataplane::batch::NO_FLOW;
use lcs_dataplane::cycles::{NoMeter, Stopwatch};
use lcs_dataplane::flow::Place;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::pcap::{Arrival, OpenError, PcapPort};
use lcs_dataplane::port::{Capabilities, Port};
use lcs_dataplane::worker::{Counters, Nanos, Pipeline};
use lcs_dataplane::{Batch, DropReason, Verdict};
use lcs_pipelines::command::{Acknowledgement, Command, Event, TraceFilter, TraceRecord};
use lcs_pipelines::layer4::Layer4;
use lcs_pipelines::snapshot::{Interface, NextHop, Snapshot};
use lcs_pipelines::stages::connection::{CONTROL_ROWS, Settings};
use lcs_pipelines::stages::schedule::SharedCounts;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The worker's time at the first frame.
const START: Nanos = 1_000_000_000;
/// The longest time between two frames that is let pass: longer ones are cut to it, and said.
const LONGEST_GAP: u64 = 30 * 24 * 3600 * 1_000_000_000;
/// Rounds of timers between two frames at most: 64 flows each, so more than any table holds.
const TIMER_ROUNDS: usize = 1 << 20;
/// Notes about gaps at most, however damaged a capture's times are.
const NOTES: usize = 16;
/// Keys the hashes: the same capture has the same outcome each time.
const SEED: u64 = 0x6c63_735f_7265_706c;

/// A pipeline that can say which server it chose.
pub trait Decides: Pipeline<Command = Command, Acknowledgement = Acknowledgement, Event = Event> {
    /// Service and server (slots) of the flow at `place`, directly after the batch was processed.
    fn chosen(&self, place: Place) -> Option<(u16, u16)>;
}

impl Decides for Layer4 {
    fn chosen(&self, place: Place) -> Option<(u16, u16)> {
        Layer4::chosen(self, place)
    }
}

/// Why a capture can't be replayed.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// A capture can't be read or begun.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// A file can't be opened.
    #[error("{path}: {error}")]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// Writing would destroy what is to be read.
    #[error("{output} is the capture that is read ({input}): give --out another file")]
    SameFile {
        /// The capture to read.
        input: PathBuf,
        /// Another name of it, perhaps.
        output: PathBuf,
    },
    /// The capture of what is sent can't be written to its end.
    #[error("the capture of what was sent can't be written: {0}")]
    Sent(io::Error),
    /// The records can't be written.
    #[error("the report can't be written: {0}")]
    Records(io::Error),
    /// The director has more interfaces than a port.
    #[error("{0} interfaces; a port has 255 at most")]
    Interfaces(usize),
}

/// Sizes of the pipeline's tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Options {
    /// Flows that the table holds.
    pub flows: usize,
    /// Fragmented packets followed at once.
    pub fragments: usize,
}

impl Default for Options {
    fn default() -> Self {
        Options { flows: 1 << 20, fragments: 4096 }
    }
}

/// What a configuration makes of the director, as far as that is known without a kernel: routes and neighbours are those that the file
/// gives, and all servers are reached through the first interface where it gives none.
///
/// # Errors
/// When a tunnel has nowhere to begin, or there are more servers than slots.
pub fn configured(configuration: &Configuration) -> Result<(Snapshot, Options), Refused> {
    let mut model = Model::new(memory_environment(configuration));
    let Configuration { workers, timeouts, neighbours, routes, services, .. } = configuration;
    model.set_settings(timeouts, workers.when_full, neighbours, routes);
    model.apply(services)?;
    let options = Options { flows: workers.flows, fragments: workers.fragments };
    Ok((Arc::unwrap_or_clone(model.snapshot()), options))
}

/// Replays the capture `input` through the layer-4 pipeline, writes what it sends to `output`, and the outcome to `records`: a table
/// for people, or with `json` one line a frame and a last one that holds the summary.
///
/// # Errors
/// When a file can't be opened, read from its beginning, or written, or both are the same. A capture that is damaged further on is
/// replayed up to there, and the report says so.
pub fn run(
    snapshot: Snapshot,
    options: Options,
    input: &Path,
    output: &Path,
    json: bool,
    records: &mut impl Write,
) -> Result<Report, ReplayError> {
    let file = |path: &Path| {
        let path = path.to_owned();
        move |error| ReplayError::File { path, error }
    };
    let capture = fs::read(input).map_err(file(input))?;
    if is_same(input, output) {
        return Err(ReplayError::SameFile { input: input.to_owned(), output: output.to_owned() });
    }
    let sent = BufWriter::new(File::create(output).map_err(file(output))?);
    if !json {
        writeln!(records, "{}", FrameRecord::heading()).map_err(ReplayError::Records)?;
    }
    let each = |record: &FrameRecord| {
        if json {
            serde_json::to_writer(&mut *records, record)?;
            return writeln!(records);
        }
        writeln!(records, "{record}")
    };
    let report = layer4(snapshot, options, &capture, sent, each)?;
    if json {
        serde_json::to_writer(&mut *records, &BTreeMap::from([("summary", &report)]))
            .map_err(|e| ReplayError::Records(e.into()))?;
        writeln!(records).map_err(ReplayError::Records)?;
    } else {
        write!(records, "{report}").map_err(ReplayError::Records)?;
    }
    Ok(report)
}

/// Whether both paths lead to one file, through links as well. One that is not there is none.
fn is_same(one: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::metadata(path).ok().map(|m| (m.dev(), m.ino()));
    identity(one).is_some_and(|one| Some(one) == identity(other))
}

/// Replays a capture, a whole file, through the layer-4 pipeline. What it sends goes to `sent`, what becomes of each frame to `each`.
///
/// # Errors
/// When the capture can't be read from its beginning, or `sent` or `each` fails.
pub fn layer4<W: Write>(
    snapshot: Snapshot,
    options: Options,
    capture: &[u8],
    sent: W,
    each: impl FnMut(&FrameRecord) -> io::Result<()>,
) -> Result<Report, ReplayError> {
    let make = |servers: usize, capabilities: Capabilities| {
        let Options { flows, fragments } = options;
        let settings = Settings { flows, fragments, seed: SEED, worker: 0, workers: 1, capabilities };
        Layer4::new(settings, Arc::new(SharedCounts::new(1, servers)), START)
    };
    replay(snapshot, make, capture, sent, each)
}

/// Replays a capture through any pipeline; `make` makes it, for this number of servers and this port.
///
/// # Errors
/// As [`layer4`]'s.
pub fn replay<L: Decides, W: Write>(
    mut snapshot: Snapshot,
    make: impl FnOnce(usize, Capabilities) -> L,
    capture: &[u8],
    sent: W,
    mut each: impl FnMut(&FrameRecord) -> io::Result<()>,
) -> Result<Report, ReplayError> {
    let mut report = Report { complete: true, ..Report::default() };
    make_up(&mut snapshot, &mut report);
    let snapshot = Arc::new(snapshot);
    let n = snapshot.interfaces.len();
    let interfaces = u8::try_from(n).map_err(|_| ReplayError::Interfaces(n))?;
    let names: Vec<String> = snapshot.interfaces.iter().map(|i| i.name.clone()).collect();
    let by_name = move |number: u32, name: Option<&str>| {
        let named = name.and_then(|name| names.iter().position(|n| n == name));
        u8::try_from(named.unwrap_or(number as usize)).ok()
    };
    let mut port = PcapPort::new(capture, interfaces, sent)?.with_interfaces(Box::new(by_name)).with_kernel();
    let mut pipeline = make(snapshot.servers.len(), port.capabilities());
    let mut counters = Counters::default();
    pipeline.command(Command::Install(snapshot.clone()), &counters, START);
    pipeline.command(Command::Trace { filter: TraceFilter::default(), frames: u32::MAX }, &counters, START);

    let mut batch = Box::<Batch>::default();
    let mut clock = CaptureClock::default();
    while let Some(at) = port.next_arrival() {
        let (now, wire) = clock.advance(at, &mut report.notes);
        port.advance(wire);
        for _ in 0..TIMER_ROUNDS {
            if !pipeline.housekeeping(&mut port, now) {
                break;
            }
        }
        let received = port.receive(&mut batch.frames, &mut batch.rx);
        let mut arrivals = port.arrivals().to_vec();
        if arrivals.is_empty() {
            report.notes.push("the pipeline holds every buffer; the rest of the capture was not replayed".into());
            report.complete = false;
            break;
        }
        let mut traces = vec![];
        // What an answer in a frame's place is told by.
        let came: Vec<Vec<u8>> = batch.frames[..received].iter().map(|frame| frame.bytes().to_vec()).collect();
        if received > 0 {
            counters.received += received as u64;
            batch.start(received, false);
            // Each frame has its verdict when it comes: nothing is held back.
            batch.again = true;
            pipeline.process(&mut port, &mut batch, now, &mut Stopwatch::start(&mut NoMeter));
            traces.extend(told(&mut pipeline, &snapshot, &mut report));
        }
        let mut traces = if traces.len() == received { traces } else { vec![] }.into_iter();
        for arrival in arrivals.drain(..) {
            let mut record = record(&arrival, clock.since(arrival.captured.at));
            report.frames += 1;
            report.out_of_order += u64::from(arrival.captured.at < wire);
            report.truncated += u64::from(record.truncated);
            match arrival.place {
                Err(skipped) => {
                    *report.skipped.entry(skipped.to_string()).or_default() += 1;
                    record.reason = Some(skipped.to_string());
                }
                Ok(i) => {
                    let place = (batch.flow[i] != NO_FLOW).then_some(Place(batch.flow[i]));
                    let chosen = place.and_then(|p| pipeline.chosen(p));
                    decided(&mut record, &batch, i, chosen, traces.next(), &snapshot);
                    if batch.verdict[i] == Verdict::Forward {
                        record.answer = came.get(i).and_then(|came| answer::answered(came, batch.frames[i].bytes()));
                    }
                    let verdict = end(&mut port, &mut batch, i);
                    count(&mut record, verdict, &mut report);
                }
            }
            each(&record).map_err(ReplayError::Records)?;
        }
        port.flush();
    }

    if let Acknowledgement::Report(told) =
        pipeline.command(Command::Report(Box::default()), &counters, clock.now.max(START))
    {
        (report.flows, report.expired) = (told.flows, told.expired);
        for (slot, stats) in told.servers.iter().enumerate() {
            if let Some(name) = server_name(&snapshot, slot) {
                report.servers.entry(name).or_default().connections = stats.connections;
            }
        }
    }
    report.seconds = (clock.now.saturating_sub(START)) as f64 / 1e9;
    report.damaged = port.read_error().map(ToString::to_string);
    report.complete &= report.damaged.is_none();
    if report.truncated > 0 {
        report.notes.push(format!(
            "{} captured in part; zeros took the place of the rest (capture with tcpdump -s 0)",
            lcs_control::render::counted(report.truncated as usize, "frame")
        ));
    }
    report.sent = port.finish().map_err(ReplayError::Sent)?.1;
    Ok(report)
}

/// The capture's time as the worker's.
#[derive(Debug, Default)]
struct CaptureClock {
    first: Option<u64>,
    /// The latest time in the capture.
    latest: u64,
    now: Nanos,
}

impl CaptureClock {
    /// Goes on to a frame captured at `at`; gives the worker's time and the time on the wire.
    fn advance(&mut self, at: u64, notes: &mut Vec<String>) -> (Nanos, u64) {
        if self.first.is_none() {
            (self.first, self.latest, self.now) = (Some(at), at, START);
        }
        let gap = at.saturating_sub(self.latest);
        if gap > LONGEST_GAP && notes.len() < NOTES {
            let days = gap / (24 * 3600 * 1_000_000_000);
            notes.push(format!("{days} days between two frames were taken for 30"));
        }
        self.now = self.now.saturating_add(gap.min(LONGEST_GAP));
        self.latest = self.latest.max(at);
        (self.now, self.latest)
    }

    fn since(&self, at: u64) -> f64 {
        (at as i128 - i128::from(self.first.unwrap_or(at))) as f64 / 1e9
    }
}

/// Makes up what only a kernel could tell.
fn make_up(snapshot: &mut Snapshot, report: &mut Report) {
    if snapshot.interfaces.is_empty() {
        snapshot.interfaces.push(Interface { name: "capture".into(), mac: MacAddr::default(), mtu: 1500 });
    }
    let mut macs = 0;
    for (n, interface) in snapshot.interfaces.iter_mut().enumerate() {
        if interface.mac.is_zero() {
            interface.mac = MacAddr([2, 0, 0, 0xff, 0, n as u8]);
            macs += 1;
        }
    }
    let rows = snapshot.servers.iter().flatten().map(|s| usize::from(s.next_hop) + 1);
    let rows = rows.filter(|n| *n <= CONTROL_ROWS).max().unwrap_or(0).max(snapshot.next_hops.len());
    snapshot.next_hops.resize(rows, NextHop::default());
    for (row, hop) in snapshot.next_hops.iter_mut().enumerate().filter(|(_, h)| !h.resolved) {
        let n = usize::from(hop.interface).min(snapshot.interfaces.len() - 1);
        let interface = &snapshot.interfaces[n];
        let mtu = if hop.mtu == 0 { interface.mtu } else { hop.mtu };
        let destination = MacAddr([2, 0, 0, 0xee, (row >> 8) as u8, row as u8]);
        *hop = NextHop::new(destination, interface.mac, n as u8, mtu);
        report.made_up_next_hops += 1;
    }
    if report.made_up_next_hops > 0 {
        report.notes.push(format!(
            "no kernel to ask: the link-layer addresses of {} next hops were made up (02:00:00:ee:…)",
            report.made_up_next_hops
        ));
    }
    // Whose link-layer address a captured frame must have is not known: an interface without one takes every frame.
    for interface in &mut snapshot.interfaces {
        interface.mac = MacAddr::default();
    }
    if macs > 0 {
        report.notes.push(format!("those of {macs} of the director's interfaces were, too (02:00:00:ff:…)"));
    }
}

/// Takes what the pipeline tells after a batch: the records of its frames, in order.
fn told<L: Decides>(pipeline: &mut L, snapshot: &Snapshot, report: &mut Report) -> Vec<TraceRecord> {
    let mut traces = vec![];
    while let Some(event) = pipeline.event() {
        match event {
            Event::Trace(record) => traces.push(*record),
            Event::PartialChecksums { interface, .. } => {
                let name = interface_name(snapshot, interface);
                let note = format!("checksums of frames on {name} were unfinished (offload at the sender)");
                if !report.notes.contains(&note) {
                    report.notes.push(note);
                }
            }
            _ => {}
        }
    }
    traces
}

fn interface_name(snapshot: &Snapshot, interface: u8) -> String {
    snapshot.interfaces.get(usize::from(interface)).map_or_else(|| interface.to_string(), |i| i.name.clone())
}

/// `service/server` of a server's slot.
fn server_name(snapshot: &Snapshot, slot: usize) -> Option<String> {
    let server = snapshot.servers.get(slot)?.as_ref()?;
    let service = snapshot.services.get(usize::from(server.service))?.as_ref()?;
    Some(format!("{}/{}", service.name, server.name))
}

fn record(arrival: &Arrival<'_>, time: f64) -> FrameRecord {
    FrameRecord {
        number: arrival.number,
        time,
        interface: None,
        length: arrival.captured.length,
        truncated: arrival.captured.is_truncated(),
        verdict: "skipped",
        reason: None,
        explanation: None,
        service: None,
        server: None,
        frame: None,
        steps: vec![],
        sent: None,
        answer: None,
    }
}

/// Fills in what the pipeline has decided about frame `i`.
fn decided(
    record: &mut FrameRecord,
    batch: &Batch,
    i: usize,
    chosen: Option<(u16, u16)>,
    trace: Option<TraceRecord>,
    snapshot: &Snapshot,
) {
    record.interface = Some(interface_name(snapshot, batch.rx[i]));
    if let Some((service, server)) = chosen {
        let name = snapshot.services.get(usize::from(service)).and_then(Option::as_ref).map(|s| s.name.clone());
        record.service = name;
        record.server = snapshot.servers.get(usize::from(server)).and_then(Option::as_ref).map(|s| s.name.clone());
    }
    if let Some(trace) = trace {
        (record.frame, record.steps, record.sent) = (Some(trace.frame), trace.steps, trace.sent);
    }
}

/// Ends frame `i` as its verdict says; gives the verdict, which is a drop where the port would not take it.
fn end<P: Port>(port: &mut P, batch: &mut Batch, i: usize) -> Verdict {
    let frame = std::mem::take(&mut batch.frames[i]);
    let verdict = batch.verdict[i];
    let refused = match verdict {
        Verdict::Forward => port.transmit(batch.tx[i], frame).err().map(|f| (f, DropReason::TransmitFull)),
        Verdict::Kernel => port.to_kernel(batch.rx[i], frame).err().map(|f| (f, DropReason::NotForUs)),
        // There is one worker only.
        Verdict::HandOver => Some((frame, DropReason::HandoverFull)),
        // Not in a batch whose frames may not wait; the pipeline would have the buffer.
        Verdict::Hold => None,
        Verdict::Consume | Verdict::Drop(_) => {
            port.release(frame);
            None
        }
    };
    let Some((frame, reason)) = refused else { return verdict };
    port.release(frame);
    Verdict::Drop(reason)
}

fn count(record: &mut FrameRecord, verdict: Verdict, report: &mut Report) {
    if verdict != Verdict::Forward {
        record.answer = None;
    }
    record.verdict = match verdict {
        Verdict::Forward if record.answer.is_some() => "answer",
        Verdict::Forward => "forward",
        Verdict::Consume => "consume",
        Verdict::Kernel => "kernel",
        Verdict::Hold => "hold",
        Verdict::HandOver | Verdict::Drop(_) => "drop",
    };
    match verdict {
        Verdict::Forward if record.answer.is_some() => report.answered += 1,
        Verdict::Forward => report.forwarded += 1,
        Verdict::Consume => report.consumed += 1,
        Verdict::Kernel => report.to_kernel += 1,
        Verdict::HandOver | Verdict::Hold => {}
        Verdict::Drop(reason) => {
            *report.dropped.entry(reason.name().to_owned()).or_default() += 1;
            record.reason = Some(reason.name().to_owned());
            record.explanation = Some(reason.explanation().to_owned());
        }
    }
    if let (Some(service), Some(server)) = (&record.service, &record.server) {
        report.servers.entry(format!("{service}/{server}")).or_default().frames += 1;
    }
}
