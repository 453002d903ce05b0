//! What is remembered of a container: a directory per container below the state root.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// Where state is kept unless said otherwise.
#[must_use]
pub fn state_root() -> PathBuf {
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if !rustix::process::geteuid().is_root() => Path::new(&dir).join("palisade"),
        _ => "/run/palisade".into(),
    }
}

/// Status of a container (OCI runtime specification, "State").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Created,
    Running,
    Stopped,
}

/// What `state.json` holds.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Record {
    id: String,
    pid: i32,
    /// Start of that process in clock ticks since boot, so that a number used again isn't taken for it.
    started: u64,
    bundle: PathBuf,
    #[serde(default)]
    annotations: std::collections::HashMap<String, String>,
    created: String,
}

/// A container.
pub struct Container {
    dir: PathBuf,
    record: Record,
}

/// Start time of a process that lives: not there, or a zombie, is `None`.
fn start_time(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // proc_pid_stat(5): the name in parentheses may hold anything; state is the next field, start time the 20th from there.
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    if fields.first().is_some_and(|state| ["Z", "X"].contains(state)) {
        return None;
    }
    fields.get(19)?.parse().ok()
}

/// Whether a name can be one of a directory (as runc has it).
fn check_id(id: &str) -> Result<()> {
    let fine = !id.is_empty() && id.len() <= 255 && id.chars().all(|c| c.is_ascii_alphanumeric() || "_+-.".contains(c));
    if fine && id != "." && id != ".." { Ok(()) } else { bail!("container id {id:?}: use letters, digits and _ + - .") }
}

impl Container {
    /// Makes the directory of a new container; returns it.
    ///
    /// # Errors
    /// When there is one of that name.
    pub fn reserve(root: &Path, id: &str) -> Result<PathBuf> {
        use std::os::unix::fs::DirBuilderExt;
        check_id(id)?;
        fs::create_dir_all(root).with_context(|| root.display().to_string())?;
        let dir = root.join(id);
        match fs::DirBuilder::new().mode(0o700).create(&dir) {
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                bail!("container {id} exists (remove it: palisade delete {id})")
            }
            result => result.with_context(|| dir.display().to_string())?,
        }
        Ok(dir)
    }

    /// Records a container whose process is `pid`.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn record(
        dir: &Path,
        id: &str,
        pid: i32,
        bundle: &Path,
        annotations: std::collections::HashMap<String, String>,
    ) -> Result<Self> {
        let started = start_time(pid).context("the container's process has ended")?;
        let created = humantime::format_rfc3339_seconds(std::time::SystemTime::now()).to_string();
        let record = Record { id: id.into(), pid, started, bundle: bundle.into(), annotations, created };
        fs::write(dir.join("state.json"), serde_json::to_vec_pretty(&record)?)?;
        Ok(Self { dir: dir.into(), record })
    }

    /// Finds a container.
    ///
    /// # Errors
    /// When there is none of that name.
    pub fn load(root: &Path, id: &str) -> Result<Self> {
        check_id(id)?;
        let dir = root.join(id);
        let text = fs::read(dir.join("state.json")).map_err(|error| match error.kind() {
            std::io::ErrorKind::NotFound => anyhow::anyhow!("container {id} does not exist (see palisade list)"),
            _ => error.into(),
        })?;
        let record = serde_json::from_slice(&text).with_context(|| dir.join("state.json").display().to_string())?;
        Ok(Self { dir, record })
    }

    /// All containers below `root`.
    ///
    /// # Errors
    /// When the directory can't be read.
    pub fn all(root: &Path) -> Result<Vec<Self>> {
        let entries = match fs::read_dir(root) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries?,
        };
        let mut ids: Vec<String> = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect();
        ids.sort();
        Ok(ids.iter().filter_map(|id| Self::load(root, id).ok()).collect())
    }

    #[must_use]
    pub fn id(&self) -> &str {
        &self.record.id
    }

    #[must_use]
    pub fn pid(&self) -> i32 {
        self.record.pid
    }

    #[must_use]
    pub fn bundle(&self) -> &Path {
        &self.record.bundle
    }

    #[must_use]
    pub fn created(&self) -> &str {
        &self.record.created
    }

    /// The directory that holds its state.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    #[must_use]
    pub fn status(&self) -> Status {
        if start_time(self.record.pid) != Some(self.record.started) {
            Status::Stopped
        } else if self.dir.join("started").exists() {
            Status::Running
        } else {
            Status::Created
        }
    }

    /// Remembers that it has been started.
    ///
    /// # Errors
    /// When it can't be written.
    pub fn mark_started(&self) -> Result<()> {
        Ok(fs::write(self.dir.join("started"), "")?)
    }

    /// The state as the specification and runc have it.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let status = self.status();
        serde_json::json!({
            "ociVersion": "1.0.2",
            "id": self.record.id,
            "pid": if status == Status::Stopped { 0 } else { self.record.pid },
            "status": status,
            "bundle": self.record.bundle,
            "annotations": self.record.annotations,
            "created": self.record.created,
        })
    }

    /// Forgets it.
    ///
    /// # Errors
    /// When its directory can't be removed.
    pub fn forget(&self) -> Result<()> {
        fs::remove_dir_all(&self.dir).with_context(|| self.dir.display().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_names_of_directories() {
        assert!(check_id("web-1_a+b.c").is_ok());
        for bad in ["", ".", "..", "a/b", "a b", "ä"] {
            assert!(check_id(bad).is_err(), "{bad:?}");
        }
    }
}
