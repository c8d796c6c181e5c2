//! Who gets which address.
pub mod pools;
