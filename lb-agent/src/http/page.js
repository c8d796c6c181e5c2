// The status page: it shows what /status/node says, each two seconds, and what was counted in between.
"use strict";

const PAUSE_MS = 2000;
const KEPT = 60;

let before = null;
const history = [];

const byId = (id) => document.getElementById(id);

// All text is set as text: what stands in names is never read as markup.
function row(kind, cells) {
  const line = document.createElement("tr");
  for (const cell of cells) {
    const [text, name] = Array.isArray(cell) ? cell : [cell, ""];
    const place = document.createElement(kind);
    place.textContent = text;
    place.className = typeof text === "number" ? "number " + name : name;
    line.append(place);
  }
  return line;
}

function table(id, head, rows) {
  const place = byId(id);
  const all = rows.length ? rows.map((cells) => row("td", cells)) : [row("td", [["none", "none"]])];
  place.replaceChildren(row("th", head), ...all);
}

const share = (all) => all.map((one) => `${one.of} ${one.percent.toFixed(1)} %`).join(", ");
const pods = (all) => all.map((one) => `${one.pod} (${one.node}) ${one.percent.toFixed(1)} %`).join(", ");
// Why a VIP has its owner, why that is not this node, and what else is to be said.
const why = (vip) => [
  vip.owner_why && `owner: ${vip.owner_why.message}.`,
  vip.not_here && `not this node: ${vip.not_here.message}.`,
  vip.bgp && (vip.bgp.reason === "Announced" ? `by BGP ${vip.bgp.message}.` : `not by BGP from this node: ${vip.bgp.message}.`),
  ...vip.notices,
].filter(Boolean).join(" ");
const port = (one) => `${one.vip.includes(":") ? `[${one.vip}]` : one.vip}:${one.port}/${one.protocol}`;
const total = (status, field) => status.services.reduce((sum, one) => sum + one[field], 0);
const rate = (count, seconds) => Math.max(0, Math.round(count / seconds));

function rates(status, now) {
  const counted = {
    now,
    delivered: total(status, "delivered_packets"),
    bytes: total(status, "delivered_bytes"),
    forwarded: total(status, "forwarded_packets"),
    services: Object.fromEntries(status.services.map((one) => [port(one), one.delivered_packets])),
  };
  const seconds = before ? (now - before.now) / 1000 : 0;
  const of = { services: {} };
  if (seconds > 0) {
    of.delivered = rate(counted.delivered - before.delivered, seconds);
    of.forwarded = rate(counted.forwarded - before.forwarded, seconds);
    of.bits = rate(8 * (counted.bytes - before.bytes), seconds);
    for (const [name, count] of Object.entries(counted.services)) {
      of.services[name] = rate(count - (before.services[name] ?? count), seconds);
    }
    history.push(of.delivered + of.forwarded);
    history.splice(0, history.length - KEPT);
  }
  before = counted;
  return of;
}

function graph() {
  const most = Math.max(1, ...history);
  const points = history.map((count, at) => `${(600 * at) / (KEPT - 1)},${78 - (74 * count) / most}`);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", points.join(" "));
  byId("graph").replaceChildren(line);
}

function show(status) {
  const of = rates(status, performance.now());
  byId("node").textContent = `on ${status.node ?? "this node"}`;
  document.title = `Herald on ${status.node ?? "this node"}`;
  const agent = status.agent;
  const says = agent.ready ? (agent.healthy ? "ready" : "not healthy") : "not ready";
  byId("agent").textContent =
    `${agent.version}, ${says}, ${agent.nodes_alive} nodes alive` + (agent.allocator ? ", gives Services their addresses" : "");
  byId("agent").className = says === "ready" ? "good" : "bad";
  byId("rates").textContent = of.delivered === undefined
    ? "counting …"
    : `${of.delivered} packets/s to pods of this node (${(of.bits / 1e6).toFixed(2)} Mbit/s), ${of.forwarded} packets/s to other nodes`;
  graph();
  const owned = (node) => status.vips.filter((vip) => vip.owner === node).length;
  table("nodes", ["node", ["VIPs announced", "number"]], status.nodes.map((node) => [node, owned(node)]));
  table("vips", ["VIP", "announced by", "on", "Services", "why", ["answered here", "number"]],
    status.vips.map((vip) => [vip.vip, vip.owner ? vip.owner : ["nobody on layer 2", "none"],
      vip.announced_on.join(", "), vip.services.join(", "), why(vip), vip.answered]));
  table("services", ["Service", "port", "nodes", "pods", ["packets/s", "number"], ["packets to pods", "number"]],
    status.services.map((one) => [one.service ?? "", port(one) + (one.kernel ? " (by kube-proxy)" : ""), share(one.nodes),
      (one.pods_of_all_nodes ? "" : "of this node: ") + pods(one.pods), of.services[port(one)] ?? 0, one.delivered_packets]));
  table("peers", ["peer", "session", "BFD", ["prefixes told", "number"], ["to be told", "number"]],
    status.peers.map((peer) => [peer.peer, peer.up ? ["up", "good"] : ["down", "bad"],
      peer.bfd_up === null ? "" : peer.bfd_up ? ["up", "good"] : ["down", "bad"], peer.announced, peer.pending]));
  table("interfaces", ["interface", "VLAN", "program"],
    status.interfaces.map((one) => [one.name, one.vlan || "", one.mode ?? ["not attached", "bad"]]));
  table("frames", ["became of", ["frames", "number"]],
    Object.entries(status.frames).sort((one, other) => other[1] - one[1]));
}

async function look() {
  try {
    const answer = await fetch("status/node", { cache: "no-store" });
    if (!answer.ok) throw new Error(await answer.text());
    show(await answer.json());
  } catch (error) {
    byId("agent").textContent = `the agent does not answer: ${error.message}`;
    byId("agent").className = "bad";
  }
  setTimeout(look, PAUSE_MS);
}

look();
