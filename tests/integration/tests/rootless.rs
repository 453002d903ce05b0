//! Bundles run by users who are nobody special.

use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::{Command, Stdio};

use integration::{Bundle, Outcome, native, nothing_left, palisade};
use serde_json::json;

const USER: u32 = 54_321;

/// A bundle that belongs to somebody, with the command line's program in it: where that was built, others may not look.
struct Others(Bundle);

impl Others {
    fn new(name: &str, script: &str) -> Option<Self> {
        if native(&["id", "-u"]).stdout.trim() != "0" {
            println!("skipped: only root can be somebody else; the other tests have been run by a user");
            return None;
        }
        let bundle = Bundle::new(name, script);
        std::fs::remove_dir_all(bundle.dir.join("state")).unwrap_or_default();
        std::fs::copy(palisade(), bundle.dir.join("palisade")).unwrap();
        std::fs::set_permissions(bundle.dir.join("palisade"), PermissionsExt::from_mode(0o755)).unwrap();
        // As spec --rootless has it.
        bundle.edit(|config| {
            for kind in ["uidMappings", "gidMappings"] {
                config["linux"][kind] = json!([{ "containerID": 0, "hostID": USER, "size": 1 }]);
            }
        });
        assert_eq!(native(&["chown", "-R", &format!("{USER}:{USER}"), bundle.path()]).status, 0);
        Some(Self(bundle))
    }

    fn palisade(&self, args: &[&str]) -> Outcome {
        let id = USER.to_string();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", &id, "--regid", &id, "--clear-groups", "timeout", "-k", "1", "60"]);
        command.arg(self.0.dir.join("palisade")).arg("--root").arg(self.0.dir.join("state")).args(args);
        // Files: containers keep them open.
        let (out, err) = (self.0.dir.join("out"), self.0.dir.join("err"));
        let files = [&out, &err].map(|path| std::fs::File::create(path).unwrap());
        let [stdout, stderr] = files;
        let status = command.stdin(Stdio::null()).stdout(stdout).stderr(stderr).status().unwrap();
        let text = |path| std::fs::read_to_string(path).unwrap();
        Outcome { status: status.code().unwrap_or(-1), stdout: text(&out), stderr: text(&err) }
    }

    fn ok(&self, args: &[&str]) -> String {
        let outcome = self.palisade(args);
        assert_eq!((outcome.status, outcome.stderr.as_str()), (0, ""), "{args:?}");
        outcome.stdout
    }
}

#[test]
fn a_bundle_runs_as_its_owner() {
    let script = "id -u; echo made > /made; chmod 640 /made; stat -c '%u:%g %a' /made; touch /usr/x 2>/dev/null; echo $?";
    let Some(others) = Others::new("rootless-run", script) else { return };
    assert_eq!(others.ok(&["run", "--bundle", others.0.path(), "one"]), "0\n0:0 640\n1\n");
    let made = std::fs::metadata(others.0.dir.join("rootfs/made")).unwrap();
    assert_eq!((made.uid(), made.gid(), made.mode() & 0o777), (USER, USER, 0o640));
    assert_eq!(others.ok(&["list", "--quiet"]), "");
    // Others are not theirs to map.
    others.0.edit(|config| config["linux"]["uidMappings"][0]["hostID"] = 0.into());
    let outcome = others.palisade(&["run", "--bundle", others.0.path(), "one"]);
    assert!(
        outcome.status == 125 && outcome.stderr.lines().count() == 1 && outcome.stderr.contains("linux.uidMappings"),
        "{outcome:?}"
    );
}

#[test]
fn the_lifecycle_needs_no_root() {
    let Some(others) = Others::new("rootless-life", "trap 'exit 3' TERM; sleep 1000 & wait") else { return };
    // Groups that they can't make are done without.
    others.0.edit(|config| {
        config["linux"]["cgroupsPath"] = "/nobody/special".into();
        config["linux"]["resources"] = json!({ "pids": { "limit": 50 } });
    });
    others.ok(&["create", "--bundle", others.0.path(), "two"]);
    others.ok(&["start", "two"]);
    assert_eq!(others.ok(&["exec", "two", "/usr/bin/id", "-u"]), "0\n");
    others.ok(&["pause", "two"]);
    assert!(others.ok(&["state", "two"]).contains("\"paused\""));
    others.ok(&["resume", "two"]);
    assert!(others.ok(&["ps", "two"]).contains("sleep 1000"));
    others.ok(&["kill", "two", "TERM"]);
    assert!(others.ok(&["wait", "two"]).contains("\"exitStatus\":3"));
    let start = std::time::Instant::now();
    while !others.ok(&["state", "two"]).contains("stopped") {
        assert!(start.elapsed().as_secs() < 20);
    }
    others.ok(&["delete", "two"]);
    nothing_left(&others.0.dir, "two-rootless");
}
