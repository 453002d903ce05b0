//! Shared memory (shmop(2)): memory files that are mapped by identifier.

use std::sync::{Arc, Weak};

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, UserNamespace};
use mm::MappedFile;
use sync::Mutex;
use usermem::{HostFile, MapHook, PAGE_SIZE, budget};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::ids::{IpcPerm, Owner, Registry, Stat, get_or_make};
use crate::now;

/// Device number of segments in /proc/pid/maps. Their inodes are their identifiers.
pub const SEGMENT_DEV: u64 = 1;

/// Limits (`kernel.shmmax` and its like).
const SHMMAX: u64 = u64::MAX - (1 << 24);
const SHMALL: u64 = u64::MAX - (1 << 24);
const SHMMNI: usize = 4096;

/// Flags in the mode (`linux/shm.h`).
const SHM_DEST: u32 = 0o1000;
const SHM_LOCKED: u32 = 0o2000;

/// `struct shmid64_ds`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShmidDs {
    pub perm: IpcPerm,
    pub segsz: u64,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
    pub cpid: i32,
    pub lpid: i32,
    pub nattch: u64,
    pub unused: [u64; 2],
}

/// `struct shminfo64`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShmInfo64 {
    pub shmmax: u64,
    pub shmmin: u64,
    pub shmmni: u64,
    pub shmseg: u64,
    pub shmall: u64,
    pub unused: [u64; 4],
}

/// `struct shm_info`
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct ShmInfo {
    pub used_ids: i32,
    pub pad: i32,
    pub shm_tot: u64,
    pub shm_rss: u64,
    pub shm_swp: u64,
    pub swap_attempts: u64,
    pub swap_successes: u64,
}

struct State {
    owner: Owner,
    attached: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    lpid: i32,
}

/// A segment.
struct Segment {
    id: i32,
    key: i32,
    size: u64,
    cpid: i32,
    file: Arc<HostFile>,
    state: Mutex<State>,
    registry: Weak<Mutex<Registry<Segment>>>,
}

impl MapHook for Segment {
    fn mapped(&self, _: bool) {
        let mut state = self.state.lock();
        state.attached += 1;
        state.atime = now();
    }

    fn unmapped(&self, _: bool) {
        let gone = {
            let mut state = self.state.lock();
            state.attached = state.attached.saturating_sub(1);
            state.dtime = now();
            state.attached == 0 && state.owner.mode & SHM_DEST != 0
        };
        if gone && let Some(registry) = self.registry.upgrade() {
            registry.lock().remove(self.id);
        }
    }
}

/// The segments of a namespace.
#[derive(Default)]
pub struct SharedMemory(Arc<Mutex<Registry<Segment>>>);

impl SharedMemory {
    /// shmget(2)
    ///
    /// # Errors
    /// `EINVAL`, `ENOENT`, `EEXIST`, `EACCES`, `ENOSPC`, `ENOMEM`.
    pub fn get(&self, key: i32, size: u64, flags: i32, who: &Credentials, ns: &UserNamespace, pid: i32) -> SysResult<i32> {
        let mut registry = self.0.lock();
        let owner = |segment: &Segment| segment.state.lock().owner;
        let fits = |segment: &Segment| if size > segment.size { Err(Errno::EINVAL) } else { Ok(()) };
        if let Some(id) = get_or_make(&registry, key, flags, (who, ns), owner, fits)? {
            return Ok(id);
        }
        if size == 0 || size > SHMMAX {
            return Err(Errno::EINVAL);
        }
        if flags & c::SHM_HUGETLB != 0 {
            // There are no huge pages.
            return Err(Errno::ENOMEM);
        }
        let pages = usermem::page_up(size).filter(|len| i64::try_from(*len).is_ok()).ok_or(Errno::EINVAL)?;
        if pages > budget::machine() && flags & c::SHM_NORESERVE == 0 {
            return Err(Errno::ENOMEM);
        }
        if registry.len() >= SHMMNI {
            return Err(Errno::ENOSPC);
        }
        let file = HostFile::memory("sysv", pages)?;
        registry.add(key, SHMMNI, |id, seq| {
            let owner = Owner { seq, ..Owner::new(key, flags, who) };
            let state = State { owner, attached: 0, atime: 0, dtime: 0, ctime: now(), lpid: 0 };
            let registry = Arc::downgrade(&self.0);
            Arc::new(Segment { id, key, size, cpid: pid, file, state: Mutex::new(state), registry })
        })
    }

    fn segment(&self, id: i32) -> SysResult<Arc<Segment>> {
        self.0.lock().get(id).cloned()
    }

    /// What shmat(2) maps and how many bytes, for whom may do what the bits of `wanted` say.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn attach(&self, id: i32, wanted: u32, who: &Credentials, ns: &UserNamespace, pid: i32) -> SysResult<(MappedFile, u64)> {
        let segment = self.segment(id)?;
        let mut state = segment.state.lock();
        state.owner.check(who, ns, wanted)?;
        state.lpid = pid;
        drop(state);
        let path = format!("/SYSV{:08x} (deleted)", segment.key).into();
        let (dev, ino) = (SEGMENT_DEV, u64::from(id.cast_unsigned()));
        Ok((MappedFile { file: segment.file.clone(), path, dev, ino, hook: Some(segment.clone()) }, segment.size))
    }

    /// Notes who has detached last.
    pub fn detached(&self, id: i32, pid: i32) {
        if let Ok(segment) = self.segment(id) {
            segment.state.lock().lpid = pid;
        }
    }

    /// `IPC_STAT` and its like: the identifier and what there is to tell.
    ///
    /// # Errors
    /// `EINVAL`, `EACCES`.
    pub fn stat(&self, which: Stat, who: &Credentials, ns: &UserNamespace) -> SysResult<(i32, ShmidDs)> {
        let (id, segment) = self.0.lock().find(which).map(|(id, segment)| (id, segment.clone()))?;
        if !matches!(which, Stat::Any(_)) {
            segment.state.lock().owner.check(who, ns, 0o444)?;
        }
        Ok((id, segment.show(who)))
    }

    /// `IPC_SET`
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn change(&self, id: i32, new: &IpcPerm, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let segment = self.segment(id)?;
        let mut state = segment.state.lock();
        state.owner.check_control(who, ns)?;
        state.owner.set(new, who)?;
        state.ctime = now();
        Ok(())
    }

    /// `IPC_RMID`: at once, or when nobody has it mapped any more.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`.
    pub fn remove(&self, id: i32, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let mut registry = self.0.lock();
        let segment = registry.get(id)?.clone();
        let mut state = segment.state.lock();
        state.owner.check_control(who, ns)?;
        if state.attached > 0 {
            state.owner.mode |= SHM_DEST;
            state.owner.key = c::IPC_PRIVATE;
            registry.hide(id);
        } else {
            registry.remove(id);
        }
        Ok(())
    }

    /// `SHM_LOCK`, `SHM_UNLOCK`; `limit`: RLIMIT_MEMLOCK.
    ///
    /// # Errors
    /// `EINVAL`, `EPERM`, `ENOMEM`.
    pub fn lock(&self, id: i32, lock: bool, limit: u64, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let segment = self.segment(id)?;
        let mut state = segment.state.lock();
        if !who.has_capability_in(ns, Capability::IPC_LOCK) {
            let owner = who.euid == state.owner.uid || who.euid == state.owner.cuid;
            if !owner || lock && limit == 0 {
                return Err(Errno::EPERM);
            }
            if lock && segment.size > limit {
                return Err(Errno::ENOMEM);
            }
        }
        state.owner.mode = if lock { state.owner.mode | SHM_LOCKED } else { state.owner.mode & !SHM_LOCKED };
        Ok(())
    }

    /// `IPC_INFO`: the largest slot, and limits.
    #[must_use]
    pub fn limits(&self) -> (i32, ShmInfo64) {
        let (shmmni, shmseg) = (SHMMNI as u64, SHMMNI as u64);
        let info = ShmInfo64 { shmmax: SHMMAX, shmmin: 1, shmmni, shmseg, shmall: SHMALL, unused: [0; 4] };
        (self.0.lock().last_slot(), info)
    }

    /// `SHM_INFO`: the largest slot, and what is in use.
    #[must_use]
    pub fn info(&self) -> (i32, ShmInfo) {
        let registry = self.0.lock();
        let pages = |bytes: u64| bytes.div_ceil(PAGE_SIZE);
        let mut info = ShmInfo { used_ids: i32::try_from(registry.len()).unwrap_or(i32::MAX), ..ShmInfo::default() };
        for (_, segment) in registry.iter() {
            info.shm_tot += pages(segment.size);
            info.shm_rss += pages(segment.file.bytes_present());
        }
        (registry.last_slot(), info)
    }

    /// /proc/sysvipc/shm
    #[must_use]
    pub fn text(&self, reader: &Credentials) -> String {
        let mut text = String::from(
            "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n",
        );
        for (id, segment) in self.0.lock().iter() {
            let d = segment.show(reader);
            let (p, rss) = (d.perm, segment.file.bytes_present());
            text.push_str(&format!(
                "{:10} {id:10}  {:4o} {:21} {:5} {:5}  {:5} {:5} {:5} {:5} {:5} {:10} {:10} {:10} {rss:21} {:21}\n",
                p.key, p.mode, d.segsz, d.cpid, d.lpid, d.nattch, p.uid, p.gid, p.cuid, p.cgid, d.atime, d.dtime, d.ctime, 0
            ));
        }
        text
    }
}

impl Segment {
    fn show(&self, who: &Credentials) -> ShmidDs {
        let state = self.state.lock();
        ShmidDs {
            perm: state.owner.show(who),
            segsz: self.size,
            atime: state.atime,
            dtime: state.dtime,
            ctime: state.ctime,
            cpid: self.cpid,
            lpid: state.lpid,
            nattch: state.attached,
            unused: [0; 2],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_segments_last_as_long_as_they_are_mapped() {
        let ns = UserNamespace::initial();
        let who = Credentials::root(ns.clone());
        let all = SharedMemory::default();
        let id = all.get(77, 5000, c::IPC_CREAT | 0o600, &who, &ns, 1).unwrap();
        assert_eq!(all.get(77, 6000, 0, &who, &ns, 1), Err(Errno::EINVAL));
        let (mapped, size) = all.attach(id, 0o666, &who, &ns, 2).unwrap();
        let hook = mapped.hook.unwrap();
        hook.mapped(true);
        let nattch = || all.stat(Stat::Id(id), &who, &ns).map(|(_, stat)| (stat.nattch, stat.perm.mode));
        assert_eq!((size, nattch()), (5000, Ok((1, 0o600))));
        all.remove(id, &who, &ns).unwrap();
        assert_eq!((all.get(77, 1, 0, &who, &ns, 1), nattch()), (Err(Errno::ENOENT), Ok((1, 0o1600))));
        hook.unmapped(true);
        assert_eq!(nattch(), Err(Errno::EINVAL));
    }
}
