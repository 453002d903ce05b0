//! Hostile guests: they end themselves or get an errno; the sandbox goes on, and the sentry never panics.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use integration::{Outcome, built, palisade, sandboxed};

/// Runs an attack inside, then asks the sandbox whether it is alive; returns what the attack has said.
fn attack(args: &str) -> String {
    let program = built("guest-hostile").display().to_string();
    let script = format!("{program} {args}; echo \"status $?\"; sh -c 'echo alive; uname -r'");
    let outcome = sandboxed(&["sh", "-c", &script]);
    assert!(!outcome.stderr.contains("internal error"), "{outcome:?}");
    assert_eq!(outcome.status, 0, "{outcome:?}");
    assert!(outcome.stdout.ends_with("status 0\nalive\n6.12.0-palisade\n"), "{outcome:?}");
    outcome.stdout
}

#[test]
fn jumping_into_the_stub() {
    assert!(attack("jump").contains("jumped"));
}

#[test]
fn overwriting_its_shared_memory() {
    assert!(attack("overwrite").contains("overwritten"));
}

#[test]
fn racing_for_its_shared_memory() {
    assert!(attack("race").contains("raced"));
}

#[test]
fn unmapping_it() {
    assert!(attack("unmap").contains("still mapped"));
}

#[test]
fn each_rule_of_its_filter_from_inside() {
    assert!(attack("hijack").contains("hijacked"));
}

#[test]
fn rewritten_sites_from_their_middle() {
    assert!(attack("halfway").contains("halfway"));
    assert!(attack("padding").contains("padding"));
}

#[test]
fn wild_pointers_to_every_call() {
    assert!(attack("wild").contains("wild"));
}

#[test]
fn forged_signal_frames() {
    assert!(attack("frames").contains("framed"));
}

#[test]
fn tracers_without_manners() {
    assert!(attack("tracer").contains("traced"));
}

#[test]
fn exhaustion() {
    assert!(attack("exhaust").contains("exhausted"));
}

#[test]
fn random_calls() {
    // Longer by hand: FUZZ_SECONDS=300 cargo test -p integration --test hostile random_calls
    let seconds = std::env::var("FUZZ_SECONDS").unwrap_or_else(|_| "20".to_owned());
    assert!(attack(&format!("fuzz {seconds}")).contains("fuzzed"));
}

#[test]
fn interrupts_reach_code_on_the_stubs_stack() {
    assert!(attack("deaf").contains("heard"));
}

#[test]
fn nothing_of_the_host_is_reachable() {
    assert!(attack("escape").contains("nothing of the host's"));
}

#[test]
fn links_put_in_the_place_of_files_lead_nowhere() {
    let dir = std::env::temp_dir().join(format!("swap-{}", std::process::id()));
    std::fs::create_dir_all(dir.join("volume")).unwrap();
    let victim = dir.join("victim");
    std::fs::write(&victim, "untouched").unwrap();
    std::fs::set_permissions(&victim, std::fs::Permissions::from_mode(0o600)).unwrap();
    let look = || {
        let meta = std::fs::metadata(&victim).unwrap();
        (meta.mode(), meta.uid(), meta.mtime(), std::fs::read_to_string(&victim).unwrap())
    };
    let before = look();
    let volume = format!("{}:/volume", dir.join("volume").display());
    let mut command = Command::new("timeout");
    command.args(["-k", "1", "60"]).arg(palisade()).args(["do", "--volume", &volume, "--"]).arg(built("guest-hostile"));
    let outcome: Outcome = command.args(["swap", "/volume"]).output().unwrap().into();
    let after = look();
    std::fs::remove_dir_all(&dir).unwrap();
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "swapped\n"), "{outcome:?}");
    assert_eq!(after, before);
}

/// Who gets hold of the sentry finds no way up from the directories that it holds open.
#[test]
fn no_path_leads_out_of_the_sentrys_directories() {
    use std::io::{BufRead, BufReader};
    use std::process::Stdio;
    let mut child = Command::new(palisade())
        .args(["do", "--volume", "/usr/share:/mnt:ro", "--", "sh", "-c", "echo up; exec sleep 30"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let children = std::fs::read_to_string(format!("/proc/{0}/task/{0}/children", child.id())).unwrap();
    let fds = format!("/proc/{}/fd", children.split_whitespace().next().unwrap());
    let place = |path: &str| std::fs::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    let paths = std::fs::read_dir(&fds).unwrap().map(|entry| entry.unwrap().path().display().to_string());
    let held: Vec<String> = paths.filter(|path| place(path) == place("/usr/share")).collect();
    let above: Vec<_> = held.iter().map(|path| place(&format!("{path}/.."))).collect();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!held.is_empty(), "the sentry doesn't hold the volume");
    assert!(above.iter().all(|up| *up == place("/usr/share")), "{held:?}: {above:?}");
}
