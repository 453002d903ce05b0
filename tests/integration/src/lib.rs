//! Tests of the built product.
#![forbid(unsafe_code)]
