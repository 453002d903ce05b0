//! Files that are run aren't written to, and the other way round (execve(2), open(2): `ETXTBSY`).

use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};

use abi::{Errno, SysResult};

use crate::inode::Inode;
use crate::path::Path;

/// How many have an inode open for writing; below zero: how many run it.
#[derive(Default)]
pub struct Writers(AtomicI32);

impl Writers {
    fn count(&self, by: i32) -> SysResult<()> {
        let fits = |now: i32| if now.signum() == -by { None } else { now.checked_add(by) };
        self.0.fetch_update(Ordering::AcqRel, Ordering::Acquire, fits).map(drop).map_err(|_| Errno::ETXTBSY)
    }

    fn forget(&self, by: i32) {
        self.0.fetch_sub(by, Ordering::AcqRel);
    }
}

/// Keeps an inode from being run (1), or from being written to (-1).
struct Claim(Arc<dyn Inode>, i32);

impl Claim {
    fn new(inode: &Arc<dyn Inode>, by: i32) -> SysResult<Self> {
        if let Some(writers) = inode.writers() {
            writers.count(by)?;
        }
        Ok(Self(inode.clone(), by))
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        if let Some(writers) = self.0.writers() {
            writers.forget(self.1);
        }
    }
}

/// Somebody writes to an inode: nobody runs it.
pub(crate) struct Writing(#[expect(dead_code, reason = "held for its end")] Claim);

impl Writing {
    /// # Errors
    /// `ETXTBSY`
    pub fn new(inode: &Arc<dyn Inode>) -> SysResult<Self> {
        Claim::new(inode, 1).map(Self)
    }
}

/// A file that is run: nobody opens it for writing as long as there are copies of this.
#[derive(Clone)]
pub struct Running {
    pub path: Path,
    _claim: Arc<Claim>,
}

impl Running {
    /// # Errors
    /// `ETXTBSY` when it is open for writing.
    pub fn new(path: &Path) -> SysResult<Self> {
        Ok(Self { path: path.clone(), _claim: Arc::new(Claim::new(path.inode(), -1)?) })
    }
}
