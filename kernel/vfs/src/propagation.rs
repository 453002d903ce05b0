//! Mounts that appear where others do (mount_namespaces(7), "shared subtrees").

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};

use abi::SysResult;
use sync::Mutex;

use crate::mount::Mount;
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
    peers: Vec<Weak<Mount>>,
    slaves: Vec<Weak<Mount>>,
}

/// Mounts that tell each other.
pub struct PeerGroup {
    id: u32,
    members: Mutex<Members>,
}

impl PeerGroup {
    fn new() -> Arc<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        Arc::new(Self { id: NEXT.fetch_add(1, Ordering::Relaxed), members: Mutex::default() })
    }

    fn peers(&self) -> Vec<Arc<Mount>> {
        self.members.lock().peers.iter().filter_map(Weak::upgrade).collect()
    }

    fn slaves(&self) -> Vec<Arc<Mount>> {
        self.members.lock().slaves.iter().filter_map(Weak::upgrade).collect()
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
    /// Leaves its groups. The last one to leave a group gives its slaves to its own master. The mount itself is no longer reachable
    /// through the groups' lists afterwards, if it is being dropped or `self` is not locked by others.
    pub fn leave(&mut self) {
        let (group, master) = (self.group.take(), self.master.take());
        forget(group, master.as_ref(), None);
        if let Some(master) = master {
            master.members.lock().slaves.retain(|slave| slave.strong_count() > 0);
        }
    }
}

fn without(list: &mut Vec<Weak<Mount>>, mount: Option<&Arc<Mount>>) {
    let is = |other: &Weak<Mount>| mount.is_some_and(|mount| std::ptr::eq(other.as_ptr(), Arc::as_ptr(mount)));
    list.retain(|other| other.strong_count() > 0 && !is(other));
}

/// Takes a mount (or those that are gone) out of a peer group. Whether peers are left.
fn forget(group: Option<Arc<PeerGroup>>, master: Option<&Arc<PeerGroup>>, mount: Option<&Arc<Mount>>) -> bool {
    let Some(group) = group else { return false };
    let orphans = {
        let mut members = group.members.lock();
        without(&mut members.peers, mount);
        if !members.peers.is_empty() {
            return true;
        }
        std::mem::take(&mut members.slaves)
    };
    for orphan in orphans.iter().filter_map(Weak::upgrade) {
        orphan.propagation.lock().master = master.cloned();
        if let Some(master) = master {
            master.members.lock().slaves.push(Arc::downgrade(&orphan));
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
                group.members.lock().peers.push(Arc::downgrade(self));
                propagation.group = Some(group);
            }
            return;
        }
        let (group, master) = {
            let mut propagation = self.propagation.lock();
            propagation.unbindable = kind == Kind::Unbindable;
            (propagation.group.take(), propagation.master.clone())
        };
        let others = forget(group.clone(), master.as_ref(), Some(self));
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
            master.members.lock().slaves.push(Arc::downgrade(self));
        }
        let old = std::mem::replace(&mut self.propagation.lock().master, master);
        if let Some(old) = old {
            let mut members = old.members.lock();
            // It may be in the list once more: the new master can be the old one.
            let mut seen = self.propagation.lock().master.as_ref().is_some_and(|now| Arc::ptr_eq(now, &old));
            members.slaves.retain(|slave| {
                let same = std::ptr::eq(slave.as_ptr(), Arc::as_ptr(self));
                slave.strong_count() > 0 && (!same || std::mem::replace(&mut seen, false))
            });
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
                    group.members.lock().peers.push(Arc::downgrade(self));
                }
                self.propagation.lock().group = group;
                if master.is_some() {
                    self.become_slave(master);
                }
            }
        }
    }

    /// Mounts that are told of what happens on `self`, each with the peer group that it belongs to; `self` is not among them.
    pub(crate) fn receivers(self: &Arc<Self>) -> Vec<Arc<Self>> {
        let mut all = Vec::new();
        let mut groups: Vec<Arc<PeerGroup>> = self.propagation.lock().group.iter().cloned().collect();
        let mut at = 0;
        while let Some(group) = groups.get(at).cloned() {
            at += 1;
            all.extend(group.peers().into_iter().filter(|peer| !Arc::ptr_eq(peer, self)));
            for slave in group.slaves() {
                match slave.propagation.lock().group.clone() {
                    Some(own) if groups.iter().any(|known| Arc::ptr_eq(known, &own)) => {}
                    Some(own) => groups.push(own),
                    None => all.push(slave.clone()),
                }
            }
        }
        all
    }
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
    let mut groups = vec![(group, source.clone())];
    let mut next = 0;
    let sees = |mount: &Arc<Mount>| at.dentry.is_below(mount.root());
    while let Some((group, template)) = groups.get(next).cloned() {
        next += 1;
        let place = |mount: &Arc<Mount>| Path { mount: mount.clone(), dentry: at.dentry.clone() };
        let told = |made: &[(Path, Arc<Mount>)], mount: &Arc<Mount>| made.iter().any(|(path, _)| Arc::ptr_eq(&path.mount, mount));
        for peer in group.peers() {
            if !Arc::ptr_eq(&peer, &at.mount) && sees(&peer) && !told(&made, &peer) {
                let copy = crate::tree::copy_tree(&template, template.root(), Copy::Peer, false, room)?;
                made.push((place(&peer), copy));
            }
        }
        for slave in group.slaves() {
            let own = slave.propagation.lock().group.clone();
            if own.as_ref().is_some_and(|own| groups.iter().any(|(known, _)| Arc::ptr_eq(known, own))) {
                continue;
            }
            if !sees(&slave) || told(&made, &slave) {
                continue;
            }
            let copy = crate::tree::copy_tree(&template, template.root(), Copy::Slave, false, room)?;
            if let Some(own) = own {
                copy.tree().iter().for_each(|mount| mount.set_propagation(Kind::Shared));
                groups.push((own, copy.clone()));
            }
            made.push((place(&slave), copy));
        }
    }
    Ok(made)
}
