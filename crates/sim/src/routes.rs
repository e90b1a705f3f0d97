//! The routes of the host that a plane stands for.

use keepstate_engine::host::Way;
use keepstate_engine::tuple::{Address, Family};

/// A route that a plane knows.
#[derive(Clone, Copy, Debug)]
pub struct KnownRoute {
    pub family: Family,
    pub network: Address,
    /// Length of the network's prefix.
    pub bits: u32,
    pub way: Way,
}

impl KnownRoute {
    /// Whether an address lies in the network.
    pub(crate) fn takes(&self, address: &Address) -> bool {
        let mut left = self.bits;
        self.network.iter().zip(address).all(|(own, word)| {
            let here = left.min(32);
            left -= here;
            here == 0 || (own ^ word) >> (32 - here) == 0
        })
    }
}
