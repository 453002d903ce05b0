//! What is kept of the checks, in tests/apps/results.json.

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// How a check went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Verdict {
    Pass,
    Fail,
    Timeout,
}

impl Verdict {
    pub fn name(self) -> &'static str {
        match self {
            Self::Pass => "PASS",
            Self::Fail => "FAIL",
            Self::Timeout => "TIMEOUT",
        }
    }
}

/// One run of a check.
#[derive(Clone, Debug)]
pub struct Check {
    pub verdict: Verdict,
    pub seconds: f64,
    /// Where it doesn't pass.
    pub cause: Option<String>,
}

impl Check {
    pub fn new(verdict: Verdict, duration: Duration, code: Option<i32>, output: &str) -> Self {
        let last = output.lines().rev().map(str::trim).find(|line| !line.is_empty() && !line.starts_with("@@"));
        let status = code.map_or("killed".to_owned(), |code| format!("status {code}"));
        let cause = (verdict != Verdict::Pass).then(|| format!("{status}: {}", last.unwrap_or("says nothing")));
        Self { verdict, seconds: (duration.as_secs_f64() * 10.0).round() / 10.0, cause }
    }
}

/// What is written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Entry {
    result: Verdict,
    /// Natively, or under the runtime it was compared with.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Verdict>,
    seconds: f64,
    /// Its last words, or what somebody has found out: that stays as long as the check fails.
    #[serde(skip_serializing_if = "Option::is_none")]
    cause: Option<String>,
}

/// The outcome of all checks.
#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Results(BTreeMap<String, Entry>);

impl Results {
    /// What there is of earlier runs.
    pub fn load(path: &Path) -> Result<Self> {
        match fs::read(path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    pub fn put(&mut self, id: &str, reference: Option<Verdict>, check: Check) {
        let known = self.0.get(id).and_then(|entry| entry.cause.clone());
        let cause = check.cause.map(|last| known.unwrap_or(last));
        let entry = Entry { result: check.verdict, reference, seconds: check.seconds, cause };
        self.0.insert(id.to_owned(), entry);
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n").with_context(|| path.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_that_were_found_out_stay_until_it_passes() {
        let mut results = Results::default();
        let failed = || Check::new(Verdict::Fail, Duration::from_millis(1234), Some(3), "first\nlast words\n\n@@FAIL 3\n");
        results.put("a", Some(Verdict::Pass), failed());
        assert_eq!(results.0["a"].cause.as_deref(), Some("status 3: last words"));
        results.0.get_mut("a").unwrap().cause = Some("no such device".into());
        results.put("a", Some(Verdict::Pass), failed());
        assert_eq!((results.0["a"].cause.as_deref(), results.0["a"].seconds), (Some("no such device"), 1.2));
        results.put("a", None, Check::new(Verdict::Pass, Duration::ZERO, Some(0), "fine"));
        assert_eq!(results.0["a"].cause, None);
    }
}
