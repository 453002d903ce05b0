//! What each task is doing, for people who look for what hangs.

use std::fmt::Write;
use std::sync::Arc;

use task::{Kernel, Place, Task};

use crate::processes::{read, root};

/// The file that is mapped at an address, from the text of /proc/pid/maps.
fn mapping(maps: &str, addr: u64) -> Option<String> {
    maps.lines().find_map(|line| {
        let (range, rest) = line.split_once(' ')?;
        let (start, end) = range.split_once('-')?;
        let (start, end) = (u64::from_str_radix(start, 16).ok()?, u64::from_str_radix(end, 16).ok()?);
        if !(start..end).contains(&addr) {
            return None;
        }
        let mut fields = rest.split_whitespace();
        let offset = u64::from_str_radix(fields.nth(1)?, 16).ok()?;
        let name = fields.nth(2).unwrap_or("anonymous memory");
        Some(format!("{name}+{:#x}", (addr - start).saturating_add(offset)))
    })
}

fn line(task: &Arc<Task>, state: &str, place: &Place, maps: &str) -> String {
    let name = String::from_utf8_lossy(&task.lock().comm).into_owned();
    let doing = match place.call {
        None => "in its program".to_owned(),
        Some((call, args)) => {
            let args: Vec<String> = args.iter().map(|arg| format!("{arg:#x}")).collect();
            format!("in {}({})", abi::nr::name(call).unwrap_or("unknown"), args.join(", "))
        }
    };
    let at = mapping(maps, place.rip).map_or_else(String::new, |at| format!(" ({at})"));
    format!("  task {} [{name}], {state}: {doing}\n    pc {:#x}{at}, sp {:#x}\n", task.tid(), place.rip, place.rsp)
}

/// A paragraph for each process, with a line or two for each of its threads.
pub fn text(kernel: &Arc<Kernel>) -> String {
    let proc = root(kernel);
    let mut out = String::new();
    let mut last = None;
    let mut maps = String::new();
    let mut places = kernel.places();
    places.sort_by_key(|(task, _)| (task.group.pid, task.tid()));
    for (task, place) in places {
        let pid = task.group.pid;
        if last != Some(pid) {
            last = Some(pid);
            maps = read(&proc, &[&pid.to_string(), "maps"]).unwrap_or_default();
            let args = read(&proc, &[&pid.to_string(), "cmdline"]).unwrap_or_default();
            let _ = writeln!(out, "process {pid}: {}", args.trim_end_matches('\0').replace('\0', " "));
        }
        let status = read(&proc, &[&pid.to_string(), "task", &task.tid().to_string(), "status"]).unwrap_or_default();
        let state = status.lines().find_map(|line| line.strip_prefix("State:")).map_or("gone", str::trim);
        out.push_str(&line(&task, state, &place, &maps));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_told_by_their_files() {
        let maps = "1000-2000 r-xp 00003000 00:01 7                          /lib/libc.so\n3000-4000 rw-p 00000000 00:00 0\n";
        assert_eq!(mapping(maps, 0x1010).unwrap(), "/lib/libc.so+0x3010");
        assert_eq!(mapping(maps, 0x3001).unwrap(), "anonymous memory+0x1");
        assert_eq!(mapping(maps, 0x2000), None);
    }
}
