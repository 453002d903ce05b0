//! Configurations that are wrong in any way: they are refused in one line that says where, and nothing panics.

use std::path::Path;

use serde_json::{Value, json};

use crate::spec::{self, Spec};
use crate::{Options, bundle};

/// A configuration with something of everything.
fn whole() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": true, "consoleSize": { "height": 24, "width": 80 },
            "user": { "uid": 1, "gid": 2, "umask": 18, "additionalGids": [3, 4] },
            "args": ["sh", "-c", "true"], "env": ["A=b", "PATH=/bin"], "cwd": "/tmp",
            "capabilities": { "bounding": ["CAP_KILL"], "effective": ["CAP_KILL"], "inheritable": [], "permitted": ["CAP_KILL"], "ambient": [] },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": 20 }, { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 }],
            "noNewPrivileges": true, "oomScoreAdj": 100, "apparmorProfile": "p", "selinuxLabel": "l"
        },
        "root": { "path": "rootfs", "readonly": true },
        "hostname": "name", "domainname": "domain",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid"] },
            { "destination": "/v", "type": "bind", "source": "/tmp", "options": ["rbind", "ro", "rprivate"] },
            { "destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["size=1m", "mode=755", "strictatime"] }
        ],
        "hooks": {
            "prestart": [{ "path": "/bin/true", "args": ["true"], "env": ["A=b"], "timeout": 5 }],
            "startContainer": [{ "path": "/bin/true" }], "poststop": []
        },
        "annotations": { "a": "b" },
        "linux": {
            "uidMappings": [{ "containerID": 0, "hostID": 1000, "size": 10 }],
            "gidMappings": [{ "containerID": 0, "hostID": 1000, "size": 10 }],
            "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/proc/self/ns/net" }, { "type": "mount" }],
            "devices": [{ "path": "/dev/x", "type": "c", "major": 1, "minor": 3, "fileMode": 438, "uid": 0, "gid": 0 }],
            "cgroupsPath": "/a/b",
            "resources": {
                "memory": { "limit": 1_048_576, "reservation": 1, "swap": -1 },
                "cpu": { "shares": 2, "quota": 1000, "period": 100_000, "cpus": "0", "mems": "0" },
                "pids": { "limit": 10 }, "blockIO": { "weight": 10 },
                "devices": [{ "allow": false, "access": "rwm" }],
                "hugepageLimits": [{ "pageSize": "2MB", "limit": 1 }],
                "network": { "classID": 1, "priorities": [{ "name": "lo", "priority": 1 }] },
                "unified": { "memory.high": "1" }
            },
            "sysctl": { "net.ipv4.ip_forward": "0", "kernel.domainname": "x" },
            "seccomp": {
                "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 1, "architectures": ["SCMP_ARCH_X86_64"],
                "syscalls": [{
                    "names": ["read", "write"], "action": "SCMP_ACT_ALLOW", "errnoRet": 3,
                    "args": [{ "index": 0, "value": 1, "valueTwo": 2, "op": "SCMP_CMP_MASKED_EQ" }]
                }]
            },
            "rootfsPropagation": "rslave", "maskedPaths": ["/proc/kcore"], "readonlyPaths": ["/proc/sys"],
            "timeOffsets": { "monotonic": { "secs": 0, "nanosecs": 0 } }, "personality": { "domain": "LINUX" }
        }
    })
}

/// A generator of numbers (`SplitMix64`).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((mixed ^ mixed >> 31) % bound.max(1) as u64).unwrap()
    }
}

/// Something that fits nowhere, or just.
fn odd(random: &mut Random) -> Value {
    let all = [
        Value::Null,
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(u32::MAX),
        json!(1e300),
        json!(0.5),
        json!(""),
        json!("/"),
        json!(".."),
        json!("../../../etc"),
        json!("a\0b"),
        json!("two\nlines"),
        json!("x".repeat(5000)),
        json!("RLIMIT_NOFILE"),
        json!("SCMP_ACT_NOTIFY"),
        json!("é\u{1f600}"),
        json!([]),
        json!({}),
        json!([[], {}]),
        json!(["a", 1, null]),
        json!({ "path": "/x", "type": "y", "source": "z", "destination": "w" }),
    ];
    all[random.below(all.len())].clone()
}

/// Changes something, somewhere.
fn mutate(value: &mut Value, random: &mut Random) {
    // The deeper, the more there is to meet.
    let stay = random.below(6) == 0;
    match value {
        Value::Object(map) if !stay && !map.is_empty() => {
            let index = random.below(map.len());
            let key = map.keys().nth(index).unwrap().clone();
            match random.below(12) {
                0 => drop(map.remove(&key)),
                1 => drop(map.insert(format!("{key}X"), odd(random))),
                _ => mutate(map.get_mut(&key).unwrap(), random),
            }
        }
        Value::Array(list) if !stay && !list.is_empty() => {
            let index = random.below(list.len());
            match random.below(8) {
                0 => drop(list.remove(index)),
                1 => list.push(list[index].clone()),
                2 => list.push(odd(random)),
                _ => mutate(&mut list[index], random),
            }
        }
        other => *other = odd(random),
    }
}

fn one_line(why: &str, what: &str) {
    assert!(!why.is_empty() && !why.contains(['\n', '\0']), "{why:?}: {what}");
}

/// Says it as the command line does, with the place at the front.
fn check(text: &[u8], options: &Options) -> bool {
    let shown = String::from_utf8_lossy(text);
    let error = match spec::parse::<Spec>(text) {
        Err(error) => format!("{error:#}"),
        Ok(spec) => match bundle::config(Path::new("/bundle"), &spec, options) {
            Ok(_) => return true,
            Err(error) => format!("{error:#}"),
        },
    };
    one_line(&error, &shown);
    let places = ["ociVersion", "process", "root", "hostname", "domainname", "mounts", "hooks", "annotations", "linux"];
    // Where it isn't JSON, or an object lacks what it must have at the top.
    let other = ["missing field", "at line", "invalid type", "expected", "trailing"];
    assert!(
        places.iter().any(|place| error.starts_with(place)) || other.iter().any(|text| error.contains(text)),
        "no place: {error}: {shown}"
    );
    false
}

#[test]
fn wrong_configurations_are_refused_in_one_line() {
    let options = Options::default();
    assert!(check(whole().to_string().as_bytes(), &options));
    let mut random = Random(1);
    let mut fine = 0;
    for _ in 0..20_000 {
        let mut config = whole();
        for _ in 0..=random.below(3) {
            mutate(&mut config, &mut random);
        }
        fine += u32::from(check(config.to_string().as_bytes(), &options));
    }
    // Both happen.
    assert!((1000..19_000).contains(&fine), "{fine}");
}

#[test]
fn what_is_no_json_is_refused_in_one_line() {
    let options = Options::default();
    let text = whole().to_string().into_bytes();
    let mut random = Random(2);
    for _ in 0..5000 {
        let mut bytes = text.clone();
        for _ in 0..=random.below(4) {
            let at = random.below(bytes.len());
            match random.below(4) {
                0 => bytes[at] = u8::try_from(random.below(256)).unwrap(),
                1 => drop(bytes.remove(at)),
                2 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, b"{}[]\",:\\0-e"[random.below(11)]),
            }
        }
        check(&bytes, &options);
    }
    check(b"", &options);
    check("[".repeat(100_000).as_bytes(), &options);
    check(&[vec![b'{'], br#""a":"#.to_vec(), b"[".repeat(10_000)].concat(), &options);
}

#[test]
fn wrong_profiles_and_resources_are_refused_in_one_line() {
    let mut random = Random(3);
    for _ in 0..5000 {
        let mut config = whole()["linux"]["resources"].clone();
        mutate(&mut config, &mut random);
        if let Err(error) = spec::parse::<cgroup::Resources>(config.to_string().as_bytes()) {
            one_line(&format!("{error:#}"), &config.to_string());
        }
        let mut config = whole()["process"].clone();
        mutate(&mut config, &mut random);
        if let Err(error) = spec::parse::<spec::Process>(config.to_string().as_bytes()) {
            one_line(&format!("{error:#}"), &config.to_string());
        }
    }
}
