//! ELF64 images (elf(5)). Every number comes from a hostile file.

use abi::{Errno, SysResult};
use mm::{MapRequest, MemoryManager, MmapFlags};
use platform::Prot;
use usermem::{PAGE_SIZE, UserMemoryExt, page_down, page_up};

use crate::Executable;

const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_PHDR: u32 = 6;
/// Program headers at most: what fits in 64 KiB.
const MAX_HEADERS: u16 = 1170;

struct Segment {
    prot: Prot,
    offset: u64,
    addr: u64,
    file_len: u64,
    mem_len: u64,
    align: u64,
}

pub struct Elf {
    fixed: bool,
    /// Linux finds out only when there is no way back to the old program: who runs it is killed.
    pub broken: bool,
    entry: u64,
    segments: Vec<Segment>,
    phdr: u64,
    phnum: u16,
    pub interpreter: Option<Vec<u8>>,
}

/// A mapped image.
pub struct Loaded {
    pub entry: u64,
    /// What is added to the addresses in the file.
    pub base: u64,
    /// Where the program headers are.
    pub phdr: u64,
    pub phnum: u16,
    /// End of the last segment.
    pub end: u64,
}

fn word<const N: usize>(bytes: &[u8], at: usize) -> SysResult<[u8; N]> {
    bytes.get(at..at + N).and_then(|part| part.try_into().ok()).ok_or(Errno::ENOEXEC)
}

fn u64_at(bytes: &[u8], at: usize) -> SysResult<u64> {
    Ok(u64::from_le_bytes(word(bytes, at)?))
}

fn u32_at(bytes: &[u8], at: usize) -> SysResult<u32> {
    Ok(u32::from_le_bytes(word(bytes, at)?))
}

fn u16_at(bytes: &[u8], at: usize) -> SysResult<u16> {
    Ok(u16::from_le_bytes(word(bytes, at)?))
}

/// Reads and checks the headers.
pub fn parse(file: &Executable) -> SysResult<Elf> {
    let mut header = [0; 64];
    // Magic, 64-bit, little-endian; x86-64; executable or shared.
    if file.read(0, &mut header)? < 64 || !header.starts_with(b"\x7fELF\x02\x01") || u16_at(&header, 18)? != 62 {
        return Err(Errno::ENOEXEC);
    }
    let fixed = match u16_at(&header, 16)? {
        2 => true,
        3 => false,
        _ => return Err(Errno::ENOEXEC),
    };
    let (table, size, count) = (u64_at(&header, 32)?, u16_at(&header, 54)?, u16_at(&header, 56)?);
    if size != 56 || count == 0 || count > MAX_HEADERS {
        return Err(Errno::ENOEXEC);
    }
    let mut headers = vec![0; usize::from(size) * usize::from(count)];
    if file.read(table, &mut headers)? < headers.len() {
        return Err(Errno::ENOEXEC);
    }
    let entry = u64_at(&header, 24)?;
    let mut elf = Elf { fixed, broken: false, entry, segments: Vec::new(), phdr: 0, phnum: count, interpreter: None };
    for entry in headers.chunks_exact(usize::from(size)) {
        let (offset, addr) = (u64_at(entry, 8)?, u64_at(entry, 16)?);
        let (file_len, mem_len) = (u64_at(entry, 32)?, u64_at(entry, 40)?);
        match u32_at(entry, 0)? {
            PT_LOAD if mem_len > 0 => {
                let flags = u32_at(entry, 4)?;
                let mut prot = Prot::empty();
                prot.set(Prot::READ, flags & 4 != 0);
                prot.set(Prot::WRITE, flags & 2 != 0);
                prot.set(Prot::EXEC, flags & 1 != 0);
                let fits =
                    |start: u64, len: u64, most: u64| start.checked_add(len).and_then(page_up).is_some_and(|end| end <= most);
                let skewed = file_len > 0 && offset % PAGE_SIZE != addr % PAGE_SIZE;
                if skewed || file_len > mem_len || !fits(addr, mem_len, (1 << 47) - PAGE_SIZE) || !fits(offset, file_len, 1 << 47)
                {
                    elf.broken = true;
                    continue;
                }
                if (offset..offset + file_len).contains(&table) && elf.phdr == 0 {
                    elf.phdr = addr + (table - offset);
                }
                elf.segments.push(Segment { prot, offset, addr, file_len, mem_len, align: u64_at(entry, 48)? });
            }
            PT_PHDR => elf.phdr = addr,
            PT_INTERP if elf.interpreter.is_none() => {
                let len = usize::try_from(file_len).ok().filter(|len| (2..4096).contains(len)).ok_or(Errno::ENOEXEC)?;
                let mut path = vec![0; len];
                if file.read(offset, &mut path)? < len || path.last() != Some(&0) {
                    return Err(Errno::ENOEXEC);
                }
                path.truncate(path.iter().position(|byte| *byte == 0).unwrap_or(0));
                elf.interpreter = Some(path);
            }
            _ => {}
        }
    }
    if elf.segments.is_empty() && !elf.broken { Err(Errno::ENOEXEC) } else { Ok(elf) }
}

/// Maps the segments; a position-independent image at `hint` or where there is room.
pub fn map(mm: &MemoryManager, file: &Executable, elf: &Elf, hint: Option<u64>) -> SysResult<Loaded> {
    let first = elf.segments.iter().map(|segment| page_down(segment.addr)).min().unwrap_or(0);
    let last = elf.segments.iter().map(|segment| segment.addr + segment.mem_len).max().and_then(page_up);
    let span = last.and_then(|last| last.checked_sub(first)).ok_or(Errno::ENOEXEC)?;
    let align = elf.segments.iter().map(|segment| segment.align).filter(|align| align.is_power_of_two()).max();
    let align = align.unwrap_or(PAGE_SIZE).clamp(PAGE_SIZE, 1 << 30);
    let request = |addr, len, prot, flags, file, name| MapRequest { addr, len, prot, flags, file, name, ..MapRequest::default() };
    // Room for all of it first: segments then can't hit anything else.
    let start = if elf.fixed {
        mm.mmap(request(first, span, Prot::empty(), MmapFlags::NO_REPLACE, None, ""))?
    } else {
        let room = span.checked_add(align - PAGE_SIZE).ok_or(Errno::ENOMEM)?;
        let got = mm.mmap(request(hint.unwrap_or(0), room, Prot::empty(), MmapFlags::empty(), None, ""))?;
        let start = got.next_multiple_of(align);
        if start > got {
            mm.munmap(got, start - got)?;
        }
        if got + room > start + span {
            mm.munmap(start + span, got + room - (start + span))?;
        }
        start
    };
    let base = start.wrapping_sub(first);
    let mut end = 0;
    for segment in &elf.segments {
        let addr = segment.addr.wrapping_add(base);
        let (page, skew) = (page_down(addr), addr % PAGE_SIZE);
        let file_end = addr + segment.file_len;
        let mem_end = addr + segment.mem_len;
        if segment.file_len > 0 {
            let source = Some((file.mapped.clone(), segment.offset - skew));
            mm.mmap(request(page, segment.file_len + skew, segment.prot, MmapFlags::FIXED, source, ""))?;
        }
        let file_pages = if segment.file_len > 0 { page_up(file_end).ok_or(Errno::ENOEXEC)? } else { page };
        let mem_pages = page_up(mem_end).ok_or(Errno::ENOEXEC)?;
        if mem_pages > file_pages {
            // Whatever the segment's own protection is.
            let prot = segment.prot & Prot::EXEC | Prot::READ | Prot::WRITE;
            mm.mmap(request(file_pages, mem_pages - file_pages, prot, MmapFlags::FIXED, None, ""))?;
        }
        if mem_end > file_end && file_pages > file_end && segment.prot.contains(Prot::WRITE) {
            let len = (file_pages - file_end) as usize;
            mm.write(file_end, [0; PAGE_SIZE as usize].get(..len).unwrap_or_default())?;
        }
        end = end.max(mem_end);
    }
    let phdr = if elf.phdr == 0 { 0 } else { elf.phdr.wrapping_add(base) };
    Ok(Loaded { entry: elf.entry.wrapping_add(base), base, phdr, phnum: elf.phnum, end: page_up(end).unwrap_or(end) })
}
