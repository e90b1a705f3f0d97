//! A second table beside the one in use: programs and maps of their own that share all else, pinned under
//! names of their own until they take its place.
//!
//! How far it has come stands in its own `PLANE`, so that whoever is killed in between leaves what the next
//! daemon can throw away ([`TABLE_MADE`]), go on with ([`TABLE_NEWER`]) or bring to its end
//! ([`TABLE_WHOLE`]).

use std::fs;
use std::io;
use std::path::Path;

use aya::maps::{Map, MapData, ProgramArray};
use aya::programs::{ProgramError, SchedClassifier, Xdp};
use aya_obj::programs::XdpAttachType;
use keepstate_engine::process::Stage;
use keepstate_engine::settings::Settings;
use keepstate_plane::{TABLE_MADE, TABLE_NEWER, TABLE_WHOLE, names};

use crate::kernel::{KernelError, NEXT, Programs, STAGE_ARRAYS, load_beside, next_pin, stages_pin};
use crate::table_maps::TableMaps;

/// Two tables were found pinned, or made.
pub struct Beside {
    pub maps: TableMaps,
    pub programs: Programs,
}

/// Loads programs and maps for a table with these settings, beside what is pinned in a directory.
pub fn make(directory: &Path, settings: &Settings) -> Result<Beside, KernelError> {
    discard(directory).map_err(|error| failed(directory, error))?;
    let programs = load_beside(directory, settings)?;
    let maps = TableMaps::from_pins(directory, next_pin)?;
    Ok(Beside { maps, programs })
}

/// Brings what a daemon left that was killed while it changed the size of the table to a state in which
/// there is one table, or two that packets know of.
pub fn tidy(directory: &Path) -> Result<(), KernelError> {
    let io = |error| failed(directory, error);
    match stage_of(directory) {
        Some(TABLE_NEWER) => Ok(()),
        Some(TABLE_WHOLE) => take_place(directory),
        _ => discard(directory).map_err(io),
    }
}

/// The newer of two tables that packets know of, if there are two.
pub fn find(directory: &Path) -> Result<Option<Beside>, KernelError> {
    if stage_of(directory) != Some(TABLE_NEWER) {
        return Ok(None);
    }
    Ok(Some(Beside {
        maps: TableMaps::from_pins(directory, next_pin)?,
        programs: Programs::pinned(directory, next_pin)?,
    }))
}

/// How far a table beside the one in use has come.
fn stage_of(directory: &Path) -> Option<u32> {
    let maps = TableMaps::from_pins(directory, next_pin).ok()?;
    let stage = maps.plane_words().table;
    (TABLE_MADE..=TABLE_WHOLE).contains(&stage).then_some(stage)
}

/// Lets packets go from the stages of each of two loads to those of the other.
pub fn link(directory: &Path) -> Result<(), KernelError> {
    for (array, program) in STAGE_ARRAYS.into_iter().zip(names::ELSEWHERE) {
        for pin in pins_of(directory, array).map_err(|error| failed(directory, error))? {
            let other = if pin.ends_with(NEXT) {
                program.to_owned()
            } else {
                next_pin(program)
            };
            set_elsewhere(directory, &pin, &other)?;
        }
    }
    Ok(())
}

/// Lets the newer of two tables take the place of the older one, which goes. To be called when the older
/// one is empty and none of its programs runs any more. Can be called again where it was interrupted.
pub fn take_place(directory: &Path) -> Result<(), KernelError> {
    let io = |error| failed(directory, error);
    for (array, program) in STAGE_ARRAYS.into_iter().zip(names::ELSEWHERE) {
        for pin in pins_of(directory, array).map_err(io)? {
            match pin.strip_suffix(NEXT) {
                // The program that stands there holds the older table.
                Some(_) => {
                    let next = next_pin(program);
                    let own = if directory.join(&next).exists() {
                        next
                    } else {
                        program.to_owned()
                    };
                    set_elsewhere(directory, &pin, &own)?;
                }
                None if directory.join(next_pin(&stages_pin(array))).exists() => {
                    fs::remove_file(directory.join(&pin)).map_err(io)?;
                }
                None => {}
            }
        }
        rename(directory, &stages_pin(array)).map_err(io)?;
    }
    for name in names::pinned_programs().chain(names::OF_TABLE) {
        // The one that says how far all this has come is the last.
        if name != names::PLANE {
            rename(directory, name).map_err(io)?;
        }
    }
    rename(directory, names::PLANE).map_err(io)?;
    let maps = TableMaps::from_pins(directory, str::to_owned)?;
    maps.set_table(0);
    Ok(())
}

/// Removes what was made of a table that nobody uses yet.
fn discard(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name().to_string_lossy().ends_with(NEXT) {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

fn rename(directory: &Path, name: &str) -> io::Result<()> {
    let next = directory.join(next_pin(name));
    if !next.exists() {
        return Ok(());
    }
    fs::rename(next, directory.join(name))
}

fn set_elsewhere(directory: &Path, array: &str, program: &str) -> Result<(), KernelError> {
    let (array, program) = (directory.join(array), directory.join(program));
    set_stage(&array, Stage::Elsewhere as u32, &program)
}

/// Puts a pinned program at a place of an array of stages.
pub(crate) fn set_stage(array: &Path, stage: u32, program: &Path) -> Result<(), KernelError> {
    let is_xdp = array
        .file_name()
        .is_some_and(|name| name.to_string_lossy().starts_with(names::STAGES_XDP));
    let mut array = stages(array)?;
    let cloned = |error: io::Error| KernelError::from(ProgramError::from(error));
    if is_xdp {
        let program = Xdp::from_pin(program, XdpAttachType::Interface)?;
        array.set(stage, &program.fd()?.try_clone().map_err(cloned)?, 0)?;
    } else {
        let program = SchedClassifier::from_pin(program)?;
        array.set(stage, &program.fd()?.try_clone().map_err(cloned)?, 0)?;
    }
    Ok(())
}

/// An array of stages by its pin.
pub(crate) fn stages(pin: &Path) -> Result<ProgramArray<MapData>, KernelError> {
    let map = Map::from_map_data(MapData::from_pin(pin)?)?;
    Ok(ProgramArray::try_from(map)?)
}

/// Pins of the arrays of stages of this name, of all loads.
fn pins_of(directory: &Path, array: &str) -> io::Result<Vec<String>> {
    let mut pins = Vec::new();
    for entry in fs::read_dir(directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.starts_with(array) {
            pins.push(name);
        }
    }
    Ok(pins)
}

fn failed(directory: &Path, error: io::Error) -> KernelError {
    KernelError::Pins(directory.display().to_string(), error)
}
