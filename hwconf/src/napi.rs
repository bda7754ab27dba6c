//! NAPI, the kernel's polling of a receive queue: how long it waits before it has interrupts again, so that frames gather
//! (generic netlink family `netdev`, Linux 6.13 and newer; `Documentation/networking/napi.rst`, "Software IRQ coalescing").

use std::io;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::netdev::{Netdev, attribute, attributes, number};

/// Commands of the family and their attributes.
const QUEUE_GET: u8 = 10;
const QUEUE_NUMBER: u16 = 1;
const QUEUE_LINK: u16 = 2;
const QUEUE_KIND: u16 = 3;
const QUEUE_NAPI: u16 = 4;
const RECEIVE: u32 = 0;
const NAPI_GET: u8 = 11;
const NAPI_SET: u8 = 14;
const NAPI_LINK: u16 = 1;
const NAPI_NUMBER: u16 = 2;
const NAPI_HARD_IRQS: u16 = 5;
const NAPI_FLUSH: u16 = 6;

const WHAT: &str = "set how long frames of a receive queue gather";

/// How NAPI goes on when it has taken what there was.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Deferral {
    /// Looks at an empty queue before interrupts are on again.
    pub hard_irqs: u32,
    /// Time from one look to the next; with 0 interrupts are on at once.
    pub flush: Duration,
}

/// The NAPI instance of one receive queue.
#[derive(Debug)]
pub struct Napi {
    netdev: Netdev,
    link: u32,
    queue: u32,
    id: u32,
    before: Deferral,
}

impl Napi {
    /// Finds that of queue `queue` of the interface with index `link` in the calling thread's network namespace.
    ///
    /// # Errors
    /// Where the kernel or the driver does not tell (before Linux 6.13), or the process may not.
    pub fn find(link: u32, queue: u32) -> Result<Self> {
        let unknown = |why: &str| Error::system(WHAT, io::Error::new(io::ErrorKind::Unsupported, why));
        let netdev = Netdev::open(WHAT)?.ok_or_else(|| unknown("the kernel has no such setting: Linux 6.13 has it"))?;
        let id =
            number_of(&netdev, link, queue)?.ok_or_else(|| unknown("the driver does not tell which NAPI is its"))?;
        let before = read(&netdev, id)?.ok_or_else(|| unknown("the kernel has no such setting: Linux 6.13 has it"))?;
        Ok(Napi { netdev, link, queue, id, before })
    }

    /// What was set when it was found.
    pub fn before(&self) -> Deferral {
        self.before
    }

    /// Sets it. An interface that went down and came back has another instance, which is looked for once.
    ///
    /// # Errors
    /// When the interface is gone or down, or the kernel refuses the values.
    pub fn set(&mut self, deferral: Deferral) -> Result<()> {
        match write(&self.netdev, self.id, deferral) {
            Err(error) if error.errno() == Some(libc::ENOENT) => {
                let Some(id) = number_of(&self.netdev, self.link, self.queue)? else { return Err(error) };
                self.id = id;
                write(&self.netdev, id, deferral)
            }
            other => other,
        }
    }
}

/// The number of a queue's NAPI instance, while there is one.
fn number_of(netdev: &Netdev, link: u32, queue: u32) -> Result<Option<u32>> {
    let mut wanted = Vec::new();
    attribute(&mut wanted, QUEUE_NUMBER, &queue.to_ne_bytes());
    attribute(&mut wanted, QUEUE_LINK, &link.to_ne_bytes());
    attribute(&mut wanted, QUEUE_KIND, &RECEIVE.to_ne_bytes());
    // A driver that does not say which queue has which, or a kernel before 6.7: the answer is without it, or a refusal.
    let told = netdev.get(WHAT, QUEUE_GET, &wanted).unwrap_or_default();
    if let Some(id) = told.first().and_then(|message| number(attributes(message).get(&QUEUE_NAPI)?)) {
        return Ok(u32::try_from(id).ok());
    }
    // One queue and one instance (a veth, most often) leave no doubt.
    let mut wanted = Vec::new();
    attribute(&mut wanted, NAPI_LINK, &link.to_ne_bytes());
    let all = netdev.list(WHAT, NAPI_GET, &wanted)?;
    let id = |message: &Vec<u8>| u32::try_from(number(attributes(message).get(&NAPI_NUMBER)?)?).ok();
    Ok(if all.len() == 1 && queue == 0 { all.first().and_then(id) } else { None })
}

/// What is set for an instance; none where the kernel doesn't tell.
fn read(netdev: &Netdev, id: u32) -> Result<Option<Deferral>> {
    let mut wanted = Vec::new();
    attribute(&mut wanted, NAPI_NUMBER, &id.to_ne_bytes());
    let answer = netdev.get(WHAT, NAPI_GET, &wanted)?;
    Ok(answer.first().and_then(|message| {
        let all = attributes(message);
        let hard_irqs = number(all.get(&NAPI_HARD_IRQS)?)?;
        let flush = Duration::from_nanos(number(all.get(&NAPI_FLUSH)?)?);
        Some(Deferral { hard_irqs: u32::try_from(hard_irqs).unwrap_or(u32::MAX), flush })
    }))
}

fn write(netdev: &Netdev, id: u32, deferral: Deferral) -> Result<()> {
    let flush = u64::try_from(deferral.flush.as_nanos()).unwrap_or(u64::MAX);
    let mut wanted = Vec::new();
    attribute(&mut wanted, NAPI_NUMBER, &id.to_ne_bytes());
    attribute(&mut wanted, NAPI_HARD_IRQS, &deferral.hard_irqs.to_ne_bytes());
    attribute(&mut wanted, NAPI_FLUSH, &flush.to_ne_bytes());
    netdev.set(WHAT, NAPI_SET, &wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interface_without_napi_is_an_error_that_says_so() {
        let error = Napi::find(1, 0).unwrap_err().to_string();
        assert!(error.contains("gather"), "{error}");
    }
}
