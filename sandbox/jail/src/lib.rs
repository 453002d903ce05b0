//! Confinement of the sentry: namespaces, an empty root, few capabilities, a system call filter.
//!
//! Order: [`spawn`] (the child is pid 1 of its namespaces); the parent then gives it users and groups with [`map_ids`]; the child goes on
//! with [`close_others`], [`become_root`], [`empty_root`], [`drop_privileges`], the start of the zygote, [`filter`].

mod filter;
mod ids;
mod signals;

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub use filter::filter;
pub use ids::{IdMap, IdMaps, map_ids};
pub use signals::{
    FORWARDED, Incoming, SIGCHLD, SIGCONT, SIGHUP, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU, SIGWINCH, Signals, block_signals,
    catchable, next_signal, reap, send, stop_by, supervise,
};

fn check(result: i64) -> io::Result<i64> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Capabilities over the host's files (capabilities(7)), as far as their owners are known in the sentry's user namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Privilege {
    /// `CAP_DAC_READ_SEARCH`: read what belongs to any user. Who may read it inside, the kernel inside decides.
    Read,
    /// `CAP_CHOWN`, `CAP_DAC_OVERRIDE`, `CAP_DAC_READ_SEARCH`, `CAP_FOWNER`, `CAP_FSETID`, `CAP_SETFCAP`: keep files for any user, with any
    /// mode. Without `CAP_MKNOD` (worthless in a user namespace) and all that reaches beyond files.
    Write,
}

impl Privilege {
    /// Bit n is capability n.
    fn bits(self) -> u32 {
        match self {
            Self::Read => 1 << 2,
            Self::Write => 1 | 1 << 1 | 1 << 2 | 1 << 3 | 1 << 4 | 1 << 31,
        }
    }
}

/// Forks a child into namespaces of its own: user, mount, pid, IPC, UTS, and network unless it is to stay in the caller's. `None` in the
/// child, which has no users and groups yet. The caller must have one thread.
///
/// # Errors
/// `EPERM` where the host forbids user namespaces, `ENOSPC`, `EUSERS`, `EAGAIN`, `ENOMEM`.
pub fn spawn(own_network: bool) -> io::Result<Option<i32>> {
    let flags = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    let flags = i64::from(flags | libc::SIGCHLD | if own_network { libc::CLONE_NEWNET } else { 0 });
    // SAFETY: as fork(2), which can't make namespaces: with one thread, the child may go on like the parent.
    let pid = check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    Ok((pid > 0).then_some(pid as i32))
}

/// Forks; `None` in the child. The caller must have one thread.
///
/// # Errors
/// `EAGAIN`, `ENOMEM`.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: with one thread, the child may go on like the parent.
    let pid = check(unsafe { libc::fork() }.into())?;
    Ok((pid > 0).then_some(pid as i32))
}

/// Closes all descriptors but these: whatever the caller was started with or has opened for itself is none of the sandbox's. Objects that
/// own others must not be used any more.
///
/// # Errors
/// `EINVAL` on hosts older than Linux 5.9.
pub fn close_others(keep: &[RawFd]) -> io::Result<()> {
    let mut keep = keep.to_vec();
    keep.sort_unstable();
    let mut first = 0u32;
    for fd in keep.iter().filter_map(|fd| u32::try_from(*fd).ok()) {
        if fd > first {
            // SAFETY: who calls gives these descriptors up.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd + 1;
    }
    // SAFETY: as above.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })?;
    Ok(())
}

/// Becomes root of the user namespace, without supplementary groups.
///
/// # Errors
/// `EINVAL` when the namespace has no root.
pub fn become_root() -> io::Result<()> {
    // SAFETY: plain numbers, and no groups at all.
    unsafe {
        // Where a namespace has but one group, the host forbids this, and its user has no others to use.
        libc::syscall(libc::SYS_setgroups, 0, 0);
        check(libc::syscall(libc::SYS_setresgid, 0, 0, 0))?;
        check(libc::syscall(libc::SYS_setresuid, 0, 0, 0))?;
        // A change of users has made its stubs' descriptors (pidfd_getfd) untouchable.
        check(libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0).into())?;
    }
    Ok(())
}

/// `struct mount_attr` (mount_setattr(2)).
#[repr(C)]
#[derive(Default)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// A directory, with what is mounted below it, as a mount of its own that is attached nowhere: no path leads from it to what is above. What it
/// shows can't be written to through it if `read_only`, and none of it gives anybody privileges or devices.
///
/// # Errors
/// What open_tree(2) and mount_setattr(2) say; the caller must be in namespaces of its own.
pub fn detached(path: &Path, read_only: bool) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC | libc::AT_RECURSIVE.cast_unsigned();
    // SAFETY: a path; the descriptor is new and ours.
    let fd = unsafe {
        let fd = check(libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags))?;
        OwnedFd::from_raw_fd(fd as RawFd)
    };
    let read_only = if read_only { libc::MOUNT_ATTR_RDONLY } else { 0 };
    let attr = MountAttr { set: libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | read_only, ..MountAttr::default() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: an empty path and a structure of the size that is stated.
    check(unsafe {
        libc::syscall(libc::SYS_mount_setattr, fd.as_raw_fd(), c"".as_ptr(), flags, &raw const attr, size_of::<MountAttr>())
    })?;
    Ok(fd)
}

/// Replaces the root by an empty, read-only file system. Descriptors that are open stay usable.
///
/// # Errors
/// What the host says; the caller must be in namespaces of its own.
pub fn empty_root() -> io::Result<()> {
    use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};
    rustix::mount::mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    rustix::mount::mount("none", "/tmp", "tmpfs", flags, c"size=4k,mode=755")?;
    rustix::process::chdir("/tmp")?;
    rustix::process::pivot_root(".", ".")?;
    rustix::mount::unmount(".", UnmountFlags::DETACH)?;
    rustix::process::chdir("/")?;
    rustix::mount::mount_remount("/", flags | MountFlags::RDONLY, c"")?;
    Ok(())
}

/// Gives up all capabilities but those of `keep`, for good.
///
/// # Errors
/// What the host says.
pub fn drop_privileges(keep: Privilege) -> io::Result<()> {
    // SAFETY: plain numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0).into())?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0).into())?;
        // No capability comes back by an execve as root.
        check(libc::prctl(libc::PR_SET_SECUREBITS, 0x2f, 0, 0, 0).into())?;
        // Numbers that this kernel doesn't know fail.
        let _ = (0..=63).all(|capability| libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) == 0);
    }
    // struct __user_cap_header_struct (version 3) and two data structs: effective, permitted, inheritable.
    let header = [0x2008_0522u32, 0];
    let data = [keep.bits(), keep.bits(), 0, 0, 0, 0];
    // SAFETY: both are as capset(2) reads them.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) })?;
    Ok(())
}

/// Makes a directory or an empty file at `path` below the directory `root`, and the directories on the way, unless they are there. Symbolic links lead
/// to places below `root` only, whatever they say.
///
/// # Errors
/// What the host says.
pub fn make_place(root: &Path, path: &str, dir: bool) -> io::Result<()> {
    use rustix::fs::{AtFlags, Mode, OFlags, ResolveFlags, mkdirat, openat2, statat};
    let top = std::fs::File::open(root)?;
    let names: Vec<&str> = path.split('/').filter(|name| !name.is_empty() && *name != ".").collect();
    let mut at: OwnedFd = top.try_clone()?.into();
    let mut way = String::new();
    for (i, name) in names.iter().enumerate() {
        let last = i + 1 == names.len();
        way = format!("{way}/{name}");
        let flags = OFlags::PATH | OFlags::CLOEXEC;
        let found = openat2(&top, &*way, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS);
        match found {
            Ok(found) => at = found,
            Err(rustix::io::Errno::NOENT) if statat(&at, *name, AtFlags::SYMLINK_NOFOLLOW).is_ok() => {
                return Err(io::Error::other(format!("{way} is a link that leads nowhere")));
            }
            Err(rustix::io::Errno::NOENT) if last && !dir => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::WRONLY | OFlags::CLOEXEC;
                rustix::fs::openat(&at, *name, flags, Mode::from_raw_mode(0o644))?;
            }
            Err(rustix::io::Errno::NOENT) => {
                mkdirat(&at, *name, Mode::from_raw_mode(0o755))?;
                at = rustix::fs::openat(&at, *name, flags | OFlags::DIRECTORY | OFlags::NOFOLLOW, Mode::empty())?;
            }
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Makes the host kill this process when its parent dies.
pub fn die_with_parent() {
    // SAFETY: plain numbers.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}
