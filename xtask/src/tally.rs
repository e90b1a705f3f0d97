//! Counting what tests print.

use std::process::ExitCode;

/// What has been learnt from the output of the tests.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    failures: Vec<String>,
    skipped: Vec<String>,
}

impl Tally {
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("test result: ") {
            let count = |what: &str| {
                let mut words = counts
                    .split([' ', ';'])
                    .rev()
                    .skip_while(|word| *word != what);
                words
                    .nth(1)
                    .and_then(|number| number.parse::<usize>().ok())
                    .unwrap_or(0)
            };
            self.passed += count("passed");
            self.failed += count("failed");
        } else if let Some((name, outcome)) = line
            .strip_prefix("test ")
            .and_then(|rest| rest.rsplit_once(" ... "))
        {
            match outcome
                .split_once(", ")
                .unwrap_or((outcome, "by the test harness"))
            {
                ("FAILED", _) => self.failures.push(name.to_owned()),
                ("ignored", why) => self.skipped.push(format!("{name}: {why}")),
                _ => {}
            }
        }
    }

    /// Tests that skipped themselves have been counted as passed: takes them off.
    pub(crate) fn read_skip_log(&mut self, log: &str) {
        for line in log.lines().filter_map(|line| line.strip_prefix("SKIPPED ")) {
            self.passed = self.passed.saturating_sub(1);
            self.skipped.push(line.to_owned());
        }
    }

    pub(crate) fn pass(&mut self) {
        self.passed += 1;
    }

    pub(crate) fn fail(&mut self, name: &str) {
        self.failed += 1;
        self.failures.push(name.to_owned());
    }

    pub(crate) const fn has_failed(&self) -> bool {
        self.failed > 0
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.failures.extend(other.failures);
        self.skipped.extend(other.skipped);
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        if self.has_failed() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }

    pub(crate) fn report(&self) -> String {
        let mut text = String::new();
        for name in &self.failures {
            text += &format!("FAILED {name}\n");
        }
        for name in &self.skipped {
            text += &format!("SKIPPED {name}\n");
        }
        let skipped = self.skipped.len();
        text + &format!(
            "{} passed, {} failed, {skipped} skipped\n",
            self.passed, self.failed
        )
    }
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn counts_what_cargo_prints_and_what_tests_logged() {
        let mut tally = Tally::default();
        for line in [
            "test a::b ... ok",
            "test a::c ... FAILED",
            "test a::d ... ignored, needs an hour",
            "test e - f (line 3) ... ignored",
            "test result: FAILED. 2 passed; 1 failed; 2 ignored; 0 measured; 0 filtered out; \
             finished in 0.00s",
            "test result: ok. 40 passed; 0 failed; 0 ignored; 0 measured; 0 filtered out",
        ] {
            tally.read(line);
        }
        tally.read_skip_log("SKIPPED pings: needs root\n");
        assert_eq!(
            tally.report(),
            "FAILED a::c\n\
             SKIPPED a::d: needs an hour\n\
             SKIPPED e - f (line 3): by the test harness\n\
             SKIPPED pings: needs root\n\
             41 passed, 1 failed, 3 skipped\n"
        );
    }
}
