//! Landlock: programs that give up what they need not do with files, ports and other processes (landlock(7)).
//!
//! A domain is a list of layers; a task's domain only ever gets longer. An access is allowed if every layer that has to do with it allows
//! it: by a rule for the place itself or for a directory above it.

use std::any::Any;
use std::collections::HashMap;
use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::Credentials;

use crate::dentry::Dentry;
use crate::inode::Inode;
use crate::path::Path;

/// `LANDLOCK_ACCESS_FS_*`
pub mod fs {
    pub const EXECUTE: u64 = 1 << 0;
    pub const WRITE_FILE: u64 = 1 << 1;
    pub const READ_FILE: u64 = 1 << 2;
    pub const READ_DIR: u64 = 1 << 3;
    pub const REMOVE_DIR: u64 = 1 << 4;
    pub const REMOVE_FILE: u64 = 1 << 5;
    pub const MAKE_CHAR: u64 = 1 << 6;
    pub const MAKE_DIR: u64 = 1 << 7;
    pub const MAKE_REG: u64 = 1 << 8;
    pub const MAKE_SOCK: u64 = 1 << 9;
    pub const MAKE_FIFO: u64 = 1 << 10;
    pub const MAKE_BLOCK: u64 = 1 << 11;
    pub const MAKE_SYM: u64 = 1 << 12;
    pub const REFER: u64 = 1 << 13;
    pub const TRUNCATE: u64 = 1 << 14;
    /// Those that there are.
    pub const ALL: u64 = (1 << 15) - 1;
    /// Those that a rule for something else than a directory may allow.
    pub const OF_FILES: u64 = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE;
}

/// `LANDLOCK_ACCESS_NET_*`
pub mod net {
    pub const BIND_TCP: u64 = 1 << 0;
    pub const CONNECT_TCP: u64 = 1 << 1;
    /// Those that there are.
    pub const ALL: u64 = BIND_TCP | CONNECT_TCP;
}

/// Layers of a domain at most.
const MAX_LAYERS: usize = 16;
/// Rules of a layer at most; Linux counts to four thousand million.
const MAX_RULES: usize = 65536;

/// What a ruleset or layer says.
#[derive(Clone, Default)]
pub struct Rules {
    /// Accesses that are denied where no rule allows them.
    pub handled_fs: u64,
    pub handled_net: u64,
    /// What may be done with ports of TCP.
    ports: HashMap<u16, u64>,
    /// By the address of the inode. The name is held: as long as it is, its inode is the same.
    paths: HashMap<usize, (Arc<Dentry>, u64)>,
}

fn key(inode: &Arc<dyn Inode>) -> usize {
    Arc::as_ptr(inode).cast::<u8>().addr()
}

impl Rules {
    #[must_use]
    pub fn new(handled_fs: u64, handled_net: u64) -> Self {
        Self { handled_fs, handled_net, ..Self::default() }
    }

    /// Allows accesses to a port.
    ///
    /// # Errors
    /// `EINVAL` for what isn't handled.
    pub fn allow_port(&mut self, port: u16, access: u64) -> SysResult<()> {
        if access & !self.handled_net != 0 {
            return Err(Errno::EINVAL);
        }
        *self.ports.entry(port).or_default() |= access;
        Ok(())
    }

    /// Allows accesses at and below a place.
    ///
    /// # Errors
    /// `EINVAL` for what isn't handled, or makes no sense for a file; `E2BIG`.
    pub fn allow(&mut self, at: &Path, access: u64) -> SysResult<()> {
        if access & !self.handled_fs != 0 || !at.dentry.is_dir() && access & !fs::OF_FILES != 0 {
            return Err(Errno::EINVAL);
        }
        if self.paths.len() >= MAX_RULES {
            return Err(Errno::E2BIG);
        }
        self.paths.entry(key(at.inode())).or_insert_with(|| (at.dentry.clone(), 0)).1 |= access;
        Ok(())
    }

    /// What the rules allow at a place, by itself and by what is above it.
    fn allowed(&self, at: &Path) -> u64 {
        let (mut at, mut allowed) = (at.clone(), 0);
        loop {
            allowed |= self.paths.get(&key(at.inode())).map_or(0, |(_, access)| *access);
            // What a mount hides has nothing to say.
            while Arc::ptr_eq(&at.dentry, at.mount.root()) {
                match at.mount.mountpoint() {
                    Some(below) => at = below,
                    None => return allowed,
                }
            }
            match at.dentry.parent() {
                Some(parent) => at = at.with(parent),
                None => return allowed,
            }
        }
    }

    /// Linking and renaming between directories is denied by every layer that doesn't allow it.
    fn handles(&self) -> u64 {
        self.handled_fs | fs::REFER
    }
}

/// What a task has given up.
#[derive(Clone, Default)]
pub struct Domain {
    layers: Vec<Arc<Rules>>,
}

impl Domain {
    /// The domain that somebody is in.
    #[must_use]
    pub fn of(who: &Credentials) -> Option<&Self> {
        who.domain.as_ref()?.downcast_ref()
    }

    /// Somebody's domain with one more layer, for its credentials.
    ///
    /// # Errors
    /// `E2BIG` when there are too many.
    pub fn with(who: &Credentials, rules: Rules) -> SysResult<Arc<dyn Any + Send + Sync>> {
        let mut domain = Self::of(who).cloned().unwrap_or_default();
        if domain.layers.len() >= MAX_LAYERS {
            return Err(Errno::E2BIG);
        }
        domain.layers.push(Arc::new(rules));
        Ok(Arc::new(domain))
    }

    /// Whether `other` is restricted at least as this domain is: it is in it, or deeper.
    #[must_use]
    pub fn holds(&self, other: Option<&Self>) -> bool {
        let theirs = other.map_or(&[][..], |other| &other.layers);
        let same = |(own, their): (&Arc<Rules>, &Arc<Rules>)| Arc::ptr_eq(own, their);
        self.layers.len() <= theirs.len() && self.layers.iter().zip(theirs).all(same)
    }

    /// Whether a port may be used so (`LANDLOCK_ACCESS_NET_*`).
    ///
    /// # Errors
    /// `EACCES`
    pub fn check_port(&self, port: u16, access: u64) -> SysResult<()> {
        let denies = |rules: &Arc<Rules>| access & rules.handled_net & !rules.ports.get(&port).copied().unwrap_or(0) != 0;
        if self.layers.iter().any(denies) { Err(Errno::EACCES) } else { Ok(()) }
    }

    fn check(&self, at: &Path, access: u64) -> SysResult<()> {
        // What has no place can't be restricted by places.
        if at.mount.namespace().is_none() {
            return Ok(());
        }
        let denies = |rules: &Arc<Rules>| {
            let asked = access & rules.handles();
            asked != 0 && asked & !rules.allowed(at) != 0
        };
        if self.layers.iter().any(denies) { Err(Errno::EACCES) } else { Ok(()) }
    }

    /// Whether something that moves from `old` to `new` could be used there in ways in which it couldn't before.
    fn gains(&self, old: &Path, new: &Path) -> bool {
        self.layers.iter().any(|rules| rules.allowed(new) & !rules.allowed(old) & rules.handled_fs != 0)
    }
}

/// The right to make a file of a kind.
fn make(kind: u32) -> u64 {
    match kind {
        c::S_IFDIR => fs::MAKE_DIR,
        c::S_IFLNK => fs::MAKE_SYM,
        c::S_IFSOCK => fs::MAKE_SOCK,
        c::S_IFIFO => fs::MAKE_FIFO,
        c::S_IFBLK => fs::MAKE_BLOCK,
        c::S_IFCHR => fs::MAKE_CHAR,
        _ => fs::MAKE_REG,
    }
}

/// The right to remove one.
fn remove(kind: u32) -> u64 {
    if kind == c::S_IFDIR { fs::REMOVE_DIR } else { fs::REMOVE_FILE }
}

/// Whether somebody's domain allows accesses at a place.
///
/// # Errors
/// `EACCES`
pub(crate) fn may(who: &Credentials, at: &Path, access: u64) -> SysResult<()> {
    Domain::of(who).map_or(Ok(()), |domain| domain.check(at, access))
}

/// As [`may`], for making something of a kind in a directory.
pub(crate) fn may_make(who: &Credentials, dir: &Path, kind: u32) -> SysResult<()> {
    may(who, dir, make(kind))
}

/// As [`may`], for removing something of a kind from a directory.
pub(crate) fn may_remove(who: &Credentials, dir: &Path, kind: u32) -> SysResult<()> {
    may(who, dir, remove(kind))
}

/// As [`may`], for a new name in `new` of what has one in `old`; `moves`: the old one goes. `replaced`: what has been there, and goes to `old`
/// if they are exchanged.
///
/// # Errors
/// `EACCES`; `EXDEV` when only the way from one directory to the other is closed: copying may do.
pub(crate) fn may_refer(
    who: &Credentials,
    (old, kind): (&Path, u32),
    (new, replaced): (&Path, Option<u32>),
    moves: bool,
    exchange: bool,
) -> SysResult<()> {
    let Some(domain) = Domain::of(who) else { return Ok(()) };
    let mut of_old = if moves { remove(kind) } else { 0 };
    let mut of_new = make(kind);
    if let Some(replaced) = replaced {
        of_new |= remove(replaced);
        of_old |= if exchange { make(replaced) } else { 0 };
    }
    domain.check(old, of_old)?;
    domain.check(new, of_new)?;
    if Arc::ptr_eq(&old.dentry, &new.dentry) {
        return Ok(());
    }
    let closed = domain.check(old, fs::REFER).is_err() || domain.check(new, fs::REFER).is_err();
    if closed || domain.gains(old, new) || exchange && domain.gains(new, old) { Err(Errno::EXDEV) } else { Ok(()) }
}
