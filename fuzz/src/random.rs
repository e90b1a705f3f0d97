//! Numbers that look random and are the same in every run.

/// Marsaglia's xorshift.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub const fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    pub const fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `bound`; zero for a bound of zero.
    pub fn below(&mut self, bound: usize) -> usize {
        ((u128::from(self.next()) * bound as u128) >> 64) as usize
    }

    /// Changes some bytes: values, order, length.
    pub fn mutate(&mut self, bytes: &mut Vec<u8>) {
        const INTERESTING: [u8; 8] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x0f, 0x40, 0xfe];
        for _ in 0..=self.below(4) {
            let at = self.below(bytes.len());
            let value = INTERESTING[self.below(INTERESTING.len())];
            match self.below(6) {
                0 => bytes.truncate(at),
                1 => bytes.insert(at, value),
                2 if !bytes.is_empty() => {
                    bytes.remove(at);
                }
                3 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte = value;
                    }
                }
                4 => {
                    if let Some(byte) = bytes.get_mut(at) {
                        *byte ^= 1 << self.below(8);
                    }
                }
                _ => {
                    let end = bytes.len().min(at + self.below(16));
                    let copied = bytes[at..end].to_vec();
                    let to = self.below(bytes.len());
                    bytes.splice(to..to, copied);
                }
            }
        }
    }
}
