//! Options of level `SOL_SOCKET` (socket(7)).

use std::sync::atomic::Ordering;

use abi::{Errno, SysResult, c};
use auth::Capability;
use smallvec::SmallVec;

use crate::common::{Common, Flag};
use crate::{Caller, Credentials};

/// An option's value as it is handed out.
pub type OptionValue = SmallVec<[u8; 64]>;

/// Numbers of asm-generic/socket.h that the libc crate lacks.
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_NETNS_COOKIE: i32 = 71;
const SO_BUF_LOCK: i32 = 72;
const SO_PASSPIDFD: i32 = 76;
const SO_PASSRIGHTS: i32 = 83;
const SO_RCVPRIORITY: i32 = 82;

/// An `int`.
#[must_use]
pub fn word(value: i32) -> OptionValue {
    SmallVec::from_slice(&value.to_le_bytes())
}

/// The `int` that a value begins with.
///
/// # Errors
/// `EINVAL` when it is shorter.
pub fn word_of(value: &[u8]) -> SysResult<i32> {
    value.first_chunk().map(|bytes| i32::from_le_bytes(*bytes)).ok_or(Errno::EINVAL)
}

/// Options that are a flag and nothing else.
fn flag(name: i32) -> Option<Flag> {
    Some(match name {
        c::SO_DEBUG => Flag::Debug,
        c::SO_REUSEADDR => Flag::ReuseAddress,
        c::SO_REUSEPORT => Flag::ReusePort,
        c::SO_KEEPALIVE => Flag::KeepAlive,
        c::SO_DONTROUTE => Flag::DontRoute,
        c::SO_BROADCAST => Flag::Broadcast,
        c::SO_OOBINLINE => Flag::OobInline,
        c::SO_NO_CHECK => Flag::NoCheck,
        c::SO_PASSCRED => Flag::PassCredentials,
        c::SO_PASSSEC => Flag::PassSecurity,
        SO_PASSPIDFD => Flag::PassPidFd,
        SO_PASSRIGHTS => Flag::PassRights,
        c::SO_RXQ_OVFL => Flag::QueueOverflow,
        c::SO_WIFI_STATUS => Flag::Wifi,
        c::SO_NOFCS => Flag::NoFcs,
        c::SO_SELECT_ERR_QUEUE => Flag::SelectErrorQueue,
        c::SO_ZEROCOPY => Flag::ZeroCopy,
        SO_PREFER_BUSY_POLL => Flag::PreferBusyPoll,
        c::SO_LOCK_FILTER => Flag::LockFilter,
        SO_RCVPRIORITY => Flag::ReceivePriority,
        _ => return None,
    })
}

/// Which of the four timestamp options is on.
fn timestamp(common: &Common, nanoseconds: bool, new: bool) -> bool {
    let is = if nanoseconds { Flag::TimestampNs } else { Flag::Timestamp };
    common.is(is) && common.is(Flag::NewTimestamp) == new
}

fn set_timestamp(common: &Common, nanoseconds: bool, new: bool, on: bool) {
    common.set(Flag::Timestamp, on && !nanoseconds);
    common.set(Flag::TimestampNs, on && nanoseconds);
    common.set(Flag::NewTimestamp, on && new);
}

/// Reads an option.
///
/// # Errors
/// `ENOPROTOOPT`
pub fn get(common: &Common, name: i32) -> SysResult<OptionValue> {
    let unsigned = |value: u32| Ok(word(value.cast_signed()));
    if let Some(flag) = flag(name) {
        return Ok(word(common.is(flag).into()));
    }
    let relaxed = Ordering::Relaxed;
    match name {
        c::SO_TYPE => Ok(word(common.kind)),
        c::SO_DOMAIN => Ok(word(common.domain)),
        c::SO_PROTOCOL => Ok(word(common.protocol)),
        c::SO_ERROR => Ok(word(common.take_error().map_or(0, Errno::raw))),
        c::SO_SNDBUF => unsigned(common.send_buffer()),
        c::SO_RCVBUF => unsigned(common.receive_buffer()),
        c::SO_PRIORITY => unsigned(common.priority.load(relaxed)),
        c::SO_MARK => unsigned(common.mark.load(relaxed)),
        c::SO_BUSY_POLL => unsigned(common.busy_poll.load(relaxed)),
        c::SO_INCOMING_CPU => Ok(word(common.incoming_cpu.load(relaxed))),
        c::SO_PEEK_OFF => Ok(word(common.peek_offset.load(relaxed))),
        c::SO_BINDTOIFINDEX => unsigned(common.device()),
        c::SO_RCVLOWAT => Ok(word(common.low_water.load(relaxed))),
        c::SO_SNDLOWAT => Ok(word(1)),
        // A listening socket's family says 1.
        c::SO_ACCEPTCONN | c::SO_INCOMING_NAPI_ID | c::SO_BSDCOMPAT => Ok(word(0)),
        // `SKF_AD_MAX`
        c::SO_BPF_EXTENSIONS => Ok(word(64)),
        c::SO_GET_FILTER => Ok(OptionValue::new()),
        c::SO_TIMESTAMP => Ok(word(timestamp(common, false, false).into())),
        c::SO_TIMESTAMPNS => Ok(word(timestamp(common, true, false).into())),
        c::SO_TIMESTAMP_NEW => Ok(word(timestamp(common, false, true).into())),
        c::SO_TIMESTAMPNS_NEW => Ok(word(timestamp(common, true, true).into())),
        c::SO_TIMESTAMPING | c::SO_TIMESTAMPING_NEW => unsigned(common.timestamping.load(relaxed)),
        SO_BUF_LOCK => Ok(word(i32::from(common.is(Flag::BufferLocked)) | i32::from(common.is(Flag::ReceiveBufferLocked)) << 1)),
        c::SO_MAX_PACING_RATE => Ok(SmallVec::from_slice(&common.pacing.load(relaxed).to_le_bytes())),
        c::SO_COOKIE => Ok(SmallVec::from_slice(&common.ino.to_le_bytes())),
        SO_NETNS_COOKIE => Ok(SmallVec::from_slice(&1u64.to_le_bytes())),
        c::SO_LINGER => {
            let on = u32::from(common.lingers.load(relaxed));
            Ok([on.to_le_bytes(), common.linger.load(relaxed).to_le_bytes()].concat().into())
        }
        c::SO_RCVTIMEO | c::SO_SNDTIMEO | c::SO_RCVTIMEO_NEW | c::SO_SNDTIMEO_NEW => {
            let us = common.timeout(name == c::SO_RCVTIMEO || name == c::SO_RCVTIMEO_NEW) / 1000;
            Ok([(us / 1_000_000).to_le_bytes(), (us % 1_000_000).to_le_bytes()].concat().into())
        }
        // `SK_MEMINFO_*`: what is queued isn't counted here.
        c::SO_MEMINFO => {
            let words = [0, common.receive_buffer(), 0, common.send_buffer(), 0, 0, 0, 0, 0];
            Ok(words.iter().flat_map(|word| word.to_le_bytes()).collect())
        }
        c::SO_PEERCRED => Ok(SmallVec::from_slice(&Credentials { pid: 0, uid: u32::MAX, gid: u32::MAX }.to_bytes())),
        _ => Err(Errno::ENOPROTOOPT),
    }
}

/// `struct timeval` (which `struct __kernel_sock_timeval` is like) to nanoseconds.
fn nanoseconds(value: &[u8]) -> SysResult<u64> {
    let number = |at: usize| value.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map(i64::from_le_bytes);
    let (Some(sec), Some(usec)) = (number(0), number(8)) else { return Err(Errno::EINVAL) };
    if !(0..1_000_000).contains(&usec) {
        return Err(Errno::EDOM);
    }
    // Less than no time is as little as there is; none at all is for ever.
    let Ok(sec) = u64::try_from(sec) else { return Ok(1) };
    Ok(sec.saturating_mul(1_000_000_000).saturating_add(usec.cast_unsigned() * 1000))
}

/// Sets an option.
///
/// # Errors
/// `ENOPROTOOPT`, `EINVAL`, `EPERM`, `EDOM`, `EOPNOTSUPP`.
pub fn set(common: &Common, caller: &dyn Caller, name: i32, value: &[u8]) -> SysResult<()> {
    let number = word_of(value)?;
    let on = number != 0;
    let inet = matches!(common.domain, c::AF_INET | c::AF_INET6);
    let admin = || if caller.capable(Capability::NET_ADMIN) { Ok(()) } else { Err(Errno::EPERM) };
    let raw = || if caller.capable(Capability::NET_RAW) { Ok(()) } else { admin() };
    match name {
        c::SO_DEBUG if on => admin()?,
        c::SO_REUSEPORT if on && !inet => return Err(Errno::EOPNOTSUPP),
        c::SO_ZEROCOPY if !inet => return Err(Errno::EOPNOTSUPP),
        c::SO_ZEROCOPY if !(0..=1).contains(&number) => return Err(Errno::EINVAL),
        SO_PREFER_BUSY_POLL if on => admin()?,
        _ => {}
    }
    if let Some(flag) = flag(name) {
        common.set(flag, on);
        return Ok(());
    }
    let relaxed = Ordering::Relaxed;
    match name {
        c::SO_SNDBUF => common.resize(false, number, false),
        c::SO_RCVBUF => common.resize(true, number, false),
        c::SO_SNDBUFFORCE | c::SO_RCVBUFFORCE => {
            admin()?;
            common.resize(name == c::SO_RCVBUFFORCE, number, true);
        }
        c::SO_PRIORITY => {
            if !(0..=6).contains(&number) {
                raw()?;
            }
            common.priority.store(number.cast_unsigned(), relaxed);
        }
        c::SO_MARK => {
            raw()?;
            common.mark.store(number.cast_unsigned(), relaxed);
        }
        c::SO_LINGER => {
            let (on, seconds) = (on, word_of(value.get(4..).unwrap_or_default())?);
            common.lingers.store(on, relaxed);
            if on {
                common.linger.store(seconds.cast_unsigned(), relaxed);
            }
        }
        c::SO_RCVLOWAT => {
            let low = if number < 0 { i32::MAX } else { number.max(1) };
            common.low_water.store(low, relaxed);
        }
        c::SO_RCVTIMEO | c::SO_RCVTIMEO_NEW => common.set_timeout(true, nanoseconds(value)?),
        c::SO_SNDTIMEO | c::SO_SNDTIMEO_NEW => common.set_timeout(false, nanoseconds(value)?),
        c::SO_TIMESTAMP => set_timestamp(common, false, false, on),
        c::SO_TIMESTAMPNS => set_timestamp(common, true, false, on),
        c::SO_TIMESTAMP_NEW => set_timestamp(common, false, true, on),
        c::SO_TIMESTAMPNS_NEW => set_timestamp(common, true, true, on),
        c::SO_TIMESTAMPING | c::SO_TIMESTAMPING_NEW => common.timestamping.store(number.cast_unsigned(), relaxed),
        c::SO_BUSY_POLL => {
            if number < 0 {
                return Err(Errno::EINVAL);
            }
            if number.cast_unsigned() > common.busy_poll.load(relaxed) {
                admin()?;
            }
            common.busy_poll.store(number.cast_unsigned(), relaxed);
        }
        c::SO_INCOMING_CPU => common.incoming_cpu.store(number, relaxed),
        c::SO_MAX_PACING_RATE => {
            let long = value.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
            let short = if number == -1 { u64::MAX } else { number.cast_unsigned().into() };
            common.pacing.store(long.unwrap_or(short), relaxed);
        }
        c::SO_PEEK_OFF => {
            // What can't be looked into at an offset says so.
            if common.domain != c::AF_UNIX && !(inet && common.kind != c::SOCK_RAW) {
                return Err(Errno::EOPNOTSUPP);
            }
            common.peek_offset.store(number, relaxed);
        }
        SO_BUF_LOCK => {
            if number & !3 != 0 {
                return Err(Errno::EINVAL);
            }
            common.set(Flag::BufferLocked, number & 1 != 0);
            common.set(Flag::ReceiveBufferLocked, number & 2 != 0);
        }
        c::SO_BSDCOMPAT => {}
        c::SO_DETACH_FILTER => return Err(Errno::ENOENT),
        _ => return Err(Errno::ENOPROTOOPT),
    }
    Ok(())
}
