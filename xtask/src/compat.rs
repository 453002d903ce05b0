//! Writes docs/compatibility.md: the table of system calls as the built palisade has it, and the last results of tests.

use std::fmt::Write;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};

use crate::conformance::report::Results;

/// Writes docs/compatibility.md from the table of system calls and the results in docs/results.
#[derive(clap::Args, Debug)]
pub struct Options {
    /// Change nothing: fail if the file isn't what it should be.
    #[arg(long)]
    check: bool,
}

const FILE: &str = "docs/compatibility.md";

/// A call and how much of it there is, as `palisade help syscalls` says.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    number: u32,
    name: String,
    level: Level,
}

#[derive(Debug, PartialEq, Eq)]
enum Level {
    Full,
    Partial(String),
    Missing,
}

fn parse(text: &str) -> Vec<Row> {
    let row = |line: &str| {
        let (number, rest) = line.trim_start().split_once(' ')?;
        let (name, level) = rest.split_once(' ')?;
        let level = match level.trim() {
            "full" => Level::Full,
            other => other.strip_prefix("partial: ").map_or(Level::Missing, |note| Level::Partial(note.to_owned())),
        };
        Some(Row { number: number.parse().ok()?, name: name.to_owned(), level })
    };
    // The counts at the end are no row.
    text.lines().filter(|line| !line.ends_with("not implemented")).filter_map(row).collect()
}

/// Names in a paragraph, in code.
fn names<'a>(rows: impl Iterator<Item = &'a Row>) -> String {
    rows.map(|row| format!("`{}`", row.name)).collect::<Vec<_>>().join(", ")
}

/// Breaks a paragraph into lines of at most 140 characters.
fn wrap(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        match lines.last_mut() {
            Some(line) if line.is_empty() => line.push_str(word),
            Some(line) if line.len() + 1 + word.len() <= 140 => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines.join("\n")
}

fn calls(rows: &[Row]) -> String {
    let with = |wanted: fn(&Level) -> bool| rows.iter().filter(move |row| wanted(&row.level));
    let full = || with(|level| *level == Level::Full);
    let partial = || with(|level| matches!(level, Level::Partial(_)));
    let missing = || with(|level| *level == Level::Missing);
    let mut text = format!(
        "Of the {} system calls of Linux on x86-64 {} are there in full, {} in part; {} are refused with `ENOSYS`.\n\n",
        rows.len(),
        full().count(),
        partial().count(),
        missing().count()
    );
    text += "### In part\n\n| number | call | what is missing |\n| ---: | --- | --- |\n";
    for row in partial() {
        if let Level::Partial(note) = &row.level {
            // A String takes everything.
            let _ = writeln!(text, "| {} | `{}` | {note} |", row.number, row.name);
        }
    }
    text + "\n### In full\n\n" + &wrap(&names(full())) + "\n\n### Refused\n\n" + &wrap(&names(missing())) + "\n"
}

fn conformance(results: &Results) -> String {
    let mut text = format!(
        "gVisor's syscall tests, of which those count that pass on Linux {}. A skip inside is no pass.\n\
         `cargo xtask conformance --path DIR --commit` writes these numbers.\n\n{}",
        results.host,
        results.table()
    );
    let expected: usize =
        results.areas.values().flat_map(|programs| programs.values()).map(|program| program.expected.len()).sum();
    if expected > 0 {
        let _ = writeln!(text, "\n{expected} of the failing cases are known, with their reasons in the expectations file.");
    }
    text
}

/// The whole document; results that aren't there are left out.
fn render(rows: &[Row], top: &Path) -> Result<String> {
    let mut text = String::from(
        "# Compatibility\n\nWritten by `cargo xtask compat`; don't edit. What `palisade help syscalls` says, and the last test results.\n\n\
         ## System calls\n\n",
    );
    text += &calls(rows);
    let result = |name: &str| fs::read(top.join("docs/results").join(name));
    if let Ok(bytes) = result("conformance.json") {
        let results: Results = serde_json::from_slice(&bytes).context("docs/results/conformance.json")?;
        text += "\n## Conformance\n\n";
        text += &conformance(&results);
    }
    Ok(text)
}

/// Writes the document, or checks it.
pub fn run(top: &Path, options: &Options) -> Result<()> {
    let palisade = super::built(top, "palisade");
    if !options.check {
        super::cargo(&["build", "--release", "--package", "palisade"])?;
    }
    let output = Command::new(&palisade).args(["help", "syscalls"]).output().with_context(|| palisade.display().to_string())?;
    ensure!(output.status.success(), "palisade help syscalls: {}", output.status);
    let rows = parse(&String::from_utf8_lossy(&output.stdout));
    ensure!(rows.len() > 300, "palisade help syscalls lists {} calls only", rows.len());
    let text = render(&rows, top)?;
    let file = top.join(FILE);
    if options.check {
        let found = fs::read_to_string(&file).unwrap_or_default();
        let differs = found.lines().zip(text.lines()).find(|(found, wanted)| found != wanted);
        ensure!(found == text, "{FILE} is out of date: run cargo xtask compat (first difference: {differs:?})");
        return Ok(());
    }
    fs::write(&file, text)?;
    println!("{FILE}: {} calls", rows.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_list_is_understood() {
        let text = "   0 read                     full\n 101 ptrace                   partial: no x87\n 156 _sysctl                  not implemented \
                    (ENOSYS)\n1 full, 1 partial, 1 not implemented\n";
        let rows = parse(text);
        assert_eq!(rows.len(), 3);
        assert_eq!(rows[1], Row { number: 101, name: "ptrace".into(), level: Level::Partial("no x87".into()) });
        let page = calls(&rows);
        assert!(page.starts_with("Of the 3 system calls of Linux on x86-64 1 are there in full, 1 in part; 1 are refused"));
        assert!(page.contains("| 101 | `ptrace` | no x87 |"));
    }

    #[test]
    fn paragraphs_are_broken() {
        let text = wrap(&"word ".repeat(60));
        assert!(text.lines().all(|line| line.len() <= 140) && text.lines().count() == 3);
    }
}
