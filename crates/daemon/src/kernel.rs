//! The kernel's side: programs and maps, loaded anew or found pinned.

use std::collections::HashMap as Named;
use std::io::ErrorKind;
use std::path::Path;
use std::sync::atomic::Ordering::SeqCst;

use aya::maps::{Map, MapData, MapError, ProgramArray};
use aya::programs::{Program, ProgramError, ProgramFd, SchedClassifier, Xdp, XdpMode};
use aya_obj::programs::XdpAttachType;

use aya::{Ebpf, EbpfError, EbpfLoader, VerifierLogLevel};
use keepstate_engine::limits::ACCOUNTING_WORDS;
use keepstate_engine::settings::{SETTING_ACCOUNTING, SETTING_TIMESTAMP, Settings};
use keepstate_engine::table::NOT_COUNTED;
use keepstate_plane::{LAYOUT, WITNESS_STAGE, names};
use thiserror::Error;

use crate::mapped::Mapping;
pub(crate) use crate::maps::map_memory;
pub use crate::maps::{Maps, write};
use crate::resize::{self, Beside};

/// The object, built by `cargo xtask bpf`.
static OBJECT: &[u8] = &Aligned(*include_bytes!("../../bpf/keepstate.bpf.o")).0;

/// The loader reads headers of the object in place.
#[repr(C, align(8))]
struct Aligned<T: ?Sized>(T);

/// What went wrong between daemon and kernel.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum KernelError {
    #[error("the kernel programs could not be loaded")]
    Load(#[from] EbpfError),
    #[error("the kernel refused a program")]
    Program(#[from] ProgramError),
    #[error("a map could not be reached")]
    Map(#[from] MapError),
    #[error("the memory of the map {0} could not be mapped")]
    Mapping(String, #[source] rustix::io::Errno),
    #[error("the object has no map or program {0}")]
    Missing(String),
    #[error(
        "another version of keepstate filters here (its maps have layout {found}, those of this one {}), and goes on; \
         {why}. `keepstate down` ends it. See docs/operating.md#upgrading",
        layout()
    )]
    Layout { found: u32, why: String },
    #[error("the CPUs cannot be counted")]
    Cpus(#[source] std::io::Error),
    #[error("{0}")]
    Pin(String, #[source] aya::pin::PinError),
    #[error("the pins in {0} cannot be changed")]
    Pins(String, #[source] std::io::Error),
}

/// [`LAYOUT`], or another number in its place for a test of what happens between two.
pub fn layout() -> u32 {
    let told = std::env::var(TEST_LAYOUT).ok();
    told.and_then(|told| told.parse().ok()).unwrap_or(LAYOUT)
}

pub(crate) const TEST_LAYOUT: &str = "KEEPSTATE_TEST_LAYOUT";

/// A number for the object, to tell one build from another (FNV-1a: it need not withstand anybody).
pub fn object_number() -> u64 {
    OBJECT.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

pub(crate) const STAGE_ARRAYS: [&str; 2] = [names::STAGES_XDP, names::STAGES_TC];

/// Each build has its own arrays of stages, and memory for what they hand on: a packet that a program of one
/// build began with never comes to a program of another.
pub(crate) fn stages_pin(array: &str) -> String {
    format!("{array}_{:016x}", object_number())
}

/// Lets go of the stages of other builds. To be called when none of their programs is attached any
/// more, nor runs.
pub fn remove_other_stages(directory: &Path) -> std::io::Result<()> {
    // Those of this build may have been loaded more than once, see `Kernel::with_accounting`.
    let own = OF_BUILD.map(stages_pin);
    let is_own = |name: &str| {
        let mut rests = own.iter().filter_map(|own| name.strip_prefix(own.as_str()));
        rests.any(|rest| rest.is_empty() || rest.starts_with('_'))
    };
    remove_pins(directory, &OF_BUILD, |name| !is_own(name))
}

/// What each build has of its own.
const OF_BUILD: [&str; 3] = [names::STAGES_XDP, names::STAGES_TC, names::SCRATCH];

fn remove_pins(
    directory: &Path,
    kinds: &[&str],
    goes: impl Fn(&str) -> bool,
) -> std::io::Result<()> {
    for entry in std::fs::read_dir(directory)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_meant = kinds.iter().any(|kind| name.starts_with(kind));
        if is_meant && goes(&name) {
            std::fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

/// Maps and programs, open.
pub struct Kernel {
    pub maps: Maps,
    pub programs: Programs,
    /// The newer of two tables, where flows are being moved; with the programs that go with it.
    pub newer: Option<Beside>,
}

impl Kernel {
    /// Loads programs and maps that nobody else sees and that go away with this value.
    pub fn private(settings: &Settings) -> Result<Self, KernelError> {
        let mut object = loader(settings).load(OBJECT)?;
        load_programs(&mut object)?;
        let mut data = Named::new();
        for name in names::maps() {
            let map = object.take_map(name).ok_or_else(|| missing(name))?;
            data.insert(name, map);
        }
        let maps = Maps::open(data)?;
        maps.begin(settings);
        Ok(Self {
            maps,
            programs: Programs::Object(Box::new(object)),
            newer: None,
        })
    }

    /// Loads programs and maps and pins them in a directory. Maps that are pinned there already
    /// are taken over with what is in them.
    pub fn pinned(directory: &Path, settings: &Settings) -> Result<Self, KernelError> {
        let fresh = !directory.join(names::PLANE).exists();
        let mut loader = loader(settings);
        for name in names::maps() {
            loader.map_pin_path(name, directory.join(name));
        }
        for name in OF_BUILD {
            loader.map_pin_path(name, directory.join(stages_pin(name)));
        }
        let mut object = loader.load(OBJECT)?;
        load_programs(&mut object)?;
        pin_programs(&mut object, directory, str::to_owned)?;
        let kernel = Self::adopt(directory)?;
        if fresh {
            kernel.maps.begin(settings);
        } else {
            kernel
                .maps
                .change_plane(|plane| plane.object = object_number());
        }
        Ok(kernel)
    }

    /// Loads the programs once more, beside maps that are pinned in a directory, with room for the
    /// counters of all flows. That room is pinned under names of its own: whoever is killed in
    /// between leaves programs that work and a table without counters. To be followed by
    /// [`attach::replace`](crate::attach::replace) and [`adopt_accounting`].
    pub fn with_accounting(directory: &Path, settings: &Settings) -> Result<Counting, KernelError> {
        let counting = Settings {
            flags: settings.flags | SETTING_ACCOUNTING,
            ..*settings
        };
        let mut loader = loader(&counting);
        for name in names::maps() {
            loader.map_pin_path(name, directory.join(name));
        }
        for name in names::ACCOUNTING {
            let path = directory.join(next_pin(name));
            let _ = std::fs::remove_file(&path);
            loader.map_pin_path(name, path);
        }
        // These programs must not come among those that packets go through now.
        loader.map_pin_path(names::SCRATCH, directory.join(stages_pin(names::SCRATCH)));
        let stages = unused_stages_pins(directory);
        for (name, pin) in STAGE_ARRAYS.into_iter().zip(&stages) {
            loader.map_pin_path(name, directory.join(pin));
        }
        let mut object = loader.load(OBJECT)?;
        load_programs(&mut object)?;
        pin_programs(&mut object, directory, str::to_owned)?;
        let map = |name: &'static str| -> Result<Mapping, KernelError> {
            map_memory(name, &MapData::from_pin(directory.join(next_pin(name)))?)
        };
        let [v4, v6] = names::ACCOUNTING;
        let mappings = [map(v4)?, map(v6)?];
        for mapping in &mappings {
            for slot in mapping.words().chunks(ACCOUNTING_WORDS as usize) {
                slot[0].store(NOT_COUNTED, SeqCst);
            }
        }
        Ok(Counting {
            programs: Programs::Object(Box::new(object)),
            accounting: mappings,
            stages: StagesPins(stages),
        })
    }

    /// Opens what is pinned in a directory.
    pub fn adopt(directory: &Path) -> Result<Self, KernelError> {
        let mut data = Named::new();
        for name in names::maps() {
            let map = Map::from_map_data(MapData::from_pin(directory.join(name))?)?;
            data.insert(name, map);
        }
        let maps = Maps::open(data)?;
        Ok(Self {
            maps,
            programs: Programs::pinned(directory, str::to_owned)?,
            newer: resize::find(directory)?,
        })
    }
}

/// End of the names of pins that are to take the place of others.
pub(crate) const NEXT: &str = "_NEXT";

/// Pin of what is to take the place of another.
pub(crate) fn next_pin(name: &str) -> String {
    format!("{name}{NEXT}")
}

/// Loads the programs once more, beside maps that are pinned in a directory, with a flow table of their own
/// that has these settings. All that it has of its own is pinned under names of its own.
pub(crate) fn load_beside(directory: &Path, settings: &Settings) -> Result<Programs, KernelError> {
    let mut loader = loader(settings);
    for name in names::maps() {
        let pin = match names::OF_TABLE.contains(&name) {
            true => next_pin(name),
            false => name.to_owned(),
        };
        loader.map_pin_path(name, directory.join(pin));
    }
    for name in STAGE_ARRAYS {
        loader.map_pin_path(name, directory.join(next_pin(&stages_pin(name))));
    }
    loader.map_pin_path(names::SCRATCH, directory.join(stages_pin(names::SCRATCH)));
    let mut object = loader.load(OBJECT)?;
    load_programs(&mut object)?;
    pin_programs(&mut object, directory, next_pin)?;
    Ok(Programs::Object(Box::new(object)))
}

/// Programs that count flows, and their counters.
pub struct Counting {
    pub programs: Programs,
    pub accounting: [Mapping; 2],
    pub stages: StagesPins,
}

/// Pins of arrays of stages.
pub struct StagesPins([String; 2]);

/// Makes what [`Kernel::with_accounting`] made that of the table, and lets go of the stages that were
/// there before. To be called when none of their programs is attached any more, nor runs.
pub fn adopt_accounting(directory: &Path, stages: &StagesPins) -> std::io::Result<()> {
    for name in names::ACCOUNTING {
        std::fs::rename(directory.join(next_pin(name)), directory.join(name))?;
    }
    remove_pins(directory, &STAGE_ARRAYS, |name| {
        stages.0.iter().all(|own| own != name)
    })
}

/// Names for arrays of stages that no pin has.
fn unused_stages_pins(directory: &Path) -> [String; 2] {
    let pins =
        (1_u32..).map(|number| STAGE_ARRAYS.map(|array| format!("{}_{number}", stages_pin(array))));
    let is_free = |pins: &[String; 2]| pins.iter().all(|pin| !directory.join(pin).exists());
    let mut free = pins.filter(is_free);
    free.next().unwrap_or_default()
}

fn pin_programs(
    object: &mut Ebpf,
    directory: &Path,
    pin: impl Fn(&str) -> String,
) -> Result<(), KernelError> {
    for name in names::pinned_programs() {
        let path = directory.join(pin(name));
        let _ = std::fs::remove_file(&path);
        let program = object.program_mut(name).ok_or_else(|| missing(name))?;
        program
            .pin(&path)
            .map_err(|error| KernelError::Pin(path.display().to_string(), error))?;
    }
    Ok(())
}

/// Layout and build of what is pinned in a directory, `None` when nothing is.
pub fn pinned_build(directory: &Path) -> Result<Option<(u32, u64)>, KernelError> {
    let path = directory.join(names::PLANE);
    if !path.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(path)?;
    let mapping = map_memory(names::PLANE, &data)?;
    // Layout and build stand where they do in every layout, first and second word.
    let words = mapping.words();
    let word = |index: usize| words.get(index).map_or(0, |word| word.load(SeqCst));
    Ok(Some((word(0) as u32, word(1))))
}

pub(crate) fn missing(name: &str) -> KernelError {
    KernelError::Missing(name.to_owned())
}

fn loader(settings: &Settings) -> EbpfLoader<'static> {
    let mut loader = EbpfLoader::new();
    loader.verifier_log_level(if std::env::var_os("KEEPSTATE_VERIFIER_LOG").is_some() {
        VerifierLogLevel::DEBUG | VerifierLogLevel::STATS
    } else {
        VerifierLogLevel::STATS
    });
    let counted = settings.flags & (SETTING_ACCOUNTING | SETTING_TIMESTAMP) != 0;
    loader.map_max_entries(names::BANS, settings.bans.buckets);
    loader.map_max_entries(names::SETS, settings.sets.buckets);
    for (family, buckets) in settings.buckets.into_iter().enumerate() {
        loader.map_max_entries(names::TAGS[family], buckets);
        loader.map_max_entries(names::SLOTS[family], buckets);
        loader.map_max_entries(names::WARM[family], buckets);
        let accounting = if counted { buckets } else { 1 };
        loader.map_max_entries(names::ACCOUNTING[family], accounting);
    }
    loader
}

fn load_programs(object: &mut Ebpf) -> Result<(), KernelError> {
    for name in names::PROGRAMS.into_iter().chain([names::BEFORE]) {
        load_program(object, name)?;
    }
    let [of_xdp, of_tc] = names::WITNESS;
    for (array, stages, witness) in [
        (names::STAGES_XDP, &names::XDP_STAGES[..], of_xdp),
        (names::STAGES_TC, &names::TC_STAGES[..], of_tc),
    ] {
        for &(stage, name) in stages {
            let program = load_program(object, name)?;
            let map = object.map_mut(array).ok_or_else(|| missing(array))?;
            ProgramArray::try_from(map)?.set(stage as u32, &program, 0)?;
        }
        let witness = load_program(object, witness)?;
        let map = object.map_mut(array).ok_or_else(|| missing(array))?;
        ProgramArray::try_from(map)?.set(WITNESS_STAGE, &witness, 0)?;
    }
    Ok(())
}

/// How often a program is loaded before it is given up, as often as libbpf does.
const LOAD_ATTEMPTS_MAX: u32 = 5;

fn load_program(object: &mut Ebpf, name: &str) -> Result<ProgramFd, KernelError> {
    let program = object.program_mut(name).ok_or_else(|| missing(name))?;
    // The kernel gives a verification up when a signal comes, as a profiler or a pause of the machine sends them.
    for rest in (0..LOAD_ATTEMPTS_MAX).rev() {
        let loaded = match program {
            Program::Xdp(program) => program.load(),
            Program::SchedClassifier(program) => program.load(),
            _ => return Err(missing(name)),
        };
        match loaded {
            Err(ProgramError::LoadError { io_error, .. })
                if rest > 0 && io_error.kind() == ErrorKind::WouldBlock => {}
            loaded => {
                loaded?;
                break;
            }
        }
    }
    Ok(program.fd()?.try_clone().map_err(ProgramError::from)?)
}

/// The programs, either with the object that they were loaded from or from their pins.
#[allow(clippy::large_enum_variant, reason = "there is one of it")]
pub enum Programs {
    Object(Box<Ebpf>),
    Pinned {
        xdp: Xdp,
        classifiers: Named<&'static str, SchedClassifier>,
    },
}

/// How much of the verifier's patience a program took.
#[derive(Clone, Debug)]
pub struct Verified {
    pub program: &'static str,
    /// Instructions the verifier went through; it gives up at a million.
    pub instructions: Option<u32>,
    /// Bytes of the program after translation.
    pub bytes: Option<u32>,
}

impl Programs {
    /// Opens what is pinned in a directory under these names.
    pub(crate) fn pinned(
        directory: &Path,
        pin: impl Fn(&str) -> String,
    ) -> Result<Self, KernelError> {
        let mut classifiers = Named::new();
        for name in names::PROGRAMS {
            if name != names::INGRESS_XDP {
                let program = SchedClassifier::from_pin(directory.join(pin(name)))?;
                classifiers.insert(name, program);
            }
        }
        let path = directory.join(pin(names::INGRESS_XDP));
        let xdp = Xdp::from_pin(path, XdpAttachType::Interface)?;
        Ok(Self::Pinned { xdp, classifiers })
    }

    pub fn xdp(&mut self) -> Result<&mut Xdp, KernelError> {
        match self {
            Self::Pinned { xdp, .. } => Ok(xdp),
            Self::Object(object) => {
                let program = object.program_mut(names::INGRESS_XDP);
                Ok(program
                    .ok_or_else(|| missing(names::INGRESS_XDP))?
                    .try_into()?)
            }
        }
    }

    pub fn classifier(&mut self, name: &str) -> Result<&mut SchedClassifier, KernelError> {
        match self {
            Self::Pinned { classifiers, .. } => {
                classifiers.get_mut(name).ok_or_else(|| missing(name))
            }
            Self::Object(object) => {
                let program = object.program_mut(name);
                Ok(program.ok_or_else(|| missing(name))?.try_into()?)
            }
        }
    }

    pub fn verified(&mut self) -> Result<Vec<Verified>, KernelError> {
        let mut list = Vec::new();
        if let Self::Object(object) = self {
            let stages = names::XDP_STAGES.into_iter().chain(names::TC_STAGES);
            let stages = stages.map(|(_, program)| program);
            for program in stages.chain(names::WITNESS).chain([names::BEFORE]) {
                let info = match object.program(program) {
                    Some(Program::Xdp(program)) => program.info()?,
                    Some(Program::SchedClassifier(program)) => program.info()?,
                    _ => return Err(missing(program)),
                };
                list.push(Verified {
                    program,
                    instructions: info.verified_instruction_count(),
                    bytes: info.size_translated(),
                });
            }
        }
        for program in names::PROGRAMS {
            let info = if program == names::INGRESS_XDP {
                self.xdp()?.info()?
            } else {
                self.classifier(program)?.info()?
            };
            list.push(Verified {
                program,
                instructions: info.verified_instruction_count(),
                bytes: info.size_translated(),
            });
        }
        Ok(list)
    }
}

/// How XDP programs are attached.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver where it can, else generic.
    #[default]
    Best,
    Native,
    Generic,
}

impl AttachMode {
    /// Modes to try, in order.
    pub const fn attempts(self) -> &'static [XdpMode] {
        match self {
            Self::Best => &[XdpMode::Driver, XdpMode::Skb],
            Self::Native => &[XdpMode::Driver],
            Self::Generic => &[XdpMode::Skb],
        }
    }
}
