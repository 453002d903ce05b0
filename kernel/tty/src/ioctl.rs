//! ioctl_tty(2).

use std::sync::Arc;

use abi::signal::SigInfo;
use abi::{Errno, SysResult, c};
use usermem::{UserMemory, UserMemoryExt};
use vfs::IoctlArg;
use zerocopy::{FromZeros, IntoBytes};

use crate::control::is_admin;
use crate::terminal::{State, Terminal};
use crate::termios::{TERMIOS_LEN, TERMIOS2_LEN, Termio, Termios, WinSize};

/// The only line discipline (`N_TTY`).
const N_TTY: i32 = 0;
/// Not in the libc crate.
const TIOCGDEV: u64 = 0x8004_5432;
const TIOCSIG: u64 = 0x4004_5436;
const TIOCGPKT: u64 = 0x8004_5438;
const TIOCGPTLCK: u64 = 0x8004_5439;
const TIOCGEXCL: u64 = 0x8004_5440;
const TIOCPKT: u64 = 0x5420;
const TIOCGPTN: u64 = 0x8004_5430;
const TIOCSPTLCK: u64 = 0x4004_5431;
const TIOCVHANGUP: u64 = 0x5437;
const TIOCGSOFTCAR: u64 = 0x5419;
const TIOCSSOFTCAR: u64 = 0x541a;
const TCSBRKP: u64 = 0x5425;
const TIOCGETD: u64 = 0x5424;
const TIOCSETD: u64 = 0x5423;

fn put(arg: &IoctlArg<'_>, value: i32) -> SysResult<u64> {
    arg.memory.write_obj(arg.arg, &value)?;
    Ok(0)
}

fn int(arg: &IoctlArg<'_>) -> SysResult<i32> {
    arg.memory.read_obj(arg.arg)
}

/// An `int` that is passed as the argument itself.
fn number(arg: &IoctlArg<'_>) -> i32 {
    (arg.arg as u32).cast_signed()
}

fn count(value: usize) -> i32 {
    i32::try_from(value).unwrap_or(i32::MAX)
}

fn read_termios(memory: &dyn UserMemory, at: u64, len: usize) -> SysResult<Termios> {
    let mut termios = Termios::new_zeroed();
    memory.read(at, termios.as_mut_bytes().get_mut(..len).unwrap_or_default())?;
    Ok(termios)
}

/// By the slave's end. `readable`: opened for reading.
pub fn slave(terminal: &Arc<Terminal>, readable: bool, arg: &IoctlArg<'_>) -> SysResult<u64> {
    let task = task::current().ok_or(Errno::ENOTTY)?;
    match u64::from(arg.cmd) {
        c::TIOCSCTTY => terminal.set_controlling(&task, number(arg) == 1, readable).map(|()| 0),
        c::TIOCNOTTY => terminal.give_up(&task.group).map(|()| 0),
        c::FIONREAD => {
            let state = terminal.lock();
            let available = state.line.available(&state.termios);
            drop(state);
            put(arg, count(available))
        }
        // What is written is with the other end at once.
        c::TIOCOUTQ => put(arg, 0),
        c::TIOCSTI => {
            // Typing in somebody's stead is for who may anything (dev.tty.legacy_tiocsti is off).
            if !is_admin(&task) {
                return Err(Errno::EIO);
            }
            let byte: u8 = arg.memory.read_obj(arg.arg)?;
            terminal.receive(&[byte]);
            Ok(0)
        }
        c::TCXONC => {
            terminal.check_job(c::SIGTTOU)?;
            flow(terminal, number(arg))
        }
        c::TCFLSH => {
            terminal.check_job(c::SIGTTOU)?;
            let which = queues(arg)?;
            let mut change = terminal.change();
            if which.0 {
                change.flush_input();
            }
            if which.1 {
                change.flush_output();
            }
            Ok(0)
        }
        TIOCVHANGUP => {
            if !is_admin(&task) {
                return Err(Errno::EPERM);
            }
            terminal.hang_up_files();
            Ok(0)
        }
        _ => both(terminal, false, arg),
    }
}

/// By the master's end: settings are the slave's.
pub fn master(terminal: &Arc<Terminal>, arg: &IoctlArg<'_>) -> SysResult<u64> {
    let task = task::current().ok_or(Errno::ENOTTY)?;
    match u64::from(arg.cmd) {
        TIOCPKT => {
            let on = int(arg)? != 0;
            let mut state = terminal.lock();
            if on && !state.packet {
                state.status = 0;
            }
            state.packet = on;
            Ok(0)
        }
        TIOCGPKT => put(arg, terminal.lock().packet.into()),
        TIOCGPTN => put(arg, (c::minor(terminal.rdev())).cast_signed()),
        TIOCSPTLCK => {
            terminal.lock().locked = int(arg)? != 0;
            Ok(0)
        }
        TIOCGPTLCK => put(arg, terminal.lock().locked.into()),
        TIOCSIG => {
            let signo = number(arg);
            if !matches!(signo, c::SIGINT | c::SIGQUIT | c::SIGTSTP) {
                return Err(Errno::EINVAL);
            }
            terminal.signal_foreground(SigInfo::kernel(signo));
            Ok(0)
        }
        c::TIOCSCTTY => terminal.set_controlling(&task, number(arg) == 1, true).map(|()| 0),
        c::TIOCNOTTY => Err(Errno::ENOTTY),
        c::FIONREAD => put(arg, count(terminal.lock().output.len())),
        c::TIOCOUTQ => put(arg, 0),
        c::TCFLSH => {
            let which = queues(arg)?;
            let mut change = terminal.change();
            // The master's input is what is shown; it doesn't tell itself.
            if which.0 {
                change.output.flush();
            }
            if which.1 {
                change.input.clear();
                change.line.flush();
            }
            Ok(0)
        }
        _ => both(terminal, true, arg),
    }
}

/// By either end.
fn both(terminal: &Arc<Terminal>, master: bool, arg: &IoctlArg<'_>) -> SysResult<u64> {
    let task = task::current().ok_or(Errno::ENOTTY)?;
    let ns = task.group.pid_ns();
    match u64::from(arg.cmd) {
        c::TIOCGPGRP => put(arg, ns.local(terminal.owners(&task.group, master)?.1)),
        c::TIOCGSID => {
            let session = terminal.owners(&task.group, master)?.0.ok_or(Errno::ENOTTY)?;
            put(arg, ns.local(session.sid))
        }
        c::TIOCSPGRP => {
            terminal.check_job(c::SIGTTOU).map_err(|errno| if errno == Errno::EIO { Errno::ENOTTY } else { errno })?;
            let pgid = match int(arg)? {
                ..0 => return Err(Errno::EINVAL),
                pgid => ns.global(pgid).ok_or(Errno::ESRCH)?,
            };
            terminal.set_foreground(&task, pgid).map(|()| 0)
        }
        c::TIOCGWINSZ => {
            let size = terminal.lock().size;
            arg.memory.write_obj(arg.arg, &size)?;
            Ok(0)
        }
        c::TIOCSWINSZ => {
            let size: WinSize = arg.memory.read_obj(arg.arg)?;
            terminal.set_size(size);
            Ok(0)
        }
        c::TIOCEXCL | c::TIOCNXCL => {
            terminal.lock().exclusive = u64::from(arg.cmd) == c::TIOCEXCL;
            Ok(0)
        }
        TIOCGEXCL => put(arg, terminal.lock().exclusive.into()),
        TIOCGDEV => put(arg, i32::try_from(terminal.rdev()).unwrap_or(0)),
        TIOCGETD => put(arg, N_TTY),
        TIOCSETD => {
            terminal.check_job(c::SIGTTOU)?;
            if int(arg)? == N_TTY { Ok(0) } else { Err(Errno::EINVAL) }
        }
        // There is no line that could be broken, and nothing to wait for before it could.
        c::TCSBRK | TCSBRKP | c::TIOCSBRK if !master => terminal.check_job(c::SIGTTOU).map(|()| 0),
        c::TCSBRK | TCSBRKP | c::TIOCSBRK | c::TIOCCBRK => Ok(0),
        _ => settings(terminal, master, arg),
    }
}

/// Which queues TCFLSH names: input, output.
fn queues(arg: &IoctlArg<'_>) -> SysResult<(bool, bool)> {
    match number(arg) {
        c::TCIFLUSH => Ok((true, false)),
        c::TCOFLUSH => Ok((false, true)),
        c::TCIOFLUSH => Ok((true, true)),
        _ => Err(Errno::EINVAL),
    }
}

/// TCXONC
fn flow(terminal: &Terminal, action: i32) -> SysResult<u64> {
    let mut change = terminal.change();
    let termios = change.termios;
    match action {
        c::TCOOFF => change.hold_output(true),
        c::TCOON => change.hold_output(false),
        // The other end is asked to stop, or to go on, by the character for it.
        c::TCIOFF | c::TCION => {
            let index = if action == c::TCIOFF { c::VSTOP } else { c::VSTART };
            if let Some(byte) = termios.char(index) {
                change.output.put(byte);
            }
        }
        _ => return Err(Errno::EINVAL),
    }
    Ok(0)
}

/// Settings (tcgetattr(3), tcsetattr(3)).
fn settings(terminal: &Terminal, master: bool, arg: &IoctlArg<'_>) -> SysResult<u64> {
    let (memory, at) = (arg.memory, arg.arg);
    let current = || terminal.lock().termios;
    let new = match u64::from(arg.cmd) {
        c::TCGETS | c::TCGETS2 => {
            let len = if u64::from(arg.cmd) == c::TCGETS { TERMIOS_LEN } else { TERMIOS2_LEN };
            memory.write(at, current().as_bytes().get(..len).unwrap_or_default())?;
            return Ok(0);
        }
        c::TCGETA => {
            memory.write_obj(at, &current().termio())?;
            return Ok(0);
        }
        TIOCGSOFTCAR => return put(arg, (current().cflag & c::CLOCAL != 0).into()),
        TIOCSSOFTCAR => {
            let local = if int(arg)? != 0 { c::CLOCAL } else { 0 };
            Termios { cflag: current().cflag & !c::CLOCAL | local, ..current() }
        }
        c::TCSETS | c::TCSETSW | c::TCSETSF => {
            let new = read_termios(memory, at, TERMIOS_LEN)?;
            let old = current();
            Termios { ispeed: old.ispeed, ospeed: old.ospeed, ..new }
        }
        c::TCSETS2 | c::TCSETSW2 | c::TCSETSF2 => read_termios(memory, at, TERMIOS2_LEN)?,
        c::TCSETA | c::TCSETAW | c::TCSETAF => current().with_termio(&memory.read_obj::<Termio>(at)?),
        _ => return Err(Errno::ENOTTY),
    };
    if !master {
        terminal.check_job(c::SIGTTOU)?;
        terminal.want(true);
    }
    let mut change = terminal.change();
    if matches!(u64::from(arg.cmd), c::TCSETSF | c::TCSETSF2 | c::TCSETAF) {
        State::flush_input(&mut change);
    }
    change.set_termios(new);
    drop(change);
    terminal.settings_changed();
    Ok(0)
}
