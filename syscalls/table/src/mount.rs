//! Mounts: mount(2), umount2(2), pivot_root(2), chroot(2).

use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::Capability;
use task::Current;
use usermem::UserMemoryExt;
use vfs::{
    Caller, FileSystemType, MOUNT_FLAGS, Mount, MountNamespace, MountOption, MountRequest, Path, PropagationKind, SB_FLAGS,
    WalkFlags,
};

use crate::args::{int, path, walk};
use crate::path::CWD;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::MOUNT, mount),
    full(nr::UMOUNT2, |t, a| umount(t, a[0], int(a[1]))),
    full(nr::PIVOT_ROOT, pivot_root),
    full(nr::CHROOT, |t, a| {
        let root = walk(t, CWD, a[0], true)?;
        if !root.dentry.is_dir() {
            return Err(Errno::ENOTDIR);
        }
        t.caller().access(&root, vfs::Access::EXEC)?;
        let who = t.credentials();
        if !who.has_capability_in(&who.user_ns, Capability::SYS_CHROOT) {
            return Err(Errno::EPERM);
        }
        t.fs.set_root(root).map(|()| 0)
    }),
];

/// `MS_NOUSER`: internal mounts, which nobody makes by a call.
const MS_NOUSER: u64 = 1 << 31;
/// Bytes of options at most (a page).
const MAX_OPTIONS: usize = 4096;

/// The caller's mounts, if it may change them.
///
/// # Errors
/// `EPERM`
pub fn own_namespace(t: &Current) -> SysResult<Arc<MountNamespace>> {
    let namespace = t.mount_ns();
    // Who has given up places must not get at them by others.
    let landlocked = t.credentials().domain.is_some();
    if !landlocked && t.credentials().has_capability_in(namespace.owner(), Capability::SYS_ADMIN) {
        Ok(namespace)
    } else {
        Err(Errno::EPERM)
    }
}

/// A word that may be missing.
fn word(t: &Current, addr: u64) -> SysResult<Option<Vec<u8>>> {
    if addr == 0 {
        return Ok(None);
    }
    let text = t.mm.read_cstr(addr, MAX_OPTIONS).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Errno::EINVAL,
        errno => errno,
    })?;
    Ok(Some(text))
}

/// The flags of a mount that mount(2) asks for.
fn mount_flags(flags: u64) -> u64 {
    let mut own = flags & MOUNT_FLAGS;
    if flags & c::MS_NOATIME == 0 {
        own |= c::MS_RELATIME;
    }
    if flags & c::MS_STRICTATIME != 0 {
        own &= !(c::MS_RELATIME | c::MS_NOATIME);
    }
    own
}

fn mount(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const MAGIC: u64 = 0xc0ed_0000;
    const MAGIC_MASK: u64 = 0xffff_0000;
    let kind = word(t, a[2])?;
    let source = word(t, a[0])?;
    let options = word(t, a[4])?.unwrap_or_default();
    let flags = if a[3] & MAGIC_MASK == MAGIC { a[3] & !MAGIC_MASK } else { a[3] };
    let at = walk(t, CWD, a[1], true)?;
    let namespace = own_namespace(t)?;
    if flags & MS_NOUSER != 0 {
        return Err(Errno::EINVAL);
    }
    let changes = c::MS_SHARED | c::MS_PRIVATE | c::MS_SLAVE | c::MS_UNBINDABLE;
    let result = if flags & c::MS_REMOUNT != 0 {
        remount(&at, &namespace, flags, &options)
    } else if flags & c::MS_BIND != 0 {
        bind(&t.caller(), &source.unwrap_or_default(), &at, &namespace, flags & c::MS_REC != 0)
    } else if flags & changes != 0 {
        propagation(flags).and_then(|kind| namespace.set_propagation(&at, kind, flags & c::MS_REC != 0))
    } else if flags & c::MS_MOVE != 0 {
        let from = t.caller().resolve(&source.unwrap_or_default(), WalkFlags::FOLLOW)?;
        if from.mount.namespace().is_none() { Err(Errno::EINVAL) } else { namespace.move_mount(&from, &at) }
    } else {
        let kind = t.task.kernel.filesystems.get(&kind.ok_or(Errno::EINVAL)?)?;
        let caller = t.caller();
        let options = MountOption::parse(&options);
        let request = MountRequest { source: &source.unwrap_or_default(), options, flags, caller: &caller };
        new_mount(&*kind, &request, &at, &namespace)
    };
    result.map(|()| 0)
}

/// The one change that flags ask for.
fn propagation(flags: u64) -> SysResult<PropagationKind> {
    match flags & !(c::MS_REC | c::MS_SILENT) {
        c::MS_SHARED => Ok(PropagationKind::Shared),
        c::MS_PRIVATE => Ok(PropagationKind::Private),
        c::MS_SLAVE => Ok(PropagationKind::Slave),
        c::MS_UNBINDABLE => Ok(PropagationKind::Unbindable),
        _ => Err(Errno::EINVAL),
    }
}

fn new_mount(kind: &dyn FileSystemType, request: &MountRequest<'_>, at: &Path, namespace: &MountNamespace) -> SysResult<()> {
    let root = make(kind, request)?;
    if MountNamespace::is_repeated(&root, at) {
        return Err(Errno::EBUSY);
    }
    namespace.mount(&Mount::new(root, request.source, mount_flags(request.flags)), at)
}

/// Makes an instance of a filesystem, as flags and caller want it.
pub fn make(kind: &dyn FileSystemType, request: &MountRequest<'_>) -> SysResult<Arc<vfs::Dentry>> {
    let inside = request.caller.who.user_ns.level() > 0;
    if inside && !kind.mounted_by_users() {
        return Err(Errno::EPERM);
    }
    let root = kind.mount(request)?;
    if inside {
        // Whoever is root only there must not get at devices by making their nodes.
        root.superblock().forbid_devices();
    }
    // One that is mounted elsewhere stays as it is.
    if request.flags & SB_FLAGS != 0 && !root.superblock().is_mounted() {
        root.superblock().set_flags(request.flags);
    }
    Ok(root)
}

fn remount(at: &Path, namespace: &MountNamespace, flags: u64, options: &[u8]) -> SysResult<()> {
    if !Arc::ptr_eq(&at.dentry, at.mount.root()) || !at.mount.belongs_to(namespace) {
        return Err(Errno::EINVAL);
    }
    let times = c::MS_NOATIME | c::MS_NODIRATIME | c::MS_RELATIME | c::MS_STRICTATIME;
    let mut own = mount_flags(flags);
    if flags & times == 0 {
        own = own & !times | at.mount.flags() & times;
    }
    if flags & c::MS_BIND == 0 {
        at.mount.superblock().reconfigure(flags, &MountOption::parse(options))?;
    }
    at.mount.set_flags(own)?;
    namespace.announce();
    Ok(())
}

fn bind(caller: &Caller, source: &[u8], at: &Path, namespace: &MountNamespace, recursive: bool) -> SysResult<()> {
    if source.is_empty() {
        return Err(Errno::EINVAL);
    }
    let from = caller.resolve(source, WalkFlags::FOLLOW)?;
    let copy = namespace.copy_of(&from, recursive)?;
    drop(from);
    namespace.mount(&copy, at).inspect_err(|_| vfs::dissolve(&copy))
}

fn umount(t: &mut Current, addr: u64, flags: i32) -> SysResult<u64> {
    let known = c::MNT_FORCE | c::MNT_DETACH | c::MNT_EXPIRE | c::UMOUNT_NOFOLLOW;
    if flags & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let how = WalkFlags::KEEP_EXPIRING | WalkFlags::follow(flags & c::UMOUNT_NOFOLLOW == 0);
    let mut at = t.caller().resolve(&path(t, addr)?, how)?;
    // `.` stands for what is on top of it, too.
    at.enter_mounts();
    let namespace = own_namespace(t)?;
    if flags & c::MNT_EXPIRE != 0 {
        if flags & (c::MNT_FORCE | c::MNT_DETACH) != 0 {
            return Err(Errno::EINVAL);
        }
        return namespace.expire(&at).map(|()| 0);
    }
    namespace.unmount(&at, flags & c::MNT_DETACH != 0).map(|()| 0)
}

fn pivot_root(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let namespace = own_namespace(t)?;
    let directory = |addr| {
        let at = walk(t, CWD, addr, true)?;
        if at.dentry.is_dir() { Ok(at) } else { Err(Errno::ENOTDIR) }
    };
    let (new, old) = (directory(a[0])?, directory(a[1])?);
    let root = t.fs.places().root.clone();
    namespace.pivot_root(&root, &new, &old)?;
    // Whoever has had the old root as its own has the new one now.
    let tasks: Vec<_> = t.task.kernel.tasks.lock().values().cloned().collect();
    for task in tasks {
        let fs = task.lock().fs.clone();
        let places = fs.places();
        if places.root.same(&root) || places.cwd.same(&root) {
            fs.update(|places| {
                for place in [&mut places.root, &mut places.cwd] {
                    if place.same(&root) {
                        *place = new.clone();
                    }
                }
            });
        }
    }
    Ok(0)
}
