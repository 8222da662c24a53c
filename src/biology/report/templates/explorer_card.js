// What is told of the chosen node: its label, its feature's card, and its inputs and outputs as tables.

const LISTED = 10; // rows of a table of links before one asks for more

/** `act`: choose(node), pin(node), label(node, text), group(node, name|null|undefined). `view`: what the controller shows. */
function card(host, graph, node, view, act) {
  if (!node) {
    host.replaceChildren(
      element("h4", {}, "No node chosen"),
      element("p", { class: "note" }, "Tap a node, or move to the graph with the Tab key, walk with the arrow keys and press Enter. Its inputs and outputs are listed here."),
    );
    return;
  }
  const kinds = { "cross layer transcoder": "feature", "mlp reconstruction error": "reconstruction error", embedding: "token of the prompt", logit: "output" };
  const kind = kinds[node.raw.feature_type] ?? clipped(node.raw.feature_type, 60);
  const facts = [["kind", kind], ["token", `“${clipped(graph.token(node.position), 60)}” (position ${node.position})`]];
  if (node.index !== null) facts.push(["layer / feature", `${node.layer} / ${node.index}`]);
  if (typeof node.raw.activation === "number") facts.push(["activation", readable(node.raw.activation)]);
  if (node.kind === "logit" && typeof node.raw.token_prob === "number") facts.push(["probability", `${readable(node.raw.token_prob * 100)} %`]);
  if (node.influence !== null) facts.push(["influence", `within the first ${readable(node.influence * 100)} % (smaller is more important)`]);
  const elsewhere = node.key ? graph.nodes.filter((other) => other !== node && other.key === node.key) : [];

  const label = element("input", {
    type: "text", value: view.labelOf(node), placeholder: clipped(plainName(graph, node), 80), "aria-label": "Label of this node", maxlength: 2000,
    onchange: (event) => act.label(node, event.target.value.trim()),
  });
  const pinned = view.pins.has(node.id);
  const groupName = view.groups.find((group) => group.ids.has(node.id))?.name ?? "";
  const groups = element("select", {
    "aria-label": "Supernode of this node",
    onchange: (event) => act.group(node, event.target.value === "+" ? undefined : event.target.value || null),
  }, element("option", { value: "" }, "in no supernode"), ...view.groups.map(({ name }) => element("option", { value: name, selected: name === groupName }, clipped(view.called(name), 40))), element("option", { value: "+" }, "a new supernode …"));

  const parts = [
    element("div", { class: "ex-title" }, element("span", { class: `ex-key ex-${node.kind}`, "aria-hidden": "true" }, { feature: "●", error: "◆", token: "■", logit: "■" }[node.kind] ?? "▲"), label),
    element("div", { class: "ex-do" },
      element("button", { type: "button", "aria-pressed": String(pinned), onclick: () => act.pin(node) }, pinned ? "Unpin" : "Pin"),
      groups,
      element("a", { href: view.linkTo(node) }, "Link"),
      node.key && graph.payload.cards?.[node.key] && graph.payload.atlas ? element("a", { href: `${graph.payload.atlas}#${node.key}` }, "Its card in the atlas") : "",
    ),
    element("dl", {}, ...facts.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)])),
  ];
  if (elsewhere.length) {
    parts.push(element("p", { class: "note" }, "The same feature on ", ...elsewhere.flatMap((other, i) => [i ? ", " : "", choice(other, `“${clipped(graph.token(other.position), 20)}” (${other.position})`, act)])));
  }
  const known = graph.payload.cards?.[node.key];
  if (graph.payload.labels?.[node.id]) parts.push(element("p", { class: "note" }, `“${clipped(graph.payload.labels[node.id], 120)}”: rules of a case find this feature for such prompts, at such a token.`));
  if (known) parts.push(...chips("promotes", known.promotes), ...chips("suppresses", known.suppresses));
  parts.push(linkTable("Inputs", "share of all direct effects into this node", node.inputs, (link) => link.source, graph, view, act));
  parts.push(linkTable("Outputs", "share of all direct effects into the other node", node.outputs, (link) => link.target, graph, view, act));
  parts.push(headsTable(node, graph, view, act));
  const steered = graph.payload.steering?.[node.id];
  if (steered) parts.push(steeringTable(steered));
  if (node.key) parts.push(...featureCard(graph.payload, node));
  host.replaceChildren(...parts);
}

/** Tokens that a feature's decoder raises or lowers. */
function chips(title, listed) {
  if (!listed?.length) return [];
  return [element("p", { class: "ex-chips" }, element("span", { class: "soft" }, title), ...listed.slice(0, 10).map((text) => element("span", { class: "token" }, clipped(text, 24))))];
}

function choice(node, text, act) {
  return element("button", { type: "button", class: "ex-go", onclick: () => act.choose(node, true) }, text);
}

/** Links of one direction, the strongest first; the ones that the slider hides are counted, not listed. */
function linkTable(title, unit, links, other, graph, view, act) {
  if (!links.length) return "";
  const seen = links.filter((link) => view.visible.has(other(link)));
  const hidden = links.length - seen.length;
  const live = links.some((link) => link.live !== null);
  const rows = (from, to) => seen.slice(from, to).map((link) => {
    const node = other(link), side = Math.min(1, Math.abs(link.share) / 0.5);
    return element("tr", { class: link.share < 0 ? "minus" : "plus" },
      element("td", { class: "n ex-share", style: `--share:${(100 * side).toFixed(0)}%` }, signed(link.share)),
      element("td", {}, choice(node, clipped(view.name(node), 60), act)),
      element("td", {}, clipped(graph.token(node.position), 14)), element("td", { class: "n" }, node.kind === "token" || node.kind === "logit" ? "" : String(node.layer)),
      live ? element("td", { class: "n" }, `${(100 * link.live).toFixed(0)} %`) : "");
  });
  const body = element("tbody", {}, ...rows(0, LISTED));
  const table = element("table", { class: "ex-links" }, element("caption", {}, element("strong", {}, title), ` ${seen.length}`, element("span", { class: "soft" }, hidden ? ` · ${hidden} hidden by the slider` : "", ` · ${unit}`)));
  if (!seen.length) return table;
  table.append(element("thead", {}, element("tr", {}, ...["share", "node", "token", "layer"].map((name, i) => element("th", { scope: "col", class: i % 3 ? "" : "n" }, name)), live ? element("th", { scope: "col", class: "n", title: "the share of the link that runs through live attention patterns and norm scales" }, "live") : "")), body);
  if (seen.length <= LISTED) return table;
  const more = element("button", { type: "button", onclick: () => { body.append(...rows(LISTED)); more.remove(); } }, `Show all ${seen.length}`);
  return element("div", {}, table, more);
}

/** The attention heads that carry links of a node, where the file tells them (`biology trace --heads`). */
function headsTable(node, graph, view, act) {
  const told = [...node.inputs, ...node.outputs].filter((link) => link.heads.length);
  if (!told.length) return "";
  const rows = told.map((link) => {
    const into = link.target === node, other = into ? link.source : link.target, ends = `${link.target.position} ${link.source.position}`;
    const heads = link.heads.slice(0, 5).map(({ layer, head, share, query, key, attention, matched = [] }) => {
      const step = `${query} ${key}` === ends ? "" : ` (from “${clipped(graph.token(key), 14)}” (${key}) to “${clipped(graph.token(query), 14)}” (${query}))`;
      return element("li", {}, `L${layer}H${head} `, element("span", { class: share < 0 ? "minus" : "plus" }, signed(share)), step, ...matchedPairs(attention, matched));
    });
    return element("tr", {}, element("td", {}, into ? "from " : "to ", choice(other, clipped(view.name(other), 60), act)), element("td", {}, clipped(graph.token(other.position), 14)), element("td", {}, element("ul", {}, ...heads)));
  });
  return element("table", { class: "ex-links ex-heads" },
    element("caption", {}, element("strong", {}, "Attention heads"), element("span", { class: "soft" }, " · what a link to or from another token loses without the head, as a share of the link")),
    element("thead", {}, element("tr", {}, ...["link", "token", "heads"].map((name) => element("th", { scope: "col" }, name)))),
    element("tbody", {}, ...rows));
}

/** Which nodes of a head's query and key make most of its score where it carries a link. */
function matchedPairs(attention, pairs) {
  if (!pairs.length) return [];
  const attends = typeof attention === "number" ? ` attends there with ${readable(attention * 100)} %; query × key:` : " query × key:";
  const added = (value) => `${value < 0 ? "−" : "+"}${readable(Math.abs(value))}`;
  return [element("span", { class: "soft" }, attends), element("ul", {}, ...pairs.map((pair) => element("li", { class: "soft" }, `${clipped(pair.query, 60)} × ${clipped(pair.key, 60)} ${added(pair.value)}`)))];
}

/** What the model says while this feature is held at M times its activation: rows of M, token, probability. */
function steeringTable(rows) {
  return element("table", { class: "ex-links" },
    element("caption", {}, element("strong", {}, "Steered"), element("span", { class: "soft" }, " · what is said with this feature held at M times its activation; M = 1 is as it is")),
    element("thead", {}, element("tr", {}, ...["M", "says", "probability"].map((name, i) => element("th", { scope: "col", class: i % 2 ? "" : "n" }, name)))),
    element("tbody", {}, ...rows.map(([strength, text, value]) => element("tr", {}, element("td", { class: "n" }, readable(strength)), element("td", {}, element("span", { class: "token" }, clipped(text, 40))), element("td", { class: "n" }, `${readable(value * 100)} %`)))));
}

/** What is known of a feature beyond this prompt, where the page has it: see `cards` in explorer.py. */
function featureCard(payload, node) {
  const known = payload.cards?.[node.key];
  const plots = payload.operands?.[node.key] ?? [];
  const parts = [];
  if (known) {
    if (known.histogram?.length) parts.push(histogram(known, node.raw.activation));
    if (known.examples?.length) {
      parts.push(element("h5", {}, "Where it is most active"), element("ol", { class: "ex-examples" }, ...known.examples.slice(0, 6).map((example) => {
        const most = Math.max(...example.activations, 1e-9);
        return element("li", {}, ...example.tokens.map((text, i) => {
          const value = example.activations[i] ?? 0;
          return element(value > 0 ? "mark" : "span", value > 0 ? { style: `--act:${(value / most).toFixed(2)}` } : {}, `${clipped(text, 40)} `);
        }));
      })));
    }
  }
  for (const plot of plots) parts.push(operandPlot(plot));
  return parts.length ? [element("section", { class: "ex-known", "aria-label": "The feature beyond this prompt" }, ...parts)] : [];
}

function histogram(known, activation) {
  const { histogram: counts, maximum = 1, density } = known;
  const tallest = Math.max(...counts, 1), width = 220, height = 44, bar = width / counts.length;
  const picture = svgElement("svg", { viewBox: `0 0 ${width} ${height + 12}`, class: "ex-histogram", role: "img", "aria-label": `Histogram of its activations, from 0 to ${readable(maximum)}` });
  counts.forEach((count, i) => {
    const size = count ? Math.max(1, height * Math.log1p(count) / Math.log1p(tallest)) : 0;
    picture.append(svgElement("rect", { x: i * bar, y: height - size, width: Math.max(1, bar - 1), height: size }));
  });
  picture.append(svgElement("text", { x: 0, y: height + 11 }, "0"), svgElement("text", { x: width, y: height + 11, "text-anchor": "end" }, readable(maximum)));
  if (typeof activation === "number") picture.append(svgElement("line", { class: "ex-here", x1: (width * Math.min(1, activation / maximum)).toFixed(1), x2: (width * Math.min(1, activation / maximum)).toFixed(1), y1: 0, y2: height }));
  const words = typeof density === "number" ? `active on ${readable(density * 100)} % of tokens; counts on a log scale; the line is this node` : "";
  return element("figure", { class: "ex-figure" }, picture, element("figcaption", {}, words));
}

/** Activation on the grid of two operands: one pixel a cell. */
function operandPlot({ at, a, b, activation }) {
  const rows = Math.max(...a) + 1, columns = Math.max(...b) + 1, most = Math.max(...activation, 1e-9);
  const canvas = element("canvas", { width: columns, height: rows, class: "ex-operands", role: "img", "aria-label": `Activation at “${clipped(at, 40)}” for every pair of operands; darker is more active` });
  const context = canvas.getContext("2d");
  activation.forEach((value, i) => {
    context.fillStyle = `rgb(118 42 131 / ${(value / most).toFixed(3)})`;
    context.fillRect(b[i], rows - 1 - a[i], 1, 1);
  });
  return element("figure", { class: "ex-figure" }, canvas, element("figcaption", {}, `Operand plot at ${clipped(at, 40)}: first operand upwards (0 to ${rows - 1}), second to the right (0 to ${columns - 1})`));
}
