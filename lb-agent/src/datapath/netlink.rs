//! The kernel's routing socket: what the modules that speak it have in common.
use super::Error;
use futures::TryStreamExt as _;
use netlink_packet_route::link::LinkAttribute;
use rtnetlink::{Handle, packet_core::ErrorMessage};

/// Marks neighbour entries (`NDA_PROTOCOL`) and addresses (`IFA_PROTO`) as Herald's, so
/// that another agent, or `unload`, knows which to remove. 72 is an H; it is none of
/// iproute2's `rt_protos`.
pub const PROTOCOL: u8 = 72;

/// Turns a failed request into an error that says what was asked.
pub(crate) fn failed(what: impl Into<String>) -> impl FnOnce(rtnetlink::Error) -> Error {
    let what = what.into();
    move |error| Error::Netlink {
        what,
        error: match error {
            rtnetlink::Error::NetlinkError(message) => message.to_io().to_string(),
            other => other.to_string(),
        },
    }
}

/// Whether a request failed with this error number.
pub(crate) fn is_errno(error: &rtnetlink::Error, errno: i32) -> bool {
    matches!(
        error,
        rtnetlink::Error::NetlinkError(ErrorMessage { code: Some(code), .. }) if code.get() == -errno
    )
}

/// Opens a socket in the calling thread's network namespace. A task that ends with the
/// last handle serves it.
///
/// # Errors
///
/// [`Error::Netlink`]
///
/// # Panics
///
/// Outside of a tokio runtime.
pub fn connect() -> Result<Handle, Error> {
    let (connection, handle, _) = rtnetlink::new_connection()
        .map_err(|e| Error::Netlink { what: "open a socket".into(), error: e.to_string() })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// The name of an interface, or its number if it is gone.
///
/// # Errors
///
/// [`Error::Netlink`]
pub(crate) async fn name(handle: &Handle, ifindex: u32) -> Result<String, Error> {
    let mut links = handle.link().get().match_index(ifindex).execute();
    let link = match links.try_next().await {
        Ok(link) => link,
        Err(error) if is_errno(&error, libc::ENODEV) => None,
        Err(error) => return Err(failed(format!("look up interface {ifindex}"))(error)),
    };
    let name =
        link.into_iter().flat_map(|link| link.attributes).find_map(|attribute| match attribute {
            LinkAttribute::IfName(name) => Some(name),
            _ => None,
        });
    Ok(name.unwrap_or_else(|| format!("interface {ifindex}")))
}

/// The index of an interface.
///
/// # Errors
///
/// [`Error::NoInterface`], [`Error::Netlink`]
pub async fn ifindex(handle: &Handle, name: &str) -> Result<u32, Error> {
    // The kernel refuses a request for a longer name with EINVAL or ERANGE.
    const IFNAMSIZ: usize = 16;
    let absent = || Error::NoInterface { interface: name.into() };
    if name.is_empty() || name.len() >= IFNAMSIZ {
        return Err(absent());
    }
    let mut links = handle.link().get().match_name(name).execute();
    match links.try_next().await {
        Ok(Some(link)) => Ok(link.header.index),
        Ok(None) => Err(absent()),
        Err(error) if is_errno(&error, libc::ENODEV) => Err(absent()),
        Err(error) => Err(failed(format!("look up interface {name}"))(error)),
    }
}
