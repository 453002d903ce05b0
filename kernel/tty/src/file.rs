//! Open files of both ends.

use std::any::Any;
use std::sync::Arc;

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use sync::WaitQueue;
use usermem::IoBuf;
use vfs::{FileOps, IoctlArg};

use crate::control::is_admin;
use crate::ioctl;
use crate::terminal::Terminal;

/// Bytes moved at a time.
const CHUNK: usize = 4096;
/// Set in front of data in packet mode (`TIOCPKT_DATA`).
const DATA: u8 = 0;

/// An open slave: what programs call their terminal.
pub struct Slave {
    terminal: Arc<Terminal>,
    generation: u64,
    /// Opened for reading.
    readable: bool,
}

/// An open master. With the last one, the terminal is hung up.
pub struct Master {
    terminal: Arc<Terminal>,
}

impl Slave {
    /// Opens it, with the flags of open(2). A session's leader without a terminal gets it, unless `O_NOCTTY`.
    ///
    /// # Errors
    /// `EIO` when the other end is gone or hasn't unlocked it; `EBUSY` when somebody wants it alone.
    pub fn open(terminal: &Arc<Terminal>, flags: i32) -> SysResult<Arc<Self>> {
        let task = task::current();
        let mut state = terminal.lock();
        if !state.connected || state.locked {
            return Err(Errno::EIO);
        }
        if state.exclusive && state.openers > 0 && !task.as_deref().is_some_and(is_admin) {
            return Err(Errno::EBUSY);
        }
        state.openers += 1;
        state.left = false;
        drop(state);
        let readable = matches!(flags & c::O_ACCMODE, c::O_RDONLY | c::O_RDWR);
        if flags & c::O_NOCTTY == 0
            && readable
            && let Some(task) = &task
        {
            terminal.offer_to(&task.group);
        }
        Ok(Arc::new(Self { terminal: terminal.clone(), generation: terminal.generation(), readable }))
    }

    /// Opens it again for one who has it already (/dev/tty).
    ///
    /// # Errors
    /// `EIO` when the other end is gone.
    pub fn reopen(terminal: &Arc<Terminal>) -> SysResult<Arc<Self>> {
        let mut state = terminal.lock();
        if !state.connected {
            return Err(Errno::EIO);
        }
        state.openers += 1;
        state.left = false;
        drop(state);
        Ok(Arc::new(Self { terminal: terminal.clone(), generation: terminal.generation(), readable: true }))
    }

    /// What it is open on.
    #[must_use]
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }

    fn hung_up(&self) -> bool {
        self.generation != self.terminal.generation()
    }

    /// What there is now.
    fn read_now(&self, buf: &mut IoBuf<'_>) -> SysResult<usize> {
        let start = buf.done();
        let mut change = self.terminal.change();
        let canonical = change.termios.canonical();
        while buf.remaining() > 0 {
            if !change.readable(false) {
                return match (buf.done(), change.connected) {
                    (0, false) => Err(Errno::EIO),
                    // Without a minimum and a time there is nothing to wait for.
                    (0, true) if !canonical && change.termios.minimum() == 0 && change.termios.time() == 0 => Ok(0),
                    (done, _) if done > 0 && (canonical || done >= change.termios.minimum().max(1)) => Ok(done - start),
                    _ => Err(Errno::EAGAIN),
                };
            }
            let (bytes, count) = change.line.peek(&change.termios, buf.remaining().min(CHUNK));
            let copied = buf.copy_out(&bytes)?;
            if copied < bytes.len() {
                change.line.consume(copied);
                break;
            }
            change.line.consume(count);
            // A line at a time.
            if canonical && (count == 0 || bytes.len() < CHUNK) {
                break;
            }
            if !canonical {
                change.process();
            }
        }
        Ok(buf.done() - start)
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        let mut state = self.terminal.lock();
        state.openers = state.openers.saturating_sub(1);
        state.left = state.openers == 0;
        state.exclusive &= !state.left;
        let left = state.left;
        drop(state);
        if left {
            self.terminal.master_queue.wake(PollEvents::READABLE | PollEvents::HUP);
        }
    }
}

impl FileOps for Slave {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if self.hung_up() {
            return Ok(0);
        }
        self.terminal.check_job(c::SIGTTIN)?;
        let result = self.read_now(buf);
        if result == Err(Errno::EAGAIN) {
            self.terminal.want(true);
        }
        result
    }

    fn read_patience(&self, done: usize) -> Option<u64> {
        let state = self.terminal.lock();
        let (minimum, time) = (state.termios.minimum(), state.termios.time());
        // With a minimum the time runs from byte to byte, without one from the start.
        let runs = !state.termios.canonical() && time > 0 && (minimum == 0 || done > 0);
        runs.then_some(time)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        if self.hung_up() {
            return Err(Errno::EIO);
        }
        if self.terminal.lock().termios.local(c::TOSTOP) {
            self.terminal.check_job(c::SIGTTOU)?;
        }
        let start = buf.done();
        let mut chunk = [0; CHUNK];
        while buf.remaining() > 0 {
            let before = buf.done();
            let want = buf.remaining().min(chunk.len());
            let part = chunk.get_mut(..want).unwrap_or_default();
            let count = buf.copy_in(part)?;
            let mut change = self.terminal.change();
            if !change.connected {
                return Err(Errno::EIO);
            }
            let done = change.write(part.get(..count).unwrap_or_default());
            drop(change);
            if done < count {
                buf.rewind(before + done);
                break;
            }
        }
        match buf.done() - start {
            0 if buf.remaining() > 0 => Err(Errno::EAGAIN),
            done => Ok(done),
        }
    }

    fn poll(&self) -> PollEvents {
        if self.hung_up() {
            return PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::ERR | PollEvents::HUP;
        }
        let state = self.terminal.lock();
        let mut events = PollEvents::empty();
        if state.readable(true) {
            events |= PollEvents::READABLE;
        }
        if state.output.room() > 0 {
            events |= PollEvents::WRITABLE;
        }
        if !state.connected {
            events |= PollEvents::HUP;
        }
        drop(state);
        if !events.contains(PollEvents::READABLE) {
            self.terminal.want(false);
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.queue)
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        if self.hung_up() {
            return Err(if u64::from(arg.cmd) == c::TIOCSPGRP { Errno::ENOTTY } else { Errno::EIO });
        }
        ioctl::slave(&self.terminal, self.readable, arg)
    }

    fn describe(&self) -> String {
        self.terminal.name().to_owned()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

impl Master {
    /// The master of a new terminal.
    #[must_use]
    pub fn new(terminal: Arc<Terminal>) -> Arc<Self> {
        Arc::new(Self { terminal })
    }

    /// What it is the other end of.
    #[must_use]
    pub fn terminal(&self) -> &Arc<Terminal> {
        &self.terminal
    }
}

impl Drop for Master {
    fn drop(&mut self) {
        self.terminal.hang_up();
    }
}

impl FileOps for Master {
    fn is_stream(&self) -> bool {
        true
    }

    fn read(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let start = buf.done();
        let mut change = self.terminal.change();
        if buf.remaining() == 0 {
            return Ok(0);
        }
        if change.packet && change.status != 0 {
            let status = std::mem::take(&mut change.status);
            return buf.copy_out(&[status]);
        }
        if change.output.is_empty() {
            return Err(if change.left { Errno::EIO } else { Errno::EAGAIN });
        }
        if change.packet {
            buf.copy_out(&[DATA])?;
        }
        while buf.remaining() > 0 && !change.output.is_empty() {
            let count = change.output.front().len().min(buf.remaining());
            let copied = match buf.copy_out(change.output.front().get(..count).unwrap_or_default()) {
                Err(errno) if buf.done() == start => return Err(errno),
                copied => copied.unwrap_or(0),
            };
            let _ = change.output.take(copied);
            if copied < count {
                break;
            }
        }
        Ok(buf.done() - start)
    }

    fn write(&self, buf: &mut IoBuf<'_>, _: u64) -> SysResult<usize> {
        let start = buf.done();
        let mut chunk = [0; CHUNK];
        while buf.remaining() > 0 {
            let before = buf.done();
            let want = buf.remaining().min(chunk.len());
            let part = chunk.get_mut(..want).unwrap_or_default();
            let count = buf.copy_in(part)?;
            let done = self.terminal.receive(part.get(..count).unwrap_or_default());
            if done < count {
                buf.rewind(before + done);
                break;
            }
        }
        match buf.done() - start {
            0 if buf.remaining() > 0 => Err(Errno::EAGAIN),
            done => Ok(done),
        }
    }

    fn poll(&self) -> PollEvents {
        let state = self.terminal.lock();
        let mut events = PollEvents::empty();
        if state.master_readable() {
            events |= PollEvents::READABLE;
        }
        if state.packet && state.status != 0 {
            events |= PollEvents::PRI;
        }
        if state.input_room() > 0 {
            events |= PollEvents::WRITABLE;
        }
        if state.left {
            events |= PollEvents::HUP;
        }
        events
    }

    fn wait_queue(&self) -> Option<&WaitQueue> {
        Some(&self.terminal.master_queue)
    }

    fn can_signal(&self) -> bool {
        true
    }

    fn ioctl(&self, arg: &IoctlArg<'_>) -> SysResult<u64> {
        ioctl::master(&self.terminal, arg)
    }

    fn describe(&self) -> String {
        "/dev/ptmx".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}
