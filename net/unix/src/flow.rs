//! A stream's bytes on their way to one socket.

use std::collections::VecDeque;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use socket::{Control, Credentials, Received, Request, Ring};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::File;

use crate::rights::{Rights, close_all};

/// Pieces with a beginning of their own at most: each costs memory beside its bytes.
const MAX_MARKS: usize = 512;

/// A piece of the stream with one sender and, at its first byte, files.
#[derive(Default)]
struct Run {
    credentials: Option<Credentials>,
    rights: Rights,
    /// Came with files: a receive that has taken them ends with this piece.
    ends_receive: bool,
}

#[derive(Default)]
struct State {
    ring: Ring,
    /// Place of the ring's first byte in the stream.
    start: u64,
    /// The piece that the first byte belongs to.
    current: Run,
    /// Where pieces begin after it.
    marks: VecDeque<(u64, Run)>,
    /// Nothing more comes: the sender has shut down writing, or the receiver reading.
    shut: bool,
    /// The sender's buffer, when it last sent.
    capacity: usize,
}

impl State {
    fn last(&self) -> &Run {
        self.marks.back().map_or(&self.current, |(_, run)| run)
    }

    /// Bytes of the piece that a place belongs to, from there on.
    fn rest_of_run(&self, skip: usize) -> usize {
        let at = self.start + skip as u64;
        let end = self.marks.iter().map(|(begin, _)| *begin).find(|begin| *begin > at);
        let end = end.unwrap_or(self.start + self.ring.len() as u64);
        usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX)
    }

    /// Begins the next piece when the current one is used up.
    fn advance(&mut self) {
        while self.marks.front().is_some_and(|(at, _)| *at <= self.start) {
            self.current = self.marks.pop_front().map(|(_, run)| run).unwrap_or_default();
        }
    }
}

/// The direction of a connection that ends at one socket.
pub struct Flow {
    state: Mutex<State>,
    /// The receiver's queue.
    reader: WaitQueue,
}

/// Collects what a receive finds.
struct Taking<'a> {
    received: Received,
    files: Vec<Arc<File>>,
    credentials: Option<Option<Credentials>>,
    request: &'a Request,
    pass: bool,
}

impl Taking<'_> {
    /// Whether a piece by this sender may be joined to what has been taken.
    fn joins(&mut self, credentials: Option<Credentials>) -> bool {
        !self.pass || *self.credentials.get_or_insert(credentials) == credentials
    }

    fn finish(mut self) -> Received {
        if self.request.control {
            if let Some(sender) = self.credentials {
                let sender = sender.unwrap_or(Credentials::NOBODY);
                self.received.control.push(Control::Credentials(sender));
            }
            if !self.files.is_empty() {
                self.received.control.push(Control::Rights(self.files));
            }
        } else {
            close_all(self.files);
        }
        self.received.full = self.received.count;
        self.received
    }
}

impl Flow {
    /// A flow to the socket that waits on `reader`.
    pub fn new(reader: &WaitQueue) -> Arc<Self> {
        Arc::new(Self { state: Mutex::default(), reader: reader.clone() })
    }

    /// Takes in as much as a sender with a buffer of `capacity` bytes may send.
    ///
    /// # Errors
    /// `EPIPE`, `EAGAIN`, `EFAULT`, `ETOOMANYREFS`.
    pub fn push(
        &self,
        buf: &mut IoBuf<'_>,
        capacity: usize,
        files: &mut Vec<Arc<File>>,
        credentials: Option<Credentials>,
    ) -> SysResult<usize> {
        let mut state = self.state.lock();
        if state.shut {
            return Err(Errno::EPIPE);
        }
        state.capacity = capacity;
        let room = capacity.saturating_sub(state.ring.len());
        if room == 0 {
            return Err(Errno::EAGAIN);
        }
        let begins = !files.is_empty() || state.last().ends_receive || state.last().credentials != credentials;
        if begins && state.marks.len() >= MAX_MARKS {
            return Err(Errno::EAGAIN);
        }
        let rights = if files.is_empty() { Rights::default() } else { Rights::new(std::mem::take(files))? };
        let at = state.start + state.ring.len() as u64;
        let count = state.ring.push(buf, room);
        if begins && count.is_ok() {
            let ends_receive = !rights.files().is_empty();
            state.marks.push_back((at, Run { credentials, rights, ends_receive }));
            state.advance();
        }
        drop(state);
        self.reader.wake(PollEvents::READABLE);
        count
    }

    /// Hands out what is there, to a socket that asks who the sender is or not (`pass`); tells `writer` about the room. `None` when there
    /// is nothing.
    ///
    /// # Errors
    /// `EFAULT`
    pub fn take(
        &self,
        buf: &mut IoBuf<'_>,
        request: &Request,
        pass: bool,
        writer: Option<&WaitQueue>,
    ) -> SysResult<Option<Received>> {
        let mut state = self.state.lock();
        if state.ring.is_empty() {
            return Ok(None);
        }
        let (received, files) = (Received::default(), Vec::new());
        let mut taking = Taking { received, files, credentials: None, request, pass };
        // Once at least: files come even to those who want no bytes.
        while !state.ring.is_empty() && taking.joins(state.current.credentials) {
            let run = state.rest_of_run(0);
            let count = match state.ring.copy(0, buf, run) {
                Ok(count) => count,
                Err(errno) if taking.received.count == 0 => return Err(errno),
                Err(_) => break,
            };
            state.ring.consume(count);
            state.start += count as u64;
            taking.received.count += count;
            let arrived = if state.current.rights.files().is_empty() { Vec::new() } else { state.current.rights.take() };
            let ends = !arrived.is_empty();
            taking.files.extend(arrived);
            if count < run {
                taking.received.stop |= ends;
                break;
            }
            state.advance();
            if ends || buf.remaining() == 0 {
                taking.received.stop |= ends;
                break;
            }
        }
        let writable = state.ring.len() * 4 <= state.capacity && state.marks.len() < MAX_MARKS;
        drop(state);
        if writable && let Some(writer) = writer {
            writer.wake(PollEvents::WRITABLE);
        }
        Ok(Some(taking.finish()))
    }

    /// Shows what is there from the `skip`th byte on. `None` when there is nothing.
    ///
    /// # Errors
    /// `EFAULT`
    pub fn peek(&self, buf: &mut IoBuf<'_>, skip: usize, request: &Request, pass: bool) -> SysResult<Option<Received>> {
        let state = self.state.lock();
        if state.ring.len() <= skip {
            return Ok(None);
        }
        let (received, files) = (Received::default(), Vec::new());
        let mut taking = Taking { received, files, credentials: None, request, pass };
        let mut at = skip;
        while at < state.ring.len() {
            let place = state.start + at as u64;
            let run = state.marks.iter().rev().find(|(begin, _)| *begin <= place).map_or(&state.current, |(_, run)| run);
            if !taking.joins(run.credentials) {
                break;
            }
            let count = match state.ring.copy(at, buf, state.rest_of_run(at)) {
                Ok(count) => count,
                Err(errno) if taking.received.count == 0 => return Err(errno),
                Err(_) => break,
            };
            at += count;
            taking.received.count += count;
            taking.files.extend(run.rights.peek());
            if !run.rights.files().is_empty() || buf.remaining() == 0 {
                taking.received.stop = true;
                break;
            }
        }
        drop(state);
        Ok(Some(taking.finish()))
    }

    /// Ends it; what has arrived can still be read.
    pub fn shut(&self) {
        self.state.lock().shut = true;
    }

    pub fn is_shut(&self) -> bool {
        self.state.lock().shut
    }

    /// Ends it and drops what has arrived; says whether there was anything.
    pub fn close(&self) -> bool {
        let (marks, current, unread) = {
            let mut state = self.state.lock();
            state.shut = true;
            let unread = !state.ring.is_empty();
            state.ring.clear();
            (std::mem::take(&mut state.marks), std::mem::take(&mut state.current), unread)
        };
        drop((marks, current));
        unread
    }

    /// Bytes that wait, and whether it is shut.
    pub fn status(&self) -> (usize, bool) {
        let state = self.state.lock();
        (state.ring.len(), state.shut)
    }

    /// Shows all files in it; `false` when it is in use.
    pub fn files(&self, f: &mut dyn FnMut(&Arc<File>)) -> bool {
        let Some(state) = self.state.try_lock() else { return false };
        let runs = std::iter::once(&state.current).chain(state.marks.iter().map(|(_, run)| run));
        runs.flat_map(|run| run.rights.files()).for_each(f);
        true
    }
}

/// Whether a request looks without taking.
pub fn peeks(request: &Request) -> bool {
    request.flags & c::MSG_PEEK != 0
}
