//! A connection's bytes, in and out, by a task of its own.
use bytes::{Bytes, BytesMut};
use lb_bgp::session::Link;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
    task::JoinSet,
    time::timeout,
};

/// Read at once, in octets.
const CHUNK: usize = 64 * 1024;
/// How long a last message may take.
const LAST: Duration = Duration::from_secs(2);

/// What happens to a connection.
#[derive(Debug)]
pub(super) enum Happening {
    /// Bytes have come.
    Received(Bytes),
    /// What was to be written is.
    Written,
    /// It has ended.
    Closed(String),
}

enum Order {
    Write(Bytes),
    Last(Bytes),
}

/// The near end of a connection. Dropping it closes the connection.
#[derive(Debug)]
pub(super) struct Connection {
    orders: mpsc::UnboundedSender<Order>,
    _tasks: JoinSet<()>,
}

impl Connection {
    /// Reads and writes from now on, and tells what happens.
    pub(super) fn start(
        link: Link,
        stream: TcpStream,
        happenings: mpsc::Sender<(Link, Happening)>,
    ) -> Self {
        let (reading, writing) = stream.into_split();
        let (orders, to_write) = mpsc::unbounded_channel();
        let mut tasks = JoinSet::new();
        tasks.spawn(read(link, reading, happenings.clone()));
        tasks.spawn(write(link, writing, to_write, happenings));
        Self { orders, _tasks: tasks }
    }

    /// Writes; [`Happening::Written`] comes of it. Not before the last has.
    pub(super) fn write(&self, bytes: Bytes) {
        // A task that has ended has said so.
        let _ = self.orders.send(Order::Write(bytes));
    }

    /// Writes a last message behind what is being written, and closes. Returns at once; what waits for it is
    /// to be waited for itself.
    pub(super) fn close(self, last: Option<Bytes>) -> impl Future<Output = ()> + Send + use<> {
        let Self { orders, _tasks: mut tasks } = self;
        let last = last.map(|last| orders.send(Order::Last(last)));
        drop(orders);
        async move {
            if last.is_some() {
                // The writer ends after it; the reader may go on for as long as the peer does.
                let _late = timeout(LAST, tasks.join_next()).await;
            }
        }
    }
}

async fn read(link: Link, mut reading: OwnedReadHalf, happenings: mpsc::Sender<(Link, Happening)>) {
    let mut buffer = BytesMut::new();
    loop {
        buffer.reserve(CHUNK);
        let happening = match reading.read_buf(&mut buffer).await {
            Ok(0) => Happening::Closed("the peer has closed it".to_owned()),
            Ok(_) => Happening::Received(buffer.split().freeze()),
            Err(error) => Happening::Closed(error.to_string()),
        };
        let over = matches!(happening, Happening::Closed(_));
        if happenings.send((link, happening)).await.is_err() || over {
            return;
        }
    }
}

async fn write(
    link: Link,
    mut writing: OwnedWriteHalf,
    mut orders: mpsc::UnboundedReceiver<Order>,
    happenings: mpsc::Sender<(Link, Happening)>,
) {
    while let Some(order) = orders.recv().await {
        let (bytes, last) = match order {
            Order::Write(bytes) => (bytes, false),
            Order::Last(bytes) => (bytes, true),
        };
        let written = writing.write_all(&bytes).await;
        if last {
            let _ = writing.shutdown().await;
            return;
        }
        let happening = match written {
            Ok(()) => Happening::Written,
            Err(error) => Happening::Closed(error.to_string()),
        };
        if happenings.send((link, happening)).await.is_err() {
            return;
        }
    }
}
