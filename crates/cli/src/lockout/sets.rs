//! What is in sets, as far as a packet between two hosts asks for it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::net::SocketAddr;

use keepstate_api::{Client, ClientError, Reply, Request, SetChange, SetCommand, SetInfo};
use keepstate_engine::condition::kind;
use keepstate_engine::set::side;
use keepstate_policy::Compiled;

use crate::ipset::{Listed, ask_for_sets};
use crate::running::unexpected;

/// Above all numbers of 31 bits.
const ALWAYS: u32 = 1 << 31;
const NEVER: u32 = 0;

/// What the daemon has said.
pub(super) struct KnownSets<'a> {
    client: &'a mut Client,
    members: BTreeMap<String, Vec<SetInfo>>,
    /// By set and entry.
    found: BTreeMap<(String, String), bool>,
}

impl<'a> KnownSets<'a> {
    pub(super) const fn of(client: &'a mut Client) -> Self {
        Self {
            client,
            members: BTreeMap::new(),
            found: BTreeMap::new(),
        }
    }

    /// Rules in which the answer stands in the place of each question about a set.
    pub(super) fn settle<'c>(
        &mut self,
        compiled: &'c Compiled,
        ends: [SocketAddr; 2],
    ) -> anyhow::Result<Cow<'c, Compiled>> {
        if compiled.sets.is_empty() {
            return Ok(Cow::Borrowed(compiled));
        }
        let mut settled = compiled.clone();
        for condition in &mut settled.conditions {
            if condition.kind != kind::SET {
                continue;
            }
            let [set, sides, ..] = condition.data;
            let holds = match compiled.sets.get(set as usize) {
                Some(set) => self.holds(set, sides, ends)?,
                None => false,
            };
            condition.kind = kind::RANDOM;
            condition.data = [0; _];
            condition.data[0] = if holds { ALWAYS } else { NEVER };
        }
        Ok(Cow::Owned(settled))
    }

    fn holds(
        &mut self,
        set: &str,
        sides: u32,
        [from, to]: [SocketAddr; 2],
    ) -> anyhow::Result<bool> {
        let end = |is_source| if is_source { from } else { to };
        let address = end(sides & side::SOURCE != 0).ip().to_string();
        let port = end(sides & side::SECOND_SOURCE != 0).port();
        let with_port = (sides & side::SECOND != 0).then(|| format!("{address},tcp:{port}"));
        for set in self.members(set)? {
            let entry = match (set.kind.as_str(), &with_port) {
                ("hash:ip,port", None) => continue,
                ("hash:ip,port", Some(entry)) => entry,
                _ => &address,
            };
            if set.v6 == from.is_ipv6() && self.has(&set.name, entry)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The set itself, or those that a list names.
    fn members(&mut self, name: &str) -> anyhow::Result<Vec<SetInfo>> {
        if let Some(known) = self.members.get(name) {
            return Ok(known.clone());
        }
        let mut members: Vec<SetInfo> = self
            .listed(name, true)?
            .map(|it| it.info)
            .into_iter()
            .collect();
        if members.iter().any(|info| info.kind == "list:set") {
            members.clear();
            let list = self.listed(name, false)?.and_then(|list| list.members);
            for member in list.unwrap_or_default() {
                members.extend(self.listed(&member.entry, true)?.map(|it| it.info));
            }
        }
        self.members.insert(name.to_owned(), members.clone());
        Ok(members)
    }

    /// `None` where there is none: rules that name it are refused anyway.
    fn listed(&mut self, name: &str, terse: bool) -> anyhow::Result<Option<Listed>> {
        match ask_for_sets(self.client, Some(name), terse) {
            Ok(sets) => Ok(sets.into_iter().next()),
            Err(ClientError::Refused(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    fn has(&mut self, set: &str, entry: &str) -> anyhow::Result<bool> {
        let key = (set.to_owned(), entry.to_owned());
        if let Some(found) = self.found.get(&key) {
            return Ok(*found);
        }
        let sought = SetChange {
            set: set.to_owned(),
            entry: entry.to_owned(),
            ..SetChange::default()
        };
        let request = Request::Sets {
            commands: vec![SetCommand::Test(sought)],
            exist: false,
        };
        let Reply::SetsDone { found, .. } = self.client.ask(&request)? else {
            return Err(unexpected());
        };
        let found = found.unwrap_or(false);
        self.found.insert(key, found);
        Ok(found)
    }
}
