//! Files of what rules remember of sources, one for each list that the rules in force name.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Mutex;

use fuser::Errno;
use keepstate_api::{
    Client, ClientError, FailureKind, Instance, MeterKind, MeterList, RecentChange, Reply, Request,
};

use super::files::lock;

/// Names below /proc/net.
pub(super) const DIRECTORIES: [(&str, MeterKind); 3] = [
    ("xt_recent", MeterKind::Recent),
    ("ipt_hashlimit", MeterKind::Hashlimit),
    ("ip6t_hashlimit", MeterKind::Hashlimit6),
];

/// Lists that a script may have named while it runs; those of 65,536 rules are fewer.
const LISTS_MAX: usize = 1 << 16;

/// The lists that were looked at so far; their place here is their number, even when they are no more.
#[derive(Default)]
pub(super) struct Lists {
    seen: Mutex<Vec<MeterList>>,
}

impl Lists {
    pub(super) fn get(&self, number: usize) -> Option<MeterList> {
        lock(&self.seen).get(number).cloned()
    }

    /// The number of a list, if there is one of this name.
    pub(super) fn find(&self, instance: &Instance, kind: MeterKind, name: &str) -> Option<usize> {
        let lists = self.all(instance, kind).ok()?;
        let found = lists.into_iter().find(|(_, list)| list.name == name);
        found.map(|(number, _)| number)
    }

    /// All lists of a kind, with their numbers.
    pub(super) fn all(
        &self,
        instance: &Instance,
        kind: MeterKind,
    ) -> Result<Vec<(usize, MeterList)>, ClientError> {
        let mut client = Client::connect(instance)?;
        let Reply::MeterLists { mut lists } = client.ask(&Request::MeterLists)? else {
            return Err(ClientError::Unexpected);
        };
        lists.retain(|list| list.kind == kind);
        let mut seen = lock(&self.seen);
        let numbered = lists.into_iter().filter_map(|list| {
            let known = seen.iter().position(|known| *known == list);
            let number = match known {
                Some(number) => number,
                None if seen.len() >= LISTS_MAX => return None,
                None => {
                    seen.push(list.clone());
                    seen.len() - 1
                }
            };
            Some((number, list))
        });
        Ok(numbered.collect())
    }
}

/// What is in the file of a list.
pub(super) fn text(instance: &Instance, list: MeterList) -> Result<String, ClientError> {
    let mut text = String::new();
    Client::connect(instance)?.meter(list, |entry| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{}", entry.proc());
        Ok::<_, ClientError>(())
    })?;
    Ok(text)
}

/// Does what is written to a file: `+ADDRESS`, `-ADDRESS` or `/`, as xt_recent has it.
pub(super) fn put(instance: &Instance, list: MeterList, data: &[u8]) -> Result<(), Errno> {
    if list.kind != MeterKind::Recent {
        return Err(Errno::EACCES);
    }
    let Some(change) = change(data) else {
        eprintln!("keepstate: xt_recent: Need \"+ip\", \"-ip\" or \"/\"");
        return Err(Errno::EINVAL);
    };
    let name = list.name;
    let done = Client::connect(instance)
        .and_then(|mut client| client.ask(&Request::ChangeRecent { name, change }));
    done.map(drop).map_err(|error| {
        eprintln!("keepstate: xt_recent: {error}");
        match error {
            ClientError::Refused(failure) if failure.kind == FailureKind::Invalid => Errno::ENOENT,
            ClientError::Refused(_) => Errno::ENOMEM,
            _ => Errno::EIO,
        }
    })
}

fn change(data: &[u8]) -> Option<RecentChange> {
    let (sign, rest) = data.split_first()?;
    if *sign == b'/' {
        return Some(RecentChange::Flush);
    }
    // What is behind the first line is not read.
    let line = rest.split(|byte| *byte == b'\n').next()?;
    let text = std::str::from_utf8(line).ok()?;
    let address = match text.contains(':') {
        true => IpAddr::V6(text.parse::<Ipv6Addr>().ok()?),
        false => IpAddr::V4(text.parse::<Ipv4Addr>().ok()?),
    };
    match sign {
        b'+' => Some(RecentChange::Add { address }),
        b'-' => Some(RecentChange::Remove { address }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_the_kernel_does() {
        let address = "192.0.2.1".parse().expect("an address");
        assert_eq!(change(b"+192.0.2.1\n"), Some(RecentChange::Add { address }));
        assert_eq!(
            change(b"-192.0.2.1\nmore"),
            Some(RecentChange::Remove { address })
        );
        assert_eq!(change(b"/anything"), Some(RecentChange::Flush));
        let address = "2001:db8::1".parse().expect("an address");
        assert_eq!(change(b"+2001:db8::1"), Some(RecentChange::Add { address }));
        for wrong in [
            &b""[..],
            b"192.0.2.1",
            b"+",
            b"+ 192.0.2.1",
            b"+192.0.2",
            b"\xff",
        ] {
            assert_eq!(change(wrong), None, "{wrong:?}");
        }
    }
}
