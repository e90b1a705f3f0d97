//! A place for files and pinned objects that vanishes with its value.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use keepstate_testkit::run;

/// A temporary directory and a BPF file system in it.
pub(crate) struct Scratch {
    directory: PathBuf,
}

impl Scratch {
    pub(crate) fn new() -> anyhow::Result<Self> {
        static SERIAL: AtomicU32 = AtomicU32::new(0);
        let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
        let name = format!("keepstate-bench-{}-{serial}", std::process::id());
        let scratch = Self {
            directory: std::env::temp_dir().join(name),
        };
        std::fs::create_dir_all(scratch.pins())?;
        run(Command::new("mount")
            .args(["-t", "bpf", "bpf"])
            .arg(scratch.pins()));
        Ok(scratch)
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }

    pub(crate) fn pins(&self) -> PathBuf {
        self.directory.join("pins")
    }

    pub(crate) fn pin(&self, name: &str) -> PathBuf {
        self.pins().join(Path::new(name))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Nothing can be done about an error here; the directory is a temporary one.
        let _ = Command::new("umount").arg(self.pins()).status();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
