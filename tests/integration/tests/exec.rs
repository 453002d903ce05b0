//! `exec`: further programs in a running container.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use integration::{Bundle, Outcome, native};

const IDLE: &str = "while :; do sleep 1; done";

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed().as_secs() < 20, "{what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether a process of the host lives.
fn lives(pid: &str) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[test]
fn programs_run_beside_the_first_one() {
    let bundle = Bundle::new("exec", IDLE);
    bundle.run("one");
    let outcome = bundle.exec(&[], "one", "echo out; echo err >&2; cat /proc/1/cmdline | tr '\\0' ' '; exit 5");
    let expected = Outcome { status: 5, stdout: format!("out\n/usr/bin/sh -c {IDLE} "), stderr: "err\n".into() };
    assert_eq!(outcome, expected);
    assert_eq!(bundle.exec(&[], "one", "kill -9 $$").status, 137);
    let missing = bundle.palisade(&["exec", "one", "no-such-program"]);
    assert!(missing.status == 127 && missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let forbidden = bundle.palisade(&["exec", "one", "/usr"]);
    assert!(forbidden.status == 126 && forbidden.stderr.contains("permission denied"), "{forbidden:?}");
    let lost = bundle.exec(&["--cwd", "/no/such"], "one", "true");
    assert!(lost.status != 0 && lost.stderr.contains("/no/such"), "{lost:?}");
    // Both have ended, and nobody is left over.
    let processes = bundle.ok(&["ps", "one"]);
    assert!(!processes.contains("exec") && processes.contains("while :; do sleep"), "{processes}");
    bundle.ok(&["kill", "one", "KILL"]);
    bundle.wait_for("one", "stopped");
    let late = bundle.exec(&[], "one", "true");
    assert!(late.status == 125 && late.stderr.contains("is not running"), "{late:?}");
}

#[test]
fn the_host_shows_what_runs() {
    let bundle = Bundle::new("shown", "sleep 1001 & exec sleep 1002");
    bundle.run("one");
    let shown = || {
        let pids: Vec<i32> = serde_json::from_str(&bundle.ok(&["ps", "--format", "json", "one"])).unwrap();
        let line = |pid: &i32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ");
        let mut lines: Vec<String> = pids.iter().map(line).collect();
        lines.sort();
        lines
    };
    eventually("the host doesn't show the programs", || shown() == ["sleep 1001 ", "sleep 1002 "]);
}

#[test]
fn options_say_who_and_where() {
    let bundle = Bundle::new("who", IDLE);
    bundle.run("one");
    let options = ["--user", "1000:1001", "--additional-gids", "7", "--additional-gids", "8", "--env", "A=b c", "--cwd", "/usr"];
    let outcome = bundle.exec(&options, "one", "id -u; id -g; id -G; echo $A; pwd; grep CapEff /proc/self/status");
    assert_eq!(outcome.stdout, "1000\n1001\n1001 7 8\nb c\n/usr\nCapEff:\t0000000000000000\n", "{outcome:?}");
    let root = bundle.exec(&["--cap", "CAP_SYS_ADMIN"], "one", "grep CapEff /proc/self/status");
    assert_eq!(root.stdout, "CapEff:\t00000000a82425fb\n", "{root:?}");
    assert!(bundle.exec(&["--cap", "CAP_NONSENSE"], "one", "true").stderr.contains("CAP_NONSENSE"));
}

#[test]
fn a_file_says_it_all() {
    let bundle = Bundle::new("file", IDLE);
    bundle.run("one");
    let file = bundle.dir.join("process.json");
    let process = serde_json::json!({
        "args": ["sh", "-c", "id -u; umask; echo $X; ulimit -n; grep CapBnd /proc/self/status"], "cwd": "/", "env": ["PATH=/usr/bin", "X=y"],
        "user": { "uid": 65534, "gid": 65534, "umask": 0o77 }, "capabilities": { "bounding": ["CAP_CHOWN"] },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 100 }]
    });
    std::fs::write(&file, process.to_string()).unwrap();
    let outcome = bundle.palisade(&["exec", "--process", file.to_str().unwrap(), "one"]);
    assert_eq!(outcome.stdout, "65534\n0077\ny\n99\nCapBnd:\t0000000000000001\n", "{outcome:?}");
    std::fs::write(&file, r#"{"args":["true"],"cwd":"/","rlimits":[{"type":"RLIMIT_NOFILE","soft":2,"hard":1}]}"#).unwrap();
    let refused = bundle.palisade(&["exec", "--process", file.to_str().unwrap(), "one"]);
    assert!(refused.stderr.contains("process.rlimits[0]: the soft limit"), "{refused:?}");
}

#[test]
fn a_detached_program_has_a_process_on_the_host() {
    let bundle = Bundle::new("detach", IDLE);
    bundle.run("one");
    let pid_file = bundle.dir.join("pid");
    let start = |script: &str| {
        let outcome = bundle.exec(&["--detach", "--pid-file", pid_file.to_str().unwrap()], "one", script);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""));
        std::fs::read_to_string(&pid_file).unwrap()
    };
    // It goes when the program does.
    let pid = start("sleep 0.3");
    assert!(lives(&pid));
    eventually("the process outlives its program", || !lives(&pid));
    // Signals to it are the program's.
    let pid = start("trap 'echo told > /told; exit' USR1; while :; do sleep 0.05; done");
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(native(&["kill", "-USR1", &pid]).status, 0);
    eventually("the process outlives its program", || !lives(&pid));
    assert_eq!(std::fs::read_to_string(bundle.dir.join("rootfs/told")).unwrap(), "told\n");
    // When it is killed, so is the program.
    let pid = start("exec sleep 1000");
    assert!(bundle.ok(&["ps", "one"]).contains("sleep 1000"));
    assert_eq!(native(&["kill", "-KILL", &pid]).status, 0);
    eventually("the program outlives its process", || !bundle.ok(&["ps", "one"]).contains("sleep 1000"));
    // When the container ends, so does it.
    let pid = start("exec sleep 1000");
    bundle.ok(&["delete", "--force", "one"]);
    eventually("the process outlives its container", || !lives(&pid));
}

#[test]
fn signals_reach_a_program_in_the_foreground() {
    let bundle = Bundle::new("signals", IDLE);
    bundle.run("one");
    let script = "trap 'echo stopped; exit 9' INT; echo ready; while :; do sleep 0.05; done";
    let mut child = bundle.command(&["exec", "one", "/usr/bin/sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), "ready");
    assert_eq!(native(&["kill", "-INT", &child.id().to_string()]).status, 0);
    assert_eq!(lines.next().unwrap().unwrap(), "stopped");
    assert_eq!(child.wait().unwrap().code(), Some(9));
}

#[test]
fn input_is_passed_on() {
    let bundle = Bundle::new("input", IDLE);
    bundle.run("one");
    let mut child =
        bundle.command(&["exec", "one", "/usr/bin/wc", "-c"]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    let writer = std::thread::spawn(move || std::io::Write::write_all(&mut input, &vec![b'x'; 1_000_000]).unwrap());
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "1000000");
}

#[test]
fn a_paused_container_stands_still() {
    let bundle = Bundle::new("pause", "while :; do echo x >> /ticks; sleep 0.01; done");
    bundle.run("one");
    let ticks = || std::fs::metadata(bundle.dir.join("rootfs/ticks")).map_or(0, |meta| meta.len());
    eventually("it doesn't run", || ticks() > 10);
    bundle.ok(&["pause", "one"]);
    assert_eq!(bundle.status("one"), "paused");
    std::thread::sleep(Duration::from_millis(50));
    let before = ticks();
    std::thread::sleep(Duration::from_millis(300));
    assert_eq!(ticks(), before);
    for refused in [bundle.exec(&[], "one", "true"), bundle.palisade(&["pause", "one"]), bundle.palisade(&["start", "one"])] {
        assert!(refused.status == 125 && refused.stderr.contains("is paused"), "{refused:?}");
    }
    bundle.ok(&["resume", "one"]);
    assert_eq!(bundle.status("one"), "running");
    eventually("it doesn't go on", || ticks() > before);
    // One that is killed while it is paused is gone.
    bundle.ok(&["pause", "one"]);
    bundle.ok(&["kill", "one", "KILL"]);
    bundle.wait_for("one", "stopped");
}

#[test]
fn the_end_can_be_waited_for() {
    let bundle = Bundle::new("wait", "trap 'exit 3' TERM; while :; do sleep 0.02; done");
    bundle.run("one");
    let waiter = bundle.command(&["wait", "one"]).stdout(Stdio::piped()).spawn().unwrap();
    std::thread::sleep(Duration::from_millis(200));
    bundle.ok(&["kill", "one", "TERM"]);
    let said = waiter.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&said.stdout), "{\"id\":\"one\",\"exitStatus\":3}\n");
    bundle.wait_for("one", "stopped");
    assert_eq!(bundle.ok(&["wait", "one"]), "{\"id\":\"one\",\"exitStatus\":3}\n");
}
