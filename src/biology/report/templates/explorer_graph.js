// A graph of the published format, indexed, and what can be worked out from it. Nothing here touches the page.

const KIND_OF = { // as in graph_nodes.py
  "cross layer transcoder": "feature", "lorsa": "feature", "mlp reconstruction error": "error", "lorsa error": "error",
  "embedding": "token", "logit": "logit", "bias": "bias",
};
const FIXED = new Set(["token", "logit"]); // never hidden by the slider

/** `text` cut to `most` characters, line breaks made visible. */
function clipped(text, most = 60) {
  const shown = String(text).replaceAll("\n", "↵");
  return shown.length > most ? shown.slice(0, most - 1) + "…" : shown;
}

/** A share with its sign, as "+12.3 %". */
function signed(share) {
  const size = Math.abs(share) * 100;
  return (share < 0 ? "−" : "+") + (size >= 9.95 ? size.toFixed(0) : size.toFixed(1)) + " %";
}

function readable(value, digits = 3) {
  return Number(value).toPrecision(digits).replace(/(\.\d*?)0+$/, "$1").replace(/\.$/, "").replace("-", "−");
}

/**
 * Nodes with their links in both directions. `share` of a link is its weight over the sum of |weights| into its target, as
 * in both other viewers; links are sorted by |share|, the largest first.
 */
function indexed(payload) {
  const { graph } = payload;
  const texts = graph.metadata.prompt_tokens;
  const token = (position) => texts[position] ?? `#${position}`;
  const nodes = graph.nodes.map((raw, order) => {
    const kind = KIND_OF[raw.feature_type] ?? "other";
    const parts = /^(\d+)_(\d+)_\d+$/.exec(raw.node_id);
    const layer = Number.parseInt(raw.layer, 10);
    return {
      raw, order, kind, id: raw.node_id, position: raw.ctx_idx, layer: Number.isFinite(layer) ? layer : -1,
      index: kind === "feature" && parts ? Number(parts[2]) : null,
      key: kind === "feature" && parts ? `${parts[1]}-${parts[2]}` : null,
      influence: typeof raw.influence === "number" ? raw.influence : (payload.influence?.[raw.node_id] ?? null),
      inputs: [], outputs: [],
    };
  });
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const total = new Map();
  for (const { target, weight } of graph.links) total.set(target, (total.get(target) ?? 0) + Math.abs(weight));
  const links = graph.links.map(({ source, target, weight, heads = [], frozen = null }) => ({
    source: byId.get(source), target: byId.get(target), weight, share: weight / (total.get(target) || 1), heads, live: livePart(weight, frozen),
  }));
  links.sort((a, b) => Math.abs(b.share) - Math.abs(a.share));
  for (const link of links) {
    link.source.outputs.push(link);
    link.target.inputs.push(link);
  }
  return { payload, nodes, links, byId, total, token, texts, words: texts.map((_, i) => wordAt(texts, i)) };
}

/** The share of a link that runs through live attention patterns and norm scales; null where the file does not tell it. */
function livePart(weight, frozen) {
  if (frozen === null) return null;
  const live = Math.abs(weight - frozen), all = live + Math.abs(frozen);
  return all ? live / all : 0;
}

/** The word that a token is a piece of: pieces go on with ## (WordPiece), or without the space that words begin with (others). */
function wordAt(texts, place) {
  const spaced = texts.some((text) => /^[ \u2581]/.test(text));
  const goesOn = (i) => i > 0 && i < texts.length && (texts[i].startsWith("##") || (spaced && /^[\p{L}\p{N}]/u.test(texts[i]) && /[\p{L}\p{N}]$/u.test(texts[i - 1])));
  let first = place, last = place + 1;
  while (goesOn(first)) first--;
  while (goesOn(last)) last++;
  return texts.slice(first, last).map((text, i) => (i ? text.replace(/^##/, "") : text)).join("").trim();
}

/** What a node is called where nobody has given it a label. */
function plainName(graph, node) {
  if (node.kind === "token") return `“${clipped(graph.token(node.position), 40)}”`;
  if (node.kind === "error") return `error of layer ${node.layer}${node.raw.feature_type.startsWith("lorsa") ? " (attention)" : ""}`;
  if (node.kind === "logit") {
    const text = (node.raw.clerp ?? "").replace(/\s*\(p=[^()]*\)\s*$/, "").replace(/^(output|logit):?\s*/i, "");
    const inner = /^"([\s\S]*)"$/.exec(text);
    return `output “${clipped(inner ? inner[1] : text || node.id, 40)}”`;
  }
  const known = graph.payload.labels?.[node.id];
  if (known) return `${clipped(known, 60)} (${node.layer}/${node.index})`;
  const promotes = graph.payload.cards?.[node.key]?.promotes;
  if (promotes?.length) return `${node.layer}/${node.index} → ${promotes.slice(0, 2).map((text) => clipped(text, 14)).join(", ")}`;
  return node.index === null ? clipped(node.raw.feature_type, 30) : `${node.layer}/${node.index}`;
}

/** Places of all nodes on the token x layer grid, in pixels; columns are as wide as their fullest cell or their token. */
function placed(graph, room, measure, pitch = 15) {
  const side = 9, axis = 50, edge = 10; // the axis of layers stands on the left
  const inner = graph.nodes.filter((node) => !FIXED.has(node.kind));
  const low = Math.min(...inner.map((node) => node.layer)), high = Math.max(...inner.map((node) => node.layer));
  const layers = inner.length ? high - low + 1 : 0;
  const rowOf = (node) => node.kind === "token" ? 0 : node.kind === "logit" ? layers + 1 : node.layer - low + 1;
  const cells = new Map();
  for (const node of graph.nodes) {
    const cell = `${node.position} ${rowOf(node)}`;
    if (!cells.has(cell)) cells.set(cell, []);
    cells.get(cell).push(node);
  }
  const columns = Math.max(graph.texts.length, ...graph.nodes.map((node) => node.position + 1));
  const widths = Array.from({ length: columns }, (_, i) => Math.max(30, Math.min(96, measure(clipped(graph.token(i), 14)) + 12)));
  for (const group of cells.values()) {
    const { position } = group[0];
    widths[position] = Math.max(widths[position], (group.length - 1) * pitch + 2 * side + 6);
  }
  const used = widths.reduce((sum, width) => sum + width, 0);
  if (used + axis + edge > room && room > 500 && pitch > 12) return placed(graph, room, measure, 12);
  const spare = Math.max(0, room - used - axis - edge) / columns;
  const starts = [];
  let x = axis;
  for (const width of widths) {
    starts.push(x);
    x += width + spare;
  }
  const rowHeight = Math.max(27, Math.min(86, 600 / (layers + 2)));
  const height = (layers + 2) * rowHeight + 34;
  const middle = (row) => height - 40 - row * rowHeight;
  for (const group of cells.values()) {
    const { position } = group[0], centre = starts[position] + (widths[position] + spare) / 2;
    const spread = Math.min(pitch + 6, (widths[position] + spare - 2 * side) / Math.max(1, group.length - 1), 26);
    group.sort((a, b) => (a.influence ?? 0) - (b.influence ?? 0) || (b.raw.token_prob ?? 0) - (a.raw.token_prob ?? 0));
    group.forEach((node, rank) => {
      node.row = rowOf(node);
      node.x = centre + (rank - (group.length - 1) / 2) * spread;
      node.y = middle(node.row);
    });
  }
  const rows = [{ name: "token", y: middle(0) }, ...Array.from({ length: layers }, (_, i) => ({ name: String(low + i), y: middle(i + 1) })), { name: "output", y: middle(layers + 1) }];
  return { width: x + edge, height, rows, starts, widths: widths.map((width) => width + spare) };
}

/**
 * Replacement and completeness of the subgraph of `pinned` nodes: features left out count as errors, as on Neuronpedia.
 * Both are shares between 0 and 1 of the file's own (pruned) graph; biases are no part of the flow. Null where the file holds
 * categories that are not known: nobody can say on which side they count.
 */
function subgraphScores(graph, pinned) {
  if (graph.nodes.some((node) => node.kind === "other")) return null;
  const explained = (node) => FIXED.has(node.kind) || (node.kind !== "error" && pinned.has(node.id));
  const attention = (node) => Number(node.raw.feature_type.startsWith("lorsa")); // comes before the MLP of its layer
  const order = [...graph.nodes].sort((a, b) => b.row - a.row || attention(a) - attention(b) || b.position - a.position);
  const passed = new Map(graph.nodes.map((node) => [node, node.kind === "logit" ? node.raw.token_prob || 0 : 0]));
  let tokens = 0, lost = 0, total = 0, whole = 0;
  for (const node of order) {
    const amount = passed.get(node);
    if (!amount) continue;
    if (node.kind === "token") tokens += amount;
    if (!explained(node)) { // nothing flows on, and as what has no inputs it is complete
      lost += amount;
      total += amount;
      whole += amount;
      continue;
    }
    const inputs = node.inputs.filter((link) => link.source.kind !== "bias");
    const sum = inputs.reduce((all, link) => all + Math.abs(link.weight), 0) || 1;
    let missing = 0;
    for (const link of inputs) {
      const share = Math.abs(link.weight) / sum;
      passed.set(link.source, passed.get(link.source) + amount * share);
      if (!explained(link.source)) missing += share;
    }
    total += amount;
    whole += amount * (1 - missing);
  }
  return { replacement: tokens + lost ? tokens / (tokens + lost) : 0, completeness: total ? whole / total : 0 };
}
