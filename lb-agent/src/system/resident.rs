//! Memory that is given back.
use std::{fs, io, ops::Range, path::Path};

/// Lets the allocator keep few pools of free memory: by itself it makes one for each thread, and
/// what is freed in one is of no use to the others. To be called before there are threads.
pub fn keep_little_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: mallopt(3) may be called at any time, and takes any number.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 1);
    }
}

/// Gives free memory back to the machine: reading ten thousand objects needs several times what is
/// kept of them.
pub fn give_memory_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: malloc_trim(3) may be called at any time, by any thread.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Takes the program's code out of this process's memory, and returns how many bytes of address space
/// that were. What is still used comes back, a page at a time, from the page cache; the rest, which
/// only the start needed, no longer counts as used, and the kernel may have its memory.
///
/// # Errors
///
/// `/proc` is not there, or madvise(2) fails.
pub fn forget_code() -> io::Result<usize> {
    let program = fs::read_link("/proc/self/exe")?;
    let mut bytes = 0;
    for range in never_written(&fs::read_to_string("/proc/self/maps")?, &program) {
        let length = range.len();
        // SAFETY: a private mapping of a file that is not writable, and never was: see
        // `never_written`. Each page of it can be had again from the file, with the same contents
        // (Linux refuses to write to the file of a program that runs), so whoever reads or runs
        // it meanwhile sees no change.
        let result = unsafe {
            libc::madvise(
                std::ptr::without_provenance_mut(range.start),
                length,
                libc::MADV_DONTNEED,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        bytes += length;
    }
    Ok(bytes)
}

/// The mappings of a program, as `/proc/PID/maps` lists them (proc(5)), that nobody can have written to:
/// what may be run, and what may only be read and stands at the file's begin. Others that may only
/// be read are not among them: the loader has written addresses to some before (RELRO), which
/// would be lost.
fn never_written(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let mapping = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (range, permissions, offset) = (words.next()?, words.next()?, words.next()?);
        let name = words.nth(2)?;
        let wanted = permissions == "r-xp"
            || permissions == "r--p" && usize::from_str_radix(offset, 16) == Ok(0);
        let (start, end) = range.split_once('-')?;
        let hexadecimal = |text| usize::from_str_radix(text, 16).ok();
        let range = hexadecimal(start)?..hexadecimal(end)?;
        (wanted && Path::new(name) == program && !range.is_empty()).then_some(range)
    };
    maps.lines().filter_map(mapping).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_wrote() {
        let maps = "\
            55d0c8a00000-55d0c90d0000 r--p 00000000 fe:00 1179 /usr/bin/lb-agent\n\
            55d0c90d0000-55d0c9e2a000 r-xp 006cf000 fe:00 1179 /usr/bin/lb-agent\n\
            55d0c9e2a000-55d0c9ed8000 r--p 01428000 fe:00 1179 /usr/bin/lb-agent\n\
            55d0c9ed8000-55d0c9edb000 rw-p 014d5000 fe:00 1179 /usr/bin/lb-agent\n\
            55d0cb000000-55d0cb021000 rw-p 00000000 00:00 0 [heap]\n\
            7f0000000000-7f0000100000 r-xp 00000000 fe:00 2 /usr/lib/libc.so.6\n\
            7f0000100000-7f0000200000 r--s 00000000 00:0f 3 anon_inode:bpf-map\n\
            7f0000200000-7f0000300000 ---p 00000000 00:00 0\n\
            nonsense\n\
            \n";
        let found = never_written(maps, Path::new("/usr/bin/lb-agent"));
        let expected =
            [0x55d0_c8a0_0000..0x55d0_c90d_0000_usize, 0x55d0_c90d_0000..0x55d0_c9e2_a000];
        assert_eq!(found, expected);
        assert!(never_written(maps, Path::new("/bin/other")).is_empty());
    }

    #[test]
    fn the_program_goes_on() {
        let value = |n: u64| (0..n).map(|n| format!("{n:x}")).collect::<String>();
        let before = value(1000);
        assert!(forget_code().unwrap() > 0);
        assert_eq!(value(1000), before);
    }
}
