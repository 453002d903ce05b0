//! Compares single operations, start-up and common programs: natively, under the peers that are installed, and under palisade, interleaved.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// Rounds; every runner runs once in each.
const ROUNDS: usize = 15;

/// A row: name and command.
const ROWS: [(&str, &[&str]); 8] = [
    ("true", &["true"]),
    ("sh-loop", &["sh", "-c", "i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done"]),
    ("fork-exec x100", &["sh", "-c", "i=0; while [ $i -lt 100 ]; do /bin/true; i=$((i+1)); done"]),
    ("pipe x50", &["sh", "-c", "i=0; while [ $i -lt 50 ]; do echo x | cat >/dev/null; i=$((i+1)); done"]),
    ("python start", &["python3", "-S", "-c", "pass"]),
    ("python getppid x50k", &["python3", "-S", "-c", "import os\nfor _ in range(50000): os.getppid()"]),
    ("find /usr/share/perl", &["find", "/usr/share/perl", "-type", "f"]),
    ("dd 4k x20k", &["dd", "if=/dev/zero", "of=/dev/null", "bs=4k", "count=20000", "status=none"]),
];

struct Runner {
    name: &'static str,
    prefix: Vec<String>,
}

/// Compares single operations and programs natively, under palisade, and under runsc if it is installed.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// With all CPUs loaded by other work.
    #[arg(long)]
    busy: bool,
}

/// A program of the release build.
fn built(top: &Path, name: &str) -> String {
    super::built(top, name).display().to_string()
}

fn runners(top: &Path) -> Vec<Runner> {
    let palisade = built(top, "palisade");
    let mut all = vec![
        Runner { name: "native", prefix: Vec::new() },
        Runner { name: "palisade", prefix: vec![palisade, "do".into(), "--".into()] },
    ];
    // Debian's package; `do` needs root.
    if let Ok(output) = Command::new("runsc").arg("--version").output()
        && output.status.success()
    {
        let prefix = ["runsc", "--network=none", "--ignore-cgroups", "do"].map(str::to_owned).to_vec();
        all.push(Runner { name: "runsc", prefix });
    } else {
        println!("skipped: runsc is not installed");
    }
    all
}

fn time(runner: &Runner, command: &[&str]) -> Result<Duration> {
    let argv: Vec<&str> = runner.prefix.iter().map(String::as_str).chain(command.iter().copied()).collect();
    let (program, args) = argv.split_first().context("empty command")?;
    let start = Instant::now();
    let status = Command::new(program).args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    let elapsed = start.elapsed();
    if status.success() { Ok(elapsed) } else { bail!("{}: {command:?}: {status}", runner.name) }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

/// Rounds of single operations: each row is a median already.
const MICRO_ROUNDS: usize = 3;

/// Runs the program that times single operations; nanoseconds by row.
fn micro(runner: &Runner, program: &str) -> Result<Vec<(String, f64)>> {
    let argv: Vec<&str> = runner.prefix.iter().map(String::as_str).chain(["timeout", "120", program]).collect();
    let (first, args) = argv.split_first().context("empty command")?;
    let output = Command::new(first).args(args).stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        println!("{}: {program}: {}", runner.name, output.status);
    }
    Ok(text
        .lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(row, ns)| Some((row.to_owned(), ns.parse().ok()?)))
        .collect())
}

/// The table of single operations.
fn micro_table(runners: &[Runner], program: &str) -> Result<()> {
    println!("single operations, in ns: medians of {MICRO_ROUNDS} interleaved rounds; (ratio to native)");
    let mut results: Vec<BTreeMap<String, Vec<f64>>> = vec![BTreeMap::new(); runners.len()];
    let mut rows: Vec<String> = Vec::new();
    for _ in 0..MICRO_ROUNDS {
        for (runner, results) in runners.iter().zip(&mut results) {
            for (row, ns) in micro(runner, program)? {
                if !rows.contains(&row) {
                    rows.push(row.clone());
                }
                results.entry(row).or_default().push(ns);
            }
        }
    }
    for row in rows {
        let middle = |results: &BTreeMap<String, Vec<f64>>| {
            let mut all = results.get(&row)?.clone();
            all.sort_by(f64::total_cmp);
            all.get(all.len() / 2).copied()
        };
        let medians: Vec<Option<f64>> = results.iter().map(middle).collect();
        let native = medians.first().copied().flatten().unwrap_or(1.0);
        let cells = runners.iter().zip(&medians).map(|(runner, ns)| match ns {
            Some(ns) => format!("{} {ns:10.0} ({:.2}x)", runner.name, ns / native),
            None => format!("{} {:>10}", runner.name, "-"),
        });
        println!("{row:26} {}", cells.collect::<Vec<_>>().join("  "));
    }
    Ok(())
}

/// Memory and CPU time of a sandbox that sleeps: proportional set size of all its processes in KiB, and clock ticks used in three seconds.
fn idle(palisade: &str) -> Result<()> {
    let mut child = Command::new(palisade).args(["do", "--", "sleep", "30"]).spawn()?;
    std::thread::sleep(Duration::from_secs(1));
    let mut pids = vec![child.id()];
    let mut next = 0;
    while let Some(pid) = pids.get(next).copied() {
        next += 1;
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
    }
    let pss = |pid: &u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = text.lines().find(|line| line.starts_with("Pss:")).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).unwrap_or(0)
    };
    let ticks = |pid: &u32| -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields: Vec<&str> = text.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<u64>().ok()).sum()
    };
    let memory: u64 = pids.iter().map(pss).sum();
    let before: u64 = pids.iter().map(ticks).sum();
    std::thread::sleep(Duration::from_secs(3));
    let after: u64 = pids.iter().map(ticks).sum();
    child.kill()?;
    child.wait()?;
    println!("idle: {} processes, PSS {memory} KiB, {} ticks of CPU in 3 s", pids.len(), after - before);
    Ok(())
}

/// Runs all rows. `--busy`: with both CPUs loaded by other work.
pub fn run(top: &Path, options: &Options) -> Result<()> {
    super::cargo(&["build", "--release", "--package", "palisade", "--package", "guest"])?;
    let all = runners(top);
    let program = built(top, "guest-bench");
    idle(&built(top, "palisade"))?;
    let mut load = Vec::new();
    if options.busy {
        for _ in 0..std::thread::available_parallelism()?.get() {
            load.push(Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?);
        }
    }
    let result = micro_table(&all, &program).and_then(|()| table(&all));
    for mut child in load {
        child.kill()?;
        child.wait()?;
    }
    result
}

fn table(runners: &[Runner]) -> Result<()> {
    println!("medians of {ROUNDS} interleaved rounds, in ms; (ratio to native)");
    for (name, command) in ROWS {
        let mut times = vec![Vec::new(); runners.len()];
        for _ in 0..ROUNDS {
            for (runner, times) in runners.iter().zip(&mut times) {
                times.push(time(runner, command)?);
            }
        }
        let medians: Vec<f64> = times.into_iter().map(|times| median(times).as_secs_f64() * 1e3).collect();
        let native = medians.first().copied().unwrap_or(1.0);
        let cells = runners.iter().zip(&medians).map(|(runner, ms)| format!("{} {ms:8.2} ({:.2}x)", runner.name, ms / native));
        println!("{name:24} {}", cells.collect::<Vec<_>>().join("  "));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        let ms = Duration::from_millis;
        assert_eq!(median(vec![ms(9), ms(1), ms(5)]), ms(5));
    }
}
