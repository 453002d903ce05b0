//! Limits: from resources to files of groups.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::Cgroup;
use crate::resources::{BlockIo, Cpu, Memory, Resources, Throttle};

/// Host threads behind a task inside: its thread of the sentry, its thread of a stub, and the stub's first. And those that are always there.
const THREADS_PER_TASK: u64 = 3;
const OWN_THREADS: u64 = 32;

/// A file of a group to be written: name and value.
type Setting = (String, String);

fn set(name: &str, value: impl ToString) -> Setting {
    (name.to_owned(), value.to_string())
}

/// Shares (2 to 262144) as a weight (1 to 10000), as runc and systemd convert them.
fn weight(shares: u64) -> u64 {
    if shares == 0 { 0 } else { 1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142 }
}

/// -1 is "no limit" in the configuration.
fn unlimited(value: i64) -> String {
    if value < 0 { "max".into() } else { value.to_string() }
}

fn host_tasks(limit: i64) -> String {
    u64::try_from(limit)
        .ok()
        .filter(|limit| *limit > 0)
        .map_or_else(|| "max".into(), |limit| limit.saturating_mul(THREADS_PER_TASK).saturating_add(OWN_THREADS).to_string())
}

fn memory_v1(memory: &Memory) -> Vec<Setting> {
    let mut all = Vec::new();
    let limit = memory.limit.filter(|limit| *limit != 0);
    // Both together may not be below one of them at any time: see `write_memory`.
    all.extend(limit.map(|limit| set("memory.limit_in_bytes", limit)));
    all.extend(memory.swap.filter(|swap| *swap != 0).map(|swap| set("memory.memsw.limit_in_bytes", swap)));
    all.extend(memory.reservation.filter(|value| *value != 0).map(|value| set("memory.soft_limit_in_bytes", value)));
    all.extend(memory.swappiness.map(|value| set("memory.swappiness", value)));
    all.extend(memory.disable_oom_killer.filter(|on| *on).map(|_| set("memory.oom_control", 1)));
    all
}

fn memory_v2(memory: &Memory) -> Result<Vec<Setting>> {
    let mut all = Vec::new();
    let limit = memory.limit.filter(|limit| *limit != 0);
    all.extend(limit.map(|limit| set("memory.max", unlimited(limit))));
    if let Some(swap) = memory.swap.filter(|swap| *swap != 0) {
        // The configuration counts memory and swap together.
        let alone = match limit {
            _ if swap < 0 => -1,
            Some(limit) if limit < 0 => -1,
            Some(limit) if swap >= limit => swap - limit,
            _ => bail!("linux.resources.memory.swap: {swap} is memory and swap together, and must be above memory.limit"),
        };
        all.push(set("memory.swap.max", unlimited(alone)));
    }
    all.extend(memory.reservation.filter(|value| *value != 0).map(|value| set("memory.low", unlimited(value))));
    Ok(all)
}

fn cpu_v1(cpu: &Cpu) -> Vec<Setting> {
    let mut all = Vec::new();
    all.extend(cpu.shares.filter(|value| *value != 0).map(|value| set("cpu.shares", value)));
    all.extend(cpu.period.filter(|value| *value != 0).map(|value| set("cpu.cfs_period_us", value)));
    all.extend(cpu.quota.filter(|value| *value != 0).map(|value| set("cpu.cfs_quota_us", value)));
    all.extend(cpu.burst.map(|value| set("cpu.cfs_burst_us", value)));
    all.extend(cpu.realtime_period.filter(|value| *value != 0).map(|value| set("cpu.rt_period_us", value)));
    all.extend(cpu.realtime_runtime.filter(|value| *value != 0).map(|value| set("cpu.rt_runtime_us", value)));
    all.extend(cpu.idle.map(|value| set("cpu.idle", value)));
    all
}

fn cpu_v2(cpu: &Cpu) -> Vec<Setting> {
    let mut all = Vec::new();
    all.extend(cpu.shares.filter(|value| *value != 0).map(|value| set("cpu.weight", weight(value))));
    let quota = cpu.quota.filter(|value| *value != 0);
    let period = cpu.period.filter(|value| *value != 0);
    if quota.is_some() || period.is_some() {
        let quota = quota.filter(|quota| *quota > 0).map_or_else(|| "max".into(), |quota| quota.to_string());
        all.push(set("cpu.max", format!("{quota} {}", period.unwrap_or(100_000))));
    }
    all.extend(cpu.burst.map(|value| set("cpu.max.burst", value)));
    all.extend(cpu.idle.map(|value| set("cpu.idle", value)));
    all
}

fn cpuset(cpu: &Cpu) -> Vec<Setting> {
    let mut all = Vec::new();
    all.extend(cpu.cpus.as_ref().filter(|value| !value.is_empty()).map(|value| set("cpuset.cpus", value)));
    all.extend(cpu.mems.as_ref().filter(|value| !value.is_empty()).map(|value| set("cpuset.mems", value)));
    all
}

fn block_io(io: &BlockIo, unified: bool) -> Vec<Setting> {
    let mut all = Vec::new();
    if let Some(weight) = io.weight.filter(|weight| *weight != 0) {
        // 10 to 1000, and 1 to 10000.
        let value = if unified { 1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990 } else { weight.into() };
        all.push(set(if unified { "io.weight" } else { "blkio.weight" }, value));
    }
    let lists: [(&Option<Vec<Throttle>>, &str, &str); 4] = [
        (&io.throttle_read_bps_device, "blkio.throttle.read_bps_device", "rbps"),
        (&io.throttle_write_bps_device, "blkio.throttle.write_bps_device", "wbps"),
        (&io.throttle_read_iops_device, "blkio.throttle.read_iops_device", "riops"),
        (&io.throttle_write_iops_device, "blkio.throttle.write_iops_device", "wiops"),
    ];
    for (list, v1, v2) in lists {
        for Throttle { major, minor, rate } in list.iter().flatten() {
            all.push(if unified {
                let rate = if *rate == 0 { "max".to_owned() } else { rate.to_string() };
                set("io.max", format!("{major}:{minor} {v2}={rate}"))
            } else {
                set(v1, format!("{major}:{minor} {rate}"))
            });
        }
    }
    all
}

fn write(dir: &Path, (name, value): &Setting) -> Result<()> {
    let file = dir.join(name);
    fs::write(&file, value).with_context(|| format!("cannot write {value:?} to {}", file.display()))
}

/// Memory and swap together may never be less than memory alone: where one order fails, the other works.
fn write_memory(dir: &Path, settings: &[Setting]) -> Result<()> {
    let mut late = Vec::new();
    for setting in settings {
        if setting.0 == "memory.memsw.limit_in_bytes" && !dir.join(&setting.0).exists() {
            // The host doesn't account for swap.
            continue;
        }
        if write(dir, setting).is_err() {
            late.push(setting);
        }
    }
    late.into_iter().rev().try_for_each(|setting| write(dir, setting))
}

impl Cgroup {
    /// Limits what the groups may use; what isn't told stays.
    ///
    /// # Errors
    /// With the file that can't be written.
    pub fn limit(&self, resources: &Resources) -> Result<()> {
        let unified = self.unified;
        let apply = |controller: &str, settings: Vec<Setting>| -> Result<()> {
            if settings.is_empty() {
                return Ok(());
            }
            let Some(dir) = self.dir(controller) else {
                bail!(
                    "linux.resources: the host has no controller {controller:?} for {}",
                    settings.iter().map(|s| s.0.as_str()).collect::<Vec<_>>().join(", ")
                );
            };
            if controller == "memory" {
                write_memory(dir, &settings)
            } else {
                settings.iter().try_for_each(|setting| write(dir, setting))
            }
        };
        if let Some(memory) = &resources.memory {
            apply("memory", if unified { memory_v2(memory)? } else { memory_v1(memory) })?;
        }
        if let Some(cpu) = &resources.cpu {
            apply("cpuset", cpuset(cpu))?;
            apply("cpu", if unified { cpu_v2(cpu) } else { cpu_v1(cpu) })?;
        }
        if let Some(pids) = resources.pids.as_ref().filter(|pids| pids.limit != 0) {
            apply("pids", vec![set("pids.max", host_tasks(pids.limit))])?;
        }
        if let Some(io) = &resources.block_io {
            apply("blkio", block_io(io, unified))?;
        }
        for huge in resources.hugepage_limits.iter().flatten() {
            let file = format!("hugetlb.{}.{}", huge.page_size, if unified { "max" } else { "limit_in_bytes" });
            apply("hugetlb", vec![set(&file, huge.limit)])?;
        }
        if let Some(network) = resources.network.as_ref().filter(|_| !unified) {
            apply("net_cls", network.class_id.iter().map(|id| set("net_cls.classid", id)).collect())?;
            let priorities = network.priorities.iter().flatten();
            apply(
                "net_prio",
                priorities.map(|one| set("net_prio.ifpriomap", format!("{} {}", one.name, one.priority))).collect(),
            )?;
        }
        let raw: Vec<Setting> = resources.unified.iter().flatten().map(|(name, value)| set(name, value)).collect();
        if let Some((name, _)) = raw.iter().find(|(name, _)| name.contains('/')) {
            bail!("linux.resources.unified: {name:?} is no file of a group");
        }
        if !raw.is_empty() && !unified {
            bail!("linux.resources.unified: the host's groups are of version 1");
        }
        apply("", raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(settings: &[Setting]) -> String {
        settings.iter().map(|(name, value)| format!("{name}={value};")).collect()
    }

    #[test]
    fn both_versions_get_their_own_words() {
        let resources: Resources = serde_json::from_str(
            r#"{"memory":{"limit":1000,"swap":1500,"reservation":500},"cpu":{"shares":1024,"quota":50000,"period":100000,"cpus":"0"}}"#,
        )
        .unwrap();
        let (memory, cpu) = (resources.memory.unwrap(), resources.cpu.unwrap());
        assert_eq!(
            text(&memory_v1(&memory)),
            "memory.limit_in_bytes=1000;memory.memsw.limit_in_bytes=1500;memory.soft_limit_in_bytes=500;"
        );
        assert_eq!(text(&memory_v2(&memory).unwrap()), "memory.max=1000;memory.swap.max=500;memory.low=500;");
        assert_eq!(text(&cpu_v1(&cpu)), "cpu.shares=1024;cpu.cfs_period_us=100000;cpu.cfs_quota_us=50000;");
        assert_eq!(text(&cpu_v2(&cpu)), "cpu.weight=39;cpu.max=50000 100000;");
        assert_eq!(text(&cpuset(&cpu)), "cpuset.cpus=0;");
    }

    #[test]
    fn no_limit_is_max() {
        let memory = Memory { limit: Some(-1), swap: Some(-1), ..Memory::default() };
        assert_eq!(text(&memory_v2(&memory).unwrap()), "memory.max=max;memory.swap.max=max;");
        assert!(memory_v2(&Memory { swap: Some(5), ..Memory::default() }).is_err());
        let quota = Cpu { quota: Some(-1), ..Cpu::default() };
        assert_eq!(text(&cpu_v2(&quota)), "cpu.max=max 100000;");
        assert_eq!((host_tasks(-1), host_tasks(10)), ("max".into(), "62".into()));
    }
}
