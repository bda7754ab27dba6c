//! Programs of others, run inside the director's namespace.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use lcs_hwconf::testbed::Host;
use lcs_hwconf::{cores, steering};

use super::PeersError;
use super::subject::find;

/// How often it's looked whether a program still runs.
const TURN: Duration = Duration::from_millis(20);

/// A running program; it's killed when this is dropped, and when this process ends in whatever way.
#[derive(Debug)]
pub struct Program {
    /// Its process.
    pub process: u32,
    log: PathBuf,
    stop: Option<mpsc::Sender<()>>,
    thread: Option<JoinHandle<Option<String>>>,
}

impl Program {
    /// Starts `program` on `host`, on `core` alone. What it says goes to a file in `folder`.
    pub fn start(
        host: &Host,
        core: usize,
        program: &str,
        arguments: &[String],
        folder: &Path,
    ) -> Result<Self, PeersError> {
        let failed = |what: String| PeersError::Program { program: program.into(), what };
        let file = find(program).ok_or_else(|| failed("it's not installed".into()))?;
        let log = folder.join("log");
        let output = fs::File::create(&log).map_err(|e| failed(e.to_string()))?;
        let errors = output.try_clone().map_err(|e| failed(e.to_string()))?;
        let mut command = Command::new(file);
        command.args(arguments).stdin(Stdio::null()).stdout(output).stderr(errors);
        let (tell, started) = mpsc::channel();
        let (stop, stopped) = mpsc::channel::<()>();
        // The program ends with the thread that starts it, so that one keeps it.
        let thread = host.spawn(program, move || {
            steering::end_with_thread(&mut command);
            // The core and the namespace are inherited.
            let child =
                cores::pin(core).map_err(|e| e.to_string()).and_then(|()| command.spawn().map_err(|e| e.to_string()));
            match child {
                Ok(child) => {
                    let _ = tell.send(Ok(child.id()));
                    keep(child, &stopped)
                }
                Err(e) => {
                    let _ = tell.send(Err(e));
                    None
                }
            }
        })?;
        match started.recv() {
            Ok(Ok(process)) => Ok(Program { process, log, stop: Some(stop), thread: Some(thread) }),
            Ok(Err(what)) => Err(failed(what)),
            Err(_) => Err(failed("its thread ended".into())),
        }
    }

    /// Why it has ended, if it has.
    pub fn ended(&mut self) -> Option<String> {
        if !self.thread.as_ref()?.is_finished() {
            return None;
        }
        let how = self.thread.take()?.join().ok()??;
        let said = fs::read_to_string(&self.log).unwrap_or_default();
        // The first lines say what is wrong, later ones that it gives up.
        let said: Vec<&str> = said.lines().take(4).collect();
        Some(format!("it ended ({how}): {}", said.join(" / ")))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.stop.take());
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// Waits for the order to end the program, or for its end, and gives how it ended in the second case.
fn keep(mut child: Child, stopped: &mpsc::Receiver<()>) -> Option<String> {
    loop {
        match stopped.recv_timeout(TURN) {
            Err(mpsc::RecvTimeoutError::Timeout) => match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => return Some(status.to_string()),
                Err(e) => return Some(e.to_string()),
            },
            _ => {
                // Its sockets go with it; there is nothing to be saved.
                let _ = child.kill();
                let _ = child.wait();
                return None;
            }
        }
    }
}

/// Runs a program on `host` to its end.
pub fn run(host: &Host, program: &str, arguments: &[String]) -> Result<(), PeersError> {
    let failed = |what: String| PeersError::Program { program: program.into(), what };
    let file = find(program).ok_or_else(|| failed("it's not installed".into()))?;
    let output = host.run(|| Command::new(file).args(arguments).stdin(Stdio::null()).output())?;
    let output = output.map_err(|e| failed(e.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{} ({})", said.lines().take(4).collect::<Vec<_>>().join(" / "), output.status)))
}
