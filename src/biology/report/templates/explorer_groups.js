// The subgraph of pinned nodes: supernodes as boxes, with the direct effects between them.

const HUES = ["#01766b", "#6a4fb3", "#b2182b", "#6f6a00", "#c51b7d", "#7a4a10", "#2f7d32", "#54575c"];
const MOST_PINS = 200; // single pinned nodes that are drawn
const MARKED = 0.1; // least share that is written at its arrow
const DRAWN = 0.03; // least share of an effect that is drawn, beside the strongest into and out of every box

/** Boxes: every supernode, every other pinned node, and (if asked) the tokens and outputs that matter to them. */
function boxesOf(graph, view, context) {
  const boxes = [], of = new Map();
  const put = (box) => {
    boxes.push(box);
    for (const node of box.nodes) of.set(node, box);
  };
  view.groups.forEach((group, i) => {
    const nodes = [...group.ids].map((id) => graph.byId.get(id)).filter((node) => node && !of.has(node));
    if (nodes.length) put({ id: `s${i}`, kind: "group", group, nodes, title: view.called(group.name), note: `${nodes.length} ${nodes.length > 1 ? "nodes" : "node"}`, colour: HUES[i % HUES.length] });
  });
  for (const id of [...view.pins].slice(0, MOST_PINS)) {
    const node = graph.byId.get(id);
    if (node && !of.has(node)) put({ id, kind: node.kind, nodes: [node], title: view.name(node), note: "" });
  }
  if (context && boxes.length) {
    const named = boxes.length;
    for (const node of graph.nodes) {
      if (of.has(node) || !FIXED.has(node.kind)) continue;
      const shares = new Map();
      for (const link of node.kind === "token" ? node.outputs : node.inputs) {
        const box = of.get(node.kind === "token" ? link.target : link.source);
        if (box && boxes.indexOf(box) < named) shares.set(box, (shares.get(box) ?? 0) + Math.abs(link.weight));
      }
      const matters = [...shares].some(([box, size]) => {
        const whole = node.kind === "token" ? box.nodes.reduce((sum, member) => sum + (graph.total.get(member.id) ?? 0), 0) : graph.total.get(node.id);
        return whole && size / whole >= (node.kind === "token" ? 0.06 : 0.02);
      });
      const likely = node.kind !== "logit" || (node.raw.token_prob ?? 0) >= 0.02;
      if (matters && likely) put({ id: node.id, kind: node.kind, nodes: [node], title: view.name(node), note: node.kind === "logit" && node.raw.token_prob ? `${readable(node.raw.token_prob * 100)} %` : "" });
    }
  }
  return { boxes, of };
}

/** Direct effects between boxes: summed weights over the sum of |weights| into the target's members. */
function effectsOf(graph, boxes, of) {
  const sums = new Map();
  for (const link of graph.links) {
    const from = of.get(link.source), to = of.get(link.target);
    if (!from || !to || from === to) continue;
    const key = `${from.id}\n${to.id}`;
    if (!sums.has(key)) sums.set(key, { from, to, weight: 0 });
    sums.get(key).weight += link.weight;
  }
  const whole = new Map(boxes.map((box) => [box, box.nodes.reduce((sum, node) => sum + (graph.total.get(node.id) ?? 0), 0)]));
  const effects = [...sums.values()].map((effect) => ({ ...effect, share: effect.weight / (whole.get(effect.to) || 1) }));
  effects.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
  const kept = new Set(effects.filter((effect) => Math.abs(effect.share) >= DRAWN).slice(0, 60));
  for (const side of ["from", "to"]) {
    const met = new Set();
    for (const effect of effects) if (!met.has(effect[side]) && effect.share) {
      met.add(effect[side]);
      kept.add(effect);
    }
  }
  return effects.filter((effect) => kept.has(effect));
}

class Subgraph {
  constructor(host, act) {
    this.host = host;
    this.act = act;
    this.svg = host.querySelector("svg");
    this.field = svgElement("g");
    this.svg.append(this.field);
    this.zoom = d3.zoom().scaleExtent([0.2, 4]).on("zoom", ({ transform }) => this.field.setAttribute("transform", transform));
    this.selection = d3.select(this.svg).call(this.zoom).on("dblclick.zoom", null);
    this.zoom.filter((event) => (event.type === "wheel" ? event.ctrlKey || event.metaKey || document.fullscreenElement : !event.button && !(event.type === "touchstart" && event.touches.length < 2)));
    host.querySelector("[data-zoom=in]").addEventListener("click", () => this.selection.call(this.zoom.scaleBy, 1.3));
    host.querySelector("[data-zoom=out]").addEventListener("click", () => this.selection.call(this.zoom.scaleBy, 1 / 1.3));
    host.querySelector("[data-zoom=reset]").addEventListener("click", () => this.fit());
  }

  show(graph, view, context) {
    const { boxes, of } = boxesOf(graph, view, context);
    const effects = effectsOf(graph, boxes, of);
    const key = JSON.stringify([boxes.map(({ id, title, nodes }) => [id, title, nodes.map((node) => node.id)]), view.chosen?.id ?? view.openGroup, graph.payload.name]);
    if (key === this.key) return;
    const same = this.graph === graph && this.count === boxes.length;
    Object.assign(this, { key, graph, count: boxes.length });
    this.host.classList.toggle("ex-empty", !boxes.length);
    const measure = document.createElement("canvas").getContext("2d");
    measure.font = "600 13px system-ui, sans-serif";
    for (const box of boxes) box.text = clipped(box.title, 28);
    this.size = plan(boxes, effects, (box) => [Math.max(54, measure.measureText(box.text).width + 24), box.note ? 44 : 30]);
    this.field.replaceChildren(...effects.flatMap((effect) => this.arrow(effect)), ...boxes.map((box) => this.box(box, view)));
    if (!same) this.fit();
  }

  arrow({ from, to, share, curve, mark }) {
    const [start, first, second, end] = curve.map(([x, y]) => `${x.toFixed(1)} ${y.toFixed(1)}`);
    const path = `M${start}C${first} ${second} ${end}`;
    const line = svgElement("path", { class: `ex-arrow ${share < 0 ? "minus" : "plus"}`, d: path, "stroke-width": (1 + 9 * Math.min(0.6, Math.abs(share))).toFixed(1) });
    line.append(svgElement("title", {}, `${clipped(from.title)} → ${clipped(to.title)}: ${signed(share)} of its input`));
    return Math.abs(share) >= MARKED ? [line, svgElement("text", { class: "ex-mark", x: mark[0].toFixed(1), y: (mark[1] + 4).toFixed(1) }, signed(share))] : [line];
  }

  box(box, view) {
    const { x, y, width, height } = box;
    const chosen = box.kind === "group" ? view.openGroup === box.group.name : view.chosen === box.nodes[0];
    const made = svgElement("g", { class: `ex-box ex-box-${box.kind}${chosen ? " chosen" : ""}`, role: "button", tabindex: "0", transform: `translate(${x} ${y})`, "aria-label": clipped(box.kind === "group" ? `Supernode ${box.title}, ${box.note}` : box.title, 120), "data-box": box.kind === "group" ? box.group.name : box.nodes[0].id });
    if (box.colour) made.style.setProperty("--group", box.colour);
    made.append(svgElement("rect", { x: -width / 2, y: -height / 2, width, height, rx: box.kind === "token" ? 3 : 9 }), svgElement("text", { y: box.note ? -3 : 4.5 }, box.text));
    if (box.note) made.append(svgElement("text", { class: "ex-note", y: 13 }, box.note));
    const open = () => (box.kind === "group" ? this.act.openGroup(box.group.name) : this.act.choose(box.nodes[0]));
    made.addEventListener("click", open);
    made.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open();
    });
    return made;
  }

  fit() {
    const { clientWidth, clientHeight } = this.svg;
    const { width, height } = this.size ?? {};
    if (!width || !clientWidth) return;
    const scale = Math.min(1.15, clientWidth / width, clientHeight / height);
    this.selection.call(this.zoom.transform, d3.zoomIdentity.translate((clientWidth - scale * width) / 2, (clientHeight - scale * height) / 2).scale(scale));
  }
}

/** The editor of a supernode: its name, its members, and how to dissolve it. */
function groupCard(host, graph, group, view, act) {
  const members = [...group.ids].map((id) => graph.byId.get(id)).filter(Boolean);
  host.replaceChildren(
    element("div", { class: "ex-title" }, element("span", { class: "ex-key", "aria-hidden": "true", style: `color:${view.hue(group)}` }, "⬤"),
      element("input", { type: "text", value: view.called(group.name), "aria-label": "Name of this supernode", maxlength: 200, onchange: (event) => act.rename(group, event.target.value.trim()) })),
    element("div", { class: "ex-do" }, element("button", { type: "button", onclick: () => act.dissolve(group) }, "Dissolve")),
    element("p", { class: "note" }, "A supernode: nodes that are shown as one."),
    element("table", { class: "ex-links" }, element("caption", {}, element("strong", {}, "Members"), ` ${members.length}`), element("tbody", {}, ...members.map((node) => element("tr", {},
      element("td", {}, choice(node, clipped(view.name(node), 60), act)), element("td", {}, clipped(graph.token(node.position), 14)),
      element("td", { class: "n" }, element("button", { type: "button", "aria-label": clipped(`Take ${view.name(node)} out`, 80), onclick: () => act.group(node, null) }, "×")))))),
  );
}
