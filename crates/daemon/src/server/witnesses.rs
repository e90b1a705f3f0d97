//! Judged packets on their way from the programs to whoever traces or captures them. Their bytes are
//! handed on unread.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};

use keepstate_api::{JudgedPacket, PacketEvent, Packets, Reply, Way, frame};
use keepstate_engine::process::Path;
use keepstate_engine::verdict::{Reason, Verdict};
use keepstate_engine::wire::Link;
use keepstate_plane::{PLANE_WITNESS_ALL, PLANE_WITNESS_DROPS, REPORT_NONE, Witness};
use rustix::net::netdevice::index_to_name;

use super::connection::{LISTENER_PATIENCE, Output, has_hung_up};
use super::rules::Rules;
use super::{EVENT_PATIENCE, Shared, WitnessSource, events, unix_nanoseconds};
use crate::lock;

/// Packets that wait for a client, of two kilobytes at most; one that does not read loses those beyond.
const QUEUE_PACKETS: usize = 4096;

/// Packets that are written before the buffer is flushed, while more wait.
const PACKETS_PER_FLUSH: usize = 64;

/// Who listens.
#[derive(Default)]
pub(crate) struct Hub(Mutex<Vec<Listener>>);

struct Listener {
    number: u64,
    which: Packets,
    queue: SyncSender<Arc<JudgedPacket>>,
    lost: Arc<AtomicU64>,
}

impl Hub {
    /// What the programs must hand over so that everybody gets what they asked for.
    fn wanted(&self) -> u32 {
        let flag = |listener: &Listener| match listener.which {
            Packets::All => PLANE_WITNESS_ALL,
            Packets::Dropped => PLANE_WITNESS_DROPS,
        };
        lock(&self.0).iter().map(flag).fold(0, |all, one| all | one)
    }

    fn publish(&self, packet: JudgedPacket, is_dropped: bool) {
        let packet = Arc::new(packet);
        for listener in lock(&self.0).iter() {
            if listener.which == Packets::Dropped && !is_dropped {
                continue;
            }
            // A listener that is gone is removed by its connection.
            if let Err(TrySendError::Full(_)) = listener.queue.try_send(Arc::clone(&packet)) {
                listener.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

/// Reads the programs' ring until the server ends.
pub(super) fn run(shared: &Arc<Shared>, mut source: Box<dyn WitnessSource>) {
    let Ok(socket) = name_socket() else {
        crate::complain!("keepstate: packets cannot be traced: there is no socket");
        return;
    };
    let name = |index| index_to_name(&socket, index).unwrap_or_else(|_| index.to_string());
    while !shared.is_ending() {
        let result = source.wait(EVENT_PATIENCE, &mut |witness, bytes| {
            let packet = judged(witness, bytes, &shared.rules, &name);
            let is_dropped = witness.verdict != Verdict::Accept as u32;
            shared.witnesses.publish(packet, is_dropped);
        });
        if let Err(error) = result {
            crate::complain!("keepstate: packets cannot be traced any more: {error}");
            return;
        }
    }
}

/// A socket for asking names of interfaces.
fn name_socket() -> rustix::io::Result<rustix::fd::OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socket_with};
    socket_with(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )
}

fn judged(
    witness: &Witness,
    bytes: &[u8],
    rules: &Rules,
    name: &dyn Fn(u32) -> String,
) -> JudgedPacket {
    let (chain, rule) = events::decided(rules, witness.rule, witness.hook);
    let reason = (witness.reason != REPORT_NONE)
        .then(|| Reason::from_number(witness.reason as u8))
        .flatten();
    JudgedPacket {
        time_ns: unix_nanoseconds(),
        tick: witness.now,
        interface: name(witness.interface),
        out_interface: (witness.out_interface != 0).then(|| name(witness.out_interface)),
        way: match witness.path == Path::Local as u32 {
            true => Way::Out,
            false => Way::In,
        },
        has_link_header: witness.link == Link::Ethernet as u32,
        has_flow: witness.has_flow != 0,
        length: witness.length,
        bytes: bytes.to_vec(),
        packet: PacketEvent {
            state: super::state_name(witness.state as u8).to_owned(),
            verdict: super::verdict_name(witness.verdict as u8).to_owned(),
            reason: reason.map(|reason| reason.name().to_owned()),
            chain,
            rule,
            length: witness.length,
            window: None,
        },
    }
}

/// Tells a client of packets until it hangs up or the server ends.
pub(super) fn follow(shared: &Arc<Shared>, which: Packets, output: &mut Output) -> io::Result<()> {
    let (queue, packets) = sync_channel(QUEUE_PACKETS);
    let lost = Arc::new(AtomicU64::new(0));
    let number = {
        let mut listeners = lock(&shared.witnesses.0);
        let number = listeners.last().map_or(0, |last| last.number + 1);
        listeners.push(Listener {
            number,
            which,
            queue,
            lost: Arc::clone(&lost),
        });
        number
    };
    shared.plane.want_witnesses(shared.witnesses.wanted());
    let result = tell(shared, &packets, &lost, output);
    lock(&shared.witnesses.0).retain(|listener| listener.number != number);
    shared.plane.want_witnesses(shared.witnesses.wanted());
    result
}

fn tell(
    shared: &Shared,
    packets: &Receiver<Arc<JudgedPacket>>,
    lost: &AtomicU64,
    output: &mut Output,
) -> io::Result<()> {
    let lost_in_kernel = || {
        let counters = shared.plane.counters();
        counters.map_or(0, |counters| counters.witnesses_lost)
    };
    let mut lost_before = lost_in_kernel();
    frame::write(output, &Reply::Listening)?;
    output.flush()?;
    loop {
        match packets.recv_timeout(LISTENER_PATIENCE) {
            Ok(first) => {
                let more = packets.try_iter().take(PACKETS_PER_FLUSH);
                for packet in std::iter::once(first).chain(more) {
                    frame::write(output, &Reply::Packet(Box::new((*packet).clone())))?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {
                if shared.is_ending() || has_hung_up(output.get_ref()) {
                    return Ok(());
                }
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        let lost_now = lost_in_kernel();
        let count = lost.swap(0, Ordering::Relaxed) + (lost_now - lost_before);
        lost_before = lost_now;
        if count != 0 {
            frame::write(output, &Reply::EventsLost { count })?;
        }
        output.flush()?;
    }
}
