//! Options before the command, and `debug`.

use std::process::{Command, Stdio};

use integration::{Bundle, palisade};
use serde_json::json;

#[test]
fn writes_can_be_kept_in_memory() {
    let bundle = Bundle::new(
        "overlay",
        "echo new > /new; echo more >> /old; cat /old; echo x > /vol/x; ls /vol; rm /vol/y; rm /old; ls /vol /old",
    );
    std::fs::create_dir(bundle.dir.join("vol")).unwrap();
    let write = || {
        std::fs::write(bundle.dir.join("rootfs/old"), "old\n").unwrap();
        std::fs::write(bundle.dir.join("vol/y"), "").unwrap();
    };
    bundle.edit(|config| {
        config["mounts"].as_array_mut().unwrap().push(json!({ "destination": "/vol", "source": "vol", "options": ["rbind"] }));
    });
    let there = |name: &str| bundle.dir.join(name).exists();
    for (overlay, root, vol) in [("all:memory", false, false), ("root:memory", false, true), ("none", true, true)] {
        write();
        let outcome = bundle.palisade(&["--overlay2", overlay, "run", "--bundle", bundle.path(), "one"]);
        assert!(outcome.stdout.starts_with("old\nmore\nx\ny\n"), "{overlay}: {outcome:?}");
        assert_eq!((there("rootfs/new"), !there("rootfs/old")), (root, root), "{overlay}");
        assert_eq!((there("vol/x"), !there("vol/y")), (vol, vol), "{overlay}");
    }
}

#[test]
fn what_is_not_there_is_refused() {
    let bundle = Bundle::new("options", "true");
    for (option, why) in [
        ("--network=sandbox", "there is no network beyond the sandbox yet"),
        ("--network=x", "unknown"),
        ("--overlay2=root:self", "use root:memory"),
        ("--overlay2=x", "unknown"),
        ("--host-uds=all", "can't be reached yet"),
        ("--host-fifo=open", "can't be opened yet"),
    ] {
        let outcome = bundle.palisade(&[option, "run", "--bundle", bundle.path(), "one"]);
        assert!(
            outcome.status == 125 && outcome.stderr.lines().count() == 1 && outcome.stderr.contains(why),
            "{option}: {outcome:?}"
        );
        assert!(outcome.stderr.contains(option.trim_start_matches('-').split('=').next().unwrap()), "{outcome:?}");
    }
    for (args, why) in [
        (["run", "--preserve-fds", "3", "--bundle", bundle.path(), "one"].as_slice(), "--preserve-fds=3: "),
        (&["exec", "--preserve-fds", "1", "one", "true"], "--preserve-fds=1: "),
        (&["exec", "--cgroup", "/sub", "one", "true"], "--cgroup=/sub: "),
    ] {
        let outcome = bundle.palisade(args);
        assert!(outcome.status == 125 && outcome.stderr.lines().count() == 1 && outcome.stderr.contains(why), "{outcome:?}");
    }
    for verb in ["checkpoint", "restore"] {
        let outcome = bundle.palisade(&[verb, "one", "--image-path", "x"]);
        assert!(outcome.status == 125 && outcome.stderr.contains("can't be saved"), "{outcome:?}");
    }
    let all =
        ["--platform=systrap", "--network=none", "--overlay2=none", "--host-uds=none", "--host-fifo=none", "--ignore-cgroups"];
    assert_eq!(bundle.ok(&[&all, ["run", "--bundle", bundle.path(), "one"].as_slice()].concat()), "");
}

#[test]
fn the_log_for_developers_is_a_file() {
    let bundle = Bundle::new("debug-log", "echo out; exec perl -e 'syscall(425, 1, 0)'");
    let logs = bundle.dir.join("logs");
    let pattern = format!("{}/%ID%-%COMMAND%.log", logs.display());
    let run = ["--strace", "--debug", "--debug-log", &pattern, "run", "--bundle", bundle.path(), "one"];
    let outcome = bundle.palisade(&run);
    assert_eq!((outcome.status, outcome.stdout.as_str(), outcome.stderr.as_str()), (0, "out\n", ""));
    let log = std::fs::read_to_string(logs.join("one-run.log")).unwrap();
    for text in ["\"run\"", "execve(", "write(1", "is not implemented: made 1 times", "exit status 0"] {
        assert!(log.contains(text), "{text}: {log}");
    }
    bundle.palisade(&["--debug-log", &format!("{}/", logs.display()), "state", "two"]);
    let names: Vec<String> =
        std::fs::read_dir(&logs).unwrap().map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    let other = names.iter().find(|name| name.starts_with("palisade.log.") && name.ends_with(".state.txt")).unwrap();
    let log = std::fs::read_to_string(logs.join(other)).unwrap();
    assert!(log.contains("error: container two does not exist"), "{log}");
}

#[test]
fn debug_says_what_tasks_are_doing() {
    let bundle = Bundle::new("debug", "sleep 1000 & while :; do :; done");
    bundle.run("one");
    bundle.wait_for("one", "running");
    let start = std::time::Instant::now();
    let text = loop {
        let text = bundle.ok(&["debug", "--stacks", "one"]);
        if text.contains("nanosleep(") || start.elapsed().as_secs() > 20 {
            break text;
        }
    };
    let line = |what: &str| text.lines().find(|line| line.contains(what)).unwrap_or_else(|| panic!("{what}: {text}"));
    assert!(line("[sleep]").contains("S (sleeping): in clock_nanosleep("), "{text}");
    assert!(line("[sh]").contains("R (running): in its program"), "{text}");
    let place = text.lines().skip_while(|line| !line.contains("[sh]")).nth(1).unwrap();
    assert!(place.contains("pc 0x") && place.contains("sp 0x7") && place.contains("(/"), "{place}");
    assert!(text.contains("sentry: host process") && text.contains("[task-1]"), "{text}");
    let table = bundle.ok(&["debug", "--ps", "one"]);
    assert!(table.contains("sleep 1000"), "{table}");
    // Nothing to do is no command.
    let outcome = Command::new(palisade()).args(["debug", "one"]).stderr(Stdio::piped()).output().unwrap();
    assert_eq!(outcome.status.code(), Some(2));
}

#[test]
fn the_log_level_of_a_running_container_can_be_changed() {
    let bundle = Bundle::new("log-level", "read x; exec perl -e 'syscall(425, 1, 0)'");
    let run = |level: Option<&str>| {
        let mut child = bundle
            .command(&["run", "--bundle", bundle.path(), "one"])
            .stdin(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let start = std::time::Instant::now();
        while !bundle.palisade(&["state", "one"]).stdout.contains("running") {
            assert!(start.elapsed().as_secs() < 20);
        }
        if let Some(level) = level {
            bundle.ok(&["debug", "--log-level", level, "one"]);
        }
        std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"\n").unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stderr).unwrap()
    };
    assert!(run(Some("debug")).contains("is not implemented"));
    assert_eq!(run(None), "");
}

#[test]
fn what_has_run_can_be_kept() {
    let bundle = Bundle::new("keep", "exit 4");
    assert_eq!(bundle.palisade(&["run", "--keep", "--bundle", bundle.path(), "one"]).status, 4);
    assert_eq!(bundle.status("one"), "stopped");
    assert!(bundle.ok(&["wait", "one"]).contains("\"exitStatus\":4"));
    bundle.ok(&["delete", "one"]);
}

#[test]
fn signals_have_names() {
    let script = "trap 'echo usr1' USR1; trap 'echo rt' RTMIN+2; trap 'exit 5' RTMAX-1; echo up; while :; do sleep 0.05; done";
    let bundle = Bundle::new("signals", script);
    bundle.edit(|config| config["process"]["args"][0] = "/usr/bin/bash".into());
    let mut child = bundle.command(&["run", "--bundle", bundle.path(), "one"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(child.stdout.take().unwrap()));
    let mut next = || lines.next().unwrap().unwrap();
    assert_eq!(next(), "up");
    for (name, said) in [("usr1", "usr1"), ("SIGRTMIN+2", "rt"), ("10", "usr1"), ("rtmin+2", "rt")] {
        bundle.ok(&["kill", "one", name]);
        assert_eq!(next(), said, "{name}");
    }
    for bad in ["RTMIN+40", "RTMAX+1", "NONE", "0", "65", "RTMINX"] {
        let outcome = bundle.palisade(&["kill", "one", bad]);
        assert!(outcome.status == 125 && outcome.stderr.contains("signal"), "{bad}: {outcome:?}");
    }
    bundle.ok(&["kill", "one", "RTMAX-1"]);
    assert_eq!(child.wait().unwrap().code(), Some(5));
}
