//! A network namespace, and running things in it.
use super::{cleanup, command};
use crate::system;
use anyhow::{Context, Result};
use std::{
    ffi::OsStr,
    fs,
    net::{IpAddr, SocketAddr, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::Duration,
};

/// A named network namespace. It goes with its laboratory.
#[derive(Clone, Debug)]
pub struct Namespace {
    /// As `ip netns list` shows it.
    pub name: String,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// The name is taken.
    pub(super) fn create(prefix: &str, name: &str) -> Result<Self> {
        let name = format!("{prefix}-{name}");
        cleanup::unless_ending(|| command::run(Command::new("ip").args(["netns", "add", &name])))?;
        let namespace = Self { name };
        // Whatever the machine's own is: one that paces sets timers for each segment.
        namespace.sysctl("net/ipv4/tcp_congestion_control", "reno")?;
        Ok(namespace)
    }

    /// Removes it; processes in it lose their interfaces, but go on.
    pub(super) fn remove(self) -> Result<()> {
        command::run(Command::new("ip").args(["netns", "del", &self.name])).map(drop)
    }

    /// The file that stands for it.
    pub fn path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.name)
    }

    /// Feeds `ip` one command a line.
    ///
    /// # Errors
    /// `ip` refuses one.
    pub fn ip(&self, commands: &str) -> Result<()> {
        command::run_with_input(
            Command::new("ip").args(["-n", &self.name, "-batch", "-"]),
            commands,
        )
        .with_context(|| format!("in {}:\n{commands}", self.name))
        .map(|_| ())
    }

    /// A command that will run in it. The mounts stay the caller's, the BPF file system among
    /// them, which `ip netns exec` would hide.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program.as_ref());
        command
    }

    /// Runs a command in it and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub fn output(&self, program: &str, arguments: &[&str]) -> Result<String> {
        self.feed(program, arguments, "")
    }

    /// The same with something on its standard input.
    ///
    /// # Errors
    /// It fails.
    pub fn feed(&self, program: &str, arguments: &[&str], input: &str) -> Result<String> {
        command::run_with_input(self.command(program).args(arguments), input)
    }

    /// Sets a kernel parameter, named by its path below /proc/sys.
    ///
    /// # Errors
    /// There is no such parameter, or it is not writable.
    pub fn sysctl(&self, path: &str, value: &str) -> Result<()> {
        self.enter(|| {
            fs::write(Path::new("/proc/sys").join(path), value)
                .with_context(|| format!("setting {path} to {value}"))
        })
    }

    /// Runs something on a thread that lives in the namespace. Sockets opened there stay in it.
    ///
    /// # Errors
    /// The namespace is gone, or what `action` returns.
    ///
    /// # Panics
    /// Where `action` does.
    pub fn enter<T: Send>(&self, action: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let path = self.path();
        thread::scope(|scope| {
            scope
                .spawn(|| {
                    system::enter_network_namespace(&path)
                        .with_context(|| format!("entering {}", path.display()))?;
                    action()
                })
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Connects from within.
    ///
    /// # Errors
    /// Refused, or nobody answers in time.
    pub fn connect(&self, to: SocketAddr, limit: Duration) -> Result<TcpStream> {
        self.enter(|| {
            let stream = TcpStream::connect_timeout(&to, limit)
                .with_context(|| format!("connecting to {to}"))?;
            stream.set_read_timeout(Some(limit))?;
            stream.set_write_timeout(Some(limit))?;
            stream.set_nodelay(true)?;
            Ok(stream)
        })
    }

    /// A UDP socket from within, connected to `to`.
    ///
    /// # Errors
    /// There is no route.
    pub fn udp(&self, to: SocketAddr) -> Result<UdpSocket> {
        self.enter(|| Ok(udp_here(to)?))
    }
}

/// A UDP socket of the calling thread's namespace, connected to `to`.
///
/// # Errors
/// There is no route.
pub fn udp_here(to: SocketAddr) -> std::io::Result<UdpSocket> {
    udp_here_from(0, to)
}

/// The same from a port of its own; 0 is any.
///
/// # Errors
/// There is no route, or the port is taken.
pub fn udp_here_from(port: u16, to: SocketAddr) -> std::io::Result<UdpSocket> {
    let any: IpAddr = if to.is_ipv4() { [0; 4].into() } else { [0u16; 8].into() };
    let socket = UdpSocket::bind((any, port))?;
    socket.connect(to)?;
    Ok(socket)
}
