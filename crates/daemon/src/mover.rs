//! Changing the size of the flow table while packets come.
//!
//! 1. Programs and maps of another size are loaded beside those in use ([`resize::make`]). Nobody uses them yet.
//! 2. The stages of each load get a way to those of the other, and then the words of both planes say that
//!    there are two tables: from here on it does not matter which load's programs a packet meets first, and
//!    new flows begin in the newer table.
//! 3. The programs on the interfaces are replaced, one after the other.
//! 4. Record by record moves ([`table::transfer`]).
//! 5. When the older table is empty, and no packet on its way knows of it, it goes.
//!
//! The daemon may be killed anywhere: see [`crate::resize`] for what the next one does.

use std::sync::{Arc, PoisonError, TryLockError};
use std::time::{Duration, Instant};

use keepstate_engine::settings::{SETTING_NEWER_TABLE, SETTING_OLDER_TABLE};
use keepstate_engine::table::{self, Moved};
use keepstate_flowmemory::rated_flows;
use keepstate_plane::{
    BUCKET_ACCOUNTING_WORDS, BUCKET_SLOT_WORDS_V4, BUCKET_SLOT_WORDS_V6, BUCKET_WARM_WORDS,
    TABLE_MADE, TABLE_NEWER, TABLE_WHOLE,
};

use crate::attach;
use crate::kernel_plane::{GRACE, KernelPlane, Known, limit_flows};
use crate::resize::{self, Beside};
use crate::server::tables::Table;
use crate::server::{Plane, PlaneError};
use crate::table_maps::TableMaps;
use crate::{lock, read};

/// How long whoever asks for another size waits until all flows have moved. A million take a second; those
/// that have expired wait for the search that tells of their end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Between two rounds over what could not be moved.
const PAUSE: Duration = Duration::from_millis(20);

impl KernelPlane {
    /// See [`Plane::resize`].
    pub(crate) fn change_size(&self, buckets: Option<u32>) -> Result<(), PlaneError> {
        let mut known = match self.resizing.try_lock() {
            Ok(known) => known,
            Err(TryLockError::Poisoned(poisoned)) => PoisonError::into_inner(poisoned),
            // Whoever holds it does what is to be done.
            Err(TryLockError::WouldBlock) if buckets.is_none() => return Ok(()),
            Err(TryLockError::WouldBlock) => return Err(PlaneError::Resizing),
        };
        let is_under_way = self.tables().len() > 1;
        match buckets {
            None if !is_under_way => return Ok(()),
            None => {}
            Some(_) if is_under_way => return Err(PlaneError::Resizing),
            Some(buckets) => self.make_beside(buckets)?,
        }
        if *known == Known::No {
            self.make_known()?;
            *known = Known::Yes;
        }
        self.move_all(match buckets {
            Some(_) => PATIENCE,
            None => Duration::ZERO,
        })?;
        self.let_go()?;
        *known = Known::No;
        Ok(())
    }

    /// The first step.
    fn make_beside(&self, buckets: u32) -> Result<(), PlaneError> {
        check_size(&self.table(), buckets)?;
        check_memory(buckets, available_mib())?;
        let mut words = self.words();
        words.settings.buckets = [buckets; 2];
        let Beside { maps, programs } = resize::make(&self.pins, &words.settings)?;
        let mut tables = self
            .flow_tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        // What changed meanwhile; nothing changes now that the list is locked.
        let mut words = tables
            .last()
            .expect("there is always a table")
            .plane_words();
        words.settings.buckets = [buckets; 2];
        words.settings.flags |= SETTING_OLDER_TABLE;
        words.table = TABLE_MADE;
        maps.store(&words);
        tables.push(Arc::new(maps));
        drop(tables);
        *lock(&self.programs) = programs;
        Ok(())
    }

    /// The second and the third. May be done again.
    fn make_known(&self) -> Result<(), PlaneError> {
        let (older, newer) = self.both();
        resize::link(&self.pins)?;
        let flows_max = rated_flows(newer.tags[0].words().len() as u32);
        self.change(|plane| limit_flows(&mut plane.settings, flows_max));
        self.change_table(&newer, |plane| {
            plane.table = TABLE_NEWER;
            plane.settings.flags |= SETTING_OLDER_TABLE;
        });
        self.change_table(&older, |plane| plane.settings.flags |= SETTING_NEWER_TABLE);
        attach::replace(&mut lock(&self.programs), &self.pins)?;
        // Packets that did not know yet.
        std::thread::sleep(GRACE);
        Ok(())
    }

    /// The fourth.
    fn move_all(&self, patience: Duration) -> Result<(), PlaneError> {
        let begun = Instant::now();
        let tables = self.tables();
        let [older, newer] = &tables[..] else {
            return Ok(());
        };
        loop {
            let stay = self.move_once(older, newer);
            if stay == 0 {
                return Ok(());
            }
            if begun.elapsed() > patience {
                return Err(PlaneError::Unmoved(stay));
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Moves what can be moved; returns how many records stay.
    fn move_once(&self, older: &Table, newer: &Table) -> u64 {
        let settings = newer.settings(&self.settings());
        let (from, to) = (older.flows(), newer.flows());
        let mut stay = 0;
        for (family, buckets) in older.families() {
            let mut next = 0;
            while next < buckets {
                let end = buckets.min(next + BUCKETS_PER_STEP);
                let now = self.now();
                table::places(&from, family, next..end, |place| {
                    let moved = table::transfer(&from, &to, &settings, place, now);
                    stay += u64::from(moved != Moved::Done);
                });
                next = end;
            }
        }
        stay
    }

    /// The fifth. May be done again.
    fn let_go(&self) -> Result<(), PlaneError> {
        let (_, newer) = self.both();
        self.change_table(&newer, |plane| plane.settings.flags &= !SETTING_OLDER_TABLE);
        // Packets that went by way of the older table.
        std::thread::sleep(GRACE);
        let tables = self.tables();
        if let [older, newer] = &tables[..] {
            recover(older);
            for (family, buckets) in newer.families() {
                table::settle_copies(&newer.flows(), family, 0..buckets);
            }
        }
        self.change_table(&newer, |plane| plane.table = TABLE_WHOLE);
        resize::take_place(&self.pins)?;
        let mut tables = self
            .flow_tables
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        tables.remove(0);
        Ok(())
    }

    fn both(&self) -> (Arc<TableMaps>, Arc<TableMaps>) {
        let tables = read(&self.flow_tables);
        let (first, last) = (tables.first(), tables.last());
        let both = first.zip(last).expect("there is always a table");
        (Arc::clone(both.0), Arc::clone(both.1))
    }
}

/// Buckets that are moved between two looks at the clock.
const BUCKETS_PER_STEP: u32 = 1024;

/// Whether the flows that there are fit into so many buckets.
fn check_size(table: &Table, buckets: u32) -> Result<(), PlaneError> {
    let rated = u64::from(rated_flows(buckets));
    for (family, present) in table.families() {
        let mut flows = 0;
        table::places(&table.flows(), family, 0..present, |_| flows += 1);
        if flows > rated {
            return Err(PlaneError::TooSmall {
                flows,
                buckets,
                rated,
            });
        }
    }
    Ok(())
}

/// What a bucket takes in the tables of both families: tags, slots, warm words and counters.
const BUCKET_BYTES: u64 = 8
    * (2 + BUCKET_SLOT_WORDS_V4
        + BUCKET_SLOT_WORDS_V6
        + 2 * (BUCKET_WARM_WORDS + BUCKET_ACCOUNTING_WORDS)) as u64;

/// Of the memory that is free, a tenth is left to others: where a table almost fits, these would starve.
fn check_memory(buckets: u32, available_mib: Option<u64>) -> Result<(), PlaneError> {
    let needed = (u64::from(buckets) * BUCKET_BYTES).div_ceil(1 << 20);
    match available_mib {
        Some(available) if needed > available * 9 / 10 => Err(PlaneError::NoMemory {
            buckets,
            needed,
            available,
        }),
        _ => Ok(()),
    }
}

/// Memory that programs can get; `None` where the kernel does not say.
fn available_mib() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let mut lines = text.lines();
    let line = lines.find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib / 1024)
}

/// Counts what a process left half done that was killed while it took records out of a table.
fn recover(table: &Table) {
    let flows = table.flows();
    for (family, buckets) in table.families() {
        let mut left = Vec::new();
        table::leftovers(&flows, family, 0..buckets, |place, control| {
            left.push((place, control));
        });
        for (place, control) in left {
            table::recover(&flows, place, control);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_that_almost_fits_is_refused() {
        // A million flows: 156,250 buckets in 365 MiB.
        assert!(check_memory(156_250, Some(406)).is_ok());
        let refused = check_memory(156_250, Some(400)).expect_err("no room is left");
        assert!(refused.to_string().contains("takes 365 MiB"), "{refused}");
        assert!(check_memory(u32::MAX, Some(64 << 10)).is_err());
        assert!(check_memory(u32::MAX, None).is_ok());
        assert!(available_mib().is_some());
    }
}
