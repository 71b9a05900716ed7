//! What the admin service's binary asks of the machine that it is to run on.

use anyhow::{Context, Result};
use object::Endianness;
use object::elf::FileHeader64;
use object::read::elf::FileHeader;

/// A version of the GNU C library, for example 2.34.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Glibc(u32, u32);

impl std::fmt::Display for Glibc {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

/// The oldest glibc that this 64-bit ELF program starts with: the newest of the
/// symbol versions that it needs. `None` if it needs none.
///
/// # Errors
/// If it is no 64-bit ELF program.
pub fn oldest_glibc(program: &[u8]) -> Result<Option<Glibc>> {
    let header = FileHeader64::<Endianness>::parse(program).context("the program is no 64-bit ELF file")?;
    let endian = header.endian()?;
    let sections = header.sections(endian, program)?;
    let Some((mut libraries, strings)) = sections.gnu_verneed(endian, program)? else { return Ok(None) };
    let strings = sections.strings(endian, program, strings)?;
    let mut newest = None;
    while let Some((_, mut versions)) = libraries.next()? {
        while let Some(version) = versions.next()? {
            newest = newest.max(glibc(version.name(endian, strings)?));
        }
    }
    Ok(newest)
}

/// What this symbol version says of glibc.
fn glibc(name: &[u8]) -> Option<Glibc> {
    let name = std::str::from_utf8(name).ok()?;
    // Not a version of symbols: relocations that the loader of 2.36 understands first.
    if name == "GLIBC_ABI_DT_RELR" {
        return Some(Glibc(2, 36));
    }
    let mut parts = name.strip_prefix("GLIBC_")?.split('.').map(str::parse);
    Some(Glibc(parts.next()?.ok()?, parts.next()?.ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_numbers_and_not_text() {
        assert!(glibc(b"GLIBC_2.34") > glibc(b"GLIBC_2.9"));
        assert_eq!(glibc(b"GLIBC_2.2.5"), Some(Glibc(2, 2)));
        assert_eq!(glibc(b"GLIBC_ABI_DT_RELR"), Some(Glibc(2, 36)));
        for other in ["GCC_3.0", "GLIBC_PRIVATE", "GLIBCXX_3.4"] {
            assert_eq!(glibc(other.as_bytes()), None, "{other}");
        }
    }

    /// The test itself is a program of this machine.
    #[cfg(all(target_os = "linux", target_env = "gnu", target_pointer_width = "64"))]
    #[test]
    fn a_program_says_what_it_needs() {
        let program = std::fs::read(std::env::current_exe().unwrap()).unwrap();
        // 2.14 has the memcpy that every x86-64 program needs, 2.17 is the first for aarch64.
        let needs = oldest_glibc(&program).unwrap().unwrap();
        assert!(needs >= Glibc(2, 14) && needs < Glibc(3, 0), "{needs}");
        assert!(oldest_glibc(b"#!/bin/sh\n").is_err());
    }
}
