//! The cores this process may use: where they lie, which are isolated, and how a thread is pinned to one.

use std::fs;
use std::path::Path;

use serde::Serialize;

use crate::error::{Error, Result};

/// One core (logical processor) as the kernel numbers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Core {
    /// The kernel's number, as in `/proc/cpuinfo` and `taskset`.
    pub id: usize,
    /// Socket (physical package), where the machine tells.
    pub package: Option<u32>,
    /// Physical core within the package; two logical processors that share it are hyper-threads of one another.
    pub physical: Option<u32>,
    /// NUMA node, where the machine has nodes.
    pub numa_node: Option<u32>,
    /// Kept free of ordinary tasks by `isolcpus=`.
    pub isolated: bool,
}

const SYSFS: &str = "/sys/devices/system";

/// The cores that the calling thread may run on, in ascending order.
pub fn available() -> Result<Vec<Core>> {
    let isolated = isolated()?;
    Ok(allowed()?
        .into_iter()
        .map(|id| Core {
            id,
            package: read_number(format!("{SYSFS}/cpu/cpu{id}/topology/physical_package_id")),
            physical: read_number(format!("{SYSFS}/cpu/cpu{id}/topology/core_id")),
            numa_node: numa_node(id),
            isolated: isolated.contains(&id),
        })
        .collect())
}

/// The cores that the kernel keeps free of ordinary tasks (`isolcpus=`), in ascending order; often none.
pub fn isolated() -> Result<Vec<usize>> {
    let path = format!("{SYSFS}/cpu/isolated");
    match fs::read_to_string(&path) {
        Ok(text) => parse_list(text.trim()),
        // No sysfs (a bare container): nothing is known to be isolated.
        Err(_) => Ok(Vec::new()),
    }
}

/// Pins the calling thread to one core, for as long as it lives or until it's pinned elsewhere.
///
/// A thread that is started from here inherits the pinning.
pub fn pin(core: usize) -> Result<()> {
    let refuse = |why: &str| {
        let allowed = allowed().map(|list| format_list(&list)).unwrap_or_else(|_| "unknown".into());
        Err(Error::Core { core, why: why.into(), allowed })
    };
    if core >= libc::CPU_SETSIZE as usize {
        return refuse("the number is larger than any that the kernel takes");
    }
    if !core_affinity::set_for_current(core_affinity::CoreId { id: core }) {
        return refuse("it isn't online, or it's outside this process's cpuset");
    }
    Ok(())
}

fn allowed() -> Result<Vec<usize>> {
    let mut ids: Vec<usize> = core_affinity::get_core_ids()
        .ok_or_else(|| Error::system("read the cores of this thread", std::io::Error::last_os_error()))?
        .into_iter()
        .map(|core| core.id)
        .collect();
    ids.sort_unstable();
    Ok(ids)
}

fn numa_node(core: usize) -> Option<u32> {
    fs::read_dir(format!("{SYSFS}/cpu/cpu{core}"))
        .ok()?
        .flatten()
        .find_map(|entry| entry.file_name().to_str()?.strip_prefix("node")?.parse().ok())
}

pub(crate) fn read_number<T: std::str::FromStr>(path: impl AsRef<Path>) -> Option<T> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Reads the kernel's list form: `0-3,8,10-14:2/4` (`first-last:used/group`), empty for none.
///
/// At most 4,096 cores, so that a mistyped range can't eat the memory.
pub fn parse_list(text: &str) -> Result<Vec<usize>> {
    const LARGEST: usize = 4096;
    let refuse = |part: &str, mend: &str| {
        Err(Error::Invalid { what: format!("core list \"{text}\", at \"{part}\""), mend: mend.into() })
    };
    let mut cores = Vec::new();
    for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (range, stride) = part.split_once(':').map_or((part, None), |(r, s)| (r, Some(s)));
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        let (Ok(first), Ok(last)) = (first.trim().parse::<usize>(), last.trim().parse::<usize>()) else {
            return refuse(part, "write numbers and ranges, as 0-3,8");
        };
        if first > last || last >= LARGEST {
            return refuse(part, "a range goes upward, and core numbers are below 4096");
        }
        let (used, group) = match stride {
            None => (1, 1),
            Some(stride) => match stride.split_once('/').map(|(u, g)| (u.parse(), g.parse())) {
                Some((Ok(used), Ok(group))) if used >= 1 && group >= used => (used, group),
                _ => return refuse(part, "write a stride as first-last:used/group"),
            },
        };
        cores.extend((first..=last).filter(|core| (core - first) % group < used));
    }
    cores.sort_unstable();
    cores.dedup();
    Ok(cores)
}

/// Writes cores the kernel's way, the inverse of [`parse_list`]; the list must be ascending.
pub fn format_list(cores: &[usize]) -> String {
    let mut text = String::new();
    let mut rest = cores;
    while let Some((&first, _)) = rest.split_first() {
        let run = rest.iter().zip(first..).take_while(|(core, expected)| **core == *expected).count();
        if !text.is_empty() {
            text.push(',');
        }
        match run {
            1 => text.push_str(&first.to_string()),
            _ => text.push_str(&format!("{first}-{}", first + run - 1)),
        }
        rest = &rest[run..];
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert!(parse_list("").unwrap().is_empty());
        assert_eq!(parse_list("0-2,5").unwrap(), [0, 1, 2, 5]);
        assert_eq!(parse_list("5,1-2,2").unwrap(), [1, 2, 5]);
        assert_eq!(parse_list("0-7:2/4").unwrap(), [0, 1, 4, 5]);
    }

    #[test]
    fn a_wrong_list_is_refused_with_its_place() {
        for wrong in ["3-1", "a", "0-", "0-99999", "0-4:0/0", "0-4:3/2", "18446744073709551616"] {
            let error = parse_list(&format!("0,{wrong}")).unwrap_err().to_string();
            assert!(error.contains(&format!("at \"{wrong}\"")), "{error}");
        }
    }

    #[test]
    fn writing_is_the_inverse_of_reading() {
        for text in ["", "0", "0-2,5", "1,3,5-7,9"] {
            assert_eq!(format_list(&parse_list(text).unwrap()), text);
        }
    }

    #[test]
    fn pinning_moves_the_thread_and_a_missing_core_is_named() {
        let core = available().unwrap().last().unwrap().id;
        std::thread::spawn(move || {
            pin(core).unwrap();
            assert_eq!(available().unwrap().iter().map(|c| c.id).collect::<Vec<_>>(), [core]);
            // Still pinned after a refusal, and the refusal says what could be used.
            let error = pin(1023).unwrap_err().to_string();
            assert!(error.starts_with("core 1023 can't be used"), "{error}");
            assert!(error.ends_with(&format!("cores {core}")), "{error}");
            assert!(pin(usize::MAX).is_err());
        })
        .join()
        .unwrap();
    }
}
