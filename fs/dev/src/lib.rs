//! /dev nodes.
#![forbid(unsafe_code)]
