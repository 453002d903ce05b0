//! /proc/sys/net: what the network's settings are. Those that can be written to change nothing: buffers and tries are what they are.

use abi::{Errno, SysResult};

use crate::Proc;
use crate::system::{Entry, MAX, dir, file, numbers, text};

/// The directories of each area.
pub const DIR: &[Entry] = &[dir("core", 110, CORE), dir("ipv4", 111, IPV4), dir("ipv6", 112, IPV6), dir("unix", 113, UNIX)];

const CORE: &[Entry] = &[
    file("somaxconn", 120, |_| text("4096\n")),
    file("rmem_default", 121, |_| text("212992\n")),
    file("wmem_default", 122, |_| text("212992\n")),
    file("rmem_max", 123, |_| text("4194304\n")),
    file("wmem_max", 124, |_| text("4194304\n")),
    numbers("optmem_max", 125, &[131072], 0, MAX),
    numbers("netdev_max_backlog", 126, &[1000], 0, MAX),
];

/// A setting that is the network namespace's.
fn unprivileged_ports(proc: &Proc) -> SysResult<Vec<u8>> {
    let net = proc.caller().map_or_else(|| proc.kernel.ns.net.clone(), |task| task.lock().ns.net.clone());
    net.text("ip_unprivileged_port_start").ok_or(Errno::ENOENT)
}

const IPV4: &[Entry] = &[
    file("ip_local_port_range", 130, |_| text("32768\t60999\n")),
    file("ip_unprivileged_port_start", 131, unprivileged_ports),
    file("ip_default_ttl", 132, |_| text("64\n")),
    file("ip_forward", 133, |_| text("0\n")),
    file("ping_group_range", 134, |_| text("0\t2147483647\n")),
    file("tcp_rmem", 135, |_| text("4096\t131072\t6291456\n")),
    file("tcp_wmem", 136, |_| text("4096\t16384\t4194304\n")),
    numbers("tcp_fin_timeout", 137, &[60], 0, MAX),
    file("tcp_keepalive_time", 138, |_| text("7200\n")),
    file("tcp_keepalive_intvl", 139, |_| text("75\n")),
    file("tcp_keepalive_probes", 140, |_| text("9\n")),
    file("tcp_congestion_control", 141, |_| text("cubic\n")),
    file("tcp_available_congestion_control", 142, |_| text("cubic reno\n")),
    file("tcp_allowed_congestion_control", 143, |_| text("cubic reno\n")),
    numbers("tcp_max_syn_backlog", 144, &[4096], 0, MAX),
    numbers("tcp_sack", 145, &[1], 0, MAX),
    numbers("tcp_timestamps", 146, &[1], 0, MAX),
    numbers("tcp_window_scaling", 147, &[1], 0, MAX),
    numbers("tcp_syncookies", 148, &[1], 0, MAX),
    numbers("tcp_recovery", 149, &[1], 0, MAX),
];

const IPV6: &[Entry] = &[file("bindv6only", 160, |_| text("0\n")), dir("conf", 161, CONF)];

const CONF: &[Entry] = &[dir("all", 162, ALL), dir("default", 163, DEFAULT), dir("lo", 164, LO)];

const ALL: &[Entry] = &[file("disable_ipv6", 165, |_| text("0\n")), file("forwarding", 166, |_| text("0\n"))];
const DEFAULT: &[Entry] = &[file("disable_ipv6", 167, |_| text("0\n")), file("forwarding", 168, |_| text("0\n"))];
const LO: &[Entry] = &[file("disable_ipv6", 169, |_| text("0\n")), file("forwarding", 170, |_| text("0\n"))];

const UNIX: &[Entry] = &[file("max_dgram_qlen", 180, |_| text("10\n"))];
