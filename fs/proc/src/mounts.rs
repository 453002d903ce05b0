//! /proc/pid/mounts, mountinfo and mountstats (proc_pid_mountinfo(5)).

use std::sync::Arc;

use abi::{SysResult, c};
use vfs::{MS_NOSYMFOLLOW, Mount};

use crate::Proc;
use crate::process::View;

/// Options of mounts, in Linux's order.
const MOUNT_OPTIONS: &[(u64, &str)] = &[
    (c::MS_NOSUID, "nosuid"),
    (c::MS_NODEV, "nodev"),
    (c::MS_NOEXEC, "noexec"),
    (c::MS_NOATIME, "noatime"),
    (c::MS_NODIRATIME, "nodiratime"),
    (c::MS_RELATIME, "relatime"),
    (MS_NOSYMFOLLOW, "nosymfollow"),
];

/// Options of filesystems that all have.
const SUPER_OPTIONS: &[(u64, &str)] =
    &[(c::MS_SYNCHRONOUS, "sync"), (c::MS_DIRSYNC, "dirsync"), (c::MS_MANDLOCK, "mand"), (1 << 25, "lazytime")];

/// The files that poll(2) tells changes of.
pub const LISTS: [&str; 3] = ["mounts", "mountinfo", "mountstats"];

/// A word as these files have it: what would end it is written in octal.
fn escaped(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for byte in word {
        if matches!(byte, b' ' | b'\t' | b'\n' | b'\\' | b'#') {
            out.extend(format!("\\{byte:03o}").into_bytes());
        } else {
            out.push(*byte);
        }
    }
    out
}

fn source(mount: &Mount) -> Vec<u8> {
    if mount.source().is_empty() { b"none".to_vec() } else { escaped(mount.source()) }
}

fn read_only(is: bool) -> &'static str {
    if is { "ro" } else { "rw" }
}

fn listed(options: &[(u64, &str)], flags: u64) -> String {
    options.iter().filter(|(flag, _)| flags & flag != 0).map(|(_, name)| format!(",{name}")).collect()
}

fn super_options(mount: &Mount) -> String {
    let superblock = mount.superblock();
    listed(SUPER_OPTIONS, superblock.flags()) + &superblock.ops().show_options()
}

/// Mounts that the task sees, each with the path of its place.
fn seen(view: &View) -> Vec<(Arc<Mount>, Vec<u8>)> {
    let Some(task) = &view.task else { return Vec::new() };
    let (namespace, fs) = {
        let shared = task.lock();
        (shared.mount_ns.clone(), shared.fs.clone())
    };
    namespace.list(&fs.places().root)
}

pub fn mounts(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, place) in seen(view) {
        let superblock = mount.superblock();
        let ro = read_only(mount.has(c::MS_RDONLY) || superblock.read_only());
        // Here the filesystem's options come before the mount's.
        let options = listed(SUPER_OPTIONS, superblock.flags()) + &listed(MOUNT_OPTIONS, mount.flags());
        let tail = format!(" {} {ro}{options}{} 0 0\n", superblock.kind, superblock.ops().show_options());
        out.extend([&source(&mount)[..], b" ", &escaped(&place), tail.as_bytes()].concat());
    }
    Ok(out)
}

pub fn mountinfo(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, place) in seen(view) {
        let superblock = mount.superblock();
        let parent = mount.parent().map_or(mount.id(), |parent| parent.id());
        let (major, minor) = (c::major(superblock.dev), c::minor(superblock.dev));
        let options = format!("{}{}", read_only(mount.has(c::MS_RDONLY)), listed(MOUNT_OPTIONS, mount.flags()));
        let (group, master) = mount.peer_groups();
        let mut tags = String::new();
        if let Some(group) = group {
            tags += &format!(" shared:{group}");
        }
        if let Some(master) = master {
            tags += &format!(" master:{master}");
        }
        if mount.is_unbindable() {
            tags += " unbindable";
        }
        let super_options = format!("{}{}", read_only(superblock.read_only()), super_options(&mount));
        out.extend(format!("{} {parent} {major}:{minor} ", mount.id()).into_bytes());
        out.extend([&escaped(&superblock.ops().show_root(mount.root()))[..], b" ", &escaped(&place)].concat());
        out.extend(format!(" {options}{tags} - {} ", superblock.kind).into_bytes());
        out.extend([&source(&mount)[..], b" ", super_options.as_bytes(), b"\n"].concat());
    }
    Ok(out)
}

pub fn mountstats(_: &Proc, view: &View) -> SysResult<Vec<u8>> {
    let mut out = Vec::new();
    for (mount, place) in seen(view) {
        let parts = [&b"device "[..], &source(&mount), b" mounted on ", &escaped(&place), b" with fstype "];
        out.extend(parts.concat());
        out.extend(format!("{}\n", mount.superblock().kind).into_bytes());
    }
    Ok(out)
}
