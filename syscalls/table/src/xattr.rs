//! Extended attributes: no filesystem here has any (xattr(7): `ENOTSUP`).

use abi::{Errno, SysResult, nr};
use task::Current;

use crate::args::{file, walk};
use crate::{Entry, partial};

const CWD: u64 = abi::c::AT_FDCWD as u64;
const NOTE: &str = "no filesystem has any: ENOTSUP";

pub const ENTRIES: &[Entry] = &[
    partial(nr::GETXATTR, |t, a| by_path(t, a, true), NOTE),
    partial(nr::LGETXATTR, |t, a| by_path(t, a, false), NOTE),
    partial(nr::FGETXATTR, by_file, NOTE),
    partial(nr::SETXATTR, |t, a| by_path(t, a, true), NOTE),
    partial(nr::LSETXATTR, |t, a| by_path(t, a, false), NOTE),
    partial(nr::FSETXATTR, by_file, NOTE),
    partial(nr::LISTXATTR, |t, a| by_path(t, a, true), NOTE),
    partial(nr::LLISTXATTR, |t, a| by_path(t, a, false), NOTE),
    partial(nr::FLISTXATTR, by_file, NOTE),
    partial(nr::REMOVEXATTR, |t, a| by_path(t, a, true), NOTE),
    partial(nr::LREMOVEXATTR, |t, a| by_path(t, a, false), NOTE),
    partial(nr::FREMOVEXATTR, by_file, NOTE),
];

fn by_path(t: &mut Current, a: [u64; 6], follow: bool) -> SysResult<u64> {
    walk(t, CWD, a[0], follow)?.existing()?;
    Err(Errno::EOPNOTSUPP)
}

fn by_file(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    file(t, a[0])?;
    Err(Errno::EOPNOTSUPP)
}
