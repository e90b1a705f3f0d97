//! The memory of a flow table in user space.
//!
//! [`SliceTable`] puts the engine's table over borrowed words: the daemon lays it over the mapped
//! BPF arrays. [`OwnedTable`] owns its words: the simulator and tests use it.
//!
//! Layout, the same as in the kernel's maps, for each family:
//!
//! | array      | words of slot `s` in bucket `b` start at    | words |
//! | ---------- | ------------------------------------------- | ----- |
//! | tags       | `b`                                         | 1 for the whole bucket |
//! | slots      | `(b * 8 + s) * SLOT_WORDS`                  | 8 or 16 |
//! | warm       | `(b * 8 + s) * 2`                           | 2 |
//! | accounting | `(b * 8 + s) * 5`                           | 5, where there is accounting |

#![deny(unsafe_code)]

mod owned;
mod slices;

pub use self::owned::{Accounting, OwnedTable};
pub use self::slices::{
    FRAGMENT_TABLE_WORDS, FamilySlices, HelperSlices, MeterSlices, SetSlices, SliceTable, WordsAt,
};

use keepstate_engine::limits::{
    BAN_BUCKET_SLOTS, RATED_LOAD_PERCENT, SET_BUCKET_SLOTS, SLOTS_PER_BUCKET,
};

/// Buckets that hold this many flows of one family at the rated load: a multiple of four, since the
/// engine uses pairs of buckets in two halves.
pub fn buckets_for(flows: u32) -> u32 {
    let slots = (u64::from(flows) * 100).div_ceil(u64::from(RATED_LOAD_PERCENT));
    let buckets = slots.div_ceil(u64::from(SLOTS_PER_BUCKET));
    u32::try_from(buckets.max(1).next_multiple_of(4)).unwrap_or(u32::MAX - 3)
}

/// Flows of one family that this many buckets hold at the rated load.
pub fn rated_flows(buckets: u32) -> u32 {
    let slots = u64::from(buckets) * u64::from(SLOTS_PER_BUCKET);
    u32::try_from(slots * u64::from(RATED_LOAD_PERCENT) / 100).unwrap_or(u32::MAX)
}

/// Flows and buckets of a table for which these are asked. It has at least the buckets that the flows
/// need.
pub fn table_size(flows: Option<u32>, buckets: Option<u32>, flows_default: u32) -> (u32, u32) {
    let wanted = buckets.map_or(0, |buckets| buckets.next_multiple_of(4));
    let flows = match flows {
        None if wanted > 0 => rated_flows(wanted),
        flows => flows.unwrap_or(flows_default),
    };
    (flows, wanted.max(buckets_for(flows)))
}

/// Buckets for this many bans, which then take two slots in three.
pub fn ban_buckets_for(bans: u32) -> u32 {
    let slots = (u64::from(bans) * 3).div_ceil(2);
    let buckets = slots.div_ceil(u64::from(BAN_BUCKET_SLOTS)).max(1);
    u32::try_from(buckets).unwrap_or(u32::MAX)
}

/// Bans that this many buckets are for.
pub fn bans_for(buckets: u32) -> u32 {
    let slots = u64::from(buckets) * u64::from(BAN_BUCKET_SLOTS);
    u32::try_from(slots * 2 / 3).unwrap_or(u32::MAX)
}

/// A random secret for cookies.
pub fn random_secret() -> Result<[u32; 4], getrandom::Error> {
    let mut secret = [0; 4];
    for word in &mut secret {
        *word = getrandom::u32()?;
    }
    Ok(secret)
}

/// Buckets for so many entries of sets, and entries that so many buckets are for: as for bans.
pub fn set_buckets_for(entries: u32) -> u32 {
    const { assert!(SET_BUCKET_SLOTS == BAN_BUCKET_SLOTS) }
    ban_buckets_for(entries)
}

/// Random keys for the table's hash.
pub fn random_hash_keys() -> Result<[u32; 12], getrandom::Error> {
    let mut keys = [0; 12];
    for key in &mut keys {
        *key = getrandom::u32()?;
    }
    Ok(keys)
}
