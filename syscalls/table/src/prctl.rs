//! prctl(2).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use abi::signal::SigSet;
use abi::{Errno, SysResult, c, nr};
use auth::{CapSet, Capability, Securebits};
use mm::Dumpable;
use task::{Current, Ptracer};
use usermem::UserMemoryExt;

use crate::args::{int, uint};
use crate::credentials::change;
use crate::seccomp::set_mode;
use crate::{Entry, partial};

pub const ENTRIES: &[Entry] =
    &[partial(nr::PRCTL, prctl, "options of x86 and of what there is: no PR_SET_MM, core scheduling, dispatch")];

/// `PR_SPEC_NOT_AFFECTED`: guests see a processor without these flaws; the host's mitigations are the host's.
const SPEC_NOT_AFFECTED: u64 = 0;

/// Arguments that must be zero for options to come.
fn unused(args: &[u64]) -> SysResult<()> {
    if args.iter().all(|arg| *arg == 0) { Ok(()) } else { Err(Errno::EINVAL) }
}

fn flag(value: bool) -> SysResult<u64> {
    Ok(value.into())
}

/// An `int` written to the address in the second argument.
fn put(t: &Current, addr: u64, value: i32) -> SysResult<u64> {
    t.mm.write_obj(addr, &value)?;
    Ok(0)
}

fn prctl(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [option, arg, third, fourth, fifth, _] = a;
    match int(option) {
        c::PR_SET_NAME => set_name(t, arg),
        c::PR_GET_NAME => {
            let mut name = t.task.lock().comm.clone();
            name.resize(16, 0);
            t.mm.write(arg, &name)?;
            Ok(0)
        }
        c::PR_SET_PDEATHSIG => {
            let signo = i32::try_from(arg).ok().filter(|signo| *signo == 0 || SigSet::of(*signo).0 != 0).ok_or(Errno::EINVAL)?;
            t.task.lock().pdeath_signal = signo;
            Ok(0)
        }
        c::PR_GET_PDEATHSIG => {
            let signo = t.task.lock().pdeath_signal;
            put(t, arg, signo)
        }
        c::PR_GET_DUMPABLE => Ok(t.mm.dumpable() as u64),
        c::PR_SET_DUMPABLE => {
            // "Readable by root only" is the kernel's to give.
            t.mm.set_dumpable(match arg {
                0 => Dumpable::No,
                1 => Dumpable::User,
                _ => return Err(Errno::EINVAL),
            });
            Ok(0)
        }
        c::PR_SET_PTRACER => set_ptracer(t, arg),
        c::PR_SET_CHILD_SUBREAPER => {
            t.task.group.child_subreaper.store(arg != 0, Ordering::SeqCst);
            Ok(0)
        }
        c::PR_GET_CHILD_SUBREAPER => put(t, arg, t.task.group.child_subreaper.load(Ordering::SeqCst).into()),
        c::PR_SET_NO_NEW_PRIVS => {
            if arg != 1 || third != 0 || fourth != 0 || fifth != 0 {
                return Err(Errno::EINVAL);
            }
            t.task.no_new_privs.store(true, Ordering::SeqCst);
            Ok(0)
        }
        c::PR_GET_NO_NEW_PRIVS => {
            unused(&[arg, third, fourth, fifth])?;
            flag(t.task.no_new_privs.load(Ordering::SeqCst))
        }
        c::PR_SET_TIMERSLACK => {
            let mut shared = t.task.lock();
            shared.timer_slack = if arg.cast_signed() <= 0 { shared.default_timer_slack } else { arg };
            Ok(0)
        }
        c::PR_GET_TIMERSLACK => Ok(t.task.lock().timer_slack.min(i32::MAX.unsigned_abs().into())),
        c::PR_GET_TID_ADDRESS => {
            let addr = t.task.lock().clear_child_tid;
            t.mm.write_obj(arg, &addr)?;
            Ok(0)
        }
        c::PR_GET_TIMING => Ok(c::PR_TIMING_STATISTICAL as u64),
        c::PR_SET_TIMING if arg == c::PR_TIMING_STATISTICAL as u64 => Ok(0),
        c::PR_GET_TSC => put(t, arg, c::PR_TSC_ENABLE),
        c::PR_SET_TSC if arg == c::PR_TSC_ENABLE as u64 => Ok(0),
        c::PR_GET_SPECULATION_CTRL => {
            unused(&[third, fourth, fifth])?;
            if arg <= 2 { Ok(SPEC_NOT_AFFECTED) } else { Err(Errno::ENODEV) }
        }
        c::PR_SET_SPECULATION_CTRL => {
            unused(&[fourth, fifth])?;
            // Nothing to control.
            Err(if arg <= 2 { Errno::ENXIO } else { Errno::ENODEV })
        }
        c::PR_GET_SECCOMP => Ok(t.task.seccomp_mode().into()),
        c::PR_SET_SECCOMP => set_mode(t, arg, third),
        c::PR_SET_MM if !t.credentials().has_capability(Capability::SYS_RESOURCE) => Err(Errno::EPERM),
        other => capabilities(t, other, [arg, third, fourth, fifth]),
    }
}

/// Who may attach to this process besides its ancestors: nobody, anybody, or a process and its descendants.
fn set_ptracer(t: &Current, arg: u64) -> SysResult<u64> {
    t.set_ptracer(match (arg, int(arg)) {
        (0, _) => Ptracer::Nobody,
        (_, -1) => Ptracer::Anybody,
        (_, pid) => Ptracer::Task(Arc::downgrade(&t.find_task(pid).ok_or(Errno::EINVAL)?)),
    });
    Ok(0)
}

fn set_name(t: &Current, addr: u64) -> SysResult<u64> {
    let mut name = [0; 16];
    let text = match t.mm.read_cstr(addr, 16) {
        Err(Errno::ENAMETOOLONG) => {
            t.mm.read(addr, &mut name)?;
            name.get(..15).unwrap_or_default().to_vec()
        }
        text => text?,
    };
    t.task.lock().comm = text;
    Ok(0)
}

/// Options about capabilities and securebits.
fn capabilities(t: &mut Current, option: i32, [arg, third, fourth, fifth]: [u64; 4]) -> SysResult<u64> {
    let cap = |number: u64| CapSet::of_number(number).ok_or(Errno::EINVAL);
    match option {
        c::PR_CAPBSET_READ => flag(t.credentials().bounding.contains(cap(arg)?)),
        c::PR_CAPBSET_DROP => {
            // Who may not is told so before what is wrong.
            if !t.credentials().effective.has(Capability::SETPCAP) {
                return Err(Errno::EPERM);
            }
            let cap = cap(arg)?;
            change(t, |who| who.drop_bounding(cap))
        }
        c::PR_GET_SECUREBITS => Ok(t.credentials().securebits.0.into()),
        c::PR_SET_SECUREBITS => change(t, |who| who.set_securebits(u32::try_from(arg).map_err(|_| Errno::EPERM)?)),
        c::PR_GET_KEEPCAPS => flag(t.credentials().securebits.has(Securebits::KEEP_CAPS)),
        c::PR_SET_KEEPCAPS => match arg {
            0 | 1 => change(t, |who| who.set_keep_caps(arg == 1)),
            _ => Err(Errno::EINVAL),
        },
        c::PR_CAP_AMBIENT => {
            unused(&[fourth, fifth])?;
            match uint(arg).cast_signed() {
                c::PR_CAP_AMBIENT_CLEAR_ALL => {
                    unused(&[third])?;
                    change(t, |who| Ok(auth::Credentials { ambient: CapSet::EMPTY, ..who.clone() }))
                }
                c::PR_CAP_AMBIENT_IS_SET => flag(t.credentials().ambient.contains(cap(third)?)),
                c::PR_CAP_AMBIENT_RAISE => {
                    let cap = cap(third)?;
                    change(t, |who| who.raise_ambient(cap))
                }
                c::PR_CAP_AMBIENT_LOWER => {
                    let cap = cap(third)?;
                    change(t, |who| Ok(auth::Credentials { ambient: who.ambient.without(cap), ..who.clone() }))
                }
                _ => Err(Errno::EINVAL),
            }
        }
        _ => Err(Errno::EINVAL),
    }
}
