//! Settings of the kernel inside that a configuration gives (sysctl(8)): by the files of /proc/sys, as far as they can be changed.

use std::sync::Arc;

use abi::c;
use netns::Namespace;
use task::Kernel;
use usermem::IoBuf;

use crate::processes::{read, root};

/// The file's path below /proc/sys: names are parted by the first of `.` and `/` that there is, and may hold the other.
fn path(name: &str) -> Vec<String> {
    let dotted = name.find(['.', '/']).is_none_or(|at| name.as_bytes().get(at) == Some(&b'.'));
    let (separator, other) = if dotted { ('.', '/') } else { ('/', '.') };
    name.split(separator).map(|part| part.replace(other, if dotted { "." } else { "/" })).collect()
}

/// Whether two texts of a setting mean the same.
fn same(one: &str, other: &str) -> bool {
    one.split_whitespace().eq(other.split_whitespace())
}

/// Makes a setting.
///
/// # Errors
/// Why it can't be.
pub fn set(kernel: &Arc<Kernel>, net: &Namespace, name: &str, value: &str) -> Result<(), String> {
    let path = path(name);
    let parts: Vec<&str> = path.iter().map(String::as_str).collect();
    match parts.as_slice() {
        ["kernel", "hostname"] => return kernel.ns.uts.set_host(value.as_bytes().to_vec()).map_err(|errno| errno.to_string()),
        ["kernel", "domainname"] => {
            return kernel.ns.uts.set_domain(value.as_bytes().to_vec()).map_err(|errno| errno.to_string());
        }
        ["net", "ipv4", "ip_unprivileged_port_start"] => {
            let port = value.trim().parse().map_err(|_| format!("{value:?} isn't between 0 and 65535"))?;
            net.inet.set_privileged_ports(port);
            return Ok(());
        }
        _ => {}
    }
    let proc = root(kernel);
    let Some(now) = read(&proc, &[&["sys"], parts.as_slice()].concat()) else {
        return Err("the kernel inside has no such setting".into());
    };
    if same(&now, value) {
        return Ok(());
    }
    let mut at = Ok(proc);
    for part in ["sys"].iter().chain(&parts) {
        at = at.and_then(|at| at.lookup(part.as_bytes()));
    }
    let written = at.and_then(|at| at.open(c::O_WRONLY)).and_then(|file| file.write(&mut IoBuf::kernel(value.as_bytes()), 0));
    written.map(drop).map_err(|_| format!("can't be changed: it is {:?} in the kernel inside", now.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_paths() {
        assert_eq!(path("net.ipv4.conf.eth0/1.forwarding"), ["net", "ipv4", "conf", "eth0.1", "forwarding"]);
        assert_eq!(path("net/ipv4/conf/eth0.1"), ["net", "ipv4", "conf", "eth0/1"]);
        assert_eq!(path("kernel"), ["kernel"]);
        assert!(same("4\t4 1\n", "4 4 1") && !same("4", "5"));
    }
}
