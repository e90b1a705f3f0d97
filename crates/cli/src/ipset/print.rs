//! Sets as ipset lists and saves them.

use std::io::{self, Write};
use std::net::IpAddr;

use keepstate_api::{SetEntry, SetInfo};

use super::Listed;
use super::options::{Format, Options};

pub(super) fn print(out: &mut dyn Write, options: &Options, sets: &[Listed]) -> io::Result<()> {
    if options.format == Format::Json {
        return print_json(out, options, sets);
    }
    if options.format == Format::Save {
        // Lists come after what they hold.
        let (lists, others): (Vec<_>, Vec<_>) = sets.iter().partition(|set| is_list(&set.info));
        return others
            .into_iter()
            .chain(lists)
            .try_for_each(|set| save(out, set));
    }
    for (number, set) in sets.iter().enumerate() {
        if options.names {
            writeln!(out, "{}", set.info.name)?;
            continue;
        }
        if number > 0 {
            writeln!(out)?;
        }
        plain(out, set)?;
    }
    Ok(())
}

fn print_json(out: &mut dyn Write, options: &Options, sets: &[Listed]) -> io::Result<()> {
    if options.names {
        let names: Vec<&str> = sets.iter().map(|set| set.info.name.as_str()).collect();
        serde_json::to_writer(&mut *out, &names)?;
    } else {
        serde_json::to_writer(&mut *out, sets)?;
    }
    writeln!(out)
}

fn is_list(info: &SetInfo) -> bool {
    info.kind == "list:set"
}

fn plain(out: &mut dyn Write, set: &Listed) -> io::Result<()> {
    let info = &set.info;
    writeln!(out, "Name: {}", info.name)?;
    writeln!(out, "Type: {}", info.kind)?;
    writeln!(out, "Header: {}", header(info))?;
    writeln!(out, "References: {}", info.references)?;
    // What is over is still counted until it is taken out.
    let entries = set.members.as_ref().map(|members| members.len() as u64);
    writeln!(
        out,
        "Number of entries: {}",
        entries.unwrap_or(info.entries)
    )?;
    if info.refused > 0 {
        writeln!(out, "Refused for want of room: {}", info.refused)?;
    }
    let Some(members) = &set.members else {
        return Ok(());
    };
    writeln!(out, "Members:")?;
    for member in members {
        writeln!(out, "{}", line(member))?;
    }
    Ok(())
}

fn save(out: &mut dyn Write, set: &Listed) -> io::Result<()> {
    let info = &set.info;
    writeln!(
        out,
        "create {} {} {}",
        quoted(&info.name),
        info.kind,
        header(info)
    )?;
    for member in set.members.iter().flatten() {
        writeln!(out, "add {} {}", quoted(&info.name), line(member))?;
    }
    Ok(())
}

fn quoted(name: &str) -> String {
    match name.contains([' ', '\t', '"']) {
        true => format!("\"{}\"", name.replace('"', "\\\"")),
        false => name.to_owned(),
    }
}

fn header(info: &SetInfo) -> String {
    let mut text = if is_list(info) {
        format!("size {}", info.maxelem)
    } else {
        let family = if info.v6 { "inet6" } else { "inet" };
        let SetInfo {
            hashsize, maxelem, ..
        } = info;
        format!("family {family} hashsize {hashsize} maxelem {maxelem}")
    };
    if let Some(netmask) = info.netmask {
        text += &format!(" netmask {netmask}");
    }
    if let Some(timeout) = info.timeout {
        text += &format!(" timeout {timeout}");
    }
    text
}

fn line(member: &SetEntry) -> String {
    let mut text = member.entry.clone();
    if let Some(timeout) = member.timeout {
        text += &format!(" timeout {timeout}");
    }
    if member.nomatch {
        text += " nomatch";
    }
    text
}

/// What entries are sorted by: address, length, and the rest.
pub(super) fn order(entry: &str) -> (Option<IpAddr>, u8, String) {
    let (address, rest) = match entry.find(['/', ',']) {
        Some(at) => entry.split_at(at),
        None => (entry, ""),
    };
    let length = rest
        .strip_prefix('/')
        .and_then(|length| length.parse().ok());
    (
        address.parse().ok(),
        length.unwrap_or(u8::MAX),
        rest.to_owned(),
    )
}
