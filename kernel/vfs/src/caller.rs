//! On whose behalf the tree is walked and changed.

use std::sync::Arc;

use abi::{Errno, SysResult};
use auth::Credentials;

use crate::path::{FsContext, Path, Places};
use crate::walk::{Lookup, WalkFlags};

/// Who acts: from where, with which rights, and with which file mode mask. What it may do is decided by this alone.
#[derive(Clone)]
pub struct Caller {
    pub places: Arc<Places>,
    pub who: Arc<Credentials>,
    pub umask: u32,
}

impl Caller {
    #[must_use]
    pub fn new(fs: &FsContext, who: Arc<Credentials>) -> Self {
        Self { places: fs.places(), who, umask: fs.umask() }
    }

    /// Somebody at the root of a tree.
    #[must_use]
    pub fn at_root(root: Path, who: Arc<Credentials>) -> Self {
        Self { places: Arc::new(Places { cwd: root.clone(), root }), who, umask: 0 }
    }

    /// What a path leads to.
    ///
    /// # Errors
    /// As [`Self::walk`]; `ENOENT`.
    pub fn resolve(&self, path: &[u8], flags: WalkFlags) -> SysResult<Path> {
        self.walk(None, path, flags)?.existing()
    }

    /// The place for a new name.
    ///
    /// # Errors
    /// As [`Self::walk`]; `EEXIST`.
    pub fn vacant<'a>(&self, start: Option<&Path>, path: &'a [u8]) -> SysResult<Lookup<'a>> {
        let found = self.walk(start, path, WalkFlags::empty())?;
        if found.found.is_some() { Err(Errno::EEXIST) } else { Ok(found) }
    }
}
