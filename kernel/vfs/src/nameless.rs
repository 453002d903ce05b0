//! Open files without a name, found again by way of /proc/pid/fd (proc(5)): pipes, and what the sandbox was given.

use std::sync::Arc;

use abi::{SysResult, c};
use auth::Credentials;

use crate::dentry::Dentry;
use crate::file::{File, FileOps};
use crate::inode::{Attr, Inode, SetAttr};
use crate::mount::Mount;
use crate::path::Path;
use crate::permission::Access;
use crate::superblock::{Plain, SuperBlock};

/// The inode that an open file stands for.
struct Nameless(Arc<File>);

impl Inode for Nameless {
    fn attr(&self) -> SysResult<Attr> {
        self.0.attr()
    }

    fn permission(&self, _: &Credentials, _: Access) -> SysResult<()> {
        // Whoever could follow the link may look into the process, and has the file.
        Ok(())
    }

    fn own_rules(&self) -> bool {
        true
    }

    fn open(self: Arc<Self>, flags: i32) -> SysResult<Arc<dyn FileOps>> {
        self.0.ops.clone().reopen(flags)
    }

    fn set_attr(&self, set: &SetAttr) -> SysResult<()> {
        self.0.ops.set_attr(set)
    }

    fn is_nameless(&self) -> bool {
        true
    }
}

/// The place of a file that has none.
///
/// # Errors
/// What the file says of its attributes.
pub fn nameless(file: &Arc<File>) -> SysResult<Path> {
    let superblock = SuperBlock::new("anon_inodefs", file.attr()?.dev, Box::new(Plain));
    let root = Dentry::root(superblock, Arc::new(Nameless(file.clone())))?;
    Ok(Path { mount: Mount::new(root.clone(), b"anon_inodefs", c::MS_NOSUID | c::MS_NOEXEC), dentry: root })
}
