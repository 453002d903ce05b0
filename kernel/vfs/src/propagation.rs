//! Mounts that appear where others do (mount_namespaces(7), "shared subtrees").

use std::collections::{BTreeSet, HashSet};
use std::sync::{Arc, Weak};

use abi::SysResult;
use sync::Mutex;

use crate::mount::{Mount, Numbered};
use crate::path::Path;

/// What a mount tells others, and is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Private,
    Shared,
    Slave,
    Unbindable,
}

#[derive(Default)]
struct Members {
    peers: Numbered,
    slaves: Numbered,
}

/// Mounts that tell each other.
pub struct PeerGroup {
    id: u32,
    members: Mutex<Members>,
}

/// Numbers of groups: the lowest that is free comes next, as on Linux.
struct Numbers {
    next: u32,
    free: BTreeSet<u32>,
}

static NUMBERS: Mutex<Numbers> = Mutex::new(Numbers { next: 1, free: BTreeSet::new() });

impl PeerGroup {
    fn new() -> Arc<Self> {
        let mut numbers = NUMBERS.lock();
        let id = numbers.free.pop_first().unwrap_or_else(|| {
            numbers.next += 1;
            numbers.next - 1
        });
        Arc::new(Self { id, members: Mutex::default() })
    }

    fn peers(&self) -> Vec<Arc<Mount>> {
        self.members.lock().peers.values().filter_map(Weak::upgrade).collect()
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        self.members.lock().slaves.values().filter_map(Weak::upgrade).collect()
    }

    fn add_peer(&self, mount: &Arc<Mount>) {
        self.members.lock().peers.insert(mount.id(), Arc::downgrade(mount));
    }

    fn add_slave(&self, mount: &Arc<Mount>) {
        self.members.lock().slaves.insert(mount.id(), Arc::downgrade(mount));
    }
}

impl Drop for PeerGroup {
    fn drop(&mut self) {
        NUMBERS.lock().free.insert(self.id);
    }
}

/// Groups that a mount is in.
#[derive(Default)]
pub struct Propagation {
    group: Option<Arc<PeerGroup>>,
    /// Tells this mount, but isn't told.
    master: Option<Arc<PeerGroup>>,
    unbindable: bool,
}

impl Propagation {
    /// The mount called `id` leaves its groups. The last one to leave a group gives its slaves to its own master.
    pub fn leave(&mut self, id: u64) {
        let (group, master) = (self.group.take(), self.master.take());
        forget(group, master.as_ref(), id);
        if let Some(master) = master {
            master.members.lock().slaves.remove(&id);
        }
    }

    /// The group that it tells.
    pub(crate) fn group(&self) -> Option<Arc<PeerGroup>> {
        self.group.clone()
    }
}

/// Takes a mount out of a peer group. Whether peers are left.
fn forget(group: Option<Arc<PeerGroup>>, master: Option<&Arc<PeerGroup>>, id: u64) -> bool {
    let Some(group) = group else { return false };
    let orphans = {
        let mut members = group.members.lock();
        members.peers.remove(&id);
        if !members.peers.is_empty() {
            return true;
        }
        std::mem::take(&mut members.slaves)
    };
    for orphan in orphans.values().filter_map(Weak::upgrade) {
        orphan.propagation.lock().master = master.cloned();
        if let Some(master) = master {
            master.add_slave(&orphan);
        }
    }
    false
}

impl Mount {
    /// Its peer group's number, and its master's.
    #[must_use]
    pub fn peer_groups(&self) -> (Option<u32>, Option<u32>) {
        let propagation = self.propagation.lock();
        (propagation.group.as_ref().map(|group| group.id), propagation.master.as_ref().map(|group| group.id))
    }

    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.propagation.lock().group.is_some()
    }

    #[must_use]
    pub fn is_unbindable(&self) -> bool {
        self.propagation.lock().unbindable
    }

    /// Changes what it tells and is told. Under the topology lock.
    pub(crate) fn set_propagation(self: &Arc<Self>, kind: Kind) {
        if kind == Kind::Shared {
            let mut propagation = self.propagation.lock();
            propagation.unbindable = false;
            if propagation.group.is_none() {
                let group = PeerGroup::new();
                group.add_peer(self);
                propagation.group = Some(group);
            }
            return;
        }
        let (group, master) = {
            let mut propagation = self.propagation.lock();
            propagation.unbindable = kind == Kind::Unbindable;
            (propagation.group.take(), propagation.master.clone())
        };
        let others = forget(group.clone(), master.as_ref(), self.id());
        if kind == Kind::Slave {
            // Without anybody left to tell it, it stays what it was besides.
            if let Some(group) = group.filter(|_| others) {
                self.become_slave(Some(group));
            }
        } else {
            self.become_slave(None);
        }
    }

    fn become_slave(self: &Arc<Self>, master: Option<Arc<PeerGroup>>) {
        if let Some(master) = &master {
            master.add_slave(self);
        }
        let mut propagation = self.propagation.lock();
        let old = std::mem::replace(&mut propagation.master, master);
        let stays = propagation.master.as_ref().zip(old.as_ref()).is_some_and(|(now, old)| Arc::ptr_eq(now, old));
        drop(propagation);
        if let Some(old) = old.filter(|_| !stays) {
            old.members.lock().slaves.remove(&self.id());
        }
    }

    /// Puts a new copy of `original` into its groups: as a peer or as a slave.
    pub(crate) fn copy_propagation(self: &Arc<Self>, original: &Arc<Self>, copy: Copy) {
        let (group, master, unbindable) = {
            let from = original.propagation.lock();
            (from.group.clone(), from.master.clone(), from.unbindable)
        };
        self.propagation.lock().unbindable = unbindable;
        match copy {
            Copy::Slave if group.is_some() => self.become_slave(group),
            Copy::Peer | Copy::Slave => {
                if let Some(group) = &group {
                    group.add_peer(self);
                }
                self.propagation.lock().group = group;
                if master.is_some() {
                    self.become_slave(master);
                }
            }
        }
    }

    /// Mounts that are told of what happens on `self`; `self` is not among them.
    pub(crate) fn receivers(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let group = self.propagation.lock().group();
        let mut all = group.map(|group| told(&group)).unwrap_or_default();
        all.retain(|mount| !Arc::ptr_eq(mount, self));
        all
    }
}

impl PeerGroup {
    fn key(self: &Arc<Self>) -> usize {
        Arc::as_ptr(self).addr()
    }
}

/// Mounts that are told of what happens on one of a group, all of the group included.
pub(crate) fn told(group: &Arc<PeerGroup>) -> Vec<Arc<Mount>> {
    let mut all = Vec::new();
    let mut groups = vec![group.clone()];
    let mut known = HashSet::from([group.key()]);
    while let Some(group) = groups.pop() {
        all.extend(group.peers());
        for slave in group.slaves() {
            match slave.propagation.lock().group.clone() {
                Some(own) => {
                    if known.insert(own.key()) {
                        groups.push(own);
                    }
                }
                None => all.push(slave.clone()),
            }
        }
    }
    all
}

/// How a copy of a mount belongs to the original's groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copy {
    /// To the same ones.
    Peer,
    /// As a slave of the original's peers; to its master if it has none.
    Slave,
}

/// Copies of the tree `source`, which is being mounted at `at`, for all those that `at`'s mount tells. Under the topology lock.
///
/// # Errors
/// `ENOSPC` when there are too many.
pub(crate) fn copies(source: &Arc<Mount>, at: &Path, room: &mut usize) -> SysResult<Vec<(Path, Arc<Mount>)>> {
    let mut made = Vec::new();
    let Some(group) = at.mount.propagation.lock().group.clone() else { return Ok(made) };
    // Groups to be told, and the tree that those copies of it that are already made belong to.
    let mut known = HashSet::from([group.key()]);
    let mut groups = vec![(group, source.clone())];
    let mut told = HashSet::from([at.mount.id()]);
    let mut next = 0;
    // What is in no namespace (what is being mounted, for one) isn't told.
    let sees = |mount: &Arc<Mount>| mount.namespace().is_some() && at.dentry.is_below(mount.root());
    while let Some((group, template)) = groups.get(next).cloned() {
        next += 1;
        let place = |mount: &Arc<Mount>| Path { mount: mount.clone(), dentry: at.dentry.clone() };
        for peer in group.peers() {
            if sees(&peer) && told.insert(peer.id()) {
                let copy = crate::tree::copy_tree(&template, template.root(), Copy::Peer, false, room)?;
                made.push((place(&peer), copy));
            }
        }
        for slave in group.slaves() {
            let own = slave.propagation.lock().group.clone();
            if own.as_ref().is_some_and(|own| known.contains(&own.key())) || !sees(&slave) || !told.insert(slave.id()) {
                continue;
            }
            let copy = crate::tree::copy_tree(&template, template.root(), Copy::Slave, false, room)?;
            if let Some(own) = own {
                copy.tree().iter().for_each(|mount| mount.set_propagation(Kind::Shared));
                known.insert(own.key());
                groups.push((own, copy.clone()));
            }
            made.push((place(&slave), copy));
        }
    }
    Ok(made)
}
