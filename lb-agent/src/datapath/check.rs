//! What `lb-agent check` tells: whether this machine and its interfaces can run Herald, how, and
//! which other software it runs beside. An agent that starts logs the same about its uplinks.
use super::{
    Error, IngressMode, conflicts, features, netlink,
    pins::{LinkKind, Pins},
    preflight,
    uplinks::{self, Links, Selection, Uplink},
};
use crate::system;
use aya::programs::{TcAttachType, loaded_programs};
use futures::TryStreamExt as _;
use netlink_packet_route::{
    link::{LinkAttribute, LinkXdp},
    tc::{TcAttribute, TcFilterBpfOption, TcOption},
};
use rtnetlink::Handle;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};
use tokio::sync::watch;
use tracing::{info, warn};

/// Whether something can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As it should be.
    Good,
    /// It works, but not in the best way.
    Warning,
    /// It does not work.
    Bad,
}

/// Something that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What.
    pub what: &'static str,
    /// Whether it can be used.
    pub verdict: Verdict,
    /// What was found, and the way out if it is not good.
    pub found: String,
}

/// A place where programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hook {
    /// XDP, whatever its mode.
    Xdp,
    /// TCX ingress.
    TcxIngress,
    /// TCX egress.
    TcxEgress,
    /// A filter of the ingress qdisc; these come behind TCX.
    TcIngress,
    /// The same at egress.
    TcEgress,
}

impl Hook {
    const fn name(self) -> &'static str {
        match self {
            Self::Xdp => "XDP",
            Self::TcxIngress => "TCX ingress",
            Self::TcxEgress => "TCX egress",
            Self::TcIngress => "tc ingress",
            Self::TcEgress => "tc egress",
        }
    }
}

/// A program on an interface, in the order in which they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Program {
    /// Where.
    pub hook: Hook,
    /// Its name in the kernel, of 15 characters at most.
    pub name: String,
    /// Its number.
    pub id: u32,
}

impl Program {
    fn is_ours(&self) -> bool {
        self.name.starts_with("herald_")
    }

    /// Whose it is, as far as its name tells.
    fn owner(&self) -> Option<&'static str> {
        [
            ("cil_", "Cilium"),
            ("cali_", "Calico"),
            ("calico_", "Calico"),
            ("kube_ovn", "Kube-OVN"),
            ("balancer_", "Katran"),
        ]
        .into_iter()
        .find_map(|(prefix, owner)| self.name.starts_with(prefix).then_some(owner))
    }

    fn display(&self) -> String {
        let Self { hook, name, id } = self;
        let owner = self.owner().map(|owner| format!(" of {owner}")).unwrap_or_default();
        // Names of others' programs are told to CAP_SYS_ADMIN only.
        let name = if name.is_empty() { "another program" } else { name };
        format!("{name} (program {id}{owner}) at {}", hook.name())
    }
}

/// What is known of an interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// The driver's name.
    pub driver: Option<String>,
    /// Whether it has native XDP; none if it does not say.
    pub native: Option<bool>,
    /// Whether that takes frames in several buffers.
    pub multi_buffer: Option<bool>,
    /// Whether the card takes VLAN tags off.
    pub strips_tags: bool,
    /// Whether it is a bridge whose packets iptables has seen before they come to its hooks.
    pub behind_iptables: bool,
    /// The programs on it.
    pub programs: Vec<Program>,
}

/// What was found about an interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// Its name.
    pub interface: String,
    /// How `--xdp-mode auto` would attach, as far as can be told without trying.
    pub mode: &'static str,
    /// What was looked at.
    pub findings: Vec<Finding>,
    /// All programs that are on it.
    pub programs: Vec<Program>,
}

/// All that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// About the machine.
    pub machine: Vec<Finding>,
    /// About the interfaces that would be uplinks.
    pub interfaces: Vec<Checked>,
    /// About the network plugin and what else it runs beside.
    pub beside: Vec<Finding>,
    /// Names of the interfaces at which replies would be looked at.
    pub egress: Vec<String>,
}

/// Above this, a frame does not fit into one page with what XDP needs around it.
const ONE_PAGE: u32 = super::error::ONE_PAGE;

/// Judges an interface by the facts.
pub fn judge(uplink: &Uplink, facts: &Facts) -> Checked {
    let mut findings = Vec::new();
    let mut add = |what, verdict, found: String| findings.push(Finding { what, verdict, found });
    let foreign_xdp = facts.programs.iter().find(|p| p.hook == Hook::Xdp && !p.is_ours());
    let too_large = uplink.mtu > ONE_PAGE && facts.multi_buffer == Some(false);
    let native = !uplink.without_driver
        && facts.native != Some(false)
        && foreign_xdp.is_none()
        && !too_large;
    let mode = if native { IngressMode::Native } else { IngressMode::Tcx };

    let driver = facts.driver.as_deref().unwrap_or("unknown");
    match (uplink.without_driver, facts.native) {
        (true, _) => add(
            "driver",
            Verdict::Warning,
            format!("{driver}: no driver that could have native XDP stands behind it; TCX is used"),
        ),
        (false, Some(true)) => add("driver", Verdict::Good, format!("{driver}, has native XDP")),
        (false, Some(false)) => add(
            "driver",
            Verdict::Warning,
            format!("{driver} has no native XDP; TCX is used, which costs more for each packet"),
        ),
        (false, None) => add(
            "driver",
            Verdict::Warning,
            format!(
                "{driver} does not say whether it has native XDP: it is tried, else TCX is used"
            ),
        ),
    }
    if facts.behind_iptables {
        add(
            "bridge",
            Verdict::Warning,
            "connection tracking and kube-proxy's rules see what comes over it before Herald does: set net.bridge.bridge-nf-call-iptables and -ip6tables to 0 on this node, or use --delivery kernel".into(),
        );
    }
    let mtu = uplink.mtu;
    if too_large {
        add(
            "mtu",
            Verdict::Warning,
            format!(
                "{mtu}: {driver} takes no XDP program with jumbo frames; TCX is used. An MTU of {ONE_PAGE} or less helps"
            ),
        );
    } else {
        add("mtu", Verdict::Good, mtu.to_string());
    }
    if uplink.vlan != 0 {
        let lower = &uplink.lower;
        if facts.strips_tags {
            add(
                "vlan",
                Verdict::Warning,
                format!(
                    "{lower} takes VLAN tags off before XDP sees them: lb-agent run switches that off (ethtool -K {lower} rx-vlan-offload off), or uses TCX where it cannot"
                ),
            );
        } else {
            add("vlan", Verdict::Good, format!("{} on {lower}, tags stay in frames", uplink.vlan));
        }
    }
    if let Some(program) = foreign_xdp {
        let remedy = match program.owner() {
            Some("Cilium") => " (Cilium: loadBalancer.acceleration=disabled frees it)",
            Some("Calico") => " (Calico: FelixConfiguration xdpEnabled=false frees it)",
            _ => "",
        };
        add(
            "other programs",
            Verdict::Warning,
            format!(
                "{} has the place: TCX is used, and what that program drops or redirects never gets there{remedy}",
                program.display()
            ),
        );
    }
    for hook in [Hook::TcxIngress, Hook::TcxEgress] {
        let here: Vec<_> = facts.programs.iter().filter(|program| program.hook == hook).collect();
        let Some(ours) = here.iter().position(|program| program.is_ours()) else { continue };
        if let Some(before) = here[..ours].last() {
            add(
                "other programs",
                Verdict::Warning,
                format!(
                    "{} stands before Herald's and may take packets away: detach Herald's with `lb-agent unload {}` and start lb-agent again, so that it comes first",
                    before.display(),
                    uplink.name
                ),
            );
        }
    }
    let behind: Vec<_> = facts
        .programs
        .iter()
        .filter(|program| program.hook != Hook::Xdp && !program.is_ours())
        .map(Program::display)
        .collect();
    if !behind.is_empty() {
        add("other programs", Verdict::Good, format!("beside {}", behind.join(", ")));
    }
    Checked {
        interface: uplink.name.clone(),
        mode: mode.name(),
        findings,
        programs: facts.programs.clone(),
    }
}

/// Finds out all of it. `only` are names or patterns, as `--interfaces` has them; without any,
/// interfaces with a default route are looked at.
///
/// # Errors
///
/// [`Error::Netlink`]
pub async fn report(pin_dir: &Path, only: &[String]) -> Result<Report, Error> {
    let machine = preflight::findings(pin_dir);
    let handle = netlink::connect()?;
    let selection = Selection { only: only.to_vec(), ..Selection::default() };
    let Links { uplinks, egress } = uplinks::read(&handle).await?.links(&selection);
    let Seen { interfaces, beside, error } = look(&handle, &Pins::new(pin_dir), &uplinks).await;
    if let Some(error) = error {
        return Err(error);
    }
    let egress = egress.into_iter().map(|egress| egress.name).collect();
    Ok(Report { machine, interfaces, beside, egress })
}

/// What was found about uplinks and about what runs beside.
struct Seen {
    interfaces: Vec<Checked>,
    beside: Vec<Finding>,
    /// The last that kept some of it from being found out.
    error: Option<Error>,
}

async fn look(handle: &Handle, pins: &Pins, uplinks: &[Uplink]) -> Seen {
    let mut seen = Seen { interfaces: Vec::new(), beside: Vec::new(), error: None };
    for uplink in uplinks {
        match facts(handle, pins, uplink).await {
            Ok(facts) => seen.interfaces.push(judge(uplink, &facts)),
            Err(error) => seen.error = Some(error),
        }
    }
    let names = uplinks.iter().map(|uplink| uplink.name.as_str());
    match conflicts::observe(handle, names).await {
        Ok(observed) => seen.beside = conflicts::findings(&observed),
        Err(error) => seen.error = Some(error),
    }
    seen
}

/// Logs what an operator should know of it once, when the uplinks are known.
pub(crate) async fn tell(
    handle: Handle,
    pin_dir: PathBuf,
    mut links: watch::Receiver<Option<Links>>,
) {
    let known = links.wait_for(Option::is_some).await.map(|links| links.clone());
    let Ok(Some(Links { uplinks, .. })) = known else { return };
    let Seen { interfaces, beside, error } = look(&handle, &Pins::new(pin_dir), &uplinks).await;
    for Checked { interface, findings, .. } in interfaces {
        for finding in findings.iter().filter(|finding| finding.verdict != Verdict::Good) {
            warn!("{interface}: {}", finding.found);
        }
    }
    for Finding { what, verdict, found } in beside {
        match verdict {
            Verdict::Good => info!("beside {what}, {found}"),
            Verdict::Warning | Verdict::Bad => warn!("beside {what}, {found}"),
        }
    }
    if let Some(error) = error {
        // An interface may be gone by now, and nothing depends on it.
        info!("what runs beside cannot all be told: {error}");
    }
}

async fn facts(handle: &Handle, pins: &Pins, uplink: &Uplink) -> Result<Facts, Error> {
    let features = features::of(uplink.ifindex).ok();
    let mut on = vec![uplink.ifindex];
    if uplink.device != uplink.ifindex {
        on.push(uplink.device);
    }
    let mut programs = Vec::new();
    let names = program_names(pins);
    for ifindex in on {
        programs.extend(xdp_programs(handle, ifindex, &names).await?);
        for (hook, side) in
            [(Hook::TcxIngress, TcAttachType::Ingress), (Hook::TcxEgress, TcAttachType::Egress)]
        {
            // Without TCX in the kernel there are none.
            let found = system::tcx_programs(ifindex, side).unwrap_or_default();
            programs.extend(found.into_iter().map(|id| Program {
                hook,
                name: names.get(&id).cloned().unwrap_or_default(),
                id,
            }));
        }
        programs.extend(filters(handle, ifindex).await);
    }
    let driver = system::driver(&uplink.lower).ok();
    let cards = uplink.ports.iter().chain([&uplink.lower]);
    Ok(Facts {
        native: features.map(features::Features::native),
        multi_buffer: features.map(features::Features::multi_buffer),
        strips_tags: uplink.vlan != 0
            && cards.into_iter().any(|card| system::strips_vlan_tags(card).unwrap_or(false)),
        behind_iptables: driver.as_deref() == Some("bridge") && bridges_call_iptables(),
        driver,
        programs,
    })
}

/// Whether the kernel shows bridged packets to iptables, and so to connection tracking
/// (`br_netfilter`), in this network namespace.
fn bridges_call_iptables() -> bool {
    ["iptables", "ip6tables"].iter().any(|which| {
        fs::read_to_string(format!("/proc/sys/net/bridge/bridge-nf-call-{which}"))
            .is_ok_and(|value| value.trim() == "1")
    })
}

/// The names of all programs in the kernel; without the privilege to list them, of those that our pinned
/// links hold.
fn program_names(pins: &Pins) -> BTreeMap<u32, String> {
    let own = pins.list_links().into_iter().filter_map(|link| {
        let name = if link.kind == LinkKind::Egress { "herald_egress" } else { "herald_ingress" };
        Some((system::link_target(&link.path).ok()?.program_id, name.to_owned()))
    });
    let all = loaded_programs().flatten();
    own.chain(
        all.map(|program| (program.id(), String::from_utf8_lossy(program.name()).into_owned())),
    )
    .collect()
}

async fn xdp_programs(
    handle: &Handle,
    ifindex: u32,
    names: &BTreeMap<u32, String>,
) -> Result<Vec<Program>, Error> {
    let mut links = handle.link().get().match_index(ifindex).execute();
    let link = links.try_next().await.map_err(netlink::failed("read an interface"))?;
    let attributes = link.into_iter().flat_map(|link| link.attributes);
    let mut ids = Vec::new();
    for attribute in attributes {
        if let LinkAttribute::Xdp(xdp) = attribute {
            for entry in xdp {
                match entry {
                    LinkXdp::ProgId(id)
                    | LinkXdp::DrvProgId(id)
                    | LinkXdp::SkbProgId(id)
                    | LinkXdp::HwProgId(id)
                        if !ids.contains(&id) =>
                    {
                        ids.push(id);
                    }
                    _ => {}
                }
            }
        }
    }
    let program = |id: u32| Program {
        hook: Hook::Xdp,
        name: names.get(&id).cloned().unwrap_or_default(),
        id,
    };
    Ok(ids.into_iter().map(program).collect())
}

/// The BPF filters of the clsact qdisc; none if there is no such qdisc.
async fn filters(handle: &Handle, ifindex: u32) -> Vec<Program> {
    let Ok(index) = i32::try_from(ifindex) else { return Vec::new() };
    let mut programs = Vec::new();
    for hook in [Hook::TcIngress, Hook::TcEgress] {
        let request = handle.traffic_filter(index).get();
        let request = if hook == Hook::TcIngress { request.ingress() } else { request.egress() };
        let mut answers = std::pin::pin!(request.execute());
        while let Ok(Some(filter)) = answers.try_next().await {
            let (mut name, mut id) = (None, None);
            let options = filter.attributes.iter().filter_map(|attribute| match attribute {
                TcAttribute::Options(options) => Some(options),
                _ => None,
            });
            for option in options.flatten() {
                match option {
                    TcOption::Bpf(TcFilterBpfOption::ProgName(text)) => name = Some(text.clone()),
                    TcOption::Bpf(TcFilterBpfOption::ProgId(number)) => id = Some(*number),
                    _ => {}
                }
            }
            if let Some(id) = id {
                programs.push(Program { hook, name: name.unwrap_or_default(), id });
            }
        }
    }
    programs
}

impl Report {
    /// The worst of all.
    pub fn verdict(&self) -> Verdict {
        let all = self.interfaces.iter().flat_map(|checked| &checked.findings);
        all.chain(&self.machine)
            .chain(&self.beside)
            .map(|f| f.verdict)
            .max()
            .unwrap_or(Verdict::Good)
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut text = String::new();
        section(&mut text, "machine", &self.machine);
        for Checked { interface, mode, findings, .. } in &self.interfaces {
            section(&mut text, &format!("{interface}: {mode}"), findings);
        }
        if self.interfaces.is_empty() {
            text.push_str("no interface has a default route: name some with --interfaces\n");
        }
        if !self.beside.is_empty() {
            section(&mut text, "beside", &self.beside);
        }
        let _ = writeln!(text, "replies are looked at on: {}", self.egress.join(", "));
        text
    }
}

fn section(text: &mut String, title: &str, findings: &[Finding]) {
    let _ = writeln!(text, "{title}");
    let width = findings.iter().map(|finding| finding.what.len()).fold(15, usize::max);
    for Finding { what, verdict, found } in findings {
        let mark = match verdict {
            Verdict::Good => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "FAILED",
        };
        let _ = writeln!(text, "  {mark:<8} {what:<width$} {found}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::uplink;

    fn program(hook: Hook, name: &str) -> Program {
        Program { hook, name: name.into(), id: 7 }
    }

    fn native() -> Facts {
        Facts {
            driver: Some("virtio_net".into()),
            native: Some(true),
            multi_buffer: Some(true),
            ..Facts::default()
        }
    }

    fn judged(uplink: &Uplink, facts: &Facts) -> (&'static str, Vec<(Verdict, String)>) {
        let Checked { mode, findings, .. } = judge(uplink, facts);
        (
            mode,
            findings.into_iter().map(|f| (f.verdict, format!("{}: {}", f.what, f.found))).collect(),
        )
    }

    fn has(findings: &[(Verdict, String)], verdict: Verdict, words: &[&str]) {
        assert!(
            findings
                .iter()
                .any(|(v, text)| *v == verdict && words.iter().all(|w| text.contains(w))),
            "{words:?} in {findings:?}"
        );
    }

    #[test]
    fn a_plain_card_is_good() {
        let (mode, findings) = judged(&uplink(2, "eth0"), &native());
        assert_eq!(mode, "native");
        assert!(findings.iter().all(|(verdict, _)| *verdict == Verdict::Good), "{findings:?}");
    }

    #[test]
    fn what_keeps_xdp_away_is_named() {
        let eth0 = uplink(2, "eth0");
        let bridge = Uplink { without_driver: true, ..eth0.clone() };
        assert_eq!(judged(&bridge, &native()).0, "tcx");
        let (_, findings) = judged(&bridge, &Facts { behind_iptables: true, ..native() });
        has(&findings, Verdict::Warning, &["bridge-nf-call-iptables", "--delivery kernel"]);

        let jumbo = Uplink { mtu: 9000, ..eth0.clone() };
        assert_eq!(judged(&jumbo, &native()).0, "native");
        let (mode, findings) = judged(&jumbo, &Facts { multi_buffer: Some(false), ..native() });
        assert_eq!(mode, "tcx");
        has(&findings, Verdict::Warning, &["mtu: 9000", "virtio_net"]);

        let (mode, findings) = judged(&eth0, &Facts { native: Some(false), ..native() });
        assert_eq!(mode, "tcx");
        has(&findings, Verdict::Warning, &["no native XDP"]);

        let programs = vec![program(Hook::Xdp, "cil_xdp_entry")];
        let (mode, findings) = judged(&eth0, &Facts { programs, ..native() });
        assert_eq!(mode, "tcx");
        has(&findings, Verdict::Warning, &["cil_xdp_entry", "Cilium", "acceleration"]);

        let programs = vec![program(Hook::Xdp, "herald_ingress")];
        assert_eq!(judged(&eth0, &Facts { programs, ..native() }).0, "native");
    }

    #[test]
    fn tags_and_the_order_of_programs_are_told() {
        let vlan = Uplink { vlan: 100, device: 9, ..uplink(2, "eth0.100") };
        let (_, findings) = judged(&vlan, &Facts { strips_tags: true, ..native() });
        has(&findings, Verdict::Warning, &["rx-vlan-offload"]);
        let programs = vec![
            program(Hook::TcxEgress, "cil_to_netdev"),
            program(Hook::TcxEgress, "herald_egress"),
            program(Hook::TcIngress, "cali_tc_preambl"),
        ];
        let (_, findings) = judged(&uplink(2, "eth0"), &Facts { programs, ..native() });
        has(&findings, Verdict::Warning, &["cil_to_netdev", "before Herald's"]);
        has(&findings, Verdict::Good, &["cali_tc_preambl", "Calico", "tc ingress"]);
    }
}
