//! `lcs check`

use crate::Common;
use crate::outcome::{Outcome, json};
use lcs_control::config::Configuration;
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
    let text = if common.json {
        json(&serde_json::json!({
            "ok": true, "services": c.services.len(), "servers": servers, "workers": c.workers.count(),
        }))?
    } else {
        format!("{} is valid: {} services with {servers} servers\n", args.config.display(), c.services.len())
    };
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
