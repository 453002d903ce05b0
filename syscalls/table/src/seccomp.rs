//! seccomp(2), and the ioctls of its supervisors (seccomp_unotify(2)).

use abi::{Errno, SysResult, c, nr};
use cbpf::{Instruction, Program, Purpose};
use task::{Answer, Current, FilterOptions, Listener, Refused};
use usermem::UserMemoryExt;
use vfs::File;

use crate::args::{int, uint};
use crate::fd::install;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[full(nr::SECCOMP, seccomp)];

/// Sizes of `struct seccomp_notif`, `seccomp_notif_resp` and `seccomp_data`.
const SIZES: [u16; 3] = [80, 24, 64];
const LISTENER_MODE: i32 = c::O_RDWR;

fn seccomp(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (flags, arg) = (uint(a[1]), a[2]);
    match uint(a[0]) {
        c::SECCOMP_SET_MODE_STRICT if flags == 0 && arg == 0 => t.set_strict().map(|()| 0),
        c::SECCOMP_SET_MODE_FILTER => set_filter(t, flags, arg),
        c::SECCOMP_GET_ACTION_AVAIL if flags == 0 => {
            let action: u32 = t.mm.read_obj(arg)?;
            let known = [
                c::SECCOMP_RET_KILL_PROCESS,
                c::SECCOMP_RET_KILL_THREAD,
                c::SECCOMP_RET_TRAP,
                c::SECCOMP_RET_ERRNO,
                c::SECCOMP_RET_USER_NOTIF,
                c::SECCOMP_RET_TRACE,
                c::SECCOMP_RET_LOG,
                c::SECCOMP_RET_ALLOW,
            ];
            if known.contains(&action) { Ok(0) } else { Err(Errno::EOPNOTSUPP) }
        }
        c::SECCOMP_GET_NOTIF_SIZES if flags == 0 => {
            t.mm.write_obj(arg, &SIZES)?;
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

/// prctl(2), `PR_SET_SECCOMP`: the old way.
pub fn set_mode(t: &mut Current, mode: u64, arg: u64) -> SysResult<u64> {
    match mode {
        1 => t.set_strict().map(|()| 0),
        2 => set_filter(t, 0, arg),
        _ => Err(Errno::EINVAL),
    }
}

fn set_filter(t: &mut Current, flags: u32, addr: u64) -> SysResult<u64> {
    const TSYNC: u32 = c::SECCOMP_FILTER_FLAG_TSYNC as u32;
    const LOG: u32 = c::SECCOMP_FILTER_FLAG_LOG as u32;
    const SPEC_ALLOW: u32 = c::SECCOMP_FILTER_FLAG_SPEC_ALLOW as u32;
    const NEW_LISTENER: u32 = c::SECCOMP_FILTER_FLAG_NEW_LISTENER as u32;
    const TSYNC_ESRCH: u32 = c::SECCOMP_FILTER_FLAG_TSYNC_ESRCH as u32;
    const WAIT_KILLABLE: u32 = 1 << 5;
    if flags & !(TSYNC | LOG | SPEC_ALLOW | NEW_LISTENER | TSYNC_ESRCH | WAIT_KILLABLE) != 0 {
        return Err(Errno::EINVAL);
    }
    // One result can't be both a descriptor and a thread.
    let ambiguous = flags & TSYNC != 0 && flags & NEW_LISTENER != 0 && flags & TSYNC_ESRCH == 0;
    if ambiguous || flags & WAIT_KILLABLE != 0 && flags & NEW_LISTENER == 0 {
        return Err(Errno::EINVAL);
    }
    let program = read_program(t, addr)?;
    t.may_filter()?;
    let program = Program::check(&program, Purpose::Seccomp { size: SIZES[2].into() })?;
    let options = FilterOptions {
        tsync: flags & TSYNC != 0,
        listener: flags & NEW_LISTENER != 0,
        wait_killable: flags & WAIT_KILLABLE != 0,
    };
    match t.add_filter(program, options) {
        Ok(None) => Ok(0),
        Ok(Some(listener)) => install(t, File::new(listener, None, LISTENER_MODE), true, 0),
        Err(Refused::Because(errno)) => Err(errno),
        Err(Refused::Thread(_)) if flags & TSYNC_ESRCH != 0 => Err(Errno::ESRCH),
        Err(Refused::Thread(tid)) => Ok(t.local(tid).cast_unsigned().into()),
    }
}

/// Reads `struct sock_fprog` and what it points to.
pub fn read_program(t: &Current, addr: u64) -> SysResult<Vec<Instruction>> {
    let [len, filter]: [u64; 2] = t.mm.read_obj(addr)?;
    let len = usize::from(len as u16);
    if len == 0 || len > cbpf::MAX_INSTRUCTIONS {
        return Err(Errno::EINVAL);
    }
    let mut bytes = vec![0; len * 8];
    t.mm.read(filter, &mut bytes)?;
    Ok(bytes.chunks_exact(8).filter_map(|chunk| chunk.try_into().ok().map(Instruction::from_bytes)).collect())
}

const NOTIF_RECV: u32 = 0xc050_2100;
const NOTIF_SEND: u32 = 0xc018_2101;
const NOTIF_ID_VALID: u32 = 0x4008_2102;
/// With the wrong direction, as it was once published.
const NOTIF_ID_VALID_WRONG_DIR: u32 = 0x8008_2102;
const NOTIF_ADDFD: u32 = 0x4018_2103;
const NOTIF_SET_FLAGS: u32 = 0x4008_2104;

/// An ioctl of a supervisor; `None` when the file is none.
pub fn listener_ioctl(t: &Current, file: &File, cmd: u32, arg: u64) -> Option<SysResult<u64>> {
    let listener = file.ops.as_any().downcast_ref::<Listener>()?;
    Some(match cmd {
        NOTIF_RECV => receive(t, listener, arg),
        NOTIF_SEND => send(t, listener, arg),
        NOTIF_ID_VALID | NOTIF_ID_VALID_WRONG_DIR => match t.mm.read_obj(arg) {
            Ok(id) if listener.is_waiting(id) => Ok(0),
            Ok(_) => Err(Errno::ENOENT),
            Err(errno) => Err(errno),
        },
        NOTIF_ADDFD => add_fd(t, listener, arg),
        // How a wake-up chooses a CPU: a hint.
        NOTIF_SET_FLAGS if arg <= 1 => Ok(0),
        _ => Err(Errno::EINVAL),
    })
}

fn receive(t: &Current, listener: &Listener, addr: u64) -> SysResult<u64> {
    let mut bytes = [0; SIZES[0] as usize];
    t.mm.read(addr, &mut bytes)?;
    if bytes.iter().any(|byte| *byte != 0) {
        return Err(Errno::EINVAL);
    }
    let queue = vfs::FileOps::wait_queue(listener);
    let next = t.block_on(queue, abi::poll::PollEvents::IN, None, || listener.receive());
    // Not started again by itself: the supervisor may have been told to stop.
    let (id, task, call) = next.map_err(|errno| if errno == Errno::ERESTARTSYS { Errno::EINTR } else { errno })?;
    let tid = u64::from(task.tid_in(t.pid_ns()).cast_unsigned());
    let head = [id, tid].map(u64::to_le_bytes).concat();
    let bytes = [&head[..], &call.to_bytes()].concat();
    if let Err(errno) = t.mm.write(addr, &bytes) {
        listener.put_back(id);
        return Err(errno);
    }
    Ok(0)
}

fn send(t: &Current, listener: &Listener, addr: u64) -> SysResult<u64> {
    const CONTINUE: u32 = 1;
    let [id, value, rest]: [u64; 3] = t.mm.read_obj(addr)?;
    let (error, flags) = (int(rest), (rest >> 32) as u32);
    if flags & !CONTINUE != 0 || flags & CONTINUE != 0 && (error != 0 || value != 0) {
        return Err(Errno::EINVAL);
    }
    let answer = match error {
        _ if flags & CONTINUE != 0 => Answer::Continue,
        0 => Answer::Return(value),
        error => Answer::Return(i64::from(error).cast_unsigned()),
    };
    listener.answer(id, answer).map(|()| 0)
}

fn add_fd(t: &Current, listener: &Listener, addr: u64) -> SysResult<u64> {
    const SETFD: u32 = 1;
    const SEND: u32 = 2;
    let [id_low, id_high, flags, from, to, fd_flags]: [u32; 6] = t.mm.read_obj(addr)?;
    let id = u64::from(id_low) | u64::from(id_high) << 32;
    let cloexec = c::O_CLOEXEC.cast_unsigned();
    if flags & !(SETFD | SEND) != 0 || fd_flags & !cloexec != 0 || to != 0 && flags & SETFD == 0 {
        return Err(Errno::EINVAL);
    }
    let file = t.fds.get(from.cast_signed())?;
    let place = (flags & SETFD != 0).then_some(to.cast_signed());
    let fd = listener.add_file(id, file, place, fd_flags & cloexec != 0, flags & SEND != 0)?;
    Ok(fd.cast_unsigned().into())
}
