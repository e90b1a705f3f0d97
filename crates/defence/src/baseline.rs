//! What is usual.

use std::collections::VecDeque;

/// Seconds that a baseline looks back.
const SECONDS: usize = 300;

/// Fewer seconds than these say nothing yet.
const SECONDS_MIN: usize = 20;

/// A moving quantile of the values of calm seconds. Robust: up to a twentieth of them may be anything.
#[derive(Clone, Debug, Default)]
pub struct Baseline(VecDeque<f32>);

impl Baseline {
    /// What is known after these.
    pub fn of(values: &[f32]) -> Self {
        Self(values.iter().copied().collect())
    }

    pub fn learn(&mut self, value: f64) {
        if self.0.len() == SECONDS {
            self.0.pop_front();
        }
        self.0.push_back(value as f32);
    }

    /// What nineteen of twenty seconds stayed at or below; zero while too few are known.
    pub fn usual(&self) -> f64 {
        self.quantile(19, 20)
    }

    /// What half of them stayed at or below: for what grows too slowly for [`Self::usual`] not to grow with it.
    pub fn middle(&self) -> f64 {
        self.quantile(1, 2)
    }

    fn quantile(&self, part: usize, of: usize) -> f64 {
        if self.0.len() < SECONDS_MIN {
            return 0.0;
        }
        let mut values: Vec<f32> = self.0.iter().copied().collect();
        let place = values.len() * part / of;
        let (_, value, _) = values.select_nth_unstable_by(place, f32::total_cmp);
        f64::from(*value)
    }

    /// Whether too few seconds are known to say what is usual.
    pub fn is_new(&self) -> bool {
        self.0.len() < SECONDS_MIN
    }

    pub fn seconds(&self) -> usize {
        self.0.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spikes_do_not_move_it() {
        let mut baseline = Baseline::default();
        assert_eq!(baseline.usual(), 0.0);
        for second in 0..200 {
            baseline.learn(if second % 40 == 0 { 1e6 } else { 50.0 });
        }
        assert_eq!(baseline.usual(), 50.0);
        for _ in 0..300 {
            baseline.learn(400.0);
        }
        assert_eq!(baseline.usual(), 400.0);
    }
}
