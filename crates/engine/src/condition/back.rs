//! Whether answers to a packet would leave by the interface that it came by: `rpfilter`, as xt_rpfilter of Linux 6.18, by
//! the routes that the host knows.

use super::{Held, way_back};
use crate::host::{Host, Packet, Way};
use crate::policy::Condition;
use crate::process::{Path, Run, Scratch};
use crate::tuple::Family;

/// Index that `lo` has in each network namespace.
const LOOPBACK: u32 = 1;

#[cfg_attr(target_arch = "bpf", inline(never))]
#[cfg_attr(not(target_arch = "bpf"), inline)]
pub(super) fn ask<P: Packet, H: Host>(
    run: &Run<'_, P, H>,
    scratch: &Scratch,
    condition: &Condition,
) -> Held {
    if matches!(run.arrival.path, Path::Local) {
        return Held::Neither;
    }
    let [how, ..] = condition.data;
    let info = &scratch.info;
    let interface = run.host.interface();
    let [a, b, c, d] = info.source;
    let [to, ..] = info.destination;
    let is_link_local = matches!(info.family, Family::V6) && a >> 22 == 0xfe80 >> 6;
    let has_no_source = match info.family {
        // DHCP and the like: from this network (RFC 1122 section 3.2.1.3) to all of it.
        Family::V4 => a >> 24 == 0 && (to == u32::MAX || to >> 8 == 0x00e0_0000),
        Family::V6 => a | b | c | d == 0,
    };
    if interface == LOOPBACK || has_no_source {
        return Held::Yes;
    }
    let Some(way) = run.host.way(info.family, &info.source) else {
        return Held::No;
    };
    let mut leaves_here = u32::from(is_link_local || how & way_back::LOOSE != 0);
    for hop in way.interfaces {
        leaves_here |= u32::from(hop == interface);
    }
    Held::of(match (way.kind, info.family) {
        (Way::UNKNOWN, _) => true,
        (Way::ROUTE, _) => leaves_here != 0,
        (Way::LOCAL, Family::V6) => how & way_back::ACCEPT_LOCAL != 0,
        (Way::LOCAL, Family::V4) => how & way_back::ACCEPT_LOCAL != 0 && leaves_here != 0,
        _ => false,
    })
}
