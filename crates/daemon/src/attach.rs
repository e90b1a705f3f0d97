//! Hanging programs on interfaces, in a way that outlives the daemon.
//!
//! XDP and tcx attachments are links, pinned under a name that says what they are: the kernel
//! keeps them until the pin goes. Filters of clsact, on kernels before 6.6, live as long as the
//! queueing discipline; a directory among the pins reminds whoever takes it down.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::maps::MapInfo;
use aya::programs::links::{FdLink, LinkError, PinnedLink};
use aya::programs::tc::{NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle};
use aya::programs::{
    LinkOrder, ProgramError, ProgramInfo, SchedClassifier, TcAttachType, Xdp, XdpMode,
    loaded_programs,
};
use keepstate_api::Attachment;
use keepstate_plane::names;

use crate::kernel::{AttachMode, KernelError, Programs, next_pin};
use crate::netlink::{Interface, LinkLayer, Netlink};

/// Why something could not be attached or taken down.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AttachError {
    #[error("there is no interface {0}: `ip -br link` lists those there are")]
    NoInterface(String),
    #[error("{0}: the loopback needs no firewall, its packets never leave the host")]
    Loopback(String),
    #[error("cannot attach to {interface}")]
    Program {
        interface: String,
        #[source]
        error: ProgramError,
    },
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error("the attachment to {0} cannot be opened")]
    Link(String, #[source] LinkError),
    #[error("the attachment to {0} cannot be pinned")]
    Pin(String, #[source] aya::pin::PinError),
    #[error("interfaces cannot be listed")]
    Netlink(#[source] io::Error),
    #[error("{0} has a clsact queueing discipline of somebody else's, and this kernel has no tcx")]
    ClsactTaken(String),
    #[error("{0} cannot be given a clsact queueing discipline")]
    Clsact(String, #[source] io::Error),
    #[error("{0} cannot be removed")]
    Remove(String, #[source] io::Error),
    #[error("{0} programs are still loaded although nothing holds them")]
    StillLoaded(usize),
}

/// Where our filter stands in the discipline, which is all ours: known, so that it can be replaced.
const FILTER_PRIORITY: u16 = 1;
const FILTER_HANDLE: TcHandle = TcHandle::new(0, 1);

impl AttachError {
    fn program(interface: &Interface, error: ProgramError) -> Self {
        Self::Program {
            interface: interface.name.clone(),
            error,
        }
    }
}

/// How a program hangs on an interface. The names are those of pins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    XdpNative,
    XdpGeneric,
    TcxIngress,
    TcxEgress,
    Clsact,
}

impl Kind {
    const ALL: [Self; 5] = [
        Self::XdpNative,
        Self::XdpGeneric,
        Self::TcxIngress,
        Self::TcxEgress,
        Self::Clsact,
    ];

    const fn name(self) -> &'static str {
        match self {
            Self::XdpNative => "link_xdp_native",
            Self::XdpGeneric => "link_xdp_generic",
            Self::TcxIngress => "link_tcx_ingress",
            Self::TcxEgress => "link_tcx_egress",
            Self::Clsact => "clsact",
        }
    }

    fn pin(self, index: u32) -> String {
        format!("{}_{index}", self.name())
    }

    /// Kind and interface of a pin.
    fn of_pin(name: &str) -> Option<(Self, u32)> {
        let (kind, index) = name.rsplit_once('_')?;
        let kind = Self::ALL.into_iter().find(|known| known.name() == kind)?;
        Some((kind, index.parse().ok()?))
    }
}

/// Attaches to an interface what is not attached to it yet.
pub fn attach(
    programs: &mut Programs,
    pins: &Path,
    interface: &Interface,
    mode: AttachMode,
) -> Result<(), AttachError> {
    let name = &interface.name;
    let present = |kinds: &[Kind]| {
        let mut paths = kinds
            .iter()
            .map(|kind| pins.join(kind.pin(interface.index)));
        paths.any(|path| path.exists())
    };
    if interface.layer == LinkLayer::Loopback {
        return Err(AttachError::Loopback(name.clone()));
    }
    let (egress, is_ethernet) = match interface.layer {
        LinkLayer::Ethernet => (names::EGRESS_ETHERNET, true),
        LinkLayer::Loopback | LinkLayer::Other => (names::EGRESS_BARE, false),
    };
    // The way out first: an answer that leaves without a record would be met by nothing.
    if !present(&[Kind::TcxEgress]) {
        let program = programs.classifier(egress)?;
        attach_classifier(program, pins, interface, TcAttachType::Egress)?;
    }
    if is_ethernet {
        if !present(&[Kind::XdpNative, Kind::XdpGeneric]) {
            attach_xdp(programs.xdp()?, pins, interface, mode)?;
        }
    } else if !present(&[Kind::TcxIngress]) {
        let program = programs.classifier(names::INGRESS_TC)?;
        attach_classifier(program, pins, interface, TcAttachType::Ingress)?;
    }
    Ok(())
}

fn attach_xdp(
    program: &mut Xdp,
    pins: &Path,
    interface: &Interface,
    mode: AttachMode,
) -> Result<(), AttachError> {
    let mut last = ProgramError::NotAttached;
    for mode in mode.attempts() {
        match program.attach_to_if_index(interface.index, *mode) {
            Ok(id) => {
                let kind = match mode {
                    XdpMode::Skb => Kind::XdpGeneric,
                    _ => Kind::XdpNative,
                };
                return pin(program.take_link(id), pins, kind, interface);
            }
            Err(error) => last = error,
        }
    }
    Err(AttachError::program(interface, last))
}

fn attach_classifier(
    program: &mut SchedClassifier,
    pins: &Path,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    if pins.join(Kind::Clsact.pin(interface.index)).exists() {
        return attach_filter(program, interface, direction);
    }
    let tcx = TcAttachOptions::TcxOrder(LinkOrder::default());
    if let Ok(id) = program.attach_with_options(&interface.name, direction, tcx) {
        let kind = match direction {
            TcAttachType::Ingress => Kind::TcxIngress,
            _ => Kind::TcxEgress,
        };
        return pin(program.take_link(id), pins, kind, interface);
    }
    add_clsact(pins, interface)?;
    attach_filter(program, interface, direction)
}

/// For kernels before 6.6. The marker comes first: a discipline without one would not be known for
/// ours.
fn add_clsact(pins: &Path, interface: &Interface) -> Result<(), AttachError> {
    let name = &interface.name;
    let marker = pins.join(Kind::Clsact.pin(interface.index));
    let failed = |error| AttachError::Clsact(name.clone(), error);
    fs::create_dir(&marker).map_err(failed)?;
    let netlink = Netlink::open().map_err(AttachError::Netlink)?;
    netlink.add_clsact(interface.index).map_err(|error| {
        let _ = fs::remove_dir(&marker);
        match error.kind() {
            // It stays when we go, and our filters would stay too: better to say so than to leave
            // something behind.
            io::ErrorKind::AlreadyExists => AttachError::ClsactTaken(name.clone()),
            _ => failed(error),
        }
    })
}

/// Hangs a filter on the discipline, in the place of an earlier one where there is one.
fn attach_filter(
    program: &mut SchedClassifier,
    interface: &Interface,
    direction: TcAttachType,
) -> Result<(), AttachError> {
    let failed = |error| AttachError::program(interface, error);
    let (name, handle) = (&interface.name, FILTER_HANDLE);
    let earlier = SchedClassifierLink::attached(name, direction, FILTER_PRIORITY, handle, None)
        .map_err(|_| AttachError::NoInterface(name.clone()))?;
    let id = program.attach_to_link(earlier).or_else(|_| {
        let options = TcAttachOptions::Netlink(NlOptions {
            priority: FILTER_PRIORITY,
            handle,
            classid: None,
        });
        program.attach_with_options(name, direction, options)
    });
    let link = program.take_link(id.map_err(failed)?).map_err(failed)?;
    // The filter is to stay when this value goes; what it holds is freed with the process.
    std::mem::forget(link);
    Ok(())
}

/// Pins the link by which a program was attached.
fn pin<L>(
    link: Result<L, ProgramError>,
    pins: &Path,
    kind: Kind,
    interface: &Interface,
) -> Result<(), AttachError>
where
    FdLink: TryFrom<L>,
{
    // Without links there is nothing to pin; no kernel that is supported is so old.
    let link = link.and_then(|link| FdLink::try_from(link).map_err(|_| ProgramError::NotAttached));
    let link = link.map_err(|error| AttachError::program(interface, error))?;
    let path = pins.join(kind.pin(interface.index));
    let pinned = link.pin(path);
    pinned.map_err(|error| AttachError::Pin(interface.name.clone(), error))?;
    Ok(())
}

/// Puts newly loaded programs in the place of those that are attached, one after the other, each
/// without a gap.
pub fn replace(programs: &mut Programs, pins: &Path) -> Result<(), AttachError> {
    let interfaces = interfaces()?;
    for (kind, index) in pinned(pins) {
        match interfaces.iter().find(|known| known.index == index) {
            Some(interface) => replace_one(programs, pins, kind, interface)?,
            // The interface is gone, and its attachment with it.
            None => remove_pin(pins, kind, index)?,
        }
    }
    Ok(())
}

fn replace_one(
    programs: &mut Programs,
    pins: &Path,
    kind: Kind,
    interface: &Interface,
) -> Result<(), AttachError> {
    let egress = match interface.layer {
        LinkLayer::Ethernet => names::EGRESS_ETHERNET,
        LinkLayer::Loopback | LinkLayer::Other => names::EGRESS_BARE,
    };
    let path = pins.join(kind.pin(interface.index));
    let link = || -> Result<FdLink, LinkError> { Ok(PinnedLink::from_pin(&path)?.into()) };
    let broken = |error| AttachError::Link(interface.name.clone(), error);
    let failed = |error| AttachError::program(interface, error);
    match kind {
        Kind::XdpNative | Kind::XdpGeneric => {
            let program = programs.xdp()?;
            let link = link().and_then(TryInto::try_into).map_err(broken)?;
            let id = program.attach_to_link(link).map_err(failed)?;
            drop(program.take_link(id));
        }
        Kind::TcxIngress | Kind::TcxEgress => {
            let name = match kind {
                Kind::TcxIngress => names::INGRESS_TC,
                _ => egress,
            };
            let program = programs.classifier(name)?;
            let link = link().and_then(TryInto::try_into).map_err(broken)?;
            let id = program.attach_to_link(link).map_err(failed)?;
            drop(program.take_link(id));
        }
        Kind::Clsact => {
            attach_filter(
                programs.classifier(egress)?,
                interface,
                TcAttachType::Egress,
            )?;
            if interface.layer != LinkLayer::Ethernet {
                let program = programs.classifier(names::INGRESS_TC)?;
                attach_filter(program, interface, TcAttachType::Ingress)?;
            }
        }
    }
    Ok(())
}

/// Puts loaded programs in the place of those whose attachments are pinned in another directory, as [`replace`], and
/// takes the pins over. May be done again where it was interrupted.
pub fn take_over(programs: &mut Programs, from: &Path, pins: &Path) -> Result<(), AttachError> {
    replace(programs, from)?;
    for (kind, index) in pinned(from) {
        let name = kind.pin(index);
        let moved = fs::rename(from.join(&name), pins.join(&name));
        moved.map_err(|error| AttachError::Remove(from.display().to_string(), error))?;
    }
    Ok(())
}

/// What hangs where.
pub fn attachments(pins: &Path) -> Vec<Attachment> {
    let Ok(interfaces) = interfaces() else {
        return Vec::new();
    };
    let pinned = pinned(pins);
    let mut list = Vec::new();
    for interface in interfaces {
        let kinds: Vec<Kind> = pinned
            .iter()
            .filter(|(_, index)| *index == interface.index)
            .map(|(kind, _)| *kind)
            .collect();
        if kinds.is_empty() {
            continue;
        }
        let has = |kind| kinds.contains(&kind);
        let ingress = match () {
            () if has(Kind::XdpNative) => "xdp native",
            () if has(Kind::XdpGeneric) => "xdp generic",
            () if has(Kind::TcxIngress) => "tcx",
            () if interface.layer != LinkLayer::Ethernet && has(Kind::Clsact) => "clsact",
            () => "none",
        };
        let egress = match () {
            () if has(Kind::TcxEgress) => "tcx",
            () if has(Kind::Clsact) => "clsact",
            () => "none",
        };
        list.push(Attachment {
            name: interface.name,
            index: interface.index,
            ingress: ingress.to_owned(),
            egress: egress.to_owned(),
        });
    }
    list
}

/// Interfaces of this network namespace.
pub fn interfaces() -> Result<Vec<Interface>, AttachError> {
    let list = Netlink::open().and_then(|netlink| netlink.interfaces());
    list.map_err(AttachError::Netlink)
}

/// Whether anything hangs on an interface, as far as the pins say.
pub fn is_attached(pins: &Path) -> bool {
    !pinned(pins).is_empty()
}

fn pinned(pins: &Path) -> Vec<(Kind, u32)> {
    let entries = fs::read_dir(pins).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| Kind::of_pin(&name)).collect()
}

/// Interfaces that something hangs on, or has hung on if they are gone.
pub fn attached_indexes(pins: &Path) -> BTreeSet<u32> {
    pinned(pins).into_iter().map(|(_, index)| index).collect()
}

/// Takes the programs off an interface, or only forgets it if it is gone.
pub fn detach(pins: &Path, index: u32) -> Result<(), AttachError> {
    for (kind, attached) in pinned(pins) {
        if attached == index {
            remove_pin(pins, kind, index)?;
        }
    }
    Ok(())
}

fn remove_pin(pins: &Path, kind: Kind, index: u32) -> Result<(), AttachError> {
    let path = pins.join(kind.pin(index));
    let removed = if kind == Kind::Clsact {
        let netlink = Netlink::open().map_err(AttachError::Netlink)?;
        // The interface may be gone, and its queueing discipline with it.
        let _ = netlink.remove_clsact(index);
        fs::remove_dir(&path)
    } else {
        fs::remove_file(&path)
    };
    removed.map_err(|error| AttachError::Remove(path.display().to_string(), error))
}

/// Numbers of the programs that use the maps pinned in a directory: those that are pinned, and
/// those that they jump to.
pub fn program_ids(pins: &Path) -> Vec<u32> {
    // One for each of two tables.
    let planes = [names::PLANE.to_owned(), next_pin(names::PLANE)];
    let planes = planes.map(|pin| MapInfo::from_pin(pins.join(pin)).map_or(0, |info| info.id()));
    let uses_plane = |info: &ProgramInfo| match info.map_ids() {
        Ok(Some(maps)) => maps.iter().any(|map| *map != 0 && planes.contains(map)),
        Ok(None) | Err(_) => false,
    };
    let programs = loaded_programs().flatten().filter(uses_plane);
    programs.map(|info| info.id()).collect()
}

/// Detaches everything and removes all pins. Works without a daemon; does nothing where there is
/// nothing. Programs and maps go when no process holds them any more.
pub fn remove_pins(pins: &Path) -> Result<Vec<u32>, AttachError> {
    let ids = program_ids(pins);
    for (kind, index) in pinned(pins) {
        remove_pin(pins, kind, index)?;
    }
    let failed = |error| AttachError::Remove(pins.display().to_string(), error);
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    // The directory of all instances, when this was the last.
    if let Some(parent) = pins.parent() {
        let _ = fs::remove_dir(parent);
    }
    Ok(ids)
}

/// Waits until programs are gone: the kernel frees them a moment after the last pin.
pub fn wait_until_gone(ids: &[u32]) -> Result<(), AttachError> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let loaded = loaded_programs().flatten().map(|info| info.id());
        let left = loaded.filter(|id| ids.contains(id)).count();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(AttachError::StillLoaded(left));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
