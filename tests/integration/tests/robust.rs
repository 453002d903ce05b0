//! What may happen to a container from outside: any of our processes is killed, the disk is full, memory is up. Nothing stays, and what is told is true.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use integration::{Bundle, Outcome, native, nothing_left, palisade};
use serde_json::{Value, json};

const IDLE: &str = "sleep 1000 & wait";

fn is_root() -> bool {
    native(&["id", "-u"]).stdout.trim() == "0"
}

/// A name for a container that shows whose it is.
fn id(name: &str) -> String {
    format!("{name}-{}", std::process::id())
}

/// A bundle whose containers have control groups, as far as this user may make them.
fn bundle(name: &str, script: &str) -> Bundle {
    let bundle = Bundle::new(name, script);
    let script = format!("{script}; : {}", bundle.path());
    bundle.edit(|config| {
        config["process"]["args"][2] = script.into();
        config["linux"]["resources"] = json!({ "pids": { "limit": 100 } });
    });
    bundle
}

fn state(bundle: &Bundle, id: &str) -> Value {
    serde_json::from_str(&bundle.ok(&["state", id])).unwrap()
}

fn kill(pid: &str) {
    assert_eq!(native(&["kill", "-KILL", pid]).status, 0, "{pid}");
}

/// Children of a host process's threads.
fn children(pid: &str) -> Vec<String> {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| std::fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists.flat_map(|list| list.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn whichever_process_is_killed() {
    let (bundle, id) = (bundle("kill-any", IDLE), id("kill-any"));
    // The sentry, the process that all others are made from, and those that programs run in.
    let mut done = 0;
    for victim in 0.. {
        bundle.run(&id);
        let sentry = state(&bundle, &id)["pid"].to_string();
        let all: Vec<String> = [vec![sentry.clone()], children(&sentry)].concat();
        let Some(pid) = all.get(victim) else { break };
        // One that a program has just run in may be gone by now.
        done += i32::from(native(&["kill", "-KILL", pid]).status == 0);
        // Whether it ends by that or not: commands answer, and can remove it.
        let said = bundle.palisade(&["exec", &id, "/usr/bin/true"]);
        assert!(said.status != 2 && said.stderr.lines().count() <= 1 && !said.stderr.contains("internal error"), "{said:?}");
        let listed = bundle.ok(&["list", "--quiet"]);
        assert_eq!(listed, format!("{id}\n"));
        bundle.ok(&["delete", "--force", &id]);
        nothing_left(&bundle.dir, "kill-any-");
    }
    bundle.ok(&["delete", "--force", &id]);
    nothing_left(&bundle.dir, "kill-any-");
    assert!(done >= 3, "{done}");
}

#[test]
fn the_process_of_a_program_is_killed() {
    // A child's process goes: its parent is told so, as of any kill.
    let (bundle, id) = (bundle("kill-child", "sleep 987 & wait $!; echo status $?; exit 3"), id("kill-child"));
    let mut run = bundle.command(&["run", "--bundle", bundle.path(), &id]).stdout(Stdio::piped()).spawn().unwrap();
    let start = Instant::now();
    let child = loop {
        assert!(start.elapsed().as_secs() < 20);
        let listed = bundle.palisade(&["ps", "--format", "json", &id]).stdout;
        let pids: Vec<i32> = serde_json::from_str(&listed).unwrap_or_default();
        let is_it = |pid: &&i32| std::fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.starts_with(b"sleep"));
        if let Some(pid) = pids.iter().find(is_it) {
            break *pid;
        }
    };
    kill(&child.to_string());
    let output = run.wait_with_output_within(Duration::from_secs(30));
    assert_eq!(output, (Some(3), "status 137\n".to_owned()));
    nothing_left(&bundle.dir, "kill-child-");
}

/// Waiting that doesn't take for ever.
trait Patient {
    fn wait_with_output_within(&mut self, patience: Duration) -> (Option<i32>, String);
}

impl Patient for std::process::Child {
    fn wait_with_output_within(&mut self, patience: Duration) -> (Option<i32>, String) {
        use std::io::Read;
        let start = Instant::now();
        let status = loop {
            if let Some(status) = self.try_wait().unwrap() {
                break status;
            }
            if start.elapsed() > patience {
                self.kill().unwrap();
                panic!("doesn't end");
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        let mut text = String::new();
        if let Some(mut stdout) = self.stdout.take() {
            stdout.read_to_string(&mut text).unwrap();
        }
        (status.code(), text)
    }
}

#[test]
fn who_runs_it_is_killed() {
    let (bundle, id) = (bundle("kill-run", IDLE), id("kill-run"));
    // At any moment of its life.
    for millis in [0, 1, 2, 4, 6, 8, 10, 12, 15, 20, 25, 30, 40, 60, 100, 200] {
        let mut run = bundle.command(&["run", "--bundle", bundle.path(), &id]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        run.kill().unwrap();
        run.wait().unwrap();
        bundle.ok(&["delete", "--force", &id]);
        nothing_left(&bundle.dir, "kill-run-");
    }
}

#[test]
fn who_removes_it_is_killed() {
    let (bundle, id) = (bundle("kill-delete", IDLE), id("kill-delete"));
    for millis in [0, 1, 2, 3, 4, 6, 8, 10, 15, 20] {
        bundle.run(&id);
        let mut delete = bundle.command(&["delete", "--force", &id]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        delete.kill().unwrap();
        delete.wait().unwrap();
        bundle.ok(&["delete", "--force", &id]);
        nothing_left(&bundle.dir, "kill-delete-");
    }
}

#[test]
fn who_runs_another_program_in_it_is_killed() {
    let (bundle, id) = (bundle("kill-exec", IDLE), id("kill-exec"));
    bundle.run(&id);
    for millis in [0, 2, 5, 10, 20, 50, 100] {
        let mut exec = bundle.command(&["exec", &id, "/usr/bin/sleep", "777"]).stdout(Stdio::null()).spawn().unwrap();
        std::thread::sleep(Duration::from_millis(millis));
        exec.kill().unwrap();
        exec.wait().unwrap();
    }
    // Their programs go with them.
    let start = Instant::now();
    while bundle.ok(&["ps", &id]).contains("777") {
        assert!(start.elapsed().as_secs() < 20, "{}", bundle.ok(&["ps", &id]));
    }
    bundle.ok(&["delete", "--force", &id]);
    nothing_left(&bundle.dir, "kill-exec-");
}

/// A small filesystem in memory, mounted in a mount namespace that a process of ours keeps.
struct Disk {
    keeper: std::process::Child,
    place: PathBuf,
}

impl Disk {
    fn new(place: &Path, options: &str) -> Option<Self> {
        if !is_root() {
            println!("skipped: only root can mount");
            return None;
        }
        std::fs::create_dir_all(place).unwrap();
        let script = "mount -t tmpfs -o \"$1\" small \"$0\" && echo ready && exec sleep 600";
        let mut keeper = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-c", script])
            .arg(place)
            .arg(options)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        std::io::BufRead::read_line(&mut std::io::BufReader::new(keeper.stdout.take().unwrap()), &mut line).unwrap();
        assert_eq!(line, "ready\n");
        Some(Self { keeper, place: place.to_owned() })
    }

    /// Runs a command where it is mounted.
    fn run(&self, command: &mut Command) -> Outcome {
        let mut inside = Command::new("timeout");
        inside.args(["-k", "1", "60", "nsenter", "--mount", "--target", &self.keeper.id().to_string()]);
        inside.arg(command.get_program()).args(command.get_args()).stdin(Stdio::null());
        // Files, not pipes: containers keep them open.
        let files = ["out", "err"].map(|name| std::env::temp_dir().join(format!("palisade-disk-{}-{name}", self.keeper.id())));
        let [out, err] = files.each_ref().map(|path| std::fs::File::create(path).unwrap());
        let status = inside.stdout(out).stderr(err).status().unwrap();
        let [stdout, stderr] = files.map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            std::fs::remove_file(path).unwrap();
            text
        });
        Outcome { status: status.code().unwrap_or(-1), stdout, stderr }
    }

    fn shell(&self, script: &str) -> Outcome {
        self.run(Command::new("sh").args(["-c", script]).arg(&self.place))
    }

    fn fill(&self) {
        // Bytes first, then names.
        let filled = self.shell(
            "cat /dev/zero > \"$0/fill\" 2>/dev/null; i=0; while touch \"$0/fill.$i\" 2>/dev/null; do i=$((i + 1)); done; true",
        );
        assert_eq!(filled.status, 0, "{filled:?}");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = self.keeper.kill();
        let _ = self.keeper.wait();
    }
}

#[test]
fn state_is_on_a_full_disk() {
    let (bundle, id) = (bundle("full-state", IDLE), id("full-state"));
    let Some(disk) = Disk::new(&bundle.dir.join("small"), "size=64k,nr_inodes=40") else { return };
    let run = |args: &[&str]| {
        let mut command = Command::new(palisade());
        command.arg("--root").arg(disk.place.join("state")).args(args);
        disk.run(&mut command)
    };
    let ok = |args: &[&str]| {
        let outcome = run(args);
        assert!(outcome.status == 0 && outcome.stderr.is_empty(), "{args:?}: {outcome:?}");
        outcome.stdout
    };
    let status = || {
        let state: Value = serde_json::from_str(&ok(&["state", &id])).unwrap();
        state["status"].as_str().unwrap().to_owned()
    };
    // Nothing can be made, and that is all.
    disk.fill();
    for verb in [&["create"] as &[&str], &["run", "--detach"]] {
        let refused = run(&[verb, &["--bundle", bundle.path(), &id]].concat());
        assert!(refused.status == 125 && refused.stderr.lines().count() == 1, "{refused:?}");
        assert!(refused.stderr.contains("No space left on device"), "{refused:?}");
        assert_eq!(run(&["list", "--quiet"]).stdout, "");
    }
    // Room for the directory, and for less and less of what goes into it.
    for names in 1..10 {
        let freed = disk.shell(&format!("rm \"$0/fill\"; for i in $(seq 0 {names}); do rm -f \"$0/fill.$i\"; done; echo"));
        assert_eq!(freed.status, 0, "{freed:?}");
        let made = run(&["create", "--bundle", bundle.path(), &id]);
        assert!(made.status == 0 || made.status == 125 && made.stderr.lines().count() == 1, "{made:?}");
        ok(&["delete", "--force", &id]);
        assert_eq!(ok(&["list", "--quiet"]), "");
        disk.fill();
    }
    // What was made before can be used and removed.
    disk.shell("rm \"$0\"/fill*");
    ok(&["create", "--bundle", bundle.path(), &id]);
    disk.fill();
    ok(&["start", &id]);
    assert_eq!(status(), "running");
    ok(&["pause", &id]);
    assert_eq!(status(), "paused");
    ok(&["resume", &id]);
    assert_eq!(status(), "running");
    ok(&["exec", &id, "/usr/bin/true"]);
    ok(&["kill", &id, "KILL"]);
    let start = Instant::now();
    while status() != "stopped" {
        assert!(start.elapsed().as_secs() < 20);
    }
    ok(&["delete", &id]);
    assert_eq!(ok(&["list", "--quiet"]), "");
    drop(disk);
    nothing_left(&bundle.dir, "full-state-");
}

#[test]
fn the_root_is_on_a_full_disk() {
    let script = "dd if=/dev/zero of=/small/f bs=64k 2>/dev/null; echo $?; echo more 2>/dev/null >> /small/f; echo $?; rm /small/f && echo again > /small/f && cat /small/f";
    let (bundle, id) = (bundle("full-root", script), id("full-root"));
    let Some(disk) = Disk::new(&bundle.dir.join("small"), "size=256k") else { return };
    bundle.edit(|config| {
        let mount = json!({ "destination": "/small", "source": disk.place, "options": ["bind"] });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    let mut command = Command::new(palisade());
    command.arg("--root").arg(bundle.dir.join("state")).args(["run", "--bundle", bundle.path(), &id]);
    let outcome = disk.run(&mut command);
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "1\n1\nagain\n"), "{outcome:?}");
    drop(disk);
    nothing_left(&bundle.dir, "full-root-");
}

/// Runs a script with so much memory; returns how it went, and what the host's group said when it was over (the kills).
fn with_memory(name: &str, script: &str, bytes: u64) -> Option<(Outcome, Vec<Value>)> {
    if !is_root() {
        println!("skipped: only root can limit memory");
        return None;
    }
    let (bundle, id) = (bundle(name, script), id(name));
    bundle.edit(|config| {
        config["linux"]["resources"] = json!({ "memory": { "limit": bytes, "swap": bytes } });
        for mount in config["mounts"].as_array_mut().unwrap() {
            if mount["destination"] == "/dev/shm" {
                mount["options"] = json!(["size=1g"]);
            }
        }
    });
    bundle.ok(&["create", "--bundle", bundle.path(), &id]);
    let mut events = bundle.command(&["events", "--interval", "50ms", &id]).stdout(Stdio::piped()).spawn().unwrap();
    let wait = bundle.command(&["wait", &id]).stdout(Stdio::piped()).spawn().unwrap();
    // It sees all from the beginning.
    let mut seen = std::io::BufReader::new(events.stdout.take().unwrap());
    let mut text = String::new();
    std::io::BufRead::read_line(&mut seen, &mut text).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    bundle.palisade(&["start", &id]);
    let waited = wait.wait_with_output().unwrap();
    let status: Value = serde_json::from_slice(&waited.stdout).unwrap();
    events.wait_with_output_within(Duration::from_secs(30));
    std::io::Read::read_to_string(&mut seen, &mut text).unwrap();
    let events = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    bundle.ok(&["delete", &id]);
    nothing_left(&bundle.dir, &format!("{name}-"));
    let status = i32::try_from(status["exitStatus"].as_i64().unwrap()).unwrap();
    Some((Outcome { status, stdout: String::new(), stderr: String::new() }, events))
}

#[test]
fn memory_is_up() {
    // Touched memory, a file in memory: both count against the container.
    for (name, script) in [
        ("oom-heap", "exec perl -e '$x = \"x\" x 300_000_000; sleep 100'"),
        ("oom-file", "exec dd if=/dev/zero of=/dev/shm/f bs=1M count=300"),
    ] {
        let Some((outcome, events)) = with_memory(name, script, 64 << 20) else { return };
        assert_eq!(outcome.status, 137, "{name}: {outcome:?}");
        let kinds: Vec<_> = events.iter().map(|event| event["type"].as_str().unwrap()).collect();
        assert!(kinds.contains(&"oom"), "{name}: {kinds:?}");
        let limit = &events[0]["data"]["memory"]["usage"]["limit"];
        assert_eq!(limit, 64 << 20, "{name}");
    }
}

#[test]
fn who_uses_most_goes_first() {
    // The shell outlives what it has started.
    let script = "exec 2>/dev/null; perl -e '$x = \"x\" x 300_000_000; sleep 100'; test $? = 137 && exit 9";
    let Some((outcome, _)) = with_memory("oom-child", script, 64 << 20) else { return };
    assert_eq!(outcome.status, 9, "{outcome:?}");
}
