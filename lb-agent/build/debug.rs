//! Takes out of an ELF object what only debuggers read.
//!
//! The kernel's description of types (`.BTF`) is made from debug information, so the compiler has
//! to write it. It is three quarters of the object, which stands in the agent's own file, and is
//! read as a whole and kept in memory when the agent loads it.
//!
//! ELF as in the System V ABI, chapter 4; 64 bits, of either byte order.

/// Where fields stand in the file's header.
mod header {
    pub(super) const CLASS: usize = 4;
    pub(super) const BYTE_ORDER: usize = 5;
    pub(super) const PROGRAM_HEADERS: usize = 56;
    pub(super) const SECTIONS_AT: usize = 40;
    pub(super) const SECTION_SIZE: usize = 58;
    pub(super) const SECTIONS: usize = 60;
    pub(super) const NAMES: usize = 62;
    pub(super) const LENGTH: usize = 64;
}

/// Where fields stand in a section's header.
mod section {
    pub(super) const KIND: usize = 4;
    pub(super) const OFFSET: usize = 24;
    pub(super) const SIZE: usize = 32;
    pub(super) const LENGTH: usize = 64;
    /// `SHT_NOBITS`: takes no place in the file.
    pub(super) const NO_BITS: u64 = 8;
}

/// Where any section may begin.
const ALIGNMENT: usize = 16;

/// The object without debug information. Sections keep their numbers, by which others refer to
/// them: what is left out becomes an empty entry (`SHT_NULL`) in the table of sections.
///
/// None if it is not an object as the linker writes it.
pub(crate) fn without(object: &[u8]) -> Option<Vec<u8>> {
    let elf = Elf { bytes: object, big: *object.get(header::BYTE_ORDER)? == 2 };
    if !object.starts_with(b"\x7fELF")
        || object[header::CLASS] != 2
        || elf.number(header::PROGRAM_HEADERS, 2)? != 0
        || elf.at(header::SECTION_SIZE, 2)? != section::LENGTH
    {
        return None;
    }
    let table = elf.at(header::SECTIONS_AT, 8)?;
    let count = elf.at(header::SECTIONS, 2)?;
    let mut sections = elf.part(table, count.checked_mul(section::LENGTH)?)?.to_vec();
    let names = elf.contents(table + elf.at(header::NAMES, 2)? * section::LENGTH)?;

    let mut stripped = elf.part(0, header::LENGTH)?.to_vec();
    for (at, entry) in sections.chunks_exact_mut(section::LENGTH).enumerate() {
        let at = table + at * section::LENGTH;
        let name = names.get(elf.at(at, 4)?..)?.split(|byte| *byte == 0).next()?;
        if is_for_debuggers(name) {
            entry.fill(0);
            continue;
        }
        let contents = elf.contents(at)?;
        if contents.is_empty() {
            continue;
        }
        stripped.resize(stripped.len().next_multiple_of(ALIGNMENT), 0);
        elf.put(entry, section::OFFSET, stripped.len());
        stripped.extend_from_slice(contents);
    }
    stripped.resize(stripped.len().next_multiple_of(ALIGNMENT), 0);
    let table = stripped.len();
    elf.put(&mut stripped, header::SECTIONS_AT, table);
    stripped.extend(sections);
    Some(stripped)
}

/// The relocations of `.BTF.ext` are for linkers: what it says is complete without them.
fn is_for_debuggers(name: &[u8]) -> bool {
    name.starts_with(b".debug_") || name.starts_with(b".rel.debug_") || name == b".rel.BTF.ext"
}

struct Elf<'a> {
    bytes: &'a [u8],
    big: bool,
}

impl<'a> Elf<'a> {
    fn part(&self, offset: usize, length: usize) -> Option<&'a [u8]> {
        self.bytes.get(offset..offset.checked_add(length)?)
    }

    /// The unsigned number of so many bytes at an offset.
    fn number(&self, offset: usize, length: usize) -> Option<u64> {
        let fold = |number: u64, byte: &u8| number << 8 | u64::from(*byte);
        let bytes = self.part(offset, length)?.iter();
        Some(if self.big { bytes.fold(0, fold) } else { bytes.rev().fold(0, fold) })
    }

    fn at(&self, offset: usize, length: usize) -> Option<usize> {
        self.number(offset, length)?.try_into().ok()
    }

    /// What a section holds in the file, by where its header stands.
    fn contents(&self, entry: usize) -> Option<&'a [u8]> {
        if self.number(entry + section::KIND, 4)? == section::NO_BITS {
            return Some(&[]);
        }
        self.part(self.at(entry + section::OFFSET, 8)?, self.at(entry + section::SIZE, 8)?)
    }

    /// Writes an offset into a header.
    fn put(&self, into: &mut [u8], at: usize, offset: usize) {
        let offset = offset as u64;
        let bytes = if self.big { offset.to_be_bytes() } else { offset.to_le_bytes() };
        into[at..at + bytes.len()].copy_from_slice(&bytes);
    }
}
