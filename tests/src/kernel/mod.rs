//! The data path under `BPF_PROG_TEST_RUN`.
//!
//! * [`frames`]: frames as clients, neighbours and pods send them
//! * [`world`]: what the maps say, as plain data, and the addresses the suites use
//! * [`model`]: what the data path has to make of a frame, written down a second time
//! * [`acceptance`]: the checked-in table `tests/acceptance.md`, row by row
//! * [`cases`]: from a row's words to its frame
//! * [`cluster`]: several nodes whose tables disagree
//! * [`fields`]: which header fields differ between two frames
//! * [`object`]: the real object, loaded without pins, its maps filled from a [`world::World`]
//! * [`pcap`]: a failing case as a capture file
//! * [`random`]: seeded random numbers
//! * [`services`]: the Services of the suites, by port
//! * [`tables`]: from a world to the maps, and back
//! * [`rig`]: a case run through the object and the model, and compared

pub mod acceptance;
pub mod cases;
pub mod cluster;
pub mod fields;
pub mod frames;
pub mod model;
pub mod object;
pub mod pcap;
pub mod random;
pub mod rig;
pub mod services;
pub mod tables;
pub mod world;
