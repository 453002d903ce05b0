//! POSIX message queues.

use std::sync::{Arc, Weak};

use abi::poll::PollEvents;
use abi::signal::SigInfo;
use abi::{Errno, SysResult, c, nr};
use auth::Credentials;
use ipc::{MessageQueue, MqAttr, Notifier, QueueFile, Queues};
use sync::MonotonicNs;
use task::{Current, Group};
use usermem::UserMemoryExt;
use vfs::{Access, File, Inode};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::args::{file, int, path, uint};
use crate::fd::install;
use crate::futex::absolute;
use crate::sysv::{asker, objects};
use crate::{Entry, full, partial};

pub const ENTRIES: &[Entry] = &[
    full(nr::MQ_OPEN, open),
    full(nr::MQ_UNLINK, |t, a| {
        let name = path(t, a[0])?;
        Queues::check_name(&name)?;
        objects(t).queues.remove(&name, t.credentials()).map(|()| 0)
    }),
    full(nr::MQ_TIMEDSEND, send),
    full(nr::MQ_TIMEDRECEIVE, receive),
    partial(nr::MQ_NOTIFY, notify, "no SIGEV_THREAD"),
    full(nr::MQ_GETSETATTR, attributes),
];

/// `MQ_PRIO_MAX`
const PRIORITIES: u32 = 32768;

fn open(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [name, flags, mode, attr, ..] = a;
    let (flags, create) = (int(flags), int(flags) & c::O_CREAT != 0);
    let attr: Option<MqAttr> = if create && attr != 0 { Some(t.mm.read_obj(attr)?) } else { None };
    let name = path(t, name)?;
    Queues::check_name(&name)?;
    let access = match flags & c::O_ACCMODE {
        c::O_RDONLY => Access::READ,
        c::O_WRONLY => Access::WRITE,
        c::O_RDWR => Access::READ | Access::WRITE,
        _ => return Err(Errno::EINVAL),
    };
    let (who, ns) = asker(t);
    let queues = objects(t).queues.clone();
    let queue = match queues.find(&name) {
        Ok(_) if create && flags & c::O_EXCL != 0 => return Err(Errno::EEXIST),
        Ok(queue) => {
            queue.permission(&who, access)?;
            queue
        }
        Err(errno) if !create => return Err(errno),
        Err(_) => {
            let mode = uint(mode) & 0o777 & !t.fs.umask();
            queues.make(&name, mode, attr, &who, &ns, t.task.group.limit(c::RLIMIT_MSGQUEUE))?
        }
    };
    let file = File::new(Arc::new(QueueFile(queue)), None, flags & (c::O_ACCMODE | c::O_NONBLOCK));
    // Queues are never inherited by programs.
    install(t, file, true, 0)
}

/// The queue behind a descriptor that is open for reading, or for writing.
fn queue(t: &Current, fd: u64, write: Option<bool>) -> SysResult<(Arc<File>, Arc<MessageQueue>)> {
    let file = file(t, fd)?;
    let queue = file.ops.as_any().downcast_ref::<QueueFile>().ok_or(Errno::EBADF)?.0.clone();
    let mode = file.flags() & c::O_ACCMODE;
    let refused = match write {
        Some(true) => mode == c::O_RDONLY,
        Some(false) => mode == c::O_WRONLY,
        None => false,
    };
    if refused { Err(Errno::EBADF) } else { Ok((file, queue)) }
}

/// Tries until there is room, or something to take.
fn wait<T>(
    t: &Current,
    file: &File,
    queue: &MessageQueue,
    mask: PollEvents,
    deadline: Option<MonotonicNs>,
    mut attempt: impl FnMut() -> SysResult<T>,
) -> SysResult<T> {
    if file.nonblocking() {
        return attempt();
    }
    t.block_on(Some(queue.waiters()), mask, deadline, attempt)
}

fn send(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [fd, addr, len, priority, time, _] = a;
    let deadline = absolute(t, time, true)?;
    let priority = uint(priority);
    if priority >= PRIORITIES {
        return Err(Errno::EINVAL);
    }
    let (file, queue) = queue(t, fd, Some(true))?;
    let len = usize::try_from(len).ok().filter(|len| *len <= queue.msgsize()).ok_or(Errno::EMSGSIZE)?;
    let mut text = vec![0; len];
    t.mm.read(addr, &mut text)?;
    let (pid, who) = (t.task.group.own_pid(), t.credentials());
    wait(t, &file, &queue, PollEvents::OUT, deadline, || queue.send(&text, priority, pid, who)).map(|()| 0)
}

fn receive(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [fd, addr, len, priority_at, time, _] = a;
    let deadline = absolute(t, time, true)?;
    let (file, queue) = queue(t, fd, Some(false))?;
    if usize::try_from(len).is_ok_and(|len| len < queue.msgsize()) {
        return Err(Errno::EMSGSIZE);
    }
    let waiting = queue.receiver();
    let (text, priority) = wait(t, &file, &queue, PollEvents::IN, deadline, || queue.receive())?;
    drop(waiting);
    if priority_at != 0 {
        t.mm.write_obj(priority_at, &priority)?;
    }
    t.mm.write(addr, &text)?;
    Ok(text.len() as u64)
}

fn attributes(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [fd, new, old, ..] = a;
    let nonblock = i64::from(c::O_NONBLOCK);
    let new: Option<MqAttr> = if new == 0 { None } else { Some(t.mm.read_obj(new)?) };
    if new.is_some_and(|new| new.flags & !nonblock != 0) {
        return Err(Errno::EINVAL);
    }
    let (file, queue) = queue(t, fd, None)?;
    let before = MqAttr { flags: i64::from(file.flags()) & nonblock, ..queue.attributes() };
    if let Some(new) = new {
        let flags = file.flags() & !c::O_NONBLOCK;
        file.set_flags(if new.flags != 0 { flags | c::O_NONBLOCK } else { flags });
    }
    if old != 0 {
        t.mm.write_obj(old, &before)?;
    }
    Ok(0)
}

/// The head of `struct sigevent`.
#[derive(Clone, Copy, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
struct SigEvent {
    value: u64,
    signo: i32,
    notify: i32,
}

/// A process that is to have a signal.
struct Registered {
    group: Weak<Group>,
    pid: i32,
    event: SigEvent,
}

impl Notifier for Registered {
    fn notify(&self, pid: i32, who: &Credentials) {
        let Some(group) = self.group.upgrade().filter(|_| self.event.notify == c::SIGEV_SIGNAL) else { return };
        let mut info = SigInfo::from_process(self.event.signo, c::SI_MESGQ, pid, who.ruid.0);
        if let Some(value) = info.fields.get_mut(1) {
            *value = self.event.value;
        }
        group.signal(info);
    }

    fn pid(&self) -> i32 {
        self.pid
    }

    fn describe(&self) -> (i32, i32) {
        (self.event.notify, if self.event.notify == c::SIGEV_SIGNAL { self.event.signo } else { 0 })
    }
}

fn notify(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [fd, event, ..] = a;
    let pid = t.task.group.own_pid();
    let event: Option<SigEvent> = if event == 0 { None } else { Some(t.mm.read_obj(event)?) };
    match event.map(|event| (event.notify, event.signo)) {
        None | Some((c::SIGEV_NONE, _)) => {}
        Some((c::SIGEV_SIGNAL, signo)) if (1..=64).contains(&signo) => {}
        // Told by a netlink socket, which there is none of that could be asked.
        Some((c::SIGEV_THREAD, _)) => return Err(Errno::EBADF),
        Some(_) => return Err(Errno::EINVAL),
    }
    let (_, queue) = queue(t, fd, None)?;
    let group = Arc::downgrade(&t.task.group);
    let registered = event.map(|event| Arc::new(Registered { group, pid, event }) as Arc<dyn Notifier>);
    queue.set_notifier(registered, pid).map(|()| 0)
}
