//! Several measurements of one thing.

use std::fmt;

/// Nanoseconds a packet: the least and the median of several rounds; not numbers where none was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) least: f64,
    pub(crate) median: f64,
}

impl Sample {
    pub(crate) fn of(mut values: Vec<f64>) -> Self {
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        Self {
            least: at(0),
            median: at(values.len() / 2),
        }
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.median.is_nan() {
            return f.pad("-");
        }
        f.pad(&format!("{:.0} ({:.0})", self.median, self.least))
    }
}

/// Measures `rounds` times.
pub(crate) fn sample(
    rounds: usize,
    mut measure: impl FnMut() -> anyhow::Result<f64>,
) -> anyhow::Result<Sample> {
    let values: anyhow::Result<Vec<f64>> = (0..rounds).map(|_| measure()).collect();
    Ok(Sample::of(values?))
}
