//! inotify(7).

use abi::{Errno, SysResult, c, nr};
use anon::Inotify;
use task::Current;
use vfs::{Access, File};

use crate::args::{file, int, uint, walk};
use crate::fd::install;
use crate::{Entry, full};

pub const ENTRIES: &[Entry] = &[
    full(nr::INOTIFY_INIT, |t, _| init(t, 0)),
    full(nr::INOTIFY_INIT1, |t, a| init(t, int(a[0]))),
    full(nr::INOTIFY_ADD_WATCH, add_watch),
    full(nr::INOTIFY_RM_WATCH, |t, a| {
        let file = file(t, a[0])?;
        inotify(&file)?.remove(int(a[1])).map(|()| 0)
    }),
];

fn init(t: &Current, flags: i32) -> SysResult<u64> {
    if flags & !(c::IN_CLOEXEC | c::IN_NONBLOCK) != 0 {
        return Err(Errno::EINVAL);
    }
    let file = File::new(Inotify::new()?, None, c::O_RDONLY | flags & c::IN_NONBLOCK);
    install(t, file, flags & c::IN_CLOEXEC != 0, 0)
}

fn inotify(file: &File) -> SysResult<&Inotify> {
    file.ops.as_any().downcast_ref().filter(|_| file.flags() & c::O_PATH == 0).ok_or(Errno::EINVAL)
}

fn add_watch(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let mask = uint(a[2]);
    let (follow, only_dir) = Inotify::check_mask(mask)?;
    let file = file(t, a[0])?;
    let inotify = inotify(&file)?;
    let path = walk(t, c::AT_FDCWD as u64, a[1], follow)?;
    if only_dir && !path.dentry.is_dir() {
        return Err(Errno::ENOTDIR);
    }
    path.inode().permission(&t.caller().who, Access::READ)?;
    inotify.add(&path.dentry, mask).map(|number| number.cast_unsigned().into())
}
