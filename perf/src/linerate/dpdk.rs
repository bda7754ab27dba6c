//! The generator over devices of DPDK. Nobody answers ARP there: the device under test needs its next hop from its configuration.

use super::ports::{Between, Gateway, Lane, Queue, Wires, flows, searched};
use super::{Figures, LinerateError, Options};
use crate::demo::interrupt::Interrupt;
use lcs_dataplane::headers::MacAddr;
use lcs_dataplane::port::dpdk::{Device, DpdkError, DpdkPort, Options as DpdkOptions, open};
use lcs_dataplane::port::losses::LossReason;
use lcs_hwconf::cores;

/// Buffers for each device: a thousand descriptors in each direction, and as many again.
const BUFFERS: u32 = 4096;

impl Lane for DpdkPort {
    /// What a device has no room for it counts in registers of its own.
    fn missed(&self, interface: u8) -> u64 {
        // What a driver could not get a buffer for is tried again, and counted here if it was lost.
        self.device_losses(interface).of(LossReason::RxMissed)
    }
}

pub(super) fn measure(
    o: &Options,
    between: &Between,
    [tx, rx]: [&str; 2],
    interrupt: &Interrupt,
    progress: &mut impl FnMut(&str),
) -> Result<Figures, LinerateError> {
    progress("starting DPDK");
    let one = tx == rx;
    let names: &[&str] = if one { &[tx] } else { &[tx, rx] };
    let devices: Result<Vec<Device>, String> = names.iter().map(|name| Device::parse(name)).collect();
    let devices = devices.map_err(DpdkError::Options)?;
    let core = cores::available()?.first().map(|c| c.id);
    let options = DpdkOptions {
        devices,
        cores: core.into_iter().collect(),
        buffers: BUFFERS,
        arguments: between.eal.clone(),
        clients: vec![],
    };
    let (environment, ports) = open(&options)?;
    if let Some(core) = core {
        cores::pin(core)?;
    }
    let states = environment.devices();
    let mac = |at: usize| states.get(at).map_or(MacAddr([0; 6]), |d| d.mac);
    let gateway = match between.gateway {
        Some(Gateway::Mac(mac)) => MacAddr(mac),
        _ => mac(states.len() - 1),
    };
    let mut notes: Vec<String> = states.iter().map(|d| format!("{}: DPDK, driver {}", d.name, d.driver)).collect();
    notes.push(format!("frames are addressed to {gateway}"));
    let rx_number = u8::from(!one);
    let queues = ports.into_iter().map(|port| Queue { port, tx: Some(0), rx: Some(rx_number) }).collect();
    let names = format!("{tx} to {rx}, to {} at {gateway}", between.to);
    let wires = Wires::new(queues, flows(o, between, (mac(0), gateway)), between.speed, names, interrupt.clone());
    let figures = searched(o, between, wires, notes, progress);
    drop(environment);
    figures
}
