//! Memory.

use abi::{Errno, SysResult, c, nr};
use mm::{MapRequest, MappedFile, MmapFlags};
use platform::Prot;
use task::Current;

use crate::args::{file, int};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::MMAP, mmap, "no MAP_HUGETLB"),
    full(nr::MUNMAP, |t, a| t.mm.munmap(a[0], a[1]).map(|()| 0)),
    full(nr::MPROTECT, |t, a| t.mm.mprotect(a[0], a[1], prot(a[2])?).map(|()| 0)),
    partial(nr::MREMAP, |t, a| t.mm.mremap(a[0], a[1], a[2], int(a[3]), a[4]), "no MREMAP_DONTUNMAP"),
    full(nr::BRK, |t, a| Ok(t.mm.brk(a[0]))),
    partial(nr::MADVISE, |t, a| t.mm.madvise(a[0], a[1], int(a[2])).map(|()| 0), "MADV_DONTNEED and hints"),
    full(nr::MSYNC, msync),
    full(nr::MLOCK, |t, a| t.mm.check_mapped(a[0], a[1]).map(|()| 0)),
    full(nr::MUNLOCK, |t, a| t.mm.check_mapped(a[0], a[1]).map(|()| 0)),
];

/// What is mapped here is what the file holds: there is nothing to write back.
fn msync(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = int(a[2]);
    let known = c::MS_ASYNC | c::MS_INVALIDATE | c::MS_SYNC;
    if flags & !known != 0 || !a[0].is_multiple_of(4096) || flags & c::MS_ASYNC != 0 && flags & c::MS_SYNC != 0 {
        return Err(Errno::EINVAL);
    }
    t.mm.check_mapped(a[0], a[1]).map(|()| 0)
}

fn prot(bits: u64) -> SysResult<Prot> {
    u32::try_from(bits).ok().and_then(Prot::from_bits).ok_or(Errno::EINVAL)
}

fn mmap(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, prot_bits, flags, fd, offset] = a;
    let flags = int(flags);
    let prot = prot(prot_bits)?;
    let kind = flags & c::MAP_TYPE;
    if !matches!(kind, c::MAP_PRIVATE | c::MAP_SHARED | c::MAP_SHARED_VALIDATE) || !offset.is_multiple_of(4096) {
        return Err(Errno::EINVAL);
    }
    let mut map = MmapFlags::empty();
    map.set(MmapFlags::SHARED, kind != c::MAP_PRIVATE);
    map.set(MmapFlags::FIXED, flags & c::MAP_FIXED != 0);
    map.set(MmapFlags::NO_REPLACE, flags & c::MAP_FIXED_NOREPLACE != 0);
    map.set(MmapFlags::GROWS_DOWN, flags & c::MAP_GROWSDOWN != 0);
    let source = if flags & c::MAP_ANONYMOUS != 0 {
        None
    } else {
        let file = file(t, fd)?;
        let access = file.flags() & (c::O_ACCMODE | c::O_PATH);
        if access & c::O_PATH != 0 {
            return Err(Errno::EBADF);
        }
        let shared_write = map.contains(MmapFlags::SHARED) && prot.contains(Prot::WRITE);
        if access == c::O_WRONLY || shared_write && access != c::O_RDWR {
            return Err(Errno::EACCES);
        }
        let attr = file.attr()?;
        let root = t.fs.lock().root.clone();
        let path = file.dentry.as_ref().map(|dentry| dentry.path(&root)).unwrap_or_default();
        let path = String::from_utf8_lossy(&path).into_owned().into();
        Some((MappedFile { file: file.ops.host_file()?, path, dev: attr.dev, ino: attr.ino }, offset))
    };
    t.mm.mmap(MapRequest { addr, len, prot, flags: map, file: source, name: "" })
}
