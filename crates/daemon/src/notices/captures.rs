//! Packets that NFLOG matched, in a file of pcapng for each group. The prefix is the packet's comment.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use keepstate_engine::notice::Notice;

/// Files that are open at a time; what is for more groups is lost, and counted.
const GROUPS_MAX: usize = 64;

/// Bytes of a file; then it becomes the old one, and takes the old one's place.
const FILE_BYTES_MAX: u64 = 64 << 20;

const SECTION: u32 = 0x0a0d_0d0a;
const INTERFACE: u32 = 1;
const PACKET: u32 = 6;
const BYTE_ORDER: u32 = 0x1a2b_3c4d;

const ETHERNET: u16 = 1;
const RAW_IP: u16 = 101;

/// Options (pcapng, sections 3.5 and 4.2): a comment, and that times count nanoseconds.
const COMMENT: u16 = 1;
const RESOLUTION: u16 = 9;
const NANOSECONDS: u8 = 9;

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
            is_bare,
            time_ns: time.unwrap_or_default().as_nanos() as u64,
            length: notice.ip_offset + notice.ip_length,
            frame,
            comment,
        };
        if self
            .file(group)
            .and_then(|file| file.write(&packet))
            .is_err()
        {
            self.files.remove(&group);
            self.lost += 1;
        }
    }

    /// Hands on what was written since.
    pub(super) fn flush(&mut self) {
        self.files.retain(|_, file| file.output.flush().is_ok());
    }

    /// Packets that could not be written, all in all.
    pub(super) const fn take_lost(&self) -> u64 {
        self.lost
    }

    fn file(&mut self, group: u16) -> io::Result<&mut Capture> {
        let full = |file: &Capture| file.bytes >= FILE_BYTES_MAX;
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

struct Packet<'a> {
    is_bare: bool,
    time_ns: u64,
    /// Of the whole packet.
    length: u32,
    frame: &'a [u8],
    comment: &'a str,
}

struct Capture {
    output: BufWriter<File>,
    bytes: u64,
}

impl Capture {
    /// A new section at the end of the file, which an earlier daemon may have begun.
    fn open(path: &Path) -> io::Result<Self> {
        let file = File::options()
            .create(true)
            .append(true)
            .mode(0o600)
            .open(path)?;
        let bytes = file.metadata()?.len();
        let mut capture = Self {
            output: BufWriter::new(file),
            bytes,
        };
        let mut section = Vec::new();
        section.extend(BYTE_ORDER.to_le_bytes());
        section.extend([1, 0, 0, 0]);
        section.extend(u64::MAX.to_le_bytes());
        capture.block(SECTION, &section)?;
        for link in [ETHERNET, RAW_IP] {
            let mut interface = Vec::new();
            interface.extend(link.to_le_bytes());
            interface.extend([0; 6]);
            option(&mut interface, RESOLUTION, &[NANOSECONDS]);
            interface.extend([0; 4]);
            capture.block(INTERFACE, &interface)?;
        }
        Ok(capture)
    }

    fn write(&mut self, packet: &Packet<'_>) -> io::Result<()> {
        let mut body = Vec::with_capacity(packet.frame.len() + 64);
        let captured = packet.frame.len() as u32;
        for word in [
            u32::from(packet.is_bare),
            (packet.time_ns >> 32) as u32,
            packet.time_ns as u32,
            captured,
            packet.length.max(captured),
        ] {
            body.extend(word.to_le_bytes());
        }
        body.extend(packet.frame);
        pad(&mut body);
        if !packet.comment.is_empty() {
            option(&mut body, COMMENT, packet.comment.as_bytes());
            body.extend([0; 4]);
        }
        self.block(PACKET, &body)
    }

    /// Writes a block: its body stands between its kind and its length, which is said twice.
    fn block(&mut self, kind: u32, body: &[u8]) -> io::Result<()> {
        let length = body.len() as u32 + 12;
        self.output.write_all(&kind.to_le_bytes())?;
        self.output.write_all(&length.to_le_bytes())?;
        self.output.write_all(body)?;
        self.output.write_all(&length.to_le_bytes())?;
        self.bytes += u64::from(length);
        Ok(())
    }
}

fn option(body: &mut Vec<u8>, kind: u16, value: &[u8]) {
    body.extend(kind.to_le_bytes());
    body.extend((value.len() as u16).to_le_bytes());
    body.extend(value);
    pad(body);
}

fn pad(body: &mut Vec<u8>) {
    let padded = body.len().next_multiple_of(4);
    body.resize(padded, 0);
}
