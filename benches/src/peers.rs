//! The programs of `peers/`, compiled by clang and loaded.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use aya::Ebpf;
use aya::programs::Xdp;
use keepstate_testkit::run;

use crate::scratch::Scratch;

/// Where their random numbers begin.
pub(crate) const RANDOM: u64 = 0x2545_f491_4f6c_dd1d;

/// The object of `peers/NAME.bpf.c`.
pub(crate) fn compile(scratch: &Scratch, name: &str) -> PathBuf {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers");
    let object = scratch.file(&format!("{name}.o"));
    run(Command::new("clang")
        .args(["-O2", "-g", "-target", "bpf", "-mcpu=v3", "-c"])
        .arg(sources.join(format!("{name}.bpf.c")))
        .arg("-o")
        .arg(&object));
    object
}

/// An object with these of its programs loaded.
pub(crate) fn load(name: &str, programs: &[&str]) -> anyhow::Result<Ebpf> {
    let scratch = Scratch::new()?;
    let mut object = Ebpf::load_file(compile(&scratch, name))?;
    for name in programs {
        program(&mut object, name)?.load()?;
    }
    Ok(object)
}

pub(crate) fn program<'a>(object: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut Xdp> {
    let program = object.program_mut(name);
    Ok(program
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()?)
}
