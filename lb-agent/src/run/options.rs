//! The command line of `lb-agent run`.
use crate::{
    cli::{DEFAULT_STATE_DIR, LoadOptions},
    datapath::{self, DEFAULT_TUNNEL_PORT, excluded::Excluded, reach::Forward},
    exit::{Exit, ExitContext as _},
    l2::conflicts::Policy,
    plan::{Delivery, PlanOptions},
};
use anyhow::{Context as _, anyhow};
use std::{
    io::ErrorKind,
    net::SocketAddr,
    path::{Path, PathBuf},
};

/// The namespace that Herald's own resources are read from, unless told otherwise.
const DEFAULT_NAMESPACE: &str = "metallb-system";

/// Where MetalLB's chart and manifests mount the ConfigMap.
const METALLB_EXCLUDED: &str = "/etc/metallb/excludel2.yaml";

/// Announce VIPs and carry their traffic, until told to stop
///
/// Flags win over environment variables. The METALLB_ ones are read so that the manifests
/// of a MetalLB installation keep working.
#[derive(Clone, Debug, clap::Args)]
pub struct Run {
    /// This node's name in the API [env: NODE_NAME, METALLB_NODE_NAME]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// Namespace of the metallb.io resources and of Herald's Leases
    /// [env: POD_NAMESPACE, METALLB_NAMESPACE] [default: metallb-system]
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long, value_name = "FILE", env = "KUBECONFIG", conflicts_with = "manifests")]
    pub kubeconfig: Option<PathBuf>,
    /// Read manifests from this folder instead of the Kubernetes API
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,
    /// Interfaces to serve VIPs on, by name or pattern (`eth*`); by default those with one of
    /// the node's InternalIPs or a default route, and those that L2Advertisements name
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    pub interfaces: Vec<String>,
    /// File with regular expressions for interfaces on which no VIP is announced on layer 2, as in
    /// MetalLB's ConfigMap metallb-excludel2 [default: /etc/metallb/excludel2.yaml, if it is there]
    #[arg(long, value_name = "FILE")]
    pub excluded_interfaces: Option<PathBuf>,
    /// Who does the last step to the pod: Herald, or kube-proxy
    #[arg(long, value_enum, default_value_t = DeliveryArgument::Direct)]
    pub delivery: DeliveryArgument,
    /// How packets reach other nodes
    #[arg(long, value_enum, default_value_t)]
    pub forward: Forward,
    /// What is done about another host that claims a VIP
    #[arg(long, value_enum, default_value_t)]
    pub address_conflict: Policy,
    /// Serve only Services with this spec.loadBalancerClass; by default, those without one
    #[arg(long, value_name = "CLASS")]
    pub lb_class: Option<String>,
    /// Announce from nodes labelled node.kubernetes.io/exclude-from-external-load-balancers, too
    #[arg(long)]
    pub ignore_exclude_lb: bool,
    /// UDP port on which agents talk to each other, the same on all nodes
    #[arg(long, value_name = "PORT", default_value_t = crate::membership::DEFAULT_PORT)]
    pub heartbeat_port: u16,
    /// File with the keys by which agents know each other, one a line of 16 characters or more, the
    /// newest last; read again as it changes [default: the Secret herald-membership, which the
    /// agents make; with --manifests, none]
    #[arg(long, value_name = "FILE")]
    pub membership_secret_file: Option<PathBuf>,
    /// UDP port of the tunnels between nodes, the same on all
    /// [default: the one after --heartbeat-port, 7948]
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub tunnel_port: Option<u16>,
    /// TCP port on which BGP peers may connect to this node, 179 mostly; without it the agent connects
    /// to them alone
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub bgp_listen_port: Option<u16>,
    /// How many prefixes a BGP peer may announce before its session ends; they are counted and dropped in
    /// any case, and without a limit not even remembered
    #[arg(long, value_name = "COUNT")]
    pub bgp_prefix_limit: Option<u32>,
    /// Where /metrics, /healthz and /readyz are served; `off` serves none
    #[arg(long, value_name = "ADDR:PORT", default_value = "127.0.0.1:9120", value_parser = listener)]
    pub metrics_addr: Listener,
    /// Whether API servers may ask this agent to check configuration before it is stored
    #[arg(long, value_enum, default_value_t = WebhookMode::Enabled)]
    pub webhook_mode: WebhookMode,
    /// TCP port on which they ask
    #[arg(long, value_name = "PORT", default_value_t = 9443, value_parser = clap::value_parser!(u16).range(1..))]
    pub webhook_port: u16,
    /// Folder for what is kept from one start to the next, of this node alone: what was last seen of the
    /// Kubernetes API, for an agent that starts while that is away
    #[arg(long, value_name = "DIR", default_value = DEFAULT_STATE_DIR)]
    pub state_dir: PathBuf,
    /// How programs and maps are loaded.
    #[command(flatten)]
    pub load: LoadOptions,
    /// What is logged: error, warn, info, debug, trace, or a filter such as `info,lb_agent::plan=debug`
    #[arg(long, value_name = "FILTER", env = "HERALD_LOG", default_value = "info")]
    pub log_level: String,
    /// How it is logged
    #[arg(long, value_enum, default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// `--delivery`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum DeliveryArgument {
    /// Herald rewrites the destination to the pod's address.
    Direct,
    /// Herald steers to a node with an endpoint and leaves the rest to kube-proxy.
    Kernel,
}

/// `--webhook-mode`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum WebhookMode {
    /// They may, once deploy/herald.yaml is applied.
    Enabled,
    /// They may not: what is wrong is told by the objects' status.
    Disabled,
}

/// `--log-format`
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// A line for people.
    Text,
    /// A JSON object a line.
    Json,
}

/// An address to listen on, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listener(pub Option<SocketAddr>);

fn listener(text: &str) -> Result<Listener, String> {
    if text == "off" {
        return Ok(Listener(None));
    }
    text.parse()
        .map(|address| Listener(Some(address)))
        .map_err(|_| "expected ADDRESS:PORT, such as 127.0.0.1:9120 or [::1]:9120, or `off`".into())
}

/// The first of the variables that is set and not empty.
fn environment(names: &[&str]) -> Option<String> {
    names.iter().find_map(|name| std::env::var(name).ok().filter(|value| !value.is_empty()))
}

impl Run {
    /// This node's name.
    ///
    /// # Errors
    ///
    /// It stands neither on the command line nor in the environment.
    pub fn node_name(&self) -> anyhow::Result<String> {
        (self.node_name.clone())
            .or_else(|| environment(&["NODE_NAME", "METALLB_NODE_NAME"]))
            .ok_or_else(|| {
                anyhow!("no node name: set --node-name or NODE_NAME to this node's name in the API")
            })
            .exit_with(Exit::Usage)
    }

    /// The namespace of Herald's own resources.
    pub fn namespace(&self) -> String {
        (self.namespace.clone())
            .or_else(|| environment(&["POD_NAMESPACE", "METALLB_NAMESPACE"]))
            .unwrap_or_else(|| DEFAULT_NAMESPACE.into())
    }

    /// The interfaces on which no VIP is announced.
    ///
    /// # Errors
    ///
    /// A file that is named is not there, or one that is there cannot be followed.
    pub fn excluded(&self) -> anyhow::Result<Excluded> {
        let named = self.excluded_interfaces.as_deref();
        let file = named.unwrap_or(Path::new(METALLB_EXCLUDED));
        let text = match std::fs::read_to_string(file) {
            Err(error) if named.is_none() && error.kind() == ErrorKind::NotFound => {
                return Ok(Excluded::default());
            }
            read => read.with_context(|| format!("{} cannot be read", file.display())),
        };
        text.and_then(|text| {
            Excluded::parse(&text).with_context(|| format!("{} is wrong", file.display()))
        })
        .exit_with(Exit::Configuration)
    }

    /// The port of the webhook, if it is to be served.
    pub fn webhook_port(&self) -> Option<u16> {
        (self.webhook_mode == WebhookMode::Enabled).then_some(self.webhook_port)
    }

    /// The UDP port of the tunnels.
    pub fn tunnel_port(&self) -> u16 {
        self.tunnel_port
            .or_else(|| self.heartbeat_port.checked_add(1))
            .unwrap_or(DEFAULT_TUNNEL_PORT)
    }

    /// How programs and maps are loaded.
    pub fn load_options(&self) -> datapath::Options {
        datapath::Options { tunnel_port: self.tunnel_port(), ..(&self.load).into() }
    }

    /// What plans depend on.
    pub fn plan_options(&self) -> PlanOptions {
        PlanOptions {
            delivery: match self.delivery {
                DeliveryArgument::Direct => Delivery::Direct,
                DeliveryArgument::Kernel => Delivery::Kernel,
            },
            ignore_exclude_label: self.ignore_exclude_lb,
            ..PlanOptions::default()
        }
    }
}
