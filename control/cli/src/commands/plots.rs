//! Files of `--plot`.

use crate::Common;
use crate::outcome::{Error, Outcome};
use lcs_perf::plot::Plot;
use std::io;
use std::path::Path;

/// The command line as it was given.
pub fn line() -> String {
    std::env::args_os().map(|a| a.to_string_lossy().into_owned()).collect::<Vec<_>>().join(" ")
}

/// Writes plots and the page of this name into a directory, which is made if it is not there.
pub fn write(common: &Common, directory: &Path, plots: Vec<Plot>, (name, page): (&str, String)) -> Outcome {
    let mut files: Vec<(String, String)> = plots.into_iter().map(|p| (format!("{}.svg", p.name), p.svg)).collect();
    files.push((name.to_owned(), page));
    let written = |what: &Path, e: io::Error| {
        Error::Failed(format!("{}: {e}; name a directory that you may write to with --plot", what.display()))
    };
    std::fs::create_dir_all(directory).map_err(|e| written(directory, e))?;
    for (name, text) in files {
        let path = directory.join(name);
        std::fs::write(&path, text).map_err(|e| written(&path, e))?;
        if !common.json {
            eprintln!("wrote {}", path.display());
        }
    }
    Ok(())
}
