//! Who used the director's core, from `/proc`.
//!
//! Two accounts, because neither is the whole truth. **Process time** is what the scheduler charged to the subject's
//! threads, to the nanosecond; receive work that interrupts them is charged to them, and receive work in an idle moment to
//! nobody. **Core time** is all the time in which the core was not idle, less what it's busy with when nothing is measured:
//! the only account of work that is done in the kernel without a process, but others' work on that core is in it too. What
//! programs with a positive nice value had (a build, say) is left out of it as far as the timer tick saw it.

use std::fs;
use std::time::{Duration, Instant};

/// Units of `/proc/stat`: `USER_HZ`, 100 a second on every architecture that this runs on.
const TICKS_A_SECOND: f64 = 100.0;

/// What the core did, in seconds since the start of the machine.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct CoreTime {
    /// Idle, waiting for a disk, or taken by the hypervisor.
    pub not_ours: f64,
    /// In programs with a positive nice value, as sampled by the timer tick.
    pub niced: f64,
    /// In interrupts, hard and soft, as sampled by the timer tick.
    pub interrupts: f64,
}

/// Reads the line of `core` in the text of `/proc/stat`.
pub fn core_time(text: &str, core: usize) -> Option<CoreTime> {
    let name = format!("cpu{core}");
    let line = text.lines().find(|line| line.split_ascii_whitespace().next() == Some(&name))?;
    let ticks: Vec<f64> = line.split_ascii_whitespace().skip(1).map(|n| n.parse().unwrap_or(0.0)).collect();
    let at = |n: usize| ticks.get(n).copied().unwrap_or(0.0) / TICKS_A_SECOND;
    // user nice system idle iowait irq softirq steal
    ticks.get(3)?;
    Some(CoreTime { not_ours: at(3) + at(4) + at(7), niced: at(1), interrupts: at(5) + at(6) })
}

/// The time that a thread ran, in seconds, from the text of its `schedstat` (ns running, ns waiting, slices).
pub fn thread_time(text: &str) -> Option<f64> {
    Some(text.split_ascii_whitespace().next()?.parse::<u64>().ok()? as f64 / 1e9)
}

/// The time that it ran, from the text of its `stat` (ticks, for a kernel without `schedstat`).
pub fn thread_ticks(text: &str) -> Option<f64> {
    // The name is in parentheses and may have blanks in it. Fields 14 and 15 of the line are the 12th and 13th behind it.
    let mut fields = text.rsplit_once(')')?.1.split_ascii_whitespace().skip(11);
    let mut ticks = || fields.next()?.parse::<f64>().ok();
    Some((ticks()? + ticks()?) / TICKS_A_SECOND)
}

/// A thread, as `/proc` has it: process and thread.
pub type Thread = (u32, u32);

/// The threads of a process.
pub fn threads(process: u32) -> Vec<Thread> {
    let Ok(entries) = fs::read_dir(format!("/proc/{process}/task")) else { return Vec::new() };
    entries.flatten().filter_map(|e| Some((process, e.file_name().to_str()?.parse().ok()?))).collect()
}

fn ran((process, thread): Thread) -> f64 {
    let read = |file: &str| fs::read_to_string(format!("/proc/{process}/task/{thread}/{file}")).ok();
    let precise = read("schedstat").and_then(|text| thread_time(&text));
    precise.or_else(|| thread_ticks(&read("stat")?)).unwrap_or(0.0)
}

/// Whose time is looked at.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// The director's core.
    pub core: usize,
    /// The subject's threads.
    pub process: Vec<Thread>,
    /// Threads of the kernel that receive for it.
    pub kernel: Vec<Thread>,
    /// Whether we have a positive nice value ourselves, so that niced programs' time may be the subject's.
    pub niced: bool,
}

/// A moment.
#[derive(Clone, Copy, Debug)]
pub struct Moment {
    at: Instant,
    core: CoreTime,
    process: f64,
    kernel: f64,
}

impl Watched {
    /// Looks.
    pub fn look(&self) -> Moment {
        let text = fs::read_to_string("/proc/stat").unwrap_or_default();
        let mut core = core_time(&text, self.core).unwrap_or_default();
        if !self.niced {
            core.not_ours += core.niced;
        }
        let sum = |threads: &[Thread]| threads.iter().map(|thread| ran(*thread)).sum();
        Moment { at: Instant::now(), core, process: sum(&self.process), kernel: sum(&self.kernel) }
    }
}

/// What was used between two moments, in seconds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Used {
    /// Between them.
    pub wall: f64,
    /// The core, by whomever.
    pub busy: f64,
    /// Of that in interrupts, as sampled.
    pub interrupts: f64,
    /// The subject's threads.
    pub process: f64,
    /// The kernel's receiving threads.
    pub kernel: f64,
}

impl Used {
    /// From `first` to `last`.
    pub fn between(first: &Moment, last: &Moment) -> Used {
        let wall = last.at.saturating_duration_since(first.at).as_secs_f64();
        Used {
            wall,
            busy: (wall - (last.core.not_ours - first.core.not_ours)).clamp(0.0, wall),
            interrupts: last.core.interrupts - first.core.interrupts,
            process: last.process - first.process,
            kernel: last.kernel - first.kernel,
        }
    }

    /// The share of the core that was busy.
    pub fn share(&self) -> f64 {
        if self.wall > 0.0 { self.busy / self.wall } else { 0.0 }
    }
}

/// Whether this process has a positive nice value.
pub fn is_niced() -> bool {
    // Field 19 of the line is the 17th behind the name.
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let nice = text.rsplit_once(')').and_then(|(_, rest)| rest.split_ascii_whitespace().nth(16)?.parse::<i32>().ok());
    nice.is_some_and(|nice| nice > 0)
}

/// The share of a core that is busy with nothing of ours.
pub fn baseline(watched: &Watched, time: Duration) -> f64 {
    let first = watched.look();
    std::thread::sleep(time);
    Used::between(&first, &watched.look()).share()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAT: &str = "cpu  30 0 30 300 0 0 0 0 0 0\ncpu0 10 0 10 100 0 0 0 0 0 0\n\
                        cpu1 848643 838037 181378 718354 9971 100 16616 19891 0 0\ncpu10 1 2 3 4\n";

    #[test]
    fn the_right_core_is_read() {
        let core = core_time(STAT, 1).unwrap();
        assert_eq!(core, CoreTime { not_ours: 7183.54 + 99.71 + 198.91, niced: 8380.37, interrupts: 1.0 + 166.16 });
        assert_eq!(core_time(STAT, 10).unwrap(), CoreTime { not_ours: 0.04, niced: 0.02, interrupts: 0.0 });
        assert_eq!(core_time(STAT, 2), None);
        assert_eq!(core_time("cpu0 1 2\n", 0), None);
    }

    #[test]
    fn a_thread_is_read_whatever_its_name() {
        assert_eq!(thread_time("7726087 12 1\n"), Some(0.007726087));
        assert_eq!(thread_time(""), None);
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 150 50 0 0 20 0 1 0 100";
        assert_eq!(thread_ticks(stat), Some(2.0));
        assert_eq!(thread_ticks("42 (a"), None);
    }

    #[test]
    fn use_is_the_difference_and_never_more_than_the_core_has() {
        let at = Instant::now();
        let moment = |secs, not_ours, process| Moment {
            at: at + Duration::from_secs(secs),
            core: CoreTime { not_ours, ..CoreTime::default() },
            process,
            kernel: 0.5,
        };
        let used = Used::between(&moment(0, 10.0, 1.0), &moment(4, 13.0, 1.5));
        assert_eq!((used.wall, used.busy, used.process, used.kernel, used.share()), (4.0, 1.0, 0.5, 0.0, 0.25));
        // Coarse counters may show more idleness than time.
        assert_eq!(Used::between(&moment(0, 10.0, 1.0), &moment(1, 11.1, 1.0)).busy, 0.0);
    }

    #[test]
    fn our_own_threads_run() {
        let own = threads(std::process::id());
        assert!(!own.is_empty());
        assert!(own.into_iter().map(ran).sum::<f64>() > 0.0);
    }
}
