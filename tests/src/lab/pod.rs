//! What a pod serves: over HTTP and UDP it tells who it is and whom it sees.
use super::ready::{Ready, Then};
use anyhow::{Context, Result};
use nix::sys::epoll::EpollTimeout;
use serde::{Deserialize, Serialize};
use socket2::{Domain, Protocol, Socket, Type};
use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::{AsFd, BorrowedFd},
    thread,
};

/// So many connections at most wait to be taken, as many as with most servers: more than come while
/// this one waits for a processor.
const BACKLOG: i32 = 4096;

/// A pod's answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The pod's name.
    pub pod: String,
    /// Its node's name.
    pub node: String,
    /// The client's address as the pod sees it.
    pub client: IpAddr,
    /// The client's port as the pod sees it.
    pub client_port: u16,
    /// The pod's own address of the connection; absent over UDP.
    pub local: Option<IpAddr>,
    /// What came in over UDP; over HTTP as many bytes as the path of the request says.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<String>,
}

/// The pod's name in an answer over HTTP, whose form is [`Answer`]'s: for those who take thousands
/// a second.
///
/// # Errors
/// It is no answer of a pod.
pub(super) fn name(answer: &[u8]) -> Result<&str> {
    let text = str::from_utf8(answer)?;
    let (_, body) = text.split_once("{\"pod\":\"").context("not an answer of a pod")?;
    Ok(body.split_once('"').context("not an answer of a pod")?.0)
}

/// Serves both families, TCP and UDP, until killed.
///
/// # Errors
/// The port is taken.
pub fn serve(pod: &str, node: &str, port: u16) -> Result<()> {
    // Dual stack: IPv4 clients appear as ::ffff:a.b.c.d.
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let tcp = listen(any).with_context(|| format!("listening on TCP port {port}"))?;
    let udp = UdpSocket::bind(any).with_context(|| format!("listening on UDP port {port}"))?;
    thread::scope(|scope| {
        scope.spawn(|| serve_udp(&udp, pod, node));
        // One thread for all connections: one for each would take most of the machine where
        // thousands come in a second.
        serve_tcp(tcp, pod, node)
    })
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let kind = Type::STREAM.nonblocking();
    let socket = Socket::new(Domain::for_address(address), kind, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    // Its connections inherit that.
    socket.set_tcp_nodelay(true)?;
    // A request is acknowledged by its answer.
    socket.set_tcp_quickack(false)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A socket of the server.
enum Server {
    Listener(TcpListener),
    Connection(Connection),
}

impl AsFd for Server {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Listener(listener) => listener.as_fd(),
            Self::Connection(connection) => connection.stream.as_fd(),
        }
    }
}

fn serve_tcp(tcp: TcpListener, pod: &str, node: &str) -> Result<()> {
    let mut sockets = Ready::new()?;
    sockets.add(Server::Listener(tcp))?;
    let mut come = vec![];
    loop {
        sockets.await_events(EpollTimeout::NONE, |socket| {
            match socket {
                Server::Listener(listener) => {
                    accept(listener, pod, node, &mut come);
                    Then::GoOn
                }
                // A client that goes away is the client's business.
                Server::Connection(connection) => connection.go_on().unwrap_or(Then::End),
            }
        })?;
        come.drain(..).try_for_each(|connection| sockets.add(Server::Connection(connection)))?;
    }
}

/// Takes all connections that wait to be.
fn accept(listener: &TcpListener, pod: &str, node: &str, come: &mut Vec<Connection>) {
    loop {
        match listener.accept() {
            // One that is gone already is the client's business, too.
            Ok((stream, client)) => {
                come.extend(Connection::new(stream, client, pod, node).ok());
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(_) => {}
        }
    }
}

fn answer(pod: &str, node: &str, client: SocketAddr) -> Answer {
    Answer {
        pod: pod.into(),
        node: node.into(),
        client: client.ip().to_canonical(),
        client_port: client.port(),
        local: None,
        echo: None,
    }
}

fn serve_udp(socket: &UdpSocket, pod: &str, node: &str) {
    let mut buffer = [0; 2048];
    loop {
        // An error here is an ICMP error of an earlier answer.
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        let mut answer = answer(pod, node, client);
        answer.echo = Some(String::from_utf8_lossy(&buffer[..length]).into_owned());
        if let Ok(text) = serde_json::to_vec(&answer) {
            let _ = socket.send_to(&text, client);
        }
    }
}

/// A connection, whose requests are answered one after another.
struct Connection {
    stream: TcpStream,
    answer: Answer,
    requests: Vec<u8>,
    /// So many bytes of these are known not to end a request.
    searched: usize,
    /// What is still to be sent.
    answers: Vec<u8>,
    sent: usize,
    close: bool,
}

impl Connection {
    fn new(stream: TcpStream, client: SocketAddr, pod: &str, node: &str) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let mut answer = answer(pod, node, client);
        answer.local = Some(stream.local_addr()?.ip().to_canonical());
        let (requests, answers) = (vec![], vec![]);
        Ok(Self { stream, answer, requests, searched: 0, answers, sent: 0, close: false })
    }

    /// Does all that can be done without blocking.
    fn go_on(&mut self) -> io::Result<Then> {
        let mut buffer = [0; 4096];
        loop {
            while self.sent < self.answers.len() {
                match self.stream.write(&self.answers[self.sent..]) {
                    Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Then::GoOn),
                    result => self.sent += result?,
                }
            }
            if self.close {
                return Ok(Then::End);
            }
            if let Some(request) = self.request() {
                self.take(&request)?;
                continue;
            }
            match self.stream.read(&mut buffer) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(Then::GoOn),
                Ok(0) => return Ok(Then::End),
                result => self.requests.extend_from_slice(&buffer[..result?]),
            }
        }
    }

    /// The next request that is whole.
    fn request(&mut self) -> Option<String> {
        const END: &[u8] = b"\r\n\r\n";
        let mut parts = self.requests[self.searched..].windows(END.len());
        let Some(end) = parts.position(|part| part == END) else {
            self.searched = self.requests.len().saturating_sub(END.len() - 1);
            return None;
        };
        let request = self.requests.drain(..self.searched + end + END.len()).collect::<Vec<_>>();
        self.searched = 0;
        Some(String::from_utf8_lossy(&request).into_owned())
    }

    /// Answers a request. `GET /N` gets an answer with N more bytes in it.
    fn take(&mut self, request: &str) -> io::Result<()> {
        let mut lines = request.lines();
        let first = lines.next().unwrap_or_default();
        let size = first.split(['/', ' ']).nth(2).and_then(|size| size.parse().ok());
        self.answer.echo = size.map(|size: usize| "x".repeat(size));
        self.close = lines.any(|line| line.eq_ignore_ascii_case("connection: close"));
        let body = serde_json::to_string(&self.answer)?;
        let connection = if self.close { "close" } else { "keep-alive" };
        let length = body.len() + 1;
        self.answers = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             Connection: {connection}\r\n\r\n{body}\n"
        )
        .into_bytes();
        self.sent = 0;
        Ok(())
    }
}
