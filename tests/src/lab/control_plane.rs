//! A real control plane on the LAN: etcd and kube-apiserver on a machine of their own, and
//! kube-proxy on each node. Only the kubelets are missing.
use super::{Host, Lab, addresses, agent, cleanup, command};
use crate::wait;
use anyhow::{Context, Result};
use serde::Deserialize as _;
use std::{
    env, fs,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

/// The release whose programs are built by `cargo xtask setup --kubernetes`.
pub const VERSION: &str = "1.36.3";

/// The namespace of Herald's own objects.
pub const NAMESPACE: &str = "metallb-system";
/// The service account that the agents run as.
pub const SERVICE_ACCOUNT: &str = "herald";

/// A cold machine shared with a build takes this long.
const START_LIMIT: Duration = Duration::from_secs(90);

/// How kube-proxy serves Services.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyMode {
    /// By rules of iptables.
    Iptables,
    /// By maps of nftables.
    Nftables,
}

/// The control plane.
pub struct ControlPlane {
    /// Its machine.
    pub host: Host,
    directory: PathBuf,
    api_server: Option<Child>,
}

/// One of Kubernetes' programs, from the folder that `HERALD_KUBERNETES` names, else from
/// Herald's cache (`HERALD_CACHE`, else `XDG_CACHE_HOME/herald`, else `~/.cache/herald`).
///
/// # Errors
/// It is not built: says how to.
pub fn program(name: &str) -> Result<PathBuf> {
    let named = |variable| env::var_os(variable).filter(|v| !v.is_empty()).map(PathBuf::from);
    let folder = named("HERALD_KUBERNETES").or_else(|| {
        let cache = named("HERALD_CACHE")
            .or_else(|| Some(named("XDG_CACHE_HOME")?.join("herald")))
            .or_else(|| Some(named("HOME")?.join(".cache/herald")))?;
        Some(cache.join(format!("kubernetes-{VERSION}")))
    });
    folder.map(|folder| folder.join(name)).filter(|file| file.is_file()).with_context(|| {
        format!("{name} {VERSION} is not built: run `cargo xtask setup --kubernetes`")
    })
}

/// Checks that all of Kubernetes' programs are there.
///
/// # Errors
/// Names the first that is not, and how to build it.
pub fn check_programs() -> Result<()> {
    [
        "etcd",
        "helm",
        "kube-apiserver",
        "kube-controller-manager",
        "kube-proxy",
        "kubectl",
        "runtime-default",
    ]
    .iter()
    .try_for_each(|p| program(p).map(drop))
}

impl ControlPlane {
    /// Starts etcd and the API server, and waits until it is ready.
    ///
    /// # Errors
    /// A program is missing, or does not get ready: its log says why.
    pub fn start(lab: &Lab) -> Result<Self> {
        check_programs()?;
        let host = lab.add_host("control", addresses::CONTROL)?;
        let directory = lab.directory.join("control-plane");
        fs::create_dir_all(directory.join("pki"))?;
        // Token, user, id, groups
        fs::write(
            directory.join("tokens.csv"),
            "admin-token,admin,admin,system:masters\nproxy-token,system:kube-proxy,kube-proxy\n",
        )?;
        let mut control = Self { host, directory, api_server: None };
        let mut etcd = control.host.namespace.command(program("etcd")?);
        etcd.arg("--data-dir").arg(control.directory.join("etcd")).args([
            "--listen-client-urls=http://127.0.0.1:2379",
            "--advertise-client-urls=http://127.0.0.1:2379",
            "--listen-peer-urls=http://127.0.0.1:2380",
            "--log-level=warn",
            // A power cut is not what is tested here.
            "--unsafe-no-fsync",
        ]);
        control.spawn(etcd, "etcd")?;
        control.start_api_server()?;
        control.write_kubeconfig("admin", "admin-token")?;
        control.write_kubeconfig("kube-proxy", "proxy-token")?;
        control.await_ready()?;
        Ok(control)
    }

    /// Starts a program whose output goes to a log of that name.
    pub(super) fn spawn(&self, mut command: Command, name: &str) -> Result<Child> {
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.directory.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        cleanup::spawn(&mut command)
    }

    /// Starts the API server, again if it was stopped.
    ///
    /// # Errors
    /// It is not built.
    pub fn start_api_server(&mut self) -> Result<()> {
        let pki = self.directory.join("pki");
        let key = pki.join("apiserver.key");
        let mut server = self.host.namespace.command(program("kube-apiserver")?);
        server.args([
            "--etcd-servers=http://127.0.0.1:2379",
            "--bind-address=0.0.0.0",
            "--secure-port=6443",
            "--service-cluster-ip-range=10.96.0.0/16,fd00:96::/112",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--authorization-mode=Node,RBAC",
            // No kube-proxy runs on its machine: webhooks are reached at their endpoints.
            "--enable-aggregator-routing=true",
            // It would wait for tokens that a controller makes.
            "--disable-admission-plugins=ServiceAccount",
        ]);
        server.arg(format!("--advertise-address={}", self.host.ipv4));
        server.arg("--cert-dir").arg(&pki);
        server.arg("--token-auth-file").arg(self.directory.join("tokens.csv"));
        // The serving key, which the server makes itself, signs the tokens as well.
        server.arg("--service-account-key-file").arg(&key);
        server.arg("--service-account-signing-key-file").arg(&key);
        self.api_server = Some(self.spawn(server, "kube-apiserver")?);
        Ok(())
    }

    /// Kills the API server: nobody says goodbye to its clients.
    ///
    /// # Errors
    /// It was not running.
    pub fn stop_api_server(&mut self) -> Result<()> {
        let mut server = self.api_server.take().context("the API server is not running")?;
        server.kill()?;
        server.wait()?;
        Ok(())
    }

    /// Waits until the API server serves.
    ///
    /// # Errors
    /// It does not within a minute and a half.
    pub fn await_ready(&self) -> Result<()> {
        wait::until_true(START_LIMIT, "kube-apiserver is ready", || {
            Ok(self.kubectl(&["get", "--raw", "/readyz"])?.trim() == "ok")
        })
    }

    /// Writes a kubeconfig and returns its path.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_kubeconfig(&self, user: &str, token: &str) -> Result<PathBuf> {
        let file = self.directory.join(format!("{user}.kubeconfig"));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: lab\n\
             clusters:\n- name: lab\n  cluster:\n    server: https://{}:6443\n\
             \x20   certificate-authority: {}\n\
             users:\n- name: {user}\n  user:\n    token: {token}\n\
             contexts:\n- name: lab\n  context:\n    cluster: lab\n    user: {user}\n",
            self.host.ipv4,
            self.certificate().display(),
        );
        fs::write(&file, text)?;
        Ok(file)
    }

    /// Writes the kubeconfig of a service account.
    ///
    /// # Errors
    /// There is no such account.
    pub(super) fn kubeconfig_of(
        &self,
        file: &str,
        namespace: &str,
        account: &str,
    ) -> Result<PathBuf> {
        self.write_kubeconfig(file, &self.token(namespace, account)?)
    }

    /// A token of a service account.
    pub(super) fn token(&self, namespace: &str, account: &str) -> Result<String> {
        let arguments = ["create", "token", account, "--namespace", namespace, "--duration=24h"];
        Ok(self.kubectl(&arguments)?.trim().to_owned())
    }

    /// The certificate by which clients know the API server.
    pub(super) fn certificate(&self) -> PathBuf {
        self.directory.join("pki/apiserver.crt")
    }

    /// The administrator's kubeconfig.
    pub fn admin_kubeconfig(&self) -> PathBuf {
        self.directory.join("admin.kubeconfig")
    }

    /// Runs kubectl as administrator and returns what it printed.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl(&self, arguments: &[&str]) -> Result<String> {
        self.kubectl_with(arguments, "")
    }

    /// The same with something on its standard input.
    ///
    /// # Errors
    /// It fails.
    pub fn kubectl_with(&self, arguments: &[&str], input: &str) -> Result<String> {
        let mut kubectl = self.host.namespace.command(program("kubectl")?);
        kubectl.arg("--kubeconfig").arg(self.admin_kubeconfig());
        // What is known of the API's kinds is kept with the laboratory.
        kubectl.arg("--cache-dir").arg(self.directory.join("kubectl-cache"));
        command::run_with_input(kubectl.args(arguments), input)
    }

    /// Applies a file, or all files of a folder.
    ///
    /// # Errors
    /// kubectl refuses.
    pub fn apply(&self, path: &Path) -> Result<()> {
        let path = path.display().to_string();
        self.kubectl(&["apply", "-f", &path]).map(|_| ())
    }

    /// Applies manifests given as text.
    ///
    /// # Errors
    /// kubectl refuses.
    pub fn apply_text(&self, manifests: &str) -> Result<()> {
        self.kubectl_with(&["apply", "-f", "-"], manifests).map(|_| ())
    }

    /// Installs what `deploy/` ships: the resource definitions, and the rules that the agents
    /// run under. Returns how agents are to be started.
    ///
    /// # Errors
    /// The API server refuses something.
    pub fn install(&self) -> Result<agent::Options> {
        self.install_kinds(&["*"])
    }

    /// The same with the definitions of these kinds only, in the plural.
    ///
    /// # Errors
    /// As [`install`](Self::install).
    pub fn install_kinds(&self, kinds: &[&str]) -> Result<agent::Options> {
        for kind in kinds {
            self.define(kind)?;
        }
        self.kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"])?;
        // The rules name the namespace and may bring it themselves.
        self.apply_text(&format!(
            "apiVersion: v1\nkind: Namespace\nmetadata:\n  name: {NAMESPACE}\n"
        ))?;
        self.apply_text(&manifest(|kind, name| {
            !["CustomResourceDefinition", "DaemonSet"].contains(&kind) && !is_of_webhook(name)
        })?)?;
        let kubeconfig = self.kubeconfig_of("agent", NAMESPACE, SERVICE_ACCOUNT)?;
        Ok(agent::Options::new(agent::Source::Kubeconfig(kubeconfig)))
    }

    /// Installs what `deploy/` ships for the webhook.
    ///
    /// # Errors
    /// The API server refuses something.
    pub fn install_webhook(&self) -> Result<()> {
        self.apply_text(&manifest(|_, name| is_of_webhook(name))?)
    }

    /// Brings the definition of a kind, in the plural; `*` brings all.
    ///
    /// # Errors
    /// The API server refuses it, or there is no such kind.
    pub fn define(&self, kind: &str) -> Result<()> {
        let folder = command::workspace().join("deploy/crds");
        match kind {
            "*" => self.apply(&folder),
            kind => self.apply(&folder.join(format!("metallb.io_{kind}.yaml"))),
        }
    }

    /// The addresses in a Service's status.
    ///
    /// # Errors
    /// There is no such Service.
    pub fn ingress(&self, namespace: &str, service: &str) -> Result<Vec<IpAddr>> {
        let path = "jsonpath={.status.loadBalancer.ingress[*].ip}";
        self.kubectl(&["get", "service", "-n", namespace, service, "-o", path])?
            .split_whitespace()
            .map(|text| text.parse().with_context(|| format!("{text} is no address")))
            .collect()
    }

    /// Starts the controllers of that name, and no others.
    ///
    /// # Errors
    /// They are not built.
    pub fn start_controllers(&self, controllers: &[&str]) -> Result<()> {
        let mut manager = self.host.namespace.command(program("kube-controller-manager")?);
        manager.arg("--kubeconfig").arg(self.admin_kubeconfig());
        manager.arg(format!("--controllers={}", controllers.join(",")));
        manager.args(["--leader-elect=false", "--bind-address=127.0.0.1"]);
        manager.arg("--cert-dir").arg(self.directory.join("controllers-pki"));
        self.spawn(manager, "kube-controller-manager")?;
        Ok(())
    }

    /// Starts `kubectl proxy`, for [`super::api::Api`].
    pub(super) fn start_proxy(&self, port: u16) -> Result<()> {
        let mut proxy = self.host.namespace.command(program("kubectl")?);
        proxy.arg("--kubeconfig").arg(self.admin_kubeconfig());
        proxy.args(["proxy", "--port", &port.to_string()]);
        self.spawn(proxy, "kubectl-proxy")?;
        Ok(())
    }

    /// Writes addresses into a Service's status, as another load balancer would.
    ///
    /// # Errors
    /// There is no such Service.
    pub fn set_ingress(&self, service: &str, addresses: &[IpAddr]) -> Result<()> {
        let list: Vec<_> = addresses.iter().map(|ip| format!("{{\"ip\": \"{ip}\"}}")).collect();
        let patch =
            format!("{{\"status\": {{\"loadBalancer\": {{\"ingress\": [{}]}}}}}}", list.join(","));
        let arguments =
            ["patch", "service", service, "--subresource=status", "--type=merge", "-p", &patch];
        self.kubectl(&arguments).map(drop)
    }

    /// Starts kube-proxy on a node.
    ///
    /// # Errors
    /// It is not built.
    pub fn start_kube_proxy(&self, node: &Host, mode: ProxyMode) -> Result<()> {
        let mode = match mode {
            ProxyMode::Iptables => "iptables",
            ProxyMode::Nftables => "nftables",
        };
        let config = self.directory.join(format!("{}-kube-proxy.yaml", node.name));
        let text = format!(
            "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n\
             hostnameOverride: {}\nmode: {mode}\nclusterCIDR: {},{}\n\
             clientConnection:\n  kubeconfig: {}\n\
             healthzBindAddress: 0.0.0.0:10256\nmetricsBindAddress: 127.0.0.1:10249\n\
             # These would be set for the whole machine.\n\
             conntrack:\n  maxPerCore: 0\n  min: 0\n  tcpEstablishedTimeout: 0s\n  \
             tcpCloseWaitTimeout: 0s\n",
            node.name,
            addresses::ALL_PODS.0,
            addresses::ALL_PODS.1,
            self.directory.join("kube-proxy.kubeconfig").display(),
        );
        fs::write(&config, text)?;
        let mut proxy = node.namespace.command(program("kube-proxy")?);
        proxy.arg("--config").arg(&config);
        self.spawn(proxy, &format!("{}-kube-proxy", node.name))?;
        Ok(())
    }
}

/// The objects of `deploy/herald.yaml` whose kind and name are wanted.
fn manifest(wanted: impl Fn(&str, &str) -> bool) -> Result<String> {
    let file = command::workspace().join("deploy/herald.yaml");
    let text = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
    let mut objects = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(&text) {
        let object = serde_yaml_ng::Value::deserialize(document)?;
        let text = |value: &serde_yaml_ng::Value| value.as_str().unwrap_or_default().to_owned();
        if wanted(&text(&object["kind"]), &text(&object["metadata"]["name"])) {
            objects.push(serde_yaml_ng::to_string(&object)?);
        }
    }
    Ok(objects.join("---\n"))
}

fn is_of_webhook(name: &str) -> bool {
    name.starts_with("metallb-webhook")
}
