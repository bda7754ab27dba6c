//! The line that says what is under way while something is measured.

use std::io::{self, IsTerminal};

/// Runs `work`, which is given a function to say what it does. On a terminal that is one line of standard error, written over again
/// and gone at the end; elsewhere nothing is said.
pub fn shown<T>(work: impl FnOnce(&mut (dyn FnMut(&str) + Send)) -> T) -> T {
    line(work, |_| {})
}

/// The same, with a line each where there is no terminal: for what takes minutes and is followed in a log.
pub fn logged<T>(work: impl FnOnce(&mut (dyn FnMut(&str) + Send)) -> T) -> T {
    line(work, |what| eprintln!("{what}"))
}

fn line<T>(work: impl FnOnce(&mut (dyn FnMut(&str) + Send)) -> T, elsewhere: impl Fn(&str) + Sync) -> T {
    let terminal = io::stderr().is_terminal();
    let result = work(&mut |what| {
        if terminal {
            eprint!("\r\x1b[K{what} …");
        } else {
            elsewhere(what);
        }
    });
    if terminal {
        eprint!("\r\x1b[K");
    }
    result
}
