//! `lcs run`

use crate::outcome::Outcome;
use lcs_control::run::Director;
use std::path::PathBuf;

/// Run the director until SIGTERM or Ctrl-C; SIGHUP reads the configuration again.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  sudo lcs run -c lcs.toml

AF_XDP ports need root, or CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_IPC_LOCK.
Everything that is no virtual service's stays with the kernel, also when the director ends or is killed.")]
pub struct Args {
    /// The configuration file.
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
}

pub fn run(args: &Args) -> Outcome {
    Ok(Director::from_file(&args.config)?.run()?)
}
