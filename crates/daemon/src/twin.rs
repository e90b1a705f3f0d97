//! The loaded programs as a function of a packet, for tests against the native engine.
//!
//! Programs and maps are private: nothing is pinned or attached, packets are handed in by
//! `BPF_PROG_TEST_RUN`, and the clock stands where the test puts it.

use std::sync::atomic::Ordering::SeqCst;
use std::time::Duration;

use aya::programs::{TestRun as _, TestRunOptions};
use keepstate_engine::settings::Settings;
use keepstate_engine::time::Tick;
use keepstate_engine::verdict::Hook;
use keepstate_plane::{PLANE_TEST_CLOCK, PLANE_TEST_HOOK, PLANE_TEST_REPORT, Report, names};
use keepstate_policy::Compiled;

use crate::kernel::{Kernel, KernelError, write};
use crate::mapped::{Raw, bytes_of, from_bytes};

/// The kernel plane under test.
pub struct Twin {
    pub kernel: Kernel,
}

/// What came back from a run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// What the program returned, e.g. `XDP_PASS`.
    pub returned: u32,
    /// For one packet, on average over the repetitions.
    pub duration: Duration,
    /// The engine's outcome.
    pub report: Report,
}

impl Twin {
    pub fn new(settings: &Settings) -> Result<Self, KernelError> {
        let kernel = Kernel::private(settings)?;
        kernel.maps.change_plane(|plane| {
            plane.flags = PLANE_TEST_CLOCK | PLANE_TEST_HOOK | PLANE_TEST_REPORT;
        });
        Ok(Self { kernel })
    }

    pub fn set_clock(&self, now: Tick) {
        self.kernel
            .maps
            .change_plane(|plane| plane.test_tick = now.0);
    }

    /// The chain that packets from outside meet.
    pub fn set_hook(&self, hook: Hook) {
        self.kernel
            .maps
            .change_plane(|plane| plane.test_hook = hook as u32);
    }

    /// Puts a policy in force; interface patterns are not asked.
    pub fn load_policy(&mut self, policy: &Compiled) -> Result<(), KernelError> {
        let maps = &mut self.kernel.maps;
        let rules: Vec<u8> = policy.rules.iter().flat_map(bytes_of).copied().collect();
        write(maps.rules.words(), &rules);
        maps.policies.set(0, Raw(policy.header), 0)?;
        Ok(())
    }

    /// An Ethernet frame that arrives.
    pub fn ingress(&mut self, frame: &[u8]) -> Result<Run, KernelError> {
        self.ingress_repeated(frame, 1)
    }

    /// The same frame many times.
    pub fn ingress_repeated(&mut self, frame: &[u8], repeat: u32) -> Result<Run, KernelError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            repeat,
            ..TestRunOptions::default()
        };
        let result = self.kernel.programs.xdp()?.test_run(options)?;
        Ok(self.result(result.return_value, result.duration))
    }

    /// An Ethernet frame that this host sends.
    pub fn egress(&mut self, frame: &[u8]) -> Result<Run, KernelError> {
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::default()
        };
        let program = self.kernel.programs.classifier(names::EGRESS_ETHERNET)?;
        let result = program.test_run(options)?;
        Ok(self.result(result.return_value, result.duration))
    }

    fn result(&self, returned: u32, duration: Duration) -> Run {
        Run {
            returned,
            duration,
            report: self.report(),
        }
    }

    fn report(&self) -> Report {
        let words = self.kernel.maps.report.words().iter();
        let bytes: Vec<u8> = words
            .flat_map(|word| word.load(SeqCst).to_ne_bytes())
            .collect();
        from_bytes(&bytes).expect("the map holds a whole report: its value is that type")
    }
}
