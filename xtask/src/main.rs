//! Herald commands.
fn main() {}
