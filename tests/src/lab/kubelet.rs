//! Plays scheduler and kubelet for the pods of a Deployment: they are bound to nodes in turn, run
//! as namespaces, and are served till the end of their grace period.
use super::{Lab, RunningPod, api::Api};
use anyhow::{Context, Result};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

const PODS: &str = "/api/v1/namespaces/default/pods";

/// A pod that runs.
struct Served {
    running: RunningPod,
    /// When its grace period is over, if it is on its way out.
    ends: Option<Instant>,
}

/// The scheduler and all kubelets.
pub struct Kubelet<'a> {
    lab: &'a Lab,
    api: &'a Api,
    /// By the name of the API's object.
    pods: BTreeMap<String, Served>,
    /// The number of each node's latest pod: addresses are used again as late as possible.
    numbers: Vec<u8>,
    made: usize,
}

impl<'a> Kubelet<'a> {
    /// One that has no pods yet; numbers up to those of the laboratory's own are taken.
    pub fn new(lab: &'a Lab, api: &'a Api, own_per_node: u8) -> Self {
        let numbers = vec![own_per_node; lab.nodes.len()];
        Self { lab, api, pods: BTreeMap::new(), numbers, made: 0 }
    }

    /// The pods that run, by the name of their object, with the name that they answer with.
    pub fn pods(&self) -> BTreeMap<&str, &str> {
        self.pods.iter().map(|(name, pod)| (name.as_str(), pod.running.pod.name.as_str())).collect()
    }

    /// Does what is to do now.
    ///
    /// # Errors
    /// The API server refuses something, or a pod cannot be made.
    pub fn sync(&mut self, now: Instant) -> Result<()> {
        let list = self.api.get(PODS)?;
        let items = list["items"].as_array().context("a list of pods without items")?;
        for item in items {
            let name = item["metadata"]["name"].as_str().context("a pod without a name")?;
            let grace = item["metadata"]["deletionGracePeriodSeconds"].as_u64().unwrap_or(0);
            let deleted = !item["metadata"]["deletionTimestamp"].is_null();
            match (item["spec"]["nodeName"].as_str(), self.pods.get_mut(name)) {
                (None, _) if !deleted => self.bind(name, items)?,
                (Some(node), None) if !deleted => self.run(name, node)?,
                (_, Some(served)) if deleted && served.ends.is_none() => {
                    served.ends = Some(now + Duration::from_secs(grace));
                }
                // One that was deleted before it ran.
                (_, None) if deleted => {
                    self.api.delete(&format!("{PODS}/{name}"), 0)?;
                }
                _ => {}
            }
        }
        let over: Vec<_> = self
            .pods
            .iter()
            .filter(|(_, served)| served.ends.is_some_and(|ends| ends <= now))
            .map(|(name, _)| name.clone())
            .collect();
        for name in over {
            if let Some(served) = self.pods.remove(&name) {
                self.lab.remove_pod(served.running)?;
            }
            self.api.delete(&format!("{PODS}/{name}"), 0)?;
        }
        Ok(())
    }

    /// To the node with the fewest pods.
    fn bind(&self, name: &str, items: &[Value]) -> Result<()> {
        let staying = || items.iter().filter(|i| i["metadata"]["deletionTimestamp"].is_null());
        let load = |node: &str| staying().filter(|i| i["spec"]["nodeName"] == node).count();
        let node = self.lab.nodes.iter().min_by_key(|node| load(&node.name)).context("no node")?;
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node.name},
        });
        self.api.post(&format!("{PODS}/{name}/binding"), &binding).map(drop)
    }

    fn run(&mut self, name: &str, node: &str) -> Result<()> {
        let position =
            self.lab.nodes.iter().position(|n| n.name == node).context("no such node")?;
        self.made += 1;
        let taken: BTreeSet<_> = self.pods.values().map(|s| s.running.pod.ipv4).collect();
        let number = &mut self.numbers[position];
        loop {
            *number = *number % 99 + 1;
            let ((address, _), _) =
                super::addresses::pod(u8::try_from(position)? + 1, *number).context("numbers")?;
            let own = self.lab.pods.iter().any(|pod| pod.ipv4 == address);
            if !own && !taken.contains(&address) {
                break;
            }
        }
        let running = self.lab.add_pod(position, &format!("roll-{}", self.made), *number)?;
        let pod = &running.pod;
        let ready = |kind| json!({"type": kind, "status": "True"});
        let status = json!({"status": {
            "phase": "Running",
            "hostIP": self.lab.nodes[position].ipv4,
            "podIP": pod.ipv4,
            "podIPs": [{"ip": pod.ipv4}, {"ip": pod.ipv6}],
            "conditions": [
                ready("PodScheduled"), ready("Initialized"), ready("ContainersReady"),
                ready("Ready"),
            ],
        }});
        self.api.patch(&format!("{PODS}/{name}/status"), &status)?;
        self.pods.insert(name.into(), Served { running, ends: None });
        Ok(())
    }
}
