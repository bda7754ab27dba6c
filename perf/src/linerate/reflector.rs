//! A worker without a pipeline: every frame goes out as it came in. What it carries is the limit of the port, the worker's loop and the
//! generator, and no director can carry more.

use lcs_dataplane::batch::Batch;
use lcs_dataplane::cycles::{Meter, Stopwatch};
use lcs_dataplane::port::Port;
use lcs_dataplane::verdict::Verdict;
use lcs_dataplane::worker::{Counters, Nanos, Pipeline};

/// Sends every frame out where it came from, or to the other one of two interfaces.
#[derive(Debug, Clone, Copy)]
pub struct Reflector {
    /// Interfaces of the port: 1 or 2.
    pub interfaces: u8,
}

impl Pipeline for Reflector {
    type Command = ();
    type Acknowledgement = ();
    type Event = ();

    fn process<P: Port, M: Meter>(&mut self, _: &mut P, batch: &mut Batch, _: Nanos, _: &mut Stopwatch<'_, M>) {
        for i in 0..batch.len {
            batch.verdict[i] = Verdict::Forward;
            batch.tx[i] = if self.interfaces == 2 { batch.rx[i] ^ 1 } else { batch.rx[i] };
        }
    }

    fn command(&mut self, (): (), _: &Counters, _: Nanos) {}

    fn housekeeping<P: Port>(&mut self, _: &mut P, _: Nanos) -> bool {
        false
    }

    fn event(&mut self) -> Option<()> {
        None
    }
}
