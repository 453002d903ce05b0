//! Medians, tables and files.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::idle::Idle;

/// Which table a row is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Operations,
    Programs,
}

/// Nanoseconds by runner, of every round.
type Times = BTreeMap<String, Vec<f64>>;

/// All that was measured.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    busy: bool,
    host: String,
    /// In the order in which they were measured.
    operations: Vec<(String, Times)>,
    programs: Vec<(String, Times)>,
    pub idle: BTreeMap<String, Idle>,
}

/// In this order in tables.
const RUNNERS: [&str; 5] = ["native", "runc", "crun", "runsc", "palisade"];

fn median(times: &[f64]) -> Option<f64> {
    let mut all = times.to_vec();
    all.sort_by(f64::total_cmp);
    all.get(all.len() / 2).copied()
}

/// Nanoseconds for people.
fn time(ns: f64) -> String {
    match ns {
        _ if ns < 100.0 => format!("{ns:.1} ns"),
        _ if ns < 10_000.0 => format!("{ns:.0} ns"),
        _ if ns < 1e6 => format!("{:.1} µs", ns / 1e3),
        _ => format!("{:.1} ms", ns / 1e6),
    }
}

impl Report {
    pub fn new(busy: bool) -> Self {
        let host = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned();
        Self { busy, host, operations: Vec::new(), programs: Vec::new(), idle: BTreeMap::new() }
    }

    pub fn kind(&self) -> &'static str {
        if self.busy { "busy" } else { "quiet" }
    }

    pub fn add(&mut self, table: Table, row: &str, runner: &str, ns: f64) {
        let rows = if table == Table::Operations { &mut self.operations } else { &mut self.programs };
        if !rows.iter().any(|(name, _)| name == row) {
            rows.push((row.to_owned(), Times::new()));
        }
        if let Some((_, times)) = rows.iter_mut().find(|(name, _)| name == row) {
            times.entry(runner.to_owned()).or_default().push(ns);
        }
    }

    fn table(&self, rows: &[(String, Times)]) -> String {
        let there = |runner: &&str| rows.iter().any(|(_, times)| times.contains_key(*runner));
        let runners: Vec<&str> = RUNNERS.into_iter().filter(there).collect();
        let mut text = format!("| row | {} | palisade / native | palisade / runsc |\n", runners.join(" | "));
        // A String takes everything.
        let _ = writeln!(text, "| --- |{}", " ---: |".repeat(runners.len() + 2));
        for (row, times) in rows {
            let of = |runner: &str| times.get(runner).and_then(|times| median(times));
            let cells: Vec<String> = runners.iter().map(|runner| of(runner).map_or("-".to_owned(), time)).collect();
            let ratio = |other: &str| match (of("palisade"), of(other)) {
                (Some(own), Some(other)) if other > 0.0 => Some(own / other),
                _ => None,
            };
            let native = ratio("native").map_or("-".to_owned(), |ratio| format!("{ratio:.2}"));
            let runsc = ratio("runsc")
                .map_or("-".to_owned(), |ratio| if ratio > 1.0 { format!("**{ratio:.2}**") } else { format!("{ratio:.2}") });
            let _ = writeln!(text, "| {row} | {} | {native} | {runsc} |", cells.join(" | "));
        }
        text
    }

    /// The tables.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "Linux {}, {} CPUs, {}; medians of interleaved rounds.\n",
            self.host,
            std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            if self.busy { "both loaded by other work" } else { "nothing else running" }
        );
        if !self.operations.is_empty() {
            let _ = write!(text, "\n{}", self.table(&self.operations));
        }
        if !self.programs.is_empty() {
            let _ = write!(text, "\n{}", self.table(&self.programs));
        }
        if !self.idle.is_empty() {
            text += "\n| idle | processes | PSS, MiB | CPU in 3 s, ms |\n| --- | ---: | ---: | ---: |\n";
            for (runner, idle) in &self.idle {
                let mib = idle.pss_kib as f64 / 1024.0;
                let _ = writeln!(text, "| {runner} | {} | {mib:.1} | {} |", idle.processes, idle.ticks * 10);
            }
        }
        text
    }

    /// Puts the tables where the document has `<!-- bench quiet -->` … `<!-- end -->`.
    pub fn insert(&self, document: &Path) -> Result<()> {
        let text = std::fs::read_to_string(document)?;
        let mark = format!("<!-- bench {} -->\n", self.kind());
        let (before, rest) = text.split_once(&mark).with_context(|| format!("{}: no {mark}", document.display()))?;
        let (_, after) = rest.split_once("<!-- end -->").with_context(|| format!("{}: no end", document.display()))?;
        std::fs::write(document, format!("{before}{mark}{}<!-- end -->{after}", self.markdown()))?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_are_in_the_middle() {
        assert_eq!(median(&[9.0, 1.0, 5.0]), Some(5.0));
        assert_eq!(median(&[]), None);
    }

    #[test]
    fn tables_show_ratios_and_what_is_slower() {
        let mut report = Report::new(false);
        for (runner, ns) in [("native", 100.0), ("runsc", 400.0), ("palisade", 500.0), ("palisade", 600.0), ("palisade", 300.0)] {
            report.add(Table::Operations, "x", runner, ns);
        }
        assert!(report.markdown().contains("| x | 100 ns | 400 ns | 500 ns | 5.00 | **1.25** |"), "{}", report.markdown());
    }

    #[test]
    fn tables_replace_what_stood_there() {
        let file = std::env::temp_dir().join(format!("bench-report-{}", std::process::id()));
        std::fs::write(&file, "a\n<!-- bench quiet -->\nold\n<!-- end -->\nb\n").unwrap();
        Report::new(false).insert(&file).unwrap();
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            text.starts_with("a\n<!-- bench quiet -->\nLinux") && text.ends_with("<!-- end -->\nb\n") && !text.contains("old")
        );
        std::fs::remove_file(&file).unwrap();
    }
}
