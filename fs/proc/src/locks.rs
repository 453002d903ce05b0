//! /proc/locks, and the locks in /proc/pid/fdinfo.

use std::fmt::Write;

use abi::{SysResult, c};
use vfs::{LOCK_END, LockClass, LockInfo, LockKind};

use crate::Proc;

/// One lock as Linux words it, without its number.
pub fn line(lock: &LockInfo) -> String {
    let class = match lock.class {
        LockClass::Flock => "FLOCK  ADVISORY ",
        LockClass::Record => "POSIX  ADVISORY ",
        LockClass::Ofd => "OFDLCK ADVISORY ",
        LockClass::Lease(false) => "LEASE  ACTIVE   ",
        LockClass::Lease(true) => "LEASE  BREAKING ",
    };
    let kind = if lock.kind == LockKind::Shared { "READ " } else { "WRITE" };
    // An open file description is nobody's in particular.
    let pid = if lock.class == LockClass::Ofd { -1 } else { lock.pid };
    let (dev, ino) = lock.dev_ino;
    let end = if lock.range.end == LOCK_END { "EOF".to_owned() } else { (lock.range.end - 1).to_string() };
    format!("{class} {kind} {pid} {:02x}:{:02x}:{ino} {} {end}", c::major(dev), c::minor(dev), lock.range.start)
}

pub fn text(_: &Proc) -> SysResult<Vec<u8>> {
    let mut out = String::new();
    for (number, lock) in (1..).zip(vfs::all_locks()) {
        let _ = writeln!(out, "{number}: {}", line(&lock));
    }
    Ok(out.into_bytes())
}
