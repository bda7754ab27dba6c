//! `lcs check`

use crate::Common;
use crate::outcome::{Outcome, json};
use lcs_control::config::{Configuration, Service, needs};
use lcs_control::render::counted;
use lcs_control::rules;
use std::io::Write;
use std::path::PathBuf;

/// See whether a configuration file is valid, and if not, where and why.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  lcs check -c lcs.toml
  lcs check -c lcs.toml --json")]
pub struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(common: &Common, args: &Args) -> Outcome {
    let c = Configuration::load(&args.config)?;
    let servers: usize = c.services.iter().map(|s| s.servers.len()).sum();
    // What it says is valid; whether it works is up to the servers, too.
    let needs: Vec<String> =
        c.services.iter().flat_map(|s| needs(s).into_iter().map(|need| format!("{}: {need}", s.name))).collect();
    let spoken = |s: &Service| {
        let content = s.content.as_ref()?;
        let unspoken = rules::unspoken(&content.rules, rules::Protocol::of(content.application)?);
        let told = |(_, position, what): (_, rules::Position, String)| {
            format!("{}:{}:{}: warning: {what}", content.rules.file, position.line, position.column)
        };
        Some(unspoken.into_iter().map(told).collect::<Vec<_>>())
    };
    let findings: Vec<String> = c.services.iter().filter_map(spoken).flatten().collect();
    let text = if common.json {
        json(&serde_json::json!({
            "ok": true, "services": c.services.len(), "servers": servers, "workers": c.workers.count(), "needs": needs,
            "findings": findings,
        }))?
    } else {
        let (services, servers) = (counted(c.services.len(), "service"), counted(servers, "server"));
        let valid = format!("{} is valid: {services} with {servers}\n", args.config.display());
        findings.iter().chain(&needs).fold(valid, |text, need| text + need + "\n")
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
