//! Counting in bounded memory.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The heaviest keys of a stream, by the Space-Saving algorithm (Metwally, Agrawal, El Abbadi, 2005).
///
/// With room for `k` keys and a stream of weight `W`, every key of more than `W / k` is among them, and no count is too
/// high by more than the error beside it, which is at most `W / k`; none is too low.
/// Counts fade by [`SpaceSaving::fade`], and `W` with them.
#[derive(Clone, Debug)]
pub struct SpaceSaving<K, V> {
    capacity: usize,
    places: HashMap<K, usize>,
    entries: Vec<Counted<K, V>>,
    /// The counts once more, side by side: the least is looked for at each key that is not there.
    counts: Vec<f64>,
}

/// A key and what is known of it.
#[derive(Clone, Debug)]
pub struct Counted<K, V> {
    pub key: K,
    pub count: f64,
    /// By how much the count may be too high.
    pub error: f64,
    pub value: V,
}

impl<K, V> Counted<K, V> {
    /// What the key has had for certain.
    pub fn certain(&self) -> f64 {
        self.count - self.error
    }
}

/// Entries below this count are let go when counts fade.
const FORGOTTEN: f64 = 0.05;

impl<K: Copy + Eq + Hash, V: Default> SpaceSaving<K, V> {
    pub fn new(capacity: usize) -> Self {
        Self {
            capacity,
            places: HashMap::new(),
            entries: Vec::new(),
            counts: Vec::new(),
        }
    }

    /// Counts a key; what is kept beside it begins anew where it takes another's place.
    pub fn add(&mut self, key: K, weight: f64) -> &mut V {
        let place = match self.places.get(&key) {
            Some(place) => *place,
            None => self.make_room(key),
        };
        let entry = &mut self.entries[place];
        entry.count += weight;
        self.counts[place] = entry.count;
        &mut entry.value
    }

    fn make_room(&mut self, key: K) -> usize {
        if self.entries.len() < self.capacity {
            self.entries.push(Counted {
                key,
                count: 0.0,
                error: 0.0,
                value: V::default(),
            });
            self.counts.push(0.0);
            self.places.insert(key, self.entries.len() - 1);
            return self.entries.len() - 1;
        }
        let counts = self.counts.iter().copied().enumerate();
        let least = counts.min_by(|one, other| one.1.total_cmp(&other.1));
        let (place, count) = least.expect("the capacity is not zero");
        let entry = &mut self.entries[place];
        self.places.remove(&entry.key);
        *entry = Counted {
            key,
            count,
            error: count,
            value: V::default(),
        };
        self.places.insert(key, place);
        place
    }

    pub fn get(&self, key: &K) -> Option<&Counted<K, V>> {
        self.places.get(key).map(|place| &self.entries[*place])
    }

    pub fn iter(&self) -> impl Iterator<Item = &Counted<K, V>> {
        self.entries.iter()
    }

    /// Multiplies all counts, and has what is beside each fade too.
    pub fn fade(&mut self, factor: f64, mut each: impl FnMut(&mut V)) {
        for entry in &mut self.entries {
            entry.count *= factor;
            entry.error *= factor;
            each(&mut entry.value);
        }
        self.entries.retain(|entry| entry.count >= FORGOTTEN);
        self.counts.clear();
        self.counts
            .extend(self.entries.iter().map(|entry| entry.count));
        self.places.clear();
        let keys = self.entries.iter().map(|entry| entry.key);
        self.places
            .extend(keys.enumerate().map(|(place, key)| (key, place)));
    }
}

/// Values that [`Modes`] keeps.
const MODES: usize = 16;

/// The commonest values of a stream: a [`SpaceSaving`] of sixteen. A share that it gives is at most a sixteenth too high.
#[derive(Clone, Copy, Debug, Default)]
pub struct Modes {
    values: [(u32, f64, f64); MODES],
    total: f64,
}

impl Modes {
    pub fn add(&mut self, value: u32, weight: f64) {
        self.total += weight;
        let known = |slot: &&mut (u32, f64, f64)| slot.0 == value && slot.1 > 0.0;
        if let Some(slot) = self.values.iter_mut().find(known) {
            slot.1 += weight;
            return;
        }
        let least = self.values.iter_mut().min_by(|a, b| a.1.total_cmp(&b.1));
        if let Some(slot) = least {
            *slot = (value, slot.1 + weight, slot.1);
        }
    }

    /// Takes in the values of another.
    pub fn merge(&mut self, other: &Self) {
        for (value, count, error) in other.values {
            if count > error {
                self.add(value, count - error);
            }
        }
        // What it was not certain of counts for the total alone.
        let certain: f64 = other.values.iter().map(|slot| slot.1 - slot.2).sum();
        self.total += (other.total - certain).max(0.0);
    }

    /// The commonest value and its certain share.
    pub fn top(&self) -> Option<(u32, f64)> {
        let certain = |slot: &(u32, f64, f64)| slot.1 - slot.2;
        let best = self
            .values
            .iter()
            .max_by(|a, b| certain(a).total_cmp(&certain(b)))?;
        (self.total > 0.0).then(|| (best.0, certain(best) / self.total))
    }

    /// The values that there are for certain, and their shares at least.
    pub fn shares(&self) -> impl Iterator<Item = (u32, f64)> {
        let total = self.total.max(f64::MIN_POSITIVE);
        let certain =
            move |(value, count, error): &(u32, f64, f64)| (*value, (count - error) / total);
        self.values
            .iter()
            .map(certain)
            .filter(|(_, share)| *share > 0.0)
    }

    /// The largest share that a value may have.
    pub fn share(&self, value: u32) -> f64 {
        if self.total <= 0.0 {
            return 0.0;
        }
        let known = self
            .values
            .iter()
            .find(|slot| slot.0 == value && slot.1 > 0.0);
        let least = self
            .values
            .iter()
            .map(|slot| slot.1)
            .fold(f64::MAX, f64::min);
        known.map_or(least, |slot| slot.1) / self.total
    }

    /// How much was counted.
    pub const fn total(&self) -> f64 {
        self.total
    }

    pub fn fade(&mut self, factor: f64) {
        self.total *= factor;
        for slot in &mut self.values {
            slot.1 *= factor;
            slot.2 *= factor;
        }
    }
}

/// Registers of a [`Distinct`]: a standard error of 1.04 / sqrt(256), 6.5 %.
const REGISTERS: usize = 256;

/// How many different keys were seen in this and the last period (HyperLogLog, Flajolet et al., 2007).
#[derive(Clone, Debug)]
pub struct Distinct {
    now: [u8; REGISTERS],
    before: [u8; REGISTERS],
}

impl Default for Distinct {
    fn default() -> Self {
        Self {
            now: [0; REGISTERS],
            before: [0; REGISTERS],
        }
    }
}

impl Distinct {
    pub fn add(&mut self, key: impl Hash) {
        let hash = hash(key);
        let register = &mut self.now[hash as usize % REGISTERS];
        let rank = (hash >> 8 | 1 << 56).trailing_zeros() as u8 + 1;
        *register = rank.max(*register);
    }

    pub fn estimate(&self) -> f64 {
        let both = self.now.iter().zip(&self.before);
        let ranks = both.map(|(now, before)| *now.max(before));
        let (mut sum, mut zeros) = (0.0, 0);
        for rank in ranks {
            sum += (-f64::from(rank)).exp2();
            zeros += usize::from(rank == 0);
        }
        let registers = REGISTERS as f64;
        let raw = 0.7213 / (1.0 + 1.079 / registers) * registers * registers / sum;
        if raw <= 2.5 * registers && zeros > 0 {
            return registers * (registers / zeros as f64).ln();
        }
        raw
    }

    /// Begins another period.
    pub fn turn(&mut self) {
        self.before = std::mem::replace(&mut self.now, [0; REGISTERS]);
    }
}

/// The same in every run: what is counted is not chosen to collide by whoever knows it, for a
/// collision only makes an estimate smaller.
fn hash(key: impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty heavy keys among a hundred thousand light ones.
    #[test]
    fn the_heavy_are_found_within_the_stated_error() {
        const ROOM: usize = 256;
        let mut sketch: SpaceSaving<u32, ()> = SpaceSaving::new(ROOM);
        let mut total = 0.0;
        for round in 0..100_000_u32 {
            sketch.add(1_000_000 + round, 1.0);
            sketch.add(round % 20, 1.0);
            total += 2.0;
        }
        for key in 0..20 {
            let counted = sketch.get(&key).expect("heavy");
            assert!(counted.count >= 5000.0 && counted.certain() <= 5000.0);
            assert!(counted.error <= total / ROOM as f64);
        }
        assert_eq!(sketch.iter().count(), ROOM);
        sketch.fade(0.000_001, |()| {});
        assert_eq!(sketch.iter().count(), 0);
        sketch.add(7, 1.0);
        assert_eq!(sketch.get(&7).map(|it| it.count), Some(1.0));
    }

    #[test]
    fn modes_and_cardinalities_are_estimated() {
        let mut modes = Modes::default();
        for number in 0..1000 {
            modes.add(if number % 10 == 0 { number } else { 40 }, 1.0);
        }
        // 40 itself is one of the hundred others.
        let (value, share) = modes.top().expect("some");
        assert!(value == 40 && (0.85..0.91).contains(&share), "{share}");
        assert!(modes.share(40) >= 0.9);
        for count in [10_u32, 1000, 200_000] {
            let mut distinct = Distinct::default();
            (0..count).for_each(|key| distinct.add(key));
            let estimate = distinct.estimate();
            let ratio = estimate / f64::from(count);
            assert!((0.8..1.2).contains(&ratio), "{count}: {estimate}");
            distinct.turn();
            distinct.turn();
            assert_eq!(distinct.estimate(), 0.0);
        }
    }
}
