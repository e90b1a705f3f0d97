//! What programs hand over with a packet's bytes: lines that LOG asks for, packets that NFLOG keeps, and
//! packets that REJECT has answered. A thread of its own, so that nobody who asks for anything waits.

mod answers;
mod captures;
mod syslog;

use std::io;
use std::os::fd::BorrowedFd;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::thread;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use keepstate_engine::notice::{Notice, NoticeKind};
use keepstate_engine::tuple::Family;
use keepstate_engine::wire::Link;
use keepstate_listing::LoggedPacket;
use keepstate_policy::model::{Note, NoteTarget};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::netdevice::index_to_name;

use self::answers::Answerer;
use self::captures::Captures;
use self::syslog::Log;
use crate::kernel_plane::KernelPlane;
use crate::mapped::from_bytes;
use crate::server::{Plane as _, Rules};

/// How long is waited for a packet before it is looked whether the daemon ends, and what was lost.
const PATIENCE: Duration = Duration::from_secs(1);

/// Where captures are kept.
const CAPTURES: &str = "/var/log/keepstate";

/// Begins to carry notices out. The thread ends with the process.
pub(crate) fn start(
    kernel: &Arc<KernelPlane>,
    rules: &Arc<Rules>,
    instance: &str,
) -> io::Result<()> {
    let Some([notices, answers]) = kernel.notices()? else {
        return Ok(());
    };
    let answerer = Answerer::open()?;
    kernel.set_answerers(answerer.cookies());
    let mut carrier = Carrier {
        kernel: Arc::downgrade(kernel),
        rules: Arc::clone(rules),
        answerer,
        log: Log::open(),
        captures: Captures::new(PathBuf::from(CAPTURES), instance),
        lost: [0; 2],
        told: Instant::now(),
    };
    let thread = thread::Builder::new().name("notices".to_owned());
    let spawned = thread.spawn(move || carrier.run(notices, answers));
    spawned.map(drop)
}

struct Carrier {
    kernel: Weak<KernelPlane>,
    rules: Arc<Rules>,
    answerer: Answerer,
    log: Log,
    captures: Captures,
    /// What was lost when it was last told of: notices and answers.
    lost: [u64; 2],
    told: Instant,
}

impl Carrier {
    fn run(&mut self, mut notices: RingBuf<MapData>, mut answers: RingBuf<MapData>) {
        while self.kernel.strong_count() != 0 {
            if let Err(error) = wait(&notices, &answers) {
                crate::complain!(
                    "keepstate: packets cannot be answered and logged any more: {error}"
                );
                return;
            }
            while let Some(item) = answers.next() {
                if let Some((notice, frame)) = split(&item) {
                    self.answerer.answer(&notice, frame);
                }
            }
            while let Some(item) = notices.next() {
                if let Some((notice, frame)) = split(&item) {
                    self.note(&notice, frame);
                }
            }
            self.captures.flush();
            self.tell_losses();
        }
    }

    fn note(&mut self, notice: &Notice, frame: &[u8]) {
        // The rule is gone, and so is the one before the last change: nobody waits for it.
        let Some(note) = self.rules.note(notice.number) else {
            return;
        };
        match note.target {
            NoteTarget::Log { level, flags } => {
                let names = [notice.in_index, notice.out_index];
                let names = names.map(|index| name(self.answerer.socket(), index));
                let line = line(notice, frame, &note, flags, &names);
                self.log.write(level, &line);
            }
            NoteTarget::Capture { group } => {
                let is_bare = notice.link != Link::Ethernet as u8;
                self.captures
                    .write(group, is_bare, notice, frame, &note.prefix);
            }
        }
    }

    fn tell_losses(&mut self) {
        if self.told.elapsed() < PATIENCE {
            return;
        }
        self.told = Instant::now();
        let Some(kernel) = self.kernel.upgrade() else {
            return;
        };
        let Ok(counters) = kernel.counters() else {
            return;
        };
        let now = [
            counters.notices_lost + self.captures.take_lost(),
            counters.answers_lost,
        ];
        let names = ["packets for LOG and NFLOG", "answers of REJECT"];
        for ((lost, now), name) in self.lost.iter_mut().zip(now).zip(names) {
            if now > *lost {
                crate::complain!(
                    "keepstate: {} {name} were lost: they came too fast",
                    now - *lost
                );
                *lost = now;
            }
        }
    }
}

fn wait(notices: &RingBuf<MapData>, answers: &RingBuf<MapData>) -> io::Result<()> {
    let timeout = Timespec::try_from(PATIENCE).map_err(io::Error::other)?;
    let mut ready = [
        PollFd::new(notices, PollFlags::IN),
        PollFd::new(answers, PollFlags::IN),
    ];
    match poll(&mut ready, Some(&timeout)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A notice and the bytes that follow it.
fn split(item: &[u8]) -> Option<(Notice, &[u8])> {
    let (notice, frame) = item.split_at_checked(size_of::<Notice>())?;
    let notice = from_bytes::<Notice>(notice)?;
    let frame = frame.get(..notice.captured as usize)?;
    const KINDS: [u8; 3] = [
        NoticeKind::Log as u8,
        NoticeKind::Capture as u8,
        NoticeKind::Answer as u8,
    ];
    KINDS.contains(&notice.kind).then_some((notice, frame))
}

/// The line of a packet that LOG matched.
fn line(
    notice: &Notice,
    frame: &[u8],
    note: &Note,
    flags: u8,
    [incoming, outgoing]: &[String; 2],
) -> String {
    let at = notice.ip_offset as usize;
    let packet = frame.get(at..).unwrap_or_default();
    // Without tags, as the kernel keeps the header of a frame.
    let link = match (frame.get(..12), at.checked_sub(2)) {
        (Some(addresses), Some(kind)) => {
            let kind = frame.get(kind..at).unwrap_or_default();
            [addresses, kind].concat()
        }
        _ => Vec::new(),
    };
    let logged = LoggedPacket {
        prefix: &note.prefix,
        incoming,
        outgoing,
        flags,
        mark: notice.mark,
        family: if notice.family == 0 {
            Family::V4
        } else {
            Family::V6
        },
        link: &link,
        packet,
        length: notice.ip_length as usize,
    };
    logged.to_string()
}

/// Name of an interface; its number where it is gone, nothing where there is none.
fn name(socket: BorrowedFd<'_>, index: u32) -> String {
    if index == 0 {
        return String::new();
    }
    index_to_name(socket, index).unwrap_or_else(|_| index.to_string())
}
