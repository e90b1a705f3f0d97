//! The kernel's own tracker: its lookup and its insert, timed by `BPF_PROG_TEST_RUN`.
//!
//! The program (`peers/nf_conntrack.bpf.c`) is compiled by clang and loaded by bpftool. A network
//! namespace holds at most `nf_conntrack_max` records, and this machine's value is not ours to
//! change, so the flows are spread over as many namespaces as it takes. All namespaces share one
//! hash table, so that this costs nothing but finding the namespace, which is measured and
//! taken off.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use keepstate_testkit::{Namespace, run};

use crate::peers::{self, RANDOM};
use crate::sample::{Sample, sample};
use crate::scratch::Scratch;

/// Calls in one measurement of a lookup.
const LOOKUPS: u32 = 500_000;
/// Inserts are timed this many at a time.
const INSERTS: u32 = 8_192;
/// What is inserted beyond the flows of the largest table: the rounds of all its rows.
const MORE_FLOWS: u32 = 32 * INSERTS;

pub(crate) struct NfConntrack {
    /// The first is the one that programs run in. Kept for their `Drop`.
    namespaces: Vec<Namespace>,
    scratch: Scratch,
    flows_per_namespace: u32,
    flows: u32,
    buckets: u32,
    /// Cost of a packet without the tracker.
    nothing_ns: f64,
    /// Cost of finding a namespace by number.
    namespace_ns: f64,
}

impl NfConntrack {
    /// An empty table with room for `flows_max` flows.
    pub(crate) fn start(flows_max: u32) -> anyhow::Result<Self> {
        let room = sysctl("nf_conntrack_max")?;
        // Near its limit a namespace would begin to drop records early.
        let flows_per_namespace = room / 10 * 9;
        let count = (flows_max + MORE_FLOWS).div_ceil(flows_per_namespace);
        let namespaces: Vec<_> = (0..count)
            .map(|index| Namespace::new(&format!("ct{index}")))
            .collect();
        let home = namespaces.first().context("there is at least one flow")?;
        for (index, namespace) in namespaces.iter().enumerate() {
            home.run(
                "ip",
                &["netns", "set", namespace.name(), &index.to_string()],
            );
        }
        let scratch = Scratch::new()?;
        load(&scratch, home)?;
        let mut tracker = Self {
            namespaces,
            scratch,
            flows_per_namespace,
            flows: 0,
            buckets: sysctl("nf_conntrack_buckets")?,
            nothing_ns: 0.0,
            namespace_ns: 0.0,
        };
        tracker.calibrate()?;
        Ok(tracker)
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "nf_conntrack: {} buckets, records over {} namespaces; taken off: {:.0} ns of making \
             the packet, {:.0} ns of finding the namespace",
            self.buckets,
            self.namespaces.len(),
            self.nothing_ns,
            self.namespace_ns
        )
    }

    /// Whether the hash table takes so many: the kernel refuses to insert into chains of more than
    /// 50 to 80 entries, and each record stands in two.
    pub(crate) fn has_room_for(&self, flows: u32) -> bool {
        flows / self.buckets < 12
    }

    /// Inserts until there are `flows`; cost of one of the last inserts.
    pub(crate) fn fill(&mut self, flows: u32) -> anyhow::Result<Sample> {
        let missing = flows.saturating_sub(self.flows);
        let rounds = (missing / 4).div_ceil(INSERTS).clamp(1, 7);
        let timed = INSERTS.min(missing / rounds);
        let untimed = missing - rounds * timed;
        if untimed > 0 {
            self.configure(self.flows, self.flows)?;
            self.call("insert", untimed)?;
            self.flows += untimed;
        }
        sample(rounds as usize, || self.insert_some(timed))
    }

    /// Cost of one of some inserts more, so few that the table stays of about this size.
    pub(crate) fn insert(&mut self, size: u32) -> anyhow::Result<f64> {
        self.insert_some(INSERTS.min(size / 64))
    }

    fn insert_some(&mut self, flows: u32) -> anyhow::Result<f64> {
        if flows == 0 {
            return Ok(f64::NAN);
        }
        self.configure(self.flows + flows, self.flows)?;
        let cost = self.net("insert", flows)?;
        ensure!(
            self.failures()? == 0,
            "the kernel refused to insert some flows"
        );
        self.flows += flows;
        Ok(cost)
    }

    /// Cost of a lookup of a random flow, in nanoseconds.
    pub(crate) fn lookup(&self) -> anyhow::Result<f64> {
        self.net("lookup", LOOKUPS)
    }

    fn net(&self, program: &str, calls: u32) -> anyhow::Result<f64> {
        Ok(self.call(program, calls)? - self.nothing_ns - self.namespace_ns)
    }

    fn calibrate(&mut self) -> anyhow::Result<()> {
        const FLOWS: u32 = 512;
        self.fill(FLOWS)?;
        let numbered = sample(5, || self.call("lookup", LOOKUPS))?;
        self.nothing_ns = sample(5, || self.call("nothing", LOOKUPS))?.median;
        let per_namespace = std::mem::replace(&mut self.flows_per_namespace, 0);
        self.configure(FLOWS, FLOWS)?;
        let current = sample(5, || self.call("lookup", LOOKUPS))?;
        self.flows_per_namespace = per_namespace;
        self.configure(FLOWS, FLOWS)?;
        self.namespace_ns = (numbered.median - current.median).max(0.0);
        Ok(())
    }

    /// Writes the state that the program reads: see `struct state` there.
    fn configure(&self, flows: u32, next: u32) -> anyhow::Result<()> {
        let mut value = RANDOM.to_ne_bytes().to_vec();
        for word in [flows, next, self.flows_per_namespace, 0] {
            value.extend(word.to_ne_bytes());
        }
        let value = value.iter().map(|byte| format!("{byte}"));
        run(Command::new("bpftool")
            .args(["map", "update", "pinned"])
            .arg(self.scratch.pin("maps/states"))
            .args(["key", "0", "0", "0", "0", "value"])
            .args(value));
        Ok(())
    }

    fn failures(&self) -> anyhow::Result<u32> {
        let text = run(Command::new("bpftool")
            .args(["map", "dump", "pinned"])
            .arg(self.scratch.pin("maps/states")));
        number_after(&text, "\"failures\":")
    }

    /// Nanoseconds a call.
    fn call(&self, program: &str, calls: u32) -> anyhow::Result<f64> {
        let home = self
            .namespaces
            .first()
            .context("there is at least one namespace")?;
        let text = run(home
            .command("bpftool")
            .args(["--json", "prog", "run", "pinned"])
            .arg(self.scratch.pin("programs").join(program))
            .arg("data_in")
            .arg(self.scratch.file("packet"))
            .args(["repeat", &calls.to_string()]));
        Ok(f64::from(number_after(&text, "\"duration\":")?))
    }
}

fn load(scratch: &Scratch, home: &Namespace) -> anyhow::Result<()> {
    let object = peers::compile(scratch, "nf_conntrack");
    std::fs::write(scratch.file("packet"), [0; 64])?;
    for directory in ["programs", "maps"] {
        std::fs::create_dir(scratch.pin(directory))?;
    }
    run(home
        .command("bpftool")
        .args(["prog", "loadall"])
        .arg(&object)
        .arg(scratch.pin("programs"))
        .arg("pinmaps")
        .arg(scratch.pin("maps")));
    Ok(())
}

fn sysctl(name: &str) -> anyhow::Result<u32> {
    let path = Path::new("/proc/sys/net/netfilter").join(name);
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}: is nf_conntrack there?", path.display()))?;
    Ok(text.trim().parse()?)
}

pub(crate) fn number_after(text: &str, label: &str) -> anyhow::Result<u32> {
    let (_, rest) = text
        .split_once(label)
        .with_context(|| format!("no {label} in {text}"))?;
    let digits: String = rest
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    Ok(digits.parse()?)
}
