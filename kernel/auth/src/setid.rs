//! How credentials change: setuid(2) and its kin, setgroups(2), capset(2) and what prctl(2) does to capabilities (capabilities(7)).
//!
//! Each call makes new credentials from old ones, or refuses.

use abi::{Errno, SysResult};

use crate::caps::{CapSet, Capability};
use crate::credentials::{Credentials, Securebits};
use crate::ids::{Kgid, Kuid};

/// What goes with the file system user (`CAP_FS_SET`).
const FILE_CAPS: CapSet = CapSet::of(Capability::CHOWN)
    .with(CapSet::of(Capability::MKNOD))
    .with(CapSet::of(Capability::DAC_OVERRIDE))
    .with(CapSet::of(Capability::DAC_READ_SEARCH))
    .with(CapSet::of(Capability::FOWNER))
    .with(CapSet::of(Capability::FSETID))
    .with(CapSet::of(Capability::LINUX_IMMUTABLE))
    .with(CapSet::of(Capability::MAC_OVERRIDE));

/// Supplementary groups at most (`NGROUPS_MAX`).
const MAX_GROUPS: usize = 65536;

/// "Leave it as it is."
const KEEP: u32 = u32::MAX;

impl Credentials {
    fn may(&self, cap: Capability) -> bool {
        self.effective.has(cap)
    }

    fn kuid(&self, uid: u32) -> SysResult<Kuid> {
        self.user_ns.make_kuid(uid).ok_or(Errno::EINVAL)
    }

    fn kgid(&self, gid: u32) -> SysResult<Kgid> {
        self.user_ns.make_kgid(gid).ok_or(Errno::EINVAL)
    }

    /// As [`Self::kuid`]; `None` for -1.
    fn kuid_or_keep(&self, uid: u32) -> SysResult<Option<Kuid>> {
        if uid == KEEP { Ok(None) } else { self.kuid(uid).map(Some) }
    }

    fn kgid_or_keep(&self, gid: u32) -> SysResult<Option<Kgid>> {
        if gid == KEEP { Ok(None) } else { self.kgid(gid).map(Some) }
    }

    /// setuid(2).
    ///
    /// # Errors
    /// `EINVAL` for a number that the user namespace doesn't map; `EPERM`.
    pub fn setuid(&self, uid: u32) -> SysResult<Self> {
        let uid = self.kuid(uid)?;
        let mut new = self.clone();
        if self.may(Capability::SETUID) {
            (new.ruid, new.suid) = (uid, uid);
        } else if uid != self.ruid && uid != self.suid {
            return Err(Errno::EPERM);
        }
        (new.euid, new.fsuid) = (uid, uid);
        Ok(new.fix_up(self))
    }

    /// setreuid(2).
    ///
    /// # Errors
    /// As [`Self::setuid`].
    pub fn setreuid(&self, ruid: u32, euid: u32) -> SysResult<Self> {
        let (ruid, euid) = (self.kuid_or_keep(ruid)?, self.kuid_or_keep(euid)?);
        let may = self.may(Capability::SETUID);
        let mut new = self.clone();
        if let Some(ruid) = ruid {
            if !may && ![self.ruid, self.euid].contains(&ruid) {
                return Err(Errno::EPERM);
            }
            new.ruid = ruid;
        }
        if let Some(euid) = euid {
            if !may && ![self.ruid, self.euid, self.suid].contains(&euid) {
                return Err(Errno::EPERM);
            }
            new.euid = euid;
        }
        if ruid.is_some() || euid.is_some_and(|euid| euid != self.ruid) {
            new.suid = new.euid;
        }
        new.fsuid = new.euid;
        Ok(new.fix_up(self))
    }

    /// setresuid(2).
    ///
    /// # Errors
    /// As [`Self::setuid`].
    pub fn setresuid(&self, ids: [u32; 3]) -> SysResult<Self> {
        let mut wanted = [None; 3];
        for (slot, id) in wanted.iter_mut().zip(ids) {
            *slot = self.kuid_or_keep(id)?;
        }
        let own = [self.ruid, self.euid, self.suid];
        if !self.may(Capability::SETUID) && wanted.iter().flatten().any(|id| !own.contains(id)) {
            return Err(Errno::EPERM);
        }
        let [ruid, euid, suid] = wanted;
        let mut new = self.clone();
        (new.ruid, new.euid, new.suid) = (ruid.unwrap_or(self.ruid), euid.unwrap_or(self.euid), suid.unwrap_or(self.suid));
        new.fsuid = new.euid;
        Ok(new.fix_up(self))
    }

    /// setfsuid(2), which says nothing when it refuses.
    #[must_use]
    pub fn setfsuid(&self, uid: u32) -> Option<Self> {
        let uid = self.kuid(uid).ok()?;
        if !self.may(Capability::SETUID) && ![self.ruid, self.euid, self.suid, self.fsuid].contains(&uid) {
            return None;
        }
        let mut new = Self { fsuid: uid, ..self.clone() };
        if !self.securebits.has(Securebits::NO_SETUID_FIXUP) {
            let root = self.user_ns.make_kuid(0);
            match (Some(self.fsuid) == root, Some(uid) == root) {
                (true, false) => new.effective = new.effective.without(FILE_CAPS),
                (false, true) => new.effective = new.effective.with(FILE_CAPS.and(new.permitted)),
                _ => {}
            }
        }
        Some(new)
    }

    /// What goes with new users: their account and capabilities (capabilities(7), "Effect of user ID changes on capabilities").
    fn fix_up(mut self, old: &Self) -> Self {
        if self.ruid != old.ruid {
            self.user = self.user_ns.user(self.ruid);
        }
        if old.securebits.has(Securebits::NO_SETUID_FIXUP) {
            return self;
        }
        let Some(root) = self.user_ns.make_kuid(0) else { return self };
        let has_root = |who: &Self| [who.ruid, who.euid, who.suid].contains(&root);
        if has_root(old) && !has_root(&self) {
            if !old.securebits.has(Securebits::KEEP_CAPS) {
                (self.permitted, self.effective) = (CapSet::EMPTY, CapSet::EMPTY);
            }
            // Kept or not: a program that becomes a user and executes another is to lose them.
            self.ambient = CapSet::EMPTY;
        }
        match (old.euid == root, self.euid == root) {
            (true, false) => self.effective = CapSet::EMPTY,
            (false, true) => self.effective = self.permitted,
            _ => {}
        }
        self
    }

    /// setgid(2).
    ///
    /// # Errors
    /// As [`Self::setuid`].
    pub fn setgid(&self, gid: u32) -> SysResult<Self> {
        let gid = self.kgid(gid)?;
        let mut new = self.clone();
        if self.may(Capability::SETGID) {
            (new.rgid, new.sgid) = (gid, gid);
        } else if gid != self.rgid && gid != self.sgid {
            return Err(Errno::EPERM);
        }
        (new.egid, new.fsgid) = (gid, gid);
        Ok(new)
    }

    /// setregid(2).
    ///
    /// # Errors
    /// As [`Self::setuid`].
    pub fn setregid(&self, rgid: u32, egid: u32) -> SysResult<Self> {
        let (rgid, egid) = (self.kgid_or_keep(rgid)?, self.kgid_or_keep(egid)?);
        let may = self.may(Capability::SETGID);
        let mut new = self.clone();
        if let Some(rgid) = rgid {
            if !may && ![self.rgid, self.egid].contains(&rgid) {
                return Err(Errno::EPERM);
            }
            new.rgid = rgid;
        }
        if let Some(egid) = egid {
            if !may && ![self.rgid, self.egid, self.sgid].contains(&egid) {
                return Err(Errno::EPERM);
            }
            new.egid = egid;
        }
        if rgid.is_some() || egid.is_some_and(|egid| egid != self.rgid) {
            new.sgid = new.egid;
        }
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setresgid(2).
    ///
    /// # Errors
    /// As [`Self::setuid`].
    pub fn setresgid(&self, ids: [u32; 3]) -> SysResult<Self> {
        let mut wanted = [None; 3];
        for (slot, id) in wanted.iter_mut().zip(ids) {
            *slot = self.kgid_or_keep(id)?;
        }
        let own = [self.rgid, self.egid, self.sgid];
        if !self.may(Capability::SETGID) && wanted.iter().flatten().any(|id| !own.contains(id)) {
            return Err(Errno::EPERM);
        }
        let [rgid, egid, sgid] = wanted;
        let mut new = self.clone();
        (new.rgid, new.egid, new.sgid) = (rgid.unwrap_or(self.rgid), egid.unwrap_or(self.egid), sgid.unwrap_or(self.sgid));
        new.fsgid = new.egid;
        Ok(new)
    }

    /// setfsgid(2), which says nothing when it refuses.
    #[must_use]
    pub fn setfsgid(&self, gid: u32) -> Option<Self> {
        let gid = self.kgid(gid).ok()?;
        let own = [self.rgid, self.egid, self.sgid, self.fsgid];
        (self.may(Capability::SETGID) || own.contains(&gid)).then(|| Self { fsgid: gid, ..self.clone() })
    }

    /// Whether setgroups(2) may be called with so many groups: asked before they are read.
    ///
    /// # Errors
    /// `EPERM`; `EINVAL` for too many.
    pub fn may_setgroups(&self, count: usize) -> SysResult<()> {
        if !self.may(Capability::SETGID) || !self.user_ns.may_setgroups() {
            return Err(Errno::EPERM);
        }
        if count > MAX_GROUPS { Err(Errno::EINVAL) } else { Ok(()) }
    }

    /// setgroups(2).
    ///
    /// # Errors
    /// `EPERM`; `EINVAL` for too many, or one that the user namespace doesn't map.
    pub fn setgroups(&self, gids: &[u32]) -> SysResult<Self> {
        self.may_setgroups(gids.len())?;
        let mut groups = gids.iter().map(|gid| self.kgid(*gid)).collect::<SysResult<Vec<_>>>()?;
        groups.sort_unstable();
        Ok(Self { groups: groups.into(), ..self.clone() })
    }

    /// capset(2).
    ///
    /// # Errors
    /// `EPERM` for what isn't to be had.
    pub fn capset(&self, effective: CapSet, permitted: CapSet, inheritable: CapSet) -> SysResult<Self> {
        // What may be added to the inheritable set: never more than the bounding set, without CAP_SETPCAP only what is permitted.
        let permitted_or_any = if self.may(Capability::SETPCAP) { CapSet::ALL } else { self.permitted };
        let addable = self.bounding.and(permitted_or_any);
        if !self.inheritable.with(addable).contains(inheritable)
            || !self.permitted.contains(permitted)
            || !permitted.contains(effective)
        {
            return Err(Errno::EPERM);
        }
        let ambient = self.ambient.and(permitted).and(inheritable);
        Ok(Self { effective, permitted, inheritable, ambient, ..self.clone() })
    }

    /// `PR_CAPBSET_DROP`
    ///
    /// # Errors
    /// `EPERM`
    pub fn drop_bounding(&self, cap: CapSet) -> SysResult<Self> {
        if !self.may(Capability::SETPCAP) {
            return Err(Errno::EPERM);
        }
        Ok(Self { bounding: self.bounding.without(cap), ..self.clone() })
    }

    /// `PR_CAP_AMBIENT_RAISE`
    ///
    /// # Errors
    /// `EPERM` when it isn't permitted and inheritable, or securebits forbid it.
    pub fn raise_ambient(&self, cap: CapSet) -> SysResult<Self> {
        let fits = self.permitted.contains(cap) && self.inheritable.contains(cap);
        if !fits || self.securebits.has(Securebits::NO_CAP_AMBIENT_RAISE) {
            return Err(Errno::EPERM);
        }
        Ok(Self { ambient: self.ambient.with(cap), ..self.clone() })
    }

    /// `PR_SET_SECUREBITS`
    ///
    /// # Errors
    /// `EPERM` for bits that don't exist or are locked, and without `CAP_SETPCAP`.
    pub fn set_securebits(&self, bits: u32) -> SysResult<Self> {
        let old = self.securebits.0;
        // A lock is the bit above what it locks.
        let locked = (old & Securebits::LOCKS) >> 1;
        let unlocks = old & Securebits::LOCKS & !bits != 0;
        if locked & (old ^ bits) != 0 || unlocks || bits & !Securebits::ALL != 0 || !self.may(Capability::SETPCAP) {
            return Err(Errno::EPERM);
        }
        Ok(Self { securebits: Securebits(bits), ..self.clone() })
    }

    /// `PR_SET_KEEPCAPS`
    ///
    /// # Errors
    /// `EPERM` when that is locked.
    pub fn set_keep_caps(&self, on: bool) -> SysResult<Self> {
        if self.securebits.has(Securebits::KEEP_CAPS << 1) {
            return Err(Errno::EPERM);
        }
        let bits = self.securebits.0 & !Securebits::KEEP_CAPS | if on { Securebits::KEEP_CAPS } else { 0 };
        Ok(Self { securebits: Securebits(bits), ..self.clone() })
    }

    /// Whether becoming `self` from `old` must keep others from looking into the process, as it may hold what they may not see.
    #[must_use]
    pub fn is_raised_from(&self, old: &Self) -> bool {
        let ids = |who: &Self| (who.euid, who.egid, who.fsuid, who.fsgid);
        ids(self) != ids(old) || !old.covers(self)
    }

    /// Whether `other`'s capabilities are no more than these (Linux's `cred_cap_issubset`).
    #[must_use]
    pub fn covers(&self, other: &Self) -> bool {
        if std::ptr::eq(&raw const *self.user_ns, &raw const *other.user_ns) {
            return self.permitted.contains(other.permitted);
        }
        // Who made a namespace has all capabilities in it and below.
        let mut at = &other.user_ns;
        while let Some(parent) = at.parent() {
            if std::ptr::eq(&raw const **parent, &raw const *self.user_ns) && at.owner().0 == self.euid {
                return true;
            }
            at = parent;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::userns::UserNamespace;

    fn root() -> Credentials {
        Credentials::root(UserNamespace::initial())
    }

    fn user() -> Credentials {
        Credentials::new(UserNamespace::initial(), Kuid(1000), Kgid(1000), vec![Kgid(5)])
    }

    #[test]
    fn becoming_a_user_costs_the_capabilities() {
        let new = root().setuid(7).unwrap();
        assert_eq!((new.ruid, new.euid, new.suid, new.fsuid), (Kuid(7), Kuid(7), Kuid(7), Kuid(7)));
        assert!(new.permitted.is_empty() && new.effective.is_empty());
        assert_eq!(new.setuid(0).err(), Some(Errno::EPERM));
        let kept = root().set_keep_caps(true).unwrap().setuid(7).unwrap();
        assert!(kept.permitted == CapSet::ALL && kept.effective.is_empty());
        let fixed = root().set_securebits(Securebits::NO_SETUID_FIXUP).unwrap().setuid(7).unwrap();
        assert_eq!(fixed.effective, CapSet::ALL);
    }

    #[test]
    fn the_saved_user_leads_back() {
        let away = root().setresuid([KEEP, 7, KEEP]).unwrap();
        assert!(away.effective.is_empty() && away.permitted == CapSet::ALL);
        assert_eq!(away.setuid(0).unwrap().effective, CapSet::ALL);
        assert_eq!(away.setreuid(KEEP, 8).err(), Some(Errno::EPERM));
        let swapped = away.setreuid(7, 0).unwrap();
        assert_eq!((swapped.ruid, swapped.euid, swapped.suid), (Kuid(7), Kuid(0), Kuid(0)));
    }

    #[test]
    fn the_file_system_user_takes_file_capabilities_along() {
        let away = root().setfsuid(7).unwrap();
        assert!(!away.effective.has(Capability::CHOWN) && away.effective.has(Capability::KILL));
        assert_eq!(away.setfsuid(0).unwrap().effective, CapSet::ALL);
        assert!(user().setfsuid(7).is_none() && user().setfsgid(7).is_none());
    }

    #[test]
    fn groups_are_sorted_and_guarded() {
        let new = root().setgroups(&[9, 3, 3]).unwrap();
        assert_eq!(&*new.groups, [Kgid(3), Kgid(3), Kgid(9)]);
        assert!(new.in_group(Kgid(9)) && new.in_group(Kgid(0)) && !new.in_group(Kgid(4)));
        assert_eq!(root().setgroups(&[u32::MAX]).err(), Some(Errno::EINVAL));
        assert_eq!(user().setgroups(&[]).err(), Some(Errno::EPERM));
        assert_eq!(user().setregid(KEEP, 5).err(), Some(Errno::EPERM));
    }

    #[test]
    fn sets_of_capabilities_only_shrink() {
        let kill = CapSet::of(Capability::KILL);
        let one = root().capset(kill, kill, CapSet::EMPTY).unwrap();
        assert_eq!(one.capset(CapSet::ALL, CapSet::ALL, CapSet::EMPTY).err(), Some(Errno::EPERM));
        assert_eq!(one.capset(kill, CapSet::EMPTY, CapSet::EMPTY).err(), Some(Errno::EPERM));
        assert_eq!(one.raise_ambient(kill).err(), Some(Errno::EPERM));
        let ambient = one.capset(kill, kill, kill).unwrap().raise_ambient(kill).unwrap();
        assert!(ambient.capset(kill, kill, CapSet::EMPTY).unwrap().ambient.is_empty());
        // What the bounding set lacks can't be made inheritable.
        let bounded = root().drop_bounding(kill).unwrap();
        assert_eq!(bounded.capset(CapSet::ALL, CapSet::ALL, kill).err(), Some(Errno::EPERM));
        let full = Credentials { permitted: CapSet::ALL, ..one.clone() };
        assert!(!one.is_raised_from(&full) && full.is_raised_from(&one));
    }

    #[test]
    fn locked_securebits_stay() {
        let locked = root().set_securebits(Securebits::NOROOT << 1).unwrap();
        assert_eq!(locked.set_securebits(0).err(), Some(Errno::EPERM));
        assert_eq!(locked.set_securebits(Securebits::NOROOT << 1 | Securebits::NOROOT).err(), Some(Errno::EPERM));
        assert_eq!(root().set_securebits(1 << 20).err(), Some(Errno::EPERM));
        assert_eq!(user().set_securebits(0).err(), Some(Errno::EPERM));
    }
}
