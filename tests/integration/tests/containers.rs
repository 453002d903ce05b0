//! The OCI command line: bundles, lifecycle, state.

use std::io::BufRead;
use std::process::Command;

use integration::{Bundle, Outcome, palisade};

#[test]
fn a_container_runs_to_its_end() {
    let bundle = Bundle::new("run", "echo inside; uname -r; hostname 2>/dev/null || cat /proc/sys/kernel/hostname; exit 7");
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert_eq!(outcome, Outcome { status: 7, stdout: "inside\n6.12.0-palisade\npalisade\n".into(), stderr: String::new() });
    assert_eq!(bundle.ok(&["list", "--quiet"]), "");
}

#[test]
fn the_lifecycle_is_runcs() {
    let bundle = Bundle::new("life", "trap 'exit 3' TERM; while :; do sleep 0.05; done");
    let pid_file = bundle.dir.join("pid");
    bundle.ok(&["create", "--bundle", bundle.path(), "--pid-file", pid_file.to_str().unwrap(), "one"]);
    let state: serde_json::Value = serde_json::from_str(&bundle.ok(&["state", "one"])).unwrap();
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"].to_string(), std::fs::read_to_string(&pid_file).unwrap());
    assert_eq!(bundle.palisade(&["create", "--bundle", bundle.path(), "one"]).status, 125);
    bundle.ok(&["start", "one"]);
    assert_eq!(bundle.status("one"), "running");
    assert_eq!(bundle.palisade(&["start", "one"]).status, 125);
    let refused = bundle.palisade(&["delete", "one"]);
    assert!(refused.status == 125 && refused.stderr.contains("is running"), "{refused:?}");
    bundle.ok(&["kill", "one", "SIGTERM"]);
    bundle.wait_for("one", "stopped");
    assert_eq!(bundle.palisade(&["kill", "one", "TERM"]).status, 125);
    bundle.ok(&["delete", "one"]);
    assert_eq!(bundle.palisade(&["state", "one"]).status, 125);
}

#[test]
fn force_removes_everything() {
    let bundle = Bundle::new("force", "sleep 1000 & sleep 1000");
    bundle.ok(&["run", "--detach", "--bundle", bundle.path(), "one"]);
    assert_eq!(bundle.status("one"), "running");
    let pid = serde_json::from_str::<serde_json::Value>(&bundle.ok(&["state", "one"])).unwrap()["pid"].to_string();
    bundle.ok(&["delete", "--force", "one"]);
    assert!(!bundle.dir.join("state/one").exists());
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    assert!(stat.is_empty() || stat.contains(") Z "), "{stat}");
    // As runc: what isn't there needs no removing.
    bundle.ok(&["delete", "--force", "one"]);
}

#[test]
fn writes_reach_the_host_where_they_may() {
    let script = "echo kept > /kept; mkdir /vol/d && echo x > /vol/d/f && mv /vol/d /vol/e && rm /vol/gone; echo no 2>/dev/null > /ro/f; echo $?; \
                  ln -s ../../../../../../etc/passwd /vol/link; cat /vol/link >/dev/null 2>&1; echo $?";
    let bundle = Bundle::new("writes", script);
    for dir in ["vol", "ro"] {
        std::fs::create_dir(bundle.dir.join(dir)).unwrap();
    }
    std::fs::write(bundle.dir.join("vol/gone"), "").unwrap();
    bundle.edit(|config| {
        let mounts = config["mounts"].as_array_mut().unwrap();
        mounts.push(serde_json::json!({ "destination": "/vol", "type": "bind", "source": "vol", "options": ["rbind"] }));
        mounts.push(serde_json::json!({ "destination": "/ro", "type": "bind", "source": "ro", "options": ["bind", "ro"] }));
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    // The link leads to the container's /etc/passwd, which isn't there, not to the host's.
    assert_eq!((outcome.status, outcome.stdout.as_str()), (0, "2\n1\n"), "{outcome:?}");
    assert_eq!(std::fs::read_to_string(bundle.dir.join("rootfs/kept")).unwrap(), "kept\n");
    assert_eq!(std::fs::read_to_string(bundle.dir.join("vol/e/f")).unwrap(), "x\n");
    assert!(!bundle.dir.join("vol/gone").exists() && !bundle.dir.join("ro/f").exists());
}

#[test]
fn owners_and_modes_are_the_hosts() {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let script = "stat -c '%u:%g %a' /vol/theirs; cat /vol/theirs; echo more >> /vol/new && chown 1234:5678 /vol/new && chmod 4600 /vol/new && head -n1 /vol/new";
    let bundle = Bundle::new("owners", script);
    let vol = bundle.dir.join("vol");
    std::fs::create_dir(&vol).unwrap();
    std::fs::write(vol.join("theirs"), "private\n").unwrap();
    std::fs::set_permissions(vol.join("theirs"), PermissionsExt::from_mode(0o600)).unwrap();
    if chown(vol.join("theirs"), Some(4321), Some(8765)).is_err() {
        println!("skipped: only root can give files away");
        return;
    }
    std::fs::write(vol.join("new"), "new\n").unwrap();
    bundle.edit(|config| {
        let mount = serde_json::json!({ "destination": "/vol", "type": "bind", "source": "vol", "options": ["rbind"] });
        config["mounts"].as_array_mut().unwrap().push(mount);
    });
    assert_eq!(bundle.ok(&["run", "--bundle", bundle.path(), "one"]), "4321:8765 600\nprivate\nnew\n");
    let new = std::fs::metadata(vol.join("new")).unwrap();
    assert_eq!((new.uid(), new.gid(), new.mode() & 0o7777, new.len()), (1234, 5678, 0o4600, 9));
}

#[test]
fn what_cannot_be_honoured_is_refused() {
    let bundle = Bundle::new("refuse", "true");
    let refused = |change: fn(&mut serde_json::Value), word: &str, status: i32| {
        let before = std::fs::read(bundle.dir.join("config.json")).unwrap();
        bundle.edit(change);
        let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
        assert!(outcome.status == status && outcome.stderr.contains(word) && outcome.stderr.lines().count() == 1, "{outcome:?}");
        assert!(!bundle.dir.join("state/one").exists());
        std::fs::write(bundle.dir.join("config.json"), before).unwrap();
    };
    let refusal = |change: fn(&mut serde_json::Value), word: &str| refused(change, word, 125);
    refusal(|config| config["process"]["user"]["uid"] = "root".into(), "process.user.uid: invalid type");
    refusal(|config| config["process"]["args"] = serde_json::json!([]), "process.args: missing or empty");
    refusal(|config| config["process"]["cwd"] = "x".into(), "process.cwd: \"x\" isn't absolute");
    refusal(|config| config["hooks"] = serde_json::json!({ "poststop": [{ "path": "x" }] }), "hooks.poststop[0].path");
    refusal(
        |config| config["linux"]["seccomp"] = serde_json::json!({ "defaultAction": "X" }),
        "linux.seccomp.defaultAction: \"X\"",
    );
    refusal(|config| config["linux"]["sysctl"] = serde_json::json!({ "kernel.panic": "1" }), "linux.sysctl: \"kernel.panic\"");
    refusal(
        |config| config["linux"]["namespaces"] = serde_json::json!([{ "type": "pid", "path": "/proc/1/ns/pid" }]),
        "linux.namespaces[0].path",
    );
    refused(|config| config["process"]["args"] = serde_json::json!(["/no/such/program"]), "no such file or directory", 127);
    refused(|config| config["process"]["args"] = serde_json::json!(["/usr"]), "permission denied", 126);
    refusal(|config| config["root"]["path"] = "missing".into(), "missing");
    refusal(|config| config["ociVersion"] = "9.0".into(), "ociVersion");
    refusal(|config| config["mounts"][0]["type"] = "nonsense".into(), "mounts[0] (/proc): type: \"nonsense\"");
    let missing = bundle.palisade(&["run", "--bundle", "/no/such/bundle", "one"]);
    assert!(missing.status == 125 && missing.stderr.contains("/no/such/bundle"), "{missing:?}");
    assert_eq!(bundle.palisade(&["run", "--bundle", bundle.path(), "../up"]).status, 125);
}

#[test]
fn tracing_is_switched_while_it_runs() {
    let bundle = Bundle::new("trace", "while :; do sleep 0.02; done");
    bundle.ok(&["run", "--detach", "--bundle", bundle.path(), "one"]);
    let mut debug = Command::new(palisade())
        .arg("--root")
        .arg(bundle.dir.join("state"))
        .args(["debug", "one", "--strace", "on"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = std::io::BufReader::new(debug.stdout.take().unwrap()).lines();
    assert!(lines.any(|line| line.unwrap().contains("wait4(-1")), "the trace ended too early");
    bundle.ok(&["debug", "one", "--strace", "off"]);
    assert!(debug.wait().unwrap().success());
    // Who reads no more gets no more, and the container goes on.
    let mut debug = Command::new("timeout")
        .arg("0.3")
        .arg(palisade())
        .arg("--root")
        .arg(bundle.dir.join("state"))
        .args(["debug", "one", "--strace", "on"])
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    assert_eq!(debug.wait().unwrap().code(), Some(124));
    bundle.ok(&["state", "one"]);
}
