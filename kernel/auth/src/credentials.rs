//! Credentials of a task (credentials(7)).

use std::any::Any;
use std::sync::Arc;

use crate::caps::{CapSet, Capability};
use crate::ids::{Kgid, Kuid};
use crate::user::User;
use crate::userns::UserNamespace;

/// Securebits (capabilities(7)), by their bits in `linux/securebits.h`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Securebits(pub u32);

impl Securebits {
    pub const NOROOT: u32 = 1 << 0;
    pub const NO_SETUID_FIXUP: u32 = 1 << 2;
    pub const KEEP_CAPS: u32 = 1 << 4;
    pub const NO_CAP_AMBIENT_RAISE: u32 = 1 << 6;
    /// Bits that keep the one below from changing.
    pub const LOCKS: u32 = 0xaa;
    pub const ALL: u32 = 0xff;

    #[must_use]
    pub const fn has(self, bit: u32) -> bool {
        self.0 & bit != 0
    }
}

/// Who a task is and what it may do. Immutable once shared: to change, clone, alter, and give the task the result.
#[derive(Clone, Debug)]
pub struct Credentials {
    pub ruid: Kuid,
    pub euid: Kuid,
    pub suid: Kuid,
    /// For file access; Linux's, follows the effective one.
    pub fsuid: Kuid,
    pub rgid: Kgid,
    pub egid: Kgid,
    pub sgid: Kgid,
    pub fsgid: Kgid,
    /// Supplementary groups, sorted.
    pub groups: Arc<[Kgid]>,
    pub permitted: CapSet,
    pub effective: CapSet,
    pub inheritable: CapSet,
    pub bounding: CapSet,
    pub ambient: CapSet,
    pub securebits: Securebits,
    /// What it has given up for good (landlock(7)), kept by who checks it.
    pub domain: Option<Arc<dyn Any + Send + Sync>>,
    /// The account of the real user.
    pub user: Arc<User>,
    /// What the capabilities are good for: this namespace and those below it.
    pub user_ns: Arc<UserNamespace>,
}

impl Credentials {
    /// Root with all capabilities.
    #[must_use]
    pub fn root(user_ns: Arc<UserNamespace>) -> Self {
        Self::new(user_ns, Kuid::ROOT, Kgid::ROOT, Vec::new())
    }

    /// A user, with all capabilities if it is root, and none otherwise.
    #[must_use]
    pub fn new(user_ns: Arc<UserNamespace>, uid: Kuid, gid: Kgid, mut groups: Vec<Kgid>) -> Self {
        groups.sort_unstable();
        let caps = if uid == Kuid::ROOT { CapSet::ALL } else { CapSet::EMPTY };
        Self {
            ruid: uid,
            euid: uid,
            suid: uid,
            fsuid: uid,
            rgid: gid,
            egid: gid,
            sgid: gid,
            fsgid: gid,
            groups: groups.into(),
            permitted: caps,
            effective: caps,
            inheritable: CapSet::EMPTY,
            bounding: CapSet::ALL,
            ambient: CapSet::EMPTY,
            securebits: Securebits::default(),
            domain: None,
            user: user_ns.user(uid),
            user_ns,
        }
    }

    /// The same user in another user namespace, where it has all capabilities.
    #[must_use]
    pub fn in_new_namespace(&self, user_ns: Arc<UserNamespace>) -> Self {
        Self {
            permitted: CapSet::ALL,
            effective: CapSet::ALL,
            inheritable: CapSet::EMPTY,
            bounding: CapSet::ALL,
            ambient: CapSet::EMPTY,
            securebits: Securebits::default(),
            user: user_ns.user(self.ruid),
            user_ns,
            ..self.clone()
        }
    }

    /// Those that access(2) asks with: the real user's and group's, with the capabilities that a program of root's would have.
    #[must_use]
    pub fn for_access(&self) -> Arc<Self> {
        let mut who = Self { fsuid: self.ruid, fsgid: self.rgid, ..self.clone() };
        if !self.securebits.has(Securebits::NO_SETUID_FIXUP) {
            let root = self.user_ns.make_kuid(0) == Some(self.ruid);
            who.effective = if root { self.permitted } else { CapSet::EMPTY };
        }
        Arc::new(who)
    }

    /// Whether it has a capability over the whole sandbox: in the first user namespace (Linux's `capable`).
    #[must_use]
    pub fn has_capability(&self, cap: Capability) -> bool {
        self.user_ns.level() == 0 && self.effective.has(cap)
    }

    /// Whether it has a capability over what belongs to a user namespace (Linux's `ns_capable`): its own or one below, of which it has all
    /// if it made it (user_namespaces(7), "Capabilities").
    #[must_use]
    pub fn has_capability_in(&self, ns: &UserNamespace, cap: Capability) -> bool {
        let mut at = ns;
        loop {
            if std::ptr::eq(at, &*self.user_ns) {
                return self.effective.has(cap);
            }
            let Some(parent) = at.parent().filter(|_| at.level() > self.user_ns.level()) else { return false };
            if Arc::ptr_eq(parent, &self.user_ns) && at.owner().0 == self.euid {
                return true;
            }
            at = parent;
        }
    }

    /// Whether it has a capability over a file of this owner and group, which its namespace must know (Linux's
    /// `capable_wrt_inode_uidgid`).
    #[must_use]
    pub fn has_capability_over(&self, uid: Kuid, gid: Kgid, cap: Capability) -> bool {
        self.effective.has(cap) && self.user_ns.from_kuid(uid).is_some() && self.user_ns.from_kgid(gid).is_some()
    }

    /// Whether it may send signals to somebody (kill(2)).
    #[must_use]
    pub fn may_signal(&self, other: &Self) -> bool {
        let theirs = [other.ruid, other.suid];
        theirs.contains(&self.euid) || theirs.contains(&self.ruid) || self.has_capability_in(&other.user_ns, Capability::KILL)
    }

    /// Whether a group is the file system group or a supplementary one (`in_group_p`).
    #[must_use]
    pub fn in_group(&self, gid: Kgid) -> bool {
        gid == self.fsgid || self.groups.binary_search(&gid).is_ok()
    }

    /// Whether a group is the effective or a supplementary one (`in_egroup_p`).
    #[must_use]
    pub fn in_egroup(&self, gid: Kgid) -> bool {
        gid == self.egid || self.groups.binary_search(&gid).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn capabilities_reach_down_not_up() {
        let first = UserNamespace::initial();
        let root = Credentials::root(first.clone());
        let user = Credentials::new(first.clone(), Kuid(1000), Kgid(1000), Vec::new());
        let below = UserNamespace::child(&user).unwrap();
        let inside = Credentials { user_ns: below.clone(), ..Credentials::root(first.clone()) };
        assert!(root.has_capability_in(&below, Capability::KILL));
        assert!(user.has_capability_in(&below, Capability::KILL), "who made it has all in it");
        assert!(!user.has_capability_in(&first, Capability::KILL));
        assert!(inside.has_capability_in(&below, Capability::KILL));
        assert!(!inside.has_capability_in(&first, Capability::KILL) && !inside.has_capability(Capability::KILL));
        assert!(first.holds(&below) && !below.holds(&first) && below.holds(&below));
    }

    #[test]
    fn what_a_namespace_does_not_map_is_out_of_its_reach() {
        let root = Credentials::root(UserNamespace::initial());
        let inside = Credentials { user_ns: UserNamespace::child(&root).unwrap(), ..root.clone() };
        assert!(root.has_capability_over(Kuid(7), Kgid(7), Capability::CHOWN));
        assert!(!inside.has_capability_over(Kuid(0), Kgid(0), Capability::CHOWN));
        // Unmapped, it is nobody, and can't make another.
        assert_eq!(UserNamespace::child(&inside).err(), Some(abi::Errno::EPERM));
    }
}
