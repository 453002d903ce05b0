//! Ordered map of disjoint ranges.
#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

/// What a range maps to. Values know how to be cut and joined.
pub trait Piece: Clone {
    /// The value for the part of the range that starts `by` later.
    fn advance(&mut self, by: u64);
    /// Whether `next` is what [`Piece::advance`] by `len` would give, so that two neighbours are one.
    fn continues(&self, len: u64, next: &Self) -> bool;
}

/// Disjoint, non-empty ranges of `u64` and their values.
#[derive(Clone, Debug)]
pub struct RangeMap<V>(BTreeMap<u64, (u64, V)>);

impl<V> Default for RangeMap<V> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<V: Piece> RangeMap<V> {
    /// Number of ranges.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The range that contains `at`.
    #[must_use]
    pub fn get(&self, at: u64) -> Option<(Range<u64>, &V)> {
        let (start, (end, value)) = self.0.range(..=at).next_back()?;
        (at < *end).then_some((*start..*end, value))
    }

    /// The first range that ends after `at`.
    #[must_use]
    pub fn next(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.get(at).or_else(|| self.0.range(at..).next().map(|(start, (end, value))| (*start..*end, value)))
    }

    /// All ranges in order.
    pub fn iter(&self) -> impl Iterator<Item = (Range<u64>, &V)> {
        self.0.iter().map(|(start, (end, value))| (*start..*end, value))
    }

    /// The last range that starts below `at`.
    #[must_use]
    pub fn before(&self, at: u64) -> Option<(Range<u64>, &V)> {
        self.0.range(..at).next_back().map(|(start, (end, value))| (*start..*end, value))
    }

    /// Ranges that meet `range`, whole, in order.
    pub fn meeting(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, &V)> {
        let first = self.get(range.start).map_or(range.start, |(found, _)| found.start);
        let end = if range.is_empty() { first } else { range.end };
        self.0.range(first..end.max(first)).map(|(start, (end, value))| (*start..*end, value))
    }

    /// The parts of ranges that lie in `range`, with their values.
    #[must_use]
    pub fn within(&self, range: Range<u64>) -> Vec<(Range<u64>, V)> {
        let cut = |(found, value): (Range<u64>, &V)| {
            let start = found.start.max(range.start);
            let mut value = value.clone();
            value.advance(start - found.start);
            (start..found.end.min(range.end), value)
        };
        self.meeting(range.clone()).map(cut).collect()
    }

    /// Takes everything out of `range`; ranges at its ends are cut.
    pub fn remove(&mut self, range: Range<u64>) -> Vec<(Range<u64>, V)> {
        let mut parts = Vec::new();
        let mut at = range.start;
        while at < range.end
            && let Some((whole, _)) = self.next(at)
            && whole.start < range.end
        {
            let Some((_, mut value)) = self.0.remove(&whole.start) else { break };
            let part = whole.start.max(range.start)..whole.end.min(range.end);
            if whole.end > part.end {
                let mut tail = value.clone();
                tail.advance(part.end - whole.start);
                self.0.insert(part.end, (whole.end, tail));
            }
            if whole.start < part.start {
                self.0.insert(whole.start, (part.start, value.clone()));
                value.advance(part.start - whole.start);
            }
            at = part.end;
            parts.push((part, value));
        }
        parts
    }

    /// Puts `value` on `range`, replacing what is there, and joins it with its neighbours.
    pub fn insert(&mut self, range: Range<u64>, value: V) {
        if range.is_empty() {
            return;
        }
        self.remove(range.clone());
        let (mut start, mut end, mut value) = (range.start, range.end, value);
        if let Some((before, (before_end, before_value))) = self.0.range(..start).next_back()
            && *before_end == start
            && before_value.continues(start - before, &value)
        {
            start = *before;
            value = before_value.clone();
        }
        if let Some((next_end, next)) = self.0.get(&end)
            && value.continues(end - start, next)
        {
            let next_end = *next_end;
            self.0.remove(&end);
            end = next_end;
        }
        self.0.insert(start, (end, value));
    }

    /// Whether nothing is in `range`.
    #[must_use]
    pub fn is_free(&self, range: &Range<u64>) -> bool {
        self.next(range.start).is_none_or(|(found, _)| found.start >= range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone, Debug, PartialEq)]
    struct At(u64);

    impl Piece for At {
        fn advance(&mut self, by: u64) {
            self.0 += by;
        }
        fn continues(&self, len: u64, next: &Self) -> bool {
            self.0 + len == next.0
        }
    }

    #[test]
    fn cuts_and_joins() {
        let mut map = RangeMap::default();
        map.insert(10..20, At(100));
        map.insert(20..30, At(110));
        assert_eq!(map.len(), 1);
        assert_eq!(map.remove(12..15), vec![(12..15, At(102))]);
        assert_eq!(map.within(0..100), vec![(10..12, At(100)), (15..30, At(105))]);
        map.insert(12..15, At(102));
        assert_eq!(map.len(), 1);
        assert_eq!(map.before(15).map(|(range, _)| range), Some(10..30));
        assert_eq!(map.before(10).map(|(range, _)| range), None);
        assert_eq!(map.meeting(29..40).count(), 1);
        assert_eq!(map.meeting(30..40).count(), 0);
    }

    /// Against a plain array of values, with every cut and overlap that small ranges have.
    #[test]
    fn agrees_with_a_model() {
        let mut seed = 1u64;
        let mut random = |n: u64| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) % n
        };
        let mut map = RangeMap::default();
        let mut model = vec![None; 64];
        for _ in 0..5000 {
            let (a, b) = (random(64), random(64));
            let (start, end) = (a.min(b), a.max(b));
            if random(2) == 0 {
                map.remove(start..end);
                model[start as usize..end as usize].fill(None);
            } else {
                let base = random(4) * 1000;
                map.insert(start..end, At(base + start));
                (start..end).for_each(|i| model[i as usize] = Some(base + i));
            }
            for (i, value) in model.iter().enumerate() {
                let found = map.get(i as u64).map(|(range, at)| at.0 + i as u64 - range.start);
                assert_eq!(found, *value);
            }
        }
    }
}
