//! open(2) and its kin.

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c};

use crate::caller::Caller;
use crate::dentry::Dentry;
use crate::devices;
use crate::file::{File, FileOps};
use crate::inode::Inode;
use crate::landlock;
use crate::mount::WriteAccess;
use crate::names::create_locked;
use crate::notify::{self, event};
use crate::path::Path;
use crate::permission::{Access, may_create, owns};
use crate::walk::{Last, Lookup, WalkFlags};

/// Flags that openat2(2) knows (`VALID_OPEN_FLAGS`).
pub const KNOWN_FLAGS: i32 = c::O_ACCMODE
    | c::O_CREAT
    | c::O_EXCL
    | c::O_NOCTTY
    | c::O_TRUNC
    | c::O_APPEND
    | c::O_NONBLOCK
    | c::O_DSYNC
    | c::O_SYNC
    | c::O_ASYNC
    | c::O_DIRECT
    | O_LARGEFILE
    | c::O_DIRECTORY
    | c::O_NOFOLLOW
    | c::O_NOATIME
    | c::O_CLOEXEC
    | c::O_PATH
    | c::O_TMPFILE;
/// As the kernel numbers it; the C library's is 0 here.
const O_LARGEFILE: i32 = 0o100_000;
/// What `O_PATH` leaves of other flags.
const PATH_FLAGS: i32 = c::O_DIRECTORY | c::O_NOFOLLOW | c::O_PATH | c::O_CLOEXEC;
/// `O_TMPFILE` without `O_DIRECTORY`, which is part of it.
const O_TMPFILE_BIT: i32 = c::O_TMPFILE & !c::O_DIRECTORY;

/// How often a name is looked up again that somebody keeps moving.
const MOST_TRIES: u32 = 32;

/// A directory, or anything opened with `O_PATH`: only a place.
pub struct Place;

impl FileOps for Place {
    fn read(&self, _: &mut usermem::IoBuf<'_>, _: u64) -> SysResult<usize> {
        Err(Errno::EISDIR)
    }

    fn fsync(&self) -> SysResult<()> {
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// Does what may have to wait before a file is opened: its leases are broken (fcntl(2)).
pub type BeforeOpen<'a> = &'a mut dyn FnMut(&Arc<dyn Inode>, i32) -> SysResult<()>;

/// How to open.
#[derive(Clone, Copy, Debug)]
pub struct OpenHow {
    /// `O_*`
    pub flags: i32,
    /// Permissions of a new file.
    pub mode: u32,
    pub walk: WalkFlags,
}

impl OpenHow {
    /// As open(2) takes it: what makes no sense is passed over.
    #[must_use]
    pub fn new(flags: i32, mode: u32) -> Self {
        let flags = flags & KNOWN_FLAGS;
        let flags = if flags & c::O_PATH != 0 { flags & PATH_FLAGS } else { flags };
        let mode = if flags & (c::O_CREAT | O_TMPFILE_BIT) != 0 { mode & 0o7777 } else { 0 };
        Self { flags, mode, walk: WalkFlags::empty() }
    }

    /// What openat2(2) refuses.
    ///
    /// # Errors
    /// `EINVAL`
    pub fn check(flags: u64, mode: u64) -> SysResult<()> {
        let known = u64::from(KNOWN_FLAGS.cast_unsigned());
        let has = |bits: i32| flags & u64::from(bits.cast_unsigned()) != 0;
        let beside_path = has(c::O_PATH) && flags & !u64::from(PATH_FLAGS.cast_unsigned()) != 0;
        let makes = has(c::O_CREAT | O_TMPFILE_BIT);
        let bad_mode = if makes { mode & !0o7777 != 0 } else { mode != 0 };
        if flags & !known != 0 || beside_path || bad_mode { Err(Errno::EINVAL) } else { Ok(()) }
    }

    fn has(&self, flag: i32) -> bool {
        self.flags & flag != 0
    }

    fn writes(&self) -> bool {
        self.flags & c::O_ACCMODE != c::O_RDONLY
    }

    /// What a landlocked program needs to be allowed.
    fn rights(&self, dir: bool) -> u64 {
        if dir {
            return if self.flags & c::O_ACCMODE == c::O_WRONLY { 0 } else { landlock::fs::READ_DIR };
        }
        let rights = match self.flags & c::O_ACCMODE {
            c::O_RDONLY => landlock::fs::READ_FILE,
            c::O_WRONLY => landlock::fs::WRITE_FILE,
            _ => landlock::fs::READ_FILE | landlock::fs::WRITE_FILE,
        };
        if self.has(c::O_TRUNC) { rights | landlock::fs::TRUNCATE } else { rights }
    }

    /// What must be allowed.
    fn access(&self) -> Access {
        let mode = match self.flags & c::O_ACCMODE {
            c::O_RDONLY => Access::READ,
            c::O_WRONLY => Access::WRITE,
            _ => Access::READ | Access::WRITE,
        };
        if self.has(c::O_TRUNC) { mode | Access::WRITE } else { mode }
    }
}

impl Caller {
    /// open(2).
    ///
    /// # Errors
    /// As open(2).
    pub fn open(&self, start: Option<&Path>, path: &[u8], how: OpenHow, before: BeforeOpen<'_>) -> SysResult<Arc<File>> {
        let mut walk = how.walk;
        let only_new = how.flags & (c::O_CREAT | c::O_EXCL) == c::O_CREAT | c::O_EXCL;
        walk.set(WalkFlags::FOLLOW, !how.has(c::O_NOFOLLOW) && !only_new);
        if how.has(O_TMPFILE_BIT) {
            if !how.writes() || how.has(c::O_CREAT) || how.flags & c::O_TMPFILE != c::O_TMPFILE {
                return Err(Errno::EINVAL);
            }
            return self.open_tmpfile(&self.walk(start, path, walk)?.existing()?, how, before);
        }
        if how.has(c::O_CREAT) && how.has(c::O_DIRECTORY) {
            return Err(Errno::EINVAL);
        }
        let mut tries = 0..MOST_TRIES;
        loop {
            match self.open_walked(start, path, walk, how, before) {
                // What was found isn't there any more, by the time it was opened.
                Err(Errno::ESTALE) if tries.next().is_some() => {}
                Err(Errno::ESTALE) => return Err(Errno::ENOENT),
                result => return result,
            }
        }
    }

    fn open_walked(
        &self,
        start: Option<&Path>,
        path: &[u8],
        walk: WalkFlags,
        how: OpenHow,
        before: BeforeOpen<'_>,
    ) -> SysResult<Arc<File>> {
        let only_new = how.flags & (c::O_CREAT | c::O_EXCL) == c::O_CREAT | c::O_EXCL;
        let found = self.walk(start, path, walk)?;
        if !how.has(c::O_CREAT) {
            return self.open_path(&found.existing()?, how, false, before);
        }
        if found.slash || found.last != Last::Name && found.found.as_ref().is_none_or(|found| found.dentry.is_dir()) {
            return Err(Errno::EISDIR);
        }
        let (at, made) = match found.found.clone() {
            Some(_) if only_new => return Err(Errno::EEXIST),
            Some(at) => (at, false),
            None => self.open_new(&found, how, only_new)?,
        };
        if !made && at.dentry.is_dir() {
            return Err(Errno::EISDIR);
        }
        self.open_path(&at, how, made, before)
    }

    /// Makes the file, unless it has come to be in the meantime.
    fn open_new(&self, at: &Lookup<'_>, how: OpenHow, only_new: bool) -> SysResult<(Path, bool)> {
        let dir = &at.parent.dentry;
        let _guard = dir.lock();
        match dir.lookup_locked(&at.name) {
            Ok(_) if only_new => Err(Errno::EEXIST),
            Ok(there) => {
                let mut there = at.parent.with(there);
                there.enter_mounts();
                Ok((there, false))
            }
            Err(Errno::ENOENT) => {
                at.parent.mount.check_writable()?;
                landlock::may_make(&self.who, &at.parent, c::S_IFREG)?;
                let made = create_locked(self, dir, &at.name, c::S_IFREG | how.mode, 0, Vec::new())?;
                Ok((at.parent.with(made), true))
            }
            Err(errno) => Err(errno),
        }
    }

    /// `O_TMPFILE`
    fn open_tmpfile(&self, dir: &Path, how: OpenHow, before: BeforeOpen<'_>) -> SysResult<Arc<File>> {
        if !dir.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        dir.mount.check_writable()?;
        may_create(&self.who, &dir.dentry)?;
        let node = crate::names::new_node(self, &dir.dentry, c::S_IFREG | how.mode, 0, Vec::new())?;
        let inode = dir.inode().clone().tmpfile(&node)?;
        let at = dir.with(Dentry::nameless(&dir.dentry, inode)?);
        self.open_path(&at, how, true, before)
    }

    /// Opens what is at a place. `made`: the caller has just made it, and may do what it asked for whatever the mode says.
    ///
    /// # Errors
    /// As open(2).
    pub fn open_path(&self, at: &Path, how: OpenHow, made: bool, before: BeforeOpen<'_>) -> SysResult<Arc<File>> {
        let dentry = &at.dentry;
        if how.has(c::O_DIRECTORY) && !how.has(O_TMPFILE_BIT) && !dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        if how.has(c::O_PATH) {
            let opener = Some(self.who.clone());
            return Ok(File::with_access(Arc::new(Place), Some(at.clone()), how.flags & PATH_FLAGS, None, opener));
        }
        let mut access = None;
        if !made {
            self.may_open(at, how)?;
        }
        landlock::may(&self.who, at, how.rights(dentry.is_dir()))?;
        let special = !matches!(dentry.kind(), c::S_IFREG | c::S_IFDIR);
        if (how.writes() || how.has(c::O_TRUNC)) && !special {
            access = Some(at.mount.write_access(at.inode())?);
        }
        before(at.inode(), how.flags)?;
        let ops: Arc<dyn FileOps> = if dentry.is_dir() { Arc::new(Place) } else { self.open_inode(at, how, made)? };
        if how.has(c::O_DIRECT) && !ops.is_regular() {
            return Err(Errno::EINVAL);
        }
        let access = access.filter(|_: &WriteAccess| how.writes());
        let path = (!at.inode().is_nameless()).then(|| at.clone());
        let file = File::with_access(ops, path, how.flags, access, Some(self.who.clone()));
        if how.writes() && landlock::may(&self.who, at, landlock::fs::TRUNCATE).is_err() {
            file.fix_size();
        }
        notify::happened(dentry, event::OPEN, true);
        if how.has(c::O_TRUNC) && !made && !special {
            notify::changed(at, event::MODIFY);
        }
        Ok(file)
    }

    fn open_inode(&self, at: &Path, how: OpenHow, made: bool) -> SysResult<Arc<dyn FileOps>> {
        let flags = if made { how.flags & !c::O_TRUNC } else { how.flags };
        let inode = at.inode();
        let truncates = flags & c::O_TRUNC != 0 && at.dentry.kind() == c::S_IFREG;
        let ops = inode.clone().open(if truncates { flags } else { flags & !c::O_TRUNC })?;
        if truncates {
            crate::change::drop_privileges(&self.who, inode)?;
        }
        Ok(ops)
    }

    fn may_open(&self, at: &Path, how: OpenHow) -> SysResult<()> {
        let (inode, access) = (at.inode(), how.access());
        match at.dentry.kind() {
            c::S_IFLNK => return Err(Errno::ELOOP),
            c::S_IFDIR if access.contains(Access::WRITE) => return Err(Errno::EISDIR),
            c::S_IFBLK | c::S_IFCHR if at.mount.has(c::MS_NODEV) || at.mount.superblock().no_devices() => {
                return Err(Errno::EACCES);
            }
            _ => {}
        }
        if access.contains(Access::WRITE) && at.dentry.kind() == c::S_IFREG && at.mount.superblock().read_only() {
            return Err(Errno::EROFS);
        }
        inode.permission(&self.who, access)?;
        devices::may_access(at.dentry.kind(), &**inode, access)?;
        if how.has(c::O_NOATIME) && !owns(&self.who, &inode.attr()?) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}
