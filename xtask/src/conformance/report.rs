//! Counts, the table for people, and the files for machines.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::{Deserialize, Serialize};

use super::gtest::{Verdict, Verdicts};

/// What a program came to.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct ProgramResult {
    /// Cases that pass on the host's Linux: the only ones that count.
    pub native: usize,
    /// How many of them pass inside. A skip is no pass.
    pub inside: usize,
    /// Those that don't, and how they end; without what is expected to fail.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub failing: Verdicts,
    /// Those that don't, with the reason of the expectations file.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub expected: BTreeMap<String, String>,
}

/// Everything, by area and program.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Results {
    pub suite: String,
    /// The host's release, whose behaviour was the measure.
    pub host: String,
    pub areas: BTreeMap<String, BTreeMap<String, ProgramResult>>,
}

/// Known failures: `PROGRAM CASE reason`, a `*` at the end of CASE stands for any rest.
pub struct Expectations(Vec<(String, String, String)>);

impl Expectations {
    pub fn parse(text: &str) -> Self {
        let rows = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
            let mut words = line.splitn(3, char::is_whitespace);
            Some((words.next()?.to_owned(), words.next()?.to_owned(), words.next()?.trim().to_owned()))
        });
        Self(rows.collect())
    }

    fn reason(&self, program: &str, case: &str) -> Option<&str> {
        let matches = |pattern: &str| pattern.strip_suffix('*').map_or(pattern == case, |start| case.starts_with(start));
        self.0.iter().find(|(its, pattern, _)| its == program && matches(pattern)).map(|(_, _, reason)| reason.as_str())
    }
}

impl ProgramResult {
    pub fn new(program: &str, native: &Verdicts, inside: &Verdicts, expectations: &Expectations) -> Self {
        let mut result = Self::default();
        for name in passing(native) {
            result.native += 1;
            match inside.get(&name).copied().unwrap_or(Verdict::Lost) {
                Verdict::Pass => result.inside += 1,
                verdict => match expectations.reason(program, &name) {
                    Some(reason) => drop(result.expected.insert(name, reason.to_owned())),
                    None => drop(result.failing.insert(name, verdict)),
                },
            }
        }
        result
    }
}

/// The cases that pass.
pub fn passing(verdicts: &Verdicts) -> Vec<String> {
    verdicts.iter().filter(|(_, verdict)| **verdict == Verdict::Pass).map(|(name, _)| name.clone()).collect()
}

impl Results {
    /// Takes over what an earlier run found for programs that weren't run now.
    pub fn merge(&mut self, older: Self) {
        for (area, programs) in older.areas {
            let mine = self.areas.entry(area).or_default();
            for (program, result) in programs {
                mine.entry(program).or_insert(result);
            }
        }
    }

    /// Without the names of cases: small enough to be committed.
    pub fn summary(&self) -> Self {
        let mut summary = self.clone();
        for program in summary.areas.values_mut().flat_map(BTreeMap::values_mut) {
            program.failing.clear();
        }
        summary
    }

    /// Cases that pass natively and inside, by area and in all.
    pub fn counts(&self) -> Vec<(String, usize, usize)> {
        let sum = |programs: &BTreeMap<String, ProgramResult>| {
            programs.values().fold((0, 0), |(native, inside), program| (native + program.native, inside + program.inside))
        };
        let mut rows: Vec<_> = self.areas.iter().map(|(area, programs)| (area.clone(), sum(programs))).collect();
        let total = rows.iter().fold((0, 0), |total, (_, row)| (total.0 + row.0, total.1 + row.1));
        rows.push(("total".to_owned(), total));
        rows.into_iter().map(|(area, (native, inside))| (area, native, inside)).collect()
    }

    /// The table in markdown.
    pub fn table(&self) -> String {
        let mut text = String::from("| area | pass natively | pass inside | % |\n| --- | ---: | ---: | ---: |\n");
        for (area, native, inside) in self.counts() {
            // A String takes everything.
            let _ = writeln!(text, "| {area} | {native} | {inside} | {} |", percent(inside, native));
        }
        text
    }
}

/// With one digit, rounded down: 100.0 means all.
pub fn percent(part: usize, whole: usize) -> String {
    match (part * 1000).checked_div(whole) {
        Some(tenths) => format!("{}.{}", tenths / 10, tenths % 10),
        None => "-".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdicts(list: &[(&str, Verdict)]) -> Verdicts {
        list.iter().map(|(name, verdict)| ((*name).to_owned(), *verdict)).collect()
    }

    #[test]
    fn only_native_passes_count_and_a_skip_is_no_pass() {
        let native = verdicts(&[("a", Verdict::Pass), ("b", Verdict::Pass), ("c", Verdict::Fail), ("d", Verdict::Pass)]);
        let inside = verdicts(&[("a", Verdict::Pass), ("b", Verdict::Skip), ("c", Verdict::Pass)]);
        let result = ProgramResult::new("p", &native, &inside, &Expectations::parse("# why\np d* no such device here\n"));
        assert_eq!((result.native, result.inside), (3, 1));
        assert_eq!(result.failing, verdicts(&[("b", Verdict::Skip)]));
        assert_eq!(result.expected.get("d").map(String::as_str), Some("no such device here"));
        let mut results = Results::default();
        results.areas.entry("x".into()).or_default().insert("p".into(), result);
        assert_eq!(results.counts(), [("x".to_owned(), 3, 1), ("total".to_owned(), 3, 1)]);
    }

    #[test]
    fn percentages_never_flatter() {
        assert_eq!(percent(9999, 10000), "99.9");
        assert_eq!(percent(3, 3), "100.0");
        assert_eq!(percent(0, 0), "-");
    }
}
