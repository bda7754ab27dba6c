//! IPv6 addresses that many flows share.

use hashbrown::HashMap;

/// Interned IPv6 addresses of services, servers and the director: few, each shared by many flows.
#[derive(Debug)]
pub(super) struct Interned {
    pub(super) addresses: Vec<[u8; 16]>,
    users: Vec<u32>,
    free: Vec<u32>,
    pub(super) by_address: HashMap<[u8; 16], u32>,
}

/// Stands for "the client's own address" where an interned one is expected.
pub(super) const SAME_AS_CLIENT: u32 = u32::MAX;
/// Interned addresses at most: services, servers and source addresses together.
const INTERNED: usize = 1 << 17;

impl Interned {
    /// With room for all there can be, so that nothing is moved or rehashed when the first packet of a connection brings one more.
    pub(super) fn new() -> Self {
        Interned {
            addresses: Vec::with_capacity(INTERNED),
            users: Vec::with_capacity(INTERNED),
            free: Vec::with_capacity(INTERNED),
            by_address: HashMap::with_capacity(INTERNED),
        }
    }

    pub(super) fn take(&mut self, address: &[u8]) -> Option<u32> {
        let address: [u8; 16] = address.try_into().ok()?;
        if let Some(&id) = self.by_address.get(&address) {
            self.users[id as usize] += 1;
            return Some(id);
        }
        let id = match self.free.pop() {
            Some(id) => id,
            None if self.addresses.len() < INTERNED => {
                self.addresses.push(address);
                self.users.push(0);
                self.addresses.len() as u32 - 1
            }
            None => return None,
        };
        self.addresses[id as usize] = address;
        self.users[id as usize] = 1;
        self.by_address.insert(address, id);
        Some(id)
    }

    pub(super) fn give(&mut self, id: u32) {
        let Some(users) = self.users.get_mut(id as usize) else { return };
        *users -= 1;
        if *users == 0 {
            self.by_address.remove(&self.addresses[id as usize]);
            self.free.push(id);
        }
    }
}
