//! Compares start-up and common programs: natively, under runc-like peers that are installed, and under palisade, interleaved.

use std::path::{Path, PathBuf};
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

fn runners(top: &Path) -> Vec<Runner> {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| top.join("target"), PathBuf::from);
    let palisade = target.join("release/palisade").display().to_string();
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

/// Runs all rows. `--busy`: with both CPUs loaded by other work.
pub fn run(top: &Path, options: &[&str]) -> Result<()> {
    let busy = match options {
        [] => false,
        ["--busy"] => true,
        _ => bail!("usage: cargo xtask bench [--busy]"),
    };
    super::cargo(&["build", "--release", "--package", "palisade"])?;
    let mut load = Vec::new();
    if busy {
        for _ in 0..std::thread::available_parallelism()?.get() {
            load.push(Command::new("sh").args(["-c", "while :; do :; done"]).spawn()?);
        }
    }
    let result = table(&runners(top));
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
