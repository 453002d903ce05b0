//! Packets that wait to be read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::{Errno, SysResult, c};
use socket::{Common, Control, Credentials, Flag, Memory, Received, Request};
use sync::{Mutex, WaitQueue};
use usermem::IoBuf;
use vfs::File;

use crate::address::{Address, NameCell};
use crate::rights::Rights;
use crate::socket::Unix;

/// `net.unix.max_dgram_qlen`: packets from sockets that the receiver isn't connected to.
const MAX_QUEUED: usize = 10;
/// What a packet costs beside its bytes (Linux counts its `struct sk_buff` too).
const OVERHEAD: usize = 512;
/// Memory kept for the next packet at most.
const SPARE: usize = 1 << 16;

/// What a socket's packets take up wherever they are.
pub struct Account {
    used: AtomicUsize,
    limit: AtomicUsize,
    /// The sender's queue.
    queue: WaitQueue,
}

impl Account {
    pub fn new(queue: &WaitQueue) -> Arc<Self> {
        Arc::new(Self { used: AtomicUsize::new(0), limit: AtomicUsize::new(0), queue: queue.clone() })
    }

    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }
}

/// A packet's share of its sender's buffer.
struct Charge(Arc<Account>, usize, #[expect(dead_code, reason = "held")] Memory);

impl Charge {
    fn new(account: &Arc<Account>, bytes: usize) -> SysResult<Self> {
        let memory = Memory::take(bytes)?;
        account.used.fetch_add(bytes, Ordering::Relaxed);
        Ok(Self(account.clone(), bytes, memory))
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        let left = self.0.used.fetch_sub(self.1, Ordering::Relaxed) - self.1;
        if left * 4 <= self.0.limit.load(Ordering::Relaxed) {
            self.0.queue.wake(PollEvents::WRITABLE);
        }
    }
}

struct Packet {
    data: Vec<u8>,
    rights: Rights,
    credentials: Option<Credentials>,
    from: NameCell,
    /// When it came, if the receiver wants to know.
    time: Option<(i64, i64)>,
    _charge: Charge,
}

#[derive(Default)]
struct State {
    packets: VecDeque<Packet>,
    bytes: usize,
    /// A packet's memory, kept for the next.
    spare: Vec<u8>,
    /// Nothing more comes.
    shut: bool,
    /// The receiver is gone.
    closed: bool,
    /// Senders that wait for room.
    blocked: Vec<Weak<Unix>>,
}

/// What has arrived at a packet socket.
#[derive(Default)]
pub struct Inbox(Mutex<State>);

/// What is put into an inbox.
pub struct Delivery<'a> {
    pub sender: &'a Arc<Account>,
    /// The sender's buffer.
    pub capacity: usize,
    pub from: &'a NameCell,
    pub files: &'a mut Vec<Arc<File>>,
    pub credentials: Option<Credentials>,
    pub time: Option<(i64, i64)>,
    /// Who is told when there is room, if the queue is full; those the receiver is connected to don't care.
    pub blocked: Option<Weak<Unix>>,
}

impl Inbox {
    /// Takes a packet in.
    ///
    /// # Errors
    /// `ECONNREFUSED` when the receiver is gone, `EPIPE` when it reads no more, `EAGAIN` when it is full, `ENOBUFS`, `EFAULT`,
    /// `ETOOMANYREFS`.
    pub fn push(&self, buf: &mut IoBuf<'_>, delivery: Delivery<'_>) -> SysResult<usize> {
        let len = buf.remaining();
        let mut state = self.0.lock();
        if state.closed {
            return Err(Errno::ECONNREFUSED);
        }
        if state.shut {
            return Err(Errno::EPIPE);
        }
        if let Some(sender) = delivery.blocked
            && state.packets.len() > MAX_QUEUED
        {
            if !state.blocked.iter().any(|other| other.ptr_eq(&sender)) {
                state.blocked.push(sender);
            }
            return Err(Errno::EAGAIN);
        }
        let charge = Charge::new(delivery.sender, len + OVERHEAD)?;
        let mut data = std::mem::take(&mut state.spare);
        data.resize(len, 0);
        buf.fill(&mut data)?;
        let rights = if delivery.files.is_empty() { Rights::default() } else { Rights::new(std::mem::take(delivery.files))? };
        delivery.sender.limit.store(delivery.capacity, Ordering::Relaxed);
        let (credentials, time) = (delivery.credentials, delivery.time);
        state.bytes += len;
        state.packets.push_back(Packet { data, rights, credentials, from: delivery.from.clone(), time, _charge: charge });
        Ok(len)
    }

    /// Hands out the first packet. `None` when there is none.
    ///
    /// # Errors
    /// `EFAULT`: the packet is lost, as on Linux.
    pub fn pop(&self, common: &Common, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Option<Received>> {
        let mut state = self.0.lock();
        if request.flags & c::MSG_PEEK != 0 {
            let Some(packet) = state.packets.front() else { return Ok(None) };
            let mut received = show(common, packet, buf, request)?;
            if !packet.rights.files().is_empty() {
                add_rights(&mut received, packet.rights.peek(), request);
            }
            return Ok(Some(received));
        }
        let Some(mut packet) = state.packets.pop_front() else { return Ok(None) };
        state.bytes -= packet.data.len();
        let woken = if state.packets.len() <= MAX_QUEUED { std::mem::take(&mut state.blocked) } else { Vec::new() };
        drop(state);
        let result = show(common, &packet, buf, request).map(|mut received| {
            if !packet.rights.files().is_empty() {
                add_rights(&mut received, packet.rights.take(), request);
            }
            Some(received)
        });
        let spare = std::mem::take(&mut packet.data);
        drop(packet);
        if spare.capacity() <= SPARE {
            self.0.lock().spare = spare;
        }
        wake(&woken);
        result
    }

    pub fn shut(&self) {
        self.0.lock().shut = true;
    }

    /// Ends it and drops what has arrived; says whether there was anything.
    pub fn close(&self) -> bool {
        let (packets, blocked) = {
            let mut state = self.0.lock();
            (state.shut, state.closed) = (true, true);
            (std::mem::take(&mut state.packets), std::mem::take(&mut state.blocked))
        };
        let unread = !packets.is_empty();
        drop(packets);
        wake(&blocked);
        unread
    }

    /// Drops what has arrived.
    pub fn purge(&self) {
        let (packets, blocked) = {
            let mut state = self.0.lock();
            state.bytes = 0;
            (std::mem::take(&mut state.packets), std::mem::take(&mut state.blocked))
        };
        drop(packets);
        wake(&blocked);
    }

    /// Bytes of all packets, bytes of the first if there is one, and whether it is shut.
    pub fn status(&self) -> (usize, Option<usize>, bool) {
        let state = self.0.lock();
        (state.bytes, state.packets.front().map(|packet| packet.data.len()), state.shut)
    }

    /// Whether one that isn't connected to may send; if not, it is told when it may.
    pub fn has_room(&self, sender: &Weak<Unix>) -> bool {
        let mut state = self.0.lock();
        let full = state.packets.len() > MAX_QUEUED && !state.closed;
        if full && !state.blocked.iter().any(|other| other.ptr_eq(sender)) {
            state.blocked.push(sender.clone());
        }
        !full
    }

    /// Shows all files in it; `false` when it is in use.
    pub fn files(&self, f: &mut dyn FnMut(&Arc<File>)) -> bool {
        let Some(state) = self.0.try_lock() else { return false };
        state.packets.iter().flat_map(|packet| packet.rights.files()).for_each(f);
        true
    }
}

fn wake(sockets: &[Weak<Unix>]) {
    for socket in sockets.iter().filter_map(Weak::upgrade) {
        socket.wake(PollEvents::WRITABLE);
    }
}

fn add_rights(received: &mut Received, files: Vec<Arc<File>>, request: &Request) {
    if request.control {
        received.control.push(Control::Rights(files));
    } else {
        crate::rights::close_all(files);
    }
}

/// Copies a packet out, with what the receiver wants to know of it.
fn show(common: &Common, packet: &Packet, buf: &mut IoBuf<'_>, request: &Request) -> SysResult<Received> {
    let want = packet.data.len().min(buf.remaining());
    if want > 0 && buf.copy_out(packet.data.get(..want).unwrap_or_default())? < want {
        return Err(Errno::EFAULT);
    }
    let mut received = Received { count: want, full: packet.data.len(), ..Received::default() };
    if want < packet.data.len() {
        received.flags |= c::MSG_TRUNC;
    }
    if request.name {
        received.name = packet.from.get().map(|from| Address::to_name(Some(from)));
    }
    if request.control {
        if let Some(time) = packet.time {
            received.control.extend(socket::timestamp(common, time));
        }
        if common.is(Flag::PassCredentials) {
            received.control.push(Control::Credentials(packet.credentials.unwrap_or(Credentials::NOBODY)));
        }
        if common.is(Flag::PassPidFd) {
            received.control.push(Control::PidFd(packet.credentials.map_or(0, |sender| sender.pid)));
        }
    }
    Ok(received)
}
