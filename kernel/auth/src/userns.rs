//! User namespaces (user_namespaces(7)).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::caps::Capability;
use crate::credentials::Credentials;
use crate::ids::{IdMap, Kgid, Kuid, OVERFLOW_ID};
use crate::user::User;

/// Namespaces within each other at most: Linux allows a parent of level 32.
const MAX_LEVEL: u32 = 32;
/// `PROC_USER_INIT_INO`
const FIRST_INUM: u64 = 0xefff_fffd;

/// A number for a namespace of any kind: the inode number of its file in /proc/pid/ns.
#[must_use]
pub fn new_inum() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(0xf000_0000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// A user namespace.
#[derive(Debug)]
pub struct UserNamespace {
    pub inum: u64,
    /// `None`: the sandbox's first.
    parent: Option<Arc<Self>>,
    level: u32,
    /// Effective user and group of who made it.
    owner: Kuid,
    group: Kgid,
    /// Maps are written once.
    pub(crate) uid_map: OnceLock<IdMap>,
    pub(crate) gid_map: OnceLock<IdMap>,
    /// Who pays for what is used in it.
    account: Option<Arc<User>>,
    users: Mutex<BTreeMap<Kuid, Weak<User>>>,
    /// Set once setgroups(2) is forbidden for good.
    pub(crate) no_setgroups: AtomicBool,
    /// Who made it had `CAP_SETFCAP`.
    pub(crate) maker_could_setfcap: bool,
}

impl UserNamespace {
    /// The first of a sandbox, where all numbers are what they are.
    #[must_use]
    pub fn initial() -> Arc<Self> {
        Arc::new(Self {
            inum: FIRST_INUM,
            parent: None,
            level: 0,
            owner: Kuid::ROOT,
            group: Kgid::ROOT,
            uid_map: IdMap::identity().into(),
            gid_map: IdMap::identity().into(),
            account: None,
            users: Mutex::default(),
            no_setgroups: AtomicBool::new(false),
            maker_could_setfcap: true,
        })
    }

    /// A namespace below that of `creator`, without maps.
    ///
    /// # Errors
    /// `ENOSPC` when they are too deep; `EPERM` when the creator is nobody in its own namespace.
    pub fn child(creator: &Credentials) -> SysResult<Arc<Self>> {
        let parent = creator.user_ns.clone();
        if parent.level > MAX_LEVEL {
            return Err(Errno::ENOSPC);
        }
        if parent.from_kuid(creator.euid).is_none() || parent.from_kgid(creator.egid).is_none() {
            return Err(Errno::EPERM);
        }
        let parent_denies = parent.no_setgroups.load(Ordering::SeqCst);
        Ok(Arc::new(Self {
            inum: new_inum(),
            level: parent.level + 1,
            parent: Some(parent),
            owner: creator.euid,
            group: creator.egid,
            uid_map: OnceLock::new(),
            gid_map: OnceLock::new(),
            account: Some(creator.user.clone()),
            users: Mutex::default(),
            no_setgroups: AtomicBool::new(parent_denies),
            maker_could_setfcap: creator.effective.has(Capability::SETFCAP),
        }))
    }

    #[must_use]
    pub fn parent(&self) -> Option<&Arc<Self>> {
        self.parent.as_ref()
    }

    /// How many namespaces it is in: 0 for the first.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// Who made it.
    #[must_use]
    pub fn owner(&self) -> (Kuid, Kgid) {
        (self.owner, self.group)
    }

    /// Whether a user is root in this namespace or in one that it is in: then file capabilities that belong to that root count here.
    #[must_use]
    pub fn holds_root(&self, root: Kuid) -> bool {
        let mut at = Some(self);
        while let Some(ns) = at {
            if ns.make_kuid(0) == Some(root) {
                return true;
            }
            at = ns.parent.as_deref();
        }
        false
    }

    /// A user's account here.
    #[must_use]
    pub fn user(&self, uid: Kuid) -> Arc<User> {
        let mut users = self.users.lock();
        if let Some(user) = users.get(&uid).and_then(Weak::upgrade) {
            return user;
        }
        users.retain(|_, user| user.strong_count() > 0);
        let user = User::new(uid, self.account.clone());
        users.insert(uid, Arc::downgrade(&user));
        user
    }

    /// Whether this is `other` or an ancestor of it.
    #[must_use]
    pub fn holds(&self, other: &Self) -> bool {
        let mut at = other;
        loop {
            if std::ptr::eq(self, at) {
                return true;
            }
            match &at.parent {
                Some(parent) if at.level > self.level => at = parent,
                _ => return false,
            }
        }
    }

    /// Whether setgroups(2) is allowed here, which it isn't before there are groups.
    #[must_use]
    pub fn may_setgroups(&self) -> bool {
        self.gid_map.get().is_some() && !self.no_setgroups.load(Ordering::SeqCst)
    }

    /// The user that a number means here.
    #[must_use]
    pub fn make_kuid(&self, uid: u32) -> Option<Kuid> {
        self.uid_map.get()?.outwards(uid).map(Kuid)
    }

    /// The group that a number means here.
    #[must_use]
    pub fn make_kgid(&self, gid: u32) -> Option<Kgid> {
        self.gid_map.get()?.outwards(gid).map(Kgid)
    }

    /// A user's number here.
    #[must_use]
    pub fn from_kuid(&self, uid: Kuid) -> Option<u32> {
        self.uid_map.get()?.inwards(uid.0)
    }

    /// A group's number here.
    #[must_use]
    pub fn from_kgid(&self, gid: Kgid) -> Option<u32> {
        self.gid_map.get()?.inwards(gid.0)
    }

    /// A user's number here, 65534 if it has none.
    #[must_use]
    pub fn from_kuid_munged(&self, uid: Kuid) -> u32 {
        self.from_kuid(uid).unwrap_or(OVERFLOW_ID)
    }

    /// A group's number here, 65534 if it has none.
    #[must_use]
    pub fn from_kgid_munged(&self, gid: Kgid) -> u32 {
        self.from_kgid(gid).unwrap_or(OVERFLOW_ID)
    }
}
