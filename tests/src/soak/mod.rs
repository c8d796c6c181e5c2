//! Random changes of a cluster under load, for minutes or hours: nothing is lost that a change does not
//! explain, and nothing leaks.
mod changes;
mod resources;

use crate::{
    kernel::random::Random,
    lab::{
        connections::Load,
        probe::{self, Gaps},
        scenario::{Cluster, WEB_PORT},
        traffic::Traffic,
    },
    wait,
};
use anyhow::{Context as _, Result, ensure};
use changes::{Change, Explained};
use std::time::{Duration, Instant};

/// Connections to each address, and how long each lives: shorter than a pod's way out takes.
const CONNECTIONS: usize = 60;
pub(crate) const LIFE: Duration = Duration::from_secs(3);

/// Between two probes of new flows.
const PROBES: Duration = Duration::from_millis(5);

/// What a client may miss when a node's link is cut: four times what is aimed at.
const LONGEST_GAP: Duration = Duration::from_secs(1);

/// What is kept in case that it is wanted again soon is given back by then: threads that a runtime had for blocking
/// work, for one, after ten seconds (tokio's `thread_keep_alive`).
const GIVEN_BACK: Duration = Duration::from_secs(30);

/// How long, and from which seed.
pub struct Options {
    /// It ends with the lap that is begun last before this is over.
    pub lasts: Duration,
    /// Only changes that have one of these in their names; all if there are none.
    pub only: Vec<String>,
    /// The order of changes, and what each picks.
    pub seed: u64,
}

/// Changes everything that a cluster's life changes, in random order, again and again.
///
/// # Errors
/// A probe or a connection was lost that the change does not explain, something does not come back as it was,
/// or a process or a kernel has more than it began with.
pub fn run(options: &Options) -> Result<()> {
    let Options { lasts, ref only, seed } = *options;
    let is_wanted = |change: &Change| {
        only.is_empty() || only.iter().any(|text| change.name().contains(text.as_str()))
    };
    let changes: Vec<_> = Change::ALL.into_iter().filter(is_wanted).collect();
    ensure!(!changes.is_empty(), "no change has {} in its name", only.join(" or "));
    println!("seed {seed}: HERALD_SEED={seed} repeats the order of changes");
    let mut cluster = Cluster::on_kubernetes(&[])?;
    let result = laps(&mut cluster, &changes, lasts, &mut Random::new(seed));
    result.map_err(|error| cluster.failed(error))
}

fn laps(
    cluster: &mut Cluster,
    changes: &[Change],
    lasts: Duration,
    random: &mut Random,
) -> Result<()> {
    let begin = Instant::now();
    let mut totals = Totals::default();
    let mut lap = 0;
    let mut first = None;
    // What the first lap leaves is what a cluster has that everything has happened in once.
    while lap < 2 || begin.elapsed() < lasts {
        let mut order = changes.to_vec();
        for at in (1..order.len()).rev() {
            order.swap(at, random.below(at + 1));
        }
        for change in order {
            let line = round(cluster, change, random, &mut totals)
                .with_context(|| format!("lap {lap}: {change:?}"))?;
            println!("{:>7.1} s  {:<24} {line}", begin.elapsed().as_secs_f64(), change.name());
        }
        let now = wait::until(GIVEN_BACK, "nothing leaks", || {
            let now = resources::of(cluster)?;
            first.as_ref().map_or(Ok(()), |first| now.check(first))?;
            Ok(Some(now))
        })?;
        println!("lap {lap} is over:\n{now}");
        first.get_or_insert(now);
        lap += 1;
    }
    let Totals { probes, lost, connections, broken, answers } = totals;
    println!(
        "{lap} laps of {} changes in {:.0} s: {probes} probes, {lost} lost, all while a link was cut; \
         {connections} connections with {answers} answers, {broken} broken, all to pods behind a cut \
         link; nothing leaks",
        changes.len(),
        begin.elapsed().as_secs_f64()
    );
    Ok(())
}

#[derive(Default)]
struct Totals {
    probes: usize,
    lost: usize,
    connections: usize,
    broken: usize,
    answers: usize,
}

/// One change, with connections and probes before, while and after it happens.
fn round(
    cluster: &mut Cluster,
    change: Change,
    random: &mut Random,
    totals: &mut Totals,
) -> Result<String> {
    let client = cluster.lab.client.namespace.clone();
    let load = Load { connections: CONNECTIONS, life: Some(LIFE), ..Load::default() };
    let traffic = Traffic::begin(&client, &cluster.vips, load, 0)?;
    let probes = cluster.vips.map(|vip| probe::watch_gaps(&client, (vip, WEB_PORT).into(), PROBES));
    traffic.settle(2)?;
    let explained = change.make(cluster, random)?;
    traffic.settle(4)?;
    let outcome = traffic.stop()?;
    let mut line = String::new();
    for (vip, running) in cluster.vips.iter().zip(probes) {
        let gaps = running.stop()?;
        check_gaps(&gaps, &explained).with_context(|| vip.to_string())?;
        totals.probes += gaps.sent;
        totals.lost += gaps.lost();
        line += &format!("{} of {} probes lost  ", gaps.lost(), gaps.sent);
    }
    for (vip, report) in &outcome.tcp {
        let unexplained = report.failures.iter().find(|failure| {
            !failure.pod.as_deref().is_some_and(|pod| explained.pods.iter().any(|lost| lost == pod))
        });
        if let Some(failure) = unexplained {
            anyhow::bail!("{vip}: {failure}, which nothing explains");
        }
        totals.connections += report.opened;
        totals.broken += report.failures.len();
        totals.answers += report.answers;
        line += &format!("{} of {} connections broken  ", report.failures.len(), report.opened);
    }
    Ok(line)
}

fn check_gaps(gaps: &Gaps, explained: &Explained) -> Result<()> {
    if explained.cut {
        let longest = gaps.longest();
        ensure!(longest <= LONGEST_GAP, "a gap of {} ms", longest.as_millis());
        return Ok(());
    }
    ensure!(
        gaps.lost() == 0,
        "{} of {} probes lost, which nothing explains",
        gaps.lost(),
        gaps.sent
    );
    Ok(())
}
