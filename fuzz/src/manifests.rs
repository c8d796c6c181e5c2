//! Files of a folder of manifests, and the addresses that are kept beside them.

use lb_agent::source::{
    index::Scope,
    manifests::{
        addresses::Addresses,
        folder::{Folder, message},
        parse::parse,
    },
};

use crate::samples::{self, NAMESPACE};

/// Reads a file as manifests, makes a snapshot of them, and reads it as kept addresses, too.
pub fn run(data: &[u8]) {
    let scope =
        Scope { namespace: NAMESPACE.to_owned(), addresses_apart: true, ..Scope::default() };
    let parsed = parse(data, &scope);
    let lines = 1 + data.iter().filter(|byte| **byte == b'\n').count();
    for fault in parsed.faults.iter().chain(&parsed.remarks).chain(&parsed.ignored) {
        // The end of a file counts as a line.
        assert!((1..=lines + 1).contains(&fault.line), "{} of {lines}", message("file", fault));
    }
    let mut folder = Folder::default();
    folder.set("file", parsed);
    let (mut index, _doubles) = folder.index();
    let snapshot = index.snapshot();
    assert_eq!(snapshot, index.snapshot());

    if let Ok(addresses) =
        std::str::from_utf8(data).map_or(Err(()), |text| Addresses::parse(text).map_err(drop))
    {
        let text = addresses.text().expect("what was read can be written");
        assert_eq!(Addresses::parse(&text).ok(), Some(addresses), "{text}");
    }
}

/// Manifests one by one, all in a file, as a List, and a file of addresses.
pub fn seeds() -> Vec<Vec<u8>> {
    let objects = samples::objects();
    let yaml = |value: &serde_json::Value| serde_yaml_ng::to_string(value).unwrap_or_default();
    let mut seeds: Vec<String> = objects.iter().map(yaml).collect();
    seeds.push(seeds.iter().map(|text| format!("---\n{text}")).collect());
    seeds.push(yaml(&serde_json::json!({"apiVersion": "v1", "kind": "List", "items": objects})));
    seeds.push(
        "services:\n- namespace: shop\n  name: web\n  addresses: [198.51.100.1]\n  pool: p\n"
            .into(),
    );
    seeds.push("# nothing\n%YAML 1.2\n---\n...\n".into());
    seeds.into_iter().map(String::into_bytes).collect()
}
