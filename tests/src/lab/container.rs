//! Plays kubelet and container runtime for a DaemonSet: its pods run on the laboratory's nodes as
//! runc and containerd would run them, with the arguments, environment, credentials, capabilities,
//! system calls and mounts that the object in the API says, and no others.
use super::{
    Host, Lab, cleanup,
    command::{self, run_with_input},
    control_plane::{ControlPlane, program},
};
use crate::wait;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    time::Duration,
};

/// Where service accounts' credentials are mounted.
const CREDENTIALS: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
/// The mounts of every container (containerd's `pkg/oci`, as CRI has them).
const MOUNTS: [(&str, &str, &[&str]); 6] = [
    ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
    ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
    ("/dev/pts", "devpts", &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]),
    ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
    ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
    ("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
];
const MASKED: [&str; 7] = [
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/scsi",
    "/sys/firmware",
];
const READ_ONLY: [&str; 5] =
    ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What a container starts from.
#[derive(Clone, Debug)]
pub struct Image {
    /// Its files.
    pub root: PathBuf,
    /// What arguments are appended to.
    pub entrypoint: Vec<String>,
    /// Files of the machine that stand in for some of its own.
    pub borrowed: Vec<PathBuf>,
}

impl Image {
    /// One with the agent that was built with the tests, and the libraries that it is linked to.
    ///
    /// # Errors
    /// It is not built, or the disk is full.
    pub fn of_built_agent(lab: &Lab) -> Result<Self> {
        let agent = fs::canonicalize(command::sibling("lb-agent")?)?;
        let libraries = command::run(Command::new("ldd").arg(&agent))?;
        let root = lab.directory.join("image");
        fs::create_dir_all(&root)?;
        let libraries = libraries.split_whitespace().filter(|word| word.starts_with('/'));
        let borrowed = libraries.map(PathBuf::from).chain([agent.clone()]).collect();
        Ok(Self { root, entrypoint: vec![agent.display().to_string()], borrowed })
    }

    /// One from an OCI archive, as `cargo xtask image` writes it.
    ///
    /// # Errors
    /// It is none, or the disk is full.
    pub fn of_archive(lab: &Lab, archive: &Path) -> Result<Self> {
        let layout = lab.directory.join("image-layout");
        unpack(archive, &layout)?;
        let read = |descriptor: &Value| -> Result<Value> {
            Ok(serde_json::from_slice(&fs::read(blob(&layout, descriptor)?)?)?)
        };
        let index: Value = serde_json::from_slice(&fs::read(layout.join("index.json"))?)?;
        let manifest = read(&index["manifests"][0])?;
        let root = lab.directory.join("image");
        for layer in manifest["layers"].as_array().into_iter().flatten() {
            unpack(&blob(&layout, layer)?, &root)?;
        }
        let config = read(&manifest["config"])?;
        let entrypoint = config["config"]["Entrypoint"].as_array().into_iter().flatten();
        let entrypoint = entrypoint.filter_map(|word| word.as_str().map(str::to_owned)).collect();
        Ok(Self { root, entrypoint, borrowed: vec![] })
    }
}

fn unpack(archive: &Path, folder: &Path) -> Result<()> {
    fs::create_dir_all(folder)?;
    command::run(Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(folder)).map(drop)
}

/// What a descriptor refers to.
fn blob(layout: &Path, descriptor: &Value) -> Result<PathBuf> {
    let digest = descriptor["digest"].as_str().context("a descriptor without a digest")?;
    Ok(layout.join("blobs").join(digest.replace(':', "/")))
}

/// A DaemonSet as the API has it, and what its pods run.
pub struct DaemonSet {
    object: Value,
    image: Image,
}

/// The pod of a node. Dropping it kills its container.
pub struct Pod {
    /// Its node's name.
    pub node: String,
    /// What it prints.
    pub log: PathBuf,
    /// Where its agent pins, as the machine sees it.
    pub pin_directory: PathBuf,
    host: Host,
    id: String,
    states: PathBuf,
    child: Child,
}

impl DaemonSet {
    /// Reads it from the API.
    ///
    /// # Errors
    /// It is not there.
    pub fn read(control: &ControlPlane, namespace: &str, name: &str, image: Image) -> Result<Self> {
        let text = control.kubectl(&["get", "daemonset", "-n", namespace, name, "-o", "json"])?;
        Ok(Self { object: serde_json::from_str(&text)?, image })
    }

    /// The pod as the DaemonSet's controller would make it for a node.
    pub fn pod(&self, node: &str) -> Value {
        let template = &self.object["spec"]["template"];
        let mut pod = json!({
            "apiVersion": "v1", "kind": "Pod", "metadata": template["metadata"],
            "spec": template["spec"],
        });
        pod["metadata"]["name"] = format!("{}-{node}", self.name()).into();
        pod["metadata"]["namespace"] = self.object["metadata"]["namespace"].clone();
        pod["spec"]["nodeName"] = node.into();
        pod
    }

    fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    fn spec(&self) -> &Value {
        &self.object["spec"]["template"]["spec"]
    }

    fn container(&self) -> &Value {
        &self.spec()["containers"][0]
    }

    /// How long a pod may take to stop.
    pub fn grace(&self) -> Duration {
        Duration::from_secs(self.spec()["terminationGracePeriodSeconds"].as_u64().unwrap_or(30))
    }

    /// Starts a node's pod.
    ///
    /// # Errors
    /// The object asks for what this does not know, or runc is not installed.
    pub fn start(&self, lab: &Lab, control: &ControlPlane, host: &Host) -> Result<Pod> {
        let id = format!("{}-{}", lab.prefix, host.name);
        let bundle = lab.directory.join(format!("{}-bundle", host.name));
        fs::create_dir_all(&bundle)?;
        let config = self.config(lab, control, host, &bundle)?;
        let config = match self.spec()["securityContext"]["seccompProfile"]["type"].as_str() {
            Some("RuntimeDefault") => {
                run_with_input(&mut Command::new(program("runtime-default")?), &config.to_string())?
            }
            Some("Unconfined") => config.to_string(),
            other => bail!("no such seccomp profile here: {other:?}"),
        };
        fs::write(bundle.join("config.json"), config)?;
        let log = lab.directory.join(format!("{}-agent.log", host.name));
        let states = lab.directory.join("runc");
        let file = fs::OpenOptions::new().create(true).append(true).open(&log)?;
        let mut runc = Command::new(command::find("runc")?);
        runc.arg("--root").arg(&states).arg("run").arg("--bundle").arg(&bundle).arg(&id);
        runc.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = cleanup::spawn(&mut runc)?;
        Ok(Pod {
            node: host.name.clone(),
            log,
            pin_directory: lab.pin_directory(host).join("herald"),
            host: host.clone(),
            id,
            states,
            child,
        })
    }

    /// Runs the image's program in a pod with other arguments, as `kubectl exec` does.
    ///
    /// # Errors
    /// It fails.
    pub fn exec(&self, pod: &Pod, arguments: &[&str]) -> Result<String> {
        let program = self.image.entrypoint.iter().map(String::as_str);
        let command: Vec<_> = program.chain(arguments.iter().copied()).collect();
        pod.runc(&[&["exec", &pod.id][..], &command].concat())
    }

    /// Whether a probe of its container succeeds, as the node's kubelet would find.
    ///
    /// # Errors
    /// There is no such probe over HTTP.
    pub fn probe(&self, pod: &Pod, probe: &str) -> Result<bool> {
        let get = &self.container()[probe]["httpGet"];
        let named = |port: &&Value| port["name"] == get["port"];
        let port = match get["port"].as_u64() {
            Some(port) => port,
            None => (self.container()["ports"].as_array())
                .and_then(|ports| ports.iter().find(named)?["containerPort"].as_u64())
                .with_context(|| format!("{probe} names no port"))?,
        };
        let host = get["host"].as_str().context("kubelet would ask the node's address")?;
        let url = format!("http://{host}:{port}{}", get["path"].as_str().unwrap_or("/"));
        let asked = ["-s", "--fail", "--max-time", "2", &url];
        Ok(pod.host.namespace.output("curl", &asked).is_ok())
    }

    fn config(
        &self,
        lab: &Lab,
        control: &ControlPlane,
        host: &Host,
        bundle: &Path,
    ) -> Result<Value> {
        let (spec, container) = (self.spec(), self.container());
        ensure!(spec["hostNetwork"] == true, "a pod with a network of its own is not known here");
        let security = &container["securityContext"];
        ensure!(security["privileged"] != true, "a privileged container");
        ensure!(
            security["capabilities"]["drop"] == json!(["ALL"]),
            "what the runtime gives by itself is not known here"
        );
        let added = security["capabilities"]["add"].as_array().into_iter().flatten();
        let capabilities: Vec<_> =
            added.filter_map(|name| Some(format!("CAP_{}", name.as_str()?))).collect();
        let args = self.image.entrypoint.iter().cloned().map(Value::from);
        let args = args.chain(container["args"].as_array().into_iter().flatten().cloned());
        Ok(json!({
            "ociVersion": "1.0.2",
            "process": {
                "user": {"uid": security["runAsUser"].as_u64().unwrap_or(0), "gid": 0},
                "args": args.collect::<Vec<_>>(),
                "env": self.environment(host)?,
                "cwd": "/",
                "noNewPrivileges": security["allowPrivilegeEscalation"] == false,
                "capabilities": {
                    "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                },
            },
            "root": {
                "path": self.image.root, "readonly": security["readOnlyRootFilesystem"] == true,
            },
            "hostname": host.name,
            "mounts": self.mounts(lab, control, host, bundle)?,
            "linux": {
                "namespaces": [
                    {"type": "pid"}, {"type": "ipc"}, {"type": "uts"}, {"type": "mount"},
                    {"type": "network", "path": host.namespace.path()},
                ],
                "maskedPaths": MASKED,
                "readonlyPaths": READ_ONLY,
                "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            },
        }))
    }

    fn environment(&self, host: &Host) -> Result<Vec<String>> {
        let mut environment = vec![
            "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned(),
            // As kubelet tells all pods: the address of the Service default/kubernetes.
            "KUBERNETES_SERVICE_HOST=10.96.0.1".to_owned(),
            "KUBERNETES_SERVICE_PORT=443".to_owned(),
        ];
        for variable in self.container()["env"].as_array().into_iter().flatten() {
            let name = variable["name"].as_str().context("a variable without a name")?;
            let field = variable["valueFrom"]["fieldRef"]["fieldPath"].as_str();
            let value = match (variable["value"].as_str(), field) {
                (Some(value), _) => value,
                (None, Some("spec.nodeName")) => &host.name,
                (None, Some("metadata.namespace")) => {
                    self.object["metadata"]["namespace"].as_str().unwrap_or_default()
                }
                _ => bail!("{name} comes from where nothing is known here"),
            };
            environment.push(format!("{name}={value}"));
        }
        Ok(environment)
    }

    fn mounts(
        &self,
        lab: &Lab,
        control: &ControlPlane,
        host: &Host,
        bundle: &Path,
    ) -> Result<Vec<Value>> {
        let bind = |source: &Path, at: &str, options: &[&str]| {
            let options: Vec<_> = ["rbind"].iter().chain(options).collect();
            json!({"type": "bind", "source": source, "destination": at, "options": options})
        };
        let mut mounts: Vec<_> = MOUNTS
            .iter()
            .map(|(at, kind, options)| {
                json!({"type": kind, "source": kind, "destination": at, "options": options})
            })
            .collect();
        for file in &self.image.borrowed {
            let source = fs::canonicalize(file)?;
            mounts.push(bind(&source, &file.display().to_string(), &["ro"]));
        }
        for mount in self.container()["volumeMounts"].as_array().into_iter().flatten() {
            let volumes = self.spec()["volumes"].as_array().into_iter().flatten();
            let volume = volumes
                .into_iter()
                .find(|volume| volume["name"] == mount["name"])
                .with_context(|| format!("no volume {}", mount["name"]))?;
            let source = if let Some(path) = volume["hostPath"]["path"].as_str() {
                on_node(lab, host, path)
            } else if volume["configMap"]["optional"] == true {
                // Nobody has made one.
                bundle.join("config-map")
            } else {
                bail!("a volume of a kind that is not known here: {volume}");
            };
            fs::create_dir_all(&source)?;
            let at = mount["mountPath"].as_str().context("a mount without a path")?;
            let access = if mount["readOnly"] == true { "ro" } else { "rw" };
            let propagation = match mount["mountPropagation"].as_str() {
                None | Some("None") => "rprivate",
                Some("HostToContainer") => "rslave",
                Some(other) => bail!("mount propagation {other} needs a privileged container"),
            };
            mounts.push(bind(&source, at, &[access, propagation]));
        }
        if self.spec()["automountServiceAccountToken"] != false {
            let credentials = bundle.join("credentials");
            fs::create_dir_all(&credentials)?;
            let namespace = self.object["metadata"]["namespace"].as_str().unwrap_or_default();
            let account = self.spec()["serviceAccountName"].as_str().unwrap_or("default");
            fs::write(credentials.join("token"), control.token(namespace, account)?)?;
            fs::write(credentials.join("namespace"), namespace)?;
            fs::copy(control.certificate(), credentials.join("ca.crt"))?;
            mounts.push(bind(&credentials, CREDENTIALS, &["ro", "rprivate"]));
        }
        Ok(mounts)
    }
}

/// A node's own folder of that path: nodes are machines of their own, but share one here.
fn on_node(lab: &Lab, host: &Host, path: &str) -> PathBuf {
    match path {
        "/sys/fs/bpf" => lab.pin_directory(host),
        path => lab.directory.join(format!("{}-files", host.name)).join(path.trim_matches('/')),
    }
}

impl Pod {
    /// Whether it runs.
    ///
    /// # Errors
    /// It has ended: with what status, and its last words.
    pub fn check(&mut self) -> Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let printed = self.printed()?;
            let last = printed.lines().last().unwrap_or_default();
            bail!("the pod of {} has ended ({status}): {last}", self.node);
        }
        Ok(())
    }

    /// All it has printed.
    ///
    /// # Errors
    /// The file is gone.
    pub fn printed(&self) -> Result<String> {
        fs::read_to_string(&self.log).with_context(|| format!("reading {}", self.log.display()))
    }

    /// Stops it as kubelet does.
    ///
    /// # Errors
    /// It does not end within `grace`, after which kubelet would kill it.
    pub fn terminate(mut self, grace: Duration) -> Result<ExitStatus> {
        self.runc(&["kill", &self.id, "TERM"])?;
        let what = format!("the pod of {} stops", self.node);
        wait::until(grace, &what, || Ok(self.child.try_wait()?))
    }

    fn runc(&self, arguments: &[&str]) -> Result<String> {
        let mut runc = Command::new(command::find("runc")?);
        command::run(runc.arg("--root").arg(&self.states).args(arguments))
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.runc(&["delete", "--force", &self.id]);
        let _ = self.child.wait();
    }
}
