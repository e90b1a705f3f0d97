//! Packets that NFLOG matched, in a file of pcapng for each group. The prefix is the packet's comment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use keepstate_engine::notice::Notice;
use keepstate_listing::pcapng::{Direction, LinkType, Packet, Writer};

/// Files that are open at a time; what is for more groups is lost, and counted.
const GROUPS_MAX: usize = 64;

/// Bytes of a file; then it becomes the old one, and takes the old one's place.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(super) struct Captures {
    directory: PathBuf,
    instance: String,
    files: BTreeMap<u16, Capture>,
    lost: u64,
}

impl Captures {
    pub(super) fn new(directory: PathBuf, instance: &str) -> Self {
        Self {
            directory,
            instance: instance.into(),
            files: BTreeMap::new(),
            lost: 0,
        }
    }

    pub(super) fn write(
        &mut self,
        group: u16,
        is_bare: bool,
        notice: &Notice,
        frame: &[u8],
        comment: &str,
    ) {
        let time = SystemTime::now().duration_since(UNIX_EPOCH);
        let packet = Packet {
            interface: u32::from(is_bare),
            time_ns: time.unwrap_or_default().as_nanos() as u64,
            length: notice.ip_offset + notice.ip_length,
            frame,
            comment,
            direction: Direction::Unknown,
        };
        let file = self.file(group);
        if file.and_then(|file| file.writer.packet(&packet)).is_err() {
            self.files.remove(&group);
            self.lost += 1;
        }
    }

    /// Hands on what was written since.
    pub(super) fn flush(&mut self) {
        self.files.retain(|_, file| file.writer.flush().is_ok());
    }

    /// Packets that could not be written, all in all.
    pub(super) const fn take_lost(&self) -> u64 {
        self.lost
    }

    fn file(&mut self, group: u16) -> io::Result<&mut Capture> {
        let full = |file: &Capture| file.bytes() >= FILE_BYTES_MAX;
        let path = self
            .directory
            .join(format!("{}-nflog-{group}.pcapng", self.instance));
        if self.files.get(&group).is_some_and(full) {
            self.files.remove(&group);
            fs::rename(&path, path.with_extension("pcapng.1"))?;
        }
        if !self.files.contains_key(&group) {
            if self.files.len() >= GROUPS_MAX {
                return Err(io::Error::other("too many groups"));
            }
            let mut directory = fs::DirBuilder::new();
            directory
                .recursive(true)
                .mode(0o700)
                .create(&self.directory)?;
            self.files.insert(group, Capture::open(&path)?);
        }
        let missing = || io::Error::from(io::ErrorKind::NotFound);
        self.files.get_mut(&group).ok_or_else(missing)
    }
}

struct Capture {
    writer: Writer<BufWriter<File>>,
    /// Bytes of the file before.
    begun: u64,
}

impl Capture {
    /// A new section at the end of the file, which an earlier daemon may have begun.
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let begun = file.metadata()?.len();
        let mut writer = Writer::new(BufWriter::new(file))?;
        for link in [LinkType::Ethernet, LinkType::RawIp] {
            writer.interface(link, "")?;
        }
        Ok(Self { writer, begun })
    }

    const fn bytes(&self) -> u64 {
        self.begun + self.writer.bytes()
    }
}
