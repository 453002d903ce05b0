//! Docker's commands against a dockerd of the test's own.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use integration::{Docker, Pty, native, status};

/// A check; its name says what holds.
type Check = fn(&Docker);

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed().as_secs() < 20, "{what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// One daemon for all: starting it takes longer than most checks.
#[test]
fn dockers_commands() {
    BEFORE.get_or_init(groups);
    let docker = match Docker::start() {
        Ok(docker) => docker,
        Err(why) => {
            println!("skipped {} checks: {why}", CHECKS.len());
            return;
        }
    };
    let mut failed = Vec::new();
    for (name, check) in CHECKS {
        let started = Instant::now();
        let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| check(&docker)));
        println!("{} {name} ({} ms)", if result.is_ok() { "ok" } else { "FAIL" }, started.elapsed().as_millis());
        if result.is_err() {
            failed.push(*name);
        }
    }
    println!("docker: {} checks, {} failed", CHECKS.len(), failed.len());
    assert!(failed.is_empty(), "{failed:?}");
}

const CHECKS: &[(&str, Check)] = &[
    ("the kernel is ours", kernel),
    ("statuses are Docker's", statuses),
    ("standard streams are passed on", streams),
    ("a container in the background: logs, exec, top, pause, stop, start, kill", background),
    ("cp, diff, commit and restart see what is written", files),
    ("volumes and tmpfs", volumes),
    ("limits show and hold", limits),
    ("users, read-only roots, no network, init", options),
    ("terminals: run, exec and attach, sizes, logs, the end of both sides", terminals),
    ("fifty in turn and ten at once leave nothing behind", remains),
];

fn kernel(docker: &Docker) {
    let uname = docker.inside(&[], &["uname", "-a"]);
    assert!(uname.status == 0 && uname.stdout.contains("6.12.0-palisade"), "{uname:?}");
    let dmesg = docker.inside(&[], &["dmesg"]);
    assert!(dmesg.status == 0 && dmesg.stdout.trim_end().ends_with("] Ready!"), "{dmesg:?}");
}

fn statuses(docker: &Docker) {
    assert_eq!(docker.shell(&[], "exit 7").status, 7);
    assert_eq!(docker.shell(&[], "sh -c 'kill -9 $$'; exit $?").status, 137);
    let missing = docker.inside(&[], &["no-such-program"]);
    assert!(missing.status == 127 && missing.stderr.contains("executable file not found in $PATH"), "{missing:?}");
    let forbidden = docker.inside(&[], &["/etc"]);
    assert!(forbidden.status == 126 && forbidden.stderr.contains("permission denied"), "{forbidden:?}");
}

fn streams(docker: &Docker) {
    let both = docker.shell(&[], "echo out; echo err >&2");
    assert_eq!((both.stdout.as_str(), both.stderr.as_str()), ("out\n", "err\n"));
    let mut child = docker
        .command(&["run", "--runtime=palisade", "--rm", "-i", "box", "wc", "-c"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(&vec![b'x'; 300_000]).unwrap();
    assert_eq!(String::from_utf8_lossy(&child.wait_with_output().unwrap().stdout).trim(), "300000");
}

fn background(docker: &Docker) {
    let script = "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.1; done";
    docker.ok(&["run", "--runtime=palisade", "-d", "--name", "bg", "box", "sh", "-c", script]);
    eventually("it says nothing", || docker.ok(&["logs", "bg"]) == "up\n");
    let exec = docker.run(&[
        "exec",
        "-u",
        "1000:1001",
        "-w",
        "/etc",
        "-e",
        "A=b",
        "bg",
        "sh",
        "-c",
        "id -u; id -g; pwd; echo $A; exit 4",
    ]);
    assert_eq!((exec.status, exec.stdout.as_str()), (4, "1000\n1001\n/etc\nb\n"), "{exec:?}");
    docker.ok(&["exec", "-d", "bg", "sleep", "1003"]);
    eventually("top doesn't show it", || {
        let top = docker.ok(&["top", "bg"]);
        top.contains("sleep 1003") && top.contains("while :; do sleep")
    });
    docker.ok(&["pause", "bg"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.Status}}", "bg"]), "paused\n");
    assert_ne!(docker.run(&["exec", "bg", "true"]).status, 0);
    docker.ok(&["unpause", "bg"]);
    docker.ok(&["exec", "bg", "true"]);
    docker.ok(&["stop", "-t", "20", "bg"]);
    assert_eq!(docker.ok(&["inspect", "-f", "{{.State.ExitCode}}", "bg"]), "3\n");
    assert_eq!(docker.ok(&["logs", "bg"]), "up\nbye\n");
    docker.ok(&["start", "bg"]);
    docker.ok(&["kill", "bg"]);
    eventually("it lives", || docker.ok(&["inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "bg"]) == "exited 137\n");
    docker.ok(&["rm", "bg"]);
}

fn files(docker: &Docker) {
    docker.ok(&["run", "--runtime=palisade", "-d", "--name", "files", "box", "sh", "-c", "while :; do sleep 1; done"]);
    let file = docker.dir.join("file");
    std::fs::write(&file, "from outside\n").unwrap();
    docker.ok(&["cp", file.to_str().unwrap(), "files:/root/in"]);
    // What the container has looked at, and looked for, is still the host's to change.
    docker.ok(&["exec", "files", "sh", "-c", "cat /etc/passwd > /dev/null; test ! -e /root/late; ls -l /root /etc > /dev/null"]);
    docker.ok(&["cp", file.to_str().unwrap(), "files:/etc/passwd"]);
    docker.ok(&["cp", file.to_str().unwrap(), "files:/root/late"]);
    assert_eq!(docker.ok(&["exec", "files", "cat", "/etc/passwd", "/root/late"]), "from outside\nfrom outside\n");
    docker.ok(&["exec", "files", "sh", "-c", "cat /root/in > /root/out; chown 5:6 /root/out; rm /etc/group; mkdir /var/new"]);
    docker.ok(&["cp", "files:/root/out", file.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "from outside\n");
    let diff = docker.ok(&["diff", "files"]);
    for line in ["A /root/out", "D /etc/group", "A /var/new"] {
        assert!(diff.lines().any(|changed| changed == line), "{diff}");
    }
    docker.ok(&["commit", "files", "box2"]);
    let committed =
        docker.run(&["run", "--runtime=palisade", "--rm", "box2", "sh", "-c", "cat /root/out; stat -c %u:%g /root/out"]);
    assert_eq!(committed.stdout, "from outside\n5:6\n", "{committed:?}");
    docker.ok(&["restart", "-t", "0", "files"]);
    assert_eq!(docker.ok(&["exec", "files", "cat", "/root/out"]), "from outside\n");
    docker.ok(&["rm", "-f", "files"]);
    docker.ok(&["rmi", "box2"]);
}

fn volumes(docker: &Docker) {
    let volume = docker.dir.join("volume");
    std::fs::create_dir(&volume).unwrap();
    std::fs::write(volume.join("in"), "in\n").unwrap();
    let outcome = docker.shell(&["-v", &format!("{}:/v", volume.display())], "cat /v/in; echo out > /v/out");
    assert_eq!(outcome.stdout, "in\n", "{outcome:?}");
    assert_eq!(std::fs::read_to_string(volume.join("out")).unwrap(), "out\n");
    let outcome = docker.shell(&["-v", &format!("{}:/v:ro", volume.display())], "echo no > /v/no");
    assert!(outcome.status != 0 && outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    let outcome = docker.shell(&["--tmpfs", "/t"], "echo x > /t/x && cat /t/x");
    assert_eq!(outcome.stdout, "x\n", "{outcome:?}");
}

fn limits(docker: &Docker) {
    let memory = docker.shell(&["--memory", "64m"], "head -1 /proc/meminfo");
    assert_eq!(memory.stdout.split_whitespace().collect::<Vec<_>>(), ["MemTotal:", "65536", "kB"], "{memory:?}");
    assert_eq!(docker.inside(&["--cpus", "1"], &["nproc"]).stdout, "1\n");
    let crowd = docker.shell(&["--pids-limit", "5"], "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait");
    assert!(crowd.status != 0 && crowd.stderr.contains("fork"), "{crowd:?}");
}

fn options(docker: &Docker) {
    assert_eq!(docker.shell(&["--user", "1000:1001"], "id -u; id -g").stdout, "1000\n1001\n");
    let outcome = docker.shell(&["--read-only"], "touch /x; touch /dev/shm/x && echo there");
    assert!(outcome.stdout == "there\n" && outcome.stderr.contains("Read-only file system"), "{outcome:?}");
    assert_eq!(docker.shell(&["--network", "none", "--hostname", "castle"], "hostname").stdout, "castle\n");
    let init = docker.inside(&["--init"], &["ps", "-o", "pid,args"]);
    let first = init.stdout.lines().nth(1).unwrap_or_default();
    assert!(init.status == 0 && first.contains("docker-init"), "{init:?}");
}

/// Control groups that were there before the daemon: somebody else's.
static BEFORE: OnceLock<Vec<String>> = OnceLock::new();

/// Control groups of containers of any daemon.
fn groups() -> Vec<String> {
    let mut found = Vec::new();
    for controller in ["", "memory", "cpu", "pids", "cpuset", "blkio", "cpuacct"] {
        let groups = std::fs::read_dir(Path::new("/sys/fs/cgroup").join(controller).join("docker"));
        let groups = groups.into_iter().flatten().flatten().filter(|entry| entry.path().is_dir());
        found.extend(groups.map(|entry| entry.path().display().to_string()));
    }
    found
}

/// What a daemon's containers could leave on the host: processes, mounts, control groups, state.
fn traces(docker: &Docker) -> Vec<String> {
    let dir = docker.dir.to_str().unwrap();
    let mut found = Vec::new();
    // The daemon and its containerd are named by what they were started with; all else is a container's.
    let processes = native(&["ps", "-eo", "pid,args"]).stdout;
    let ours =
        |line: &&str| line.contains(&format!("{dir}/run")) && !line.contains("dockerd ") && !line.contains("containerd --config");
    found.extend(processes.lines().filter(ours).map(|line| line.chars().take(200).collect()));
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap();
    let below = |line: &&str| {
        line.split(' ').nth(1).is_some_and(|place| place.starts_with(&format!("{dir}/")) && place != format!("{dir}/data"))
    };
    found.extend(mounts.lines().filter(below).map(str::to_owned));
    let before = BEFORE.get_or_init(Vec::new);
    found.extend(groups().into_iter().filter(|group| !before.contains(group)));
    let states = native(&["find", dir, "-path", "*/runtime-*/moby/*"]).stdout;
    found.extend(states.lines().map(str::to_owned));
    found
}

fn terminals(docker: &Docker) {
    let run = ["run", "--runtime=palisade", "--rm", "-it", "--name", "tty", "-e", "PS1=inside> ", "box", "sh"];
    let mut pty = Pty::new();
    let child = pty.start(&docker.command(&run));
    let start = pty.expect("inside> ");
    assert!(!start.contains("job control"), "{start}");
    pty.send("tty; test -t 0 && test -t 1 && test -t 2 && echo a''ll\n");
    pty.expect("/dev/pts/0\r\nall\r\n");
    pty.send("until test \"$(stty size)\" = '24 80'; do :; done; echo o''ne; until test \"$(stty size)\" = '30 100'; do :; done; echo t''wo\n");
    pty.expect("one\r\n");
    pty.resize(30, 100);
    pty.expect("two\r\n");
    pty.send("sh -c 'echo g''o; exec sleep 1000'\n");
    pty.expect("go\r\n");
    pty.send("\x03");
    pty.expect("inside> ");
    pty.send("echo status=$?\n");
    pty.expect("status=130");
    // Beside it, another one.
    let mut other = Pty::new();
    let exec = other.start(&docker.command(&["exec", "-it", "tty", "sh", "-c", "tty; seq 1 3000; exit 5"]));
    let shown = other.rest();
    assert!(shown.starts_with("/dev/pts/1\r\n") && shown.ends_with("\r\n3000\r\n"), "{shown:?}");
    assert_eq!(status(exec), 5);
    pty.send("exit 3\n");
    drop(pty.rest());
    assert_eq!(status(child), 3);
    // In the background; somebody comes, and goes.
    docker.ok(&[
        "run",
        "--runtime=palisade",
        "-d",
        "-t",
        "-i",
        "--name",
        "later",
        "box",
        "sh",
        "-c",
        "echo early; while read x; do echo got $x; done; seq 1 3000",
    ]);
    eventually("no log", || docker.ok(&["logs", "later"]) == "early\r\n");
    let mut pty = Pty::new();
    let child = pty.start(&docker.command(&["attach", "later"]));
    eventually("it isn't attached", || {
        pty.send("x\n");
        pty.shown().contains("got x")
    });
    pty.send("\x10\x11");
    assert!(pty.rest().contains("read escape sequence"));
    // That is an error for docker attach.
    assert_eq!(status(child), 1);
    let mut pty = Pty::new();
    let child = pty.start(&docker.command(&["attach", "later"]));
    eventually("it isn't attached", || {
        pty.send("y\n");
        pty.shown().contains("got y")
    });
    pty.send("\x04");
    let shown = pty.rest();
    assert!(shown.ends_with("\r\n2999\r\n3000\r\n"), "{shown:?}");
    assert_eq!(status(child), 0);
    assert!(docker.ok(&["logs", "later"]).ends_with("\r\n3000\r\n"));
    docker.ok(&["rm", "later"]);
}

fn remains(docker: &Docker) {
    gone(docker);
    for i in 0..50 {
        let outcome = docker.shell(&[], &format!("echo {i}"));
        assert_eq!((outcome.status, outcome.stdout), (0, format!("{i}\n")), "{}", outcome.stderr);
    }
    std::thread::scope(|scope| {
        let all: Vec<_> = (0..10).map(|i| scope.spawn(move || docker.shell(&[], &format!("echo {i}; sleep 0.2")))).collect();
        for (i, one) in all.into_iter().enumerate() {
            let outcome = one.join().unwrap();
            assert_eq!((outcome.status, outcome.stdout), (0, format!("{i}\n")), "{}", outcome.stderr);
        }
    });
    gone(docker);
}

/// Waits until nothing is left: Docker itself takes its time.
fn gone(docker: &Docker) {
    let start = Instant::now();
    while !traces(docker).is_empty() {
        assert!(start.elapsed().as_secs() < 10, "{:#?}", traces(docker));
        std::thread::sleep(Duration::from_millis(100));
    }
}
