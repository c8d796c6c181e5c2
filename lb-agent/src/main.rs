//! Herald agent.
fn main() {}
