//! A flow table in the maps' memory, with what lies beside it.

use std::sync::Arc;

use keepstate_flowmemory::{HelperSlices, MeterSlices, SetSlices, SliceTable};

use crate::mapped::Mapping;
use crate::server::tables::TableMemory;
use crate::table_maps::TableMaps;

/// What two tables have in common.
pub(crate) struct CommonMaps {
    pub(crate) gauges: Mapping,
    pub(crate) fragments: Mapping,
    pub(crate) expectations: Mapping,
    pub(crate) helper_states: Mapping,
    pub(crate) meters: Mapping,
    pub(crate) meter_heads: Mapping,
    pub(crate) bans: Mapping,
    pub(crate) sets: Mapping,
    pub(crate) set_heads: Mapping,
    pub(crate) labels: Mapping,
    pub(crate) synproxy: Mapping,
}

/// A table as the server sees it.
pub(crate) struct Mapped {
    pub(crate) own: Arc<TableMaps>,
    pub(crate) common: Arc<CommonMaps>,
}

impl TableMemory for Mapped {
    fn as_slices(&self) -> SliceTable<'_> {
        let table = SliceTable::new(self.own.families(), self.common.gauges.words());
        table
            .with_fragments(self.common.fragments.words())
            .with_meters(MeterSlices {
                slots: self.common.meters.words(),
                heads: self.common.meter_heads.words(),
            })
            .with_bans(self.common.bans.words())
            .with_sets(SetSlices {
                buckets: self.common.sets.words(),
                heads: self.common.set_heads.words(),
            })
            .with_helpers(HelperSlices {
                expectations: self.common.expectations.words(),
                states: self.common.helper_states.words(),
                labels: self.common.labels.words(),
                synproxy: self.common.synproxy.words(),
            })
    }
}
