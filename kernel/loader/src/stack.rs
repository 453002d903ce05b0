//! The initial stack: strings, vectors, auxiliary vector (getauxval(3), x86-64 psABI 3.4.1).

use abi::{Errno, SysResult, c};
use mm::{ImageInfo, MapRequest, MemoryManager, MmapFlags};
use platform::Prot;
use usermem::{PAGE_SIZE, UserMemoryExt};

use crate::elf::Loaded;
use crate::{Identity, Program};

/// Not in the libc crate for Linux.
const AT_RSEQ_FEATURE_SIZE: u64 = 27;
const AT_RSEQ_ALIGN: u64 = 28;
/// Mapped at first; the rest grows.
const INITIAL: u64 = 128 << 10;

/// Text at the top of the stack, written downwards.
struct Strings {
    top: u64,
    bytes: Vec<u8>,
}

impl Strings {
    /// Adds bytes; returns their address once the whole length `total` is known.
    fn push(&mut self, text: &[u8]) -> u64 {
        let at = self.top + self.bytes.len() as u64;
        self.bytes.extend_from_slice(text);
        at
    }

    fn push_cstr(&mut self, text: &[u8]) -> u64 {
        let at = self.push(text);
        self.bytes.push(0);
        at
    }
}

/// Maps the stack, fills it, notes for /proc where things are. Returns the stack pointer.
pub fn build(
    mm: &MemoryManager,
    program: &Program,
    who: Identity,
    loaded: &Loaded,
    interpreter: u64,
    random: &[u8; 32],
    exe: Vec<u8>,
) -> SysResult<u64> {
    let shift = u64::from(u16::from_le_bytes([random[18], random[19]])) & 0xfff;
    let top = mm.aspace().user_range().end - (1 << 24) + shift * PAGE_SIZE;
    let text: usize = program.argv.iter().chain(&program.envp).map(|text| text.len() + 1).sum();
    let text = text + program.path.len() + 64;
    let vectors = (program.argv.len() + program.envp.len() + 64) * 8;
    let need = (text + vectors) as u64 + PAGE_SIZE;
    let size = usermem::page_up(need.max(INITIAL)).ok_or(Errno::E2BIG)?;
    mm.mmap(MapRequest {
        addr: top - size,
        len: size,
        prot: Prot::READ | Prot::WRITE,
        flags: MmapFlags::FIXED | MmapFlags::GROWS_DOWN,
        name: "[stack]",
        ..MapRequest::default()
    })?;
    let mut strings = Strings { top: (top - 8 - text as u64) & !15, bytes: Vec::with_capacity(text) };
    let random_at = strings.push(random.get(..16).unwrap_or_default());
    let platform = strings.push_cstr(b"x86_64");
    let path = strings.push_cstr(&program.path);
    let args_start = strings.top + strings.bytes.len() as u64;
    let argv_at = strings.bytes.len();
    let argv: Vec<_> = program.argv.iter().map(|text| strings.push_cstr(text)).collect();
    mm.aspace().describe(strings.bytes.get(argv_at..).unwrap_or_default());
    let env_start = strings.top + strings.bytes.len() as u64;
    let envp: Vec<_> = program.envp.iter().map(|text| strings.push_cstr(text)).collect();
    let env_end = strings.top + strings.bytes.len() as u64;

    let features = std::arch::x86_64::__cpuid(1);
    let mut auxv = vec![
        (c::AT_HWCAP, u64::from(features.edx)),
        // Not HWCAP2_FSGSBASE: the GS base belongs to the platform, which finds its thread by it.
        (c::AT_HWCAP2, 0),
        (c::AT_PAGESZ, PAGE_SIZE),
        (c::AT_CLKTCK, 100),
        (c::AT_PHDR, loaded.phdr),
        (c::AT_PHENT, 56),
        (c::AT_PHNUM, loaded.phnum.into()),
        (c::AT_BASE, interpreter),
        (c::AT_FLAGS, 0),
        (c::AT_ENTRY, loaded.entry),
        (c::AT_UID, who.uid.into()),
        (c::AT_EUID, who.euid.into()),
        (c::AT_GID, who.gid.into()),
        (c::AT_EGID, who.egid.into()),
        (c::AT_SECURE, who.secure.into()),
        (c::AT_RANDOM, random_at),
        (c::AT_EXECFN, path),
        (c::AT_PLATFORM, platform),
    ];
    if let Some(vdso) = mm.aspace().vdso() {
        auxv.push((c::AT_SYSINFO_EHDR, vdso.start));
    }
    if let Some(rseq) = mm.aspace().rseq() {
        auxv.push((AT_RSEQ_FEATURE_SIZE, rseq.size.into()));
        auxv.push((AT_RSEQ_ALIGN, rseq.align.into()));
    }
    auxv.push((c::AT_NULL, 0));

    let mut words = vec![argv.len() as u64];
    words.extend(&argv);
    words.push(0);
    words.extend(&envp);
    words.push(0);
    let auxv_at = words.len();
    words.extend(auxv.iter().flat_map(|(key, value)| [*key, *value]));
    let sp = (strings.top - words.len() as u64 * 8) & !15;
    let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    mm.write(sp, &bytes)?;
    mm.write(strings.top, &strings.bytes)?;
    let auxv = bytes.get(auxv_at * 8..).unwrap_or_default().to_vec();
    *mm.info.lock() = ImageInfo { exe, args: args_start..env_start, env: env_start..env_end, auxv };
    Ok(sp)
}
