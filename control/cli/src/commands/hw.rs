//! `lcs hw`

mod ask;
mod show;

use crate::Common;
use crate::outcome::{Error, Outcome, json};
use clap::Subcommand;
use lcs_hwconf::check::{self, Report, Severity};
use lcs_hwconf::machine::Machine;
use lcs_hwconf::plan::{self, Goal, Plan};
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// What the machine is, what to change on it, and what would spoil a figure. Nothing is changed.
#[derive(Debug, clap::Args)]
#[command(
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  lcs hw show
  lcs hw plan --goal latency --interfaces ens1f0,ens1f1
  lcs hw check -c lcs.toml

hwconf/HARDWARE.md says how to take this to a rack."
)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    Show(ShowArgs),
    Plan(PlanArgs),
    Check(CheckArgs),
}

/// Which machine.
#[derive(Debug, clap::Args)]
struct Which {
    /// Another machine: what `lcs hw show --json` printed there.
    #[arg(long, value_name = "FILE")]
    machine: Option<PathBuf>,
}

/// Show cores, caches, NUMA nodes, cards, hugepages, clock, mitigations: all that the machine tells.
///
/// Root sees more: some drivers answer only root.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs hw show
  sudo lcs hw show --json > this-machine.json
  lcs hw show --machine that-machine.json")]
struct ShowArgs {
    #[command(flatten)]
    which: Which,
}

/// Say which core should poll which queue, and print the commands that would set the machine up.
///
/// They are printed to be reviewed and never run.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("for").required(true).args(["config", "interfaces", "dpdk"]))]
#[command(after_help = "Examples:
  lcs hw plan --interfaces ens1f0,ens1f1            clients' interface first, then the servers'
  lcs hw plan -c lcs.toml --goal latency
  lcs hw plan --dpdk 0000:3b:00.0,0000:3b:00.1
  lcs hw plan -c lcs.toml --machine that-machine.json --json")]
struct PlanArgs {
    #[command(flatten)]
    which: Which,
    /// What the machine is to be good at.
    #[arg(long, value_enum, default_value_t = GoalArg::Throughput)]
    goal: GoalArg,
    /// Plan for this configuration's port; its workers' cores are kept.
    #[arg(short, long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Plan for an AF_XDP port on these interfaces.
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    interfaces: Vec<String>,
    /// Plan for a DPDK port on these PCI addresses.
    #[arg(long, value_name = "ADDRESSES", value_delimiter = ',')]
    dpdk: Vec<String>,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum GoalArg {
    /// Packets a second.
    Throughput,
    /// Little time from one interface to the other, and always the same.
    Latency,
}

/// Look for what would make a measured figure wrong or a packet corrupt.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sudo lcs hw check -c lcs.toml
  sudo lcs hw check -c lcs.toml --ignore virtual-machine,hand-over && measure
  lcs hw check -c lcs.toml --machine that-machine.json --json

Severities: \"does not run\", \"corrupt packet\" (lost or altered), \"wrong figure\" (not repeatable, or not one of the director),
\"slower\". What the machine does not tell is listed, and is no finding: with --strict it counts as one.

Exit codes: 0 nothing was found, 1 there is something to look at (with --strict also: something could not be looked at),
2 it could not be checked (usage, configuration, machine).
`--list` prints the codes that --ignore takes.")]
struct CheckArgs {
    #[command(flatten)]
    which: Which,
    /// The configuration file.
    #[arg(short, long, value_name = "FILE", required_unless_present = "list")]
    config: Option<PathBuf>,
    /// Findings to leave out, by their codes.
    #[arg(long, value_name = "CODES", value_delimiter = ',', value_parser = code)]
    ignore: Vec<String>,
    /// Not to know is no good, either: what the machine does not tell makes the exit code 1, too.
    #[arg(long)]
    strict: bool,
    /// Print all codes and what each is about.
    #[arg(long)]
    list: bool,
}

fn code(text: &str) -> Result<String, String> {
    match check::CODES.iter().any(|(code, _)| *code == text) {
        true => Ok(text.to_owned()),
        false => Err("there is no such code; `lcs hw check --list` prints them".to_owned()),
    }
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    match &args.what {
        What::Show(args) => {
            let machine = args.which.machine()?;
            print(if common.json { json(&machine)? } else { show::text(&machine) })
        }
        What::Plan(args) => print_plan(common, args),
        What::Check(args) => check(common, args),
    }
}

impl Which {
    fn machine(&self) -> Result<Machine, Error> {
        let Some(file) = &self.machine else {
            return Machine::here().map_err(|e| Error::Failed(e.to_string()));
        };
        let unreadable = |why: String| {
            Error::Failed(format!("{}: {why}; it should hold what `lcs hw show --json` printed", file.display()))
        };
        let text = std::fs::read_to_string(file).map_err(|e| unreadable(e.to_string()))?;
        serde_json::from_str(&text).map_err(|e| unreadable(e.to_string()))
    }
}

fn print(text: String) -> Outcome {
    Ok(io::stdout().write_all(text.as_bytes())?)
}

fn print_plan(common: &Common, args: &PlanArgs) -> Outcome {
    let asked = match &args.config {
        Some(file) => ask::of_file(file)?,
        None => ask::of_names(&args.interfaces, &args.dpdk),
    };
    let goal = match args.goal {
        GoalArg::Throughput => Goal::Throughput,
        GoalArg::Latency => Goal::Latency,
    };
    let plan = plan::plan(&args.which.machine()?, &asked, goal).map_err(|e| Error::Failed(e.to_string()))?;
    print(if common.json { json(&plan)? } else { plan_text(&plan) })
}

/// A shell script of comments and commands, so that it can be kept, changed and run.
fn plan_text(plan: &Plan) -> String {
    let mut text = String::from("# Review before you run any of it. Nothing has been changed.\n");
    plan.warnings.iter().for_each(|warning| text += &format!("#\n# WARNING: {warning}.\n"));
    text += "\n# Who polls what\n";
    for worker in &plan.workers {
        let node = worker.node.map(|node| format!(" (NUMA node {node})")).unwrap_or_default();
        let interrupts =
            worker.interrupts.map(|core| format!("; the kernel's part on core {core}")).unwrap_or_default();
        let polls = worker.polls.join(", ");
        let _ = writeln!(
            text,
            "#   worker {0}: core {1}{node} polls queue {0} of {polls}{interrupts}",
            worker.worker, worker.core
        );
    }
    for (number, core) in plan.content.iter().enumerate() {
        let _ = writeln!(
            text,
            "#   content worker {number}: core {core} decides on what the workers hand over, and polls no queue"
        );
    }
    let _ = writeln!(text, "#   everything else: cores {}", lcs_hwconf::cores::format_list(&plan.housekeeping));
    for step in &plan.steps {
        let _ = writeln!(text, "\n# {}: {}", step.what, step.why);
        if step.boot {
            let _ = writeln!(text, "#   {}", step.commands.join(" "));
        } else {
            step.commands.iter().for_each(|command| text += &format!("{command}\n"));
        }
    }
    if plan.steps.is_empty() {
        text += "\n# Nothing to change.\n";
    }
    text += "\n# The configuration that follows\n";
    for line in plan.configuration.lines() {
        let _ = writeln!(text, "{}", format!("# {line}").trim_end());
    }
    if !plan.notes.is_empty() {
        text += "\n# To be known\n";
        plan.notes.iter().for_each(|note| text += &format!("# - {note}\n"));
    }
    text
}

fn check(common: &Common, args: &CheckArgs) -> Outcome {
    if args.list {
        let mut table = lcs_control::render::Table::new(&["code", "about"]);
        check::CODES.iter().for_each(|(code, about)| table.row([(*code).to_owned(), (*about).to_owned()]));
        return print(table.show());
    }
    let report = args.config.as_deref().map_or_else(|| Ok(Report::default()), |file| checked(file, args));
    let report = report.map_err(|e| Error::NotChecked(Box::new(e)))?;
    print(if common.json { json(&report)? } else { report_text(&report) })?;
    let known = !args.strict || report.unknown.is_empty();
    if report.findings.is_empty() && known { Ok(()) } else { Err(Error::NotOk) }
}

fn checked(file: &Path, args: &CheckArgs) -> Result<Report, Error> {
    let asked = ask::of_file(file)?;
    let mut report = check::check(&args.which.machine()?, &asked);
    report.ignore(&args.ignore);
    Ok(report)
}

fn report_text(report: &Report) -> String {
    let mut text = String::new();
    for severity in Severity::ALL {
        for finding in report.findings.iter().filter(|finding| finding.severity == severity) {
            let _ = writeln!(
                text,
                "{severity}: {}: {} [{}]\n  mend: {}",
                finding.place, finding.what, finding.code, finding.mend
            );
        }
    }
    if !report.unknown.is_empty() {
        text += "not told by this machine:\n";
        report.unknown.iter().for_each(|unknown| text += &format!("  {unknown}\n"));
    }
    match report.findings.len() {
        0 => text += "nothing was found\n",
        n => {
            let of = |severity: Severity| match report.findings.iter().filter(|f| f.severity == severity).count() {
                0 => None,
                count => Some(format!("{count} \"{severity}\"")),
            };
            let _ = writeln!(
                text,
                "{}: {}",
                lcs_control::render::counted(n, "finding"),
                Severity::ALL.into_iter().filter_map(of).collect::<Vec<_>>().join(", ")
            );
        }
    }
    text
}
