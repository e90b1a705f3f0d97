//! Files of the tracker, as scripts know them from `/proc`, answered by the daemon.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry,
    ReplyOpen, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use keepstate_api::{Client, ClientError, Filter, Instance, MeterKind, MeterList, Reply};
use keepstate_listing::sysctl::{Kind, knobs};

use super::lists::{self, DIRECTORIES, Lists};
use super::tcp;

/// Attributes are asked for each time: what is behind them changes.
const NO_TIME: Duration = Duration::ZERO;

/// Files open at once; each holds what was read when it was opened.
const OPEN_MAX: usize = 1024;

/// What lies over which path below /proc/sys/net, by its name here.
pub(super) fn covered() -> Vec<(String, String)> {
    let mut covered = vec![
        ("netfilter".to_owned(), "netfilter".to_owned()),
        ("nf_conntrack_max".to_owned(), "nf_conntrack_max".to_owned()),
    ];
    covered.extend(tcp::Knob::ALL.map(|knob| {
        let name = knob.name();
        (name.to_owned(), format!("ipv4/{name}"))
    }));
    covered
}

/// What lies over which name below /proc/net.
pub(super) fn below_net() -> Vec<&'static str> {
    let lists = DIRECTORIES.map(|(name, _)| name);
    [FLOWS].into_iter().chain(lists).collect()
}

const FLOWS: &str = "nf_conntrack";

struct Node {
    name: String,
    /// Index of its directory; the root is its own.
    parent: usize,
    content: Content,
}

enum Content {
    Directory,
    Knob {
        writable: bool,
    },
    Flows,
    /// Of lists, whose files are not among the nodes.
    Lists(MeterKind),
    Tcp(tcp::Knob),
}

impl Content {
    /// With permissions.
    const fn kind(&self) -> (FileType, u16) {
        match self {
            Self::Directory | Self::Lists(_) => (FileType::Directory, 0o555),
            Self::Knob { writable: true } | Self::Tcp(_) => (FileType::RegularFile, 0o644),
            Self::Knob { writable: false } => (FileType::RegularFile, 0o444),
            Self::Flows => (FileType::RegularFile, 0o440),
        }
    }
}

pub(super) struct Files {
    instance: Instance,
    nodes: Vec<Node>,
    /// Their files come after the nodes.
    lists: Lists,
    open: Mutex<Open>,
}

#[derive(Default)]
struct Open {
    next: u64,
    texts: HashMap<u64, String>,
}

impl Files {
    pub(super) fn new(instance: Instance) -> Self {
        const ROOT: usize = 0;
        const NETFILTER: usize = 1;
        let node = |name: &str, parent, content| Node {
            name: name.to_owned(),
            parent,
            content,
        };
        let mut nodes = vec![
            node("", ROOT, Content::Directory),
            node("netfilter", ROOT, Content::Directory),
            node(FLOWS, ROOT, Content::Flows),
            node("nf_conntrack_max", ROOT, Content::Knob { writable: true }),
        ];
        nodes.extend(knobs().into_iter().map(|knob| {
            let writable = !matches!(knob.kind, Kind::Count);
            node(knob.name, NETFILTER, Content::Knob { writable })
        }));
        nodes.extend(DIRECTORIES.map(|(name, kind)| node(name, ROOT, Content::Lists(kind))));
        nodes.extend(tcp::Knob::ALL.map(|knob| node(knob.name(), ROOT, Content::Tcp(knob))));
        Self {
            instance,
            nodes,
            lists: Lists::default(),
            open: Mutex::default(),
        }
    }

    fn node(&self, ino: INodeNo) -> Option<&Node> {
        self.nodes
            .get(usize::try_from(u64::from(ino)).ok()?.checked_sub(1)?)
    }

    /// A list by its file.
    fn list(&self, ino: INodeNo) -> Option<MeterList> {
        let index = usize::try_from(u64::from(ino)).ok()?.checked_sub(1)?;
        self.lists.get(index.checked_sub(self.nodes.len())?)
    }

    fn list_ino(&self, number: usize) -> INodeNo {
        INodeNo((self.nodes.len() + number) as u64 + 1)
    }

    fn text(&self, ino: INodeNo) -> Result<String, Errno> {
        if let Some(list) = self.list(ino) {
            return lists::text(&self.instance, list).map_err(|error| failed(&error));
        }
        let node = self.node(ino).ok_or(Errno::ENOENT)?;
        match &node.content {
            Content::Directory | Content::Lists(_) => Err(Errno::EISDIR),
            Content::Tcp(knob) => knob.read(&self.instance).map_err(|error| failed(&error)),
            Content::Knob { .. } => self.knob(&node.name).map_err(|error| failed(&error)),
            Content::Flows => self.flows().map_err(|error| failed(&error)),
        }
    }

    fn knob(&self, name: &str) -> Result<String, ClientError> {
        let name = Some(name.to_owned());
        let request = keepstate_api::Request::Sysctl { name };
        match Client::connect(&self.instance)?.ask(&request)? {
            Reply::Sysctl { value, .. } => Ok(format!("{value}\n")),
            _ => Err(ClientError::Unexpected),
        }
    }

    fn flows(&self) -> Result<String, ClientError> {
        let mut text = String::new();
        let filter = Filter::default();
        let request = keepstate_api::Request::Flows { filter };
        Client::connect(&self.instance)?.flows(&request, |flow| {
            // Writing to a string cannot fail.
            let _ = writeln!(text, "{}", flow.to_listing().proc());
            Ok::<_, ClientError>(())
        })?;
        Ok(text)
    }

    fn put(&self, ino: INodeNo, data: &[u8]) -> Result<(), Errno> {
        if let Some(list) = self.list(ino) {
            return lists::put(&self.instance, list, data);
        }
        let node = self.node(ino).ok_or(Errno::ENOENT)?;
        let value = String::from_utf8_lossy(data);
        let value = value.trim();
        match &node.content {
            Content::Knob { writable: true } => {
                let assignment = format!("{}={value}", node.name);
                let request = keepstate_api::Request::SetSysctl { assignment };
                let done = Client::connect(&self.instance).and_then(|mut it| it.ask(&request));
                done.map(drop).map_err(|error| {
                    let error = error.to_string();
                    // Some name the knob themselves.
                    let error = error
                        .strip_prefix(&format!("{}: ", node.name))
                        .unwrap_or(&error);
                    eprintln!("keepstate: {}: {error}", node.name);
                    Errno::EINVAL
                })
            }
            Content::Tcp(knob) => {
                knob.write(&self.instance, value)
                    .map_err(|refused| match refused {
                        tcp::Refused::Invalid => Errno::EINVAL,
                        tcp::Refused::Failed(error) => failed(&error),
                    })
            }
            _ => Err(Errno::EACCES),
        }
    }

    fn attributes(&self, ino: INodeNo) -> Option<FileAttr> {
        let (kind, perm) = match self.list(ino) {
            Some(list) if list.kind == MeterKind::Recent => (FileType::RegularFile, 0o644),
            Some(_) => (FileType::RegularFile, 0o444),
            None => self.node(ino)?.content.kind(),
        };
        Some(FileAttr {
            ino,
            // As below /proc: what is behind it is only known when it is read.
            size: 0,
            blocks: 0,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }
}

impl Filesystem for Files {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if let Some(Content::Lists(kind)) = self.node(parent).map(|node| &node.content) {
            let name = name.to_str().unwrap_or_default();
            let number = self.lists.find(&self.instance, *kind, name);
            let ino = number.map(|number| self.list_ino(number));
            match ino.and_then(|ino| self.attributes(ino)) {
                Some(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
                None => reply.error(Errno::ENOENT),
            }
            return;
        }
        let found = self.nodes.iter().enumerate().skip(1).find(|(_, node)| {
            node.parent as u64 + 1 == u64::from(parent) && name == node.name.as_str()
        });
        let ino = found.map(|(index, _)| INodeNo(index as u64 + 1));
        match ino.and_then(|ino| self.attributes(ino)) {
            Some(attributes) => reply.entry(&NO_TIME, &attributes, Generation(0)),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&NO_TIME, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    /// Shells cut files before they write; here there is nothing to be cut.
    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<std::time::SystemTime>,
        _: Option<FileHandle>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<std::time::SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        match self.attributes(ino) {
            Some(attributes) => reply.attr(&NO_TIME, &attributes),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _: &Request, ino: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let text = match flags.acc_mode() {
            fuser::OpenAccMode::O_WRONLY => Ok(String::new()),
            _ => self.text(ino),
        };
        let text = match text {
            Ok(text) => text,
            Err(error) => {
                reply.error(error);
                return;
            }
        };
        let mut open = lock(&self.open);
        if open.texts.len() >= OPEN_MAX {
            reply.error(Errno::EMFILE);
            return;
        }
        open.next += 1;
        let handle = open.next;
        open.texts.insert(handle, text);
        reply.opened(FileHandle(handle), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let open = lock(&self.open);
        let text = open
            .texts
            .get(&u64::from(handle))
            .map_or("", String::as_str);
        let bytes = text.as_bytes();
        let start = usize::try_from(offset)
            .unwrap_or(usize::MAX)
            .min(bytes.len());
        let end = start.saturating_add(size as usize).min(bytes.len());
        reply.data(&bytes[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        _: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match self.put(ino, data) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(error),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        lock(&self.open).texts.remove(&u64::from(handle));
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        let own = u64::from(ino);
        let dots = [(own, "."), (1, "..")].map(|(ino, name)| (ino, name.to_owned(), true));
        let mut entries: Vec<_> = Vec::new();
        if let Some(Content::Lists(kind)) = self.node(ino).map(|node| &node.content) {
            let lists = match self.lists.all(&self.instance, *kind) {
                Ok(lists) => lists,
                Err(error) => {
                    reply.error(failed(&error));
                    return;
                }
            };
            let files = lists.into_iter();
            entries.extend(files.map(|(number, list)| {
                let ino = u64::from(self.list_ino(number));
                (ino, list.name, false)
            }));
        }
        let nodes = self.nodes.iter().enumerate().skip(1);
        let nodes = nodes.filter(|(_, node)| node.parent as u64 + 1 == own);
        entries.extend(nodes.map(|(index, node)| {
            let is_directory = matches!(node.content.kind().0, FileType::Directory);
            (index as u64 + 1, node.name.clone(), is_directory)
        }));
        let all = dots.into_iter().chain(entries).zip(1_u64..);
        for ((ino, name, is_directory), next) in all.skip(offset as usize) {
            let kind = match is_directory {
                true => FileType::Directory,
                false => FileType::RegularFile,
            };
            if reply.add(INodeNo(ino), next, kind, name) {
                break;
            }
        }
        reply.ok();
    }
}

fn failed(error: &ClientError) -> Errno {
    eprintln!("keepstate: {error}");
    Errno::EIO
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What is behind it is replaced as a whole: a panic elsewhere leaves it right.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
