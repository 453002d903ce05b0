//! Extended attributes (xattr(7)).

use abi::{Errno, SysResult, c, nr};
use task::Current;
use usermem::UserMemoryExt;
use vfs::{Path, XATTR_NAME_MAX, XATTR_SIZE_MAX};

use crate::args::{file, int, walk};
use crate::path::CWD;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::GETXATTR, |t, a| get(t, &walk(t, CWD, a[0], true)?, a)),
    full(nr::LGETXATTR, |t, a| get(t, &walk(t, CWD, a[0], false)?, a)),
    full(nr::FGETXATTR, |t, a| get(t, &open(t, a[0])?, a)),
    full(nr::SETXATTR, |t, a| set(t, a, |t, a| walk(t, CWD, a[0], true))),
    full(nr::LSETXATTR, |t, a| set(t, a, |t, a| walk(t, CWD, a[0], false))),
    full(nr::FSETXATTR, |t, a| set(t, a, |t, a| open(t, a[0]))),
    full(nr::LISTXATTR, |t, a| list(t, &walk(t, CWD, a[0], true)?, a)),
    full(nr::LLISTXATTR, |t, a| list(t, &walk(t, CWD, a[0], false)?, a)),
    full(nr::FLISTXATTR, |t, a| list(t, &open(t, a[0])?, a)),
    full(nr::REMOVEXATTR, |t, a| remove(t, &walk(t, CWD, a[0], true)?, a)),
    full(nr::LREMOVEXATTR, |t, a| remove(t, &walk(t, CWD, a[0], false)?, a)),
    full(nr::FREMOVEXATTR, |t, a| remove(t, &open(t, a[0])?, a)),
];

fn open(t: &Current, fd: u64) -> SysResult<Path> {
    let file = file(t, fd)?;
    if file.flags() & c::O_PATH != 0 {
        return Err(Errno::EBADF);
    }
    file.path.clone().ok_or(Errno::EOPNOTSUPP)
}

fn name(t: &Current, addr: u64) -> SysResult<Vec<u8>> {
    let name = t.mm.read_cstr(addr, XATTR_NAME_MAX + 1).map_err(|errno| match errno {
        Errno::ENAMETOOLONG => Errno::ERANGE,
        errno => errno,
    })?;
    if name.is_empty() { Err(Errno::ERANGE) } else { Ok(name) }
}

/// Gives a value back: its length alone when there is no room at all.
fn put(t: &Current, value: &[u8], addr: u64, room: u64) -> SysResult<u64> {
    if room > 0 {
        if (value.len() as u64) > room {
            return Err(Errno::ERANGE);
        }
        t.mm.write(addr, value)?;
    }
    Ok(value.len() as u64)
}

fn get(t: &Current, at: &Path, a: [u64; 6]) -> SysResult<u64> {
    let name = name(t, a[1])?;
    put(t, &t.caller().get_xattr(at.inode(), &name)?, a[2], a[3])
}

fn set(t: &mut Current, a: [u64; 6], find: fn(&Current, [u64; 6]) -> SysResult<Path>) -> SysResult<u64> {
    if int(a[4]) & !(c::XATTR_CREATE | c::XATTR_REPLACE) != 0 {
        return Err(Errno::EINVAL);
    }
    let (name, len) = (name(t, a[1])?, usize::try_from(a[3]).map_err(|_| Errno::E2BIG)?);
    if len > XATTR_SIZE_MAX {
        return Err(Errno::E2BIG);
    }
    let mut value = vec![0; len];
    t.mm.read(a[2], &mut value)?;
    let at = find(t, a)?;
    t.caller().set_xattr(&at, &name, &value, int(a[4])).map(|()| 0)
}

fn list(t: &Current, at: &Path, a: [u64; 6]) -> SysResult<u64> {
    let mut names = Vec::new();
    for name in t.caller().list_xattr(at.inode())? {
        names.extend(name);
        names.push(0);
    }
    put(t, &names, a[1], a[2])
}

fn remove(t: &Current, at: &Path, a: [u64; 6]) -> SysResult<u64> {
    t.caller().remove_xattr(at, &name(t, a[1])?).map(|()| 0)
}
