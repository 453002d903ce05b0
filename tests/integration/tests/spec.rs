//! What a configuration asks for is what a container gets.

use std::os::unix::fs::MetadataExt;

use integration::{Bundle, Outcome, native};
use serde_json::{Value, json};

/// Runs a script in a container with a changed configuration; returns its output.
fn run(name: &str, script: &str, change: impl FnOnce(&mut Value)) -> Outcome {
    let bundle = Bundle::new(name, script);
    bundle.edit(change);
    bundle.palisade(&["run", "--bundle", bundle.path(), "one"])
}

fn mounts(config: &mut Value) -> &mut Vec<Value> {
    config["mounts"].as_array_mut().unwrap()
}

#[test]
fn who_a_program_is() {
    let script = "id -u; id -g; id -G; umask; pwd; echo $X; ulimit -n; ulimit -Hn; grep -E 'Cap|NoNew|Seccomp:' /proc/self/status; grep -c . /nowhere";
    let outcome = run("who", script, |config| {
        config["process"]["user"] = json!({ "uid": 1234, "gid": 2345, "additionalGids": [7, 8], "umask": 0o27 });
        config["process"]["env"] = json!(["PATH=/usr/bin", "X=y z"]);
        config["process"]["cwd"] = json!("/usr");
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 77, "hard": 88 }]);
        config["process"]["noNewPrivileges"] = json!(true);
        let caps = json!(["CAP_CHOWN", "CAP_KILL"]);
        config["process"]["capabilities"] =
            json!({ "bounding": caps, "permitted": ["CAP_KILL"], "inheritable": ["CAP_KILL"], "ambient": ["CAP_KILL"] });
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW" });
    });
    let expected = "1234\n2345\n2345 7 8\n0027\n/usr\ny z\n77\n88\nCapInh:\t0000000000000020\nCapPrm:\t0000000000000020\n\
                    CapEff:\t0000000000000020\nCapBnd:\t0000000000000021\nCapAmb:\t0000000000000020\nNoNewPrivs:\t1\nSeccomp:\t2\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
}

#[test]
fn seccomp_profiles_hold() {
    let script = "mkdir /x 2>&1; echo $?; perl -e 'print syscall(39) > 0 ? \"pid\\n\" : \"none\\n\"; my $r = syscall(63, my $b = \"x\" x 500); print \"$r $!\\n\"'";
    let outcome = run("seccomp", script, |config| {
        config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
            { "names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 122 },
            { "names": ["uname"], "action": "SCMP_ACT_ERRNO" }
        ] });
    });
    let expected = "mkdir: cannot create directory '/x': Disk quota exceeded\n1\npid\n-1 Operation not permitted\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
}

#[test]
fn mounts_have_their_options() {
    let script = "grep -E ' /(t|b) ' /proc/self/mountinfo | cut -d' ' -f5,6; stat -c '%a %u %g' /t; cp /usr/bin/true /t/; /t/true 2>/dev/null; echo $?; \
                  touch /b/x 2>/dev/null; echo $?";
    let bundle = Bundle::new("mounts", script);
    std::fs::create_dir(bundle.dir.join("b")).unwrap();
    bundle.edit(|config| {
        let options = ["noexec", "nosuid", "nodev", "size=1m", "mode=0751", "uid=5", "gid=6"];
        mounts(config).push(json!({ "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": options }));
        mounts(config).push(json!({ "destination": "/b", "source": "b", "options": ["rbind", "ro", "nosuid", "rprivate"] }));
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    let expected = "/t rw,nosuid,nodev,noexec,relatime\n/b ro,nosuid,relatime\n751 5 6\n126\n1\n";
    assert_eq!(outcome.stdout, expected, "{outcome:?}");
}

#[test]
fn paths_are_hidden_and_kept() {
    let script = "cat /secret/file /file 2>/dev/null; ls /secret | wc -l; wc -c < /file; echo x 2>/dev/null > /kept/file; echo $?; \
                  mkdir /secret/x 2>/dev/null; echo $?; cat /kept/file";
    let bundle = Bundle::new("hidden", script);
    for dir in ["secret", "kept"] {
        std::fs::create_dir(bundle.dir.join("rootfs").join(dir)).unwrap();
    }
    for file in ["secret/file", "file", "kept/file"] {
        std::fs::write(bundle.dir.join("rootfs").join(file), "content\n").unwrap();
    }
    bundle.edit(|config| {
        config["linux"]["maskedPaths"] = json!(["/secret", "/file", "/no/such"]);
        config["linux"]["readonlyPaths"] = json!(["/kept", "/no/such"]);
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert_eq!(outcome.stdout, "0\n0\n2\n1\ncontent\n", "{outcome:?}");
}

#[test]
fn devices_are_made() {
    let outcome = run("devices", "stat -c '%F %a %u %g %t %T' /dev/own/null2; echo x > /dev/own/null2; echo $?", |config| {
        config["linux"]["devices"] =
            json!([{ "path": "/dev/own/null2", "type": "c", "major": 1, "minor": 3, "fileMode": 0o640, "uid": 3, "gid": 4 }]);
    });
    assert_eq!(outcome.stdout, "character special file 640 3 4 1 3\n0\n", "{outcome:?}");
}

#[test]
fn a_read_only_root_has_places_for_its_mounts() {
    let bundle = Bundle::new("readonly", "touch /x 2>/dev/null; echo $?; touch /new/deep/x; echo $?; cat /new/file");
    std::fs::write(bundle.dir.join("file"), "bound\n").unwrap();
    bundle.edit(|config| {
        config["root"]["readonly"] = true.into();
        mounts(config).push(json!({ "destination": "/new/deep", "type": "tmpfs", "source": "tmpfs" }));
        mounts(config).push(json!({ "destination": "/new/file", "source": "file", "options": ["bind"] }));
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert_eq!(outcome.stdout, "1\n0\nbound\n", "{outcome:?}");
    assert!(!bundle.dir.join("rootfs/x").exists() && bundle.dir.join("rootfs/new/deep").is_dir());
}

#[test]
fn users_are_mapped() {
    if native(&["id", "-u"]).stdout.trim() != "0" {
        println!("skipped: only root can map other users");
        return;
    }
    let bundle = Bundle::new("mapped", "id -u; stat -c '%u:%g' /root.file; touch /made; chown 5:6 /made; stat -c '%u:%g' /made");
    let file = bundle.dir.join("rootfs/root.file");
    std::fs::write(&file, "").unwrap();
    std::os::unix::fs::chown(&file, Some(100_007), Some(100_008)).unwrap();
    std::os::unix::fs::chown(bundle.dir.join("rootfs"), Some(100_000), Some(100_000)).unwrap();
    bundle.edit(|config| {
        for kind in ["uidMappings", "gidMappings"] {
            config["linux"][kind] = json!([{ "containerID": 0, "hostID": 100_000, "size": 65_536 }]);
        }
        // Capabilities over files are the container's root's.
        let caps = json!(["CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER"]);
        config["process"]["capabilities"] = json!({ "bounding": caps, "effective": caps, "permitted": caps });
    });
    let outcome = bundle.palisade(&["run", "--bundle", bundle.path(), "one"]);
    assert_eq!(outcome.stdout, "0\n7:8\n5:6\n", "{outcome:?}");
    let made = std::fs::metadata(bundle.dir.join("rootfs/made")).unwrap();
    assert_eq!((made.uid(), made.gid()), (100_005, 100_006));
}

#[test]
fn a_network_namespace_is_joined() {
    if native(&["id", "-u"]).stdout.trim() != "0" {
        println!("skipped: only root can make a network namespace for others");
        return;
    }
    let mut other = std::process::Command::new("unshare").args(["-n", "sleep", "60"]).spawn().unwrap();
    let namespace = format!("/proc/{}/ns/net", other.id());
    let id = |path: &str| std::fs::read_link(path).unwrap();
    let own = id("/proc/self/ns/net");
    let start = std::time::Instant::now();
    while id(&namespace) == own {
        assert!(start.elapsed().as_secs() < 10);
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let bundle = Bundle::new("network", "while :; do sleep 1; done");
    bundle.edit(|config| config["linux"]["namespaces"] = json!([{ "type": "network", "path": namespace }]));
    bundle.run("one");
    let state: Value = serde_json::from_str(&bundle.ok(&["state", "one"])).unwrap();
    assert_eq!(id(&format!("/proc/{}/ns/net", state["pid"])), id(&namespace));
    drop(bundle);
    other.kill().unwrap();
    other.wait().unwrap();
}

#[test]
fn names_and_settings_of_the_kernel_inside() {
    let script = "cat /proc/sys/kernel/hostname /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/self/oom_score_adj";
    let outcome = run("settings", script, |config| {
        config["hostname"] = json!("host-name");
        config["domainname"] = json!("domain.example");
        config["process"]["oomScoreAdj"] = json!(123);
        config["linux"]["sysctl"] = json!({ "net.ipv4.ip_unprivileged_port_start": "80", "net/ipv4/ip_default_ttl": "64" });
    });
    assert_eq!(outcome.stdout, "host-name\ndomain.example\n80\n123\n", "{outcome:?}");
    let refused = |change: fn(&mut Value), why: &str| {
        let outcome = run("settings", "true", change);
        assert!(outcome.status == 125 && outcome.stderr.lines().count() == 1 && outcome.stderr.contains(why), "{outcome:?}");
    };
    refused(|config| config["linux"]["sysctl"] = json!({ "net.no.such": "1" }), "linux.sysctl: \"net.no.such\": ");
    refused(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.tcp_sack": "0" }), "can't be changed: it is \"1\"");
    refused(|config| config["linux"]["timeOffsets"] = json!({ "monotonic": { "secs": 1 } }), "linux.timeOffsets.monotonic: ");
    refused(|config| config["process"]["scheduler"] = json!({ "policy": "SCHED_FIFO" }), "process.scheduler: ");
    refused(|config| config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE" }), "process.ioPriority: ");
    refused(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }), "linux.personality.domain: ");
}

#[test]
fn who_goes_when_memory_is_up_can_be_said() {
    let script = "cat /proc/self/oom_score_adj; echo 500 > /proc/$$/oom_score_adj; cat /proc/self/oom_score_adj /proc/self/oom_adj; \
                  echo -5 2>/dev/null > /proc/$$/oom_score_adj; echo $?; echo 1001 2>/dev/null > /proc/$$/oom_score_adj; echo $?";
    let native = native(&["sh", "-c", &format!("exec setpriv --bounding-set=-sys_resource sh -c '{script}'")]);
    let outcome = run("oom-adjust", script, |_| {});
    assert_eq!(outcome.stdout, "0\n500\n8\n1\n1\n", "{outcome:?}");
    if native.status == 0 && native.stdout.starts_with("0\n") {
        assert_eq!(native.stdout, outcome.stdout);
    }
}
