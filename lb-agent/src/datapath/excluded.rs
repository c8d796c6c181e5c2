//! Interfaces on which no VIP is announced on layer 2.
//!
//! MetalLB reads them from `/etc/metallb/excludel2.yaml`, where its ConfigMap `metallb-excludel2`
//! is mounted: a list of regular expressions, which need not match from the beginning.
use regex::RegexSet;
use serde::Deserialize;

/// Which interfaces these are.
#[derive(Clone, Debug, Default)]
pub struct Excluded(RegexSet);

impl PartialEq for Excluded {
    fn eq(&self, other: &Self) -> bool {
        self.0.patterns() == other.0.patterns()
    }
}

impl Eq for Excluded {}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    announced_interfaces_to_exclude: Vec<String>,
}

/// Why a file says nothing that can be followed.
#[derive(Debug, thiserror::Error)]
pub enum Invalid {
    /// It is no YAML, or has other fields.
    #[error("expected announcedInterfacesToExclude with a list of regular expressions: {0}")]
    Yaml(#[from] serde_yaml_ng::Error),
    /// One is no regular expression.
    #[error("announcedInterfacesToExclude: {0}")]
    Pattern(#[from] regex::Error),
}

impl Excluded {
    /// Reads MetalLB's file.
    ///
    /// # Errors
    /// See [`Invalid`].
    pub fn parse(text: &str) -> Result<Self, Invalid> {
        // A file with nothing in it but comments excludes nothing.
        let file: Option<File> = serde_yaml_ng::from_str(text)?;
        let patterns = file.map(|file| file.announced_interfaces_to_exclude).unwrap_or_default();
        Ok(Self(RegexSet::new(patterns)?))
    }

    /// Whether no VIP is announced on an interface.
    pub fn contains(&self, interface: &str) -> bool {
        self.0.is_match(interface)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_metallb_reads_them() {
        let text = "announcedInterfacesToExclude: [\"^docker.*\", ^lo$, cali]\n";
        let excluded = Excluded::parse(text).unwrap();
        for name in ["docker0", "lo", "cali1234", "xcali"] {
            assert!(excluded.contains(name), "{name}");
        }
        for name in ["eth0", "lo1", "mydocker"] {
            assert!(!excluded.contains(name), "{name}");
        }
        for text in ["", "# nothing\n", "announcedInterfacesToExclude: []\n"] {
            assert_eq!(Excluded::parse(text).unwrap(), Excluded::default(), "{text:?}");
        }
    }

    #[test]
    fn what_cannot_be_followed_is_refused_with_the_reason() {
        let wrong = |text| Excluded::parse(text).unwrap_err().to_string();
        assert!(wrong("announcedInterfacesToExclude: ['(']\n").contains("unclosed group"));
        assert!(wrong("interfaces: [eth0]\n").contains("announcedInterfacesToExclude"));
    }
}
