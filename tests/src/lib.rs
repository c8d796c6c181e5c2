//! Herald tests.
