//! Files in memory without a name (memfd_create(2)).

use std::sync::{Arc, OnceLock};

use abi::SysResult;
use auth::Credentials;
use vfs::{File, Mount, NewNode, Path};

use crate::node::Node;
use crate::superblock::Super;

/// What can be forbidden for good (`F_SEAL_*` of fcntl(2)).
pub mod seal {
    /// More seals.
    pub const SEAL: u32 = 1;
    pub const SHRINK: u32 = 2;
    pub const GROW: u32 = 4;
    /// Any change of what it holds.
    pub const WRITE: u32 = 8;
    /// Changes by other ways than mappings that there are.
    pub const FUTURE_WRITE: u32 = 16;
    /// Changes of who may run it.
    pub const EXEC: u32 = 32;
    pub const ALL: u32 = 63;
}

/// The instance that all of them are in, and its root as a place.
fn instance() -> SysResult<&'static (Arc<Super>, Path)> {
    static INSTANCE: OnceLock<(Arc<Super>, Path)> = OnceLock::new();
    if let Some(instance) = INSTANCE.get() {
        return Ok(instance);
    }
    let fs = Super::internal();
    let root = fs.clone().root("tmpfs")?;
    Ok(INSTANCE.get_or_init(|| (fs, Path::root_of(&Mount::new(root, b"tmpfs", 0)))))
}

/// A new file of `who`, open with `flags`, which /proc shows as `name`.
///
/// # Errors
/// `ENOMEM`
pub fn memfd(who: &Credentials, name: &[u8], flags: i32, mode: u32, seals: u32) -> SysResult<Arc<File>> {
    let (fs, root) = instance()?;
    let node = NewNode { uid: who.fsuid.0, gid: who.fsgid.0, ..NewNode::plain(abi::c::S_IFREG | mode) };
    let node = Node::sealed(fs, &node, seals)?;
    node.lose_name();
    let dentry = root.dentry.unlinked(&[b"memfd:", name].concat(), node.clone())?;
    Ok(File::new(node, Some(root.with(dentry)), flags))
}
