//! Processes as `ps` shows them, read from our own /proc.

use std::sync::Arc;

use abi::c;
use control::ProcessInfo;
use task::Kernel;
use usermem::IoBuf;
use vfs::Inode;

/// Longest text that is read.
const MAX_TEXT: usize = 64 << 10;

/// Our own /proc.
pub fn root(kernel: &Arc<Kernel>) -> Arc<dyn Inode> {
    procfs::root(kernel.clone(), kernel.ns.pid_for_children.clone(), 0)
}

/// A file of /proc.
pub fn read(proc: &Arc<dyn Inode>, path: &[&str]) -> Option<String> {
    let mut at = proc.clone();
    for name in path {
        at = at.lookup(name.as_bytes()).ok()?;
    }
    let file = at.open(c::O_RDONLY).ok()?;
    let mut bytes = vec![0; MAX_TEXT];
    let count = file.read(&mut IoBuf::kernel_mut(&mut bytes), 0).ok()?;
    bytes.truncate(count);
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

/// A file of /proc/pid.
fn text(proc: &Arc<dyn Inode>, pid: i32, name: &str) -> Option<String> {
    read(proc, &[&pid.to_string(), name])
}

fn info(proc: &Arc<dyn Inode>, pid: i32) -> Option<ProcessInfo> {
    let stat = text(proc, pid, "stat")?;
    // proc_pid_stat(5): the name in parentheses may hold anything; fields are counted from the state on.
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields.get(index).and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    let status = text(proc, pid, "status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:")?.split_whitespace().nth(1)?.parse().ok());
    let args = text(proc, pid, "cmdline").unwrap_or_default();
    let args = args.trim_end_matches('\0').replace('\0', " ");
    Some(ProcessInfo {
        pid,
        ppid: fields.get(1)?.parse().ok()?,
        uid: uid.unwrap_or(0),
        threads: u32::try_from(number(17)).unwrap_or(1),
        state: fields.first()?.chars().next()?,
        started: number(19) / 100,
        cpu: number(11).saturating_add(number(12)).saturating_mul(10),
        command: if args.is_empty() { format!("[{name}]") } else { args },
    })
}

/// All processes.
pub fn list(kernel: &Arc<Kernel>) -> Vec<ProcessInfo> {
    let proc = root(kernel);
    let pids: Vec<i32> = kernel.groups.lock().keys().copied().collect();
    pids.into_iter().filter_map(|pid| info(&proc, pid)).collect()
}
