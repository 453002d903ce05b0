//! ptrace(2).

use std::sync::Arc;

use abi::signal::{SigInfo, SigSet};
use abi::structs::Iovec;
use abi::{Errno, SysResult, c, nr};
use task::{CallInfo, Current, RegSet, Resume, Task};
use usermem::UserMemoryExt;

use crate::args::int;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] = &[partial(
    nr::PTRACE,
    ptrace,
    "no thread areas, branch steps, checkpoints of seccomp filters; GS base fixed; hardware watchpoints by single steps, writes only",
)];

/// `PTRACE_ARCH_PRCTL`, `PTRACE_SYSEMU`, `PTRACE_SYSEMU_SINGLESTEP` of x86-64.
const ARCH_PRCTL: i32 = 30;
const SYSEMU: i32 = 31;
const SYSEMU_SINGLESTEP: i32 = 32;
/// `PTRACE_PEEKSIGINFO`, `PTRACE_GETSIGMASK`, `PTRACE_SETSIGMASK`, `PTRACE_GET_SYSCALL_INFO`
const PEEKSIGINFO: i32 = 0x4209;
const GETSIGMASK: i32 = 0x420a;
const SETSIGMASK: i32 = 0x420b;
const GET_SYSCALL_INFO: i32 = 0x420e;
/// `PTRACE_GET_RSEQ_CONFIGURATION`
const GET_RSEQ_CONFIGURATION: i32 = 0x420f;
/// `AUDIT_ARCH_X86_64`
const ARCH: u32 = 0xc000_003e;
/// Where the FS base is among the general registers' words.
const FS_BASE: u64 = 21 * 8;
/// Most that is read of a set of registers.
const MAX_SET: u64 = 1 << 16;

fn ptrace(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [_, pid, addr, data, ..] = a;
    let request = int(a[0].min(i32::MAX as u64));
    match request {
        0 => return t.trace_me().map(|()| 0),
        _ if request == c::PTRACE_ATTACH as i32 => {
            let target = t.find_task(int(pid)).ok_or(Errno::ESRCH)?;
            return t.attach(&target, None).map(|()| 0);
        }
        _ if request == c::PTRACE_SEIZE as i32 => {
            let target = t.find_task(int(pid)).ok_or(Errno::ESRCH)?;
            if addr != 0 {
                return Err(Errno::EIO);
            }
            return t.attach(&target, Some(data)).map(|()| 0);
        }
        _ => {}
    }
    let tracee = t.tracee(int(pid))?;
    let done = match request {
        1 | 2 => peek(t, &tracee, addr, data),
        3 => t.peek_user(&tracee, addr).and_then(|word| t.mm.write_obj(data, &word)),
        4 | 5 => t.poke(&tracee, addr, &data.to_le_bytes()),
        6 => t.poke_user(&tracee, addr, data),
        7 => t.resume(&tracee, Resume::Cont, data),
        8 => {
            tracee.signal(SigInfo::kernel(c::SIGKILL));
            Ok(())
        }
        9 => t.resume(&tracee, Resume::Step, data),
        12 => registers(t, &tracee, RegSet::General, data),
        13 => set_registers(t, &tracee, RegSet::General, data),
        14 => registers(t, &tracee, RegSet::Float, data),
        15 => set_registers(t, &tracee, RegSet::Float, data),
        17 => t.detach(&tracee, data),
        24 => t.resume(&tracee, Resume::Call, data),
        ARCH_PRCTL => arch_prctl(t, &tracee, addr, data),
        SYSEMU => t.resume(&tracee, Resume::Emulate, data),
        SYSEMU_SINGLESTEP => t.resume(&tracee, Resume::EmulateStep, data),
        _ => return other(t, &tracee, request, addr, data),
    };
    done.map(|()| 0)
}

/// The requests of all architectures, from 0x4200 on.
fn other(t: &mut Current, tracee: &Arc<Task>, request: i32, addr: u64, data: u64) -> SysResult<u64> {
    let done = match request.cast_unsigned() {
        c::PTRACE_SETOPTIONS => t.set_trace_options(tracee, data),
        c::PTRACE_GETEVENTMSG => t.event_message(tracee).and_then(|message| t.mm.write_obj(data, &message)),
        c::PTRACE_GETSIGINFO => t.signal_info(tracee).and_then(|info| t.mm.write_obj(data, &info)),
        c::PTRACE_SETSIGINFO => {
            let info: SigInfo = t.mm.read_obj(data)?;
            t.set_signal_info(tracee, info)
        }
        c::PTRACE_GETREGSET => register_set(t, tracee, addr, data, false),
        c::PTRACE_SETREGSET => register_set(t, tracee, addr, data, true),
        c::PTRACE_INTERRUPT => t.interrupt(tracee),
        c::PTRACE_LISTEN => t.listen(tracee),
        _ if request == PEEKSIGINFO => return peek_signals(t, tracee, addr, data),
        _ if request == GETSIGMASK && addr == 8 => t.mask_of(tracee).and_then(|mask| t.mm.write_obj(data, &mask)),
        _ if request == SETSIGMASK && addr == 8 => {
            let mask: SigSet = t.mm.read_obj(data)?;
            t.set_mask_of(tracee, mask)
        }
        _ if request == GETSIGMASK || request == SETSIGMASK => Err(Errno::EINVAL),
        _ if request == GET_RSEQ_CONFIGURATION => return rseq(t, tracee, addr, data),
        _ if request == GET_SYSCALL_INFO => return call_info(t, tracee, addr, data),
        // Who doesn't stand still is told so first.
        _ => t.event_message(tracee).and(Err(Errno::EIO)),
    };
    done.map(|()| 0)
}

fn peek(t: &Current, tracee: &Task, addr: u64, data: u64) -> SysResult<()> {
    let mut word = [0; 8];
    t.peek(tracee, addr, &mut word)?;
    t.mm.write(data, &word)
}

fn registers(t: &Current, tracee: &Task, set: RegSet, data: u64) -> SysResult<()> {
    let bytes = t.registers(tracee, set)?;
    t.mm.write(data, &bytes)
}

fn set_registers(t: &Current, tracee: &Task, set: RegSet, data: u64) -> SysResult<()> {
    let mut bytes = t.registers(tracee, set)?;
    t.mm.read(data, &mut bytes)?;
    t.set_registers(tracee, set, &bytes)
}

/// `PTRACE_GETREGSET`, `PTRACE_SETREGSET`: as much as there is room for; how much it was is written back.
fn register_set(t: &Current, tracee: &Task, kind: u64, data: u64, change: bool) -> SysResult<()> {
    let Iovec { base, len } = t.mm.read_obj(data)?;
    let set = RegSet::of_note(kind);
    let mut bytes = t.registers(tracee, set.unwrap_or(RegSet::General))?;
    let set = set?;
    if len % set.unit() as u64 != 0 {
        return Err(Errno::EINVAL);
    }
    bytes.truncate(usize::try_from(len.min(MAX_SET)).unwrap_or(0));
    if change {
        t.mm.read(base, &mut bytes)?;
        t.set_registers(tracee, set, &bytes)?;
    } else {
        t.mm.write(base, &bytes)?;
    }
    t.mm.write_obj(data, &Iovec { base, len: bytes.len() as u64 })
}

/// As arch_prctl(2), with the arguments the other way round.
fn arch_prctl(t: &Current, tracee: &Task, addr: u64, code: u64) -> SysResult<()> {
    const ARCH_SET_FS: i32 = 0x1002;
    const ARCH_GET_FS: i32 = 0x1003;
    match int(code) {
        ARCH_SET_FS => t.poke_user(tracee, FS_BASE, addr).map_err(|errno| if errno == Errno::EIO { Errno::EPERM } else { errno }),
        ARCH_GET_FS => t.peek_user(tracee, FS_BASE).and_then(|base| t.mm.write_obj(addr, &base)),
        _ => Err(Errno::EINVAL),
    }
}

/// `struct ptrace_rseq_configuration`: address, size, signature, flags; all zero without one.
fn rseq(t: &Current, tracee: &Task, room: u64, data: u64) -> SysResult<u64> {
    let mut bytes = Vec::new();
    let area = t.rseq_of(tracee)?;
    bytes.extend(area.map_or(0, |area| area.addr).to_le_bytes());
    for word in [area.map_or(0, |area| area.len), area.map_or(0, |area| area.signature), 0, 0] {
        bytes.extend(word.to_le_bytes());
    }
    put_part(t, &bytes, room, data)
}

/// Writes as much as there is room for; returns how much there is.
fn put_part(t: &Current, bytes: &[u8], room: u64, data: u64) -> SysResult<u64> {
    let len = bytes.len();
    let part = usize::try_from(room).unwrap_or(len).min(len);
    t.mm.write(data, bytes.get(..part).unwrap_or_default())?;
    Ok(len as u64)
}

/// `struct ptrace_peeksiginfo_args`: offset, flags, how many.
fn peek_signals(t: &Current, tracee: &Task, addr: u64, data: u64) -> SysResult<u64> {
    const SHARED: u32 = 1;
    let at: u64 = t.mm.read_obj(addr)?;
    let flags: u32 = t.mm.read_obj(addr.wrapping_add(8))?;
    let count: i32 = t.mm.read_obj(addr.wrapping_add(12))?;
    if flags & !SHARED != 0 || count < 0 {
        return Err(Errno::EINVAL);
    }
    let mut done = 0u64;
    while done < u64::from(count.unsigned_abs()) {
        let index = at.checked_add(done).and_then(|at| usize::try_from(at).ok());
        let Some(info) = index.map(|at| t.peek_signal(tracee, at, flags & SHARED != 0)).transpose()?.flatten() else { break };
        let place = data.wrapping_add(done.wrapping_mul(size_of::<SigInfo>() as u64));
        match t.mm.write_obj(place, &info) {
            Err(errno) if done == 0 => return Err(errno),
            Err(_) => break,
            Ok(()) => done += 1,
        }
    }
    Ok(done)
}

/// `PTRACE_GET_SYSCALL_INFO`: writes as much of it as there is room for, and returns how much there is.
fn call_info(t: &Current, tracee: &Task, room: u64, data: u64) -> SysResult<u64> {
    let (rip, rsp, info) = t.call_info(tracee)?;
    let mut bytes = vec![0; 8];
    bytes.extend([rip, rsp].iter().flat_map(|word| word.to_le_bytes()));
    let mut words = |words: &[u64]| bytes.extend(words.iter().flat_map(|word| word.to_le_bytes()));
    let op = match info {
        CallInfo::None => 0u8,
        CallInfo::Entry { number, args } => {
            words(&[number]);
            words(&args);
            1
        }
        CallInfo::Exit { value } => {
            words(&[value]);
            bytes.push(CallInfo::is_error(value).into());
            2
        }
        CallInfo::Seccomp { number, args, data } => {
            words(&[number]);
            words(&args);
            bytes.extend(data.to_le_bytes());
            3
        }
    };
    if let [first, _, _, _, rest @ ..] = &mut *bytes {
        *first = op;
        rest.get_mut(..4).unwrap_or_default().copy_from_slice(&ARCH.to_le_bytes());
    }
    put_part(t, &bytes, room, data)
}
