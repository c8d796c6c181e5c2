use super::*;
use crate::testing::ip;

const S: Duration = Duration::from_secs(1);

fn on(ifindex: u32, vip: &str) -> Announcement {
    Announcement { vip: ip(vip), ifindex, mac: [2, 0, 0, 0, 0, 1] }
}

fn many(count: u8) -> BTreeSet<Announcement> {
    (0..count).map(|n| on(3, &format!("192.0.2.{n}"))).collect()
}

fn idle() -> BTreeMap<IpAddr, u64> {
    BTreeMap::new()
}

/// Polls at every deadline up to `until`; the times, and what was sent.
fn run(
    announcer: &mut Announcer,
    start: Instant,
    until: Duration,
) -> Vec<(Duration, Vec<Outgoing>)> {
    let mut log = Vec::new();
    while let Some(at) = announcer.next_deadline().filter(|at| *at <= start + until) {
        let sent = announcer.poll(at);
        assert!(!sent.is_empty(), "a deadline without anything to send");
        log.push((at - start, sent));
    }
    log
}

fn times(log: &[(Duration, Vec<Outgoing>)]) -> Vec<(Duration, usize)> {
    log.iter().map(|(at, sent)| (*at, sent.len())).collect()
}

#[test]
fn a_vip_that_came_is_announced_five_times() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, [on(3, "192.0.2.5")].into(), &idle());
    let log = run(&mut announcer, start, 60 * S);
    assert_eq!(times(&log), ROUNDS.map(|at| (at, 2)));
}

#[test]
fn what_stays_is_repeated_every_minute_or_two_at_different_times() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, many(200), &idle());
    run(&mut announcer, start, 10 * S);
    let mut at = BTreeMap::<IpAddr, Vec<Duration>>::new();
    let mut most = 0;
    for (when, sent) in run(&mut announcer, start, 1000 * S) {
        most = most.max(sent.len());
        for one in sent {
            assert_eq!(one.frame[20..22], [0, 1], "an announcement is a request");
            at.entry(one.vip).or_default().push(when);
        }
    }
    assert_eq!(at.len(), 200);
    for (vip, times) in &at {
        for pair in times.windows(2) {
            let pause = pair[1] - pair[0];
            assert!((60 * S..122 * S).contains(&pause), "{vip}: {pause:?}");
        }
    }
    assert!(most <= 4, "{most} at once");
    let firsts: BTreeSet<_> = at.values().map(|times| times[0]).collect();
    assert!(firsts.len() > 150, "only {} different times", firsts.len());
}

#[test]
fn repetitions_are_bounded_however_many_there_are() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    let all = (0..40).flat_map(|a| (0..250).map(move |b| on(3, &format!("10.0.{a}.{b}"))));
    announcer.update(start, all.collect(), &idle());
    run(&mut announcer, start, 60 * S);
    let log = run(&mut announcer, start, 300 * S);
    let sent: usize = log.iter().map(|(_, sent)| sent.len()).sum();
    assert!((10_000..=100 * 240 + 4).contains(&sent), "{sent} in 240 s");
}

#[test]
fn what_stays_is_not_told_as_new_but_a_new_link_layer_address_is() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, [on(3, "2001:db8::5")].into(), &idle());
    run(&mut announcer, start, 30 * S);
    announcer.update(start + 30 * S, [on(3, "2001:db8::5")].into(), &idle());
    assert!(announcer.next_deadline() > Some(start + 60 * S));
    let moved = Announcement { mac: [2, 0, 0, 0, 0, 9], ..on(3, "2001:db8::5") };
    let later = start + 60 * S;
    announcer.update(later, [moved].into(), &idle());
    let sent = announcer.poll(later);
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].frame[6..12], moved.mac);
}

#[test]
fn what_is_gone_is_silent_at_once() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, [on(3, "192.0.2.5"), on(3, "192.0.2.6")].into(), &idle());
    announcer.probe_everywhere(start, ip("192.0.2.5"));
    announcer.poll(start);
    announcer.update(start, [on(3, "192.0.2.6")].into(), &idle());
    let later = run(&mut announcer, start, 100 * S);
    assert!(!later.is_empty());
    assert!(later.iter().flat_map(|(_, sent)| sent).all(|o| o.vip == ip("192.0.2.6")), "{later:?}");
}

#[test]
fn two_hundred_are_told_in_much_less_than_a_tenth_of_a_second_and_not_at_once() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, many(200), &idle());
    let mut told = BTreeSet::new();
    let mut latest = Duration::ZERO;
    for (at, sent) in run(&mut announcer, start, S / 5) {
        assert!(sent.len() <= 65, "{} at once", sent.len());
        for one in sent {
            if told.insert(one.vip) {
                latest = at;
            }
        }
    }
    assert_eq!(told.len(), 200);
    assert!(latest <= Duration::from_millis(40), "{latest:?}");
}

#[test]
fn the_busiest_are_told_first() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    let busy = BTreeMap::from([(ip("192.0.2.150"), 7), (ip("192.0.2.190"), 9_000_000)]);
    announcer.update(start, many(200), &busy);
    let sent = announcer.poll(start);
    let first: Vec<_> = sent.iter().step_by(2).map(|one| one.vip).take(3).collect();
    assert_eq!(first, [ip("192.0.2.190"), ip("192.0.2.150"), ip("192.0.2.0")]);
}

#[test]
fn newcomers_do_not_wait_for_repetitions() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, many(200), &idle());
    run(&mut announcer, start, S / 5);
    // The second round begins: it takes 200 ms.
    let now = start + Duration::from_millis(260);
    announcer.poll(now);
    announcer.update(now, many(200).into_iter().chain([on(4, "192.0.2.250")]).collect(), &idle());
    let sent = announcer.poll(now);
    assert_eq!(sent[0].ifindex, 4);
}

#[test]
fn what_is_claimed_by_another_is_said_once_more() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    let here = on(3, "192.0.2.5");
    announcer.update(start, [here].into(), &idle());
    run(&mut announcer, start, 10 * S);
    let now = start + 20 * S;
    announcer.repeat(now, &here);
    assert_eq!(announcer.poll(now).len(), 2);
    let next = announcer.next_deadline().unwrap();
    assert!((60 * S..=120 * S).contains(&(next - now)), "{:?}", next - now);
    announcer.repeat(now, &on(4, "192.0.2.5"));
    assert_eq!(announcer.poll(now).len(), 0, "not announced there");
}

#[test]
fn after_a_partition_all_is_said_again_but_newcomers_go_first() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, many(200), &idle());
    run(&mut announcer, start, 30 * S);
    let now = start + 30 * S;
    announcer.repeat_all(now);
    announcer.update(now, many(200).into_iter().chain([on(4, "192.0.2.250")]).collect(), &idle());
    let sent = announcer.poll(now);
    assert_eq!(sent[0].ifindex, 4);
    announcer.repeat_all(now);
    let log = run(&mut announcer, now, 10 * S);
    let again: usize = log.iter().map(|(_, sent)| sent.len()).sum();
    assert_eq!(sent.len() + again, (200 + 1) * 2 * ROUNDS.len());
}

#[test]
fn who_else_has_an_address_is_asked_three_times_wherever_it_is_announced() {
    let start = Instant::now();
    let mut announcer = Announcer::default();
    announcer.update(start, [on(3, "192.0.2.5"), on(4, "192.0.2.5")].into(), &idle());
    announcer.probe_everywhere(start, ip("192.0.2.5"));
    announcer.probe_everywhere(start, ip("192.0.2.9"));
    let first = announcer.poll(start);
    // Not before it is announced, and not instead.
    let gratuitous: Vec<_> = first.iter().map(|one| one.gratuitous).collect();
    assert_eq!(gratuitous, [true, true, true, true, false, false]);
    let mut probes = 2;
    for (_, sent) in run(&mut announcer, start, 100 * S) {
        for one in sent.iter().filter(|one| !one.gratuitous) {
            assert_eq!(one.frame[28..32], [0; 4], "a probe's sender is nobody");
            probes += 1;
        }
    }
    assert_eq!(probes, 6);
}
