//! The lists of bans and of networks that are never banned. They lie in memory that outlives the daemon; here
//! are only the causes, and how many entries there are of each length of prefix.

use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use keepstate_api::{
    Ban, BanList, BanStatus, Banned, CAUSE_BYTES_MAX, FailureKind, Filter, PREFIXES_MAX, Prefix,
    Reply, SenderEntry, engine_address, frame,
};
use keepstate_engine::ban::{self, Entry, Kind, Network, Put, RATE_LENGTH_MAX, Sender};
use keepstate_engine::limits::BAN_LENGTHS_MAX;
use keepstate_engine::rate::{RATE_FLOWS_MAX, Rate};
use keepstate_engine::settings::{BanSettings, SETTING_BANS};
use keepstate_engine::time::{TICKS_PER_SECOND, TIMEOUT_SECONDS_MAX, Tick};
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::bans_for;

use super::connection::{Output, failure};
use super::plane::Plane;
use super::{Shared, cookies, flows};
use crate::lock;

const FILE: &str = "causes.json";

/// Causes that can be told apart: an entry has 16 bits for one, and zero is none.
const CAUSES_MAX: usize = u16::MAX as usize;

/// How often bans that are over are taken out. They do nothing before.
const SWEEP: Duration = Duration::from_secs(2);

/// Buckets that are read before what was found is written.
const BUCKETS_PER_STEP: u32 = 1024;

/// Entries by [`ban::list`] and length of their prefix.
type Counts = [[u64; 129]; ban::LISTS];

/// What the daemon knows of the lists. Whoever writes to them holds the lock.
pub(crate) struct Bans {
    directory: PathBuf,
    known: Mutex<Known>,
    /// There may be flows of the banned: packets of established flows are not asked about.
    owes: AtomicBool,
}

struct Known {
    /// By their number less one.
    causes: Vec<String>,
    counts: Counts,
    /// When the first of them is over.
    due: Option<Tick>,
}

/// What is to be said of networks.
pub(super) struct Wish {
    pub(super) list: BanList,
    pub(super) seconds: Option<u32>,
    pub(super) cause: Option<String>,
    /// New flows a second, of networks that are limited and not banned.
    pub(super) rate: Option<u32>,
    pub(super) more: bool,
}

impl Bans {
    /// What an earlier daemon has left.
    pub(crate) fn recall(plane: &dyn Plane, directory: PathBuf) -> Self {
        let text = fs::read_to_string(directory.join(FILE)).unwrap_or_default();
        let mut counts = [[0; 129]; ban::LISTS];
        let settings = plane.settings();
        ban::visit(&plane.table().flows(), 0..settings.bans.buckets, |entry| {
            *count(&mut counts, entry.kind, &entry.network) += 1
        });
        Self {
            directory,
            known: Mutex::new(Known {
                causes: serde_json::from_str(&text).unwrap_or_default(),
                counts,
                due: Some(plane.now()),
            }),
            // The earlier one may have been killed in between.
            owes: AtomicBool::new(true),
        }
    }

    pub(super) fn status(&self, plane: &dyn Plane) -> BanStatus {
        let known = lock(&self.known);
        BanStatus {
            banned: known.total(Kind::Ban),
            never: known.total(Kind::Exempt),
            room: u64::from(bans_for(plane.settings().bans.buckets)),
        }
    }

    /// The number of a cause. New ones are written down before an entry names them.
    fn cause(&self, known: &mut Known, cause: Option<&str>) -> Result<u16, String> {
        let Some(cause) = cause else {
            return Ok(0);
        };
        if cause.len() > CAUSE_BYTES_MAX {
            return Err(format!("a cause has at most {CAUSE_BYTES_MAX} bytes"));
        }
        if let Some(index) = known.causes.iter().position(|known| known == cause) {
            return Ok(index as u16 + 1);
        }
        if known.causes.len() >= CAUSES_MAX {
            return Err(format!("there are {CAUSES_MAX} different causes already"));
        }
        known.causes.push(cause.to_owned());
        let text = serde_json::to_string(&known.causes).map_err(|error| error.to_string())?;
        let path = self.directory.join(FILE);
        fs::write(&path, text).map_err(|error| format!("{}: {error}", path.display()))?;
        Ok(known.causes.len() as u16)
    }
}

impl Known {
    fn all(&self) -> u64 {
        let kinds = [Kind::Ban, Kind::Exempt, Kind::Spared];
        kinds.into_iter().map(|kind| self.total(kind)).sum()
    }

    fn note_deadline(&mut self, deadline: Option<Tick>, now: Tick) {
        let left = |tick: &Tick| tick.ticks_left(now);
        self.due = [self.due, deadline].into_iter().flatten().min_by_key(left);
    }

    fn total(&self, kind: Kind) -> u64 {
        let families = [Family::V4, Family::V6];
        let lists = families.map(|family| self.counts[ban::list(kind, family)].iter().sum::<u64>());
        lists.iter().sum()
    }

    /// Whether one more network would have a length that packets cannot be told of.
    fn has_too_many_lengths(&self, kind: Kind, network: &Network) -> bool {
        let counts = &self.counts[ban::list(kind, network.family)];
        let used = counts.iter().filter(|count| **count > 0).count();
        counts[usize::from(network.length)] == 0 && used >= BAN_LENGTHS_MAX as usize
    }

    fn put(&mut self, shared: &Shared, entries: impl Iterator<Item = Entry>) -> Banned {
        let (settings, now) = (shared.plane.settings(), shared.plane.now());
        let (table, mut banned) = (shared.plane.table(), Banned::default());
        let room = u64::from(bans_for(settings.bans.buckets));
        for entry in entries {
            let Entry { network, kind, .. } = entry;
            let is_full = self.all() >= room || self.has_too_many_lengths(kind, &network);
            // One that is there already may be changed.
            let was_there = is_full && ban::remove(&table.flows(), &settings, &network, kind);
            if is_full && !was_there {
                banned.refused += 1;
                continue;
            }
            self.note_deadline(entry.deadline, now);
            match ban::put(&table.flows(), &settings, &entry) {
                Put::New if was_there => banned.changed += 1,
                Put::New => {
                    *count(&mut self.counts, kind, &network) += 1;
                    banned.new += 1;
                }
                Put::Changed | Put::Outranked => banned.changed += 1,
                Put::Full => banned.refused += 1,
            }
        }
        banned
    }

    /// Tells packets which lengths there are.
    fn publish(&self, shared: &Shared) {
        let is_banning = self.total(Kind::Ban) > 0;
        let lengths = self.counts.each_ref().map(lengths);
        let result: Result<(), std::convert::Infallible> = shared.change_settings(|settings| {
            settings.bans = BanSettings {
                lengths,
                ..settings.bans
            };
            settings.flags &= !SETTING_BANS;
            if is_banning {
                settings.flags |= SETTING_BANS;
            }
            Ok(())
        });
        let Ok(()) = result;
    }
}

/// The lengths that occur, those of most entries first.
fn lengths(counts: &[u64; 129]) -> [u8; BAN_LENGTHS_MAX as usize] {
    let mut used: Vec<u8> = (1..=128)
        .filter(|length| counts[usize::from(*length)] > 0)
        .collect();
    used.sort_by_key(|length| std::cmp::Reverse(counts[usize::from(*length)]));
    let mut list = [0; BAN_LENGTHS_MAX as usize];
    for (to, length) in list.iter_mut().zip(used) {
        *to = length;
    }
    list
}

fn count<'a>(counts: &'a mut Counts, kind: Kind, network: &Network) -> &'a mut u64 {
    &mut counts[ban::list(kind, network.family)][usize::from(network.length)]
}

pub(super) fn add(shared: &Shared, wish: &Wish, networks: &[Prefix]) -> Reply {
    let invalid = |message: String| failure(FailureKind::Invalid, message);
    if networks.len() > PREFIXES_MAX {
        return invalid(format!("more than {PREFIXES_MAX} networks in one request"));
    }
    if wish
        .seconds
        .is_some_and(|seconds| seconds == 0 || seconds > TIMEOUT_SECONDS_MAX)
    {
        return invalid(format!(
            "a ban lasts for 1 to {TIMEOUT_SECONDS_MAX} seconds, or for ever"
        ));
    }
    let kind = kind_of(wish.list);
    if let Some(rate) = wish.rate {
        let is_long = |it: &&Prefix| it.length() > RATE_LENGTH_MAX;
        if !(1..=RATE_FLOWS_MAX).contains(&rate) || wish.list != BanList::Banned {
            return invalid(format!(
                "a network is limited to 1 to {RATE_FLOWS_MAX} new flows a second"
            ));
        }
        if let Some(long) = networks.iter().find(is_long) {
            return invalid(format!(
                "{long}: networks of IPv6 are limited by /{RATE_LENGTH_MAX} or shorter"
            ));
        }
    }
    let mut known = lock(&shared.bans.known);
    let cause = match shared.bans.cause(&mut known, wish.cause.as_deref()) {
        Ok(cause) => cause,
        Err(message) => return invalid(message),
    };
    let now = shared.plane.now();
    let entries = networks.iter().map(|prefix| Entry {
        network: network_of(prefix),
        kind,
        rate: wish.rate.map(Rate::per_second),
        deadline: wish.seconds.map(|seconds| now.after_seconds(seconds)),
        began: now,
        cause,
    });
    let mut banned = known.put(shared, entries);
    known.publish(shared);
    drop(known);
    if wish.list == BanList::Banned && wish.rate.is_none() {
        // Should the rest not come, this is not forgotten.
        shared.bans.owes.store(true, Relaxed);
        if !wish.more {
            banned.flows_ended = end_flows(shared);
        }
    }
    Reply::Banned(banned)
}

/// Networks that a configuration says are never banned.
pub(super) fn never(shared: &Shared, networks: &[Prefix]) -> Result<(), String> {
    let wish = Wish {
        list: BanList::Never,
        seconds: None,
        cause: Some("configuration".to_owned()),
        rate: None,
        more: false,
    };
    for networks in networks.chunks(PREFIXES_MAX) {
        match add(shared, &wish, networks) {
            Reply::Banned(banned) if banned.refused == 0 => {}
            Reply::Banned(banned) => return Err(format!("no room for {} of them", banned.refused)),
            Reply::Failed(failure) => return Err(failure.message),
            _ => {}
        }
    }
    Ok(())
}

/// What the defence has refused, and whom it spares, until some seconds have passed.
pub(super) struct Kept<'a> {
    pub(super) networks: &'a [(Prefix, Option<Rate>)],
    pub(super) kind: Kind,
    pub(super) seconds: u32,
    pub(super) cause: &'a str,
}

/// Puts them there, or says that they go on; how many found no room.
pub(super) fn keep(shared: &Shared, kept: &Kept<'_>) -> Result<u64, String> {
    let mut known = lock(&shared.bans.known);
    let cause = shared.bans.cause(&mut known, Some(kept.cause))?;
    let now = shared.plane.now();
    let entries = kept.networks.iter().map(|(prefix, rate)| Entry {
        network: network_of(prefix),
        kind: kept.kind,
        rate: *rate,
        deadline: Some(now.after_seconds(kept.seconds)),
        began: now,
        cause,
    });
    let refused = known.put(shared, entries).refused;
    known.publish(shared);
    Ok(refused)
}

/// Takes out what was [kept](keep), and bans no networks that were banned since.
pub(super) fn let_go(shared: &Shared, networks: &[Prefix], kind: Kind) {
    take_out(shared, networks, kind, |entry| {
        kind != Kind::Ban || entry.rate.is_some()
    });
}

/// Takes out entries that something is true of; those that are not there, or otherwise.
fn take_out(
    shared: &Shared,
    networks: &[Prefix],
    kind: Kind,
    is_meant: impl Fn(&Entry) -> bool,
) -> Vec<Prefix> {
    let mut known = lock(&shared.bans.known);
    let (settings, table) = (shared.plane.settings(), shared.plane.table());
    let mut missing = Vec::new();
    for prefix in networks {
        let network = network_of(prefix);
        if ban::remove_if(&table.flows(), &settings, &network, kind, &is_meant) {
            *count(&mut known.counts, kind, &network) -= 1;
        } else {
            missing.push(*prefix);
        }
    }
    known.publish(shared);
    missing
}

/// Takes the networks off again that a step has banned.
pub(super) fn unban(shared: &Shared, networks: &[Prefix]) {
    // Those that are over are gone already.
    take_out(shared, networks, Kind::Ban, |entry| entry.rate.is_none());
}

/// Takes out all limits of the defence and all whom it spares.
pub(super) fn forget_kept(shared: &Shared) {
    let causes = lock(&shared.bans.known).causes.clone();
    let is_own = |entry: &Entry| {
        let cause = usize::from(entry.cause).checked_sub(1);
        let cause = cause.and_then(|index| causes.get(index));
        cause.is_some_and(|cause| cause.starts_with("defence"))
    };
    retain(shared, |entry| {
        !(entry.kind == Kind::Spared || entry.rate.is_some() && is_own(entry))
    });
}

/// As [`of`], for clients.
pub(super) fn told(shared: &Shared, address: IpAddr) -> Vec<SenderEntry> {
    let entries = of(shared, address).into_iter();
    let told = entries.map(|entry| SenderEntry {
        network: prefix_of(&entry.network),
        kind: entry.kind as u8,
        limit: entry.rate.map(|rate| rate.flows >> rate.period),
    });
    told.collect()
}

/// The entries that an address is in.
pub(super) fn of(shared: &Shared, address: IpAddr) -> Vec<Entry> {
    let (family, _) = engine_address(address);
    let settings = shared.plane.settings();
    let (table, now) = (shared.plane.table(), shared.plane.now());
    let mut found = Vec::new();
    for kind in [Kind::Ban, Kind::Exempt, Kind::Spared] {
        let lengths = settings.bans.lengths[ban::list(kind, family)];
        for length in lengths.into_iter().take_while(|length| *length != 0) {
            let Some(prefix) = Prefix::new(address, length) else {
                continue;
            };
            let network = network_of(&prefix);
            let note = |entry: &Entry| found.push(*entry);
            ban::look(&table.flows(), &settings, &network, kind, note);
        }
    }
    found.retain(|entry| !is_over(entry, now));
    found
}

/// Ends the flows that have an end in a banned network. Where packets keep one busy, or while the table changes its
/// size, this is owed again.
fn end_flows(shared: &Shared) -> u64 {
    let owes = &shared.bans.owes;
    owes.store(shared.plane.tables().len() > 1, Relaxed);
    let (settings, now) = (shared.plane.settings(), shared.plane.now());
    if !settings.has(SETTING_BANS) {
        return 0;
    }
    let bans = shared.plane.table();
    let is_banned = |address: IpAddr| {
        let (family, address) = engine_address(address);
        ban::is_banned(
            &bans.flows(),
            &settings,
            &mut Sender::new(family, address, now),
        )
    };
    let all = Filter::default();
    let mut ended = 0;
    let walked = flows::for_each(shared, &all, |table, entry, now, flow| {
        if is_banned(flow.original.source) || is_banned(flow.original.destination) {
            let taken = flows::take_out(shared, None, &all, (table, entry), now);
            ended += u64::from(taken.is_some());
            if taken.is_none() {
                owes.store(true, Relaxed);
            }
        }
        Ok::<_, std::convert::Infallible>(())
    });
    let Ok(()) = walked;
    ended
}

pub(super) fn remove(shared: &Shared, list: BanList, networks: &[Prefix]) -> Reply {
    let missing = take_out(shared, networks, kind_of(list), |_| true);
    let removed = (networks.len() - missing.len()) as u64;
    if list == BanList::Never && removed > 0 {
        end_flows(shared);
    }
    Reply::Unbanned { removed, missing }
}

pub(super) fn flush(shared: &Shared, list: BanList) -> Reply {
    let kind = kind_of(list);
    let shown = retain(shared, |entry| entry.kind != kind);
    if list == BanList::Never && shown > 0 {
        end_flows(shared);
    }
    Reply::FlowsEnd { shown }
}

pub(super) fn list(shared: &Shared, list: BanList, output: &mut Output) -> io::Result<()> {
    let kind = kind_of(list);
    let causes = lock(&shared.bans.known).causes.clone();
    let buckets = shared.plane.settings().bans.buckets;
    let (table, now) = (shared.plane.table(), shared.plane.now());
    let (mut found, mut shown) = (Vec::new(), 0);
    for start in (0..buckets).step_by(BUCKETS_PER_STEP as usize) {
        let end = buckets.min(start.saturating_add(BUCKETS_PER_STEP));
        ban::visit(&table.flows(), start..end, |entry| {
            if entry.kind == kind && !is_over(entry, now) {
                found.push(*entry);
            }
        });
        for entry in found.drain(..) {
            shown += 1;
            frame::write(output, &Reply::Ban(describe(&entry, &causes, now)))?;
        }
    }
    frame::write(output, &Reply::FlowsEnd { shown })
}

/// Shows the networks of a list that are on it now.
pub(super) fn visit(shared: &Shared, kind: Kind, mut show: impl FnMut(Prefix)) {
    let buckets = shared.plane.settings().bans.buckets;
    let (table, now) = (shared.plane.table(), shared.plane.now());
    if lock(&shared.bans.known).total(kind) == 0 {
        return;
    }
    ban::visit(&table.flows(), 0..buckets, |entry| {
        if entry.kind == kind && !is_over(entry, now) {
            show(prefix_of(&entry.network));
        }
    });
}

fn describe(entry: &Entry, causes: &[String], now: Tick) -> Ban {
    let cause = usize::from(entry.cause).checked_sub(1);
    Ban {
        network: prefix_of(&entry.network),
        seconds_left: entry.deadline.map(|deadline| deadline.seconds_left(now)),
        age: now.0.wrapping_sub(entry.began.0) / TICKS_PER_SECOND,
        cause: cause.and_then(|index| causes.get(index).cloned()),
        limit: entry.rate.map(|rate| rate.flows >> rate.period),
    }
}

fn is_over(entry: &Entry, now: Tick) -> bool {
    entry
        .deadline
        .is_some_and(|deadline| deadline.has_passed(now))
}

/// Takes out what is over, and ends what flows are owed, again and again; and looks whether the host still takes cookies.
pub(super) fn run(shared: &Shared) {
    let mut rotated = None;
    loop {
        let now = shared.plane.now();
        let due = lock(&shared.bans.known).due;
        if due.is_some_and(|due| due.has_passed(now)) {
            retain(shared, |entry| {
                let is_over = is_over(entry, now);
                if is_over && entry.kind == Kind::Exempt {
                    shared.bans.owes.store(true, Relaxed);
                }
                !is_over
            });
        }
        if shared.bans.owes.load(Relaxed) {
            end_flows(shared);
        }
        cookies::follow(shared);
        cookies::rotate(shared, &mut rotated);
        if shared.sleep(SWEEP) {
            return;
        }
    }
}

/// Takes out all entries but those that stay; returns how many.
fn retain(shared: &Shared, mut stays: impl FnMut(&Entry) -> bool) -> u64 {
    let mut known = lock(&shared.bans.known);
    let buckets = shared.plane.settings().bans.buckets;
    let (table, now) = (shared.plane.table(), shared.plane.now());
    let mut removed = 0;
    known.due = None;
    ban::retain(&table.flows(), 0..buckets, |entry| {
        let stays = stays(entry);
        if !stays {
            *count(&mut known.counts, entry.kind, &entry.network) -= 1;
            removed += 1;
        } else {
            known.note_deadline(entry.deadline, now);
        }
        stays
    });
    if known.all() == 0 {
        ban::clear(&table.flows(), 0..buckets);
        known.causes.clear();
    }
    if removed > 0 {
        known.publish(shared);
    }
    removed
}

const fn kind_of(list: BanList) -> Kind {
    match list {
        BanList::Banned => Kind::Ban,
        BanList::Never => Kind::Exempt,
    }
}

fn network_of(prefix: &Prefix) -> Network {
    let (family, address) = engine_address(prefix.address());
    Network {
        family,
        address,
        length: prefix.length(),
    }
}

fn prefix_of(network: &Network) -> Prefix {
    let [a, b, c, d] = network.address;
    let address: IpAddr = match network.family {
        Family::V4 => Ipv4Addr::from_bits(a).into(),
        Family::V6 => {
            let bits = [a, b, c, d]
                .iter()
                .fold(0, |bits, word| bits << 32 | u128::from(*word));
            Ipv6Addr::from_bits(bits).into()
        }
    };
    Prefix::new(address, network.length).expect("entries have lengths of prefixes")
}
