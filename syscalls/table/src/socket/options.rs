//! Options of sockets.

use abi::{Errno, SysResult, c};
use auth::Kgid;
use smallvec::SmallVec;
use socket::{Credentials, OptionValue};
use task::Current;
use usermem::UserMemoryExt;

use super::caller::seen_by;
use super::{TaskCaller, of};
use crate::args::{file, int};

/// Bytes of an option's value at most.
const MAX_VALUE: usize = 1 << 16;

pub fn setsockopt(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let len = usize::try_from(int(a[4])).map_err(|_| Errno::EINVAL)?.min(MAX_VALUE);
    let mut value: SmallVec<[u8; 64]> = SmallVec::from_elem(0, len);
    t.mm.read(a[3], &mut value)?;
    socket.set_option(&TaskCaller(t), int(a[1]), int(a[2]), &value).map(|()| 0)
}

pub fn getsockopt(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let file = file(t, a[0])?;
    let socket = of(&file)?;
    let room: i32 = t.mm.read_obj(a[4])?;
    let room = usize::try_from(room).map_err(|_| Errno::EINVAL)?;
    let value = match (int(a[1]), int(a[2])) {
        (c::SOL_SOCKET, c::SO_PEERNAME) => {
            let name = socket.peer_name()?;
            if name.len() < room {
                return Err(Errno::EINVAL);
            }
            SmallVec::from_slice(&name)
        }
        (c::SOL_SOCKET, name @ (c::SO_PEERCRED | c::SO_PEERGROUPS)) => {
            renumbered(t, name, &socket.option(c::SOL_SOCKET, name, room)?)
        }
        (level, name) => socket.option(level, name, room)?,
    };
    let len = room.min(value.len());
    t.mm.write(a[3], value.get(..len).unwrap_or_default())?;
    t.mm.write_obj(a[4], &u32::try_from(len).map_err(|_| Errno::EINVAL)?)?;
    Ok(0)
}

/// Who somebody is, as the calling task's user namespace numbers ids.
fn renumbered(t: &Current, name: i32, value: &[u8]) -> OptionValue {
    let words: SmallVec<[u32; 16]> = value.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
    let ns = &t.credentials().user_ns;
    match (name, words.as_slice()) {
        (c::SO_PEERCRED, &[pid, uid, gid]) if uid != u32::MAX => {
            let credentials = seen_by(t, Credentials { pid: pid.cast_signed(), uid, gid });
            SmallVec::from_slice(&credentials.to_bytes())
        }
        (c::SO_PEERGROUPS, groups) => groups.iter().flat_map(|group| ns.from_kgid_munged(Kgid(*group)).to_le_bytes()).collect(),
        _ => SmallVec::from_slice(value),
    }
}
