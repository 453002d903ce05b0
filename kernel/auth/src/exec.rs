//! What execve(2) makes of credentials: set-user-ID programs, file capabilities, ambient capabilities (capabilities(7), "Transformation of
//! capabilities during execve()").

use abi::{Errno, SysResult};

use crate::caps::CapSet;
use crate::credentials::{Credentials, Securebits};
use crate::ids::{Kgid, Kuid};

const S_ISUID: u32 = 0o4000;
const S_ISGID: u32 = 0o2000;
const S_IXGRP: u32 = 0o010;

/// Capabilities of a file (`security.capability`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FileCaps {
    pub permitted: CapSet,
    pub inheritable: CapSet,
    /// What becomes permitted becomes effective, too.
    pub effective: bool,
    /// In whose namespaces they count: where this user is root.
    pub root: u32,
}

impl FileCaps {
    /// Reads the attribute's value (`struct vfs_cap_data`, `struct vfs_ns_cap_data`).
    ///
    /// # Errors
    /// `EINVAL` when it is none.
    pub fn parse(bytes: &[u8]) -> SysResult<Self> {
        const REVISION: u32 = 0xff00_0000;
        const EFFECTIVE: u32 = 1;
        let words: Vec<u32> = bytes.chunks_exact(4).filter_map(|chunk| chunk.try_into().ok().map(u32::from_le_bytes)).collect();
        let set = |low: u32, high: u32| CapSet::from_bits(u64::from(low) | u64::from(high) << 32);
        let (magic, permitted, inheritable, root) = match *words.as_slice() {
            [magic, p, i] if magic & REVISION == 0x0100_0000 => (magic, set(p, 0), set(i, 0), 0),
            [magic, p, i, p_high, i_high] if magic & REVISION == 0x0200_0000 => (magic, set(p, p_high), set(i, i_high), 0),
            [magic, p, i, p_high, i_high, root] if magic & REVISION == 0x0300_0000 => {
                (magic, set(p, p_high), set(i, i_high), root)
            }
            _ => return Err(Errno::EINVAL),
        };
        if !bytes.len().is_multiple_of(4) {
            return Err(Errno::EINVAL);
        }
        Ok(Self { permitted, inheritable, effective: magic & EFFECTIVE != 0, root })
    }
}

/// The program that is run: for a script, its interpreter.
#[derive(Clone, Copy, Debug, Default)]
pub struct ExecFile {
    pub mode: u32,
    pub uid: Kuid,
    pub gid: Kgid,
    pub caps: Option<FileCaps>,
    /// Mounted so that it gives nothing (`nosuid`, or for another user namespace).
    pub nosuid: bool,
}

/// What keeps a program from gaining anything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unsafe {
    pub no_new_privs: bool,
    /// Root, working directory and umask are another process's, too.
    pub shares_fs: bool,
    /// Somebody traces it who may not trace what it would become.
    pub traced: bool,
}

/// What comes of it.
#[derive(Clone, Debug)]
pub struct ExecOutcome {
    pub credentials: Credentials,
    /// The program has more rights than who called it: `AT_SECURE`.
    pub secure: bool,
}

impl Credentials {
    /// The credentials that a program runs with.
    ///
    /// # Errors
    /// `EPERM` when the file needs capabilities that it can't get.
    pub fn exec(&self, file: &ExecFile, hazard: Unsafe) -> SysResult<ExecOutcome> {
        let mut new = self.clone();
        let may_gain = !file.nosuid && !hazard.no_new_privs;
        if may_gain && self.user_ns.from_kuid(file.uid).is_some() && self.user_ns.from_kgid(file.gid).is_some() {
            if file.mode & S_ISUID != 0 {
                new.euid = file.uid;
            }
            // Without execution for the group the bit used to mean mandatory locking.
            if file.mode & (S_ISGID | S_IXGRP) == S_ISGID | S_IXGRP {
                new.egid = file.gid;
            }
        }
        let root = self.user_ns.make_kuid(0);
        let caps = file.caps.filter(|caps| !file.nosuid && self.user_ns.holds_root(Kuid(caps.root)));
        let mut effective = false;
        new.permitted = CapSet::EMPTY;
        if let Some(caps) = caps {
            effective = caps.effective;
            new.permitted = self.bounding.and(caps.permitted).with(self.inheritable.and(caps.inheritable));
            // A program that doesn't know of capabilities mustn't run without some of them.
            if effective && !new.permitted.contains(caps.permitted) {
                return Err(Errno::EPERM);
            }
        }
        let (real_root, effective_root) = (Some(new.ruid) == root, Some(new.euid) == root);
        // A set-user-ID root program with capabilities of its own gets those alone.
        let own_caps_only = caps.is_some() && effective_root && !real_root;
        if !self.securebits.has(Securebits::NOROOT) && !own_caps_only {
            if real_root || effective_root {
                new.permitted = self.bounding.with(self.inheritable);
            }
            effective |= effective_root;
        }
        let set_id = new.euid != self.euid || !self.in_egroup(new.egid);
        let gained = !self.permitted.contains(new.permitted);
        if (set_id || gained) && hazard != Unsafe::default() {
            if hazard.no_new_privs || !self.effective.has(crate::Capability::SETUID) {
                (new.euid, new.egid) = (new.ruid, new.rgid);
            }
            new.permitted = new.permitted.and(self.permitted);
        }
        (new.suid, new.fsuid, new.sgid, new.fsgid) = (new.euid, new.euid, new.egid, new.egid);
        if caps.is_some() || set_id {
            new.ambient = CapSet::EMPTY;
        }
        new.permitted = new.permitted.with(new.ambient);
        new.effective = if effective { new.permitted } else { new.ambient };
        new.securebits.0 &= !Securebits::KEEP_CAPS;
        let grown = !new.ambient.contains(new.permitted);
        let mixed = new.euid != self.ruid || new.egid != self.rgid;
        let secure = set_id || mixed || !real_root && (effective || grown);
        Ok(ExecOutcome { credentials: new, secure })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Capability, UserNamespace};

    const SUID_ROOT: ExecFile = ExecFile { mode: 0o104755, uid: Kuid::ROOT, gid: Kgid::ROOT, caps: None, nosuid: false };
    const PLAIN: ExecFile = ExecFile { mode: 0o100755, ..SUID_ROOT };

    fn user() -> Credentials {
        Credentials::new(UserNamespace::initial(), Kuid(1000), Kgid(1000), Vec::new())
    }

    fn run(who: &Credentials, file: &ExecFile) -> (Credentials, bool) {
        let outcome = who.exec(file, Unsafe::default()).unwrap();
        (outcome.credentials, outcome.secure)
    }

    #[test]
    fn set_user_id_root_gives_the_bounding_set() {
        let (new, secure) = run(&user(), &SUID_ROOT);
        assert_eq!((new.ruid, new.euid, new.suid, new.fsuid), (Kuid(1000), Kuid(0), Kuid(0), Kuid(0)));
        assert!(secure && new.effective == CapSet::ALL);
        let nnp = user().exec(&SUID_ROOT, Unsafe { no_new_privs: true, ..Unsafe::default() }).unwrap();
        assert!(nnp.credentials.euid == Kuid(1000) && nnp.credentials.permitted.is_empty() && !nnp.secure);
        assert_eq!(run(&user(), &ExecFile { nosuid: true, ..SUID_ROOT }).0.euid, Kuid(1000));
        let shared = user().exec(&SUID_ROOT, Unsafe { shares_fs: true, ..Unsafe::default() }).unwrap();
        assert_eq!(shared.credentials.euid, Kuid(1000));
    }

    #[test]
    fn root_regains_everything_unless_told_not_to() {
        let first = UserNamespace::initial();
        let root = Credentials::root(first);
        let dropped = root.capset(CapSet::EMPTY, CapSet::EMPTY, CapSet::EMPTY).unwrap();
        assert_eq!(run(&dropped, &PLAIN).0.effective, CapSet::ALL);
        let noroot = root.set_securebits(Securebits::NOROOT).unwrap();
        assert!(run(&noroot, &PLAIN).0.permitted.is_empty());
    }

    #[test]
    fn ambient_capabilities_survive_plain_programs_only() {
        let kill = CapSet::of(Capability::KILL);
        let who = Credentials { permitted: kill, inheritable: kill, ambient: kill, ..user() };
        let (new, secure) = run(&who, &PLAIN);
        assert!(new.effective == kill && new.permitted == kill && !secure);
        assert!(run(&who, &ExecFile { uid: Kuid(7), ..SUID_ROOT }).0.ambient.is_empty());
    }

    #[test]
    fn file_capabilities() {
        let mut bytes = [0x0200_0001u32, 1 << 13, 0, 0, 0].map(u32::to_le_bytes).concat();
        let caps = FileCaps::parse(&bytes).unwrap();
        let raw = CapSet::of(Capability::NET_RAW);
        assert_eq!(caps, FileCaps { permitted: raw, inheritable: CapSet::EMPTY, effective: true, root: 0 });
        let file = ExecFile { caps: Some(caps), ..PLAIN };
        let (new, secure) = run(&user(), &file);
        assert!(new.effective == raw && secure);
        let bounded = Credentials { bounding: CapSet::EMPTY, ..user() };
        assert_eq!(bounded.exec(&file, Unsafe::default()).err(), Some(Errno::EPERM));
        bytes.push(0);
        assert_eq!(FileCaps::parse(&bytes), Err(Errno::EINVAL));
        assert_eq!(FileCaps::parse(&[]), Err(Errno::EINVAL));
    }
}
