//! `keepstate capture`: judged packets in a file that Wireshark reads.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use clap::Args;
use keepstate_api::{JudgedPacket, PacketEvent, Packets, Way};
use keepstate_engine::verdict::Reason;
use keepstate_listing::pcapng::{Direction, LinkType, Packet, Writer};
use signal_hook::consts::{SIGINT, SIGTERM};

use super::trace::{Next, fits, listen, live, next};
use crate::expression;
use crate::progress::Progress;
use crate::running::InstanceArgument;

/// Interfaces that a file describes; those beyond share the last one.
const INTERFACES_MAX: u32 = 4096;

/// Write packets to a pcapng file, with verdict, reason and rule as the comment of each.
///
/// Wireshark shows the comments, and filters by them: `frame.comment contains "tcp_sequence"`. Ends with Ctrl-C, or
/// after `--count` packets.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// Dropped and rejected packets only.
    #[arg(long)]
    dropped: bool,

    /// Which packets, such as `src 10.0.0.0/8 and reason tcp_*`: see docs/filters.md.
    #[arg(long = "match", value_name = "FILTER")]
    filter: Option<String>,

    /// The file, anew; `-` is standard output.
    #[arg(short = 'w', long = "write", value_name = "FILE")]
    file: PathBuf,

    /// End after so many packets.
    #[arg(long, value_name = "N")]
    count: Option<u64>,

    #[command(flatten)]
    instance: InstanceArgument,
}

pub(crate) fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let filter = expression::given(arguments.filter.as_slice())?;
    let which = match arguments.dropped {
        true => Packets::Dropped,
        false => Packets::All,
    };
    let mut packets = listen(&arguments.instance, which)?;
    let mut file = CaptureFile::new(open(&arguments.file)?)?;
    // A packet that is being written is written whole: the signal ends the waiting.
    end_on_signals(&packets)?;
    let name = || arguments.file.display().to_string();
    let progress = Progress::of_what_comes("packets written");
    let (mut written, mut lost) = (0, 0);
    while arguments.count.is_none_or(|count| written < count) {
        let packet = match next(&mut packets) {
            Ok(Next::Packet(packet)) => packet,
            Ok(Next::Lost(count)) => {
                lost += count;
                continue;
            }
            Err(_) if ended::is() => break,
            Err(error) => return Err(error),
        };
        if fits(filter.as_ref(), live(&packet).as_ref(), &packet.packet) {
            file.write(&packet).with_context(name)?;
            written += 1;
            progress.advance(1);
        }
    }
    progress.end();
    eprintln!("keepstate: {written} packets written, {lost} came too fast and are missing");
    Ok(ExitCode::SUCCESS)
}

fn open(path: &Path) -> anyhow::Result<Box<dyn Write>> {
    if path.as_os_str() == "-" {
        return Ok(Box::new(std::io::stdout()));
    }
    // What others say to each other is not for everybody to read.
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path);
    let file = file.with_context(|| path.display().to_string())?;
    Ok(Box::new(BufWriter::new(file)))
}

/// Whether a signal has come that ends the capture.
mod ended {
    use std::sync::atomic::{AtomicBool, Ordering};

    static ENDED: AtomicBool = AtomicBool::new(false);

    pub(super) fn set() {
        ENDED.store(true, Ordering::Relaxed);
    }

    pub(super) fn is() -> bool {
        ENDED.load(Ordering::Relaxed)
    }
}

fn end_on_signals(packets: &keepstate_api::Client) -> anyhow::Result<()> {
    let hang_up = packets.hang_up_handle()?;
    let mut signals = signal_hook::iterator::Signals::new([SIGINT, SIGTERM])?;
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            ended::set();
            let _ = hang_up.shutdown(std::net::Shutdown::Both);
        }
    });
    Ok(())
}

struct CaptureFile {
    writer: Writer<Box<dyn Write>>,
    interfaces: HashMap<(String, bool), u32>,
}

impl CaptureFile {
    fn new(output: Box<dyn Write>) -> std::io::Result<Self> {
        Ok(Self {
            writer: Writer::new(output)?,
            interfaces: HashMap::new(),
        })
    }

    fn write(&mut self, packet: &JudgedPacket) -> std::io::Result<()> {
        let interface = self.interface(packet)?;
        self.writer.packet(&Packet {
            interface,
            time_ns: packet.time_ns,
            length: packet.length,
            frame: &packet.bytes,
            comment: &comment(&packet.packet),
            direction: match packet.way {
                Way::In => Direction::In,
                Way::Out => Direction::Out,
            },
        })?;
        // Whoever looks on sees each packet when it comes.
        self.writer.flush()
    }

    fn interface(&mut self, packet: &JudgedPacket) -> std::io::Result<u32> {
        let key = (packet.interface.clone(), packet.has_link_header);
        let next = self.interfaces.len() as u32;
        if let Some(known) = self.interfaces.get(&key) {
            return Ok(*known);
        }
        if next >= INTERFACES_MAX {
            return Ok(INTERFACES_MAX - 1);
        }
        let link = match packet.has_link_header {
            true => LinkType::Ethernet,
            false => LinkType::RawIp,
        };
        self.writer.interface(link, &packet.interface)?;
        self.interfaces.insert(key, next);
        Ok(next)
    }
}

/// `DROP state=INVALID reason=tcp_... rule=INPUT:policy len=60: a sentence`.
fn comment(packet: &PacketEvent) -> String {
    let mut text = format!("{} {packet}", packet.verdict);
    let reason = packet.reason.as_deref().and_then(named);
    if let Some(reason) = reason {
        text.push_str(": ");
        text.push_str(reason.sentence());
    }
    text
}

fn named(name: &str) -> Option<Reason> {
    let mut reasons = (0..=u8::MAX).filter_map(Reason::from_number);
    reasons.find(|reason| reason.name() == name)
}
