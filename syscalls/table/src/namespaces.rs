//! Namespaces (namespaces(7)).

use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::UserNamespace;
use task::{Access, Current, Group, Namespace, NsFile, PidFd};
use usermem::UserMemoryExt;
use vfs::{File, FileOps};

use crate::args::{file, int};
use crate::fd::install;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::UNSHARE, |t, a| t.unshare(int(a[0]).cast_unsigned().into()).map(|()| 0), "no time namespaces"),
    partial(nr::SETNS, setns, "no time namespaces"),
];

fn setns(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (file, kind) = (file(t, a[0])?, int(a[1]));
    if let Some(NsFile(namespace)) = file.ops.as_any().downcast_ref() {
        let named = kind == 0 || kind == namespace.flag();
        return if named { t.enter(std::slice::from_ref(namespace)).map(|()| 0) } else { Err(Errno::EINVAL) };
    }
    let group = PidFd::of(&file).ok_or(Errno::EINVAL)?;
    let known = KINDS.iter().fold(0, |known, (flag, _)| known | flag);
    if kind == 0 || kind & !known != 0 {
        return Err(Errno::EINVAL);
    }
    let namespaces = namespaces_of(t, group, kind)?;
    t.enter(&namespaces).map(|()| 0)
}

/// Kinds of namespaces in the order in which they are entered, with the names of their links in /proc/pid/ns.
const KINDS: [(i32, &str); 7] = [
    (c::CLONE_NEWUSER, "user"),
    (c::CLONE_NEWNS, "mnt"),
    (c::CLONE_NEWUTS, "uts"),
    (c::CLONE_NEWIPC, "ipc"),
    (c::CLONE_NEWPID, "pid"),
    (c::CLONE_NEWCGROUP, "cgroup"),
    (c::CLONE_NEWNET, "net"),
];

/// The namespaces of a process that `kinds` (`CLONE_NEW*`) name.
///
/// # Errors
/// `ESRCH` when it has ended; `EPERM` when the caller may not look into it.
fn namespaces_of(t: &Current, group: &Group, kinds: i32) -> SysResult<Vec<Namespace>> {
    let threads = group.threads();
    let leader = threads.iter().find(|task| task.is_leader()).or(threads.first()).filter(|_| !group.is_zombie());
    let task = leader.ok_or(Errno::ESRCH)?;
    if !t.task.may_access(task, Access::Real) {
        return Err(Errno::EPERM);
    }
    let wanted = KINDS.iter().filter(|(flag, _)| kinds & flag != 0);
    wanted.map(|(_, name)| task.namespace(name).ok_or(Errno::ESRCH)).collect()
}

const NS_GET_USERNS: u32 = 0xb701;
const NS_GET_PARENT: u32 = 0xb702;
const NS_GET_NSTYPE: u32 = 0xb703;
const NS_GET_OWNER_UID: u32 = 0xb704;

/// ioctl_ns(2); `None` when the file is no namespace.
pub fn ns_ioctl(t: &Current, file: &File, cmd: u32, arg: u64) -> Option<SysResult<u64>> {
    let NsFile(namespace) = file.ops.as_any().downcast_ref::<NsFile>()?;
    let own = &t.credentials().user_ns;
    Some(match cmd {
        NS_GET_NSTYPE => Ok(namespace.flag().cast_unsigned().into()),
        NS_GET_USERNS => open_user(t, namespace.owner()),
        NS_GET_PARENT => match namespace {
            Namespace::User(ns) => open_user(t, ns.parent()),
            // What is around the caller's own is out of its sight.
            Namespace::Pid(ns) => match ns.parent().filter(|parent| t.pid_ns().holds(parent)) {
                Some(parent) => open(t, Namespace::Pid(parent.clone())),
                None => Err(Errno::EPERM),
            },
            _ => Err(Errno::EINVAL),
        },
        NS_GET_OWNER_UID => match namespace {
            Namespace::User(ns) => t.mm.write_obj(arg, &own.from_kuid_munged(ns.owner().0)).map(|()| 0),
            _ => Err(Errno::EINVAL),
        },
        _ => Err(Errno::ENOTTY),
    })
}

/// A descriptor of a user namespace, which must be the caller's or one below it.
fn open_user(t: &Current, ns: Option<&Arc<UserNamespace>>) -> SysResult<u64> {
    let ns = ns.filter(|ns| t.credentials().user_ns.holds(ns)).ok_or(Errno::EPERM)?;
    open(t, Namespace::User(ns.clone()))
}

fn open(t: &Current, namespace: Namespace) -> SysResult<u64> {
    let (path, ops): (_, Arc<dyn FileOps>) = (namespace.path()?, Arc::new(NsFile(namespace)));
    install(t, File::new(ops, Some(path), c::O_RDONLY), true, 0)
}
