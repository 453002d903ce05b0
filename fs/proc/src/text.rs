//! Open files: their text, and what is written to them.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use abi::poll::PollEvents;
use abi::{Errno, SysResult};
use auth::Credentials;
use sync::{Changes, Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::FileOps;

use crate::process::Item;
use crate::system::{self, Body, Entry};
use crate::{Node, What, mem, mounts};

/// Most that can be written to a file at a time.
const MAX_WRITE: usize = 4096;
/// The changes that a file tells of (poll(2)).
fn changes(node: &Node) -> Option<Changes> {
    match &node.what {
        What::Fixed(Entry { name: "hostname" | "domainname", body: Body::Setting(..), .. }) => {
            Some(system::uts(&node.proc).changes.clone())
        }
        What::Process(member, Item::File(file)) if mounts::LISTS.contains(&file.name) => {
            let task = member.view(&node.proc.kernel)?.task?;
            let namespace = task.lock().mount_ns.clone();
            Some(namespace.state().changes.clone())
        }
        _ => None,
    }
}

/// An open file.
struct Text {
    node: Arc<Node>,
    /// Made by the first read, and by each from the start.
    text: Mutex<Option<Arc<Vec<u8>>>>,
    /// What there is to read when the process is gone.
    last: Option<Arc<Vec<u8>>>,
    opener: Option<Arc<Credentials>>,
    /// What changes, and how often it had when somebody looked.
    changes: Option<(Changes, AtomicU64)>,
}

/// Opens a file.
///
/// # Errors
/// `EACCES` when the caller may not look into the process; `ESRCH` when that is gone.
pub fn open(node: Arc<Node>) -> SysResult<Arc<dyn FileOps>> {
    let mut last = None;
    if let What::Process(member, item) = &node.what {
        member.check_open(&node.proc, *item)?;
        match item {
            Item::Memory => return mem::open(&node.proc, member),
            // Whatever becomes of the process, its user namespace is known.
            Item::File(file) if file.name.ends_with("id_map") || file.name == "setgroups" => last = Some(Arc::new(node.text()?)),
            _ => {}
        }
    }
    let opener = node.proc.caller().map(|task| task.credentials());
    let changes = changes(&node).map(|changes| {
        let seen = AtomicU64::new(changes.count());
        (changes, seen)
    });
    Ok(Arc::new(Text { node, text: Mutex::default(), last, opener, changes }))
}

impl FileOps for Text {
    fn read(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        // Those who rewind want news.
        let made = self.text.lock().clone().filter(|_| offset != 0);
        let text = match made {
            Some(text) => text,
            None => {
                let last = |errno| self.last.clone().filter(|_| errno == Errno::ESRCH).ok_or(errno);
                let text = self.node.text().map(Arc::new).or_else(last)?;
                *self.text.lock() = Some(text.clone());
                text
            }
        };
        let rest = usize::try_from(offset).ok().and_then(|at| text.get(at..)).unwrap_or_default();
        let part = rest.get(..rest.len().min(buf.remaining())).unwrap_or_default();
        if part.is_empty() { Ok(0) } else { buf.copy_out(part) }
    }

    fn write(&self, buf: &mut IoBuf<'_>, offset: u64) -> SysResult<usize> {
        let opener = self.opener.as_ref().ok_or(Errno::EINVAL)?;
        // A page at most, and not in parts.
        let mut text = vec![0; buf.remaining().min(MAX_WRITE + 1)];
        if offset != 0 || text.len() > MAX_WRITE {
            return Err(Errno::EINVAL);
        }
        let count = buf.copy_in(&mut text)?;
        text.truncate(count);
        let start = buf.done() - count;
        // What is refused hasn't been written.
        self.node.write(&text, opener).inspect_err(|_| buf.rewind(start))?;
        Ok(count)
    }

    fn poll(&self) -> PollEvents {
        let mut ready = PollEvents::READABLE | PollEvents::WRITABLE;
        if let Some((changes, seen)) = &self.changes {
            let now = changes.count();
            if seen.swap(now, Ordering::SeqCst) != now {
                ready |= PollEvents::ERR | PollEvents::PRI;
            }
        }
        ready
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        self.changes.as_ref().map(|(changes, _)| changes.queue())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
