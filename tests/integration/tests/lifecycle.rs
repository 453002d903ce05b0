//! What surrounds a container's life: control groups, hooks, and commands that are killed or meet each other.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use integration::Bundle;
use serde_json::json;

const IDLE: &str = "while :; do sleep 1; done";

/// Where the host has a controller of version 1, or all of version 2, if this user may make groups there.
fn controller(name: &str) -> Option<(PathBuf, bool)> {
    let v2 = Path::new("/sys/fs/cgroup/cgroup.controllers").exists();
    let dir = if v2 { PathBuf::from("/sys/fs/cgroup") } else { Path::new("/sys/fs/cgroup").join(name) };
    let probe = dir.join(format!("palisade-probe-{}", std::process::id()));
    std::fs::create_dir(&probe).ok()?;
    std::fs::remove_dir(&probe).ok()?;
    Some((dir, v2))
}

#[test]
fn control_groups_come_and_go() {
    let Some((memory, v2)) = controller("memory") else {
        println!("skipped: no control groups that this user may make");
        return;
    };
    let name = format!("palisade-test-{}", std::process::id());
    let bundle = Bundle::new("cgroup", IDLE);
    bundle.edit(|config| {
        config["linux"]["cgroupsPath"] = format!("/{name}/one").into();
        config["linux"]["resources"] = json!({
            "memory": { "limit": 209_715_200 }, "cpu": { "shares": 512, "quota": 100_000, "period": 100_000 }, "pids": { "limit": 20 }
        });
    });
    bundle.run("one");
    let group = memory.join(&name).join("one");
    let limit = || std::fs::read_to_string(group.join(if v2 { "memory.max" } else { "memory.limit_in_bytes" })).unwrap();
    assert_eq!(limit(), "209715200\n");
    let processes = std::fs::read_to_string(group.join("cgroup.procs")).unwrap();
    let state: serde_json::Value = serde_json::from_str(&bundle.ok(&["state", "one"])).unwrap();
    assert!(
        processes.lines().any(|line| line.parse() == Ok(state["pid"].as_i64().unwrap())) && processes.lines().count() >= 3,
        "{processes}"
    );
    // What is limited shows inside.
    let inside = bundle.exec(&[], "one", "nproc; grep MemTotal /proc/meminfo");
    assert_eq!(inside.stdout.split_whitespace().collect::<Vec<_>>(), ["1", "MemTotal:", "204800", "kB"], "{inside:?}");
    let crowd = bundle.exec(&[], "one", "for i in $(seq 40); do sleep 5 & done");
    assert!(crowd.status != 0 && crowd.stderr.contains("ork"), "{crowd:?}");
    bundle.ok(&["update", "--memory", "104857600", "--pids-limit", "100", "one"]);
    assert_eq!(limit(), "104857600\n");
    let stats: serde_json::Value = serde_json::from_str(&bundle.ok(&["events", "--stats", "one"])).unwrap();
    let data = &stats["data"];
    assert_eq!((&stats["type"], &data["memory"]["usage"]["limit"]), (&json!("stats"), &json!(104_857_600)), "{stats}");
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0 && data["pids"]["current"].as_u64().unwrap() > 0, "{stats}");
    assert_eq!(data["pids"]["limit"], 100);
    bundle.ok(&["delete", "--force", "one"]);
    assert!(!group.exists());
    std::fs::remove_dir(memory.join(&name)).unwrap();
    for other in ["cpu", "cpuacct", "cpuset", "pids", "blkio"] {
        let _ = std::fs::remove_dir(Path::new("/sys/fs/cgroup").join(other).join(&name));
    }
}

#[test]
fn hooks_are_told_in_order() {
    let bundle = Bundle::new("hooks", "true");
    let log = bundle.dir.join("log");
    let hook = |name: &str| {
        let script = format!(
            "read -r state; echo {name} $(echo \"$state\" | grep -o '\"status\":\"[a-z]*\"') $(echo \"$state\" | grep -c '\"id\":\"one\"') $X >> {}",
            log.display()
        );
        json!([{ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["X=y", "PATH=/usr/bin:/bin"], "timeout": 10 }])
    };
    bundle.edit(|config| {
        for name in ["prestart", "createRuntime", "createContainer", "poststart", "poststop"] {
            config["hooks"][name] = hook(name);
        }
    });
    bundle.ok(&["run", "--bundle", bundle.path(), "one"]);
    let told = std::fs::read_to_string(&log).unwrap();
    let expected = [
        "prestart \"status\":\"creating\" 1 y",
        "createRuntime \"status\":\"creating\" 1 y",
        "createContainer \"status\":\"creating\" 1 y",
        "poststop \"status\":\"stopped\" 1 y",
    ];
    let (poststart, others): (Vec<_>, Vec<_>) = told.lines().partition(|line| line.starts_with("poststart"));
    assert_eq!((others, poststart.len()), (expected.to_vec(), 1), "{told}");
}

#[test]
fn a_hook_that_fails_ends_it() {
    let bundle = Bundle::new("badhook", "true");
    bundle.edit(|config| {
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sh", "args": ["sh", "-c", "echo because >&2; exit 4"] }] });
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert!(
        outcome.status == 125 && outcome.stderr.contains("hooks.createRuntime[0]") && outcome.stderr.contains("because"),
        "{outcome:?}"
    );
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
    bundle.edit(|config| {
        config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "100"], "timeout": 1 }] });
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert!(outcome.status == 125 && outcome.stderr.contains("not done after 1 s"), "{outcome:?}");
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
}

#[test]
fn who_is_killed_while_creating_leaves_nothing_that_cannot_be_removed() {
    let bundle = Bundle::new("killed", IDLE);
    // A hook that never ends: the command is surely killed in the middle.
    bundle.edit(|config| config["hooks"] = json!({ "createRuntime": [{ "path": "/bin/sleep", "args": ["sleep", "30"] }] }));
    let mut create = bundle
        .command(&["create", "--bundle", bundle.path(), "one"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let started = std::time::Instant::now();
    let state = loop {
        let state = bundle.palisade(&["state", "one"]).stdout;
        if state.contains("creating") && !state.contains("\"pid\": 0") {
            break state;
        }
        assert!(started.elapsed().as_secs() < 20, "{state}");
    };
    create.kill().unwrap();
    create.wait().unwrap();
    let pid = serde_json::from_str::<serde_json::Value>(&state).unwrap()["pid"].to_string();
    assert_eq!(bundle.palisade(&["create", "--bundle", bundle.path(), "one"]).status, 125);
    bundle.ok(&["delete", "--force", "one"]);
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
    assert!(std::fs::read_to_string(format!("/proc/{pid}/stat")).map_or(true, |stat| stat.contains(") Z ")));
}

#[test]
fn commands_that_meet_wait_for_each_other() {
    let bundle = Bundle::new("meet", IDLE);
    for _ in 0..3 {
        let all: Vec<_> = (0..4)
            .map(|_| bundle.command(&["create", "--bundle", bundle.path(), "one"]).stderr(Stdio::null()).spawn().unwrap())
            .collect();
        let created = all.into_iter().filter_map(|mut child| child.wait().unwrap().code()).filter(|code| *code == 0).count();
        assert_eq!(created, 1);
        let all: Vec<_> = (0..4).map(|_| bundle.command(&["start", "one"]).stderr(Stdio::null()).spawn().unwrap()).collect();
        let started = all.into_iter().filter_map(|mut child| child.wait().unwrap().code()).filter(|code| *code == 0).count();
        assert_eq!(started, 1);
        let all: Vec<_> =
            (0..4).map(|_| bundle.command(&["delete", "--force", "one"]).stderr(Stdio::null()).spawn().unwrap()).collect();
        assert!(all.into_iter().all(|mut child| child.wait().unwrap().success()));
        assert_eq!(bundle.ok(&["list", "--quiet"]), "");
    }
}

#[test]
fn hooks_run_in_the_container_before_its_program() {
    let bundle = Bundle::new("inner-hooks", "echo program $$; cat /said");
    let hook = |script: &str| json!({ "startContainer": [{ "path": "/usr/bin/sh", "args": ["sh", "-c", script], "env": ["X=y"], "timeout": 20 }] });
    bundle.edit(|config| {
        config["hooks"] = hook("echo $X $$ > /said; grep -o '\"status\":\"created\"' >> /said; hostname >> /said")
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert_eq!(outcome.stdout, "program 1\ny 2\n\"status\":\"created\"\npalisade\n", "{outcome:?}");
    // One that fails, one that doesn't end: the program isn't run, and the container has ended.
    bundle.edit(|config| config["hooks"] = hook("echo why >&2; exit 3"));
    bundle.ok(&["create", "--bundle", bundle.path(), "one"]);
    let outcome = bundle.palisade(&["start", "one"]);
    assert!(
        outcome.status == 125 && outcome.stderr.contains("hooks.startContainer[0]: /usr/bin/sh: exit status 3: why"),
        "{outcome:?}"
    );
    assert_eq!(bundle.status("one"), "stopped");
    bundle.ok(&["delete", "one"]);
    bundle.edit(|config| {
        config["hooks"] = hook("sleep 100");
        config["hooks"]["startContainer"][0]["timeout"] = 1.into();
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert!(outcome.status == 125 && outcome.stderr.contains("not done after 1 s"), "{outcome:?}");
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
}
