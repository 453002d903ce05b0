//! Files about a process's user namespace, which can be written to (user_namespaces(7)).

use abi::{Errno, SysResult};
use auth::{Capability, Credentials, MapKind};

use crate::Proc;
use crate::process::View;

fn owner(view: &View) -> SysResult<std::sync::Arc<Credentials>> {
    view.task.as_ref().map(|task| task.credentials()).ok_or(Errno::ESRCH)
}

/// The text of a map, in the numbers of who reads it.
pub fn map(proc: &Proc, view: &View, kind: MapKind) -> SysResult<Vec<u8>> {
    let ns = owner(view)?.user_ns.clone();
    let reader = proc.caller().map_or_else(|| ns.clone(), |task| task.credentials().user_ns.clone());
    Ok(ns.map_text(kind, &reader).into_bytes())
}

pub fn setgroups(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    Ok(owner(view)?.user_ns.setgroups_text().into())
}

/// Sets a map; `opener` has opened the file.
fn write_map(proc: &Proc, view: &View, text: &[u8], opener: &Credentials, kind: MapKind) -> SysResult<()> {
    let writer = proc.caller().ok_or(Errno::EPERM)?.credentials();
    owner(view)?.user_ns.write_map(kind, text, opener, &writer)
}

pub fn write_uid_map(proc: &Proc, view: &View, text: &[u8], opener: &Credentials) -> SysResult<()> {
    write_map(proc, view, text, opener, MapKind::Users)
}

pub fn write_gid_map(proc: &Proc, view: &View, text: &[u8], opener: &Credentials) -> SysResult<()> {
    write_map(proc, view, text, opener, MapKind::Groups)
}

pub fn write_setgroups(_: &Proc, view: &View, text: &[u8], opener: &Credentials) -> SysResult<()> {
    let ns = owner(view)?.user_ns.clone();
    if !opener.has_capability_in(&ns, Capability::SYS_ADMIN) {
        return Err(Errno::EACCES);
    }
    ns.write_setgroups(text)
}
