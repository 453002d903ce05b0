//! Identifiers, keys and permissions, which all kinds of objects have in common.

use std::collections::BTreeMap;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials, Kgid, Kuid, UserNamespace};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

/// Slots of a registry; an identifier is a sequence number and a slot (`IPCMNI`).
const SLOTS: u32 = 32768;

/// `struct ipc64_perm`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct IpcPerm {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub pad: [u16; 3],
    pub unused: [u64; 2],
}

/// Who owns an object and what others may do with it.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    pub key: i32,
    pub uid: Kuid,
    pub gid: Kgid,
    pub cuid: Kuid,
    pub cgid: Kgid,
    /// Permissions, and the object's own flags above them.
    pub mode: u32,
    pub seq: u16,
}

impl Owner {
    pub fn new(key: i32, mode: i32, who: &Credentials) -> Self {
        let mode = mode.cast_unsigned() & 0o777;
        Self { key, uid: who.euid, gid: who.egid, cuid: who.euid, cgid: who.egid, mode, seq: 0 }
    }

    /// Whether `who` may do what the bits of `wanted` say (as in a mode, for any of the three classes).
    ///
    /// # Errors
    /// `EACCES`
    pub fn check(&self, who: &Credentials, ns: &UserNamespace, wanted: u32) -> SysResult<()> {
        let wanted = (wanted >> 6 | wanted >> 3 | wanted) & 7;
        let granted = if who.euid == self.cuid || who.euid == self.uid {
            self.mode >> 6
        } else if who.in_group(self.cgid) || who.in_group(self.gid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted == 0 || who.has_capability_in(ns, Capability::IPC_OWNER) { Ok(()) } else { Err(Errno::EACCES) }
    }

    /// Whether `who` may change or remove the object.
    ///
    /// # Errors
    /// `EPERM`
    pub fn check_control(&self, who: &Credentials, ns: &UserNamespace) -> SysResult<()> {
        let owner = who.euid == self.cuid || who.euid == self.uid;
        if owner || who.has_capability_in(ns, Capability::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// `IPC_SET`
    ///
    /// # Errors
    /// `EINVAL` for users or groups that the caller's namespace doesn't map.
    pub fn set(&mut self, new: &IpcPerm, who: &Credentials) -> SysResult<()> {
        let uid = who.user_ns.make_kuid(new.uid).ok_or(Errno::EINVAL)?;
        let gid = who.user_ns.make_kgid(new.gid).ok_or(Errno::EINVAL)?;
        (self.uid, self.gid) = (uid, gid);
        self.mode = self.mode & !0o777 | new.mode & 0o777;
        Ok(())
    }

    /// As the user namespace of `who` sees it.
    #[must_use]
    pub fn show(&self, who: &Credentials) -> IpcPerm {
        let ns = &who.user_ns;
        IpcPerm {
            key: self.key,
            uid: ns.from_kuid_munged(self.uid),
            gid: ns.from_kgid_munged(self.gid),
            cuid: ns.from_kuid_munged(self.cuid),
            cgid: ns.from_kgid_munged(self.cgid),
            mode: self.mode,
            seq: self.seq,
            ..IpcPerm::default()
        }
    }
}

/// How an object is looked up to be told about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stat {
    /// By identifier.
    Id(i32),
    /// By slot (`SEM_STAT` and its like).
    Slot(i32),
    /// By slot, whoever asks (`SEM_STAT_ANY`).
    Any(i32),
}

struct Slot<T> {
    seq: u16,
    key: i32,
    object: Arc<T>,
}

/// Objects by identifier and by key.
pub(crate) struct Registry<T> {
    slots: BTreeMap<u32, Slot<T>>,
    keys: BTreeMap<i32, u32>,
    seq: u16,
    last: Option<u32>,
}

impl<T> Default for Registry<T> {
    fn default() -> Self {
        Self { slots: BTreeMap::new(), keys: BTreeMap::new(), seq: 0, last: None }
    }
}

fn id(seq: u16, slot: u32) -> i32 {
    (u32::from(seq) * SLOTS + slot).cast_signed()
}

fn slot(id: i32) -> SysResult<(u32, u16)> {
    let id = u32::try_from(id).map_err(|_| Errno::EINVAL)?;
    Ok((id % SLOTS, u16::try_from(id / SLOTS).map_err(|_| Errno::EINVAL)?))
}

impl<T> Registry<T> {
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// The largest slot in use, 0 when there is none: what `IPC_INFO` returns.
    pub fn last_slot(&self) -> i32 {
        self.slots.keys().next_back().map_or(0, |slot| slot.cast_signed())
    }

    pub fn iter(&self) -> impl Iterator<Item = (i32, &Arc<T>)> {
        self.slots.iter().map(|(at, slot)| (id(slot.seq, *at), &slot.object))
    }

    /// Adds what `make` makes of its identifier and sequence number.
    ///
    /// # Errors
    /// `ENOSPC` when there are `limit` already.
    pub fn add(&mut self, key: i32, limit: usize, make: impl FnOnce(i32, u16) -> Arc<T>) -> SysResult<i32> {
        if self.slots.len() >= limit {
            return Err(Errno::ENOSPC);
        }
        let free = (0..SLOTS).find(|at| !self.slots.contains_key(at)).ok_or(Errno::ENOSPC)?;
        // A slot that comes again has another identifier.
        if self.last.is_some_and(|last| free <= last) {
            self.seq = if u32::from(self.seq) + 1 >= u32::MAX / 2 / SLOTS { 0 } else { self.seq + 1 };
        }
        self.last = Some(free);
        let id = id(self.seq, free);
        self.slots.insert(free, Slot { seq: self.seq, key, object: make(id, self.seq) });
        if key != c::IPC_PRIVATE {
            self.keys.insert(key, free);
        }
        Ok(id)
    }

    /// The object with a key and its identifier.
    pub fn by_key(&self, key: i32) -> Option<(i32, &Arc<T>)> {
        let at = *self.keys.get(&key)?;
        self.slots.get(&at).map(|slot| (id(slot.seq, at), &slot.object))
    }

    /// # Errors
    /// `EINVAL`
    pub fn get(&self, id: i32) -> SysResult<&Arc<T>> {
        let (at, seq) = slot(id)?;
        self.slots.get(&at).filter(|slot| slot.seq == seq).map(|slot| &slot.object).ok_or(Errno::EINVAL)
    }

    /// The object and its identifier.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn find(&self, which: Stat) -> SysResult<(i32, &Arc<T>)> {
        match which {
            Stat::Id(id) => Ok((id, self.get(id)?)),
            Stat::Slot(at) | Stat::Any(at) => {
                let at = u32::try_from(at).map_err(|_| Errno::EINVAL)?;
                self.slots.get(&at).map(|slot| (id(slot.seq, at), &slot.object)).ok_or(Errno::EINVAL)
            }
        }
    }

    /// Nobody finds it by its key any more.
    pub fn hide(&mut self, id: i32) {
        let Ok((at, seq)) = slot(id) else { return };
        if let Some(slot) = self.slots.get_mut(&at).filter(|slot| slot.seq == seq) {
            if slot.key != c::IPC_PRIVATE {
                self.keys.remove(&slot.key);
            }
            slot.key = c::IPC_PRIVATE;
        }
    }

    pub fn remove(&mut self, id: i32) -> Option<Arc<T>> {
        self.hide(id);
        let (at, seq) = slot(id).ok()?;
        self.slots.get(&at).filter(|slot| slot.seq == seq)?;
        self.slots.remove(&at).map(|slot| slot.object)
    }
}

/// What semget(2) and its like do: finds an object or says that one is to be made (`None`). `owner` and `fits` look at what is found.
///
/// # Errors
/// `ENOENT`, `EEXIST`, `EACCES`; what `fits` says.
pub(crate) fn get_or_make<T>(
    registry: &Registry<T>,
    key: i32,
    flags: i32,
    who: (&Credentials, &UserNamespace),
    owner: impl FnOnce(&T) -> Owner,
    fits: impl FnOnce(&T) -> SysResult<()>,
) -> SysResult<Option<i32>> {
    if key == c::IPC_PRIVATE {
        return Ok(None);
    }
    let Some((id, object)) = registry.by_key(key) else {
        return if flags & c::IPC_CREAT != 0 { Ok(None) } else { Err(Errno::ENOENT) };
    };
    if flags & c::IPC_CREAT != 0 && flags & c::IPC_EXCL != 0 {
        return Err(Errno::EEXIST);
    }
    fits(object)?;
    owner(object).check(who.0, who.1, flags.cast_unsigned() & 0o777)?;
    Ok(Some(id))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_come_again_with_other_identifiers() {
        let mut registry = Registry::<u32>::default();
        let make = |registry: &mut Registry<u32>, key| registry.add(key, 3, |_, _| Arc::new(7)).unwrap();
        let (a, b) = (make(&mut registry, 5), make(&mut registry, c::IPC_PRIVATE));
        assert_eq!((a % 32768, b % 32768), (0, 1));
        assert_eq!(registry.by_key(5).map(|found| found.0), Some(a));
        registry.remove(a);
        let again = make(&mut registry, 5);
        assert_ne!(again, a);
        assert_eq!((again % 32768, registry.get(a).err()), (0, Some(Errno::EINVAL)));
        make(&mut registry, 9);
        assert_eq!(registry.add(1, 3, |_, _| Arc::new(1)), Err(Errno::ENOSPC));
        assert_eq!(registry.find(Stat::Slot(1)).unwrap().0, b);
        assert_eq!((registry.last_slot(), registry.len()), (2, 3));
        registry.hide(again);
        assert!(registry.by_key(5).is_none() && registry.get(again).is_ok());
    }

    #[test]
    fn permissions_are_those_of_one_class() {
        let ns = UserNamespace::initial();
        let user = |uid, gid| Credentials::new(ns.clone(), Kuid(uid), Kgid(gid), Vec::new());
        let owner = Owner::new(1, 0o640, &user(10, 20));
        assert_eq!(owner.check(&user(10, 99), &ns, 0o666), Ok(()));
        assert_eq!(owner.check(&user(11, 20), &ns, 0o444), Ok(()));
        assert_eq!(owner.check(&user(11, 20), &ns, 0o222), Err(Errno::EACCES));
        assert_eq!(owner.check(&user(11, 21), &ns, 0o444), Err(Errno::EACCES));
        assert_eq!(owner.check(&user(0, 0), &ns, 0o666), Ok(()));
        assert_eq!(owner.check_control(&user(11, 20), &ns), Err(Errno::EPERM));
    }
}
