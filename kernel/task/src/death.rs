//! Guests that the host has killed: their processes end, even if they sleep and don't run into it themselves.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use abi::c;

use crate::kernel::Kernel;

/// Ends come in crowds, and most are expected: nobody looks more often than this.
const PAUSE: Duration = Duration::from_millis(100);

impl Kernel {
    /// Starts the thread that looks for them.
    ///
    /// # Errors
    /// When the host gives no thread.
    pub fn watch_deaths(self: &Arc<Self>) -> std::io::Result<()> {
        let kernel = self.clone();
        let watch = move || {
            loop {
                kernel.platform.wait_for_death();
                std::thread::sleep(PAUSE);
                kernel.end_dead();
            }
        };
        std::thread::Builder::new().name("deaths".into()).stack_size(64 << 10).spawn(watch).map(drop)
    }

    fn end_dead(&self) {
        let tasks: Vec<_> = self.tasks.lock().values().cloned().collect();
        let mut groups = BTreeMap::new();
        for task in tasks {
            let Some(mm) = task.lock().mm.clone() else { continue };
            if !mm.aspace().is_alive() {
                groups.insert(task.group.pid, task.group.clone());
            }
        }
        groups.values().for_each(|group| group.end(c::SIGKILL));
        if !self.platform.is_alive() {
            // Nothing new can run here any more.
            self.init_ended(c::SIGKILL);
        }
    }
}
