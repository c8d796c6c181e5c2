//! Objects that the cases make.
use anyhow::{Result, ensure};
use herald_tests::{
    lab::{
        control_plane::ControlPlane,
        probe::{self, Over},
        scenario::{self, Cluster, WEB_PORT},
    },
    wait,
};
use std::{fmt::Write as _, net::IpAddr, time::Duration};

/// From a change of an object to what comes of it, on a machine that does other things as well.
pub(crate) const LIMIT: Duration = Duration::from_secs(15);

/// A Service as the cases need it.
#[derive(Default)]
pub(crate) struct Service<'a> {
    pub(crate) name: &'a str,
    /// `KEY: VALUE`
    pub(crate) annotations: &'a [&'a str],
    /// `KEY: VALUE`
    pub(crate) spec: &'a [&'a str],
}

impl Service<'_> {
    /// Creates it, in IPv4 and with all pods behind it.
    pub(crate) fn create(&self, cluster: &Cluster) -> Result<()> {
        let name = self.name;
        let mut text = format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations:\n    test: \
             {name}\n"
        );
        for annotation in self.annotations {
            writeln!(text, "    {annotation}")?;
        }
        text += "spec:\n  type: LoadBalancer\n  ports: [{port: 80, targetPort: 8080}]\n";
        for field in self.spec {
            writeln!(text, "  {field}")?;
        }
        write!(
            text,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata:\n  name: \
             {name}-1\n  labels: {{kubernetes.io/service-name: {name}}}\naddressType: \
             IPv4\nports: [{{port: 8080}}]\nendpoints:\n"
        )?;
        for pod in &cluster.lab.pods {
            let node = &cluster.lab.nodes[pod.node].name;
            writeln!(
                text,
                "- {{addresses: [{}], nodeName: {node}, conditions: {{ready: true}}}}",
                pod.ipv4
            )?;
        }
        cluster.control()?.apply_text(&text)
    }

    pub(crate) fn delete(&self, cluster: &Cluster) -> Result<()> {
        let control = cluster.control()?;
        control.kubectl(&["delete", "service", self.name])?;
        control.kubectl(&["delete", "endpointslice", &format!("{}-1", self.name)]).map(drop)
    }

    pub(crate) fn addresses(&self, cluster: &Cluster) -> Result<Vec<IpAddr>> {
        cluster.control()?.ingress("default", self.name)
    }

    /// Waits until it has an address, and returns that.
    pub(crate) fn await_address(&self, cluster: &Cluster) -> Result<IpAddr> {
        wait::until(LIMIT, &format!("Service {} has an address", self.name), || {
            Ok(self.addresses(cluster)?.first().copied())
        })
    }

    /// Waits until all pods serve an address.
    pub(crate) fn await_served(&self, cluster: &Cluster, vip: IpAddr) -> Result<()> {
        let lab = &cluster.lab;
        let pods = scenario::pods_of(lab, &scenario::node_names(lab));
        wait::until_true(LIMIT, &format!("all pods serve {vip}"), || {
            let to = (vip, WEB_PORT).into();
            let spread = probe::try_spread(&lab.client.namespace, Over::Tcp, to, 20 * pods.len())?;
            Ok(spread.failed == 0 && spread.pods.keys().eq(&pods))
        })
    }
}

/// Waits for an Event about an object and returns its message.
pub(crate) fn await_event(control: &ControlPlane, object: &str, reason: &str) -> Result<String> {
    let selector = format!("involvedObject.name={object},reason={reason}");
    let message = wait::until(LIMIT, &format!("an Event {reason} about {object}"), || {
        let path = "jsonpath={.items[*].message}";
        let text =
            control.kubectl(&["get", "events", "-A", "--field-selector", &selector, "-o", path])?;
        Ok((!text.is_empty()).then_some(text))
    })?;
    ensure!(!message.trim().is_empty(), "an Event without a message");
    Ok(message)
}
