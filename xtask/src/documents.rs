//! What the documents say of other files and of these commands.
use crate::process::output;
use crate::project;
use anyhow::{Context, Result, ensure};
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Checks that links within the project lead somewhere, and that `cargo xtask` has the commands that are
/// named.
///
/// # Errors
/// Says which do not.
pub(crate) fn check(commands: &BTreeSet<String>) -> Result<()> {
    let mut git = Command::new("git");
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"];
    git.current_dir(project::root()).args(list);
    let files = output(&mut git).context("git ls-files failed: is this a clone?")?;
    let mut wrong = Vec::new();
    for file in files.split('\0').filter(|file| !file.is_empty()) {
        let path = project::root().join(file);
        // A file that git still lists may have been removed just now.
        let Ok(text) = fs::read_to_string(&path) else { continue };
        let links = links(&text).filter_map(|link| Some((link, broken(&path, &text, link)?)));
        wrong.extend(links.map(|(link, why)| format!("{file}: {link}: {why}")));
        let unknown = named(&text).filter(|name| !commands.contains(*name));
        wrong.extend(unknown.map(|name| format!("{file}: there is no cargo xtask {name}")));
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// The targets of links, `[text](target)`.
fn links(text: &str) -> impl Iterator<Item = &str> {
    text.split("](").skip(1).filter_map(|rest| Some(rest.split_once(')')?.0))
}

/// Why a link leads nowhere, if it does not lead out of the project.
fn broken(from: &Path, own: &str, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, heading) = link.split_once('#').map_or((link, None), |(f, h)| (f, Some(h)));
    let target: PathBuf = from.parent().unwrap_or(from).join(file);
    if !file.is_empty() && !target.exists() {
        return Some("no such file".to_owned());
    }
    let heading = heading?;
    let text = if file.is_empty() { own.to_owned() } else { fs::read_to_string(target).ok()? };
    let mut headings = text.lines().filter(|line| line.starts_with('#'));
    (!headings.any(|line| slug(line) == heading)).then(|| "no such heading".to_owned())
}

/// What a heading is called in links, as GitHub names it.
fn slug(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// The commands that follow `cargo xtask`.
fn named(text: &str) -> impl Iterator<Item = &str> {
    text.split("cargo xtask ").skip(1).filter_map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '-').unwrap_or(rest.len());
        let name = &rest[..end];
        (!name.is_empty() && !name.starts_with('-')).then_some(name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_and_commands_are_found() {
        let text =
            "see [a](b.md#c-d) and [e](https://f/)\n`cargo xtask test --full`, cargo xtask lint.";
        assert_eq!(links(text).collect::<Vec<_>>(), ["b.md#c-d", "https://f/"]);
        assert_eq!(named(text).collect::<Vec<_>>(), ["test", "lint"]);
        assert_eq!(slug("## 2. From A to `b`"), "2-from-a-to-b");
        let from = project::root().join("README.md");
        assert_eq!(broken(&from, "", "docs/design.md#deciding"), None);
        assert!(broken(&from, "", "docs/design.md#undecided").is_some());
        assert!(broken(&from, "", "docs/no.md").is_some());
    }
}
