//! Users and groups of the sentry's user namespace (user_namespaces(7)).

use std::fs;
use std::io;
use std::process::{Command, Stdio};

/// `count` numbers from `inside` on act on the host as those from `outside` on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdMap {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// Users and groups; empty: those that the caller may hand out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IdMaps {
    pub uids: Vec<IdMap>,
    pub gids: Vec<IdMap>,
}

fn text(maps: &[IdMap]) -> String {
    maps.iter().map(|map| format!("{} {} {}\n", map.inside, map.outside, map.count)).collect()
}

/// Every number that exists for the caller, as itself: from the caller's own map.
fn everyone(own: &str) -> Vec<IdMap> {
    let line = |line: &str| {
        let mut numbers = line.split_whitespace().map(str::parse);
        let (inside, _, count) = (numbers.next()?.ok()?, numbers.next()?.ok()?, numbers.next()?.ok()?);
        Some(IdMap { inside, outside: inside, count })
    };
    let valid = |text: &&str| text.split_whitespace().count() == 3;
    own.lines().filter(valid).filter_map(line).collect()
}

fn write(pid: i32, kind: &str, maps: &[IdMap]) -> io::Result<()> {
    fs::write(format!("/proc/{pid}/{kind}_map"), text(maps))
}

/// Makes a map that is asked for: oneself may be mapped by anybody; others by root, and by who has been given them in /etc/subuid and /etc/subgid
/// (newuidmap(1)).
fn give(pid: i32, kind: &str, maps: &[IdMap]) -> io::Result<()> {
    let refused = match write(pid, kind, maps) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => error,
        result => return result,
    };
    if let [IdMap { count: 1, .. }] = maps {
        // Without a say over groups, one may not get rid of one's own either.
        if kind == "gid" {
            fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
        }
        return write(pid, kind, maps);
    }
    let numbers = maps.iter().flat_map(|map| [map.inside, map.outside, map.count]);
    let status = Command::new(format!("new{kind}map"))
        .arg(pid.to_string())
        .args(numbers.map(|number| number.to_string()))
        .stdin(Stdio::null())
        .status();
    // Where there is no such program, what the host has said says more.
    if status.is_ok_and(|status| status.success()) { Ok(()) } else { Err(refused) }
}

/// Gives a child of [`crate::spawn`] its users and groups. Without maps: where the caller may (as root), every user and group stays who they
/// are, so that files keep their owners; otherwise the caller alone exists, as root.
///
/// # Errors
/// `EPERM` for maps that the caller may not make, `EINVAL` for maps that overlap or are too long.
pub fn map_ids(pid: i32, maps: &IdMaps) -> io::Result<()> {
    if !maps.uids.is_empty() || !maps.gids.is_empty() {
        return give(pid, "gid", &maps.gids).and_then(|()| give(pid, "uid", &maps.uids));
    }
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    if uid == 0 {
        let all = |kind| io::Result::Ok(everyone(&fs::read_to_string(format!("/proc/self/{kind}_map"))?));
        let (uids, gids) = (all("uid")?, all("gid")?);
        match write(pid, "gid", &gids).and_then(|()| write(pid, "uid", &uids)) {
            // Root without capabilities.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            result => return result,
        }
    }
    fs::write(format!("/proc/{pid}/setgroups"), "deny")?;
    write(pid, "gid", &[IdMap { inside: 0, outside: gid, count: 1 }])?;
    write(pid, "uid", &[IdMap { inside: 0, outside: uid, count: 1 }])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_stays_who_they_are() {
        let initial = everyone("         0          0 4294967295\n");
        assert_eq!(text(&initial), "0 0 4294967295\n");
        let nested = everyone("         0     100000       1000\n      1000          1         10\n");
        assert_eq!(text(&nested), "0 0 1000\n1000 1000 10\n");
    }
}
