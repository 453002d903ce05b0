//! Open files of lower layers, which may be copied up while they are open.

use std::any::Any;
use std::sync::{Arc, OnceLock};

use abi::{SysResult, c};
use usermem::{HostFile, IoBuf};
use vfs::{Attr, FileOps, Inode};

use crate::node::Node;

/// A file that was opened for reading before it was changed. Once it is, reads show that.
pub struct LowerFile {
    node: Arc<Node>,
    lower: Arc<dyn FileOps>,
    upper: OnceLock<Arc<dyn FileOps>>,
}

impl LowerFile {
    pub fn new(node: Arc<Node>, lower: Arc<dyn FileOps>) -> Self {
        Self { node, lower, upper: OnceLock::new() }
    }

    fn ops(&self) -> SysResult<&Arc<dyn FileOps>> {
        if let Some(upper) = self.upper.get() {
            return Ok(upper);
        }
        let Some(upper) = self.node.upper.get() else { return Ok(&self.lower) };
        let opened = upper.inode().clone().open(c::O_RDONLY)?;
        Ok(self.upper.get_or_init(|| opened))
    }
}

impl FileOps for LowerFile {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        self.ops()?.read(buf, offset)
    }

    fn is_regular(&self) -> bool {
        true
    }

    fn seek_data(&self, offset: u64, size: u64, hole: bool) -> SysResult<u64> {
        self.ops()?.seek_data(offset, size, hole)
    }

    fn host_file(&self) -> SysResult<Arc<HostFile>> {
        self.ops()?.host_file()
    }

    fn fsync(&self) -> SysResult<()> {
        self.ops()?.fsync()
    }

    fn attr(&self) -> Option<Attr> {
        self.node.attr().ok()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
