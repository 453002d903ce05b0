//! The core file itself: headers, notes, memory.

use std::sync::atomic::Ordering;

use abi::signal::SigInfo;
use abi::{Errno, SysResult};
use mm::CoreSegment;
use platform::Prot;
use usermem::{IoBuf, PAGE_SIZE};
use vfs::File;

use super::{Thread, notes};
use crate::current::Current;

/// Bytes of the ELF header, a program header, a section header.
const HEADER: u16 = 64;
const PROGRAM_HEADER: u16 = 56;
const SECTION_HEADER: u16 = 64;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;
/// More program headers than this are counted elsewhere (`PN_XNUM`).
const MANY: u16 = 0xffff;
/// Bytes that are copied at a time.
const CHUNK: u64 = 256 << 10;

/// A file that grows up to a limit.
struct Output<'a> {
    file: &'a File,
    limit: u64,
}

impl Output<'_> {
    /// # Errors
    /// `EFBIG` at the limit; what the file says.
    fn put(&self, at: u64, bytes: &[u8]) -> SysResult<()> {
        let room = usize::try_from(self.limit.saturating_sub(at)).unwrap_or(usize::MAX);
        let part = bytes.get(..bytes.len().min(room)).unwrap_or_default();
        let mut done = 0;
        while let Some(rest) = part.get(done..).filter(|rest| !rest.is_empty()) {
            done += match self.file.write(&mut IoBuf::kernel(rest), Some(at + done as u64))? {
                0 => return Err(Errno::EIO),
                count => count,
            };
        }
        if part.len() < bytes.len() { Err(Errno::EFBIG) } else { Ok(()) }
    }
}

fn program_header(kind: u32, prot: Prot, offset: u64, addr: u64, file_len: u64, mem_len: u64, align: u64) -> Vec<u8> {
    let flag = |bit: Prot, flag: u32| if prot.contains(bit) { flag } else { 0 };
    let flags = flag(Prot::READ, 4) | flag(Prot::WRITE, 2) | flag(Prot::EXEC, 1);
    let mut out = Vec::new();
    out.extend(kind.to_le_bytes());
    out.extend(flags.to_le_bytes());
    for word in [offset, addr, 0, file_len, mem_len, align] {
        out.extend(word.to_le_bytes());
    }
    out
}

/// The ELF header; for many program headers a section header at `sections` says how many there are.
fn header(count: usize, sections: u64) -> Vec<u8> {
    let mut out = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let many = count >= usize::from(MANY);
    // A core file, for x86-64, version 1; no entry.
    out.extend(4u16.to_le_bytes());
    out.extend(62u16.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    for word in [0, HEADER.into(), if many { sections } else { 0 }] {
        out.extend(word.to_le_bytes());
    }
    out.extend(0u32.to_le_bytes());
    let number = u16::try_from(count).unwrap_or(MANY);
    let section = if many { (SECTION_HEADER, 1) } else { (0, 0) };
    for half in [HEADER, PROGRAM_HEADER, number, section.0, section.1, 0] {
        out.extend(half.to_le_bytes());
    }
    out
}

/// Writes a core dump.
///
/// # Errors
/// What the file says. A file that is cut off at the limit is none.
pub fn write(current: &Current, file: &File, limit: u64, info: &SigInfo, threads: &[Thread]) -> SysResult<()> {
    let out = Output { file, limit };
    match dump(current, &out, info, threads) {
        Err(Errno::EFBIG) => Ok(()),
        result => result,
    }
}

fn dump(current: &Current, out: &Output<'_>, info: &SigInfo, threads: &[Thread]) -> SysResult<()> {
    let segments = current.mm.core_segments();
    let notes = notes::all(current, info, threads, &segments);
    let count = segments.len() + 1;
    let notes_at = u64::from(HEADER) + count as u64 * u64::from(PROGRAM_HEADER);
    let data_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE);
    let total: u64 = segments.iter().map(|segment| segment.len).fold(0, u64::saturating_add);
    let sections = data_at.saturating_add(total);
    let mut head = header(count, sections);
    head.extend(program_header(PT_NOTE, Prot::empty(), notes_at, 0, notes.len() as u64, 0, 4));
    let mut at = data_at;
    for segment in &segments {
        let whole = segment.range.end - segment.range.start;
        head.extend(program_header(PT_LOAD, segment.prot, at, segment.range.start, segment.len, whole, PAGE_SIZE));
        at = at.saturating_add(segment.len);
    }
    head.extend(notes);
    out.put(0, &head)?;
    let mut at = data_at;
    for segment in &segments {
        memory(current, out, at, segment)?;
        at = at.saturating_add(segment.len);
    }
    if count >= usize::from(MANY) {
        let mut section = vec![0; SECTION_HEADER.into()];
        section.get_mut(44..48).unwrap_or_default().copy_from_slice(&u32::try_from(count).unwrap_or(u32::MAX).to_le_bytes());
        return out.put(sections, &section);
    }
    // The file is as long as its headers say, whatever its last bytes are.
    if total > 0 && file_len(out)? < sections { out.put(sections - 1, &[0]) } else { Ok(()) }
}

fn file_len(out: &Output<'_>) -> SysResult<u64> {
    Ok(out.file.attr()?.size)
}

/// The memory of a segment; what is zero becomes a hole.
fn memory(current: &Current, out: &Output<'_>, at: u64, segment: &CoreSegment) -> SysResult<()> {
    let end = segment.range.start + segment.len;
    let mut bytes = vec![0; CHUNK as usize];
    for piece in current.mm.core_pieces(segment) {
        let (mut from, to) = (piece.start.max(segment.range.start), piece.end.min(end));
        while from < to {
            if current.task.group.doomed.load(Ordering::SeqCst) {
                return Err(Errno::EINTR);
            }
            let part = bytes.get_mut(..(to - from).min(CHUNK) as usize).unwrap_or_default();
            // What can't be read (the end of a file) is zero.
            let read = current.mm.read_remote(from, part, true).unwrap_or(0);
            let read = if read == 0 { part.len().min(PAGE_SIZE as usize) } else { read };
            let part = part.get(..read).unwrap_or_default();
            for (index, page) in part.chunks(PAGE_SIZE as usize).enumerate() {
                if page.iter().any(|byte| *byte != 0) {
                    out.put(at + (from - segment.range.start) + index as u64 * PAGE_SIZE, page)?;
                }
            }
            bytes.get_mut(..read).unwrap_or_default().fill(0);
            from += read as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_their_sizes() {
        assert_eq!(header(3, 0).len(), HEADER.into());
        assert_eq!(program_header(PT_LOAD, Prot::READ, 0, 0, 0, 0, 1).len(), PROGRAM_HEADER.into());
        let many = header(70_000, 0x1234);
        assert_eq!((many[56..58].to_vec(), many[40..48].to_vec()), (vec![0xff; 2], 0x1234u64.to_le_bytes().to_vec()));
    }
}
