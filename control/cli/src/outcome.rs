//! How a command ends: its text, its exit code.

use crate::Common;
use lcs_control::protocol::{Request, Response};
use lcs_control::socket::{Client, ClientError};
use lcs_control::{config, render, rules};
use std::io::{self, Write};
use std::process::ExitCode;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be done as it was asked.
    #[error("{0}")]
    Usage(String),
    /// The director does not answer, or refuses.
    #[error(transparent)]
    Client(#[from] ClientError),
    /// The configuration is not valid; its text is a report of its own.
    #[error("{0}")]
    Invalid(#[from] config::Invalid),
    /// A rule file is not valid; its text is a report of its own.
    #[error("{0}")]
    Rules(#[from] rules::FileError),
    /// The director cannot run.
    #[error(transparent)]
    Run(#[from] lcs_control::run::RunError),
    /// It was tried and failed.
    #[error("{0}")]
    Failed(String),
    /// The demo cannot be played.
    #[error(transparent)]
    Demo(#[from] lcs_perf::demo::Error),
    /// What was printed says what is not as it should be.
    #[error("something is not as it should be")]
    NotOk,
    /// A check could not be made, which is not the same as a bad result.
    #[error("{0}")]
    NotChecked(Box<Error>),
    /// The terminal or pipe is gone.
    #[error(transparent)]
    Output(#[from] io::Error),
}

/// What a command comes to.
pub type Outcome = Result<(), Error>;

impl Error {
    fn exit_code(&self) -> u8 {
        match self {
            Error::Usage(_) | Error::NotChecked(_) => 2,
            Error::Client(ClientError::NotReachable { .. }) => 3,
            _ => 1,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Error::Usage(_) => "usage",
            Error::Client(ClientError::NotReachable { .. }) => "not-reachable",
            Error::Client(ClientError::Refused(_)) => "refused",
            Error::Client(_) => "connection",
            Error::Invalid(_) | Error::Rules(_) => "invalid",
            Error::Run(_) | Error::Failed(_) => "failed",
            Error::Demo(_) => "demo",
            Error::NotOk => "not-ok",
            Error::NotChecked(inner) => inner.kind(),
            Error::Output(_) => "output",
        }
    }
}

/// Says what went wrong, and ends with the right code.
pub fn end(outcome: Outcome, common: &Common) -> ExitCode {
    let error = match outcome {
        Ok(()) => return ExitCode::SUCCESS,
        // `lcs stats | head` is no failure.
        Err(Error::Output(e)) if e.kind() == io::ErrorKind::BrokenPipe => return ExitCode::SUCCESS,
        Err(Error::Client(ClientError::Output(e))) if e.kind() == io::ErrorKind::BrokenPipe => {
            return ExitCode::SUCCESS;
        }
        // What is wrong has been said in full.
        Err(Error::NotOk) => return ExitCode::FAILURE,
        Err(error) => error,
    };
    let code = ExitCode::from(error.exit_code());
    let error = match error {
        Error::NotChecked(inner) => *inner,
        error => error,
    };
    if common.json {
        let mut object = serde_json::json!({ "error": { "kind": error.kind(), "message": error.to_string() } });
        if let Error::Invalid(invalid) = &error {
            object["error"]["problems"] = serde_json::to_value(&invalid.problems).unwrap_or_default();
        }
        if let Error::Rules(rules::FileError::Errors(errors)) = &error {
            object["error"]["problems"] = serde_json::to_value(errors).unwrap_or_default();
        }
        if let Error::Client(ClientError::Refused(failure)) = &error {
            object["error"]["code"] = serde_json::to_value(failure.code).unwrap_or_default();
            if !failure.problems.is_empty() {
                object["error"]["problems"] = serde_json::to_value(&failure.problems).unwrap_or_default();
            }
        }
        let _ = writeln!(io::stdout(), "{object:#}");
    } else {
        match &error {
            // Its text begins with "error:" in front of each mistake.
            Error::Invalid(invalid) => eprintln!("{invalid}"),
            Error::Rules(rules::FileError::Errors(errors)) => eprintln!("{errors}"),
            Error::Run(lcs_control::run::RunError::Invalid(invalid)) => eprintln!("{invalid}"),
            // The same report, from the director that was to read the file again.
            Error::Client(ClientError::Refused(failure)) if !failure.problems.is_empty() => {
                eprintln!("{failure}")
            }
            error => eprintln!("error: {error}"),
        }
    }
    code
}

/// A connection to the director.
pub fn connect(common: &Common) -> Result<Client, Error> {
    let path = common.socket.clone().unwrap_or_else(config::default_socket);
    Ok(Client::connect(&path)?)
}

/// Asks the director, and shows its answer with `show`, or as JSON.
pub fn ask(common: &Common, request: Request, show: impl Fn(&Response) -> String) -> Outcome {
    let response = connect(common)?.call(request)?;
    print(common, &response, show)
}

/// Shows an answer.
pub fn print(common: &Common, response: &Response, show: impl Fn(&Response) -> String) -> Outcome {
    let text = if common.json { json(response)? } else { show(response) };
    io::stdout().write_all(text.as_bytes())?;
    Ok(())
}

/// As JSON.
pub fn json(value: &impl serde::Serialize) -> Result<String, io::Error> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Asks for a change, and shows what has changed.
pub fn change(common: &Common, request: Request) -> Outcome {
    ask(common, request, render::response)
}
