//! `lcs rules explain`

use super::{chosen, rules_of, say, well};
use crate::Common;
use crate::endpoint::word;
use crate::outcome::{Error, Outcome, json};
use lcs_control::config::{Admin, Configuration, Content, Service, Word};
use lcs_control::rules::{self, Explanation, GivenRequest, Protocol, Reading, RuleSet, Trial};
use lcs_pipelines::content::Binding;
use lcs_pipelines::extract;
use std::fmt;
use std::io::{self, Read};
use std::net::IpAddr;
use std::path::PathBuf;

/// Show which rule a request takes, and why each one above it does not.
///
/// The verdict is that of the program that workers run, by the service's own limits if it is given with -c. What had to be
/// assumed is printed at the end. Every request of the connection is explained, each packet taken as it came.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs rules explain shop.rules --request request.http
  lcs rules explain shop.rules --request request.http -c lcs.toml --from 203.0.113.9 --down images
  printf 'GET /a.gif HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n' | lcs rules explain shop.rules --request -
  lcs rules explain shop.rules --text --request request.txt
  lcs rules explain shop.rules --request client.pcap --port 8080

Exit code 1: a request is taken by no rule, or it is refused, or more of it is needed.")]
pub(super) struct Explain {
    /// The rule file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// What the client sends, byte for byte, or a capture (pcap, pcapng) of it; - for the standard input.
    #[arg(long, value_name = "FILE")]
    request: PathBuf,
    /// In a capture, the port of the service: the first connection to it that says something is taken [default: the port of
    /// the service in the configuration, else 80].
    #[arg(long)]
    port: Option<u16>,
    /// The request is text: its head gets CR LF, and its body a Content-Length.
    #[arg(long)]
    text: bool,
    /// What the client speaks: http, tls, smtp, pop3, imap, ftp [default: told from its first bytes].
    #[arg(long, value_parser = word::<extract::Protocol>, conflicts_with = "config")]
    application: Option<extract::Protocol>,
    /// A configuration: the request is read as a service in it reads requests.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which service of the configuration [default: the one that uses the file, or the only one with rules].
    #[arg(long, value_name = "NAME", requires = "config")]
    service: Option<String>,
    /// The client's address, where the request is no capture.
    #[arg(long, value_name = "ADDRESS")]
    from: Option<IpAddr>,
    /// A group without a server that is up; may be given several times.
    #[arg(long, value_name = "GROUP")]
    down: Vec<String>,
}

/// Longest file with a request in it, bytes.
const REQUEST_MAX: u64 = 1 << 30;

/// Everything that is shown.
#[derive(Debug, serde::Serialize)]
struct Explained {
    requests: Vec<Request>,
    /// What was not given.
    assumed: Vec<String>,
}

/// One request of the connection.
#[derive(Debug, serde::Serialize)]
struct Request {
    /// Where it begins, in bytes of what the client sent, and how many of its bytes are there.
    start: usize,
    length: usize,
    /// How it begins.
    text: String,
    #[serde(flatten)]
    explanation: Explanation,
}

impl fmt::Display for Explained {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.requests.len();
        for (index, request) in self.requests.iter().enumerate() {
            if count > 1 {
                writeln!(f, "request {} of {count}: {}", index + 1, request.text)?;
            }
            writeln!(f, "{}", request.explanation)?;
        }
        self.assumed.iter().try_for_each(|what| writeln!(f, "assumed: {what}"))
    }
}

/// Bytes of a request's first line that are shown.
const SHOWN: usize = 80;

fn first_line(bytes: &[u8]) -> String {
    let line = bytes.split(|b| *b == b'\n').find(|line| !line.trim_ascii().is_empty()).unwrap_or_default().trim_ascii();
    line[..line.len().min(SHOWN)].escape_ascii().to_string()
}

/// What is written in the request's file.
fn given(args: &Explain, port: u16) -> Result<GivenRequest, Error> {
    let name = args.request.display();
    let read = || {
        let source: Box<dyn Read> = match args.request.to_str() {
            Some("-") => Box::new(io::stdin().lock()),
            _ => Box::new(std::fs::File::open(&args.request)?),
        };
        let mut bytes = Vec::new();
        source.take(REQUEST_MAX + 1).read_to_end(&mut bytes)?;
        Ok::<_, io::Error>(bytes)
    };
    let bytes = read().map_err(|e| Error::Failed(format!("{name} cannot be read: {e}")))?;
    if bytes.is_empty() {
        let what = "is empty; put into it what a client sends, byte for byte, or a capture of that";
        return Err(Error::Failed(format!("{name} {what}")));
    }
    if bytes.len() as u64 > REQUEST_MAX {
        return Err(Error::Failed(format!("{name} is longer than {} MiB; cut the capture", REQUEST_MAX >> 20)));
    }
    if args.text {
        return Ok(GivenRequest::from_text(&String::from_utf8_lossy(&bytes)));
    }
    let given = GivenRequest::from_file(bytes, port).map_err(|e| Error::Failed(format!("{name}: {e}")))?;
    if given.bytes.is_empty() {
        let what =
            "the first bytes of what the client sent are not in the capture; capture from the connection's beginning";
        return Err(Error::Failed(format!("{name}: {what}")));
    }
    Ok(given)
}

/// Says of the connection what was given of it, and what of that was not.
fn connect(given: &mut GivenRequest, args: &Explain, service: Option<&Service>) -> Result<Option<String>, Error> {
    if !given.packets.is_empty() {
        return match args.from {
            Some(_) => {
                Err(Error::Usage("--from is for a request without packets; the capture says who sent it".into()))
            }
            None => Ok(None),
        };
    }
    let Some(to) = service.map(|service| (service.address, service.port)) else {
        let Some(from) = args.from else {
            return Ok(Some("the client is 192.0.2.1, port 40000 (say who with --from), its packet has TTL 64".into()));
        };
        let to: IpAddr =
            if from.is_ipv4() { [198, 51, 100, 1].into() } else { [0x2001, 0xdb8, 0, 0, 0, 0, 0, 1].into() };
        given.connection.set_addresses(from, to);
        return Ok(Some("the client's port is 40000, its packet has TTL 64".into()));
    };
    let from: IpAddr = match args.from {
        Some(from) if from.is_ipv4() != to.0.is_ipv4() => {
            let what = format!("--from {from}, and the service's address is {}: give one of its family", to.0);
            return Err(Error::Usage(what));
        }
        Some(from) => from,
        None if to.0.is_ipv4() => [192, 0, 2, 1].into(),
        None => [0x2001, 0xdb8, 0, 0, 0, 0, 0, 2].into(),
    };
    given.connection.set_addresses(from, to.0);
    given.connection.set_ports(40_000, to.1);
    Ok(Some(match args.from {
        Some(_) => "the client's port is 40000, its packet has TTL 64".into(),
        None => format!("the client is {from}, port 40000 (say who with --from), its packet has TTL 64"),
    }))
}

/// Notes which groups have no server that is up, and says what is assumed of the others.
fn groups(
    given: &mut GivenRequest,
    args: &Explain,
    trial: &Trial<'_>,
    service: Option<&Service>,
) -> Result<String, Error> {
    let content = service.and_then(|service| service.content.as_ref());
    let known: Vec<&str> = match content {
        Some(content) => content.groups.iter().map(|group| group.name.as_str()).collect(),
        None => trial.groups().iter().map(String::as_str).collect(),
    };
    for name in &args.down {
        if !known.contains(&name.as_str()) {
            let what = if known.is_empty() { "there are no groups".to_owned() } else { known.join(", ") };
            return Err(Error::Usage(format!("--down {name}: there is no such group; known are: {what}")));
        }
        given.connection.servers_up.insert(name.clone(), false);
    }
    // What the configuration itself takes out of service.
    let weighs = |name: &String| {
        service.and_then(|s| s.server(name)).is_some_and(|server| server.weight > 0 && server.state == Admin::Up)
    };
    for group in content.iter().flat_map(|content| &content.groups).filter(|g| !g.servers.iter().any(weighs)) {
        given.connection.servers_up.insert(group.name.clone(), false);
    }
    let others = if given.connection.servers_up.is_empty() { "every group" } else { "every other group" };
    Ok(format!("{others} has a server that is up (--down), and none has connections"))
}

pub(super) fn explain(common: &Common, args: &Explain) -> Outcome {
    let configuration = args.config.as_ref().map(|path| Configuration::load(path)).transpose()?;
    let service = configuration.as_ref().map(|all| chosen(all, args.service.as_deref(), &args.file)).transpose()?;
    let content: Option<&Content> = service.and_then(|service| service.content.as_ref());
    let set: RuleSet = match service {
        Some(service) => rules_of(service, &args.file)?,
        None => rules::read_file(&args.file, None, false)?,
    };
    let usual = Binding::default();
    let binding = content.map_or(&usual, |content| &content.binding);
    let trial = Trial::with_limits(&set, binding.limits).map_err(rules::FileError::from)?;
    let port = args.port.or(service.map(|service| service.port)).unwrap_or(80);
    let mut given = given(args, port)?;
    let mut assumed = Vec::new();
    let protocol = match content.map(|content| content.application).or(args.application) {
        Some(application) => Protocol::of(application),
        None => {
            let guess = trial.guess(&given.bytes);
            let spoken = guess.map_or("nothing that rules read".to_owned(), |protocol| protocol.to_string());
            assumed.push(format!("the client speaks {spoken}, by its first bytes (--application)"));
            guess
        }
    };
    assumed.extend(connect(&mut given, args, service)?);
    assumed.push(groups(&mut given, args, &trial, service)?);
    if content.is_none() {
        assumed.push(format!(
            "a head of {} bytes and {} bytes of a body are read, switching = \"{}\", on-unparsed = \"{}\" (-c)",
            binding.limits.head,
            binding.limits.body,
            binding.switching.word(),
            binding.on_unparsed.word()
        ));
    }
    let reading = Reading { protocol, switching: binding.switching, on_unparsed: binding.on_unparsed };
    let requests = trial.decisions(&given, &reading).into_iter().map(|decided| {
        let mut explanation = Explanation::of(trial.evaluator(), &decided, &reading);
        let bytes = &given.bytes[decided.start..];
        if explanation.refused.is_some() && !args.text && protocol == Some(Protocol::Http) && !bytes.contains(&b'\r') {
            explanation.notes.push("if its line ends are plain ones, give --text".into());
        }
        Request { start: decided.start, length: decided.length, text: first_line(bytes), explanation }
    });
    let explained = Explained { requests: requests.collect(), assumed };
    say(&if common.json { json(&explained)? } else { explained.to_string() })?;
    well(!explained.requests.is_empty() && explained.requests.iter().all(|request| request.explanation.is_taken()))
}
