//! landlock(7).

use std::any::Any;
use std::sync::Arc;

use abi::{Errno, SysResult, c, nr};
use auth::Credentials;
use sync::Mutex;
use task::Current;
use usermem::UserMemoryExt;
use vfs::landlock::{Domain, Rules, fs, net};
use vfs::{File, FileOps};

use crate::args::{file, uint};
use crate::credentials::change;
use crate::fd::install;
use crate::{Entry, partial};

const NOTE: &str = "the fourth version: no devices and scopes";

pub const ENTRIES: &[Entry] = &[
    partial(nr::LANDLOCK_CREATE_RULESET, create_ruleset, NOTE),
    partial(nr::LANDLOCK_ADD_RULE, add_rule, NOTE),
    partial(nr::LANDLOCK_RESTRICT_SELF, restrict_self, NOTE),
];

/// The version that this is (`LANDLOCK_CREATE_RULESET_VERSION`).
const ABI: u64 = 4;
const RULE_PATH_BENEATH: u32 = 1;
const RULE_NET_PORT: u32 = 2;

/// Bytes of `struct landlock_ruleset_attr` that this version knows.
const KNOWN_SIZE: usize = 16;

/// Whether the caller may bind or connect a socket (`LANDLOCK_ACCESS_NET_*`): its rules are for ports of TCP.
///
/// # Errors
/// `EACCES`
pub fn check_port(t: &Current, socket: &dyn socket::Socket, address: &[u8], access: u64) -> SysResult<()> {
    let Some(domain) = Domain::of(t.credentials()) else { return Ok(()) };
    let common = socket.common();
    let inet = matches!(common.domain, c::AF_INET | c::AF_INET6);
    let tcp = inet && common.kind == c::SOCK_STREAM && matches!(common.protocol, 0 | c::IPPROTO_TCP);
    let (true, &[f0, f1, p0, p1, ..]) = (tcp, address) else { return Ok(()) };
    // To be connected to nobody is everybody's right.
    if access == net::CONNECT_TCP && i32::from(u16::from_le_bytes([f0, f1])) == c::AF_UNSPEC {
        return Ok(());
    }
    domain.check_port(u16::from_be_bytes([p0, p1]), access)
}

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
    bytes.resize(bytes.len().max(KNOWN_SIZE), 0);
    let (known, rest) = bytes.split_first_chunk::<KNOWN_SIZE>().ok_or(Errno::EINVAL)?;
    if rest.iter().any(|byte| *byte != 0) {
        return Err(Errno::E2BIG);
    }
    let [files, ports] = zerocopy::transmute!(*known);
    let (files, ports) = (u64::from_le(files), u64::from_le(ports));
    if files & !fs::ALL != 0 || ports & !net::ALL != 0 {
        return Err(Errno::EINVAL);
    }
    if files == 0 && ports == 0 {
        return Err(Errno::ENOMSG);
    }
    install(t, File::new(Arc::new(RulesetFile(Mutex::new(Rules::new(files, ports)))), None, c::O_RDWR), true, 0)
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
    match uint(kind) {
        RULE_PATH_BENEATH => {}
        RULE_NET_PORT => {
            let [access, port]: [u64; 2] = t.mm.read_obj(attr)?;
            if access == 0 {
                return Err(Errno::ENOMSG);
            }
            let port = u16::try_from(port).map_err(|_| Errno::EINVAL)?;
            return ruleset(&set, |rules| rules.allow_port(port, access)).map(|()| 0);
        }
        _ => return Err(Errno::EINVAL),
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
