//! Names of connection labels, from `/etc/xtables/connlabel.conf`: lines of a number and a name.

use std::io;

/// Where they stand, for iptables and conntrack alike.
pub const LABEL_FILE: &str = "/etc/xtables/connlabel.conf";

/// Numbers that a name may have there; flows have labels below [`keepstate_engine::limits::LABELS_MAX`]
/// alone, and the kernel refuses the others.
const NUMBERS_MAX: u32 = 1024;

/// The names that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelNames(Vec<(u32, String)>);

impl LabelNames {
    /// Reads the file.
    pub fn read() -> io::Result<Self> {
        let bytes = std::fs::read(LABEL_FILE)?;
        Ok(Self::parse(&String::from_utf8_lossy(&bytes)))
    }

    fn parse(text: &str) -> Self {
        let mut names = Self::default();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((number, name)) = entry(line) else {
                continue;
            };
            let is_known = names.name(number).is_some() || names.number(name).is_some();
            if !is_known {
                names.0.push((number, name.to_owned()));
            }
        }
        names
    }

    pub fn number(&self, name: &str) -> Option<u32> {
        let found = self.0.iter().find(|(_, known)| known == name);
        found.map(|(number, _)| *number)
    }

    pub fn name(&self, number: u32) -> Option<&str> {
        let found = self.0.iter().find(|(known, _)| *known == number);
        found.map(|(_, name)| name.as_str())
    }
}

/// Number and name of a line; `None` for one that is not understood, which is passed over.
fn entry(line: &str) -> Option<(u32, &str)> {
    let line = line.trim_start();
    let (digits, radix) = match line.strip_prefix("0x").or_else(|| line.strip_prefix("0X")) {
        Some(rest) => (rest, 16),
        None if line.starts_with('0') => (line, 8),
        None => (line, 10),
    };
    let end = digits
        .find(|c: char| !c.is_digit(radix))
        .unwrap_or(digits.len());
    let (number, name) = digits.split_at(end);
    let number = u32::from_str_radix(number, radix).ok()?;
    let name = name.trim_matches([' ', '\t', '\r', '\u{b}', '\u{c}']);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, ' ' | '-');
    let is_name = !name.is_empty() && name.chars().all(is_plain);
    (is_name && number < NUMBERS_MAX).then_some((number, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_understood() {
        let names = LabelNames::parse(
            "0 zero\n  2 two\r\n7\n8 \n5 five extra\n6 \"six\"\n1 one\n1 uno\n9 one\n0x0a ten\n011 nine\n\
             # 12 twelve\n13thirteen\n14 a,b\n15 a-b\n1024 k\nx\n128 far",
        );
        for (number, name) in [
            (0, "zero"),
            (2, "two"),
            (5, "five extra"),
            (1, "one"),
            (10, "ten"),
            (9, "nine"),
            (13, "thirteen"),
            (15, "a-b"),
            (128, "far"),
        ] {
            assert_eq!(names.number(name), Some(number), "{name}");
            assert_eq!(names.name(number), Some(name));
        }
        assert_eq!(names.0.len(), 9);
    }
}
