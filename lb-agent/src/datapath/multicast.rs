//! Solicited-node groups of the IPv6 VIPs that this node announces: without the join,
//! switches that snoop and the interface's own filter keep solicitations away.
//!
//! A group is joined as an `autojoin` multicast address of the interface (as by
//! `ip address add ff02::1:ff00:7/128 dev eth0 autojoin`), so that the join outlives the
//! agent. Only groups that bear Herald's mark are ever left.
use super::{
    Error,
    netlink::{self, PROTOCOL},
};
use futures::TryStreamExt as _;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope},
};
use rtnetlink::Handle;
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv6Addr},
};

/// The solicited-node group of an address (RFC 4291 section 2.7.1).
pub fn solicited_node(address: Ipv6Addr) -> Ipv6Addr {
    let [.., a, b, c] = address.octets();
    Ipv6Addr::from([0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, a, b, c])
}

type Joined = BTreeSet<(u32, Ipv6Addr)>;

/// Joins the groups of these VIPs, by interface, and leaves all other groups that Herald
/// joined. An interface that goes down loses its groups: call this now and then.
///
/// # Errors
///
/// [`Error::Netlink`]; what could be done is done.
pub async fn sync(handle: &Handle, vips: &BTreeMap<u32, BTreeSet<Ipv6Addr>>) -> Result<(), Error> {
    let wanted: Joined = vips
        .iter()
        .flat_map(|(ifindex, vips)| vips.iter().map(|vip| (*ifindex, solicited_node(*vip))))
        .collect();
    let joined = joined(handle).await?;
    let mut result = Ok(());
    for (ifindex, group) in wanted.difference(&joined) {
        match join(handle, *ifindex, *group).await {
            // The interface has just gone, or somebody else has configured the group.
            Err(e) if netlink::is_errno(&e, libc::ENODEV) => {}
            Err(e) if netlink::is_errno(&e, libc::EEXIST) => {}
            Err(e) => {
                result = Err(netlink::failed(format!("join {group} on interface {ifindex}"))(e));
            }
            Ok(()) => {}
        }
    }
    for (ifindex, group) in joined.difference(&wanted) {
        if let Err(error) = leave(handle, *ifindex, *group).await {
            result = Err(error);
        }
    }
    result
}

/// Leaves all groups that Herald joined; returns how many.
///
/// # Errors
///
/// [`Error::Netlink`]
pub async fn leave_all(handle: &Handle) -> Result<usize, Error> {
    let joined = joined(handle).await?;
    for (ifindex, group) in &joined {
        leave(handle, *ifindex, *group).await?;
    }
    Ok(joined.len())
}

async fn joined(handle: &Handle) -> Result<Joined, Error> {
    let mut request = handle.address().get();
    request.message_mut().header.family = AddressFamily::Inet6;
    let mut addresses = request.execute();
    let mut joined = Joined::new();
    while let Some(message) =
        addresses.try_next().await.map_err(netlink::failed("read addresses"))?
    {
        let mut group = None;
        let mut ours = false;
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Address(IpAddr::V6(a)) if a.is_multicast() => group = Some(*a),
                AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)) => ours = true,
                _ => {}
            }
        }
        if let Some(group) = group.filter(|_| ours) {
            joined.insert((message.header.index, group));
        }
    }
    Ok(joined)
}

fn message(ifindex: u32, group: Ipv6Addr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = AddressFamily::Inet6;
    message.header.prefix_len = 128;
    message.header.scope = AddressScope::Link;
    message.header.index = ifindex;
    message.attributes = vec![
        AddressAttribute::Address(group.into()),
        // Without the last the kernel would look for others that have the address.
        AddressAttribute::Flags(
            AddressFlags::Mcautojoin | AddressFlags::Noprefixroute | AddressFlags::Nodad,
        ),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    message
}

async fn join(handle: &Handle, ifindex: u32, group: Ipv6Addr) -> Result<(), rtnetlink::Error> {
    let mut request = handle.address().add(ifindex, group.into(), 128);
    *request.message_mut() = message(ifindex, group);
    request.execute().await
}

async fn leave(handle: &Handle, ifindex: u32, group: Ipv6Addr) -> Result<(), Error> {
    match handle.address().del(message(ifindex, group)).execute().await {
        // Gone already, with its interface perhaps.
        Err(e) if netlink::is_errno(&e, libc::ENODEV) => Ok(()),
        Err(e) if netlink::is_errno(&e, libc::EADDRNOTAVAIL) => Ok(()),
        done => done.map_err(netlink::failed(format!("leave {group} on interface {ifindex}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_has_the_last_three_bytes() {
        // The example of RFC 4291 section 2.7.1.
        let address = "4037::01:800:200e:8c6c".parse().unwrap();
        assert_eq!(solicited_node(address).to_string(), "ff02::1:ff0e:8c6c");
    }
}
