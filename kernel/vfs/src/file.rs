//! Open file descriptions.

use std::any::Any;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::{Arc, OnceLock};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use auth::{Capability, Credentials};
use sync::{Mutex, WaitEntry, WaitQueue};
use usermem::{HostFile, IoBuf, MapHook, UserMemory};

use crate::attached::Attached;
use crate::inode::{Attr, DirEntry, Inode, SetAttr};
use crate::mount::WriteAccess;
use crate::notify::{self, event};
use crate::path::Path;

/// What an ioctl handler gets of its caller.
pub struct IoctlArg<'a> {
    pub cmd: u32,
    pub arg: u64,
    pub memory: &'a dyn UserMemory,
}

/// An open file's behaviour. Defaults say what Linux says where a file can't. Nothing here waits for another task: `EAGAIN` instead.
pub trait FileOps: Send + Sync + Any {
    /// Reads at `offset` (ignored by streams).
    ///
    /// # Errors
    /// `EAGAIN`, `EFAULT`, `EINVAL`, `EIO`.
    fn read(&self, _buf: &mut IoBuf<'_>, _offset: u64) -> SysResult<usize> {
        Err(Errno::EINVAL)
    }

    /// Nanoseconds that a read which has got `done` bytes waits for more before it ends with what it has (`VTIME` of termios(3)); `None`: for
    /// as long as [`FileOps::read`] says `EAGAIN`.
    fn read_patience(&self, _done: usize) -> Option<u64> {
        None
    }

    /// Writes at `offset` (ignored by streams).
    ///
    /// # Errors
    /// `EAGAIN`, `EPIPE`, `EFAULT`, `EINVAL`, `ENOSPC`.
    fn write(&self, _buf: &mut IoBuf<'_>, _offset: u64) -> SysResult<usize> {
        Err(Errno::EINVAL)
    }

    /// Writes at the end, wherever that is by then; returns how much, and where the end is now. The file grows to `limit` at most.
    ///
    /// # Errors
    /// As [`FileOps::write`]; `EFBIG` when it is as large as `limit`.
    fn append(&self, buf: &mut IoBuf<'_>, limit: u64) -> SysResult<(usize, u64)> {
        let end = self.attr().unwrap_or_default().size;
        buf.limit(room(end, limit, buf.remaining())?);
        let count = self.write(buf, end)?;
        Ok((count, end.saturating_add(count as u64)))
    }

    /// Whether it is a regular file: its size is limited (RLIMIT_FSIZE), and it can be given out as a whole (sendfile(2)).
    fn is_regular(&self) -> bool {
        false
    }

    /// fallocate(2), with a checked mode and range.
    ///
    /// # Errors
    /// `EOPNOTSUPP`, `ENOSPC`, `EFBIG`.
    fn allocate(&self, _mode: i32, _offset: u64, _len: u64) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Where the next hole (or the next data) begins, from `offset` on, which lies before the end of a file of `size`.
    ///
    /// # Errors
    /// `ENXIO` when there is no data any more.
    fn seek_data(&self, offset: u64, size: u64, hole: bool) -> SysResult<u64> {
        // No holes known: all is data up to the end, where the one hole begins.
        Ok(if hole { size } else { offset })
    }

    /// Whether there is no position (pipes, terminals, sockets).
    fn is_stream(&self) -> bool {
        false
    }

    /// Another notion of position than bytes; `None`: the usual one.
    ///
    /// # Errors
    /// As lseek(2).
    fn seek(&self, _offset: i64, _whence: i32) -> Option<SysResult<u64>> {
        None
    }

    /// Whether the position is always 0, whatever lseek(2) is told (null(4)).
    fn pinned(&self) -> bool {
        false
    }

    /// What is ready now.
    fn poll(&self) -> PollEvents {
        PollEvents::READABLE | PollEvents::WRITABLE
    }

    /// Where to wait for it to become ready; `None` when always ready.
    fn wait_queue(&self) -> Option<&WaitQueue> {
        None
    }

    /// Whether O_ASYNC has an effect: signals when it becomes ready (fcntl(2)).
    fn can_signal(&self) -> bool {
        false
    }

    /// # Errors
    /// `ENOTTY`
    fn ioctl(&self, _arg: &IoctlArg<'_>) -> SysResult<u64> {
        Err(Errno::ENOTTY)
    }

    /// The host file to map.
    ///
    /// # Errors
    /// `ENODEV`
    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        Err(Errno::ENODEV)
    }

    /// Whether mapping it gives fresh memory (zero(4)).
    fn maps_memory(&self) -> bool {
        false
    }

    /// Who wants to know of mappings of it.
    fn map_hook(self: Arc<Self>) -> Option<Arc<dyn MapHook>> {
        None
    }

    /// What can't be done with it any more (`F_SEAL_*`, memfd_create(2)).
    ///
    /// # Errors
    /// `EINVAL` when it is no file in memory.
    fn seals(&self) -> SysResult<u32> {
        Err(Errno::EINVAL)
    }

    /// Adds seals.
    ///
    /// # Errors
    /// `EINVAL` when it is no file in memory; `EPERM` when nothing may be sealed any more; `EBUSY` while mappings write to it.
    fn add_seals(&self, _seals: u32) -> SysResult<()> {
        Err(Errno::EINVAL)
    }

    /// # Errors
    /// `EINVAL`
    fn fsync(&self) -> SysResult<()> {
        Err(Errno::EINVAL)
    }

    /// Attributes of the file as it is open, where its name may be gone.
    fn attr(&self) -> Option<Attr> {
        None
    }

    /// Attributes of a file without an inode.
    fn anonymous_attr(&self) -> Attr {
        Attr { mode: 0o600, nlink: 1, ino: 1, ..Attr::default() }
    }

    /// Changes those.
    ///
    /// # Errors
    /// `EOPNOTSUPP`
    fn set_attr(&self, _set: &SetAttr) -> SysResult<()> {
        Err(Errno::EOPNOTSUPP)
    }

    /// Lines of its own in /proc/pid/fdinfo.
    fn fd_info(&self) -> String {
        String::new()
    }

    /// `pipe:[7]` and the like, for /proc/pid/fd.
    fn describe(&self) -> String {
        "anon_inode:[unknown]".into()
    }

    /// Opens again what has no name, by way of /proc/pid/fd.
    ///
    /// # Errors
    /// `ENXIO`
    fn reopen(self: Arc<Self>, _flags: i32) -> SysResult<Arc<dyn FileOps>> {
        Err(Errno::ENXIO)
    }

    /// Access to the concrete type.
    fn as_any(&self) -> &dyn Any;
}

/// `O_LARGEFILE` of the kernel: the C library's is 0 where `off_t` has 64 bits.
const O_LARGEFILE: i32 = 0o100_000;

/// What a write is besides its bytes.
#[derive(Clone, Copy, Default)]
pub struct WriteOptions<'a> {
    /// Where; at the position if `None`.
    pub at: Option<u64>,
    /// At the end, whatever O_APPEND says (RWF_APPEND, RWF_NOAPPEND).
    pub append: Option<bool>,
    /// To the disk (RWF_DSYNC).
    pub sync: bool,
    /// Size up to which the caller may write (RLIMIT_FSIZE): only asked for regular files.
    pub limit: Option<&'a dyn Fn() -> u64>,
}

/// How much of `len` bytes at `at` lies below `limit`.
fn room(at: u64, limit: u64, len: usize) -> SysResult<usize> {
    match limit.saturating_sub(at) {
        0 if len > 0 => Err(Errno::EFBIG),
        room => Ok(usize::try_from(room).unwrap_or(usize::MAX).min(len)),
    }
}

/// Position and directory snapshot.
#[derive(Default)]
struct Cursor {
    offset: u64,
    entries: Option<Arc<Vec<DirEntry>>>,
}

/// Who is told of readiness (fcntl(2), F_SETOWN): kind (`F_OWNER_*`) and number; 0: nobody. And by which signal; 0: SIGIO.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileOwner {
    pub kind: i32,
    pub id: i32,
    pub signo: i32,
}

/// What few files have.
#[derive(Default)]
struct Rare {
    owner: Mutex<FileOwner>,
    /// What sends the owner signals (O_ASYNC).
    signals: Mutex<Option<WaitEntry>>,
    attached: OnceLock<Arc<Attached>>,
    /// Who opened it had given up changing its size (landlock(7)).
    fixed_size: AtomicBool,
}

/// An open file description (open(2)).
pub struct File {
    pub ops: Arc<dyn FileOps>,
    /// Where it was opened.
    pub path: Option<Path>,
    pub inode: Option<Arc<dyn Inode>>,
    flags: AtomicI32,
    cursor: Mutex<Cursor>,
    /// Held while it is open for writing.
    _access: Option<WriteAccess>,
    /// Who opened it, if that was by name.
    opener: Option<Arc<Credentials>>,
    /// What is written takes away set-user-id and the like.
    drops_privileges: bool,
    /// It has been written to: what gives capabilities away is gone.
    written: AtomicBool,
    rare: OnceLock<Box<Rare>>,
}

impl Drop for File {
    fn drop(&mut self) {
        self.happened(notify::close_event(self.flags()));
        if let Some(attached) = self.rare.get().and_then(|rare| rare.attached.get()) {
            self.drop_locks(attached);
        }
        if let Some(path) = &self.path
            && path.dentry.closed()
        {
            notify::gone(&path.dentry);
        }
    }
}

impl File {
    #[must_use]
    pub fn new(ops: Arc<dyn FileOps>, path: Option<Path>, flags: i32) -> Arc<Self> {
        Self::with_access(ops, path, flags, None, None)
    }

    /// One that keeps its mount writable.
    #[must_use]
    pub(crate) fn with_access(
        ops: Arc<dyn FileOps>,
        path: Option<Path>,
        flags: i32,
        access: Option<WriteAccess>,
        opener: Option<Arc<Credentials>>,
    ) -> Arc<Self> {
        let drops_privileges = access.is_some() && opener.as_ref().is_some_and(|who| !who.has_capability(Capability::FSETID));
        let inode = path.as_ref().map(|path| path.inode().clone());
        let mut flags = flags & !(c::O_CREAT | c::O_EXCL | c::O_NOCTTY | c::O_TRUNC | c::O_CLOEXEC);
        if path.is_some() && flags & c::O_PATH == 0 {
            // Whatever is opened by name on a 64-bit Linux (F_GETFL shows it).
            flags |= O_LARGEFILE;
        }
        if let Some(path) = &path {
            path.dentry.opened();
        }
        let rare = OnceLock::new();
        Arc::new(Self {
            ops,
            path,
            inode,
            flags: AtomicI32::new(flags),
            cursor: Mutex::default(),
            _access: access,
            opener,
            drops_privileges,
            written: AtomicBool::new(false),
            rare,
        })
    }

    /// Whether who opened it has the same rights as `who` for having them from the same call.
    #[must_use]
    pub fn is_opener(&self, who: &Arc<Credentials>) -> bool {
        self.opener.as_ref().is_some_and(|opener| Arc::ptr_eq(opener, who))
    }

    /// Whoever has it may not change its size by it (landlock(7)).
    pub(crate) fn fix_size(&self) {
        self.rare().fixed_size.store(true, Ordering::Relaxed);
    }

    /// Whether its size may be changed by it.
    #[must_use]
    pub fn may_resize(&self) -> bool {
        !self.rare.get().is_some_and(|rare| rare.fixed_size.load(Ordering::Relaxed))
    }

    /// Tells who watches the file what has been done with it (`IN_*`).
    pub fn happened(&self, mask: u32) {
        if notify::active()
            && self.flags() & c::O_PATH == 0
            && let Some(path) = &self.path
        {
            notify::happened(&path.dentry, mask, true);
        }
    }

    fn rare(&self) -> &Rare {
        self.rare.get_or_init(Box::default)
    }

    /// What is attached to its inode, from now on as long as this is open.
    pub(crate) fn attached(&self) -> Arc<Attached> {
        let make = || Attached::get(self.inode.as_ref(), || self.attr().unwrap_or_default());
        self.rare().attached.get_or_init(make).clone()
    }

    /// What is attached to its inode, if anything is.
    pub(crate) fn find_attached(&self) -> Option<Arc<Attached>> {
        let own = self.rare.get().and_then(|rare| rare.attached.get());
        own.cloned().or_else(|| Attached::find(self.inode.as_ref(), || self.attr().unwrap_or_default()))
    }

    /// Where the next read or write goes.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.cursor.lock().offset
    }

    /// Moves there, after a transfer from the position that was made elsewhere.
    pub fn set_position(&self, offset: u64) {
        self.cursor.lock().offset = offset;
    }

    /// Who is told of readiness.
    #[must_use]
    pub fn owner(&self) -> FileOwner {
        self.rare.get().map(|rare| *rare.owner.lock()).unwrap_or_default()
    }

    /// Changes who is told of readiness.
    pub fn set_owner(&self, change: impl FnOnce(&mut FileOwner)) {
        change(&mut self.rare().owner.lock());
    }

    /// Sends signals from now on by what `entry` has registered, or no longer (O_ASYNC).
    pub fn set_signals(&self, entry: Option<WaitEntry>) {
        let before = std::mem::replace(&mut *self.rare().signals.lock(), entry);
        drop(before);
    }

    /// Access mode and status flags.
    #[must_use]
    pub fn flags(&self) -> i32 {
        self.flags.load(Ordering::Relaxed)
    }

    /// `F_SETFL`
    pub fn set_flags(&self, flags: i32) {
        let settable = c::O_APPEND | c::O_NONBLOCK | c::O_ASYNC | c::O_DIRECT | c::O_NOATIME;
        self.flags.store(self.flags() & !settable | flags & settable, Ordering::Relaxed);
    }

    #[must_use]
    pub fn nonblocking(&self) -> bool {
        self.flags() & c::O_NONBLOCK != 0
    }

    fn check(&self, write: bool) -> SysResult<()> {
        let mode = self.flags() & (c::O_ACCMODE | c::O_PATH);
        let allowed = if write { [c::O_WRONLY, c::O_RDWR] } else { [c::O_RDONLY, c::O_RDWR] };
        if allowed.contains(&mode) { Ok(()) } else { Err(Errno::EBADF) }
    }

    /// # Errors
    /// `EIO`
    pub fn attr(&self) -> SysResult<Attr> {
        match &self.inode {
            Some(inode) => inode.attr(),
            None => Ok(self.ops.attr().unwrap_or_else(|| self.ops.anonymous_attr())),
        }
    }

    /// Reads at the position, or at `at`.
    ///
    /// # Errors
    /// `EBADF` when not open for reading, `EISDIR`, `ESPIPE`; what the file says.
    pub fn read(&self, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<usize> {
        let count = self.do_read(buf, at)?;
        if count > 0 {
            self.happened(event::ACCESS);
        }
        Ok(count)
    }

    fn do_read(&self, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<usize> {
        if at.is_some() && self.ops.is_stream() {
            return Err(Errno::ESPIPE);
        }
        self.check(false)?;
        if self.ops.is_stream() {
            return self.ops.read(buf, 0);
        }
        let count = if let Some(at) = at {
            self.ops.read(buf, at)?
        } else {
            let mut cursor = self.cursor.lock();
            let count = self.ops.read(buf, cursor.offset)?;
            cursor.offset = cursor.offset.saturating_add(count as u64);
            count
        };
        self.accessed();
        Ok(count)
    }

    /// It has been read: its access time may change (`O_NOATIME`, and what its mount says).
    pub fn accessed(&self) {
        if let (Some(path), Some(inode)) = (&self.path, &self.inode)
            && self.flags() & c::O_NOATIME == 0
        {
            path.mount.accessed(inode, path.dentry.is_dir());
        }
    }

    /// Writes at the position (the end with `O_APPEND`), or at `at`.
    ///
    /// # Errors
    /// As [`File::write_with`].
    pub fn write(&self, buf: &mut IoBuf<'_>, at: Option<u64>) -> SysResult<usize> {
        self.write_with(buf, WriteOptions { at, ..WriteOptions::default() })
    }

    /// Writes at the position or elsewhere, as `options` say.
    ///
    /// # Errors
    /// `EBADF` when not open for writing, `ESPIPE`, `EFBIG` at the largest size; what the file says.
    pub fn write_with(&self, buf: &mut IoBuf<'_>, options: WriteOptions<'_>) -> SysResult<usize> {
        let count = self.do_write(buf, options)?;
        if count > 0 {
            self.happened(event::MODIFY);
        }
        Ok(count)
    }

    fn do_write(&self, buf: &mut IoBuf<'_>, options: WriteOptions<'_>) -> SysResult<usize> {
        if options.at.is_some() && self.ops.is_stream() {
            return Err(Errno::ESPIPE);
        }
        self.check(true)?;
        if self.ops.is_stream() {
            return self.ops.write(buf, 0);
        }
        self.drop_privileges()?;
        let regular = self.ops.is_regular();
        let limit = options.limit.filter(|_| regular).map_or(u64::MAX, |limit| limit());
        let append = options.append.unwrap_or(self.flags() & c::O_APPEND != 0);
        let count = match options.at {
            // As on Linux, O_APPEND wins over the offset (pwrite(2), BUGS).
            Some(_) if append => self.ops.append(buf, limit)?.0,
            Some(at) => self.write_at(buf, at, limit)?,
            None => {
                let mut cursor = self.cursor.lock();
                if append && buf.remaining() > 0 {
                    let (count, end) = self.ops.append(buf, limit)?;
                    cursor.offset = end;
                    count
                } else {
                    let count = self.write_at(buf, cursor.offset, limit)?;
                    cursor.offset = cursor.offset.saturating_add(count as u64);
                    count
                }
            }
        };
        if regular && count > 0 && (options.sync || self.flags() & c::O_DSYNC != 0) {
            self.ops.fsync()?;
        }
        Ok(count)
    }

    fn drop_privileges(&self) -> SysResult<()> {
        let (Some(opener), Some(inode)) = (&self.opener, &self.inode) else { return Ok(()) };
        if self.drops_privileges {
            crate::change::drop_privileges(opener, inode)?;
        }
        if !self.written.load(Ordering::Relaxed) && !self.written.swap(true, Ordering::Relaxed) {
            crate::change::drop_capabilities(inode)?;
        }
        Ok(())
    }

    fn write_at(&self, buf: &mut IoBuf<'_>, at: u64, limit: u64) -> SysResult<usize> {
        if limit != u64::MAX {
            buf.limit(room(at, limit, buf.remaining())?);
        }
        self.ops.write(buf, at)
    }

    /// lseek(2).
    ///
    /// # Errors
    /// `ESPIPE`, `EINVAL`, `ENXIO`, `EOVERFLOW`.
    pub fn seek(&self, offset: i64, whence: i32) -> SysResult<u64> {
        if self.flags() & c::O_PATH != 0 {
            return Err(Errno::EBADF);
        }
        if let Some(result) = self.ops.seek(offset, whence) {
            return result;
        }
        if self.ops.pinned() {
            return if (c::SEEK_SET..=c::SEEK_HOLE).contains(&whence) { Ok(0) } else { Err(Errno::EINVAL) };
        }
        if self.ops.is_stream() {
            return Err(Errno::ESPIPE);
        }
        let mut cursor = self.cursor.lock();
        let size = || Ok::<_, Errno>(self.attr()?.size);
        let target = match whence {
            c::SEEK_SET => Some(offset),
            c::SEEK_CUR => cursor.offset.cast_signed().checked_add(offset),
            c::SEEK_END => size()?.cast_signed().checked_add(offset),
            c::SEEK_DATA | c::SEEK_HOLE => {
                let size = size()?;
                let from = u64::try_from(offset).ok().filter(|from| *from < size).ok_or(Errno::ENXIO)?;
                Some(self.ops.seek_data(from, size, whence == c::SEEK_HOLE)?.cast_signed())
            }
            _ => return Err(Errno::EINVAL),
        };
        let target = u64::try_from(target.ok_or(Errno::EOVERFLOW)?).map_err(|_| Errno::EINVAL)?;
        cursor.offset = target;
        if target == 0 {
            cursor.entries = None;
        }
        Ok(target)
    }

    /// Directory entries from the position on, `.` and `..` included: `emit` takes index and entry and says whether it had room.
    ///
    /// # Errors
    /// `ENOTDIR`
    pub fn readdir(&self, emit: &mut dyn FnMut(u64, &DirEntry) -> SysResult<bool>) -> SysResult<()> {
        let inode = self.inode.as_ref().ok_or(Errno::ENOTDIR)?;
        let mut cursor = self.cursor.lock();
        let entries = match &cursor.entries {
            Some(entries) => entries.clone(),
            None => {
                let attr = inode.attr()?;
                if !attr.is_dir() {
                    return Err(Errno::ENOTDIR);
                }
                let parent = self.path.as_ref().and_then(|path| path.dentry.parent()).map_or(Ok(attr), |up| up.inode().attr())?;
                let dots = [(&b"."[..], attr.ino), (b"..", parent.ino)];
                let mut all: Vec<_> = dots.map(|(name, ino)| DirEntry { name: name.to_vec(), ino, kind: c::S_IFDIR }).into();
                all.extend(inode.readdir()?);
                let all = Arc::new(all);
                cursor.entries = Some(all.clone());
                all
            }
        };
        while let Some(entry) = usize::try_from(cursor.offset).ok().and_then(|at| entries.get(at)) {
            if !emit(cursor.offset + 1, entry)? {
                break;
            }
            cursor.offset += 1;
        }
        drop(cursor);
        self.happened(event::ACCESS);
        self.accessed();
        Ok(())
    }
}
