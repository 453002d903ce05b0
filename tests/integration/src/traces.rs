//! What containers may have left on the host.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// Processes, mounts, control groups and files of state that belong to a bundle below `dir` or to containers whose names begin with `prefix`.
#[must_use]
pub fn traces(dir: &Path, prefix: &str) -> Vec<String> {
    let mut found = Vec::new();
    let name = dir.display().to_string();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        // A test's own helpers are not what is looked for.
        if line.contains(&name) && !line.starts_with("unshare ") {
            found.push(format!("process {} {line}", entry.file_name().display()));
        }
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    found.extend(mounts.lines().filter(|line| line.contains(&name)).map(|line| format!("mount {line}")));
    groups(Path::new("/sys/fs/cgroup"), prefix, 4, &mut found);
    let state = dir.join("state");
    found.extend(fs::read_dir(state).into_iter().flatten().flatten().map(|entry| entry.path().display().to_string()));
    found
}

fn groups(dir: &Path, prefix: &str, depth: u32, found: &mut Vec<String>) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        if entry.file_name().to_string_lossy().starts_with(prefix) {
            let processes = fs::read_to_string(entry.path().join("cgroup.procs")).unwrap_or_default();
            found.push(format!("group {} [{}]", entry.path().display(), processes.trim().replace('\n', " ")));
        } else if depth > 0 {
            groups(&entry.path(), prefix, depth - 1, found);
        }
    }
}

/// Waits until nothing is left: processes that have been killed take their time.
///
/// # Panics
/// When something stays.
pub fn nothing_left(dir: &Path, prefix: &str) {
    let start = Instant::now();
    loop {
        let found = traces(dir, prefix);
        if found.is_empty() {
            return;
        }
        assert!(start.elapsed().as_secs() < 30, "left: {found:#?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}
