//! Host and domain names (uts_namespaces(7)).

use std::sync::Arc;

use abi::{Errno, SysResult};
use auth::{UserNamespace, new_inum};
use sync::{Changes, Mutex};

/// Longest name (`__NEW_UTS_LEN`).
pub const MAX_NAME: usize = 64;
/// `PROC_UTS_INIT_INO`
const FIRST_INUM: u64 = 0xefff_fffe;

/// A namespace of names.
pub struct UtsNamespace {
    pub ino: u64,
    pub user_ns: Arc<UserNamespace>,
    names: Mutex<Names>,
    /// Of the names (poll(2) on /proc/sys/kernel/hostname).
    pub changes: Changes,
}

/// What uname(2) says and may change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    pub host: Vec<u8>,
    pub domain: Vec<u8>,
}

impl UtsNamespace {
    /// The first.
    #[must_use]
    pub fn initial(user_ns: Arc<UserNamespace>) -> Arc<Self> {
        let names = Names { host: b"palisade".to_vec(), domain: b"(none)".to_vec() };
        Arc::new(Self { ino: FIRST_INUM, user_ns, names: Mutex::new(names), changes: Changes::default() })
    }

    /// A copy.
    #[must_use]
    pub fn copy(&self, user_ns: Arc<UserNamespace>) -> Arc<Self> {
        let names = Mutex::new(self.names());
        Arc::new(Self { ino: new_inum(), user_ns, names, changes: Changes::default() })
    }

    #[must_use]
    pub fn names(&self) -> Names {
        self.names.lock().clone()
    }

    /// # Errors
    /// `EINVAL` when it is too long.
    pub fn set_host(&self, name: Vec<u8>) -> SysResult<()> {
        if name.len() > MAX_NAME {
            return Err(Errno::EINVAL);
        }
        self.names.lock().host = name;
        self.changes.note();
        Ok(())
    }

    /// # Errors
    /// `EINVAL` when it is too long.
    pub fn set_domain(&self, name: Vec<u8>) -> SysResult<()> {
        if name.len() > MAX_NAME {
            return Err(Errno::EINVAL);
        }
        self.names.lock().domain = name;
        self.changes.note();
        Ok(())
    }
}
