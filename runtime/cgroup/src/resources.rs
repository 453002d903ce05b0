//! `linux.resources` of the OCI runtime specification.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// A list that may be absent or null.
type List<T> = Option<Vec<T>>;

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    pub memory: Option<Memory>,
    pub cpu: Option<Cpu>,
    pub pids: Option<Pids>,
    #[serde(rename = "blockIO")]
    pub block_io: Option<BlockIo>,
    pub hugepage_limits: List<HugepageLimit>,
    pub network: Option<Network>,
    pub unified: Option<BTreeMap<String, String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Memory {
    pub limit: Option<i64>,
    pub reservation: Option<i64>,
    pub swap: Option<i64>,
    pub swappiness: Option<u64>,
    #[serde(rename = "disableOOMKiller")]
    pub disable_oom_killer: Option<bool>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Cpu {
    pub shares: Option<u64>,
    pub quota: Option<i64>,
    pub burst: Option<u64>,
    pub period: Option<u64>,
    pub realtime_runtime: Option<i64>,
    pub realtime_period: Option<u64>,
    pub cpus: Option<String>,
    pub mems: Option<String>,
    pub idle: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Pids {
    pub limit: i64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockIo {
    pub weight: Option<u16>,
    pub throttle_read_bps_device: List<Throttle>,
    pub throttle_write_bps_device: List<Throttle>,
    #[serde(rename = "throttleReadIOPSDevice")]
    pub throttle_read_iops_device: List<Throttle>,
    #[serde(rename = "throttleWriteIOPSDevice")]
    pub throttle_write_iops_device: List<Throttle>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Throttle {
    pub major: i64,
    pub minor: i64,
    pub rate: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct HugepageLimit {
    pub page_size: String,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Network {
    #[serde(rename = "classID")]
    pub class_id: Option<u32>,
    pub priorities: List<Priority>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
pub struct Priority {
    pub name: String,
    pub priority: u32,
}

impl Resources {
    /// Takes what `other` says over what this says.
    pub fn update(&mut self, other: &Self) {
        fn over<T: Clone>(own: &mut Option<T>, other: &Option<T>) {
            if other.is_some() {
                own.clone_from(other);
            }
        }
        if let Some(memory) = &other.memory {
            let own = self.memory.get_or_insert_default();
            over(&mut own.limit, &memory.limit);
            over(&mut own.reservation, &memory.reservation);
            over(&mut own.swap, &memory.swap);
            over(&mut own.swappiness, &memory.swappiness);
            over(&mut own.disable_oom_killer, &memory.disable_oom_killer);
        }
        if let Some(cpu) = &other.cpu {
            let own = self.cpu.get_or_insert_default();
            over(&mut own.shares, &cpu.shares);
            over(&mut own.quota, &cpu.quota);
            over(&mut own.burst, &cpu.burst);
            over(&mut own.period, &cpu.period);
            over(&mut own.realtime_runtime, &cpu.realtime_runtime);
            over(&mut own.realtime_period, &cpu.realtime_period);
            over(&mut own.cpus, &cpu.cpus);
            over(&mut own.mems, &cpu.mems);
            over(&mut own.idle, &cpu.idle);
        }
        over(&mut self.pids, &other.pids);
        over(&mut self.block_io, &other.block_io);
        over(&mut self.hugepage_limits, &other.hugepage_limits);
        over(&mut self.network, &other.network);
        over(&mut self.unified, &other.unified);
    }

    /// Bytes of memory at most; `None` without a limit.
    #[must_use]
    pub fn memory_limit(&self) -> Option<u64> {
        self.memory.as_ref()?.limit.and_then(|limit| u64::try_from(limit).ok()).filter(|limit| *limit > 0)
    }

    /// Tasks at most; `None` without a limit.
    #[must_use]
    pub fn task_limit(&self) -> Option<u64> {
        u64::try_from(self.pids.as_ref()?.limit).ok().filter(|limit| *limit > 0)
    }

    /// Processors that the quota comes to, rounded up; `None` without one.
    #[must_use]
    pub fn processors(&self) -> Option<u32> {
        let cpu = self.cpu.as_ref()?;
        let quota = cpu.quota.and_then(|quota| u64::try_from(quota).ok()).filter(|quota| *quota > 0)?;
        let period = cpu.period.filter(|period| *period > 0).unwrap_or(100_000);
        u32::try_from(quota.div_ceil(period)).ok()
    }

    /// Whether a limit is asked for.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn updates_leave_the_rest() {
        let mut own: Resources = serde_json::from_str(r#"{"memory":{"limit":10,"swap":20},"pids":{"limit":-1}}"#).unwrap();
        own.update(&serde_json::from_str(r#"{"memory":{"limit":30},"cpu":{"quota":150000},"devices":[{}]}"#).unwrap());
        let memory = own.memory.clone().unwrap();
        assert_eq!((memory.limit, memory.swap), (Some(30), Some(20)));
        assert_eq!((own.memory_limit(), own.task_limit(), own.processors()), (Some(30), None, Some(2)));
    }
}
