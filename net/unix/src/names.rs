//! The Unix sockets of a network namespace.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use sync::Mutex;

use crate::address::Address;
use crate::socket::{Kind, Unix};

/// Type and name.
type Key = (i32, Vec<u8>);

/// Abstract names, which are apart for each type, and all sockets, by inode number.
#[derive(Default)]
pub struct Names {
    table: Mutex<BTreeMap<Key, Weak<Unix>>>,
    sockets: Mutex<BTreeMap<u64, Weak<Unix>>>,
}

impl Names {
    /// Binds a socket to an abstract name, or to one of its own choice: five hexadecimal digits (unix(7), "Autobind feature").
    ///
    /// # Errors
    /// `EADDRINUSE`; `EINVAL` when it has a name; `ENOSPC` when all automatic names are taken.
    pub(crate) fn bind(&self, socket: &Arc<Unix>, name: Option<&[u8]>) -> SysResult<()> {
        let mut table = self.table.lock();
        let key = |name: Vec<u8>| (socket.kind().raw(), name);
        let taken = |name: &[u8]| table.contains_key(&key(name.to_vec()));
        let name = match name {
            Some(name) if taken(name) => return Err(Errno::EADDRINUSE),
            Some(name) => name.to_vec(),
            None => {
                let start = u32::try_from(socket.ino() & 0xf_ffff).unwrap_or(0);
                let all = (0..0x10_0000).map(|i| format!("{:05x}", (start + i) & 0xf_ffff).into_bytes());
                all.into_iter().find(|name| !taken(name)).ok_or(Errno::ENOSPC)?
            }
        };
        socket.set_address(Address::Abstract(name.clone()))?;
        table.insert(key(name), Arc::downgrade(socket));
        Ok(())
    }

    /// The socket of a type that is bound to an abstract name.
    pub(crate) fn find(&self, kind: Kind, name: &[u8]) -> Option<Arc<Unix>> {
        self.table.lock().get(&(kind.raw(), name.to_vec())).and_then(Weak::upgrade)
    }

    pub(crate) fn enter(&self, socket: &Arc<Unix>) {
        self.sockets.lock().insert(socket.ino(), Arc::downgrade(socket));
    }

    pub(crate) fn leave(&self, socket: &Unix) {
        self.sockets.lock().remove(&socket.ino());
        // A connection has its listener's name without owning it.
        if let Some(Address::Abstract(name)) = socket.address() {
            let key = (socket.kind().raw(), name.clone());
            let mut table = self.table.lock();
            if table.get(&key).is_some_and(|owner| owner.ptr_eq(&socket.itself)) {
                table.remove(&key);
            }
        }
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> Vec<Arc<Unix>> {
        // Upgraded under the lock, dropped outside: the last one to go takes the lock.
        self.sockets.lock().values().filter_map(Weak::upgrade).collect()
    }

    /// Sockets that there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.sockets.lock().len()
    }

    /// /proc/net/unix
    #[must_use]
    pub fn text(&self) -> Vec<u8> {
        let mut out = b"Num       RefCount Protocol Flags    Type St Inode Path\n".to_vec();
        for socket in self.all() {
            let mut line = String::new();
            let (flags, state) = socket.status();
            let kind = socket.kind().raw();
            let _ = write!(line, "{:016x}: {:08X} {:08X} {flags:08X} {kind:04X} {state:02X} {:5}", 0, 2, 0, socket.ino());
            out.extend_from_slice(line.as_bytes());
            if let Some(address) = socket.address() {
                out.push(b' ');
                out.extend_from_slice(&address.shown());
            }
            out.push(b'\n');
        }
        out
    }
}
