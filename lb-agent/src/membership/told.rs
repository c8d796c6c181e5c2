//! What agents tell each other of their uplinks beside the names of those that they may announce on.
//!
//! It stands among these names, in words that Linux takes for no interface's name
//! (`dev_valid_name`: none has a slash): so an agent of an earlier version finds that no
//! advertisement means them.
use super::AliveNode;
use std::fmt::Write as _;

const MAC: &str = "/mac/";
const DOWN: &str = "/down/";

/// The link-layer address of an uplink, which others may hear VIPs announced from.
pub fn mac(mac: [u8; 6]) -> String {
    let mut text = MAC.to_owned();
    for byte in mac {
        // A String takes everything.
        let _ = write!(text, "{byte:02x}");
    }
    text
}

/// An uplink that VIPs would be announced on if its carrier were there, or could be relied on: then its
/// name is told as well.
pub fn down(name: &str) -> String {
    format!("{DOWN}{name}")
}

/// Whether it is an uplink without carrier, or with one that has just come back.
pub fn is_down(told: &str) -> bool {
    told.starts_with(DOWN)
}

/// Whether it is the name of an interface.
pub fn is_name(told: &str) -> bool {
    !told.starts_with('/')
}

impl AliveNode {
    /// The link-layer addresses of its uplinks.
    pub fn macs(&self) -> impl Iterator<Item = [u8; 6]> {
        self.interfaces.iter().filter_map(|told| {
            let number = u64::from_str_radix(told.strip_prefix(MAC)?, 16).ok()?;
            let [0, 0, mac @ ..] = number.to_be_bytes() else { return None };
            Some(mac)
        })
    }

    /// Whether one of its uplinks has no carrier, or had none just now, on which it would announce what is
    /// to be announced on these, or on any if there are none.
    pub fn misses(&self, wanted: &[String]) -> bool {
        let mut down = self.interfaces.iter().filter_map(|told| told.strip_prefix(DOWN));
        down.any(|name| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_told_is_understood() {
        let address = [2, 0x77, 0, 0, 0, 0x11];
        let node = AliveNode::new(["eth0".to_owned(), mac(address), down("eth1")]);
        assert_eq!(node.macs().collect::<Vec<_>>(), [address]);
        assert!(node.misses(&[]));
        assert!(node.misses(&["eth1".into(), "eth2".into()]));
        assert!(!node.misses(&["eth0".into()]));
        assert_eq!(node.interfaces.iter().filter(|told| is_name(told)).count(), 1);
    }

    #[test]
    fn nonsense_is_nothing() {
        let told = ["/mac/", "/mac/zz", "/mac/ffffffffffffff", "/mac/+1", "mac/02", "/", ""];
        let node = AliveNode::new(told);
        assert!(node.macs().all(|mac| mac == [0, 0, 0, 0, 0, 1]), "{:?}", node.macs().last());
        assert!(!node.misses(&[]));
    }
}
