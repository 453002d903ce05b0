//! User and group numbers, and their maps between user namespaces.

use abi::{Errno, SysResult};

/// Shown for numbers that a namespace doesn't map (`/proc/sys/kernel/overflowuid`).
pub const OVERFLOW_ID: u32 = 65534;

/// Lines of a map at most (`UID_GID_MAP_MAX_EXTENTS`).
const MAX_EXTENTS: usize = 340;

/// A user, as the sandbox's first user namespace numbers it. Never -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kuid(pub u32);

/// A group, as the sandbox's first user namespace numbers it. Never -1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kgid(pub u32);

impl Kuid {
    pub const ROOT: Self = Self(0);
}

impl Kgid {
    pub const ROOT: Self = Self(0);
}

/// `count` numbers from `inside` on, which are those from `outside` on in the first namespace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub inside: u32,
    pub outside: u32,
    pub count: u32,
}

/// The map of a user namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdMap(Vec<Extent>);

/// Where `id` is in the range of `count` from `from` on, counted from `to`.
fn shift(id: u32, from: u32, to: u32, count: u32) -> Option<u32> {
    let offset = id.checked_sub(from).filter(|offset| *offset < count)?;
    to.checked_add(offset)
}

fn overlap(a: u32, b: u32, count_a: u32, count_b: u32) -> bool {
    u64::from(a) < u64::from(b) + u64::from(count_b) && u64::from(b) < u64::from(a) + u64::from(count_a)
}

impl IdMap {
    /// Everything is what it is.
    #[must_use]
    pub fn identity() -> Self {
        Self(vec![Extent { inside: 0, outside: 0, count: u32::MAX }])
    }

    /// A map of these extents.
    ///
    /// # Errors
    /// `EINVAL` when there are none or too many, one is empty or reaches -1, or two overlap on either side.
    pub fn new(extents: Vec<Extent>) -> SysResult<Self> {
        if extents.is_empty() || extents.len() > MAX_EXTENTS {
            return Err(Errno::EINVAL);
        }
        for (i, one) in extents.iter().enumerate() {
            let fits = |first: u32| one.count != 0 && u64::from(first) + u64::from(one.count) <= u64::from(u32::MAX);
            if !fits(one.inside) || !fits(one.outside) {
                return Err(Errno::EINVAL);
            }
            for other in extents.iter().take(i) {
                if overlap(one.inside, other.inside, one.count, other.count)
                    || overlap(one.outside, other.outside, one.count, other.count)
                {
                    return Err(Errno::EINVAL);
                }
            }
        }
        Ok(Self(extents))
    }

    #[must_use]
    pub fn extents(&self) -> &[Extent] {
        &self.0
    }

    /// From a number of the namespace to one of the first.
    #[must_use]
    pub fn outwards(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| shift(id, extent.inside, extent.outside, extent.count))
    }

    /// From a number of the first namespace to one of this.
    #[must_use]
    pub fn inwards(&self, id: u32) -> Option<u32> {
        self.0.iter().find_map(|extent| shift(id, extent.outside, extent.inside, extent.count))
    }

    /// As [`Self::outwards`] for a whole range, which must lie in one extent.
    #[must_use]
    pub fn range_outwards(&self, first: u32, count: u32) -> Option<u32> {
        let last = first.checked_add(count.checked_sub(1)?)?;
        let found = self.0.iter().find(|extent| shift(first, extent.inside, extent.outside, extent.count).is_some())?;
        shift(last, found.inside, found.outside, found.count)?;
        shift(first, found.inside, found.outside, found.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn extent(inside: u32, outside: u32, count: u32) -> Extent {
        Extent { inside, outside, count }
    }

    #[test]
    fn identity_maps_all_but_minus_one() {
        let map = IdMap::identity();
        assert_eq!((map.outwards(0), map.inwards(u32::MAX - 1)), (Some(0), Some(u32::MAX - 1)));
        assert_eq!((map.outwards(u32::MAX), map.inwards(u32::MAX)), (None, None));
    }

    #[test]
    fn extents_shift_and_do_not_overlap() {
        let map = IdMap::new(vec![extent(0, 1000, 1), extent(1, 100_000, 10)]).unwrap();
        assert_eq!((map.outwards(0), map.outwards(5), map.outwards(11)), (Some(1000), Some(100_004), None));
        assert_eq!((map.inwards(1000), map.inwards(100_009), map.inwards(0)), (Some(0), Some(10), None));
        assert_eq!((map.range_outwards(1, 10), map.range_outwards(0, 2), map.range_outwards(1, 0)), (Some(100_000), None, None));
        for bad in [vec![], vec![extent(0, 0, 0)], vec![extent(0, u32::MAX, 1)], vec![extent(0, 0, 5), extent(4, 100, 1)]] {
            assert_eq!(IdMap::new(bad), Err(Errno::EINVAL));
        }
        assert_eq!(IdMap::new(vec![extent(0, 10, 5), extent(100, 14, 1)]), Err(Errno::EINVAL));
        assert_eq!(IdMap::new(vec![extent(0, 0, 1); 341]), Err(Errno::EINVAL));
    }
}
