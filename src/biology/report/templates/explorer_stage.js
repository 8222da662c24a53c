// The graph on the page: nodes are SVG elements that take the focus, links are strokes on a canvas behind them.

const SVG = "http://www.w3.org/2000/svg";
const GLYPHS = {
  feature: "M0-5.6A5.6 5.6 0 1 1 0 5.6A5.6 5.6 0 1 1 0-5.6Z", error: "M0-6.6L6.6 0L0 6.6L-6.6 0Z",
  token: "M-5-5H5V5H-5Z", logit: "M-5-5H5V5H-5Z", bias: "M-1.5-6H1.5V-1.5H6V1.5H1.5V6H-1.5V1.5H-6V-1.5H-1.5Z", other: "M0-6.4L6.4 5H-6.4Z",
};
const QUICK = 700; // links drawn while the slider moves, the strongest; all others follow when it rests
const NEAR = 26; // pixels from a tap or pointer to the node that it means

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key === "class") made.className = value;
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function svgElement(name, attributes = {}, text = null) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== null) made.textContent = text;
  return made;
}

/** The colour of a link's sign, from the page's style. */
function signColours(host) {
  const style = getComputedStyle(host);
  return { plus: style.getPropertyValue("--plus").trim(), minus: style.getPropertyValue("--minus").trim() };
}

class Stage {
  /** `act` is told what the user does: act.choose(node|null), act.pin(node); `name(node)` says what a node is called. */
  constructor(host, act, name) {
    this.host = host;
    this.act = act;
    this.name = name;
    this.scroller = host.querySelector(".ex-scroll");
    this.canvas = host.querySelector("canvas");
    this.svg = host.querySelector("svg");
    this.tip = host.querySelector(".ex-tip");
    this.axis = host.querySelector(".ex-layers");
    this.drawing = 0;
    this.svg.addEventListener("pointermove", (event) => this.hover(this.nearest(event)));
    this.svg.addEventListener("pointerleave", () => this.hover(null));
    this.svg.addEventListener("click", (event) => {
      const node = this.nearest(event);
      if (node && (event.metaKey || event.ctrlKey)) this.act.pin(node);
      else this.act.choose(node);
    });
    this.svg.addEventListener("keydown", (event) => this.key(event));
    this.svg.addEventListener("focusin", (event) => {
      const node = this.graph?.byId.get(event.target.dataset?.id);
      if (node && event.target.matches(":focus-visible")) this.hover(node);
    });
    this.svg.addEventListener("focusout", () => this.hover(null));
  }

  /** Reads the colours anew, after the page has become light or dark. */
  recolour() {
    this.colours = null;
  }

  /** Lays out and builds the nodes of a graph. */
  load(graph) {
    this.graph = graph;
    this.built = false;
    const context = this.canvas.getContext("2d");
    context.font = "12px system-ui, sans-serif";
    this.layout = placed(graph, this.scroller.clientWidth, (text) => context.measureText(text).width);
    const { width, height, rows, starts, widths } = this.layout;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    for (const part of [this.svg, this.canvas]) Object.assign(part.style, { width: `${width}px`, height: `${height}px` });
    const ratio = window.devicePixelRatio || 1;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.axis.replaceChildren(...rows.map(({ name, y }) => element("span", { style: `top:${y}px` }, name)));
    this.axis.style.height = `${height}px`;

    const back = svgElement("g", { "aria-hidden": "true" });
    for (const { y } of rows) back.append(svgElement("line", { class: "ex-row", x1: 0, x2: width, y1: y, y2: y }));
    starts.forEach((start, i) => {
      const text = svgElement("text", { class: "ex-word", x: start + widths[i] / 2, y: height - 10 }, clipped(graph.token(i), 14));
      text.append(svgElement("title", {}, clipped(graph.token(i), 300)));
      back.append(text);
    });
    const front = svgElement("g");
    this.marks = new Map();
    const inOrder = [...graph.nodes].sort((a, b) => a.row - b.row || a.x - b.x);
    for (const node of inOrder) {
      const mark = svgElement("g", {
        role: "option", tabindex: "-1", class: `ex-node ex-${node.kind}`, "data-id": node.id,
        transform: `translate(${node.x.toFixed(1)} ${node.y.toFixed(1)})`,
      });
      mark.append(svgElement("path", { class: "ex-ring", d: "M0-9.5A9.5 9.5 0 1 1 0 9.5A9.5 9.5 0 1 1 0-9.5Z" }), svgElement("path", { class: "ex-glyph", d: GLYPHS[node.kind] }));
      this.marks.set(node, mark);
      front.append(mark);
    }
    this.order = inOrder;
    this.svg.replaceChildren(back, front);
  }

  /** Shows `view`: {visible: Set, chosen, pins: Set, colour(node), found: Set|null, path: [{nodes}]|null, direction}. */
  show(view) {
    this.view = view;
    const { visible, chosen, pins, found, direction, path } = view;
    const lit = path && new Set(path.flatMap((step) => step.nodes));
    const toChosen = new Map();
    if (chosen && direction !== "outputs") for (const link of chosen.inputs) toChosen.set(link.source, link.share);
    if (chosen && direction !== "inputs") for (const link of chosen.outputs) if (!toChosen.has(link.target)) toChosen.set(link.target, link.share);
    let stop = chosen ?? this.resting;
    if (!stop || !visible.has(stop)) stop = this.order.find((node) => visible.has(node));
    for (const [node, mark] of this.marks) {
      const share = toChosen.get(node);
      const state = [
        visible.has(node) ? "" : "hidden", node === chosen ? "chosen" : "", pins.has(node.id) ? "pinned" : "", node.grouped ? "grouped" : "",
        chosen && node !== chosen && share === undefined ? "faint" : "", share > 0 ? "plus" : share < 0 ? "minus" : "",
        found ? (found.has(node) ? "found" : "faint") : "", lit ? (lit.has(node) ? "lit" : "faint") : "", chosen && node.key && node.key === chosen.key ? "same" : "",
      ].filter(Boolean).join(" ");
      if (mark.dataset.state !== state) {
        mark.dataset.state = state;
        mark.setAttribute("aria-selected", node === chosen);
      }
      const strength = share === undefined ? 1 : 0.25 + 0.75 * Math.min(1, Math.abs(share) / 0.25);
      if (mark.strength !== strength) mark.style.setProperty("--strength", (mark.strength = strength));
      if (view.quick) continue; // names and groups do not change under a moving slider
      const group = view.colour(node);
      if (mark.group !== group) mark.style.setProperty("--group", (mark.group = group) ?? "");
      const rest = node === stop ? "0" : "-1";
      if (mark.getAttribute("tabindex") !== rest) mark.setAttribute("tabindex", rest);
      const label = this.name(node);
      if (mark.spoken !== label) {
        mark.spoken = label;
        mark.setAttribute("aria-label", clipped(`${label}, on “${this.graph.token(node.position)}”`, 200));
      }
    }
    this.draw();
  }

  /** Draws the links, the strongest first, a few milliseconds a frame, so that input is never kept waiting. */
  draw() {
    const { chosen, direction, path } = this.view;
    const steps = path && path.slice(1).map((step, i) => [new Set(path[i].nodes), new Set(step.nodes)]);
    const listed = steps ? this.graph.links.filter(({ source, target }) => steps.some(([from, to]) => from.has(source) && to.has(target))) : !chosen ? this.graph.links : [
      ...(direction === "outputs" ? [] : chosen.inputs), ...(direction === "inputs" ? [] : chosen.outputs),
    ];
    const context = this.canvas.getContext("2d");
    const colours = (this.colours ??= signColours(this.host));
    const run = ++this.drawing;
    context.clearRect(0, 0, this.layout.width, this.layout.height);
    let next = 0, done = 0;
    const most = this.view.quick ? QUICK : Infinity;
    const some = () => {
      if (run !== this.drawing) return;
      const until = performance.now() + 7;
      while (next < listed.length && done < most) {
        const link = listed[next++];
        if (!link.source.shown || !link.target.shown) continue;
        done++;
        this.stroke(context, link, colours, Boolean(chosen || path));
        if (next % 64 === 0 && performance.now() > until) break;
      }
      this.host.dataset.drawn = next >= listed.length ? "all" : "some";
      if (next < listed.length && done < most) requestAnimationFrame(some);
    };
    some();
  }

  stroke(context, { source, target, share }, colours, strong) {
    const size = Math.abs(share);
    context.globalAlpha = strong ? 0.35 + 0.6 * Math.min(1, size / 0.15) : Math.min(0.55, 0.05 + 1.4 * size);
    context.lineWidth = strong ? 0.8 + 9 * Math.min(0.5, size) : 0.6 + 5 * Math.min(0.5, size);
    context.strokeStyle = share < 0 ? colours.minus : colours.plus;
    context.setLineDash(strong && share < 0 ? [5, 3] : []);
    context.beginPath();
    context.moveTo(source.x, source.y - 5);
    const pull = 0.45 * (source.y - target.y);
    if (strong) context.bezierCurveTo(source.x, source.y - pull, target.x, target.y + pull, target.x, target.y + 5);
    else context.lineTo(target.x, target.y + 5);
    context.stroke();
  }

  nearest(event) {
    const box = this.svg.getBoundingClientRect();
    const x = event.clientX - box.left, y = event.clientY - box.top;
    let best = null, least = NEAR ** 2;
    for (const node of this.view.visible) {
      const distance = (node.x - x) ** 2 + (node.y - y) ** 2;
      if (distance < least) [best, least] = [node, distance];
    }
    return best;
  }

  hover(node) {
    if (node === this.hovered) return;
    this.hovered = node;
    this.svg.style.cursor = node ? "pointer" : "";
    for (const [other, mark] of this.marks) mark.classList.toggle("ex-echo", Boolean(node && (other === node || (node.key && other.key === node.key))));
    this.tip.hidden = !node;
    if (!node) return;
    this.tip.textContent = clipped(`${this.name(node)} · on “${this.graph.token(node.position)}”`, 120);
    const side = node.x > this.scroller.scrollLeft + this.scroller.clientWidth / 2;
    Object.assign(this.tip.style, { left: `${node.x}px`, top: `${node.y}px`, transform: side ? "translate(calc(-100% - 12px), -50%)" : "translate(12px, -50%)" });
  }

  /** Arrows walk to the nearest node in their direction, Enter chooses, P pins, Escape lets go. */
  key(event) {
    const here = this.graph.byId.get(event.target.dataset?.id);
    if (!here) return;
    const ways = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };
    if (event.key in ways) this.rest(this.towards(here, ...ways[event.key]));
    else if (event.key === "Home" || event.key === "End") {
      const seen = this.order.filter((node) => this.view.visible.has(node));
      this.rest(event.key === "Home" ? seen[0] : seen.at(-1));
    } else if (event.key === "Enter" || event.key === " ") this.act.choose(here);
    else if (event.key === "Escape") this.act.choose(null);
    else if (event.key.toLowerCase() === "p" && !event.ctrlKey && !event.metaKey) this.act.pin(here);
    else return;
    event.preventDefault();
  }

  towards(here, right, up) {
    const seen = [...this.view.visible].filter((node) => node !== here && (up ? (node.row - here.row) * up > 0 : node.row === here.row && (node.x - here.x) * right > 0));
    const cost = up ? (node) => Math.abs(node.row - here.row) * 1e5 + Math.abs(node.x - here.x) : (node) => Math.abs(node.x - here.x);
    return seen.reduce((best, node) => (!best || cost(node) < cost(best) ? node : best), null);
  }

  /** Moves the focus to a node. */
  rest(node) {
    if (!node) return;
    this.resting = node;
    for (const mark of this.marks.values()) if (mark.getAttribute("tabindex") === "0") mark.setAttribute("tabindex", "-1");
    const mark = this.marks.get(node);
    mark.setAttribute("tabindex", "0");
    mark.focus({ preventScroll: true });
    this.reveal(node);
  }

  /** Scrolls sideways, inside its own box, until the node is seen. */
  reveal(node) {
    const { scrollLeft, clientWidth } = this.scroller;
    if (node.x < scrollLeft + 50 || node.x > scrollLeft + clientWidth - 40) this.scroller.scrollLeft = node.x - clientWidth / 2;
  }
}
