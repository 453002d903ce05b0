//! Open files on their way (`SCM_RIGHTS`).
//!
//! A socket that waits in a queue may itself hold queued sockets. When the only references left to a set of sockets are in each other's
//! queues nobody can ever receive them: [`collect`] finds such sets and empties their queues. It works as a trial deletion does: a socket
//! is garbage when all references to its file are in queues, and all those queues are of garbage.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Weak};

use abi::{Errno, SysResult};
use socket::SocketFile;
use sync::Mutex;
use vfs::File;

use crate::socket::Unix;

/// Files in flight at most.
const MAX_IN_FLIGHT: usize = 1 << 16;
/// Sockets in flight before cycles are looked for.
const FIRST_SEARCH: usize = 64;

/// A Unix socket's file in flight.
struct Flying {
    file: Weak<File>,
    /// In how many queues it is.
    times: usize,
}

/// All files in flight. Innermost but for the wait queues: [`collect`] only tries the locks of queues under it.
struct Flights {
    files: usize,
    sockets: Option<HashMap<usize, Flying>>,
    next_search: usize,
}

static FLIGHTS: Mutex<Flights> = Mutex::new(Flights { files: 0, sockets: None, next_search: FIRST_SEARCH });

/// The Unix socket that a file is, if it is one.
fn unix_of(file: &File) -> Option<Arc<Unix>> {
    let socket = SocketFile::of(file)?;
    (socket.common().domain == abi::c::AF_UNIX).then(|| socket.clone().as_any().downcast().ok())?
}

fn key(file: &Arc<File>) -> usize {
    Arc::as_ptr(file).addr()
}

/// Open files in a queue.
#[derive(Default)]
pub struct Rights(Vec<Arc<File>>);

impl Rights {
    /// # Errors
    /// `ETOOMANYREFS` when too many files are in flight.
    pub fn new(files: Vec<Arc<File>>) -> SysResult<Self> {
        let mut flights = FLIGHTS.lock();
        if flights.files + files.len() > MAX_IN_FLIGHT {
            return Err(Errno::ETOOMANYREFS);
        }
        flights.files += files.len();
        for file in files.iter().filter(|file| unix_of(file).is_some()) {
            let sockets = flights.sockets.get_or_insert_default();
            sockets.entry(key(file)).or_insert_with(|| Flying { file: Arc::downgrade(file), times: 0 }).times += 1;
        }
        Ok(Self(files))
    }

    /// The files; they stay in the queue.
    pub fn peek(&self) -> Vec<Arc<File>> {
        self.0.clone()
    }

    /// The files, arrived.
    pub fn take(&mut self) -> Vec<Arc<File>> {
        let files = std::mem::take(&mut self.0);
        let mut flights = FLIGHTS.lock();
        flights.files -= files.len();
        if let Some(sockets) = &mut flights.sockets {
            for file in &files {
                if let Some(flying) = sockets.get_mut(&key(file)) {
                    flying.times -= 1;
                    if flying.times == 0 {
                        sockets.remove(&key(file));
                    }
                }
            }
            // A flood that is over must not put the next search off.
            let enough = (sockets.len() * 4).max(FIRST_SEARCH);
            flights.next_search = flights.next_search.min(enough);
        }
        files
    }

    pub fn files(&self) -> &[Arc<File>] {
        &self.0
    }
}

thread_local! {
    /// Files to close, while some are being closed.
    static CLOSING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

/// Closes one file after the other: sockets that hold sockets that hold sockets must not nest on the stack.
pub fn close_all(mut files: Vec<Arc<File>>) {
    if files.is_empty() {
        return;
    }
    let nested = CLOSING.with_borrow_mut(|closing| match closing {
        Some(closing) => {
            closing.append(&mut files);
            true
        }
        None => {
            *closing = Some(std::mem::take(&mut files));
            false
        }
    });
    if nested {
        return;
    }
    while let Some(file) = CLOSING.with_borrow_mut(|closing| closing.as_mut().and_then(Vec::pop)) {
        drop(file);
    }
    CLOSING.set(None);
}

impl Drop for Rights {
    fn drop(&mut self) {
        if !self.0.is_empty() {
            close_all(self.take());
        }
    }
}

impl Flights {
    fn due(&self) -> bool {
        self.sockets.as_ref().is_some_and(|sockets| sockets.len() >= self.next_search)
    }
}

/// Looks for garbage if enough sockets are in flight to make it worth while. No queue may be locked.
pub fn collect_if_due() {
    if FLIGHTS.lock().due() {
        collect();
    }
}

/// A socket in flight, as the search sees it.
struct Node {
    file: Arc<File>,
    socket: Arc<Unix>,
    /// Files in its queue, as keys.
    holds: Vec<usize>,
    /// References from queues of those that may be garbage.
    inner: usize,
    times: usize,
    live: bool,
}

type Nodes = HashMap<usize, Node>;

/// Empties the queues of sockets that only queues of such sockets refer to.
fn collect() {
    // Dropped when nothing is locked: these may have become the last references.
    let mut nodes = Nodes::new();
    let complete = {
        let mut flights = FLIGHTS.lock();
        let complete = flights.sockets.as_ref().is_some_and(|sockets| search(sockets, &mut nodes));
        let left = nodes.values().filter(|node| node.live || !complete).count();
        flights.next_search = (left * 2).max(FIRST_SEARCH);
        complete
    };
    if complete {
        // Their files close with what the queues held.
        let purged: Vec<_> = nodes.values().filter(|node| !node.live).flat_map(|node| node.socket.purge()).collect();
        drop(purged);
    }
    close_all(nodes.into_values().map(|node| node.file).collect());
}

/// Tells the living from the garbage; `false` when a queue is in use: then nothing is known.
fn search(sockets: &HashMap<usize, Flying>, nodes: &mut Nodes) -> bool {
    let mut complete = true;
    for (key, flying) in sockets {
        let Some(file) = flying.file.upgrade() else { continue };
        let Some(socket) = unix_of(&file) else { continue };
        let mut holds = Vec::new();
        complete &= socket.queued_files(&mut |file| holds.push(self::key(file)));
        // One reference is ours.
        let live = Arc::strong_count(&file) - 1 > flying.times;
        nodes.insert(*key, Node { file, socket, holds, inner: 0, times: flying.times, live });
    }
    let held: Vec<usize> = nodes.values().filter(|node| !node.live).flat_map(|node| node.holds.clone()).collect();
    for key in held {
        if let Some(node) = nodes.get_mut(&key) {
            node.inner += 1;
        }
    }
    // Who is referred to from elsewhere is alive, and so is what its queue holds.
    let mut todo: Vec<usize> =
        nodes.iter().filter(|(_, node)| node.live || node.inner < node.times).map(|(key, _)| *key).collect();
    let mut seen = HashSet::new();
    while let Some(key) = todo.pop() {
        if seen.insert(key)
            && let Some(node) = nodes.get_mut(&key)
        {
            node.live = true;
            todo.extend(node.holds.iter().copied());
        }
    }
    complete
}
