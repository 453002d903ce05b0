//! Runs programs that people use: a script each, in a copy-on-write copy of a Debian's root filesystem, first natively (or under another runtime),
//! then under palisade. What passes there must pass here.

mod bundle;
mod results;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use results::{Check, Results, Verdict};

/// Runs checks of programs natively and inside, and compares.
#[derive(Args, Debug)]
pub struct Options {
    /// The root filesystem; it stays as it is.
    #[arg(long)]
    rootfs: PathBuf,
    /// Where the checks are: ID.sh each (default: tests/apps).
    #[arg(long)]
    checks: Option<PathBuf>,
    /// Compare with this runtime instead of running natively.
    #[arg(long, value_name = "PATH", conflicts_with_all = ["native", "alone"])]
    runc: Option<PathBuf>,
    /// Compare with running natively (the default).
    #[arg(long, conflicts_with = "alone")]
    native: bool,
    /// Compare with nothing.
    #[arg(long)]
    alone: bool,
    /// Seconds for one check.
    #[arg(long, default_value_t = 120)]
    timeout: u64,
    /// Logs go here (default: target/apps).
    #[arg(long)]
    out: Option<PathBuf>,
    /// Write the outcome to tests/apps/results.json: what isn't run now stays as it stands there.
    #[arg(long)]
    commit: bool,
    /// The command line to test (default: the release build's).
    #[arg(long)]
    palisade: Option<PathBuf>,
    /// The checks (default: all).
    ids: Vec<String>,
}

/// What a check is run by.
enum Runner<'a> {
    Native,
    Runtime(&'a Path),
}

/// Gives a check a layer of its own over the root filesystem, in a mount namespace that ends with it. Arguments: work directory, root filesystem, and
/// the command.
const LAYERED: &str = r#"work=$1 lower=$2; shift 2
mount -t tmpfs -o size=4g layer "$work/layer" && mkdir "$work/layer/upper" "$work/layer/work" &&
mount -t overlay app -o "lowerdir=$lower,upperdir=$work/layer/upper,workdir=$work/layer/work" "$work/rootfs" && exec "$@""#;

/// Runs natively: arguments are the root and the directory of checks, then the command. Whoever is in a chroot may make no user namespaces: it is a root
/// proper.
const NATIVE: &str = r#"root=$1 checks=$2; shift 2
mkdir -p "$root/checks" && mount --bind "$checks" "$root/checks" && mount -t proc proc "$root/proc" && mount -t sysfs sysfs "$root/sys" &&
mount -t tmpfs -o mode=755 dev "$root/dev" && mount -t tmpfs -o mode=1777 tmp "$root/tmp" || exit 125
for node in null zero full random urandom tty; do : > "$root/dev/$node" && mount --bind "/dev/$node" "$root/dev/$node" || exit 125; done
mkdir "$root/dev/pts" "$root/dev/shm" && mount -t devpts -o newinstance,ptmxmode=0666,mode=0620,gid=5 devpts "$root/dev/pts" &&
mount -t tmpfs -o mode=1777 shm "$root/dev/shm" && ln -s pts/ptmx "$root/dev/ptmx" && ln -s /proc/self/fd "$root/dev/fd" &&
ln -s fd/0 "$root/dev/stdin" && ln -s fd/1 "$root/dev/stdout" && ln -s fd/2 "$root/dev/stderr" &&
cd "$root" && mkdir -p .old && pivot_root . .old || exit 125
exec chroot . /bin/sh -c 'umount -l /.old && rmdir /.old; exec /usr/bin/env -i "$@"' env "$@""#;

struct Run<'a> {
    options: &'a Options,
    rootfs: PathBuf,
    checks: PathBuf,
    out: PathBuf,
}

impl Run<'_> {
    /// Runs a check; its output is kept as `OUT/ID.NAME.log`.
    fn check(&self, id: &str, name: &str, runner: &Runner<'_>) -> Result<Check> {
        let work = std::env::temp_dir().join(format!("palisade-app-{id}-{name}-{}", std::process::id()));
        for dir in ["layer", "rootfs"] {
            fs::create_dir_all(work.join(dir))?;
        }
        let log = self.out.join(format!("{id}.{name}.log"));
        let started = Instant::now();
        let status = self.command(&work, id, runner, &log).and_then(|mut command| Ok(command.status()?));
        let seconds = started.elapsed();
        if let Runner::Runtime(runtime) = runner {
            // One that was stopped by the timeout has left it.
            let mut delete = Command::new("timeout");
            delete.arg("60").arg(runtime).arg("--root").arg(work.join("state")).args(["delete", "--force", "check"]);
            let _ = delete.stdout(Stdio::null()).stderr(Stdio::null()).status();
        }
        fs::remove_dir_all(&work).with_context(|| work.display().to_string())?;
        let code = status?.code();
        let late = seconds >= Duration::from_secs(self.options.timeout);
        let verdict = match code {
            Some(0) => Verdict::Pass,
            _ if late => Verdict::Timeout,
            _ => Verdict::Fail,
        };
        let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
        Ok(Check::new(verdict, seconds, code, &text))
    }

    fn command(&self, work: &Path, id: &str, runner: &Runner<'_>, log: &Path) -> Result<Command> {
        let mut command = Command::new("timeout");
        command.args(["-k", "10", &self.options.timeout.to_string(), "unshare", "--mount", "--propagation", "private"]);
        if matches!(runner, Runner::Native) {
            command.args(["--pid", "--net", "--ipc", "--uts", "--fork", "--kill-child"]);
        }
        command.args(["sh", "-c", LAYERED, "layered"]).arg(work).arg(&self.rootfs);
        let script = format!("/checks/{id}.sh");
        match runner {
            Runner::Native => {
                command.args(["sh", "-c", NATIVE, "native"]).arg(work.join("rootfs")).arg(&self.checks);
                command.args(bundle::ENV).args(["sh", "-c", "cd /root && exec bash \"$0\"", &script]);
            }
            Runner::Runtime(runtime) => {
                bundle::write(work, &self.checks, &["/bin/bash", &script])?;
                command.arg(runtime).arg("--root").arg(work.join("state")).args(["run", "--bundle"]).arg(work).arg("check");
            }
        }
        let file = File::create(log).with_context(|| log.display().to_string())?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        Ok(command)
    }

    /// The checks that there are, or those that are asked for.
    fn ids(&self) -> Result<Vec<String>> {
        let entries = fs::read_dir(&self.checks).with_context(|| self.checks.display().to_string())?;
        let mut all: Vec<String> = entries
            .filter_map(|entry| Some(entry.ok()?.file_name().into_string().ok()?.strip_suffix(".sh")?.to_owned()))
            .collect();
        all.sort();
        if self.options.ids.is_empty() {
            return Ok(all);
        }
        for id in &self.options.ids {
            ensure!(all.contains(id), "{id}: {} has no such check", self.checks.display());
        }
        Ok(self.options.ids.clone())
    }
}

/// Runs the checks; fails when one fails that passes elsewhere.
pub fn run(top: &Path, options: &Options) -> Result<()> {
    ensure!(rustix::process::geteuid().is_root(), "only root can mount what the checks run over");
    let palisade = options.palisade.clone().unwrap_or_else(|| crate::built(top, "palisade"));
    ensure!(palisade.is_file(), "{} is missing: build it (cargo build --release -p palisade)", palisade.display());
    let find = |path: &Path| path.canonicalize().with_context(|| path.display().to_string());
    let run = Run {
        options,
        rootfs: find(&options.rootfs)?,
        checks: find(&options.checks.clone().unwrap_or_else(|| top.join("tests/apps")))?,
        out: options.out.clone().unwrap_or_else(|| crate::target(top).join("apps")),
    };
    fs::create_dir_all(&run.out)?;
    let file = top.join("tests/apps/results.json");
    let mut results = Results::load(&file)?;
    let mut broken = Vec::new();
    let reference = options.runc.as_deref().map_or(Runner::Native, Runner::Runtime);
    for id in run.ids()? {
        // At the same time: some wait for the next minute.
        let (other, inside) = std::thread::scope(|scope| {
            let other = (!options.alone).then(|| scope.spawn(|| run.check(&id, "reference", &reference)));
            let inside = run.check(&id, "palisade", &Runner::Runtime(&palisade));
            (other.map(|other| other.join().unwrap_or_else(|_| bail!("{id}: its thread has panicked"))), inside)
        });
        let (other, inside) = (other.transpose()?, inside?);
        let there = other.as_ref().map_or("-", |check| check.verdict.name());
        println!(
            "{id:20} {there:8} {:8} {:6.1} s  {}",
            inside.verdict.name(),
            inside.seconds,
            inside.cause.as_deref().unwrap_or("")
        );
        if inside.verdict != Verdict::Pass && other.as_ref().is_none_or(|check| check.verdict == Verdict::Pass) {
            broken.push(id.clone());
        }
        results.put(&id, other.map(|check| check.verdict), inside);
    }
    println!("logs: {}", run.out.display());
    if options.commit {
        results.save(&file)?;
    }
    if broken.is_empty() { Ok(()) } else { bail!("{} checks fail: {}", broken.len(), broken.join(" ")) }
}
