//! Herald tests.

pub mod kernel;
