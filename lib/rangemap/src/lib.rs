//! Ordered map of disjoint ranges with gap search.
#![forbid(unsafe_code)]
