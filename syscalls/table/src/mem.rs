//! Memory.

use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use mm::{Limits, MapRequest, MappedFile, MmapFlags};
use platform::Prot;
use task::Current;
use tmpfs::seal;
use usermem::{PAGE_SIZE, UserMemoryExt, budget};

use crate::args::{file, int, uint};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::MMAP, mmap, "no huge pages"),
    full(nr::MUNMAP, |t, a| t.mm.munmap(a[0], a[1]).map(|()| 0)),
    full(nr::MPROTECT, |t, a| mprotect(t, a[0], a[1], a[2])),
    full(nr::MREMAP, |t, a| t.mm.mremap(a[0], a[1], a[2], int(a[3]), a[4], &limits(t))),
    full(nr::REMAP_FILE_PAGES, |t, a| if int(a[2]) == 0 { remap(t, a) } else { Err(Errno::EINVAL) }),
    full(nr::BRK, |t, a| Ok(t.mm.brk(a[0], limits(t)))),
    partial(nr::MADVISE, madvise, "no huge pages"),
    full(nr::MSEAL, |t, a| if a[2] == 0 { t.mm.seal(a[0], a[1]).map(|()| 0) } else { Err(Errno::EINVAL) }),
    full(nr::MSYNC, msync),
    full(nr::MINCORE, mincore),
    full(nr::MLOCK, |t, a| t.mm.mlock(a[0], a[1], false, &limits(t)).map(|()| 0)),
    full(nr::MLOCK2, |t, a| match uint(a[2]) {
        flags @ (0 | c::MLOCK_ONFAULT) => t.mm.mlock(a[0], a[1], flags != 0, &limits(t)).map(|()| 0),
        _ => Err(Errno::EINVAL),
    }),
    full(nr::MUNLOCK, |t, a| t.mm.munlock(a[0], a[1]).map(|()| 0)),
    full(nr::MLOCKALL, |t, a| t.mm.mlock_all(int(a[0]), &limits(t)).map(|()| 0)),
    full(nr::MUNLOCKALL, |t, _| {
        t.mm.munlock_all();
        Ok(0)
    }),
    // As on a CPU without protection keys.
    full(nr::PKEY_ALLOC, |_, _| Err(Errno::EINVAL)),
    full(nr::PKEY_FREE, |_, _| Err(Errno::EINVAL)),
    full(nr::PKEY_MPROTECT, |t, a| if int(a[3]) == -1 { mprotect(t, a[0], a[1], a[2]) } else { Err(Errno::EINVAL) }),
];

// Not in the libc crate, or of another type there.
const PROT_SEM: u64 = 8;
const PROT_GROWSDOWN: u64 = 0x0100_0000;
const PROT_GROWSUP: u64 = 0x0200_0000;
const MAP_UNINITIALIZED: i32 = 0x400_0000;
/// Sizes of huge pages: every bit that one of them has.
const MAP_HUGE_SIZES: i32 = 0x7c00_0000;

/// What the caller may map.
pub fn limits(t: &Current) -> Limits {
    let all = *t.task.group.limits.lock();
    let get = |index: u32| all.get(index as usize).map_or(u64::MAX, |limit| limit.cur);
    Limits {
        address_space: get(c::RLIMIT_AS),
        data: get(c::RLIMIT_DATA),
        locked: get(c::RLIMIT_MEMLOCK),
        may_lock: t.credentials().has_capability(Capability::IPC_LOCK),
        sane: budget::machine(),
    }
}

fn mprotect(t: &Current, addr: u64, len: u64, bits: u64) -> SysResult<u64> {
    let grows = bits & (PROT_GROWSDOWN | PROT_GROWSUP);
    // Both at once make no sense, and nothing grows upwards on this machine.
    if grows & PROT_GROWSUP != 0 {
        return Err(Errno::EINVAL);
    }
    let prot = u32::try_from(bits & !(PROT_SEM | PROT_GROWSDOWN)).ok().and_then(Prot::from_bits).ok_or(Errno::EINVAL)?;
    t.mm.mprotect(addr, len, prot, grows != 0, &limits(t)).map(|()| 0)
}

fn remap(t: &Current, a: [u64; 6]) -> SysResult<u64> {
    t.mm.remap_file_pages(a[0], a[1], a[3], limits(t)).map(|()| 0)
}

fn madvise(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let advice = int(a[2]);
    // There is no failing memory to play with.
    if matches!(advice, c::MADV_HWPOISON | c::MADV_SOFT_OFFLINE) {
        let allowed = t.credentials().has_capability(Capability::SYS_ADMIN);
        return Err(if allowed { Errno::EINVAL } else { Errno::EPERM });
    }
    t.mm.madvise(a[0], a[1], advice).map(|()| 0)
}

fn msync(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = int(a[2]);
    let known = c::MS_ASYNC | c::MS_INVALIDATE | c::MS_SYNC;
    if flags & !known != 0 || !a[0].is_multiple_of(PAGE_SIZE) || flags & c::MS_ASYNC != 0 && flags & c::MS_SYNC != 0 {
        return Err(Errno::EINVAL);
    }
    t.mm.msync(a[0], a[1], flags & c::MS_SYNC != 0, flags & c::MS_INVALIDATE != 0).map(|()| 0)
}

fn mincore(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, vec, ..] = a;
    if !addr.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let len = usermem::page_up(len).filter(|rounded| *rounded >= len).ok_or(Errno::ENOMEM)?;
    let pages = len / PAGE_SIZE;
    let mut present = [0u8; 4096];
    let mut done = 0;
    while done < pages {
        let step = usize::try_from(pages - done).unwrap_or(usize::MAX).min(present.len());
        let part = present.get_mut(..step).unwrap_or_default();
        t.mm.mincore(addr.checked_add(done * PAGE_SIZE).ok_or(Errno::ENOMEM)?, part)?;
        t.mm.write(vec.checked_add(done).ok_or(Errno::EFAULT)?, part)?;
        done += step as u64;
    }
    Ok(0)
}

/// mmap(2)'s flags; which of the others are refused depends on whether the caller wants to know (`MAP_SHARED_VALIDATE`).
fn map_flags(flags: i32, anonymous: bool) -> SysResult<MmapFlags> {
    let kind = flags & c::MAP_TYPE;
    match kind {
        c::MAP_PRIVATE | c::MAP_SHARED => {}
        c::MAP_SHARED_VALIDATE if !anonymous => {
            let known = c::MAP_TYPE
                | c::MAP_FIXED
                | c::MAP_FIXED_NOREPLACE
                | c::MAP_DENYWRITE
                | c::MAP_EXECUTABLE
                | c::MAP_GROWSDOWN
                | c::MAP_LOCKED
                | c::MAP_NORESERVE
                | c::MAP_POPULATE
                | c::MAP_NONBLOCK
                | c::MAP_STACK
                | c::MAP_HUGETLB
                | c::MAP_32BIT
                | MAP_HUGE_SIZES
                | MAP_UNINITIALIZED;
            // MAP_SYNC is for memory that outlives power.
            if flags & !known != 0 {
                return Err(Errno::EOPNOTSUPP);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    let has = |flag: i32| flags & flag != 0;
    let mut map = MmapFlags::empty();
    map.set(MmapFlags::SHARED, kind != c::MAP_PRIVATE);
    map.set(MmapFlags::FIXED, has(c::MAP_FIXED));
    map.set(MmapFlags::NO_REPLACE, has(c::MAP_FIXED_NOREPLACE));
    map.set(MmapFlags::GROWS_DOWN, has(c::MAP_GROWSDOWN));
    map.set(MmapFlags::LOCKED, has(c::MAP_LOCKED));
    map.set(MmapFlags::POPULATE, has(c::MAP_POPULATE) && !has(c::MAP_NONBLOCK));
    map.set(MmapFlags::NO_RESERVE, has(c::MAP_NORESERVE));
    map.set(MmapFlags::LOW, has(c::MAP_32BIT));
    Ok(map)
}

/// The file to map, and what must not be done with it; no file where mapping it gives fresh memory.
fn source(t: &Current, fd: u64, shared: bool, prot: Prot) -> SysResult<(Option<MappedFile>, Prot)> {
    let file = file(t, fd)?;
    let access = file.flags() & (c::O_ACCMODE | c::O_PATH);
    if access & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    let mut deny = if shared && access != c::O_RDWR { Prot::WRITE } else { Prot::empty() };
    if access == c::O_WRONLY || prot.intersects(deny) {
        return Err(Errno::EACCES);
    }
    if file.path.as_ref().is_some_and(|at| at.mount.has(c::MS_NOEXEC)) {
        if prot.contains(Prot::EXEC) {
            return Err(Errno::EPERM);
        }
        deny |= Prot::EXEC;
    }
    if file.ops.maps_memory() {
        return Ok((None, deny));
    }
    // What is sealed can be mapped for reading; that mapping never becomes writable.
    if shared && file.ops.seals().is_ok_and(|seals| seals & (seal::WRITE | seal::FUTURE_WRITE) != 0) {
        if prot.contains(Prot::WRITE) {
            return Err(Errno::EPERM);
        }
        deny |= Prot::WRITE;
    }
    let attr = file.attr()?;
    let path = file.path.as_ref().map(|at| at.show(&t.fs.places().root)).unwrap_or_default();
    let path = String::from_utf8_lossy(&path).into_owned().into();
    let hook = file.ops.clone().map_hook();
    let mapped = MappedFile { file: file.ops.host_file()?, path, dev: attr.dev, ino: attr.ino, hook };
    Ok((Some(mapped), deny))
}

fn mmap(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [addr, len, prot_bits, flags, fd, offset] = a;
    let flags = int(flags);
    let anonymous = flags & c::MAP_ANONYMOUS != 0;
    if !offset.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    // Other bits mean nothing to mmap(2), and it doesn't mind them.
    let prot = Prot::from_bits_truncate(uint(prot_bits));
    let (mapped, deny) =
        if anonymous { (None, Prot::empty()) } else { source(t, fd, flags & c::MAP_TYPE != c::MAP_PRIVATE, prot)? };
    let map = map_flags(flags, anonymous)?;
    if flags & c::MAP_HUGETLB != 0 {
        // There are none to be had; files must be of a filesystem that has them.
        return Err(if anonymous { Errno::ENOMEM } else { Errno::EINVAL });
    }
    let file = mapped.map(|file| (file, offset));
    t.mm.mmap(MapRequest { addr, len, prot, deny, flags: map, file, name: "", limits: limits(t) })
}
