//! landlock(7).

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::Credentials;
use sync::Mutex;
use task::Current;
use usermem::UserMemoryExt;
use vfs::landlock::{Domain, Rules, fs};
use vfs::{File, FileOps};

use crate::args::{file, uint};
use crate::credentials::change;
use crate::fd::install;
use crate::{Entry, partial};

const NOTE: &str = "the third version: no ports, devices and scopes";

pub const ENTRIES: &[Entry] = &[
    partial(nr::LANDLOCK_CREATE_RULESET, create_ruleset, NOTE),
    partial(nr::LANDLOCK_ADD_RULE, add_rule, NOTE),
    partial(nr::LANDLOCK_RESTRICT_SELF, restrict_self, NOTE),
];

/// The version that this is (`LANDLOCK_CREATE_RULESET_VERSION`).
const ABI: u64 = 3;
const RULE_PATH_BENEATH: u32 = 1;

/// Rules that are being written down.
struct RulesetFile(Mutex<Rules>);

impl FileOps for RulesetFile {
    fn describe(&self) -> String {
        "anon_inode:[landlock-ruleset]".into()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn create_ruleset(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    const VERSION: u32 = 1;
    let [attr, size, flags, ..] = a;
    if uint(flags) != 0 {
        return if uint(flags) == VERSION && attr == 0 && size == 0 { Ok(ABI) } else { Err(Errno::EINVAL) };
    }
    // The structure has grown from version to version.
    if size < 8 {
        return Err(Errno::EINVAL);
    }
    if size > 4096 {
        return Err(Errno::E2BIG);
    }
    let mut bytes = vec![0; usize::try_from(size).map_err(|_| Errno::EINVAL)?];
    t.mm.read(attr, &mut bytes)?;
    let (handled, rest) = bytes.split_first_chunk().ok_or(Errno::EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let handled = u64::from_le_bytes(*handled);
    if handled & !fs::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if handled == 0 {
        return Err(Errno::ENOMSG);
    }
    install(t, File::new(Arc::new(RulesetFile(Mutex::new(Rules::new(handled)))), None, c::O_RDWR), true, 0)
}

/// Runs `f` with the rules behind a descriptor.
fn ruleset<T>(file: &File, f: impl FnOnce(&mut Rules) -> SysResult<T>) -> SysResult<T> {
    let ruleset = file.ops.as_any().downcast_ref::<RulesetFile>().ok_or(Errno::EBADFD)?;
    f(&mut ruleset.0.lock())
}

fn add_rule(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    let [fd, kind, attr, flags, ..] = a;
    if uint(flags) != 0 {
        return Err(Errno::EINVAL);
    }
    let set = file(t, fd)?;
    ruleset(&set, |_| Ok(()))?;
    if uint(kind) != RULE_PATH_BENEATH {
        return Err(Errno::EINVAL);
    }
    // Packed: the access and a descriptor.
    let mut bytes = [0; 12];
    t.mm.read(attr, &mut bytes)?;
    let [a0, a1, a2, a3, a4, a5, a6, a7, f0, f1, f2, f3] = bytes;
    let access = u64::from_le_bytes([a0, a1, a2, a3, a4, a5, a6, a7]);
    if access == 0 {
        return Err(Errno::ENOMSG);
    }
    if ruleset(&set, |rules| Ok(access & !rules.handled_fs != 0))? {
        return Err(Errno::EINVAL);
    }
    let parent = t.fds.get(i32::from_le_bytes([f0, f1, f2, f3]))?;
    let at = parent.path.as_ref().ok_or(Errno::EBADFD)?;
    ruleset(&set, |rules| rules.allow(at, access)).map(|()| 0)
}

fn restrict_self(t: &mut Current, a: [u64; 6]) -> SysResult<u64> {
    t.may_filter().map_err(|_| Errno::EPERM)?;
    if uint(a[1]) != 0 {
        return Err(Errno::EINVAL);
    }
    let set = file(t, a[0])?;
    let rules = ruleset(&set, |rules| Ok(rules.clone()))?;
    change(t, |who| Ok(Credentials { domain: Some(Domain::with(who, rules)?), ..who.clone() }))
}
