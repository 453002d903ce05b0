//! What sockets learn of a task.

use std::sync::Arc;

use abi::{Errno, SysResult, c};
use auth::{Capability, Kgid, Kuid};
use socket::{Caller, Credentials, Endpoint};
use task::Current;
use vfs::{Access, File, WalkFlags};

/// The calling task.
pub struct TaskCaller<'a>(pub &'a Current);

impl Caller for TaskCaller<'_> {
    fn credentials(&self) -> Credentials {
        let who = self.0.credentials();
        Credentials { pid: self.0.task.group.pid, uid: who.euid.0, gid: who.egid.0 }
    }

    fn groups(&self) -> Arc<[Kgid]> {
        self.0.credentials().groups.clone()
    }

    fn capable(&self, capability: Capability) -> bool {
        let net = self.0.task.lock().ns.net.clone();
        self.0.credentials().has_capability_in(net.user_ns(), capability)
    }

    fn file(&self, fd: i32) -> SysResult<Arc<File>> {
        self.0.fds.get(fd)
    }

    fn bind_path(&self, path: &[u8], endpoint: Endpoint) -> SysResult<()> {
        let caller = self.0.caller();
        let in_use = |errno| if errno == Errno::EEXIST { Errno::EADDRINUSE } else { errno };
        let at = caller.vacant(None, path).map_err(in_use)?;
        let made = caller.create(&at, c::S_IFSOCK | 0o777, 0, Vec::new()).map_err(in_use)?;
        *made.inode().endpoint().ok_or(Errno::EPERM)?.lock() = Some(endpoint);
        Ok(())
    }

    fn find_path(&self, path: &[u8]) -> SysResult<Endpoint> {
        let (caller, at) = (self.0.caller(), self.0.caller().resolve(path, WalkFlags::FOLLOW)?);
        caller.access(&at, Access::WRITE)?;
        let endpoint = at.inode().endpoint().ok_or(Errno::ECONNREFUSED)?.lock().clone();
        endpoint.ok_or(Errno::ECONNREFUSED)
    }
}

/// Credentials as a task's namespaces number them.
pub fn seen_by(t: &Current, credentials: Credentials) -> Credentials {
    let ns = &t.credentials().user_ns;
    let (uid, gid) = (ns.from_kuid_munged(Kuid(credentials.uid)), ns.from_kgid_munged(Kgid(credentials.gid)));
    Credentials { pid: t.local(credentials.pid), uid, gid }
}
