//! Tar files whose bytes depend on what is put in alone, and what OCI calls blobs.

use std::io::Write as _;

use anyhow::Result;
use flate2::{Compression, GzBuilder};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::{Builder, EntryType, Header};

/// A tar file in the making. All in it belongs to root and has the same time.
pub(super) struct Archive {
    builder: Builder<Vec<u8>>,
    time: u64,
}

impl Archive {
    /// An empty one; `time` in seconds since 1970.
    pub(super) fn new(time: u64) -> Self {
        Self { builder: Builder::new(Vec::new()), time }
    }

    pub(super) fn folder(&mut self, path: &str) -> Result<()> {
        self.add(&format!("{path}/"), EntryType::Directory, &[], 0o755)
    }

    pub(super) fn file(&mut self, path: &str, content: &[u8], mode: u32) -> Result<()> {
        self.add(path, EntryType::Regular, content, mode)
    }

    fn add(&mut self, path: &str, kind: EntryType, content: &[u8], mode: u32) -> Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(content.len() as u64);
        header.set_mode(mode);
        header.set_mtime(self.time);
        header.set_uid(0);
        header.set_gid(0);
        Ok(self.builder.append_data(&mut header, path, content)?)
    }

    pub(super) fn finish(self) -> Result<Vec<u8>> {
        Ok(self.builder.into_inner()?)
    }
}

/// Compressed without a time or a name.
pub(super) fn compressed(content: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    encoder.write_all(content)?;
    Ok(encoder.finish()?)
}

/// `sha256:…`
pub(super) fn digest(content: &[u8]) -> String {
    let digest = Sha256::digest(content);
    digest.iter().fold("sha256:".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

/// Content that is named by its digest.
pub(super) struct Blob {
    kind: &'static str,
    digest: String,
    pub(super) content: Vec<u8>,
}

impl Blob {
    pub(super) fn new(kind: &'static str, content: Vec<u8>) -> Self {
        Self { kind, digest: digest(&content), content }
    }

    pub(super) fn json(kind: &'static str, content: &Value) -> Result<Self> {
        Ok(Self::new(kind, serde_json::to_vec(content)?))
    }

    /// What refers to it.
    pub(super) fn descriptor(&self) -> Value {
        json!({"mediaType": self.kind, "digest": self.digest, "size": self.content.len()})
    }

    /// Where it lies in a layout.
    pub(super) fn path(&self) -> String {
        format!("blobs/{}", self.digest.replace(':', "/"))
    }
}
