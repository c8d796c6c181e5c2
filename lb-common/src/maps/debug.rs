//! Printing what the maps hold: a cookie lets whoever reads it send tunnelled packets, so that it
//! must not come into a log.
use super::{Node, Settings};
use core::fmt;

/// Stands for a cookie: whether there is one.
struct Cookie(u64);

impl fmt::Debug for Cookie {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0 == 0 { "none" } else { "given" })
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, source, cookie, ifindex, flags, mac, source_mac, vlan, mtu } = self;
        f.debug_struct("Node")
            .field("address", address)
            .field("source", source)
            .field("cookie", &Cookie(*cookie))
            .field("ifindex", ifindex)
            .field("flags", flags)
            .field("mac", mac)
            .field("source_mac", source_mac)
            .field("vlan", vlan)
            .field("mtu", mtu)
            .finish()
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            announce_until_ns,
            fresh_until_ns,
            echo_interval_ns,
            refuse_interval_ns,
            cookies,
            started_s,
            udp_window_s,
            settle_s,
            fragment_rows_start,
            fragment_rows,
            mss_v4,
            mss_v6,
            tunnel_port,
            withdrawn,
            pad: _,
            uplinks,
        } = self;
        f.debug_struct("Settings")
            .field("announce_until_ns", announce_until_ns)
            .field("fresh_until_ns", fresh_until_ns)
            .field("echo_interval_ns", echo_interval_ns)
            .field("refuse_interval_ns", refuse_interval_ns)
            .field("cookies", &cookies.map(Cookie))
            .field("started_s", started_s)
            .field("udp_window_s", udp_window_s)
            .field("settle_s", settle_s)
            .field("fragment_rows_start", fragment_rows_start)
            .field("fragment_rows", fragment_rows)
            .field("mss_v4", mss_v4)
            .field("mss_v6", mss_v6)
            .field("tunnel_port", &u16::from_be_bytes(*tunnel_port))
            .field("withdrawn", withdrawn)
            .field("uplinks", uplinks)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_cookie_is_printed() {
        let cookie = 0x1234_5678_9abc_def0;
        let node = Node { cookie, mtu: 1500, ..Node::default() };
        let settings = Settings { cookies: [cookie, 0], mss_v4: 1400, ..Settings::default() };
        for (text, shown) in
            [(format!("{node:?}"), "1500"), (format!("{settings:?}"), "[given, none]")]
        {
            for form in [format!("{cookie}"), format!("{cookie:x}")] {
                assert!(!text.contains(&form), "{text}");
            }
            assert!(text.contains(shown), "{text}");
        }
    }
}
