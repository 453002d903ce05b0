//! What has arrived at a socket and hasn't been read.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use abi::{Errno, SysResult};
use usermem::IoBuf;
use vfs::File;

use crate::socket::Address;

/// `struct ucred`
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    pub pid: i32,
    pub uid: u32,
    pub gid: u32,
}

/// Files in flight at most. Sockets that have been sent to each other and closed keep each other alive: this bounds what that can hold.
const MAX_IN_FLIGHT: usize = 16384;
static IN_FLIGHT: AtomicUsize = AtomicUsize::new(0);

/// Open files on their way (`SCM_RIGHTS`).
#[derive(Default)]
pub struct Rights(Vec<Arc<File>>);

impl Rights {
    /// # Errors
    /// `ETOOMANYREFS` when too many files are in flight.
    pub fn new(files: Vec<Arc<File>>) -> SysResult<Self> {
        let rights = Self(files);
        if IN_FLIGHT.fetch_add(rights.0.len(), Ordering::Relaxed) + rights.0.len() > MAX_IN_FLIGHT {
            return Err(Errno::ETOOMANYREFS);
        }
        Ok(rights)
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The files, arrived.
    fn take(&mut self) -> Vec<Arc<File>> {
        IN_FLIGHT.fetch_sub(self.0.len(), Ordering::Relaxed);
        std::mem::take(&mut self.0)
    }
}

thread_local! {
    /// Files to close, while some are being closed.
    static CLOSING: RefCell<Option<Vec<Arc<File>>>> = const { RefCell::new(None) };
}

impl Drop for Rights {
    /// Closes one file after the other: sockets that hold sockets that hold sockets must not nest on the stack.
    fn drop(&mut self) {
        let mut files = self.take();
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
}

/// What travels with data.
#[derive(Default)]
pub struct Ancillary {
    pub files: Vec<Arc<File>>,
    /// The sender, or whom it says it is.
    pub credentials: Credentials,
}

/// What a receive has found.
#[derive(Default)]
pub struct Received {
    /// Bytes copied.
    pub count: usize,
    /// Bytes that the message had (more than `count` when it was truncated).
    pub full: usize,
    pub files: Vec<Arc<File>>,
    pub credentials: Credentials,
    /// The sender's name.
    pub from: Address,
}

struct Message {
    data: Vec<u8>,
    /// Bytes already read (streams).
    at: usize,
    rights: Rights,
    credentials: Credentials,
    from: Address,
}

/// Bytes of one message at most, so that a guest can't make us allocate without bound.
const MAX_MESSAGE: usize = 1 << 20;
/// Messages of packet sockets that wait at most (`net.unix.max_dgram_qlen` plus what memory accounting would allow).
const MAX_MESSAGES: usize = 512;
/// A stream's message is appended to up to this size.
const COALESCE: usize = 1 << 16;

/// Messages that wait to be read.
#[derive(Default)]
pub struct Inbox {
    messages: VecDeque<Message>,
    bytes: usize,
    /// A message's memory, kept for the next.
    spare: Vec<u8>,
}

impl Inbox {
    pub fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }

    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the first message, for `FIONREAD` of packet sockets.
    pub fn first(&self) -> usize {
        self.messages.front().map_or(0, |message| message.data.len() - message.at)
    }

    /// Whether there is room for something.
    pub fn writable(&self, capacity: usize) -> bool {
        self.bytes * 4 <= capacity * 3 && self.messages.len() < MAX_MESSAGES
    }

    /// Takes data in: a stream as much as there is room for, a packet all or nothing.
    ///
    /// # Errors
    /// `EAGAIN` when full, `EMSGSIZE` when a packet never fits, `EFAULT`, `ETOOMANYREFS`.
    pub fn push(
        &mut self,
        buf: &mut IoBuf<'_>,
        stream: bool,
        capacity: usize,
        ancillary: &mut Ancillary,
        from: &Address,
    ) -> SysResult<usize> {
        let wanted = buf.remaining();
        if !stream && wanted > capacity.min(MAX_MESSAGE) {
            return Err(Errno::EMSGSIZE);
        }
        let room = capacity.saturating_sub(self.bytes);
        if self.messages.len() >= MAX_MESSAGES || room == 0 || !stream && room < wanted {
            return Err(Errno::EAGAIN);
        }
        let len = wanted.min(room).min(MAX_MESSAGE);
        let appends = stream
            && ancillary.files.is_empty()
            && self.messages.back().is_some_and(|last| {
                last.rights.is_empty() && last.credentials == ancillary.credentials && last.data.len() + len <= COALESCE
            });
        if appends && let Some(last) = self.messages.back_mut() {
            let start = last.data.len();
            last.data.resize(start + len, 0);
            let result = buf.copy_in(last.data.get_mut(start..).unwrap_or_default());
            last.data.truncate(start + result.unwrap_or(0));
            self.bytes += result.unwrap_or(0);
            return result;
        }
        let mut data = std::mem::take(&mut self.spare);
        data.clear();
        data.resize(len, 0);
        let count = if len == 0 { 0 } else { buf.copy_in(&mut data)? };
        if !stream && count < len {
            return Err(Errno::EFAULT);
        }
        data.truncate(count);
        let rights = Rights::new(std::mem::take(&mut ancillary.files))?;
        self.bytes += count;
        self.messages.push_back(Message { data, at: 0, rights, credentials: ancillary.credentials, from: from.clone() });
        Ok(count)
    }

    fn drop_first(&mut self) {
        if let Some(message) = self.messages.pop_front()
            && message.data.capacity() <= COALESCE
        {
            self.spare = message.data;
        }
    }

    /// Hands data out. A stream's data stops where other rights begin; a packet that doesn't fit is cut.
    ///
    /// # Errors
    /// `EAGAIN` when there is nothing, `EFAULT`.
    pub fn pop(&mut self, buf: &mut IoBuf<'_>, stream: bool, peek: bool) -> SysResult<Received> {
        let mut received = Received::default();
        let mut looked = 0;
        while let Some(message) = self.messages.get_mut(looked) {
            let first = received.count == 0 && looked == 0 && received.full == 0;
            if !first && (!message.rights.is_empty() || !received.files.is_empty() || message.credentials != received.credentials)
            {
                break;
            }
            let rest = message.data.get(message.at..).unwrap_or_default();
            let want = rest.len().min(buf.remaining());
            let count = if want == 0 { 0 } else { buf.copy_out(rest.get(..want).unwrap_or_default())? };
            received.full = if stream { received.full + count } else { rest.len() };
            received.count += count;
            if first {
                received.credentials = message.credentials;
                received.from = message.from.clone();
            }
            if peek {
                received.files.extend(message.rights.0.iter().cloned());
                looked += 1;
                if !stream || buf.remaining() == 0 {
                    break;
                }
                continue;
            }
            received.files.extend(message.rights.take());
            let whole = message.data.len();
            message.at += count;
            if !stream {
                self.bytes -= whole;
                self.drop_first();
                break;
            }
            self.bytes -= count;
            if message.at < whole {
                break;
            }
            self.drop_first();
            if buf.remaining() == 0 {
                break;
            }
        }
        Ok(received)
    }
}
