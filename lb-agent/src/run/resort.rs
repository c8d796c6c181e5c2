//! The last resort's shell: events of the kernel program, datagrams of other agents, the
//! tables of flows and the kernel's connection tracking.
use super::steer::lock;
use crate::{
    conntrack::{Conntrack, Entry, Tuple},
    datapath::{apply::Datapath, flows::FlowMaps},
    deadline::until,
    membership::{
        Alive,
        cookies::Cookie,
        udp::{Datagram, Exchange},
    },
    metrics::View,
    plan::{Plan, ServiceAddress},
    resort::{
        FlowId, Found, KNOWN_S, Knowledge,
        ask::{Asker, Conclusion, Output},
        know::{Tables, know},
        message::{Body, MAX_FLOWS, Message},
        rate::Rate,
    },
    snapshot::Protocol,
    system,
};
use lb_common::maps::{ELSEWHERE_NOBODY_S, Flow, FlowKey, THIS_NODE};
use std::{
    collections::{BTreeMap, HashMap},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};
use tokio::{
    sync::{mpsc, watch},
    task::block_in_place,
};
use tracing::{debug, warn};

/// How many flows others may ask about in a second: all agents of a large cluster at a time
/// when each asks as much as it may would be too much.
const ANSWERS_PER_SECOND: u32 = 20_000;
/// So many events or datagrams are taken in before anything is sent.
const TOGETHER: usize = 256;

/// What the kernel program asks about: the flow, and the index of the row's node.
pub(super) type Unknown = (FlowKey, u32);

/// What the last resort is given.
pub(super) struct Parts {
    pub(super) me: String,
    pub(super) datapath: Arc<Mutex<Datapath>>,
    pub(super) flows: Arc<Mutex<FlowMaps>>,
    pub(super) view: Arc<View>,
    pub(super) exchange: Exchange,
    pub(super) alive: watch::Receiver<Arc<Alive>>,
    /// What this node takes.
    pub(super) cookies: watch::Receiver<[u64; 2]>,
}

/// Runs as long as the agent does.
pub(super) async fn run(
    parts: Parts,
    mut unknown: mpsc::Receiver<Unknown>,
    mut datagrams: mpsc::Receiver<Datagram>,
) {
    let now = Instant::now();
    let mut resort = Resort {
        asker: Asker::new(now),
        rate: Rate::new(ANSWERS_PER_SECOND, now),
        tracking: Tracking::open(),
        endpoints: Endpoints::default(),
        parts,
    };
    let mut alive = resort.parts.alive.clone();
    loop {
        block_in_place(|| resort.act());
        let deadline = resort.asker.next_deadline();
        tokio::select! {
            Ok(()) = alive.changed() => {}
            Some(first) = unknown.recv() => block_in_place(|| {
                resort.unknown(first);
                (1..TOGETHER).map_while(|_| unknown.try_recv().ok()).for_each(|u| resort.unknown(u));
            }),
            Some(first) = datagrams.recv() => block_in_place(|| {
                resort.receive(&first);
                (1..TOGETHER).map_while(|_| datagrams.try_recv().ok()).for_each(|d| resort.receive(&d));
            }),
            () = until(deadline) => {}
        }
    }
}

fn now_s() -> u32 {
    u32::try_from(system::monotonic_ns() / 1_000_000_000).unwrap_or(u32::MAX)
}

/// The tables of flows, whoever held them last. Whoever wants the data path, too, has that first.
fn flows(flows: &Mutex<FlowMaps>) -> MutexGuard<'_, FlowMaps> {
    flows.lock().unwrap_or_else(PoisonError::into_inner)
}

struct Resort {
    parts: Parts,
    asker: Asker,
    rate: Rate,
    tracking: Tracking,
    endpoints: Endpoints,
}

impl Resort {
    /// How well this node knows a flow; `None` if that cannot be said.
    fn know(&mut self, flow: &FlowId) -> Option<Knowledge> {
        self.endpoints.follow(&self.parts.view.plan());
        let datapath = lock(&self.parts.datapath);
        self.tracking.failed = false;
        let mut flows = flows(&self.parts.flows);
        let mut here = Here {
            datapath: &datapath,
            flows: &mut flows,
            tracking: &mut self.tracking,
            endpoints: &mut self.endpoints,
        };
        let knowledge = know(&mut here, flow, now_s());
        (knowledge != Knowledge::Nothing || !self.tracking.failed).then_some(knowledge)
    }

    fn unknown(&mut self, (key, node): Unknown) {
        let flow = FlowId::from_key(&key);
        let row_node = {
            let datapath = lock(&self.parts.datapath);
            datapath.node_name(node, &self.parts.me).map(str::to_owned)
        };
        match self.know(&flow) {
            None => {}
            Some(knowledge) if knowledge.is_doubtful() => {
                let ended =
                    (knowledge != Knowledge::Nothing).then(|| (self.parts.me.clone(), knowledge));
                let asked = self.asker.ask(flow, row_node, ended, Instant::now());
                let own = &self.parts.view.own;
                (if asked { &own.asked } else { &own.not_asked }).add(1);
                // Its next packet asks again, rather than wait for an answer that nobody gives.
                if !asked && let Err(error) = flows(&self.parts.flows).forget(&flow.key()) {
                    warn!("{error}");
                }
            }
            Some(_) => {
                let found = Found::At(self.parts.me.clone());
                self.conclude(vec![Conclusion { flow, row_node, found, ended: false }]);
            }
        }
    }

    /// Sends what is due.
    fn act(&mut self) {
        let others: BTreeMap<String, bool> = {
            let alive = self.parts.alive.borrow();
            let others = alive.iter().filter(|(name, _)| **name != self.parts.me);
            others.map(|(name, node)| (name.clone(), node.agent)).collect()
        };
        let Output { questions, conclusions, inconclusive } =
            self.asker.poll(&others, Instant::now());
        for (node, flows) in questions {
            for flows in flows.chunks(MAX_FLOWS) {
                self.send(&node, Body::Question(flows.to_vec()));
            }
        }
        self.conclude(conclusions);
        self.parts.view.own.not_found.add(inconclusive);
    }

    fn send(&self, node: &str, body: Body) {
        let cookie = self.parts.exchange.cookies().borrow().get(node).copied();
        let Some(cookie) = cookie else {
            debug!(node, "has told no cookie yet: it cannot be asked");
            return;
        };
        let bytes = Message { cookie, body }.encode();
        if !self.parts.exchange.send(Datagram { node: node.to_owned(), bytes }) {
            debug!(node, "too much to send");
        }
    }

    /// Writes what has been found out, and tells the rows' nodes.
    fn conclude(&mut self, conclusions: Vec<Conclusion>) {
        let mut verdicts: BTreeMap<String, Vec<(FlowId, Found<IpAddr>)>> = BTreeMap::new();
        let plan = self.parts.view.plan();
        for Conclusion { flow, row_node, found, ended } in conclusions {
            let own = &self.parts.view.own;
            let counter = match &found {
                Found::At(node) if *node == self.parts.me => &own.found_here,
                Found::At(_) => &own.found_elsewhere,
                Found::Nobody => &own.found_nowhere,
            };
            counter.add(1);
            debug!(?flow, ?found, "asked about");
            self.note(&flow, &found);
            let knower = match &found {
                Found::At(name) => Some(name.clone()),
                Found::Nobody => None,
            };
            // Who knows it need not be told, unless it has to know that nobody knows it better.
            let row_node = row_node.filter(|row| knower.as_ref() != Some(row));
            let told = row_node.into_iter().chain(knower.filter(|_| ended));
            let told: Vec<_> = told.filter(|node| *node != self.parts.me).collect();
            let found = match found {
                Found::Nobody => Found::Nobody,
                Found::At(name) => {
                    let node = plan.nodes.iter().find(|node| node.name == name);
                    let Some(address) = node.and_then(|node| node.addresses.first()) else {
                        continue;
                    };
                    Found::At(*address)
                }
            };
            for node in told {
                verdicts.entry(node).or_default().push((flow, found));
            }
        }
        for (node, verdicts) in verdicts {
            for verdicts in verdicts.chunks(MAX_FLOWS) {
                self.send(&node, Body::Verdict(verdicts.to_vec()));
            }
        }
    }

    /// Lets the kernel program know where a flow is.
    fn note(&mut self, flow: &FlowId, found: &Found<String>) {
        let (node, lasts) = match found {
            Found::At(name) if *name == self.parts.me => (Some(THIS_NODE), KNOWN_S),
            Found::At(name) => {
                let index = lock(&self.parts.datapath).node_index(name, &self.parts.me);
                if index.is_none() {
                    return;
                }
                (index, KNOWN_S)
            }
            Found::Nobody => (None, ELSEWHERE_NOBODY_S),
        };
        let until_s = now_s().saturating_add(lasts);
        let noted = flows(&self.parts.flows).note(&flow.key(), node, until_s);
        if let Err(error) = noted {
            warn!("{error}");
        }
    }

    fn receive(&mut self, datagram: &Datagram) {
        let Datagram { node, bytes } = datagram;
        let message = match Message::parse(bytes) {
            Ok(message) => message,
            Err(malformed) => {
                debug!(node, "ignored: {malformed}");
                return;
            }
        };
        if !self.takes(message.cookie) {
            debug!(node, "ignored: a message without this node's cookie");
            return;
        }
        match message.body {
            Body::Question(flows) => {
                let mut answers = Vec::new();
                for flow in flows {
                    if !self.rate.allows(Instant::now()) {
                        break;
                    }
                    let Some(knowledge) = self.know(&flow) else { continue };
                    self.parts.view.own.answered(knowledge);
                    answers.push((flow, knowledge));
                }
                for answers in answers.chunks(MAX_FLOWS) {
                    self.send(node, Body::Answer(answers.to_vec()));
                }
            }
            Body::Answer(answers) => {
                for (flow, knowledge) in answers {
                    self.asker.answer(node, &flow, knowledge);
                }
            }
            Body::Verdict(verdicts) => {
                let plan = self.parts.view.plan();
                for (flow, found) in verdicts {
                    let found = match found {
                        Found::Nobody => Found::Nobody,
                        Found::At(address) => {
                            let of = plan.nodes.iter().find(|n| n.addresses.contains(&address));
                            let Some(of) = of else { continue };
                            Found::At(of.name.clone())
                        }
                    };
                    self.note(&flow, &found);
                }
            }
        }
    }

    fn takes(&self, cookie: Cookie) -> bool {
        self.parts.cookies.borrow().contains(&cookie.get())
    }
}

/// The kernel's connection tracking, if it has any.
struct Tracking {
    conntrack: Option<Conntrack>,
    /// A look failed though there is connection tracking: it cannot be said what it knows.
    failed: bool,
    said: bool,
}

impl Tracking {
    fn open() -> Self {
        let conntrack =
            Conntrack::open().inspect_err(|error| debug!("no connection tracking: {error}")).ok();
        Self { conntrack, failed: false, said: false }
    }

    fn get(&mut self, tuple: &Tuple) -> Option<Entry> {
        match self.conntrack.as_mut()?.get(tuple) {
            Ok(entry) => entry,
            // nf_conntrack_netlink is not there, or does not know the protocol.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP)) => {
                None
            }
            Err(error) => {
                self.fail(&error);
                None
            }
        }
    }

    fn fail(&mut self, error: &io::Error) {
        self.failed = true;
        if !std::mem::replace(&mut self.said, true) {
            warn!(
                "connection tracking cannot be read ({error}): connections that kube-proxy began are not found"
            );
        }
    }
}

/// This node's endpoints of each Service, worked out when they are needed.
#[derive(Default)]
struct Endpoints {
    plan: Arc<Plan>,
    known: HashMap<ServiceAddress, Vec<SocketAddr>>,
}

impl Endpoints {
    fn follow(&mut self, plan: &Arc<Plan>) {
        if !Arc::ptr_eq(&self.plan, plan) {
            *self = Self { plan: Arc::clone(plan), known: HashMap::new() };
        }
    }

    fn of(&mut self, flow: &FlowId) -> Vec<SocketAddr> {
        let protocols = [Protocol::Tcp, Protocol::Udp, Protocol::Sctp];
        let Some(protocol) = protocols.into_iter().find(|p| p.number() == flow.protocol) else {
            return Vec::new();
        };
        let address = ServiceAddress { vip: flow.vip, port: flow.port, protocol };
        let Self { plan, known } = self;
        if !plan.services.contains_key(&address) {
            return Vec::new();
        }
        let endpoints = || super::handover::endpoints(plan, &address).into_iter().collect();
        known.entry(address).or_insert_with(endpoints).clone()
    }
}

/// What this node knows.
struct Here<'a> {
    datapath: &'a Datapath,
    flows: &'a mut FlowMaps,
    tracking: &'a mut Tracking,
    endpoints: &'a mut Endpoints,
}

impl Tables for Here<'_> {
    fn flow(&mut self, key: &FlowKey) -> Option<Flow> {
        self.flows.flow(key).inspect_err(|error| warn!("{error}")).ok().flatten()
    }

    fn write(&mut self, key: &FlowKey, flow: &Flow) -> bool {
        self.flows.write(key, flow).inspect_err(|error| warn!("{error}")).is_ok()
    }

    fn is_endpoint(&self, index: u32, address: [u8; 16], port: [u8; 2]) -> bool {
        self.datapath.is_endpoint(index, address, port)
    }

    fn endpoints(&mut self, flow: &FlowId) -> Vec<(u32, SocketAddr)> {
        let index = |at: SocketAddr| {
            let address = crate::datapath::address_bytes(at.ip());
            Some((self.datapath.endpoint_index(address, at.port().to_be_bytes())?, at))
        };
        self.endpoints.of(flow).into_iter().filter_map(index).collect()
    }

    fn connection(&mut self, tuple: &Tuple) -> Option<Entry> {
        self.tracking.get(tuple)
    }
}
