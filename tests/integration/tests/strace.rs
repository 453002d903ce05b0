//! `--strace` writes calls as strace(1) does.

use std::collections::BTreeSet;
use std::process::Command;

use integration::palisade;

const ENV: [(&str, &str); 2] = [("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C")];

/// What both trace: files, a pipe, a child, a signal, sockets, a failure.
const SCRIPT: &str = r#"
import os, select, signal, socket, time
os.chdir("/tmp")
fd = os.open("strace-test", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640)
os.write(fd, b"one\n\x00\x1b7\xff" + b"x" * 40)
os.pread(fd, 3, 1)
os.writev(fd, [b"ab", b"c"])
os.fstat(fd)
os.close(fd)
os.chmod("strace-test", 0o1777)
os.rename("strace-test", "strace-test-2")
os.unlink("strace-test-2")
os.mkdir("strace-dir", 0o700)
os.rmdir("strace-dir")
try: os.open("/nonexistent", os.O_RDONLY)
except OSError: pass
r, w = os.pipe()
os.write(w, b"y")
poller = select.poll()
poller.register(r, select.POLLIN)
poller.poll(777)
poller.unregister(r)
poller.poll(1)
os.umask(0o27)
signal.signal(signal.SIGUSR1, lambda *_: None)
os.kill(os.getpid(), signal.SIGUSR1)
time.sleep(0.001)
a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
a.sendmsg([b"data"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, (0).to_bytes(4, "little"))])
b.recv(8)
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
try: s.connect("/tmp/no-socket")
except OSError: pass
# Long enough for its parent to wait by then, which shows in the lines.
if os.fork() == 0: time.sleep(0.1); os._exit(3)
os.wait()
"#;

/// Lines that must be there on both sides.
const WANTED: [&str; 24] = [
    "chdir(",
    "\"strace-test\"",
    "\"one",
    "pread64(",
    "writev(",
    "st_size=51",
    "chmod(",
    "rename(",
    "unlink(",
    "mkdir(",
    "rmdir(",
    "nonexistent",
    "pipe2(",
    "\"y\"",
    "poll(",
    "umask(",
    "SIGUSR1",
    "socketpair(",
    "sendmsg(",
    "recvfrom(",
    "setsockopt(",
    "no-socket",
    "WEXITSTATUS",
    "exited with 3",
];

/// Lines without what differs from run to run: who, and addresses.
fn normalised(text: &str) -> BTreeSet<String> {
    let lines = text.lines().filter(|line| WANTED.iter().any(|wanted| line.contains(wanted)));
    lines
        .map(|line| {
            let line = line.split_once("] ").filter(|_| line.starts_with("[pid")).map_or(line, |(_, line)| line);
            // A file written by strace -o has the number first.
            let line = line.trim_start_matches(|c: char| c.is_ascii_digit()).trim_start();
            let mut words = String::new();
            let mut rest = line;
            while let Some(at) = rest.find("0x").or_else(|| rest.find("pid=")).or_else(|| rest.find("kill(")) {
                let (before, number) = rest.split_at(at);
                let digits = number.find(['=', '(', 'x']).map_or(0, |at| at + 1);
                words += before;
                words += &number[..digits];
                rest = number[digits..].trim_start_matches(|c: char| c.is_ascii_hexdigit());
                words.push('#');
            }
            words += rest;
            // Numbers of processes are results, too.
            match words.rsplit_once(" = ") {
                Some((call, number)) if call.contains("wait4") && number.parse::<u32>().is_ok() => format!("{call} = #"),
                // strace(1) aligns results.
                Some((call, result)) => format!("{} = {result}", call.trim_end()),
                None => words,
            }
        })
        .collect()
}

#[test]
fn calls_are_written_as_by_strace() {
    if Command::new("strace").arg("--version").output().is_err() {
        println!("skipped: strace is not installed (.ci/run installs it)");
        return;
    }
    let log = std::env::temp_dir().join(format!("palisade-strace-{}", std::process::id()));
    let python = ["python3", "-S", "-B", "-c", SCRIPT];
    let status = Command::new("strace").args(["-f", "-o"]).arg(&log).args(python).env_clear().envs(ENV).status().unwrap();
    assert!(status.success());
    let outside = normalised(&std::fs::read_to_string(&log).unwrap());
    std::fs::remove_file(&log).unwrap();
    let output = Command::new(palisade())
        .args(["do", "--strace", "--env", "LC_ALL=C", "--env", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "--"])
        .args(python)
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).expect("what the guest writes is escaped");
    let inside = normalised(&text);
    assert!(output.status.success(), "{text}");
    for wanted in WANTED {
        assert!(outside.iter().any(|line| line.contains(wanted)), "strace(1) shows no {wanted}: {outside:#?}");
        let (ours, theirs): (Vec<_>, Vec<_>) = (
            inside.iter().filter(|line| line.contains(wanted)).collect(),
            outside.iter().filter(|line| line.contains(wanted)).collect(),
        );
        assert_eq!(ours, theirs, "lines with {wanted}: ours are left");
    }
}

#[test]
fn a_call_that_waits_is_seen_meanwhile() {
    let script = "(sleep 0.2; echo x) | cat";
    let output = Command::new(palisade()).args(["do", "--strace", "--", "sh", "-c", script]).output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    let unfinished = text.find("read(0,  <unfinished ...>").unwrap_or_else(|| panic!("{text}"));
    let resumed = text.find("<... read resumed>\"x\\n\", 131072) = 2").unwrap_or_else(|| panic!("{text}"));
    assert!(unfinished < resumed);
    assert!(text.contains("+++ exited with 0 +++"));
}
