//! `lcs rules`

mod explain;

use crate::Common;
use crate::outcome::{Error, Outcome, change, json};
use lcs_control::config::{self, Configuration, Service};
use lcs_control::protocol::Request;
use lcs_control::rules::{self, CheckOptions, Context, Names, Protocol, RuleSet, Severity, Trial};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// Write, check, try and load the rules by which services are switched by content.
///
/// The language is described in control/RULES.md.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs rules check shop.rules
  lcs rules explain shop.rules --request request.http
  lcs rules test shop.rules shop.table
  sudo lcs rules load shop shop.rules

Exit codes: 0 as it should be, 1 not (mistakes or findings, a test that failed, not formatted, refused), 2 wrong usage.")]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    Fmt(Fmt),
    Check(Check),
    Explain(explain::Explain),
    Test(Test),
    Load(Load),
}

/// Write a rule file in its canonical form, comments kept.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs rules fmt shop.rules
  lcs rules fmt --check shop.rules
  lcs rules fmt - < shop.rules")]
struct Fmt {
    /// The rule file, rewritten in place; - reads the standard input and writes the standard output.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Write nothing; exit with 1 if the file is not in canonical form.
    #[arg(long)]
    check: bool,
}

/// Find mistakes, conflicts, duplicates, rules that never fire, and gaps.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs rules check shop.rules
  lcs rules check shop.rules -c lcs.toml --service shop
  lcs rules check shop.rules --groups web,images --deny note
  lcs rules check shop.rules --json | jq '.findings[].kind'

With -c, what the service's clients speak is known, too: a rule that asks for something else is found.
Without -c and --groups any name of a group or server will do.")]
struct Check {
    /// The rule file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// A configuration: names of groups and servers must be those of a service in it.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Which service of the configuration [default: the one that uses the file, or the only one with rules].
    #[arg(long, value_name = "NAME", requires = "config")]
    service: Option<String>,
    /// Groups that there are, with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "config")]
    groups: Option<Vec<String>>,
    /// Servers that there are, with commas between.
    #[arg(long, value_name = "NAMES", value_delimiter = ',', conflicts_with = "config")]
    servers: Option<Vec<String>>,
    /// The least weight of a finding with which the command fails.
    #[arg(long, value_enum, default_value_t = Deny::Warning)]
    deny: Deny,
    /// Potential conflicts shown at most.
    #[arg(long, value_name = "N", default_value_t = CheckOptions::default().max_conflicts)]
    conflicts: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Deny {
    /// Everything but hints: potential conflicts and gaps as well.
    Note,
    /// Duplicates, rules that never fire, variables that are never there, and errors.
    Warning,
    /// Absolute conflicts only.
    Error,
}

/// Run a table of requests, and compare what each gets with what it should get.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs rules test shop.rules shop.table
  lcs rules test shop.rules shop.table --json | jq '.failures[].line'

A line of a table:
  GET /images/a.gif host=shop.example  =>  images")]
struct Test {
    /// The rule file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// The table.
    #[arg(value_name = "TABLE")]
    table: PathBuf,
}

/// Give a service other rules while the director runs.
///
/// The director reads the file, compiles it, and answers when all workers have it. New connections and new requests see the
/// new set, running ones keep their server. A set with a mistake is refused, and the one that runs stays. It is not written
/// to the configuration: `lcs reload` goes back to what that says.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  lcs rules check shop.rules && sudo lcs rules load shop shop.rules")]
struct Load {
    /// The service, which the configuration gives rules and groups.
    service: String,
    /// The rule file.
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match &args.what {
        What::Fmt(args) => fmt(common, args),
        What::Check(args) => check(common, args),
        What::Explain(args) => explain::explain(common, args),
        What::Test(args) => test(common, args),
        What::Load(args) => load(common, args),
    }
}

fn say(text: &str) -> Outcome {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

/// Ends with exit code 0 if all is well, else with 1: what is wrong has been said.
fn well(well: bool) -> Outcome {
    if well { Ok(()) } else { Err(Error::NotOk) }
}

fn fmt(common: &Common, args: &Fmt) -> Outcome {
    let stdin = args.file == Path::new("-");
    let text =
        if stdin { io::read_to_string(io::stdin().lock())? } else { rules::read_text(&args.file, rules::MAX_FILE)? };
    let name = if stdin { "standard input".to_owned() } else { args.file.display().to_string() };
    let set = rules::parse(&text, &Context { lists: None, ..Context::named(&name) }).map_err(rules::FileError::from)?;
    let formatted = rules::format(&set);
    let canonical = formatted == text;
    if common.json {
        let done = if canonical || args.check || stdin { "nothing" } else { "rewritten" };
        say(&json(&serde_json::json!({ "file": name, "canonical": canonical, "done": done }))?)?;
    }
    if args.check {
        if !canonical && !common.json {
            say(&format!("{name} is not in canonical form; `lcs rules fmt` rewrites it\n"))?;
        }
        return well(canonical);
    }
    match (stdin, common.json) {
        (true, false) => say(&formatted),
        (true, true) => Ok(()),
        _ if canonical => Ok(()),
        _ => rewrite(&args.file, &formatted)
            .map_err(|e| Error::Failed(format!("{name} cannot be written: {e}; is it, and its folder, writable?"))),
    }
}

/// Puts a text in a file's place in one step, so that it is never seen half written.
fn rewrite(file: &Path, text: &str) -> io::Result<()> {
    let file = std::fs::canonicalize(file)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let beside = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let put = || {
        std::fs::write(&beside, text)?;
        std::fs::set_permissions(&beside, std::fs::metadata(&file)?.permissions())?;
        std::fs::rename(&beside, &file)
    };
    put().inspect_err(|_| {
        let _ = std::fs::remove_file(&beside);
    })
}

/// The service of a configuration that a file is read for: the one of this name, or the one that uses the file.
fn chosen<'c>(configuration: &'c Configuration, service: Option<&str>, file: &Path) -> Result<&'c Service, Error> {
    let with_rules: Vec<&Service> = configuration.services.iter().filter(|s| s.content.is_some()).collect();
    if let Some(name) = service {
        let found = configuration.services.iter().find(|s| s.name == name);
        let found = found.ok_or_else(|| Error::Usage(format!("the configuration has no service {name}")))?;
        let plain = || Error::Usage(format!("service {name} is not switched by content: it has no `rules`"));
        return found.content.is_some().then_some(found).ok_or_else(plain);
    }
    let real = |path: &Path| std::fs::canonicalize(path).ok();
    let wanted = real(file);
    let uses = |s: &&&Service| s.content.as_ref().is_some_and(|c| real(Path::new(&c.rules.file)) == wanted);
    match (with_rules.iter().find(uses), with_rules.as_slice()) {
        (Some(service), _) | (None, [service]) => Ok(service),
        (None, []) => Err(Error::Usage("no service of the configuration has `rules`".to_owned())),
        (None, several) => {
            let names: Vec<&str> = several.iter().map(|s| s.name.as_str()).collect();
            let what = format!("no service uses {}; say which with --service: {}", file.display(), names.join(", "));
            Err(Error::Usage(what))
        }
    }
}

/// A rule file as a service reads it.
fn rules_of(service: &Service, file: &Path) -> Result<RuleSet, Error> {
    let groups = service.content.iter().flat_map(|c| &c.groups).map(|g| g.name.as_str());
    let servers = service.servers.iter().map(|s| s.name.as_str());
    let queues = service.content.as_ref().map_or(&[][..], |c| &c.binding.queues);
    Ok(config::load_rules(file, &config::names(groups, servers, queues))?)
}

fn check(common: &Common, args: &Check) -> Outcome {
    let mut options = CheckOptions { max_conflicts: args.conflicts, ..CheckOptions::default() };
    let set = match &args.config {
        Some(path) => {
            let configuration = Configuration::load(path)?;
            let service = chosen(&configuration, args.service.as_deref(), &args.file)?;
            options.spoken = service.content.as_ref().and_then(|content| Protocol::of(content.application));
            rules_of(service, &args.file)?
        }
        None => {
            let given = |names: &Option<Vec<String>>| names.as_ref().map(|names| names.iter().cloned().collect());
            let algorithms = config::names(std::iter::empty(), std::iter::empty(), &[]).algorithms;
            let names = Names { groups: given(&args.groups), servers: given(&args.servers), queues: None, algorithms };
            let set = rules::read_file(&args.file, Some(&names), false)?;
            Trial::new(&set).map_err(rules::FileError::from)?; // what only the compiler finds
            set
        }
    };
    let report = rules::check(&set, &options);
    say(&if common.json { json(&report)? } else { format!("{report}\n") })?;
    let weight = |severity| match severity {
        Severity::Hint => -1, // nothing is wrong
        Severity::Note => 0,
        Severity::Warning => 1,
        Severity::Error => 2,
    };
    let least = weight(match args.deny {
        Deny::Note => Severity::Note,
        Deny::Warning => Severity::Warning,
        Deny::Error => Severity::Error,
    });
    let unseen = args.deny == Deny::Note && report.omitted_pairs > 0;
    well(!unseen && report.findings.iter().all(|finding| weight(finding.severity) < least))
}

/// A rule set with its program.
fn with_trial<T>(file: &Path, then: impl FnOnce(&RuleSet, &Trial<'_>) -> Result<T, Error>) -> Result<T, Error> {
    let set = rules::read_file(file, None, false)?;
    let trial = Trial::new(&set).map_err(rules::FileError::from)?;
    then(&set, &trial)
}

fn test(common: &Common, args: &Test) -> Outcome {
    with_trial(&args.file, |set, trial| {
        let table = rules::read_text(&args.table, TABLE_MAX)?;
        let name = args.table.display().to_string();
        let report =
            rules::test_table(set, &table, &name, |case| trial.decide(case)).map_err(rules::FileError::from)?;
        say(&if common.json { json(&report)? } else { format!("{report}\n") })?;
        well(report.failures.is_empty())
    })
}

/// Longest test table, bytes.
const TABLE_MAX: usize = 64 << 20;

fn load(common: &Common, args: &Load) -> Outcome {
    // The director runs in another folder.
    let file = std::path::absolute(&args.file)?;
    change(common, Request::LoadRules { service: args.service.clone(), file })
}
