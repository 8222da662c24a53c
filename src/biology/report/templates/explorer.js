// The interactive graph: what is shown follows from a few words of state, which the address keeps (after the #, in the words
// that Neuronpedia uses in its addresses) so that a view can be sent to somebody.

const LONGEST = 30_000; // letters of an address that every browser and messenger carries

class Explorer {
  constructor(root) {
    this.root = root;
    this.sources = new Map([...document.querySelectorAll("script[data-graph]")].map((script) => [script.dataset.graph, script]));
    this.graphs = new Map();
    this.part = (name) => root.querySelector(`[data-part=${name}]`);
    const act = {
      choose: (node, focus) => this.choose(node, focus), pin: (node) => this.pin(node), label: (node, text) => this.label(node, text),
      group: (node, name) => this.group(node, name), openGroup: (name) => this.openGroup(name),
      rename: (group, name) => this.rename(group, name), dissolve: (group) => this.dissolve(group),
    };
    this.act = act;
    this.stage = new Stage(root.querySelector(".ex-graph"), act, (node) => this.name(node));
    this.subgraph = new Subgraph(root.querySelector(".ex-sub"), act);
    this.part("prompt").addEventListener("change", (event) => this.open(event.target.value));
    this.part("threshold").addEventListener("input", (event) => this.slide(Number(event.target.value)));
    this.part("find").addEventListener("input", () => this.soon());
    this.part("find").addEventListener("keydown", (event) => event.key === "Enter" && this.nextFound());
    this.part("context").addEventListener("change", () => this.refresh());
    this.part("list").addEventListener("toggle", () => this.refresh());
    for (const input of root.querySelectorAll("[name=ex-direction]")) input.addEventListener("change", () => this.changed());
    this.part("copy").addEventListener("click", () => this.copy());
    this.part("download").addEventListener("click", () => this.download());
    this.part("reset").addEventListener("click", () => this.restart());
    this.part("full").addEventListener("click", () => (document.fullscreenElement ? document.exitFullscreen() : root.requestFullscreen()));
    document.addEventListener("fullscreenchange", () => this.relayout());
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (this.stage.recolour(), this.refresh()));
    addEventListener("hashchange", () => this.follow());
    let width = innerWidth;
    addEventListener("resize", () => innerWidth !== width && ((width = innerWidth), this.relayout()));
  }

  async read(name) {
    if (!this.graphs.has(name)) {
      this.shared ??= await unpacked("graph-shared"); // of pages.js
      this.graphs.set(name, indexed({ ...this.shared, ...(await unpacked(this.sources.get(name).id)) }));
    }
    return this.graphs.get(name);
  }

  /** The state that a file comes with. */
  defaults(graph) {
    const { qParams = {}, metadata } = graph.payload.graph;
    const repeated = new Set(graph.payload.repeated ?? []);
    const groups = [], hidden = new Set();
    for (const [name, ...ids] of qParams.supernodes ?? []) {
      if (repeated.has(name)) ids.forEach((id) => hidden.add(id));
      else groups.push({ name: this.unused(name, groups), ids: new Set(ids.filter((id) => graph.byId.has(id))) });
    }
    for (const { ids } of groups) ids.forEach((id) => hidden.delete(id));
    const pins = new Set((qParams.pinnedIds ?? []).filter((id) => graph.byId.has(id) && !hidden.has(id)));
    const known = graph.nodes.map((node) => node.influence).filter((value) => value !== null);
    const most = known.length ? Math.ceil(100 * Math.max(...known)) / 100 : null;
    const outputs = graph.nodes.filter((node) => node.kind === "logit").sort((a, b) => (b.raw.token_prob ?? 0) - (a.raw.token_prob ?? 0));
    return { most, threshold: most === null || most - metadata.node_threshold < 0.05 ? most : Math.min(most, metadata.node_threshold || most), chosen: graph.byId.get(qParams.clickedId) ?? outputs[0] ?? null, pins, groups, labels: new Map() };
  }

  unused(name, groups) {
    let free = name;
    for (let i = 2; groups.some((group) => group.name === free); i++) free = `${name} (${i})`;
    return free;
  }

  /** Shows a graph, in the view that `asked` (the part of the address after #) describes. */
  async open(name, asked = null) {
    this.graph = await this.read(name);
    Object.assign(this, this.defaults(this.graph), { openedGroup: null, path: null });
    if (asked) this.apply(asked);
    this.part("prompt").value = name;
    this.part("find").value = "";
    const slider = this.part("threshold");
    this.part("pruning").hidden = this.most === null;
    if (this.most !== null) Object.assign(slider, { min: Math.min(0.1, this.most), max: this.most, step: 0.01, value: this.threshold });
    this.paper(name);
    this.stage.load(this.graph);
    this.refresh();
    this.stage.reveal(this.chosen ?? this.stage.order.at(-1)); // the outputs, if nothing is chosen
    this.root.dataset.ready = name;
  }

  /** State from an address in our words or Neuronpedia's, whatever it holds: what does not fit this graph is left out. */
  apply(asked) {
    const json = (name) => {
      try {
        return JSON.parse(asked.get(name) ?? "null");
      } catch {
        return null;
      }
    };
    const { byId } = this.graph;
    if (asked.has("clickedId")) this.chosen = byId.get(asked.get("clickedId")) ?? null;
    if (asked.has("path")) {
      this.path = asked.get("path").split("\n").map((name) => this.stepOf(name)).filter((step) => step.nodes.length);
      if (this.path.length > 1) this.chosen = null;
      else this.path = null;
    }
    const threshold = Number.parseFloat(asked.get("pruningThreshold"));
    if (this.most !== null && Number.isFinite(threshold)) this.threshold = Math.max(0, Math.min(this.most, threshold));
    if (asked.has("pinnedIds")) this.pins = new Set(asked.get("pinnedIds").split(",").filter((id) => byId.has(id)));
    if (asked.has("supernodes")) {
      this.groups = [];
      for (const entry of Array.isArray(json("supernodes")) ? json("supernodes") : []) {
        if (!Array.isArray(entry) || typeof entry[0] !== "string") continue;
        this.groups.push({ name: this.unused(entry[0], this.groups), ids: new Set(entry.slice(1).filter((id) => byId.has(id))) });
      }
    }
    const clerps = json("clerps");
    for (const [key, text] of Array.isArray(clerps) ? clerps : Object.entries(clerps ?? {})) {
      if (typeof text !== "string") continue;
      if (byId.has(key)) this.labels.set(key, text);
      else for (const node of this.graph.nodes) if (node.kind === "feature" && String(node.raw.feature) === String(key)) this.labels.set(node.id, text);
    }
  }

  /** The nodes of a step of a path, which is named as in the table of edges: token:Da@9, a supernode, logit:Austin. */
  stepOf(name) {
    const { nodes, payload } = this.graph;
    const token = /^token:[\s\S]*@(\d+)$/.exec(name);
    if (token) return { title: `“${clipped(this.graph.token(Number(token[1])), 20)}”`, nodes: nodes.filter((node) => node.kind === "token" && node.position === Number(token[1])) };
    if (name.startsWith("logit:")) return { title: `“${name.slice(6).trim()}”`, nodes: nodes.filter((node) => node.kind === "logit" && plainName(this.graph, node) === `output “${clipped(name.slice(6), 40)}”`) };
    const ids = new Set((payload.graph.qParams?.supernodes ?? []).filter(([one]) => one === name).flatMap(([, ...listed]) => listed));
    return { title: this.called(name), nodes: nodes.filter((node) => ids.has(node.id)) };
  }

  follow() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const name = asked.get("graph");
    if (name === null || !this.sources.has(name)) return false;
    this.open(name, asked).then(() => this.root.scrollIntoView({ block: "start" }));
    return true;
  }

  /** The address of the present view; `chosen` may be another node. */
  address(chosen = this.chosen) {
    const before = this.defaults(this.graph), words = new URLSearchParams({ graph: this.graph.payload.name });
    const groups = (listed) => JSON.stringify(listed.map(({ name, ids }) => [name, ...ids]));
    words.set("clickedId", chosen?.id ?? "");
    if (this.threshold !== before.threshold) words.set("pruningThreshold", this.threshold);
    if ([...this.pins].join() !== [...before.pins].join()) words.set("pinnedIds", [...this.pins].join());
    if (groups(this.groups) !== groups(before.groups)) words.set("supernodes", groups(this.groups));
    if (this.labels.size) words.set("clerps", JSON.stringify([...this.labels]));
    return `#${words}`;
  }

  remember() {
    const address = this.address(), fits = address.length < LONGEST;
    if (fits) history.replaceState(null, "", address);
    this.part("said").textContent = fits ? "" : "This view is too long for a link; “Download JSON” keeps it.";
    return fits;
  }

  changed() {
    this.refresh();
    this.remember();
  }

  // What the user does --------------------------------------------------------------------------------------------------

  choose(node, focus = false) {
    this.openedGroup = this.path = null;
    this.chosen = node;
    this.stage.resting = node ?? this.stage.resting;
    this.changed();
    if (node) this.stage.reveal(node);
    if (node && focus) this.part("card").focus({ preventScroll: true });
  }

  pin(node) {
    if (!this.pins.delete(node.id)) this.pins.add(node.id);
    else for (const { ids } of this.groups) ids.delete(node.id);
    this.drop();
    this.changed();
  }

  label(node, text) {
    if (text) this.labels.set(node.id, text);
    else this.labels.delete(node.id);
    this.changed();
  }

  /** Puts a node into a supernode; `null` takes it out of all, `undefined` makes a new one. */
  group(node, name) {
    for (const { ids } of this.groups) ids.delete(node.id);
    if (name !== null) {
      this.pins.add(node.id);
      let group = this.groups.find((one) => one.name === name);
      if (!group) this.groups.push((group = { name: this.unused("supernode 1", this.groups).replace(/1 \((\d+)\)$/, "$1"), ids: new Set() }));
      group.ids.add(node.id);
      if (name === undefined) this.openedGroup = group.name;
    }
    this.drop();
    this.changed();
  }

  drop() {
    this.groups = this.groups.filter(({ ids }) => ids.size);
  }

  openGroup(name) {
    this.openedGroup = name;
    this.changed();
  }

  rename(group, name) {
    if (!name || name === group.name) return this.refresh();
    group.name = this.unused(name, this.groups.filter((other) => other !== group));
    this.openedGroup = group.name;
    this.changed();
  }

  dissolve(group) {
    this.groups = this.groups.filter((other) => other !== group);
    this.openedGroup = null;
    this.changed();
  }

  slide(value) {
    this.threshold = value;
    this.soon(true);
  }

  /** Refreshes with the next frame; what costs more than the graph itself waits until the hand rests. */
  soon(remember = false) {
    cancelAnimationFrame(this.frame);
    clearTimeout(this.later);
    this.frame = requestAnimationFrame(() => this.refresh(false));
    this.later = setTimeout(() => (remember ? this.changed() : this.refresh()), 160);
  }

  nextFound() {
    const listed = this.stage.order.filter((node) => this.found?.has(node) && this.visible.has(node));
    if (listed.length) this.choose(listed[(listed.indexOf(this.chosen) + 1) % listed.length]);
  }

  restart() {
    const { name } = this.graph.payload;
    this.open(name).then(() => history.replaceState(null, "", `#graph=${encodeURIComponent(name)}`));
  }

  relayout() {
    if (!this.graph) return;
    this.stage.load(this.graph);
    this.subgraph.key = null;
    this.refresh();
    this.subgraph.fit();
  }

  async copy() {
    if (!this.remember()) return;
    const said = this.part("said");
    try {
      await navigator.clipboard.writeText(location.href);
      said.textContent = "Copied.";
    } catch {
      said.textContent = "The address bar holds the link.";
    }
    setTimeout(() => (said.textContent = ""), 4000);
  }

  /** The graph with the labels, pins and supernodes of the present view, as a file of the published format. */
  file() {
    const { graph } = this.graph.payload;
    const nodes = graph.nodes.map((raw) => (this.labels.has(raw.node_id) ? { ...raw, clerp: this.labels.get(raw.node_id) } : raw));
    const qParams = { ...graph.qParams, pinnedIds: [...this.pins], supernodes: this.groups.map(({ name, ids }) => [this.called(name), ...ids]), clickedId: this.chosen?.id ?? "" };
    return { ...graph, qParams, nodes };
  }

  download() {
    const address = URL.createObjectURL(new Blob([JSON.stringify(this.file(), null, 1), "\n"], { type: "application/json" }));
    element("a", { href: address, download: `${this.graph.payload.graph.metadata.slug}.json` }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  }

  // What is shown -------------------------------------------------------------------------------------------------------

  called(name) {
    return this.graph.payload.called?.[name] ?? name;
  }

  labelOf(node) {
    const given = node.raw.clerp ?? "";
    const automatic = node.kind !== "feature" && (node.kind === "logit" || /^(Emb|Err)\b/.test(given));
    return this.labels.get(node.id) ?? (automatic ? "" : given);
  }

  name(node) {
    const given = this.labelOf(node), plain = plainName(this.graph, node);
    if (given || node.kind !== "feature" || plain.includes(" ")) return clipped(given || plain, 80);
    const group = this.groups.find(({ ids }) => ids.has(node.id));
    return group ? `${plain} ${clipped(this.called(group.name), 30)}` : plain;
  }

  hue(group) {
    return HUES[this.groups.indexOf(group) % HUES.length];
  }

  refresh(all = true) {
    const { nodes, links } = this.graph;
    const kept = (node) => FIXED.has(node.kind) || node.influence === null || this.threshold === null || node.influence <= this.threshold + 1e-9 || node === this.chosen || this.pins.has(node.id) || this.path?.some((step) => step.nodes.includes(node));
    for (const node of nodes) node.shown = kept(node);
    this.visible = new Set(nodes.filter((node) => node.shown));
    const wanted = this.part("find").value.trim().toLowerCase();
    const text = (node) => [
      this.name(node), plainName(this.graph, node), this.graph.token(node.position), this.graph.words[node.position], node.id,
      ...this.groups.filter(({ ids }) => ids.has(node.id)).map(({ name }) => this.called(name)),
      ...(this.graph.payload.cards?.[node.key]?.promotes ?? []),
    ].join(" ").toLowerCase();
    this.found = wanted ? new Set(nodes.filter((node) => text(node).includes(wanted))) : null;
    const grouped = new Map();
    for (const node of nodes) node.grouped = false;
    for (const group of this.groups) for (const id of group.ids) {
      if (!grouped.has(id)) grouped.set(id, this.hue(group));
      this.graph.byId.get(id).grouped = true;
    }
    const view = {
      quick: !all, visible: this.visible, chosen: this.openedGroup ? null : this.chosen, pins: this.pins, groups: this.groups, found: this.found, openGroup: this.openedGroup, path: this.path,
      direction: this.root.querySelector("[name=ex-direction]:checked").value, colour: (node) => grouped.get(node.id), name: (node) => this.name(node),
      labelOf: (node) => this.labelOf(node), called: (name) => this.called(name), linkTo: (node) => this.address(node), hue: (group) => this.hue(group),
    };
    this.stage.show(view);
    this.tell(nodes, links);
    if (!all) return;
    const opened = this.groups.find((group) => group.name === this.openedGroup);
    if (opened) groupCard(this.part("card"), this.graph, opened, view, this.act);
    else card(this.part("card"), this.graph, this.chosen, view, this.act);
    this.subgraph.show(this.graph, view, this.part("context").checked);
    this.scores();
    this.table();
  }

  /** Says what is shown and what the slider hides. */
  tell(nodes, links) {
    const seen = links.reduce((count, link) => count + (link.source.shown && link.target.shown), 0);
    const hidden = nodes.filter((node) => !this.visible.has(node));
    const errors = hidden.filter((node) => node.kind === "error").length, features = hidden.length - errors;
    const several = (count, word) => `${count} ${word}${count === 1 ? "" : "s"}`;
    const lost = [features && several(features, "feature"), errors && several(errors, "error node")].filter(Boolean).join(" and ");
    const found = this.found ? ` Search: ${several([...this.found].filter((node) => this.visible.has(node)).length, "node")} shown${[...this.found].some((node) => !this.visible.has(node)) ? `, ${[...this.found].filter((node) => !this.visible.has(node)).length} hidden` : ""}.` : "";
    const lit = this.path ? ` Lit up: ${this.path.map(({ title }) => title).join(" → ")}. A click on a node ends it.` : "";
    this.part("shown").textContent = `${nodes.length - hidden.length} of ${several(nodes.length, "node")} and ${seen} of ${several(links.length, "link")} are shown. ${lost ? `The slider hides ${lost} of less influence.` : "The slider hides nothing."}${found}${lit}`;
    if (this.threshold !== null) this.part("percent").value = `${Math.round(100 * this.threshold)} %`;
  }

  scores() {
    const scores = this.pins.size ? subgraphScores(this.graph, this.pins) : null;
    this.part("scores").textContent = scores ? `As if nothing else were understood: replacement ${readable(scores.replacement, 2)}, completeness ${readable(scores.completeness, 2)}.` : "";
    const repeated = (this.graph.payload.repeated ?? []).filter((name) => !this.groups.some((group) => group.name === name));
    this.part("repeated").textContent = repeated.length ? ` Not drawn, since most of their nodes are in another supernode: ${clipped(repeated.map((name) => this.called(name)).join(", "), 200)}.` : "";
  }

  /** All nodes as a table, which the search filters. */
  table() {
    const details = this.part("list");
    if (!details.open) return;
    const listed = this.stage.order.filter((node) => this.visible.has(node) && (!this.found || this.found.has(node))).sort((a, b) => b.row - a.row || (a.influence ?? 0) - (b.influence ?? 0));
    this.part("rows").replaceChildren(...listed.map((node) => element("tr", {},
      element("td", {}, choice(node, this.name(node), this.act)), element("td", {}, node.kind), element("td", { class: "n" }, FIXED.has(node.kind) ? "" : String(node.layer)),
      element("td", {}, clipped(this.graph.token(node.position), 20)), element("td", { class: "n" }, typeof node.raw.activation === "number" ? readable(node.raw.activation) : ""), element("td", { class: "n" }, node.influence === null ? "" : readable(node.influence, 2)))));
  }

  /** The paper-style graph beside the subgraph: the page's own figure of this prompt, where it has one. */
  paper(name) {
    const place = this.part("paper");
    const source = (document.getElementById(`fig-supernode_graph-${name}`) ?? (place.dataset.first === name ? document.getElementById("fig-supernode_graph") : null))?.querySelector("img");
    place.hidden = !source;
    this.root.classList.toggle("ex-has-paper", Boolean(source));
    if (source) place.querySelector(".ex-picture").replaceChildren(element("img", { src: source.src, alt: source.alt }));
  }
}

async function start() {
  const root = document.getElementById("explorer");
  if (!root) return;
  try {
    root.hidden = false;
    const explorer = new Explorer(root);
    if (!explorer.follow()) await explorer.open([...explorer.sources.keys()][0]);
  } catch (error) {
    root.hidden = true;
    const still = document.querySelector(".ex-still"); // an old browser: the pictures that it would see without scripts
    if (still?.tagName === "NOSCRIPT") still.replaceWith(element("p", {}, "This browser cannot show the interactive graph."), new DOMParser().parseFromString(still.textContent, "text/html").body);
    throw error;
  }
}
start();
