//! How much stack the programs of the BPF object take on the oldest kernel that is supported.
//!
//! Kernels count a call's stack in steps of 32 bytes, those since 6.9 in steps of 16 with the
//! compiler on. What one of today accepts, 6.1 may refuse: so it is counted here, from the
//! instructions, as that kernel does.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, ensure};

/// The kernel's limit for a program and all functions on one way through its calls.
pub(crate) const STACK_BYTES_MAX: u32 = 512;
/// What a function takes is rounded up to this, and is this at least.
const STEP: u32 = 32;
/// Calls do not nest deeper, says the kernel.
const CALLS_MAX: usize = 8;

const SECTION_HEADER_BYTES: usize = 64;
const SYMBOL_BYTES: usize = 24;
const RELOCATION_BYTES: usize = 16;
const INSTRUCTION_BYTES: usize = 8;
const SECTION_SYMBOLS: u32 = 2;
const SECTION_RELOCATIONS: u32 = 9;
const SYMBOL_FUNCTION: u8 = 2;
const SYMBOL_SECTION: u8 = 3;
/// Name of the section with functions that are not programs.
const FUNCTIONS: &str = ".text";

const FRAME: u8 = 10;
const CALL: u8 = 0x85;
const LOAD_WIDE: u8 = 0x18;
const MOVE: u8 = 0xbf;
const ADD_CONSTANT: u8 = 0x07;
/// Where an instruction names a function of ours, and no helper.
const OWN_FUNCTION: u8 = 1;

/// Section and offset of a function.
type Place = (usize, u64);

struct Section<'a> {
    name: &'a str,
    kind: u32,
    bytes: &'a [u8],
    link: usize,
    /// Of relocations: the section that they are for.
    target: usize,
}

struct Symbol<'a> {
    name: &'a str,
    kind: u8,
    section: usize,
    value: u64,
    size: u64,
}

struct Function<'a> {
    name: &'a str,
    is_program: bool,
    bytes: u32,
    calls: BTreeSet<Place>,
}

/// The program that takes most, and what it takes.
pub(crate) fn largest(object: &[u8]) -> anyhow::Result<(u32, String)> {
    let functions = functions(object)?;
    let mut largest = (0, String::new());
    for (place, function) in functions.iter().filter(|(_, one)| one.is_program) {
        let bytes = deepest(&functions, *place, CALLS_MAX)
            .with_context(|| format!("calls in {} nest too deep", function.name))?;
        largest = largest.max((bytes, function.name.to_owned()));
    }
    ensure!(largest.0 > 0, "the object has no programs");
    Ok(largest)
}

fn deepest(functions: &BTreeMap<Place, Function<'_>>, place: Place, calls: usize) -> Option<u32> {
    let function = functions.get(&place)?;
    let own = function.bytes.max(1).next_multiple_of(STEP);
    let mut most = 0;
    for callee in &function.calls {
        most = most.max(deepest(functions, *callee, calls.checked_sub(1)?)?);
    }
    Some(own + most)
}

fn functions(object: &[u8]) -> anyhow::Result<BTreeMap<Place, Function<'_>>> {
    let sections = sections(object)?;
    let symbols = symbols(&sections)?;
    let mut relocations = BTreeMap::new();
    for section in sections
        .iter()
        .filter(|one| one.kind == SECTION_RELOCATIONS)
    {
        for entry in section.bytes.chunks_exact(RELOCATION_BYTES) {
            let symbol = symbols.get(number32(entry, 12)? as usize);
            let symbol = symbol.context("a relocation names no symbol")?;
            relocations.insert((section.target, number64(entry, 0)?), symbol);
        }
    }
    let mut found = BTreeMap::new();
    for symbol in symbols.iter().filter(|one| one.kind == SYMBOL_FUNCTION) {
        let section = sections.get(symbol.section);
        let section = section.context("a function lies nowhere")?;
        let range = symbol.value as usize..(symbol.value + symbol.size) as usize;
        let code = section.bytes.get(range);
        let code = code.context("a function lies outside of its section")?;
        let callee = |at: u64, instruction: &Instruction| {
            let here = symbol.value + at;
            let named = relocations.get(&(symbol.section, here));
            instruction.callee(here, symbol.section, named.copied(), &sections)
        };
        let function = Function {
            name: symbol.name,
            is_program: section.name != FUNCTIONS,
            bytes: frame_bytes(code)?,
            calls: calls(code, callee)?,
        };
        found.insert((symbol.section, symbol.value), function);
    }
    Ok(found)
}

#[derive(Clone, Copy)]
struct Instruction {
    code: u8,
    target: u8,
    source: u8,
    offset: i16,
    constant: i32,
}

impl Instruction {
    fn read(bytes: &[u8]) -> anyhow::Result<Self> {
        let word = number64(bytes, 0)?;
        Ok(Self {
            code: word as u8,
            target: (word >> 8) as u8 & 15,
            source: (word >> 12) as u8 & 15,
            offset: (word >> 16) as i16,
            constant: (word >> 32) as i32,
        })
    }

    /// The function of ours that is called, or handed to a helper that calls it.
    fn callee(
        &self,
        here: u64,
        section: usize,
        named: Option<&Symbol<'_>>,
        sections: &[Section<'_>],
    ) -> Option<Place> {
        let by_constant = i64::from(self.constant);
        match (self.code, named) {
            (CALL, _) if self.source != OWN_FUNCTION => None,
            (CALL, None) => {
                let next = here as i64 + INSTRUCTION_BYTES as i64;
                Some((
                    section,
                    (next + by_constant * INSTRUCTION_BYTES as i64) as u64,
                ))
            }
            (CALL, Some(symbol)) => {
                let within = (by_constant + 1) * INSTRUCTION_BYTES as i64;
                Some((symbol.section, symbol.offset_by(within)))
            }
            (LOAD_WIDE, Some(symbol)) if sections.get(symbol.section)?.name == FUNCTIONS => {
                Some((symbol.section, symbol.offset_by(by_constant)))
            }
            _ => None,
        }
    }
}

impl Symbol<'_> {
    /// A place in a section is the section's symbol and an offset; a function's own symbol is the
    /// place.
    fn offset_by(&self, within: i64) -> u64 {
        if self.kind == SYMBOL_SECTION {
            self.value.wrapping_add_signed(within)
        } else {
            self.value
        }
    }
}

/// Bytes below the frame pointer that are read, written or pointed to.
fn frame_bytes(code: &[u8]) -> anyhow::Result<u32> {
    let mut lowest = 0;
    // By register: where it points to in the frame, as far as that is plain to see.
    let mut points: [Option<i32>; 16] = [None; 16];
    points[FRAME as usize] = Some(0);
    for bytes in code.chunks_exact(INSTRUCTION_BYTES) {
        let instruction = Instruction::read(bytes)?;
        let (target, source) = (instruction.target as usize, instruction.source as usize);
        let offset = i32::from(instruction.offset);
        match (instruction.code, instruction.code & 7) {
            (MOVE, _) => points[target] = points[source],
            (ADD_CONSTANT, _) => {
                points[target] = points[target].map(|at| at + instruction.constant)
            }
            (CALL, _) => points[..6].fill(None),
            // Reads, then writes, then everything that computes.
            (_, 1) => {
                lowest = lowest.min(points[source].map_or(0, |at| at + offset));
                points[target] = None;
            }
            (_, 2 | 3) => lowest = lowest.min(points[target].map_or(0, |at| at + offset)),
            (_, 0 | 4 | 7) => points[target] = None,
            _ => {}
        }
        lowest = lowest.min(points[target].unwrap_or(0));
    }
    Ok(lowest.unsigned_abs())
}

fn calls(
    code: &[u8],
    callee: impl Fn(u64, &Instruction) -> Option<Place>,
) -> anyhow::Result<BTreeSet<Place>> {
    let mut found = BTreeSet::new();
    for (number, bytes) in code.chunks_exact(INSTRUCTION_BYTES).enumerate() {
        let at = (number * INSTRUCTION_BYTES) as u64;
        found.extend(callee(at, &Instruction::read(bytes)?));
    }
    Ok(found)
}

fn sections(object: &[u8]) -> anyhow::Result<Vec<Section<'_>>> {
    ensure!(
        object.starts_with(b"\x7fELF\x02\x01"),
        "this is no object for BPF"
    );
    let start = number64(object, 0x28)? as usize;
    let words = number64(object, 0x38)?;
    let (count, names) = ((words >> 32) as u16 as usize, (words >> 48) as usize);
    let header = |number: usize| {
        let at = start + number * SECTION_HEADER_BYTES;
        object
            .get(at..at + SECTION_HEADER_BYTES)
            .context("a section header is missing")
    };
    let contents = |header: &[u8]| {
        let (at, length) = (
            number64(header, 24)? as usize,
            number64(header, 32)? as usize,
        );
        object.get(at..at + length).context("a section is cut off")
    };
    let names = contents(header(names)?)?;
    let mut sections = Vec::new();
    for number in 0..count {
        let header = header(number)?;
        sections.push(Section {
            name: text(names, number32(header, 0)? as usize)?,
            kind: number32(header, 4)?,
            bytes: contents(header)?,
            link: number32(header, 40)? as usize,
            target: number32(header, 44)? as usize,
        });
    }
    Ok(sections)
}

fn symbols<'a>(sections: &[Section<'a>]) -> anyhow::Result<Vec<Symbol<'a>>> {
    let table = sections.iter().find(|one| one.kind == SECTION_SYMBOLS);
    let table = table.context("the object has no symbols")?;
    let names = sections.get(table.link).context("symbols have no names")?;
    let read = |entry: &[u8]| {
        Ok(Symbol {
            name: text(names.bytes, number32(entry, 0)? as usize)?,
            kind: entry[4] & 15,
            section: usize::from(u16::from_le_bytes([entry[6], entry[7]])),
            value: number64(entry, 8)?,
            size: number64(entry, 16)?,
        })
    };
    table.bytes.chunks_exact(SYMBOL_BYTES).map(read).collect()
}

fn text(bytes: &[u8], at: usize) -> anyhow::Result<&str> {
    let rest = bytes.get(at..).context("a name lies nowhere")?;
    let name = rest.split(|byte| *byte == 0).next().unwrap_or_default();
    Ok(std::str::from_utf8(name)?)
}

fn number32(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(
        *found.context("the object ends too early")?,
    ))
}

fn number64(bytes: &[u8], at: usize) -> anyhow::Result<u64> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u64::from_le_bytes(
        *found.context("the object ends too early")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::{STACK_BYTES_MAX, frame_bytes, largest};
    use crate::shell;

    #[test]
    fn the_object_fits_the_stack_of_the_oldest_kernel() {
        let object = std::fs::read(shell::root().join("crates/bpf/keepstate.bpf.o")).unwrap();
        let (bytes, program) = largest(&object).unwrap();
        assert!(
            bytes <= STACK_BYTES_MAX,
            "{program} takes {bytes} bytes of stack, of {STACK_BYTES_MAX}"
        );
    }

    #[test]
    fn a_frame_is_as_large_as_its_lowest_byte_in_use() {
        let code = [
            0xfff8_007b_u64 | 1 << 12 | 10 << 8, // *(u64 *)(r10 - 8) = r1
            0x0000_a2bf,                         // r2 = r10
            0xffff_ffe8_0000_0207,               // r2 += -24
            0x0000_0085,                         // call of a helper
            0xffff_ff00_0000_0207,               // r2 += -256, no pointer any more
        ];
        let bytes: Vec<u8> = code.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(frame_bytes(&bytes).unwrap(), 24);
        assert_eq!(frame_bytes(&bytes[..8]).unwrap(), 8);
        assert!(largest(b"\x7fELF").is_err());
    }
}
