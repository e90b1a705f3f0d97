//! Addresses of IPv6 as text (RFC 4291 section 2.2), byte by byte.

use super::line::{Line, NO_GAP, Phase};
use crate::tuple::Address;

impl Line {
    /// A byte of an address that ends with the delimiter.
    pub(super) fn v6(&mut self, byte: u8, sender: &Address) {
        if byte == self.delimiter {
            self.end_of_v6(sender);
        } else if byte == b':' {
            self.colon();
        } else {
            let digit = match byte {
                b'0'..=b'9' => byte - b'0',
                b'a'..=b'f' => byte - b'a' + 10,
                b'A'..=b'F' => byte - b'A' + 10,
                _ => 255,
            };
            let lone = self.colons == 1 && self.fields == 0;
            self.digits = self.digits.wrapping_add(1);
            self.number = self.number << 4 | digit as u32 & 15;
            self.colons = 0;
            if digit == 255 || lone || self.digits > 4 {
                self.phase = Phase::Skip;
            }
        }
    }

    fn colon(&mut self) {
        if self.digits > 0 {
            self.end_group();
            self.colons = 1;
        } else if self.colons == 1 && self.gap == NO_GAP {
            self.gap = self.fields;
            self.colons = 2;
        } else if self.colons == 0 && self.fields == 0 && self.gap == NO_GAP {
            self.colons = 1;
        } else {
            self.phase = Phase::Skip;
        }
    }

    fn end_group(&mut self) {
        let place = crate::settings::checked_index(self.fields as usize);
        match self.groups.get_mut(place) {
            Some(group) => *group = self.number as u16,
            None => self.phase = Phase::Skip,
        }
        self.fields = self.fields.wrapping_add(1);
        self.begin_number();
    }

    fn end_of_v6(&mut self, sender: &Address) {
        let dangling = self.colons == 1;
        if self.digits > 0 {
            self.end_group();
        }
        let complete = match self.gap {
            NO_GAP => self.fields == 8,
            _ => self.fields < 8,
        };
        if matches!(self.phase, Phase::Skip) || dangling || !complete || !self.is_address(sender) {
            self.phase = Phase::Skip;
            return;
        }
        self.begin_number();
        self.phase = Phase::Port;
    }

    /// Whether the groups that were read, with zeros in place of `::`, are this address.
    fn is_address(&self, address: &Address) -> bool {
        let missing = 8_u8.wrapping_sub(self.fields);
        let mut same = true;
        let mut place = 0_u8;
        while place < 8 {
            let group = if place < self.gap {
                place
            } else {
                place.wrapping_sub(missing)
            };
            let is_zero = place >= self.gap && place < self.gap.wrapping_add(missing);
            let index = crate::settings::checked_index(group as usize);
            let value = self.groups.get(index).copied().unwrap_or(0);
            let value = if is_zero { 0 } else { value };
            let word = match address.get(place as usize / 2) {
                Some(word) if place & 1 == 0 => (*word >> 16) as u16,
                Some(word) => *word as u16,
                None => 0,
            };
            same &= value == word;
            place += 1;
        }
        same
    }
}
