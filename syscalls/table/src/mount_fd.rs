//! Mounts by descriptor: fsopen(2) and what comes after it, open_tree(2), move_mount(2), mount_setattr(2).

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use sync::Mutex;
use task::Current;
use usermem::UserMemoryExt;
use vfs::{
    Dentry, File, FileOps, FileSystemType, MS_NOSYMFOLLOW, Mount, MountOption, MountRequest, Path, Place, PropagationKind,
    WalkFlags,
};

use crate::args::{file, path, place, start, uint};
use crate::mount::{make, own_namespace};
use crate::{Entry, fd, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::FSOPEN, fsopen),
    partial(nr::FSCONFIG, fsconfig, "no parameters that are bytes or descriptors"),
    full(nr::FSMOUNT, fsmount),
    full(nr::FSPICK, fspick),
    full(nr::OPEN_TREE, open_tree),
    partial(nr::MOVE_MOUNT, move_mount, "no MOVE_MOUNT_SET_GROUP, no MOVE_MOUNT_BENEATH"),
    partial(nr::MOUNT_SETATTR, mount_setattr, "no mapped mounts"),
];

/// `OPEN_TREE_CLONE`, `AT_RECURSIVE`
const CLONE: u32 = 1;
const RECURSIVE: u32 = 0x8000;
/// Longest key or value of a parameter.
const MAX_PARAMETER: usize = 256;

/// Attributes of mounts (`MOUNT_ATTR_*`) and their flags.
const ATTRIBUTES: [(u64, u64); 6] = [
    (0x1, c::MS_RDONLY),
    (0x2, c::MS_NOSUID),
    (0x4, c::MS_NODEV),
    (0x8, c::MS_NOEXEC),
    (0x80, c::MS_NODIRATIME),
    (0x20_0000, MS_NOSYMFOLLOW),
];
/// `MOUNT_ATTR__ATIME`
const ATIME: u64 = 0x70;

/// The flags that attributes stand for.
fn flags_of(attributes: u64) -> SysResult<u64> {
    let known = ATTRIBUTES.iter().fold(ATIME, |all, (bit, _)| all | bit);
    if attributes & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let times = match attributes & ATIME {
        0 => c::MS_RELATIME,
        0x10 => c::MS_NOATIME,
        0x20 => 0,
        _ => return Err(Errno::EINVAL),
    };
    Ok(ATTRIBUTES.iter().filter(|(bit, _)| attributes & bit != 0).fold(times, |all, (_, flag)| all | flag))
}

/// How far an instance has come.
enum Phase {
    /// Its parameters are being set.
    Parameters,
    /// It is there.
    Made(Arc<Dentry>),
    /// It is mounted, or was picked where it is: parameters can be changed.
    Mounted(Arc<Dentry>),
}

struct Configuration {
    source: Option<Vec<u8>>,
    options: Vec<MountOption>,
    flags: u64,
    phase: Phase,
}

/// A filesystem being configured.
struct FsContext {
    kind: Option<Arc<dyn FileSystemType>>,
    state: Mutex<Configuration>,
}

impl FsContext {
    fn new(kind: Option<Arc<dyn FileSystemType>>, flags: u64, phase: Phase) -> Self {
        Self { kind, state: Mutex::new(Configuration { source: None, options: Vec::new(), flags, phase }) }
    }
}

impl FileOps for FsContext {
    fn describe(&self) -> String {
        "anon_inode:[fscontext]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

/// A tree of mounts that is at no place, as long as nobody moves it to one.
struct Tree(Arc<Mount>);

impl FileOps for Tree {
    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Drop for Tree {
    fn drop(&mut self) {
        vfs::dissolve(&self.0);
    }
}

fn install(t: &Current, ops: Arc<dyn FileOps>, at: Option<Path>, cloexec: bool) -> SysResult<u64> {
    let flags = if at.is_some() { c::O_PATH } else { c::O_RDWR };
    fd::install(t, File::new(ops, at, flags), cloexec, 0)
}

fn fsopen(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    own_namespace(t)?;
    if uint(a[1]) & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let kind = t.task.kernel.filesystems.get(&path(t, a[0])?)?;
    install(t, Arc::new(FsContext::new(Some(kind), 0, Phase::Parameters)), None, uint(a[1]) == 1)
}

fn fspick(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const KNOWN: u32 = 0xf;
    own_namespace(t)?;
    let flags = uint(a[2]);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let at = find(t, a[0], a[1], flags & 8 != 0, flags & 2 == 0)?;
    if !Arc::ptr_eq(&at.dentry, at.mount.root()) {
        return Err(Errno::EINVAL);
    }
    let picked = FsContext::new(None, at.mount.superblock().flags(), Phase::Mounted(at.dentry.clone()));
    install(t, Arc::new(picked), None, flags & 1 != 0)
}

/// Flags of a filesystem that are parameters by name.
fn flag_of(name: &[u8]) -> Option<(u64, bool)> {
    match name {
        b"ro" => Some((c::MS_RDONLY, true)),
        b"rw" => Some((c::MS_RDONLY, false)),
        b"sync" => Some((c::MS_SYNCHRONOUS, true)),
        b"async" => Some((c::MS_SYNCHRONOUS, false)),
        b"dirsync" => Some((c::MS_DIRSYNC, true)),
        _ => None,
    }
}

fn fsconfig(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const SET_FLAG: u32 = 0;
    const SET_STRING: u32 = 1;
    const SET_PATH: u32 = 3;
    const CREATE: u32 = 6;
    const RECONFIGURE: u32 = 7;
    const CREATE_EXCL: u32 = 8;
    let file = file(t, a[0])?;
    let context = file.ops.as_any().downcast_ref::<FsContext>().ok_or(Errno::EINVAL)?;
    let (key, value) = (a[2], a[3]);
    let word = |addr: u64| {
        t.mm.read_cstr(addr, MAX_PARAMETER).map_err(|errno| if errno == Errno::ENAMETOOLONG { Errno::EINVAL } else { errno })
    };
    let mut state = context.state.lock();
    match uint(a[1]) {
        SET_FLAG if key != 0 && value == 0 && a[4] == 0 => {
            let name = word(key)?;
            match flag_of(&name) {
                Some((flag, true)) => state.flags |= flag,
                Some((flag, false)) => state.flags &= !flag,
                None => state.options.push(MountOption { name, value: None }),
            }
        }
        SET_STRING | SET_PATH if key != 0 && value != 0 => {
            let (name, value) = (word(key)?, t.mm.read_cstr(value, 4096)?);
            if name == b"source" {
                if state.source.is_some() {
                    return Err(Errno::EINVAL);
                }
                state.source = Some(value);
            } else {
                state.options.push(MountOption { name, value: Some(value) });
            }
        }
        CREATE | CREATE_EXCL if key == 0 && value == 0 && a[4] == 0 => {
            if !matches!(state.phase, Phase::Parameters) {
                return Err(Errno::EBUSY);
            }
            own_namespace(t)?;
            let (kind, caller) = (context.kind.as_ref().ok_or(Errno::EBUSY)?, t.caller());
            let source = state.source.clone().unwrap_or_default();
            let options = std::mem::take(&mut state.options);
            let request = MountRequest { source: &source, options, flags: state.flags, caller: &caller };
            state.phase = Phase::Made(make(&**kind, &request)?);
        }
        RECONFIGURE if key == 0 && value == 0 && a[4] == 0 => {
            let Phase::Mounted(root) = &state.phase else { return Err(Errno::EBUSY) };
            own_namespace(t)?;
            root.superblock().reconfigure(state.flags, &state.options)?;
            state.options.clear();
        }
        2 | 4 | 5 => return Err(Errno::EOPNOTSUPP),
        0..=8 => return Err(Errno::EINVAL),
        _ => return Err(Errno::EOPNOTSUPP),
    }
    Ok(0)
}

fn fsmount(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    own_namespace(t)?;
    if uint(a[1]) & !1 != 0 {
        return Err(Errno::EINVAL);
    }
    let flags = flags_of(uint(a[2]).into())?;
    let file = file(t, a[0])?;
    let context = file.ops.as_any().downcast_ref::<FsContext>().ok_or(Errno::EINVAL)?;
    let mut state = context.state.lock();
    let root = match &state.phase {
        Phase::Parameters => return Err(Errno::EINVAL),
        Phase::Made(root) => root.clone(),
        Phase::Mounted(_) => return Err(Errno::EBUSY),
    };
    let mount = Mount::new(root.clone(), state.source.as_deref().unwrap_or(b"none"), flags);
    state.phase = Phase::Mounted(root);
    drop(state);
    let at = Path::root_of(&mount);
    install(t, Arc::new(Tree(mount)), Some(at), uint(a[1]) == 1)
}

/// A place by descriptor and path.
fn find(t: &Current, dirfd: u64, addr: u64, empty: bool, follow: bool) -> SysResult<Path> {
    let path = path(t, addr)?;
    if path.is_empty() && empty {
        return place(t, dirfd);
    }
    let start = start(t, dirfd, &path)?;
    t.caller().walk(start.as_ref(), &path, WalkFlags::follow(follow))?.existing()
}

fn open_tree(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let flags = uint(a[2]);
    let at_flags = (c::AT_EMPTY_PATH | c::AT_NO_AUTOMOUNT | c::AT_SYMLINK_NOFOLLOW).cast_unsigned();
    let known = at_flags | RECURSIVE | CLONE | c::O_CLOEXEC.cast_unsigned();
    if flags & !known != 0 || flags & (RECURSIVE | CLONE) == RECURSIVE {
        return Err(Errno::EINVAL);
    }
    let namespace = if flags & CLONE != 0 { Some(own_namespace(t)?) } else { None };
    let has = |flag: i32| flags & flag.cast_unsigned() != 0;
    let at = find(t, a[0], a[1], has(c::AT_EMPTY_PATH), !has(c::AT_SYMLINK_NOFOLLOW))?;
    let Some(namespace) = namespace else { return install(t, Arc::new(Place), Some(at), has(c::O_CLOEXEC)) };
    let copy = namespace.copy_of(&at, flags & RECURSIVE != 0)?;
    let root = Path::root_of(&copy);
    install(t, Arc::new(Tree(copy)), Some(root), has(c::O_CLOEXEC))
}

fn move_mount(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const KNOWN: u32 = 0x77;
    let namespace = own_namespace(t)?;
    let flags = uint(a[4]);
    if flags & !KNOWN != 0 {
        return Err(Errno::EINVAL);
    }
    let from = find(t, a[0], a[1], flags & 0x4 != 0, flags & 0x1 != 0)?;
    let to = find(t, a[2], a[3], flags & 0x40 != 0, flags & 0x10 != 0)?;
    namespace.move_mount(&from, &to).map(|()| 0)
}

/// `struct mount_attr`: what to set, what to clear, propagation, user namespace.
fn mount_setattr(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const SIZE: u64 = 32;
    let flags = uint(a[2]);
    let at_flags = (c::AT_EMPTY_PATH | c::AT_NO_AUTOMOUNT | c::AT_SYMLINK_NOFOLLOW).cast_unsigned();
    if flags & !(at_flags | RECURSIVE) != 0 || a[4] < SIZE {
        return Err(Errno::EINVAL);
    }
    if a[4] > 4096 {
        return Err(Errno::E2BIG);
    }
    let namespace = own_namespace(t)?;
    let [set, clear, propagation, _]: [u64; 4] = t.mm.read_obj(a[3])?;
    let mut rest = vec![0; usize::try_from(a[4] - SIZE).map_err(|_| Errno::E2BIG)?];
    t.mm.read(a[3].checked_add(SIZE).ok_or(Errno::EFAULT)?, &mut rest)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let kind = match propagation {
        0 => None,
        c::MS_SHARED => Some(PropagationKind::Shared),
        c::MS_PRIVATE => Some(PropagationKind::Private),
        c::MS_SLAVE => Some(PropagationKind::Slave),
        c::MS_UNBINDABLE => Some(PropagationKind::Unbindable),
        _ => return Err(Errno::EINVAL),
    };
    let times = clear & ATIME == ATIME;
    if (clear | set) & ATIME != 0 && !times {
        return Err(Errno::EINVAL);
    }
    let every = c::MS_RELATIME | c::MS_NOATIME;
    let (mut on, mut off) = (flags_of(set)? & !every, flags_of(clear & !ATIME)? & !every);
    if times {
        (on, off) = (on | flags_of(set)? & every, off | every);
    }
    let at =
        find(t, a[0], a[1], flags & c::AT_EMPTY_PATH.cast_unsigned() != 0, flags & c::AT_SYMLINK_NOFOLLOW.cast_unsigned() == 0)?;
    namespace.set_attributes(&at, flags & RECURSIVE != 0, on, off, kind).map(|()| 0)
}
