//! Replays the vectors in `tests/vectors/*.txt`: input packet → expected packet and verdict. The format is in the README there.

mod wire;
mod world;

use lcs_dataplane::DropReason;
use std::fs;
use std::path::Path;
use wire::packet::Packet;
use wire::verify;
use world::{CLIENT, World, drop_reason, ended, interface_mac, seconds};

/// What is expected of one frame.
#[derive(Debug)]
enum Expected {
    /// `None`: some packet, whose checksums are right.
    Forward {
        interface: u8,
        packet: Option<Box<Packet>>,
        text: String,
    },
    Drop(DropReason),
    /// For the director itself.
    Consume,
    /// It is kept, and comes again.
    Hold,
}

#[derive(Debug)]
struct Step {
    line: usize,
    number: u32,
    interface: u8,
    frame: Vec<u8>,
    /// What goes out in front of it: pieces of it, where it has to be cut.
    pieces: Vec<(u8, Box<Packet>, String)>,
    expected: Option<Expected>,
}

struct Runner {
    world: World,
    /// The burst being collected.
    burst: Vec<Step>,
    steps: u32,
    dirty: bool,
}

type Failure = (usize, String);

fn at(line: usize) -> impl Fn(String) -> Failure {
    move |e| (line, e)
}

fn interface(word: Option<&str>) -> Result<u8, String> {
    match word {
        Some("if0") => Ok(0),
        Some("if1") => Ok(1),
        other => Err(format!("{:?}: the interface is if0 or if1", other.unwrap_or(""))),
    }
}

impl Runner {
    fn new() -> Self {
        Runner { world: World::default(), burst: vec![], steps: 0, dirty: true }
    }

    /// Replaces the names of servers, routers and interfaces in `from=` and `to=` by their addresses.
    fn named(&self, words: &str) -> Result<String, String> {
        let mut after = "";
        let words = words.split(' ').map(|w| match w.split_once('=') {
            _ if std::mem::replace(&mut after, w) == "is-at" => {
                Ok(self.world.mac(w)?.map(|b| format!("{b:02x}")).join(":"))
            }
            Some((k @ ("from" | "to" | "link" | "mac"), name)) => {
                let m = if name == "broadcast" { [0xff; 6] } else { self.world.mac(name)? };
                Ok(format!("{k}={}", m.map(|b| format!("{b:02x}")).join(":")))
            }
            _ => Ok(w.to_owned()),
        });
        Ok(words.collect::<Result<Vec<_>, String>>()?.join(" "))
    }

    fn line(&mut self, n: usize, line: &str) -> Result<(), Failure> {
        let text = line.split('#').next().unwrap_or("").trim();
        let first = text.split_whitespace().next().unwrap_or("");
        if first.is_empty() {
            return Ok(());
        }
        if first == "=>" {
            return self.expectation(n, text[2..].trim());
        }
        if first.bytes().all(|b| b.is_ascii_digit()) {
            return self.step(n, text);
        }
        self.flush()?;
        if let Some(rest) = text.strip_prefix("expect ") {
            self.install();
            return self.expect(rest).map_err(at(n));
        }
        if let Some(rest) = text.strip_prefix("wait ") {
            self.install();
            self.world.advance(seconds(rest.trim()).map_err(at(n))?);
            return Ok(());
        }
        if let Some(rest) = text.strip_prefix("released ") {
            self.install();
            self.world.idle();
            let mut sent = self.world.sent().into_iter();
            for packet in rest.split(" ; ").filter(|p| *p != "nothing") {
                let (on, words) = packet.split_once(' ').ok_or((n, "write: released INTERFACE PACKET".to_owned()))?;
                let on = interface(Some(on)).map_err(at(n))?;
                let wanted = self.named(words).and_then(|p| Packet::read(&p)).map_err(at(n))?;
                let (i, got) = sent.next().ok_or((n, format!("nothing was released: {packet}")))?;
                compare(self.steps, &wanted, on, packet, i, &got).map_err(at(n))?;
            }
            return sent
                .next()
                .map_or(Ok(()), |(i, got)| Err((n, format!("one more went out on if{i}:\n{}", dump(&got)))));
        }
        if let Some(rest) = text.strip_prefix("transmit-ring ") {
            let limit = rest.trim().parse().map_err(|_| (n, format!("{rest:?} is no number")))?;
            self.world.worker.port_mut().limit_transmit(limit);
            return Ok(());
        }
        self.dirty |= !matches!(first, "weight" | "resolve" | "unresolve");
        self.world.line(text).map_err(at(n))
    }

    fn install(&mut self) {
        if std::mem::take(&mut self.dirty) {
            self.world.install();
        }
    }

    fn step(&mut self, n: usize, text: &str) -> Result<(), Failure> {
        let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut words = text.splitn(4, ' ');
        let number: u32 = words.next().and_then(|w| w.parse().ok()).unwrap_or(0);
        if number != self.steps + 1 {
            return Err((n, format!("step {number} follows step {}", self.steps)));
        }
        self.steps = number;
        let time = words.next().unwrap_or("");
        let on = interface(words.next()).map_err(at(n))?;
        let packet = words.next().ok_or((n, "write: NUMBER TIME INTERFACE PACKET".to_owned()))?;
        if time != "&" {
            self.flush()?;
            let to = world::START + seconds(time).map_err(at(n))?.as_nanos() as u64;
            let by = to.checked_sub(self.world.now).ok_or((n, format!("{time} is before the step in front")))?;
            self.install();
            self.world.advance(std::time::Duration::from_nanos(by));
        } else if self.burst.is_empty() {
            return Err((n, "& puts a frame in the burst of the step in front, and there is none".to_owned()));
        }
        self.install();
        let packet = self.named(packet).and_then(|p| Packet::read(&p)).map_err(at(n))?;
        let from = if on == 0 { CLIENT } else { [2, 0, 0, 0, 1, 1] };
        let frame = packet.frame(from, interface_mac(on)).map_err(at(n))?;
        self.burst.push(Step { line: n, number, interface: on, frame, pieces: vec![], expected: None });
        Ok(())
    }

    fn expectation(&mut self, n: usize, text: &str) -> Result<(), Failure> {
        let (verdict, rest) = text.split_once(' ').unwrap_or((text, ""));
        if verdict == "piece" {
            let (on, packet) = rest.trim().split_once(' ').ok_or((n, "write: => piece INTERFACE PACKET".to_owned()))?;
            let packet = self.named(packet.trim()).and_then(|p| Packet::read(&p)).map_err(at(n))?;
            let piece = (interface(Some(on)).map_err(at(n))?, Box::new(packet), rest.to_owned());
            let step = self.burst.last_mut().ok_or((n, "=> stands under the step that it is about".to_owned()))?;
            step.pieces.push(piece);
            return Ok(());
        }
        let expected = match verdict {
            "consume" => Expected::Consume,
            "hold" => Expected::Hold,
            "drop" => Expected::Drop(drop_reason(rest.trim()).map_err(at(n))?),
            "forward" => {
                let (on, packet) =
                    rest.trim().split_once(' ').ok_or((n, "write: => forward INTERFACE PACKET".to_owned()))?;
                let packet = match packet.trim() {
                    "any" => None,
                    p => Some(Box::new(self.named(p).and_then(|p| Packet::read(&p)).map_err(at(n))?)),
                };
                Expected::Forward { interface: interface(Some(on)).map_err(at(n))?, packet, text: rest.to_owned() }
            }
            _ => return Err((n, format!("{verdict:?}: a frame ends in forward, hold, consume or drop"))),
        };
        let step = self.burst.last_mut().ok_or((n, "=> stands under the step that it is about".to_owned()))?;
        if step.expected.replace(expected).is_some() {
            return Err((n, "a frame has one verdict".to_owned()));
        }
        Ok(())
    }

    /// Sends the burst that was collected and compares.
    fn flush(&mut self) -> Result<(), Failure> {
        let burst = std::mem::take(&mut self.burst);
        if burst.is_empty() {
            return Ok(());
        }
        let before = self.world.worker.counters().clone();
        let frames: Vec<_> = burst.iter().map(|s| (s.interface, s.frame.clone())).collect();
        let mut sent = self.world.burst(&frames).into_iter();
        let after = self.world.worker.counters().clone();
        if ended(&after) - ended(&before) != burst.len() as u64 {
            return Err((
                burst[0].line,
                format!("{} frames had {} verdicts", burst.len(), ended(&after) - ended(&before)),
            ));
        }
        let (mut drops, mut consumed, mut held) = (before.dropped.clone(), before.consumed, before.held);
        for step in &burst {
            for (interface, packet, text) in &step.pieces {
                let Some((on, got)) = sent.next() else {
                    return Err((step.line, format!("step {}: a piece is missing: {text}", step.number)));
                };
                compare(step.number, packet, *interface, text, on, &got).map_err(at(step.line))?;
            }
        }
        for step in &burst {
            match step.expected.as_ref().ok_or((step.line, "the step has no expected verdict".to_owned()))? {
                Expected::Drop(reason) => drops[*reason as usize] += 1,
                Expected::Consume => consumed += 1,
                Expected::Hold => held += 1,
                Expected::Forward { interface, packet, text } => {
                    let Some((on, got)) = sent.next() else {
                        return Err((
                            step.line,
                            format!(
                                "step {}: not forwarded; {}",
                                step.number,
                                reasons(&before.dropped, &after.dropped)
                            ),
                        ));
                    };
                    let Some(packet) = packet else {
                        if on != *interface {
                            return Err((step.line, format!("step {}: sent on if{on}", step.number)));
                        }
                        verify::frame(&got, true).map_err(at(step.line))?;
                        continue;
                    };
                    compare(step.number, packet, *interface, text, on, &got).map_err(at(step.line))?;
                }
            }
        }
        if let Some((on, got)) = sent.next() {
            return Err((burst[0].line, format!("a frame more than expected went out on if{on}:\n{}", dump(&got))));
        }
        if held != after.held {
            return Err((
                burst[0].line,
                format!("{} frames are held; {}", after.held, reasons(&before.dropped, &after.dropped)),
            ));
        }
        if consumed != after.consumed {
            let n = after.consumed - before.consumed;
            return Err((burst[0].line, format!("{n} frames were for the director itself")));
        }
        if drops != after.dropped {
            return Err((
                burst[0].line,
                format!(
                    "expected {}, but saw {}",
                    reasons(&before.dropped, &drops),
                    reasons(&before.dropped, &after.dropped)
                ),
            ));
        }
        Ok(())
    }

    fn expect(&mut self, what: &str) -> Result<(), String> {
        let report = self.world.report();
        for claim in what.split_whitespace() {
            let (name, value) = claim.split_once('=').ok_or("write NAME=NUMBER")?;
            let want: u64 = value.parse().map_err(|_| format!("{value:?} is no number"))?;
            let got = match name.split_once('.') {
                None => match name {
                    "flows" => report.flows as u64,
                    "half-open" => report.half_open as u64,
                    "evicted" => report.evicted,
                    "expired" => report.expired,
                    "fragments" => report.fragments as u64,
                    "icmp-sent" => report.icmp_sent,
                    "fragments-made" => report.fragments_made,
                    "held" => report.counters.held,
                    "templates" => report.templates.iter().map(|n| u64::from(*n)).sum(),
                    _ => {
                        return Err(format!(
                            "{name:?}: flows half-open evicted expired fragments fragments-made held templates icmp-sent, state.NAME, dropped.NAME, or SERVER.active …"
                        ));
                    }
                },
                Some(("state", s)) => {
                    let state = lcs_dataplane::flow::TcpState::ALL
                        .into_iter()
                        .find(|t| t.name() == s)
                        .ok_or(format!("no state {s:?}"))?;
                    report.states[state as usize]
                }
                Some(("dropped", r)) => report.counters.dropped_for(drop_reason(r)?),
                Some((server, field)) => {
                    let s = &report.servers[self.world.server_slot(server)];
                    match field {
                        "connections" => s.connections,
                        "active" => u64::from(s.active),
                        "inactive" => u64::from(s.inactive),
                        "packets-in" => s.packets_in,
                        "packets-out" => s.packets_out,
                        "bytes-in" => s.bytes_in,
                        "bytes-out" => s.bytes_out,
                        _ => {
                            return Err(format!(
                                "{field:?}: connections active inactive packets-in packets-out bytes-in bytes-out"
                            ));
                        }
                    }
                }
            };
            if got != want {
                return Err(format!("expected {claim}, but it is {got}"));
            }
        }
        Ok(())
    }
}

/// Whether the frame `got`, sent on `on`, is the expected packet.
fn compare(step: u32, packet: &Packet, interface: u8, text: &str, on: u8, got: &[u8]) -> Result<(), String> {
    let default = if interface == 0 { CLIENT } else { [2, 0, 0, 0, 1, 1] };
    let want = packet.frame(interface_mac(interface), default)?;
    if on != interface || got != want {
        return Err(difference(step, text, interface, &want, on, got));
    }
    if packet.is_broken() || packet.text("ethertype").is_some() { Ok(()) } else { verify::frame(got, true) }
}

fn reasons(before: &[u64], after: &[u64]) -> String {
    let grown: Vec<String> = DropReason::ALL
        .iter()
        .filter(|r| after[**r as usize] != before[**r as usize])
        .map(|r| format!("{} dropped as {r}", after[*r as usize] - before[*r as usize]))
        .collect();
    if grown.is_empty() { "nothing dropped".to_owned() } else { grown.join(", ") }
}

fn dump(bytes: &[u8]) -> String {
    let lines: Vec<String> = bytes
        .chunks(16)
        .take(12)
        .enumerate()
        .map(|(i, c)| {
            format!("    {:4}  {}", i * 16, c.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().join(" "))
        })
        .collect();
    lines.join("\n")
}

fn difference(step: u32, text: &str, want_on: u8, want: &[u8], on: u8, got: &[u8]) -> String {
    let first = want.iter().zip(got).position(|(a, b)| a != b).unwrap_or(want.len().min(got.len()));
    format!(
        "step {step}: expected {text}\n  differs first at byte {first} (if{want_on}, {} bytes expected; if{on}, {} bytes sent)\n  expected\n{}\n  sent\n{}",
        want.len(),
        got.len(),
        dump(want),
        dump(got)
    )
}

/// Runs one file: the number of steps, and for every case that fails the line and the reason.
fn run(text: &str) -> (u32, Vec<Failure>) {
    let (mut steps, mut failures) = (0, vec![]);
    let mut runner = Some(Runner::new());
    for (n, line) in text.lines().enumerate().map(|(n, l)| (n + 1, l)) {
        let case = line.starts_with("== ");
        let done = match (&mut runner, case) {
            (Some(r), true) => r.flush(),
            (Some(r), false) => r.line(n, line),
            (None, _) => Ok(()),
        };
        if let Err(e) = done {
            failures.push(e);
            runner = None;
        }
        if case {
            steps += runner.as_ref().map_or(0, |r| r.steps);
            runner = Some(Runner::new());
        }
    }
    if let Some(r) = &mut runner {
        failures.extend(r.flush().err());
        steps += r.steps;
    }
    (steps, failures)
}

#[test]
fn every_vector_holds() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut files: Vec<_> = fs::read_dir(&folder).unwrap().map(|e| e.unwrap().path()).collect();
    files.retain(|f| f.extension().is_some_and(|e| e == "txt"));
    files.sort();
    let (mut failures, mut steps) = (vec![], 0);
    for file in &files {
        let name = file.file_name().unwrap().to_string_lossy().into_owned();
        let (n, failed) = run(&fs::read_to_string(file).unwrap());
        if n == 0 && failed.is_empty() {
            failures.push(format!("{name}: no step"));
        }
        steps += n;
        failures.extend(failed.into_iter().map(|(line, e)| format!("{name}:{line}: {e}")));
    }
    assert!(failures.is_empty(), "{} cases fail\n{}", failures.len(), failures.join("\n"));
    println!("{} files, {steps} steps", files.len());
}

#[test]
fn a_wrong_vector_is_reported_with_its_line() {
    let world = "service web tcp 198.51.100.1:80 rr\nserver s1 of web 10.0.0.1:8080 nat\n";
    for (steps, line, message) in [
        ("1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S\n=> drop nonsense", 4, "no drop reason"),
        ("1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S\n=> drop no-server", 3, "more than expected"),
        (
            "1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S\n=> forward if1 tcp 192.0.2.1:1 > 10.0.0.1:8080 S",
            3,
            "differs first at byte 22",
        ),
        (
            "1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S\n=> forward if0 tcp 192.0.2.1:1 > 10.0.0.1:8080 S ttl=63",
            3,
            "if1",
        ),
        (
            "1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:81 S\n=> forward if1 tcp 192.0.2.1:1 > 10.0.0.1:8080 S ttl=63",
            3,
            "dropped as not-for-us",
        ),
        ("1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S tttl=3", 3, "no attribute"),
        ("1 0s if2 tcp 192.0.2.1:1 > 198.51.100.1:80 S", 3, "if0 or if1"),
        ("2 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S", 3, "follows step 0"),
        ("1 0s if0 tcp 192.0.2.1:1 > 198.51.100.1:80 S", 3, "no expected verdict"),
        ("\nfoo", 4, "no such line"),
        ("expect flows=1", 3, "but it is 0"),
    ] {
        let (_, failed) = run(&format!("{world}{steps}"));
        assert_eq!(failed.len(), 1, "{steps}: {failed:?}");
        let (at, e) = &failed[0];
        assert!(*at == line && e.contains(message), "{steps}\nline {at}: {e}");
    }
}
