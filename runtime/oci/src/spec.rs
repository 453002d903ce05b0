//! `config.json` as the OCI runtime specification has it, as far as it means something here. What isn't named is passed over, as the
//! specification demands of unknown properties.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, anyhow};
use cgroup::Resources;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A list that may be absent or null.
pub type List<T> = Option<Vec<T>>;

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Spec {
    pub oci_version: String,
    pub process: Option<Process>,
    pub root: Option<Root>,
    pub hostname: Option<String>,
    pub domainname: Option<String>,
    pub mounts: List<Mount>,
    pub hooks: Option<Hooks>,
    pub annotations: Option<BTreeMap<String, String>>,
    pub linux: Option<Linux>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Root {
    pub path: PathBuf,
    #[serde(default)]
    pub readonly: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Process {
    #[serde(default)]
    pub terminal: bool,
    pub console_size: Option<ConsoleSize>,
    #[serde(default)]
    pub user: User,
    pub args: List<String>,
    pub env: List<String>,
    #[serde(default)]
    pub cwd: PathBuf,
    pub capabilities: Option<Capabilities>,
    pub rlimits: List<Rlimit>,
    #[serde(default)]
    pub no_new_privileges: bool,
    pub oom_score_adj: Option<i32>,
    /// What can't be honoured is only looked for.
    pub scheduler: Option<serde_json::Value>,
    pub io_priority: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct ConsoleSize {
    pub height: u16,
    pub width: u16,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct User {
    #[serde(default)]
    pub uid: u32,
    #[serde(default)]
    pub gid: u32,
    pub umask: Option<u32>,
    pub additional_gids: List<u32>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub struct Capabilities {
    pub bounding: List<String>,
    pub effective: List<String>,
    pub inheritable: List<String>,
    pub permitted: List<String>,
    pub ambient: List<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Rlimit {
    #[serde(rename = "type")]
    pub kind: String,
    pub soft: u64,
    pub hard: u64,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Mount {
    pub destination: String,
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub source: Option<PathBuf>,
    pub options: List<String>,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Hooks {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub prestart: List<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_runtime: List<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create_container: List<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_container: List<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poststart: List<Hook>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poststop: List<Hook>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Hook {
    pub path: PathBuf,
    pub args: List<String>,
    pub env: List<String>,
    /// Seconds.
    pub timeout: Option<i64>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Linux {
    pub uid_mappings: List<IdMapping>,
    pub gid_mappings: List<IdMapping>,
    pub namespaces: List<Namespace>,
    pub devices: List<Device>,
    pub cgroups_path: Option<String>,
    pub resources: Option<Resources>,
    pub sysctl: Option<BTreeMap<String, String>>,
    pub seccomp: Option<Seccomp>,
    pub rootfs_propagation: Option<String>,
    pub masked_paths: List<String>,
    pub readonly_paths: List<String>,
    pub time_offsets: Option<BTreeMap<String, TimeOffset>>,
    pub personality: Option<Personality>,
    /// What can't be honoured is only looked for.
    pub intel_rdt: Option<serde_json::Value>,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
pub struct TimeOffset {
    #[serde(default)]
    pub secs: i64,
    #[serde(default)]
    pub nanosecs: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Personality {
    pub domain: String,
    pub flags: List<String>,
}

#[derive(Clone, Copy, Debug, Deserialize)]
pub struct IdMapping {
    #[serde(rename = "containerID")]
    pub container_id: u32,
    #[serde(rename = "hostID")]
    pub host_id: u32,
    pub size: u32,
}

#[derive(Clone, Debug, Deserialize)]
pub struct Namespace {
    #[serde(rename = "type")]
    pub kind: String,
    pub path: Option<PathBuf>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    pub path: String,
    #[serde(rename = "type")]
    pub kind: String,
    #[serde(default)]
    pub major: i64,
    #[serde(default)]
    pub minor: i64,
    pub file_mode: Option<u32>,
    pub uid: Option<u32>,
    pub gid: Option<u32>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Seccomp {
    pub default_action: String,
    pub default_errno_ret: Option<u32>,
    pub listener_path: Option<PathBuf>,
    pub syscalls: List<SeccompRule>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompRule {
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u32>,
    pub args: List<SeccompArg>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeccompArg {
    pub index: u32,
    pub value: u64,
    #[serde(default)]
    pub value_two: u64,
    pub op: String,
}

/// Reads a JSON file.
///
/// # Errors
/// With the path of what doesn't fit, and why.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let text = std::fs::read(path).with_context(|| path.display().to_string())?;
    parse(&text).with_context(|| path.display().to_string())
}

/// Parses JSON.
///
/// # Errors
/// With the path of what doesn't fit, and why.
pub fn parse<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(text);
    serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let place = error.path().to_string();
        // Where it isn't JSON at all, there is no path to speak of.
        if place == "." { anyhow!("{}", error.inner()) } else { anyhow!("{place}: {}", error.inner()) }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_path() {
        let why = |text: &str| parse::<Spec>(text.as_bytes()).unwrap_err().to_string();
        let wrong = why(r#"{"ociVersion":"1.0","process":{"user":{"uid":-1}}}"#);
        assert!(wrong.starts_with("process.user.uid: invalid value"), "{wrong}");
        let wrong = why(r#"{"ociVersion":"1.0","mounts":[{"destination":"/a"},{"destination":7}]}"#);
        assert!(wrong.starts_with("mounts[1].destination: invalid type"), "{wrong}");
        assert!(why("{").contains("EOF"));
    }

    #[test]
    fn null_is_absent() {
        let spec: Spec = parse(br#"{"ociVersion":"1.0","mounts":null,"process":{"args":null,"cwd":"/"},"extra":1}"#).unwrap();
        assert!(spec.mounts.is_none() && spec.process.unwrap().args.is_none());
    }
}
