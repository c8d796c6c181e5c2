use super::*;
use crate::testing::ip;

/// A port that nobody uses on the loopback addresses that the tests take.
fn free_port(address: &str) -> u16 {
    let socket = StdUdpSocket::bind((ip(address), 0)).unwrap();
    socket.local_addr().unwrap().port()
}

async fn until(watch: &mut watch::Receiver<Arc<Alive>>, what: impl Fn(&Alive) -> bool) -> Duration {
    let began = Instant::now();
    let seen = watch.wait_for(|alive| what(alive));
    tokio::time::timeout(Duration::from_secs(20), seen).await.unwrap().unwrap();
    began.elapsed()
}

#[tokio::test]
async fn agents_find_each_other_and_notice_when_one_goes() {
    let addresses = ["127.83.0.1", "127.83.0.2", "127.83.0.3"];
    let nodes: KnownNodes =
        addresses.iter().zip(1..).map(|(a, i)| (format!("n{i}"), vec![ip(a)])).collect();
    let port = free_port(addresses[0]);
    let start = |me: &str| {
        UdpLiveness::start(me, port, Timing::default(), nodes.clone(), &BTreeSet::new()).unwrap()
    };
    let (one, two, three) = (start("n1"), start("n2"), start("n3"));
    two.set_interfaces(["eth7".to_owned()].into());
    three.set_interfaces(["eth7".to_owned()].into());
    let mut alive = one.alive();
    assert_eq!(alive.borrow().len(), 3, "from the first moment");
    until(&mut alive, |a| a.get("n3").is_some_and(|n| n.interfaces.contains("eth7"))).await;
    // Longer than a node may be silent: everybody is still there.
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert!(alive.borrow().len() == 3 && alive.borrow().values().all(|n| n.agent));

    three.leave(Departure::Unloading);
    let took = until(&mut alive, |a| !a.contains_key("n3")).await;
    println!("n3 left: noticed after {took:?}");
    drop(three);

    // n2 dies: its agent is missed. The loopback's kernel answers for it, if we may ask.
    drop(two);
    let took = until(&mut alive, |a| a.get("n2").is_none_or(|n| !n.agent)).await;
    println!("n2 died: noticed after {took:?}");
    assert!(took > Duration::from_millis(300), "{took:?}");
    let may_ask = raw_socket(Domain::IPV4, Protocol::ICMPV4).is_ok();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(alive.borrow().contains_key("n2"), may_ask);
}

#[tokio::test]
async fn cookies_and_other_datagrams_travel_too() {
    let addresses = ["127.83.3.1", "127.83.3.2"];
    let nodes: KnownNodes =
        addresses.iter().zip(1..).map(|(a, i)| (format!("n{i}"), vec![ip(a)])).collect();
    let port = free_port(addresses[0]);
    let start = |me: &str| {
        UdpLiveness::start(me, port, Timing::default(), nodes.clone(), &BTreeSet::new()).unwrap()
    };
    let (one, mut two) = (start("n1"), start("n2"));
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
async fn addresses_that_become_known_later_are_listened_on() {
    let nodes = |a: &str, b: &str| -> KnownNodes {
        [("n1".to_owned(), vec![ip(a)]), ("n2".to_owned(), vec![ip(b)])].into()
    };
    let port = free_port("127.83.1.1");
    let all = nodes("127.83.1.1", "127.83.1.2");
    let two =
        UdpLiveness::start("n2", port, Timing::default(), all.clone(), &BTreeSet::new()).unwrap();
    let elsewhere = nodes("127.83.1.9", "127.83.1.2");
    let one =
        UdpLiveness::start("n1", port, Timing::default(), elsewhere, &BTreeSet::new()).unwrap();
    let (mut first, mut second) = (one.alive(), two.alive());
    for agent in [&one, &two] {
        agent.set_interfaces(["eth0".to_owned()].into());
    }
    until(&mut second, |a| a.len() == 1).await;
    one.set_nodes(all);
    until(&mut second, |a| a.len() == 2).await;
    until(&mut first, |a| a.len() == 2).await;
}

#[test]
fn a_port_that_is_taken() {
    let taken = StdUdpSocket::bind(("127.83.2.1", 0)).unwrap();
    let port = taken.local_addr().unwrap().port();
    let nodes: KnownNodes = [("n1".to_owned(), vec![ip("127.83.2.1")])].into();
    let error =
        UdpLiveness::start("n1", port, Timing::default(), nodes, &BTreeSet::new()).unwrap_err();
    let text = error.to_string();
    assert!(text.contains(&format!("127.83.2.1:{port}/udp")) && !text.contains('\n'), "{text}");
}
