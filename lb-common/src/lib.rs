//! What Herald's kernel program and its agent share.
//!
//! * [`maps`]: keys and values of the BPF maps, as `bpftool map dump` prints them
//! * [`outcome`]: what can become of a frame, and the counter of each outcome
//! * [`hash`]: the flow hash and the scores from which all nodes derive the same rows
//! * [`filter`]: the two bitmaps that let traffic that is not ours through quickly
//! * [`checksum`]: incremental Internet checksum arithmetic
//! * [`closed`]: telling a closed connection's packets from those of another from the same port
//! * [`tunnel`]: how packets travel between nodes that share no link
//! * [`wire`]: the protocol headers that the data path reads and writes
//!
//! Nothing here allocates, panics or does I/O, and everything is tested on the host.
#![cfg_attr(not(test), no_std)]

pub mod checksum;
pub mod closed;
pub mod filter;
pub mod hash;
pub mod maps;
pub mod outcome;
pub mod tunnel;
pub mod wire;
