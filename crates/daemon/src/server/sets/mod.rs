//! Sets, by the commands of ipset. All of them lie in memory that outlives the daemon; here is nothing but the
//! lock that their one writer beside packets holds.

mod entries;
mod listing;
mod sweep;
#[cfg(test)]
mod tests;

pub(super) use self::listing::list;
pub(super) use self::sweep::run;

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use keepstate_api::{FailureKind, Reply, SET_COMMANDS_MAX, SetChange, SetCommand, SetInfo};
use keepstate_engine::condition::kind;
use keepstate_engine::host::{FlowMemory, Words};
use keepstate_engine::limits::{SET_MEMBERS_MAX, SETS_MAX};
use keepstate_engine::set::head::{self, Definition, Name};
use keepstate_engine::set::{self, Put, Search, Shape, Type, Wish};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::tuple::Family;
use keepstate_flowmemory::{SliceTable, bans_for};
use keepstate_policy::SET_NAME_BYTES_MAX;

use super::Shared;
use super::connection::failure;
use super::plane::Plane;
use super::tables::Table;
use crate::lock;

/// Longest time of an entry, in seconds, as with Linux.
const TIMEOUT_MAX: u32 = 2_147_483;

/// As the kernel has them.
const HASHSIZE_MIN: u32 = 64;

const NO_SET: &str = "The set with the given name does not exist";
const FULL: &str = "Hash is full, cannot add more elements";

/// What the daemon knows of sets.
#[derive(Default)]
pub(crate) struct Sets {
    /// Held by whoever writes to them.
    writing: Mutex<()>,
    /// Whether lengths may be in use that no entry has any more.
    has_gaps: AtomicBool,
}

/// Finds what an earlier daemon has left, and sets right what it was about to write.
pub(super) fn recall(plane: &dyn Plane) -> Sets {
    let buckets = plane.settings().sets.buckets;
    set::clear(&plane.table().flows(), 0..buckets, false, plane.now());
    Sets::default()
}

/// The number of a set.
pub(super) fn number(plane: &dyn Plane, name: &str) -> Option<u32> {
    find(&plane.table().flows(), name)
}

fn find(flows: &SliceTable<'_>, text: &str) -> Option<u32> {
    let wanted = name_of(text)?;
    (0..SETS_MAX).find(|number| head::name(flows, *number) == Some(wanted))
}

fn name_of(text: &str) -> Option<Name> {
    let mut name = [0; 32];
    let is_name = !text.is_empty() && text.len() <= SET_NAME_BYTES_MAX && !text.contains('\0');
    name[..text.len().min(SET_NAME_BYTES_MAX)]
        .copy_from_slice(&text.as_bytes()[..text.len().min(SET_NAME_BYTES_MAX)]);
    is_name.then_some(name)
}

fn text_of(name: &Name) -> String {
    let end = name
        .iter()
        .position(|byte| *byte == 0)
        .unwrap_or(name.len());
    String::from_utf8_lossy(&name[..end]).into_owned()
}

/// A run of commands.
struct Batch<'a> {
    shared: &'a Shared,
    table: &'a Table,
    settings: Settings,
    now: Tick,
    exist: bool,
    /// Entries of all sets, and how many there may be.
    used: u64,
    room: u64,
    /// The set that was named last.
    last: Option<(String, u32)>,
    search: Search,
    found: Option<bool>,
}

pub(super) fn run_commands(shared: &Shared, commands: &[SetCommand], exist: bool) -> Reply {
    if commands.len() > SET_COMMANDS_MAX {
        let message = format!("more than {SET_COMMANDS_MAX} commands in one request");
        return failure(FailureKind::Invalid, message);
    }
    let _writing = lock(&shared.sets.writing);
    let (table, settings) = (shared.plane.table(), shared.plane.settings());
    let mut batch = Batch {
        shared,
        table: &table,
        settings,
        now: shared.plane.now(),
        exist,
        used: total(&table.flows()),
        room: u64::from(bans_for(settings.sets.buckets)),
        last: None,
        search: Search::NOTHING,
        found: None,
    };
    let mut done = 0;
    let mut failure = None;
    for command in commands {
        batch.found = None;
        if let Err(message) = batch.run(command) {
            failure = Some(message);
            break;
        }
        done += 1;
    }
    Reply::SetsDone {
        done,
        found: batch.found,
        failure,
    }
}

/// Entries of all sets.
fn total(flows: &SliceTable<'_>) -> u64 {
    let heads = (0..SETS_MAX).filter_map(|content| flows.set_head(content));
    let counts = heads.filter_map(|words| {
        let shape = Shape::of(words.load(head::SHAPE))?;
        (shape.kind != Type::List).then(|| head::count(words))
    });
    counts.sum()
}

impl<'a> Batch<'a> {
    fn flows(&self) -> SliceTable<'a> {
        self.table.flows()
    }

    fn run(&mut self, command: &SetCommand) -> Result<(), String> {
        match command {
            SetCommand::Create(info) => self.create(info),
            SetCommand::Add(change) => self.add(change),
            SetCommand::Del(change) => self.delete(change),
            SetCommand::Test(change) => self.test(change),
            SetCommand::Flush { set } => {
                for number in self.named(set.as_deref())? {
                    self.flush(number);
                }
                Ok(())
            }
            SetCommand::Destroy { set } => self.destroy(set.as_deref()),
            SetCommand::Rename { from, to } => self.rename(from, to),
            SetCommand::Swap { from, to } => self.swap(from, to),
        }
    }

    /// One set, or all.
    fn named(&mut self, name: Option<&str>) -> Result<Vec<u32>, String> {
        match name {
            Some(name) => Ok(vec![self.set(name)?]),
            None => Ok(all(&self.flows())),
        }
    }

    fn set(&mut self, name: &str) -> Result<u32, String> {
        if let Some((last, number)) = &self.last
            && last == name
        {
            return Ok(*number);
        }
        let number = find(&self.flows(), name).ok_or(NO_SET)?;
        self.last = Some((name.to_owned(), number));
        Ok(number)
    }

    /// The content of a set, and what it is.
    fn content(&mut self, name: &str) -> Result<(u32, Definition), String> {
        let set = self.set(name)?;
        let (content, words) = head::content(&self.flows(), set).ok_or(NO_SET)?;
        let definition = head::definition(words).ok_or(NO_SET)?;
        Ok((content, definition))
    }

    fn create(&mut self, info: &SetInfo) -> Result<(), String> {
        let name = name_of(&info.name).ok_or("A name of a set has 1 to 31 bytes")?;
        let definition = definition(info)?;
        let flows = self.flows();
        if let Some(number) = find(&flows, &info.name) {
            let (_, words) = head::content(&flows, number).ok_or(NO_SET)?;
            return match self.exist && head::definition(words) == Some(definition) {
                true => Ok(()),
                false => Err("Set cannot be created: set with the same name already exists".into()),
            };
        }
        let full = || format!("Set cannot be created: there are {SETS_MAX} sets already");
        let is_free = |number: &u32, word: u32| {
            let words = flows.set_head(*number);
            words.is_some_and(|words| words.load(word) == 0)
        };
        let number = (0..SETS_MAX).find(|number| is_free(number, head::CONTENT));
        let content = (0..SETS_MAX).find(|number| is_free(number, head::SHAPE));
        let (number, content) = number.zip(content).ok_or_else(full)?;
        // A packet that was judged by older rules may have come late.
        self.empty(content);
        head::define(&flows, number, content, &name, &definition);
        Ok(())
    }

    fn add(&mut self, change: &SetChange) -> Result<(), String> {
        let (content, definition) = self.content(&change.set)?;
        let shape = definition.shape;
        let seconds = self.seconds(&definition, change)?;
        let deadline = (seconds != 0).then(|| self.now.after_seconds(seconds));
        if shape.kind == Type::List {
            return self.join(change, deadline);
        }
        if change.nomatch && shape.kind != Type::Network {
            return Err("Syntax error: nomatch goes with sets of networks alone".into());
        }
        for (target, length) in entries::parse(&shape, &change.entry)? {
            self.search.begin(&target, 0, self.now);
            let wish = Wish {
                content,
                length,
                deadline,
                is_nomatch: change.nomatch,
                changes: self.exist,
            };
            self.put(&wish)?;
        }
        Ok(())
    }

    /// Seconds that an entry is to last, zero for ever.
    fn seconds(&self, definition: &Definition, change: &SetChange) -> Result<u32, String> {
        match (definition.shape.is_timed, change.timeout) {
            (true, seconds) => checked_timeout(seconds.unwrap_or(definition.timeout)),
            (false, None) => Ok(0),
            (false, Some(_)) => {
                Err("Timeout cannot be used: set was created without timeout support".into())
            }
        }
    }

    fn put(&mut self, wish: &Wish) -> Result<(), String> {
        let flows = self.flows();
        let attempt = |batch: &mut Self| match batch.used < batch.room {
            true => set::put(&flows, &batch.settings, wish, &mut batch.search),
            false => Put::Full,
        };
        let mut put = attempt(self);
        if put == Put::Full {
            // Some may be there whose time is over.
            sweep::sweep(self.table, &self.settings, self.now);
            self.used = total(&flows);
            put = attempt(self);
        }
        match put {
            Put::New => self.used += 1,
            Put::Exists => {
                return Err("Element cannot be added to the set: it's already added".into());
            }
            Put::Changed => {}
            Put::Full if self.used >= self.room => {
                return Err(format!(
                    "{FULL}: all sets together have room for {}, see --set-entries-max of `keepstate up'",
                    self.room
                ));
            }
            Put::Full => return Err(FULL.into()),
            Put::Busy => return Err("Packets write the same element; try again".into()),
        }
        Ok(())
    }

    fn delete(&mut self, change: &SetChange) -> Result<(), String> {
        let (content, definition) = self.content(&change.set)?;
        if definition.shape.kind == Type::List {
            return self.leave(change);
        }
        for (target, length) in entries::parse(&definition.shape, &change.entry)? {
            self.search.begin(&target, 0, self.now);
            let flows = self.flows();
            let gone = set::remove(&flows, &self.settings, content, length, &mut self.search);
            self.used = self.used.saturating_sub(u64::from(gone));
            if !gone && !self.exist {
                return Err("Element cannot be deleted from the set: it's not added".into());
            }
        }
        self.shared.sets.has_gaps.store(true, Ordering::Relaxed);
        Ok(())
    }

    fn test(&mut self, change: &SetChange) -> Result<(), String> {
        let number = self.set(&change.set)?;
        let (content, definition) = self.content(&change.set)?;
        let shape = definition.shape;
        if shape.kind == Type::List {
            let member = self.member(&change.entry)?;
            let members = self.members(number);
            self.found = Some(members.iter().any(|word| number_in(*word) == Some(member)));
            return Ok(());
        }
        let [(target, length)] = entries::parse(&shape, &change.entry)?[..] else {
            return Err("Syntax error: a range cannot be tested".into());
        };
        let flows = self.flows();
        let is_host = length == u32::from(shape.bits()) && shape.kind == Type::Network;
        let mut sides = set::side::SECOND;
        if change.nomatch {
            sides |= set::side::NOMATCH;
        }
        self.search.begin(&target, sides, self.now);
        self.found = Some(if is_host {
            set::find(&flows, &self.settings, number, &mut self.search)
        } else {
            set::get(&flows, &self.settings, content, length, &mut self.search)
                == Some(change.nomatch)
        });
        Ok(())
    }

    /// Takes all out of a set.
    fn flush(&mut self, number: u32) {
        let flows = self.flows();
        let Some((content, words)) = head::content(&flows, number) else {
            return;
        };
        if Shape::of(words.load(head::SHAPE)).is_some_and(|shape| shape.kind == Type::List) {
            head::set_members(&flows, number, &[]);
            return;
        }
        self.empty(content);
        self.used = total(&flows);
        self.shared.sets.has_gaps.store(true, Ordering::Relaxed);
    }

    fn empty(&self, content: u32) {
        let flows = self.flows();
        set::visit(&flows, 0..self.settings.sets.buckets, |place, entry| {
            if entry.content == content {
                set::take_out(&flows, place, content);
            }
        });
    }

    fn destroy(&mut self, name: Option<&str>) -> Result<(), String> {
        let numbers = self.named(name)?;
        let flows = self.flows();
        // No rules come meanwhile.
        let rules = self.shared.rules.lock();
        let mut in_use = numbers
            .iter()
            .map(|number| references(&rules, &flows, *number));
        // With all sets, lists go as well as what they hold.
        let ignored = name.is_none();
        if in_use.any(|(by_rules, by_lists)| by_rules > 0 || (by_lists > 0 && !ignored)) {
            return Err("Set cannot be destroyed: it is in use by a kernel component".into());
        }
        drop(rules);
        for number in numbers {
            self.flush(number);
            head::forget(&flows, number);
        }
        self.last = None;
        Ok(())
    }

    fn rename(&mut self, from: &str, to: &str) -> Result<(), String> {
        let number = self.set(from)?;
        let name = name_of(to).ok_or("A name of a set has 1 to 31 bytes")?;
        let flows = self.flows();
        let rules = self.shared.rules.lock();
        if find(&flows, to).is_some() {
            return Err("Set cannot be renamed: a set with the new name already exists".into());
        }
        if references(&rules, &flows, number) != (0, 0) {
            return Err("Set cannot be renamed: it is in use by another system".into());
        }
        head::rename(&flows, number, &name);
        self.last = None;
        Ok(())
    }

    fn swap(&mut self, from: &str, to: &str) -> Result<(), String> {
        let a = self.set(from)?;
        let b = find(&self.flows(), to);
        let b = b.ok_or("Sets cannot be swapped: the second set does not exist")?;
        let flows = self.flows();
        let kind = |number| {
            let (_, words) = head::content(&flows, number)?;
            let shape = Shape::of(words.load(head::SHAPE))?;
            Some((shape.kind, shape.family))
        };
        if kind(a) != kind(b) {
            return Err("The sets cannot be swapped: their type does not match".into());
        }
        head::swap(&flows, a, b);
        Ok(())
    }

    /// The set that is, or is to be, the member of a list.
    fn member(&self, name: &str) -> Result<u32, String> {
        let number = find(&self.flows(), name);
        let number = number.ok_or("Set to be added/deleted/tested as element does not exist.")?;
        Ok(number)
    }

    /// Those whose time is not over.
    fn members(&self, list: u32) -> Vec<u64> {
        let flows = self.flows();
        let content = head::content(&flows, list);
        let members = content
            .into_iter()
            .flat_map(|(_, words)| head::members(words));
        members.filter(|word| !is_over(*word, self.now)).collect()
    }

    fn join(&mut self, change: &SetChange, deadline: Option<Tick>) -> Result<(), String> {
        let list = self.set(&change.set)?;
        let member = self.member(&change.entry)?;
        let flows = self.flows();
        let is_list = head::content(&flows, member)
            .and_then(|(_, words)| Shape::of(words.load(head::SHAPE)))
            .is_none_or(|shape| shape.kind == Type::List);
        if is_list {
            return Err("Sets with list:set type cannot be added to the set.".into());
        }
        let word = u64::from(member + 1)
            | match deadline {
                Some(deadline) => u64::from(deadline.0) << 32,
                None => head::MEMBER_FOR_EVER,
            };
        let mut members = self.members(list);
        let place = |members: &[u64], number| {
            members
                .iter()
                .position(|word| number_in(*word) == Some(number))
        };
        if let Some(at) = place(&members, member) {
            if !self.exist {
                return Err("Element cannot be added to the set: it's already added".into());
            }
            members[at] = word;
        } else {
            let beside = change.before.as_ref().or(change.after.as_ref());
            let at = match beside {
                Some(name) => {
                    let other = place(&members, self.member(name)?);
                    let other =
                        other.ok_or("Reference set to add before/after is not in the set")?;
                    other + usize::from(change.before.is_none())
                }
                None => members.len(),
            };
            if members.len() >= SET_MEMBERS_MAX as usize {
                return Err(format!(
                    "The list is full: it has {SET_MEMBERS_MAX} members"
                ));
            }
            members.insert(at, word);
        }
        head::set_members(&flows, list, &members);
        Ok(())
    }

    fn leave(&mut self, change: &SetChange) -> Result<(), String> {
        let list = self.set(&change.set)?;
        let member = self.member(&change.entry)?;
        let mut members = self.members(list);
        let before = members.len();
        members.retain(|word| number_in(*word) != Some(member));
        if members.len() == before && !self.exist {
            return Err("Element cannot be deleted from the set: it's not added".into());
        }
        head::set_members(&self.flows(), list, &members);
        Ok(())
    }
}

fn all(flows: &SliceTable<'_>) -> Vec<u32> {
    let numbers = 0..SETS_MAX;
    numbers
        .filter(|number| head::name(flows, *number).is_some())
        .collect()
}

/// The set that a word of a list means.
const fn number_in(word: u64) -> Option<u32> {
    ((word & head::MEMBER_NUMBER) as u32).checked_sub(1)
}

const fn is_over(word: u64, now: Tick) -> bool {
    word & head::MEMBER_FOR_EVER == 0 && Tick((word >> 32) as u32).has_passed(now)
}

fn checked_timeout(seconds: u32) -> Result<u32, String> {
    match seconds {
        0..=TIMEOUT_MAX => Ok(seconds),
        _ => Err(format!(
            "Syntax error: '{seconds}' is out of range 0-{TIMEOUT_MAX}"
        )),
    }
}

fn definition(info: &SetInfo) -> Result<Definition, String> {
    let mut types = Type::ALL.into_iter();
    let kind = types.find(|kind| kind.name() == info.kind).ok_or_else(|| {
        let known = Type::ALL.map(Type::name).join(", ");
        format!(
            "Syntax error: typename '{}' is unknown: there are {known}",
            info.kind
        )
    })?;
    let family = if info.v6 { Family::V6 } else { Family::V4 };
    let bits = if info.v6 { 128 } else { 32 };
    let netmask = info.netmask.unwrap_or(bits);
    if !(1..=bits).contains(&netmask) {
        return Err(format!(
            "Syntax error: '{netmask}' is out of range 1-{bits}"
        ));
    }
    if info.netmask.is_some() && kind != Type::Address {
        return Err("Unknown argument: `netmask'".into());
    }
    if info.maxelem == 0 {
        return Err("Syntax error: '0' is out of range 1-4294967295".into());
    }
    Ok(Definition {
        shape: Shape {
            kind,
            family,
            is_timed: info.timeout.is_some(),
            netmask,
        },
        timeout: checked_timeout(info.timeout.unwrap_or(0))?,
        hashsize: match kind {
            Type::List => 0,
            _ => info
                .hashsize
                .clamp(HASHSIZE_MIN, 1 << 31)
                .next_power_of_two(),
        },
        entries_max: info.maxelem,
    })
}

/// How often rules and lists name a set.
fn references(rules: &super::rules::State, flows: &SliceTable<'_>, number: u32) -> (u64, u64) {
    let by_rules = rules.conditions().filter(|condition| {
        matches!(condition.kind, kind::SET..=kind::SET_DEL) && condition.data[0] == number
    });
    let waiting = head::name(flows, number).is_some_and(|name| rules.would_name(&text_of(&name)));
    let lists = (0..SETS_MAX).filter_map(|content| flows.set_head(content));
    let lists = lists.filter(|words| {
        Shape::of(words.load(head::SHAPE)).is_some_and(|shape| shape.kind == Type::List)
    });
    let by_lists = lists
        .flat_map(head::members)
        .filter(|word| number_in(*word) == Some(number));
    (
        by_rules.count() as u64 + u64::from(waiting),
        by_lists.count() as u64,
    )
}
