use super::*;
use crate::{
    membership::probing::{self, Answer},
    testing::ip,
};
use std::thread;

/// A port that nobody uses on the loopback addresses that the tests take.
fn free_port(address: &str) -> u16 {
    let socket = UdpSocket::bind((ip(address), 0)).unwrap();
    socket.local_addr().unwrap().port()
}

async fn until(watch: &mut watch::Receiver<Arc<Alive>>, what: impl Fn(&Alive) -> bool) -> Duration {
    let began = Instant::now();
    let seen = watch.wait_for(|alive| what(alive));
    tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();
    began.elapsed()
}

/// Agents on loopback addresses, and what stands for their kernels' programs.
struct Lab {
    nodes: KnownNodes,
    port: u16,
    tunnel_port: u16,
    keys: watch::Sender<Keyring>,
}

impl Lab {
    fn new(addresses: &[&str]) -> Self {
        let nodes = addresses.iter().zip(1..).map(|(a, i)| (format!("n{i}"), vec![ip(a)]));
        let keys = watch::channel(Keyring::from_lines("0123456789abcdef").unwrap()).0;
        let (port, tunnel_port) = (free_port(addresses[0]), free_port(addresses[0]));
        Self { nodes: nodes.collect(), port, tunnel_port, keys }
    }

    fn setup(&self, me: &str) -> Setup {
        Setup {
            me: me.to_owned(),
            port: self.port,
            tunnel_port: self.tunnel_port,
            timing: Timing::default(),
            nodes: self.nodes.clone(),
            remembered: BTreeSet::new(),
            keys: self.keys.subscribe(),
        }
    }

    fn start(&self, me: &str) -> UdpLiveness {
        UdpLiveness::start(self.setup(me)).unwrap()
    }

    /// Answers probes until what is returned is dropped.
    fn kernel(&self, me: &str) -> Kernel {
        let socket = UdpSocket::bind((self.nodes[me][0], self.tunnel_port)).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(10))).unwrap();
        let lives = Arc::new(());
        let watched = Arc::downgrade(&lives);
        let thread = thread::spawn(move || {
            let mut buffer = [0; probing::LENGTH];
            while watched.strong_count() > 0 {
                let Ok((length, from)) = socket.recv_from(&mut buffer) else { continue };
                assert_eq!((length, buffer[4]), (24, 0x80));
                let answer = probing::answer(&buffer, Duration::from_secs(60));
                let read = read_answer(&answer).map(|(_, answer)| answer);
                assert_eq!(read, Some(Answer { announces: Duration::from_secs(60) }));
                socket.send_to(&answer, from).unwrap();
            }
        });
        Kernel { _lives: lives, thread: Some(thread) }
    }
}

struct Kernel {
    _lives: Arc<()>,
    thread: Option<JoinHandle<()>>,
}

impl Kernel {
    fn stop(mut self) {
        let thread = self.thread.take();
        drop(self);
        thread.unwrap().join().unwrap();
    }
}

#[tokio::test]
async fn agents_find_each_other_and_notice_when_one_goes() {
    let lab = Lab::new(&["127.83.0.1", "127.83.0.2", "127.83.0.3"]);
    let mut kernels: Vec<_> = ["n1", "n2", "n3"].iter().map(|node| lab.kernel(node)).collect();
    let one = lab.start("n1");
    let mut alive = one.alive();
    assert_eq!(alive.borrow().len(), 3, "from the first moment");
    let (two, three) = (lab.start("n2"), lab.start("n3"));
    two.set_interfaces(["lo".to_owned()].into());
    three.set_interfaces(["lo".to_owned()].into());
    until(&mut alive, |a| a.get("n3").is_some_and(|n| n.interfaces.contains("lo"))).await;
    until(&mut alive, |a| a.get("n2").is_some_and(|n| n.interfaces.contains("lo"))).await;
    // Longer than a node may be silent: everybody is still there.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(alive.borrow().len() == 3 && alive.borrow().values().all(|n| n.agent));

    // n2's agent dies: it is missed; its kernel is still there.
    drop(two);
    let took = until(&mut alive, |a| !a["n2"].agent).await;
    println!("n2's agent died: noticed after {took:?}");
    assert!(took > Duration::from_millis(500), "{took:?}");
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(alive.borrow().contains_key("n2"));

    // Then that dies, too.
    let began = Instant::now();
    kernels.remove(1).stop();
    until(&mut alive, |a| !a.contains_key("n2")).await;
    println!("n2's kernel died: noticed after {:?}", began.elapsed());

    three.leave(Departure::Unloading);
    let took = until(&mut alive, |a| !a.contains_key("n3")).await;
    println!("n3 left: noticed after {took:?}");
    kernels.into_iter().for_each(Kernel::stop);
    let counts = one.exchange().counts();
    assert!(counts.answers > 0 && counts.forged == 0, "{counts:?}");
}

#[tokio::test]
async fn cookies_and_other_datagrams_travel_too() {
    let addresses = ["127.83.3.1", "127.83.3.2"];
    let lab = Lab::new(&addresses);
    let (one, mut two) = (lab.start("n1"), lab.start("n2"));
    for agent in [&one, &two] {
        agent.set_interfaces(["lo".to_owned()].into());
    }
    let cookie = Cookie::new(7).unwrap();
    one.exchange().tell_cookie(cookie).await;
    one.exchange().heard_probe(ip(addresses[1]));
    let mut cookies = two.exchange().cookies();
    let mut hearing = two.exchange().hearing();
    let patience = Duration::from_secs(20);
    let told = cookies.wait_for(|cookies| cookies.get("n1") == Some(&cookie));
    tokio::time::timeout(patience, told).await.unwrap().unwrap();
    let told = hearing.wait_for(|h| {
        h.get(&ip(addresses[0])).is_some_and(|heard| heard.contains(&ip(addresses[1])))
    });
    tokio::time::timeout(patience, told).await.unwrap().unwrap();

    let mut datagrams = two.take_datagrams().unwrap();
    assert!(one.exchange().send(Datagram { node: "n2".into(), bytes: b"Hello".to_vec() }));
    let got = tokio::time::timeout(patience, datagrams.recv()).await.unwrap();
    assert_eq!(got, Some(Datagram { node: "n1".into(), bytes: b"Hello".to_vec() }));
}

#[tokio::test]
async fn other_keys_are_taken_while_it_runs() {
    let lab = Lab::new(&["127.83.4.1", "127.83.4.2"]);
    let one = lab.start("n1");
    let other = watch::channel(Keyring::from_lines("another-key-of-theirs").unwrap()).0;
    let two = UdpLiveness::start(Setup { keys: other.subscribe(), ..lab.setup("n2") }).unwrap();
    for agent in [&one, &two] {
        agent.set_interfaces(["lo".to_owned()].into());
    }
    let mut alive = one.alive();
    until(&mut alive, |a| a.len() == 1).await;
    lab.keys.send_replace(Keyring::from_lines("0123456789abcdef\nanother-key-of-theirs").unwrap());
    until(&mut alive, |a| a.len() == 2).await;
}

#[tokio::test]
async fn addresses_that_become_known_later_are_listened_on() {
    let lab = Lab::new(&["127.83.1.1", "127.83.1.2"]);
    let two = lab.start("n2");
    let mut elsewhere = lab.nodes.clone();
    elsewhere.insert("n1".to_owned(), vec![ip("127.83.1.9")]);
    let one = UdpLiveness::start(Setup { nodes: elsewhere, ..lab.setup("n1") }).unwrap();
    let (mut first, mut second) = (one.alive(), two.alive());
    for agent in [&one, &two] {
        agent.set_interfaces(["lo".to_owned()].into());
    }
    until(&mut second, |a| a.len() == 1).await;
    one.set_nodes(lab.nodes.clone());
    until(&mut second, |a| a.len() == 2).await;
    until(&mut first, |a| a.len() == 2).await;
}

#[test]
fn a_port_that_is_taken() {
    let lab = Lab::new(&["127.83.2.1"]);
    let _taken = UdpSocket::bind(("127.83.2.1", lab.port)).unwrap();
    let error = UdpLiveness::start(lab.setup("n1")).unwrap_err();
    let text = error.to_string();
    let expected = format!("127.83.2.1:{}/udp", lab.port);
    assert!(text.contains(&expected) && !text.contains('\n'), "{text}");
}

#[test]
fn frames_are_counted() {
    assert_eq!(sockets::frames_received(&BTreeSet::new()), None);
    assert_eq!(
        sockets::frames_received(&[crate::membership::NO_INTERFACE.to_owned()].into()),
        None
    );
    let lo = ["lo".to_owned()].into();
    let before = sockets::frames_received(&lo).unwrap();
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.send_to(b"x", socket.local_addr().unwrap()).unwrap();
    assert!(sockets::frames_received(&lo).unwrap() > before);
}
