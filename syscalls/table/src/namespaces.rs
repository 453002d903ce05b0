//! Namespaces (namespaces(7)).

use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::UserNamespace;
use task::{Current, Namespace, NsFile};
use usermem::UserMemoryExt;
use vfs::{File, FileOps};

use crate::args::{file, int};
use crate::fd::install;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[
    partial(nr::UNSHARE, |t, a| t.unshare(int(a[0]).cast_unsigned().into()).map(|()| 0), "no time namespaces"),
    partial(nr::SETNS, setns, "no pidfds, no time namespaces"),
];

fn setns(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (file, kind) = (file(t, a[0])?, int(a[1]));
    let namespace = file.ops.as_any().downcast_ref::<NsFile>().ok_or(Errno::EINVAL)?;
    if kind != 0 && kind != namespace.0.flag() {
        return Err(Errno::EINVAL);
    }
    t.enter(&namespace.0).map(|()| 0)
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
