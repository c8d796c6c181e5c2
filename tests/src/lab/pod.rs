//! What a pod serves: over HTTP and UDP it tells who it is and whom it sees.
use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use std::{
    io,
    net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket},
    rc::Rc,
    thread,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
    runtime,
    task::{self, LocalSet},
};

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

/// Serves both families, TCP and UDP, until killed.
///
/// # Errors
/// The port is taken.
pub fn serve(pod: &str, node: &str, port: u16) -> Result<()> {
    // Dual stack: IPv4 clients appear as ::ffff:a.b.c.d.
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let tcp = TcpListener::bind(any).with_context(|| format!("listening on TCP port {port}"))?;
    tcp.set_nonblocking(true)?;
    let udp = UdpSocket::bind(any).with_context(|| format!("listening on UDP port {port}"))?;
    thread::scope(|scope| {
        scope.spawn(|| serve_udp(&udp, pod, node));
        // One thread for all connections: one for each would take most of the machine where
        // thousands come in a second.
        let runtime = runtime::Builder::new_current_thread().enable_io().build()?;
        LocalSet::new().block_on(&runtime, accept(tcp, pod, node))
    })
}

async fn accept(tcp: TcpListener, pod: &str, node: &str) -> Result<()> {
    let tcp = tokio::net::TcpListener::from_std(tcp)?;
    let (pod, node): (Rc<str>, Rc<str>) = (pod.into(), node.into());
    loop {
        let Ok((stream, _)) = tcp.accept().await else {
            // It was gone before, or there are too many: let those that are here come to an end.
            task::yield_now().await;
            continue;
        };
        let (pod, node) = (Rc::clone(&pod), Rc::clone(&node));
        // A client that goes away is the client's business.
        task::spawn_local(async move { serve_http(stream, &pod, &node).await });
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

/// Answers each request of a connection. `GET /N` gets an answer with N more bytes in it.
async fn serve_http(stream: TcpStream, pod: &str, node: &str) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut answer = answer(pod, node, stream.peer_addr()?);
    answer.local = Some(stream.local_addr()?.ip().to_canonical());
    let mut requests = BufReader::new(stream);
    loop {
        let mut close = false;
        let mut lines = 0;
        loop {
            let mut line = String::new();
            if requests.read_line(&mut line).await? == 0 {
                return Ok(());
            }
            let line = line.trim_end();
            if line.is_empty() && lines > 0 {
                break;
            }
            if lines == 0 {
                let size = line.split(['/', ' ']).nth(2).and_then(|size| size.parse().ok());
                answer.echo = size.map(|size: usize| "x".repeat(size));
            }
            lines += 1;
            close |= line.eq_ignore_ascii_case("connection: close");
        }
        let body = serde_json::to_string(&answer)?;
        let connection = if close { "close" } else { "keep-alive" };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
             Connection: {connection}\r\n\r\n",
            body.len() + 1
        );
        requests.write_all(format!("{head}{body}\n").as_bytes()).await?;
        if close {
            return Ok(());
        }
    }
}
