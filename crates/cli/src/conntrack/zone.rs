//! Local time, from the files of the time zone database (RFC 8536).

use std::path::PathBuf;
use std::sync::OnceLock;

/// Longest file that is read; those of the database have some thousand bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Seconds that local time is ahead of UTC at a time in seconds since 1970; zero where no time
/// zone is set.
pub(crate) fn utc_offset(seconds: i64) -> i64 {
    static ZONE: OnceLock<Zone> = OnceLock::new();
    ZONE.get_or_init(|| read().unwrap_or_default())
        .offset(seconds)
}

fn read() -> Option<Zone> {
    let path = match std::env::var("TZ") {
        Err(_) => PathBuf::from("/etc/localtime"),
        Ok(name) => {
            let name = name.strip_prefix(':').unwrap_or(&name);
            PathBuf::from("/usr/share/zoneinfo").join(name)
        }
    };
    let length = std::fs::metadata(&path).ok()?.len();
    if length > FILE_BYTES_MAX {
        return None;
    }
    Zone::parse(&std::fs::read(path).ok()?)
}

/// When local time was how far ahead.
#[derive(Debug, Default, PartialEq, Eq)]
struct Zone {
    /// Before the first change.
    first: i64,
    /// From when on, in order, and how far ahead.
    changes: Vec<(i64, i64)>,
}

impl Zone {
    fn offset(&self, seconds: i64) -> i64 {
        let begun = self.changes.partition_point(|(from, _)| *from <= seconds);
        let last = begun.checked_sub(1).and_then(|last| self.changes.get(last));
        last.map_or(self.first, |(_, offset)| *offset)
    }

    /// A file of version 2 or later: its second part has times of 64 bits.
    fn parse(file: &[u8]) -> Option<Self> {
        const TIME_BYTES_V1: usize = 4;
        let old = Header::parse(file)?;
        let rest = file.get(Header::BYTES + old.data_bytes(TIME_BYTES_V1)..)?;
        let header = Header::parse(rest)?;
        let data = rest.get(Header::BYTES..)?;
        let (times, data) = data.split_at_checked(header.changes * 8)?;
        let (indexes, data) = data.split_at_checked(header.changes)?;
        let (kinds, _) = data.split_at_checked(header.kinds * Header::KIND_BYTES)?;
        let offset = |index: usize| -> Option<i64> {
            let kind = kinds.get(index * Header::KIND_BYTES..)?;
            Some(i32::from_be_bytes(*kind.first_chunk()?).into())
        };
        let changes = times.as_chunks::<8>().0.iter().zip(indexes);
        let changes = changes.map(|(time, index)| {
            let offset = offset(usize::from(*index))?;
            Some((i64::from_be_bytes(*time), offset))
        });
        Some(Self {
            first: offset(0)?,
            changes: changes.collect::<Option<_>>()?,
        })
    }
}

/// What stands before each part: how much of what follows.
struct Header {
    changes: usize,
    kinds: usize,
    /// Bytes of all that is not read.
    rest: [usize; 4],
}

impl Header {
    const BYTES: usize = 44;
    const KIND_BYTES: usize = 6;

    fn parse(part: &[u8]) -> Option<Self> {
        let header = part.first_chunk::<{ Self::BYTES }>()?;
        let (magic, counts) = header.split_at(20);
        if !magic.starts_with(b"TZif") || magic.get(4)? < &b'2' {
            return None;
        }
        let counts = counts.as_chunks::<4>().0;
        let count = |index: usize| -> Option<usize> {
            let count = u32::from_be_bytes(*counts.get(index)?);
            // Beyond what a file may hold; sums of such numbers do not overflow.
            (u64::from(count) <= FILE_BYTES_MAX).then_some(count as usize)
        };
        Some(Self {
            changes: count(3)?,
            kinds: count(4)?,
            rest: [count(0)?, count(1)?, count(2)?, count(5)?],
        })
    }

    const fn data_bytes(&self, time_bytes: usize) -> usize {
        let [utc_marks, standard_marks, leaps, letters] = self.rest;
        self.changes * (time_bytes + 1)
            + self.kinds * Self::KIND_BYTES
            + letters
            + leaps * (time_bytes + 4)
            + standard_marks
            + utc_marks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A zone an hour ahead, and two from the second 1000 to the second 2000.
    fn file() -> Vec<u8> {
        let header = |changes: u32, kinds: u32| {
            let mut header = b"TZif2".to_vec();
            header.resize(20, 0);
            for count in [0, 0, 0, changes, kinds, 0] {
                header.extend(u32::to_be_bytes(count));
            }
            header
        };
        let mut file = header(0, 0);
        file.extend(header(2, 2));
        file.extend([1000_i64, 2000].iter().flat_map(|time| time.to_be_bytes()));
        file.extend([1, 0]);
        for offset in [3600_i32, 7200] {
            file.extend(offset.to_be_bytes());
            file.extend([0, 0]);
        }
        file
    }

    #[test]
    fn summer_comes_and_goes() {
        let zone = Zone::parse(&file()).expect("it is a file of a time zone");
        let offsets = [0, 999, 1000, 1999, 2000, 9999].map(|seconds| zone.offset(seconds));
        assert_eq!(offsets, [3600, 3600, 7200, 7200, 3600, 3600]);
    }

    #[test]
    fn what_is_no_such_file_is_none() {
        let file = file();
        for length in 0..file.len() {
            assert_eq!(Zone::parse(&file[..length]), None, "{length}");
        }
        let mut greedy = file;
        greedy[20..44].fill(0xff);
        assert_eq!(Zone::parse(&greedy), None);
    }
}
