//! Type information of the BPF object, made acceptable to kernels.

use anyhow::{Context as _, ensure};

const MAGIC: u32 = 0xeb9f;
/// Length of the header, and where in it the type section is described.
const HEADER_LENGTH_AT: usize = 4;
const TYPES_AT: usize = 8;
const TYPE_BYTES: usize = 12;
const MEMBER_BYTES: usize = 12;
/// In a member of a structure with the kind flag: bits 0-23 are the offset, the rest the size of a
/// bit field.
const MEMBER_OFFSET: u32 = 0x00ff_ffff;

/// Puts all members of unions at offset zero, where the kernel insists on having them.
///
/// rustc describes an enum with fields as a union whose members lie where the field lies.
pub(crate) fn mend(btf: &mut [u8]) -> anyhow::Result<usize> {
    ensure!(
        word(btf, 0)? & 0xffff == MAGIC,
        "this is no type information"
    );
    let start = word(btf, HEADER_LENGTH_AT)? as usize + word(btf, TYPES_AT)? as usize;
    let end = start + word(btf, TYPES_AT + 4)? as usize;
    let mut at = start;
    let mut mended = 0;
    while at < end {
        let info = word(btf, at + 4)?;
        let (kind, count, flag) = ((info >> 24) & 31, (info & 0xffff) as usize, info >> 31 == 1);
        at += TYPE_BYTES;
        if kind == UNION {
            for member in 0..count {
                let offset_at = at + member * MEMBER_BYTES + 8;
                let offset = word(btf, offset_at)?;
                if offset & MEMBER_OFFSET != 0 {
                    let kept = if flag { offset & !MEMBER_OFFSET } else { 0 };
                    btf[offset_at..offset_at + 4].copy_from_slice(&kept.to_le_bytes());
                    mended += 1;
                }
            }
        }
        at += more_bytes(kind, count).with_context(|| format!("type kind {kind} is not known"))?;
    }
    Ok(mended)
}

const UNION: u32 = 5;

/// Bytes that follow a type, by its kind.
const fn more_bytes(kind: u32, count: usize) -> Option<usize> {
    match kind {
        // Pointers, forward declarations, typedefs, modifiers, functions, floats, tags of types.
        2 | 7..=12 | 16 | 18 => Some(0),
        // Integers, variables, tags of declarations.
        1 | 14 | 17 => Some(4),
        // Arrays.
        3 => Some(12),
        // Structures, unions, sections, enumerations of 64 bits.
        4 | UNION | 15 | 19 => Some(count * 12),
        // Enumerations, prototypes.
        6 | 13 => Some(count * 8),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize) -> anyhow::Result<u32> {
    let found = bytes.get(at..).and_then(|rest| rest.first_chunk());
    Ok(u32::from_le_bytes(
        *found.context("the type information ends too early")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::{mend, word};

    #[test]
    fn members_of_unions_come_to_lie_at_zero() {
        // A header, an integer, and a union of one member at bit 64.
        let words = [
            0x0001_eb9f_u32,
            24,
            0,
            40,
            40,
            0, //
            0,
            1 << 24,
            4,
            32, //
            0,
            (5 << 24) | 1,
            16,
            0,
            1,
            64,
        ];
        let mut btf: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        assert_eq!(mend(&mut btf).unwrap(), 1);
        assert_eq!(word(&btf, btf.len() - 4).unwrap(), 0);
        assert_eq!(mend(&mut btf).unwrap(), 0);
        assert!(mend(&mut btf[..30]).is_err());
    }
}
