//! The results as text and as JSON.

use std::fmt::Write as _;

use lb_common::maps::DEFAULT_FLOWS;
use serde::Serialize;

use super::{
    allocation::Allocation,
    bgp::Bgp,
    cases::{self, Case, Flows, Target},
    cluster_size::ClusterSize,
    failover::Failover,
    first_answer::FirstAnswer,
    measure::{Effort, FLOORS, Figures, ONE_BY_ONE, Results},
    scale::LARGE_FLOWS,
    tables::Tables,
    wire::Wire,
};

/// Everything that a run found out.
pub struct Report {
    /// When, in words.
    pub date: String,
    /// Where: processor and kernel.
    pub machine: String,
    /// How much was run.
    pub effort: Effort,
    /// The load of the machine when it began, since it tells how far to trust the spread.
    pub load: String,
    /// Verified instructions and bytes of machine code of each program.
    pub sizes: Vec<(&'static str, u32, u32)>,
    /// Time of the program itself.
    pub results: Results,
    /// ARP on a veth, unless left out.
    pub wire: Option<Wire>,
    /// Tables of a large cluster, unless left out.
    pub tables: Option<Tables>,
    /// Addresses on a real API server, unless left out.
    pub allocation: Option<Allocation>,
    /// From a Service's creation to the first answer, unless left out.
    pub first_answer: Option<FirstAnswer>,
    /// BGP to a router, unless left out.
    pub bgp: Option<Bgp>,
    /// Cut links and planned stops, unless left out.
    pub failover: Option<Failover>,
    /// A large cluster on a real API server, unless left out.
    pub cluster_size: Option<ClusterSize>,
}

/// A figure held against its target.
#[derive(Clone, Debug, Serialize)]
pub struct Judged {
    /// What was measured.
    pub name: String,
    /// The median, or the only figure.
    pub figure: f64,
    /// Its bounds, least and most.
    pub between: Option<(f64, f64)>,
    /// Its unit.
    pub unit: &'static str,
    /// The target in words.
    pub target: Option<String>,
    /// Whether it is met.
    pub met: Option<bool>,
    /// What else there is to say.
    pub note: String,
}

impl Judged {
    /// A figure without a target.
    pub(super) fn told(
        name: impl Into<String>,
        figure: f64,
        unit: &'static str,
        note: impl Into<String>,
    ) -> Self {
        Self {
            name: name.into(),
            figure,
            between: None,
            unit,
            target: None,
            met: None,
            note: note.into(),
        }
    }
}

impl Report {
    /// All figures, in the order of the text.
    pub fn figures(&self) -> Vec<Judged> {
        let mut all: Vec<Judged> = Vec::new();
        for (name, _) in FLOORS {
            all.extend(self.results.get(name).map(|figures| plain(name, figures)));
        }
        for case in cases::all() {
            all.extend(self.results.get(case.name).map(|figures| self.judge(&case, figures)));
        }
        all.extend(self.results.get(ONE_BY_ONE).map(|figures| plain(ONE_BY_ONE, figures)));
        all
    }

    fn judge(&self, case: &Case, figures: &Figures) -> Judged {
        let mut judged = plain(case.name, figures);
        let median = figures.median();
        (judged.target, judged.met) = match case.target {
            None => (None, None),
            Some(Target::AtMost(ns)) => (Some(format!("≤ {ns}")), Some(median <= f64::from(ns))),
            Some(Target::AtMostMoreThan(other, ns)) => {
                let base = self.results.get(other).map_or(f64::NAN, Figures::median);
                let more = format!("≤ {base:.0} + {ns}");
                (Some(more), Some(median <= base + f64::from(ns)))
            }
        };
        judged.note = match (figures.known, case.flows) {
            (None, _) => String::new(),
            (Some(_), Flows::Others) => "among as many other flows".to_owned(),
            (Some(known), _) => format!("{known:.0} % of the flows known"),
        };
        judged
    }

    /// The figures of the wire, with what they are held against.
    pub fn wire_figures(&self) -> Vec<Judged> {
        let Some(wire) = &self.wire else { return Vec::new() };
        wire.judged()
    }

    /// The figures of large tables, with what they are held against.
    pub fn table_figures(&self) -> Vec<Judged> {
        self.tables.as_ref().map_or_else(Vec::new, Tables::judged)
    }

    /// The figures of the allocator, with what they are held against.
    pub fn allocation_figures(&self) -> Vec<Judged> {
        self.allocation.as_ref().map_or_else(Vec::new, Allocation::judged)
    }

    /// The figures of BGP, with what they are held against.
    pub fn bgp_figures(&self) -> Vec<Judged> {
        self.bgp.as_ref().map_or_else(Vec::new, Bgp::judged)
    }

    /// The figures of the first answers, with what they are held against.
    pub fn first_answer_figures(&self) -> Vec<Judged> {
        self.first_answer.as_ref().map_or_else(Vec::new, FirstAnswer::judged)
    }

    /// What clients noticed, with what that is held against.
    pub fn failover_figures(&self) -> Vec<Judged> {
        self.failover.as_ref().map_or_else(Vec::new, Failover::judged)
    }

    /// The figures of the large cluster, with what they are held against.
    pub fn cluster_size_figures(&self) -> Vec<Judged> {
        self.cluster_size.as_ref().map_or_else(Vec::new, ClusterSize::judged)
    }

    /// The results as Markdown.
    pub fn markdown(&self) -> String {
        let Self { date, machine, effort, load, sizes, .. } = self;
        let mut text = String::new();
        let _ = writeln!(
            text,
            "# What the data path costs\n\n\
             Written by `cargo xtask bench` on {date}.\n\n\
             - Machine: {machine}\n- Load when it began: {load}\n\
             - {} rounds of {} packets for each case, the cases taking turns\n\n\
             ![ns per packet](results.svg)\n",
            effort.rounds, effort.packets
        );
        let figures = self.figures();
        if !figures.is_empty() {
            let _ = writeln!(
                text,
                "## The program itself\n\n\
             ns per packet of the production program: the median of the rounds, least and most behind it, each\n\
             less an empty program in the same round. Maps of production size with 10,000 VIP ports, 100 nodes and\n\
             half a million rows. FLOWS has its usual {DEFAULT_FLOWS} entries, two for each flow; for delivery, replies\n\
             and second chances at 1 Mi flows it has {LARGE_FLOWS} (`--flow-capacity`), so that all flows of these cases,\n\
             3 Mi, are in it at once. The packet is written anew before each run, with another client where there are\n\
             many flows; the return value and the counters of each run are checked. Where the packet gets or loses\n\
             a tunnel's headers, the bench moves its head back, which is half of that floor and taken off, too.\n"
            );
            table(&mut text, &figures);
        }
        let wire = self.wire_figures();
        if !wire.is_empty() {
            let _ = writeln!(
                text,
                "\n## ARP on the wire\n\n\
                 Over a veth between two network namespaces: one request at a time, then a flood. The kernel's own\n\
                 answers are for the node's address on the same interface.\n"
            );
            table(&mut text, &wire);
        }
        let tables = self.table_figures();
        if !tables.is_empty() {
            let _ = writeln!(
                text,
                "\n## Tables of a large cluster\n\n\
                 10,000 VIP ports, each with another random set of 3 pods, on 100 nodes; planned for one of them and\n\
                 written into real maps.\n"
            );
            table(&mut text, &tables);
        }
        let allocation = self.allocation_figures();
        if !allocation.is_empty() {
            let _ = writeln!(
                text,
                "\n## Addresses\n\n\
                 An agent starts on a real API server with pending Services, and gives them addresses; next to\n\
                 the same patches by a client that does nothing else, as many at once.\n"
            );
            table(&mut text, &allocation);
        }
        let first_answer = self.first_answer_figures();
        if !first_answer.is_empty() {
            let _ = writeln!(
                text,
                "\n## The first answer\n\n\
                 A Service with a named address is created on a real API server, then its EndpointSlice; a\n\
                 client asks for the address by ARP every millisecond. The time is that from the sending of the\n\
                 first request, or from the API server's last response, to the first answer that the client sees.\n"
            );
            table(&mut text, &first_answer);
        }
        let bgp = self.bgp_figures();
        if !bgp.is_empty() {
            let _ = writeln!(
                text,
                "\n## BGP\n\n\
                 An agent on a real API server speaks to BIRD 2. A Service with a named address is created, then\n\
                 its EndpointSlice; a route is there once the kernel of the router says so. The Service is deleted\n\
                 again. With many Services, the session is ended and begun anew by the router, and then the agent\n\
                 is.\n"
            );
            table(&mut text, &bgp);
        }
        let failover = self.failover_figures();
        if !failover.is_empty() {
            let _ = writeln!(
                text,
                "\n## Failing over\n\n\
                 Three nodes on a bridge, a client on the same. Links are cut in turn with and without loss of\n\
                 carrier. A gap is the longest time between two answered probes, one every 2 ms (4 ms where 16 of\n\
                 the node's VIPs are probed at once), each from a new port. Planned work is done on the node\n\
                 that announces, under probes of both families.\n\n\
                 ![Gaps at cut links](failover.svg)\n"
            );
            table(&mut text, &failover);
        }
        let cluster_size = self.cluster_size_figures();
        if !cluster_size.is_empty() {
            let _ = writeln!(
                text,
                "\n## A large cluster\n\n\
                 Objects on a real API server: each Service with one port and ten pods of its own, spread over all\n\
                 nodes at random. One node has an agent. The others are addresses behind its router which send it\n\
                 the hellos of their agents, and answer probes; so rows name all nodes. The\n\
                 second start follows `lb-agent unload`. A change is a pod that becomes unready, and is there once\n\
                 the pinned entry of its Service names other rows.\n"
            );
            table(&mut text, &cluster_size);
        }
        let _ = writeln!(
            text,
            "\n## The programs\n\n| program | instructions verified | bytes of machine code |\n|---|---:|---:|"
        );
        for (name, verified, jited) in sizes {
            let _ = writeln!(text, "| {name} | {verified} | {jited} |");
        }
        text
    }

    /// The results as JSON.
    ///
    /// # Errors
    /// None in practice: everything in it can be written.
    pub fn json(&self) -> serde_json::Result<String> {
        let programs: Vec<_> = self
            .sizes
            .iter()
            .map(|(name, verified, jited)| {
                serde_json::json!({ "name": name, "verified": verified, "jited": jited })
            })
            .collect();
        serde_json::to_string_pretty(&serde_json::json!({
            "date": self.date,
            "machine": self.machine,
            "load": self.load,
            "rounds": self.effort.rounds,
            "packets": self.effort.packets,
            "program": self.figures(),
            "wire": self.wire_figures(),
            "tables": self.table_figures(),
            "allocation": self.allocation_figures(),
            "first_answer": self.first_answer_figures(),
            "bgp": self.bgp_figures(),
            "failover": self.failover_figures(),
            "cluster_size": self.cluster_size_figures(),
            "programs": programs,
        }))
    }
}

fn plain(name: &str, figures: &Figures) -> Judged {
    Judged {
        name: name.to_owned(),
        figure: figures.median(),
        between: Some((figures.least(), figures.most())),
        unit: "ns",
        target: None,
        met: None,
        note: String::new(),
    }
}

fn table(text: &mut String, figures: &[Judged]) {
    let _ = writeln!(
        text,
        "| what | figure | least to most | target | | |\n|---|---:|---:|---:|---|---|"
    );
    for judged in figures {
        let Judged { name, figure, between, unit, target, met, note } = judged;
        let between = between.map_or(String::new(), |(l, m)| format!("{l:.0} to {m:.0}"));
        let met = match met {
            None => "",
            Some(true) => "met",
            Some(false) => "**missed**",
        };
        let target = target.as_deref().unwrap_or("");
        let decimals = usize::from(["µs", "ms", "s", "%", "MiB"].contains(unit));
        let _ = writeln!(
            text,
            "| {name} | {figure:.decimals$} {unit} | {between} | {target} | {met} | {note} |"
        );
    }
}
