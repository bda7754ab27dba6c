//! The `lcs` command line. Each subcommand is a file in `commands/`: its arguments, and a call into a library.
#![forbid(unsafe_code)]

mod commands;
mod endpoint;
mod outcome;
mod progress;

use clap::{Parser, Subcommand};
use commands::{
    check, completions, conns, demo, filter, hw, init, perf, reload, replay, rs, rules, run, stats, status, top, trace,
    vs, weight,
};
use outcome::Outcome;
use std::path::PathBuf;
use std::process::ExitCode;

/// LCS: a layer-4 load balancer and content switch whose workers poll their network cards.
#[derive(Debug, Parser)]
#[command(
    name = "lcs",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = "Examples:
  lcs init > lcs.toml            write a commented configuration
  lcs check -c lcs.toml          see whether it is valid
  sudo lcs run -c lcs.toml       run the director
  sudo lcs status                see how it is
  sudo lcs top                   watch it
  sudo lcs weight web/s1 5       change a weight while it runs
  lcs rules check shop.rules     look for mistakes and conflicts in rules

Exit codes: 0 done, 1 failed or refused, 2 wrong usage (`hw check`: or not checked), 3 no director answers."
)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

/// What every command understands.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Answer in JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Control socket of the director [default: /run/lcs.sock for root, ./lcs.sock for others].
    #[arg(long, global = true, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    Filter(filter::Args),
    Check(check::Args),
    Init(init::Args),
    Reload(reload::Args),
    Status(status::Args),
    Stats(stats::Args),
    Top(top::Args),
    Conns(conns::Args),
    Vs(vs::Args),
    Rs(rs::Args),
    Rules(rules::Args),
    Weight(weight::Args),
    Drain(weight::DrainArgs),
    Trace(trace::Args),
    Demo(demo::Args),
    Replay(replay::Args),
    Perf(perf::Args),
    Hw(hw::Args),
    Completions(completions::Args),
}

fn main() -> ExitCode {
    let Cli { common, command } = Cli::parse();
    let outcome: Outcome = match command {
        Command::Run(args) => run::run(&args),
        Command::Filter(args) => filter::run(&common, args),
        Command::Check(args) => check::run(&common, &args),
        Command::Init(args) => init::run(&args),
        Command::Reload(args) => reload::run(&common, &args),
        Command::Status(args) => status::run(&common, &args),
        Command::Stats(args) => stats::run(&common, &args),
        Command::Top(args) => top::run(&common, &args),
        Command::Conns(args) => conns::run(&common, args),
        Command::Vs(args) => vs::run(&common, args),
        Command::Rs(args) => rs::run(&common, args),
        Command::Rules(args) => rules::run(&common, &args),
        Command::Weight(args) => weight::run(&common, args),
        Command::Drain(args) => weight::drain(&common, args),
        Command::Trace(args) => trace::run(&common, args),
        Command::Demo(args) => demo::run(&common, args),
        Command::Replay(args) => replay::run(&common, &args),
        Command::Perf(args) => perf::run(&common, &args),
        Command::Hw(args) => hw::run(&common, &args),
        Command::Completions(args) => completions::run::<Cli>(&args),
    };
    outcome::end(outcome, &common)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn every_command_has_help_with_an_example() {
        Cli::command().debug_assert();
        fn look(command: &mut clap::Command, path: &str) {
            let path = format!("{path} {}", command.get_name());
            let help = command.render_long_help().to_string();
            assert!(command.get_about().is_some(), "{path} has no description");
            assert!(help.contains("Example"), "{path} has no example");
            for sub in command.get_subcommands_mut() {
                if sub.get_name() != "help" {
                    look(sub, &path);
                }
            }
        }
        look(&mut Cli::command(), "");
    }
}
