//! /proc/pid/uid_map, gid_map and setgroups (user_namespaces(7)).

use std::fmt::Write;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;

use abi::{Errno, SysResult};

use crate::caps::Capability;
use crate::credentials::Credentials;
use crate::ids::{Extent, IdMap, Kgid, Kuid};
use crate::userns::UserNamespace;

/// Longest text of a map: it must fit a page.
const MAX_TEXT: usize = 4096;

/// Which map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    Users,
    Groups,
}

impl MapKind {
    fn capability(self) -> Capability {
        match self {
            Self::Users => Capability::SETUID,
            Self::Groups => Capability::SETGID,
        }
    }
}

fn number(text: &[u8]) -> SysResult<u32> {
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return Err(Errno::EINVAL);
    }
    std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(Errno::EINVAL)
}

/// Lines of three numbers, `outside` as the parent namespace has it.
fn parse(text: &[u8]) -> SysResult<Vec<Extent>> {
    if text.len() >= MAX_TEXT {
        return Err(Errno::EINVAL);
    }
    let text = text.strip_suffix(b"\n").unwrap_or(text);
    let line = |line: &[u8]| {
        let words: Vec<_> = line.split(u8::is_ascii_whitespace).filter(|word| !word.is_empty()).collect();
        match words.as_slice() {
            [inside, outside, count] => Ok(Extent { inside: number(inside)?, outside: number(outside)?, count: number(count)? }),
            _ => Err(Errno::EINVAL),
        }
    };
    text.split(|byte| *byte == b'\n').map(line).collect()
}

impl UserNamespace {
    fn map(&self, kind: MapKind) -> &OnceLock<IdMap> {
        match kind {
            MapKind::Users => &self.uid_map,
            MapKind::Groups => &self.gid_map,
        }
    }

    /// Sets a map. `opener` has opened the file, `writer` writes to it.
    ///
    /// # Errors
    /// `EPERM` when it is set already, and for maps that neither may make; `EINVAL` for what is no map.
    pub fn write_map(&self, kind: MapKind, text: &[u8], opener: &Credentials, writer: &Credentials) -> SysResult<()> {
        let map = self.map(kind);
        let parent = self.parent().filter(|_| map.get().is_none()).ok_or(Errno::EPERM)?;
        if !opener.has_capability_in(self, Capability::SYS_ADMIN) {
            return Err(Errno::EPERM);
        }
        let extents = IdMap::new(parse(text)?)?.extents().to_vec();
        if !self.may_map(kind, &extents, parent, opener, writer) {
            return Err(Errno::EPERM);
        }
        let above = parent.map(kind).get().ok_or(Errno::EPERM)?;
        let outwards = |extent: &Extent| {
            let outside = above.range_outwards(extent.outside, extent.count).ok_or(Errno::EPERM)?;
            Ok(Extent { outside, ..*extent })
        };
        let extents = extents.iter().map(outwards).collect::<SysResult<Vec<_>>>()?;
        map.set(IdMap::new(extents)?).map_err(|_| Errno::EPERM)
    }

    fn may_map(&self, kind: MapKind, extents: &[Extent], parent: &Self, opener: &Credentials, writer: &Credentials) -> bool {
        // Who is root inside could give files capabilities that count outside, where it is the same root.
        if kind == MapKind::Users && extents.iter().any(|extent| extent.outside == 0) {
            let own = std::ptr::eq(self, &raw const *opener.user_ns);
            let may = if own { self.maker_could_setfcap } else { opener.has_capability_in(parent, Capability::SETFCAP) };
            if !may {
                return false;
            }
        }
        // Everybody may be somebody else inside.
        if let [Extent { outside, count: 1, .. }] = extents
            && self.owner().0 == opener.euid
        {
            let own = match kind {
                MapKind::Users => parent.make_kuid(*outside) == Some(opener.euid),
                MapKind::Groups => parent.make_kgid(*outside) == Some(opener.egid) && self.no_setgroups.load(Ordering::SeqCst),
            };
            if own {
                return true;
            }
        }
        let cap = kind.capability();
        writer.has_capability_in(parent, cap) && opener.has_capability_in(parent, cap)
    }

    /// The text of a map, as somebody in `reader` sees it.
    #[must_use]
    pub fn map_text(&self, kind: MapKind, reader: &Self) -> String {
        // One's own is shown by the parent's numbers.
        let base = if std::ptr::eq(self, reader) { self.parent().map_or(self, |parent| parent) } else { reader };
        let mut text = String::new();
        for extent in self.map(kind).get().map_or(&[][..], IdMap::extents) {
            let outside = match kind {
                MapKind::Users => base.from_kuid(Kuid(extent.outside)),
                MapKind::Groups => base.from_kgid(Kgid(extent.outside)),
            };
            let _ = writeln!(text, "{:>10} {:>10} {:>10}", extent.inside, outside.unwrap_or(u32::MAX), extent.count);
        }
        text
    }

    /// /proc/pid/setgroups
    #[must_use]
    pub fn setgroups_text(&self) -> &'static str {
        if self.no_setgroups.load(Ordering::SeqCst) { "deny\n" } else { "allow\n" }
    }

    /// Forbids setgroups(2) for good, or confirms that it is allowed.
    ///
    /// # Errors
    /// `EPERM` for what can't be changed any more; `EINVAL` for other words.
    pub fn write_setgroups(&self, text: &[u8]) -> SysResult<()> {
        let denied = self.no_setgroups.load(Ordering::SeqCst);
        match text.trim_ascii_end() {
            b"allow" if denied => Err(Errno::EPERM),
            b"allow" => Ok(()),
            b"deny" if !denied && self.gid_map.get().is_some() => Err(Errno::EPERM),
            b"deny" => {
                self.no_setgroups.store(true, Ordering::SeqCst);
                Ok(())
            }
            _ => Err(Errno::EINVAL),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn user(ns: &Arc<UserNamespace>) -> Credentials {
        Credentials::new(ns.clone(), Kuid(1000), Kgid(1000), Vec::new())
    }

    #[test]
    fn everybody_may_map_itself() {
        let first = UserNamespace::initial();
        let who = user(&first);
        let ns = UserNamespace::child(&who).unwrap();
        let inside = who.in_new_namespace(ns.clone());
        let set = |kind, text: &[u8]| ns.write_map(kind, text, &inside, &inside);
        assert_eq!(set(MapKind::Users, b"0 1001 1"), Err(Errno::EPERM));
        assert_eq!(set(MapKind::Users, b"0 1000 2"), Err(Errno::EPERM));
        assert_eq!(set(MapKind::Users, b"0 x 1"), Err(Errno::EINVAL));
        assert_eq!(set(MapKind::Users, b""), Err(Errno::EINVAL));
        assert_eq!(set(MapKind::Users, b"0 1000 1\n"), Ok(()));
        assert_eq!(set(MapKind::Users, b"0 1000 1\n"), Err(Errno::EPERM));
        assert_eq!((ns.make_kuid(0), ns.from_kuid(Kuid(0))), (Some(Kuid(1000)), None));
        // Groups must be given up first.
        assert_eq!(set(MapKind::Groups, b"0 1000 1"), Err(Errno::EPERM));
        ns.write_setgroups(b"deny\n").unwrap();
        assert_eq!((ns.write_setgroups(b"allow"), set(MapKind::Groups, b"0 1000 1")), (Err(Errno::EPERM), Ok(())));
        assert!(!ns.may_setgroups());
        assert_eq!(ns.map_text(MapKind::Users, &ns), "         0       1000          1\n");
    }

    #[test]
    fn root_may_map_what_it_likes() {
        let first = UserNamespace::initial();
        let root = Credentials::root(first.clone());
        let ns = UserNamespace::child(&root).unwrap();
        ns.write_map(MapKind::Users, b"0 100000 65536\n70000 0 1", &root, &root).unwrap();
        assert_eq!((ns.make_kuid(5), ns.make_kuid(70000)), (Some(Kuid(100_005)), Some(Kuid(0))));
        // Below, numbers go through both maps.
        let below = UserNamespace::child(&Credentials { euid: Kuid(100_000), ..root.in_new_namespace(ns.clone()) });
        assert_eq!(below.err(), Some(Errno::EPERM), "its group has no number yet");
        ns.write_map(MapKind::Groups, b"0 100000 65536", &root, &root).unwrap();
        let inside = Credentials { euid: Kuid(100_000), egid: Kgid(100_000), ..root.in_new_namespace(ns.clone()) };
        let below = UserNamespace::child(&inside).unwrap();
        below.write_map(MapKind::Users, b"0 1 10", &inside, &inside).unwrap();
        assert_eq!(below.make_kuid(3), Some(Kuid(100_004)));
        assert_eq!(below.write_map(MapKind::Groups, b"0 65530 10", &inside, &inside), Err(Errno::EPERM));
        assert_eq!(first.write_map(MapKind::Users, b"0 0 1", &root, &root), Err(Errno::EPERM));
    }
}
