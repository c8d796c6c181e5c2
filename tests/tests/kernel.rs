//! The real object under `BPF_PROG_TEST_RUN`, against the acceptance table and the model.
//!
//! Needs root. `HERALD_FULL=1` runs the large counts; `HERALD_SEED=<n>` repeats a
//! random run.

#[path = "kernel/affinity.rs"]
mod affinity;
#[path = "kernel/budget.rs"]
mod budget;
#[path = "kernel/collisions.rs"]
mod collisions;
#[path = "kernel/floods.rs"]
mod floods;
#[path = "kernel/hops.rs"]
mod hops;
#[path = "kernel/random.rs"]
mod random;
#[path = "kernel/table.rs"]
mod table;
