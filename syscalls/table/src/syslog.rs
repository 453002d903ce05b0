//! syslog(2): the kernel's log as text.

use abi::poll::PollEvents;
use abi::{Errno, SysResult, nr};
use auth::Capability;
use task::Current;
use usermem::UserMemoryExt;

use crate::args::int;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[full(nr::SYSLOG, syslog)];

/// Actions by their numbers (syslog(2)).
mod action {
    pub const CLOSE: i32 = 0;
    pub const OPEN: i32 = 1;
    pub const READ: i32 = 2;
    pub const READ_ALL: i32 = 3;
    pub const READ_CLEAR: i32 = 4;
    pub const CLEAR: i32 = 5;
    pub const CONSOLE_OFF: i32 = 6;
    pub const CONSOLE_ON: i32 = 7;
    pub const CONSOLE_LEVEL: i32 = 8;
    pub const SIZE_UNREAD: i32 = 9;
    pub const SIZE_BUFFER: i32 = 10;
}

fn syslog(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let (kind, len) = (int(a[0]), int(a[2]));
    // As with kernel.dmesg_restrict=0: looking is everybody's.
    if !matches!(kind, action::READ_ALL | action::SIZE_BUFFER) && !t.credentials().has_capability(Capability::SYSLOG) {
        return Err(Errno::EPERM);
    }
    let log = t.task.kernel.log.clone();
    match kind {
        // There is no console whose level would matter.
        action::CLOSE | action::OPEN | action::CONSOLE_OFF | action::CONSOLE_ON => Ok(0),
        action::CONSOLE_LEVEL if (1..=8).contains(&len) => Ok(0),
        action::CLEAR => {
            log.clear();
            Ok(0)
        }
        action::READ | action::READ_ALL | action::READ_CLEAR => {
            let len = usize::try_from(len).ok().filter(|_| a[1] != 0).ok_or(Errno::EINVAL)?;
            if len == 0 {
                return Ok(0);
            }
            let text = if kind == action::READ {
                t.block_on(Some(log.queue()), PollEvents::READABLE, None, || {
                    let text = log.read(len.min(klog::SIZE));
                    if text.is_empty() { Err(Errno::EAGAIN) } else { Ok(text) }
                })?
            } else {
                log.tail(len, kind == action::READ_CLEAR)
            };
            t.mm.write(a[1], &text)?;
            Ok(text.len() as u64)
        }
        action::SIZE_UNREAD => Ok(log.unread() as u64),
        action::SIZE_BUFFER => Ok(klog::SIZE as u64),
        _ => Err(Errno::EINVAL),
    }
}
