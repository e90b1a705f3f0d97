//! Taking over from a daemon whose maps have another layout, while packets come.
//!
//! Nobody but the program that made them can read such maps. So that program, of which each daemon leaves a copy when
//! it ends, is started once more, as a *teller*: it opens what is pinned and answers on a socket as its daemon did
//! ([`tell`]). What is said there is JSON whose fields have names, and does not change with the layout.
//!
//! 1. The pins of the other load move to a directory of their own ([`Instance::pins_before`]). Packets notice nothing.
//! 2. Programs and maps of this layout are loaded beside them, and get knobs, sets, rules, bans and so on. Nobody
//!    uses them yet ([`HandOver::carry`]).
//! 3. The new programs take the place of the old ones, interface after interface. Whatever packet has no record in the
//!    new table goes on to the *entry program of the other load*, whole and as if it had just come: by the way that
//!    leads to the newer of two tables ([`SETTING_NEWER_TABLE`]), with that program in the other table's place. So at
//!    first everything is still judged by the old load (`Linked`).
//! 4. Flow by flow the teller's records are made anew. Each is the new table's from then on
//!    ([`HandOver::take_flows`]). New flows still begin in the old one.
//! 5. When nothing is left to tell, the way to the other load is closed; then once more what was begun meanwhile is
//!    taken, and the other load goes.
//!
//! # Races, and the worst that each can do
//!
//! * **A packet changes a record that is on its way.** Windows are learned anew from the next packet of each side, and
//!   lenient from then on, so none is out of one. A state that changed is told again, and put right where no packet has met the new record yet.
//!   Handshakes wait until they are complete, `HANDSHAKE_PATIENCE` at most, and so do flows with a helper.
//! * **A flow begins between the last look and the closing.** Its next packet may come before its record, and is then
//!   judged as if it began a flow. It is a matter of milliseconds (with a million flows, of two tenths of a second), and of
//!   flows that are not older than that.
//! * **A daemon that is killed.** Where no interface had come to the new programs yet, the next one throws the new load
//!   away and begins anew. Else it goes on with the flows ([`resume`]).

use std::collections::HashMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use keepstate_api::{Client, ClientError, Handed, Instance, Reply, Request};
use keepstate_engine::process::Stage;
use keepstate_engine::settings::SETTING_NEWER_TABLE;
use keepstate_listing::sysctl::Sysctl;
use keepstate_plane::{BEFORE_EGRESS_BARE, BEFORE_EGRESS_ETHERNET, BEFORE_INGRESS, names};

use crate::attach;
use crate::kernel::{KernelError, stages_pin};
use crate::kernel_plane::{GRACE, KernelPlane};
use crate::resize::{set_stage, stages};
use crate::server::{Changer, Taken};

mod state;
mod teller;

pub(crate) use self::teller::keep;
pub use self::teller::tell;

/// How long handshakes are waited for.
const HANDSHAKE_PATIENCE: Duration = Duration::from_secs(2);

/// Between two looks at what the teller has to tell.
const PAUSE: Duration = Duration::from_millis(50);

/// How long the teller may take to answer at all.
const TELLER_PATIENCE: Duration = Duration::from_secs(20);

/// A flow that is told of more often than this is taken as it is.
const ROUNDS_MAX: u32 = 200;

/// Why it could not be taken over.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HandOverError {
    #[error("the program of the daemon that ran before, {0}, cannot be started")]
    Start(PathBuf, #[source] io::Error),
    #[error("the program of the daemon that ran before does not tell what it has kept")]
    Silent,
    #[error("the daemon that ran before cannot be understood")]
    Client(#[from] ClientError),
    #[error("{0}")]
    State(String),
    #[error("the pins in {0} cannot be moved")]
    Pins(PathBuf, #[source] io::Error),
    #[error(transparent)]
    Kernel(#[from] KernelError),
    #[error(transparent)]
    Attach(#[from] attach::AttachError),
}

/// A teller, and what it tells.
pub struct HandOver {
    instance: Instance,
    teller: Child,
    socket: PathBuf,
}

/// Whether what is pinned by another layout can be taken over, and if not why.
pub fn check(instance: &Instance, pins: &Path) -> Result<PathBuf, String> {
    let candidates = [teller::running(instance), Some(instance.program())];
    let mut there = candidates
        .into_iter()
        .flatten()
        .filter(|path| path.exists());
    let Some(program) = there.find(|program| teller::knows(program, pins)) else {
        return Err(format!(
            "this one can take its flows over only with its program's help, which is neither running nor kept as {}, or does \
             not know how",
            instance.program().display()
        ));
    };
    Ok(program)
}

/// What an interrupted daemon left of two loads is brought to a state to begin or to go on from. Whether there is
/// something to go on with.
pub fn resume(instance: &Instance) -> Result<bool, HandOverError> {
    let (before, pins) = (instance.pins_before(), instance.pins());
    if !before.exists() {
        return Ok(false);
    }
    if attach::is_attached(&pins) {
        return Ok(true);
    }
    attach::remove_pins(&pins)?;
    let moved = fs::rename(&before, &pins);
    moved.map_err(|error| HandOverError::Pins(before, error))?;
    Ok(false)
}

impl HandOver {
    /// The first step, or the same again where it was done.
    pub fn begin(instance: &Instance) -> Result<Self, HandOverError> {
        let (before, pins) = (instance.pins_before(), instance.pins());
        if !before.exists() {
            let program = check(instance, &pins).map_err(HandOverError::State)?;
            keep(&program, instance).map_err(|error| HandOverError::Start(program, error))?;
            let moved = fs::rename(&pins, &before);
            moved.map_err(|error| HandOverError::Pins(pins.clone(), error))?;
        }
        let begun = Self::start(instance);
        if begun.is_err() {
            let _ = resume(instance);
        }
        begun
    }

    fn start(instance: &Instance) -> Result<Self, HandOverError> {
        let socket = instance.state_directory().join("hand-over.sock");
        let program = instance.program();
        let failed = |error| HandOverError::Start(program.clone(), error);
        // /run may forbid that programs are started from there.
        let image = teller::image(&program).map_err(failed)?;
        let child = teller::command(&image, instance)
            .arg(&socket)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut own = Self {
            instance: instance.clone(),
            teller: child,
            socket,
        };
        let deadline = Instant::now() + TELLER_PATIENCE;
        while own.connect().is_err() {
            let has_ended = !matches!(own.teller.try_wait(), Ok(None));
            if has_ended || Instant::now() > deadline {
                return Err(HandOverError::Silent);
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(own)
    }

    fn connect(&self) -> Result<Client, ClientError> {
        Client::connect_to_teller(&self.socket)
    }

    /// The knobs of the daemon before.
    pub fn sysctls(&self) -> Result<Vec<Sysctl>, HandOverError> {
        let mut client = self.connect()?;
        client.send(&Request::Sysctl { name: None })?;
        let mut sysctls = Vec::new();
        loop {
            match client.reply()? {
                // One that this version does not know, or that nobody sets, is none.
                Reply::Sysctl { name, value } => {
                    sysctls.extend(Sysctl::of(&name, &value.to_string()).ok());
                }
                Reply::Done => return Ok(sysctls),
                _ => return Err(ClientError::Unexpected.into()),
            }
        }
    }

    /// The second step, but for flows and what belongs to them: `server` is the socket of this daemon.
    pub fn carry(&self, server: &Path) -> Result<(), HandOverError> {
        state::carry(&mut self.connect()?, &mut Client::connect_to(server)?)
    }

    /// The other steps. Flows of the other load that found no room.
    pub fn take_flows(
        mut self,
        kernel: &Arc<KernelPlane>,
        changer: &Changer,
        server: &Path,
    ) -> Result<u64, HandOverError> {
        let (before, pins) = (self.instance.pins_before(), self.instance.pins());
        let linked = Linked::new(kernel, &before, &pins)?;
        kernel.take_attachments(&before)?;
        thread::sleep(GRACE);
        let mut taking = Taking::new(self.connect()?, changer);
        taking.until_nothing_is_left()?;
        linked.close();
        // What began meanwhile, at once; then what packets made that were on their way.
        taking.round(Handshakes::Take)?;
        thread::sleep(GRACE);
        taking.round(Handshakes::Take)?;
        linked.let_go()?;
        state::carry_expectations(&mut self.connect()?, &mut Client::connect_to(server)?)?;
        drop(self.teller.stdin.take());
        let _ = self.teller.wait();
        attach::remove_pins(&before)?;
        Ok(taking.refused)
    }
}

impl Drop for HandOver {
    fn drop(&mut self) {
        // It ends when nobody holds the other end of its standard input.
        drop(self.teller.stdin.take());
        let _ = self.teller.wait();
        let _ = fs::remove_file(&self.socket);
    }
}

/// The third step: packets without a record go on to the other load.
struct Linked<'a> {
    kernel: &'a KernelPlane,
    pins: &'a Path,
}

impl<'a> Linked<'a> {
    fn new(kernel: &'a KernelPlane, before: &Path, pins: &'a Path) -> Result<Self, HandOverError> {
        let [xdp, tc] = Self::arrays(pins);
        let elsewhere = Stage::Elsewhere as u32;
        for (stage, program) in [
            (BEFORE_INGRESS, names::INGRESS_TC),
            (BEFORE_EGRESS_ETHERNET, names::EGRESS_ETHERNET),
            (BEFORE_EGRESS_BARE, names::EGRESS_BARE),
        ] {
            set_stage(&tc, stage, &before.join(program))?;
        }
        set_stage(&tc, elsewhere, &pins.join(names::BEFORE))?;
        set_stage(&xdp, elsewhere, &before.join(names::INGRESS_XDP))?;
        kernel.change_flags(|flags| flags | SETTING_NEWER_TABLE);
        Ok(Self { kernel, pins })
    }

    fn arrays(pins: &Path) -> [PathBuf; 2] {
        [names::STAGES_XDP, names::STAGES_TC].map(|array| pins.join(stages_pin(array)))
    }

    /// From here on a packet without a record begins a flow.
    fn close(&self) {
        self.kernel
            .change_flags(|flags| flags & !SETTING_NEWER_TABLE);
    }

    /// To be called when no packet is on the way to the other load any more.
    fn let_go(self) -> Result<(), HandOverError> {
        let arrays = Self::arrays(self.pins);
        for (array, program) in arrays.iter().zip(names::ELSEWHERE) {
            set_stage(array, Stage::Elsewhere as u32, &self.pins.join(program))?;
        }
        let [_, tc] = &arrays;
        let mut tc = stages(tc)?;
        for stage in [BEFORE_INGRESS, BEFORE_EGRESS_ETHERNET, BEFORE_EGRESS_BARE] {
            tc.clear_index(&stage).map_err(KernelError::from)?;
        }
        Ok(())
    }
}

/// What becomes of flows that had better wait.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Handshakes {
    Wait,
    Take,
}

/// The fourth step.
struct Taking<'a> {
    client: Client,
    changer: &'a Changer,
    /// Handshakes, and flows with a helper; by their names.
    waiting: HashMap<String, Handed>,
    refused: u64,
}

impl<'a> Taking<'a> {
    fn new(client: Client, changer: &'a Changer) -> Self {
        Self {
            client,
            changer,
            waiting: HashMap::new(),
            refused: 0,
        }
    }

    fn until_nothing_is_left(&mut self) -> Result<(), HandOverError> {
        self.round(Handshakes::Wait)?;
        let deadline = Instant::now() + HANDSHAKE_PATIENCE;
        for _ in 0..ROUNDS_MAX {
            let told = self.round(Handshakes::Wait)?;
            let is_quiet = told == 0 && !self.waiting.values().any(is_handshake);
            if is_quiet || Instant::now() > deadline {
                break;
            }
            thread::sleep(PAUSE);
        }
        // The second takes what came during the first, and so the less time.
        self.round(Handshakes::Take)?;
        self.round(Handshakes::Take).map(drop)
    }

    /// Takes what has not been told yet; how much that was.
    fn round(&mut self, handshakes: Handshakes) -> Result<u64, HandOverError> {
        self.client.send(&Request::HandOver)?;
        let told = loop {
            match self.client.reply()? {
                Reply::Handed(handed) => self.take(*handed, handshakes),
                Reply::FlowsEnd { shown } => break shown,
                _ => return Err(ClientError::Unexpected.into()),
            }
        };
        if handshakes == Handshakes::Take {
            for (_, handed) in std::mem::take(&mut self.waiting) {
                self.make(&handed);
            }
        }
        Ok(told)
    }

    fn take(&mut self, handed: Handed, handshakes: Handshakes) {
        let waits = is_handshake(&handed) || handed.flow.helper.is_some();
        let name = name(&handed);
        if waits && handshakes == Handshakes::Wait {
            self.waiting.insert(name, handed);
        } else {
            if !self.waiting.is_empty() {
                self.waiting.remove(&name);
            }
            self.make(&handed);
        }
    }

    fn make(&mut self, handed: &Handed) {
        if self.changer.take_in(handed) == Taken::Refused {
            self.refused += 1;
        }
    }
}

/// Whether an answer may change what the next packet must be.
fn is_handshake(handed: &Handed) -> bool {
    let state = handed.flow.tcp_state.as_deref();
    matches!(state, Some("SYN_SENT" | "SYN_RECV" | "SYN_SENT2"))
}

fn name(handed: &Handed) -> String {
    let flow = &handed.flow;
    let own = &flow.original;
    format!(
        "{} {} {} {} {:?} {:?}",
        flow.zone,
        flow.protocol,
        own.source,
        own.destination,
        own.source_port,
        own.destination_port
    )
}
