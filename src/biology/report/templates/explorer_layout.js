// Where the boxes of a subgraph go, as in the figures (graph_layout.py): tokens run to the right, and a box stands a row above all that feeds
// it. Places are pixels from the upper left.

const ROW_HEIGHT = 86, BOX_GAP = 18;
const COLUMN = 84, WIDEST = 620; // from token to token, and from the first to the last at most
const BENDS = [0, 45, -45, 90, -90, 140, -140, 200, -200].flatMap((a, _, all) => all.map((b) => [a, b])).sort((a, b) => Math.abs(a[0]) + Math.abs(a[1]) - Math.abs(b[0]) - Math.abs(b[1]));
const MARK_AT = [0.5, 0.62, 0.38, 0.74, 0.26, 0.84]; // where along an arrow its share may stand

/** Middles of boxes side by side, each as near as possible to where it wants to be (pooled adjacent violators). */
function spread(wanted, widths) {
  const order = wanted.map((_, i) => i).sort((a, b) => wanted[a] - wanted[b] || a - b);
  const offsets = [];
  order.forEach((i, rank) => offsets.push(rank ? offsets[rank - 1] + (widths[order[rank - 1]] + widths[i]) / 2 + BOX_GAP : 0));
  const blocks = []; // [sum of what its boxes want, how many]
  order.forEach((i, rank) => {
    blocks.push([wanted[i] - offsets[rank], 1]);
    while (blocks.length > 1 && blocks.at(-2)[0] / blocks.at(-2)[1] > blocks.at(-1)[0] / blocks.at(-1)[1]) {
      const [sum, count] = blocks.pop();
      blocks.at(-1)[0] += sum;
      blocks.at(-1)[1] += count;
    }
  });
  const starts = blocks.flatMap(([sum, count]) => Array(count).fill(sum / count)), middles = [];
  order.forEach((i, rank) => (middles[i] = starts[rank] + offsets[rank]));
  return middles;
}

/** A mean over a box's nodes, weighted by their activations. */
function meanOf(box, value) {
  let sum = 0, all = 0;
  for (const node of box.nodes) {
    const weight = Math.abs(node.raw.activation ?? 0) + 1e-9;
    sum += weight * value(node);
    all += weight;
  }
  return sum / all;
}

/** Gives every box `x`, `y` (of a middle) and every effect its `curve` and `mark`. `sized(box)` is [width, height]. Returns the size of all. */
function plan(boxes, effects, sized) {
  for (const box of boxes) {
    [box.width, box.height] = sized(box);
    box.depth = box.kind === "token" ? -1 : box.kind === "logit" ? Infinity : meanOf(box, (node) => node.layer);
  }
  const feeding = new Map(boxes.map((box) => [box, []]));
  for (const { from, to } of effects) if (from.depth < to.depth) feeding.get(to).push(from);
  const lowest = boxes.some((box) => box.kind === "token") ? 1 : 0;
  for (const box of [...boxes].sort((a, b) => a.depth - b.depth)) box.row = box.kind === "token" ? 0 : Math.max(lowest, ...feeding.get(box).map((from) => from.row + 1));
  const top = Math.max(0, ...boxes.filter((box) => box.kind !== "logit").map((box) => box.row)) + 1;
  for (const box of boxes) if (box.kind === "logit") box.row = top;
  const rows = Math.max(0, ...boxes.map((box) => box.row));
  const column = Math.min(COLUMN, WIDEST / Math.max(1, ...boxes.flatMap((box) => box.nodes.map((node) => node.position))));
  for (let row = 0; row <= rows; row++) {
    const here = boxes.filter((box) => box.row === row);
    const middles = spread(here.map((box) => column * meanOf(box, (node) => node.position)), here.map((box) => box.width));
    here.forEach((box, i) => Object.assign(box, { x: middles[i], y: (rows - row) * ROW_HEIGHT + 30 }));
  }
  curves(boxes, effects);
  const reach = [...boxes.flatMap((box) => [box.x - box.width / 2, box.x + box.width / 2]), ...effects.flatMap(({ curve }) => Array.from({ length: 11 }, (_, i) => along(curve, i / 10)[0]))];
  if (!boxes.length) return { width: 0, height: 0 };
  const start = Math.min(...reach) - 24;
  for (const box of boxes) box.x -= start;
  for (const effect of effects) for (const point of [...effect.curve, effect.mark]) point[0] -= start;
  return { width: Math.max(...reach) - start + 24, height: rows * ROW_HEIGHT + 60 };
}

/** The point of a cubic Bezier curve at 0 <= t <= 1. */
function along(curve, t) {
  const weights = [(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t ** 2 * (1 - t), t ** 3];
  return [0, 1].map((axis) => weights.reduce((sum, weight, i) => sum + weight * curve[i][axis], 0));
}

const covers = (box, [x, y], margin) => Math.abs(x - box.x) < box.width / 2 + margin && Math.abs(y - box.y) < box.height / 2 + margin;

/** Where effects leave or enter a box, side by side in the order of the boxes at their other ends. */
function ports(boxes, effects, near, far) {
  const places = new Map();
  for (const box of boxes) {
    const here = effects.filter((effect) => effect[near] === box).sort((a, b) => a[far].x - b[far].x);
    const room = Math.min(0.62 * box.width, 18 * (here.length - 1));
    here.forEach((effect, i) => places.set(effect, box.x + (here.length > 1 ? room * (i / (here.length - 1) - 0.5) : 0)));
  }
  return places;
}

/** Curves from source to target, bent as little as it takes to pass beside the boxes in between. */
function curves(boxes, effects) {
  const leave = ports(boxes, effects, "from", "to"), enter = ports(boxes, effects, "to", "from"), taken = [];
  const steps = Array.from({ length: 19 }, (_, i) => (i + 1) / 20), many = effects.length * boxes.length > 4000;
  for (const effect of effects) {
    const { from, to } = effect, up = to.y < from.y ? 1 : -1;
    const y0 = from.y - (up * from.height) / 2, y1 = to.y + (up * to.height) / 2, pull = 0.55 * (y0 - y1) || 40;
    const others = boxes.filter((box) => box !== from && box !== to);
    let least = Infinity;
    for (const [a, b] of many ? BENDS.slice(0, 1) : BENDS) {
      const curve = [[leave.get(effect), y0], [leave.get(effect) + a, y0 - pull], [enter.get(effect) + b, y1 + pull], [enter.get(effect), y1]];
      const hidden = steps.reduce((sum, t) => sum + others.filter((box) => covers(box, along(curve, t), 5)).length, 0);
      if (hidden < least) [effect.curve, least] = [curve, hidden];
      if (!hidden) break;
    }
    const crowding = (t) => {
      const [x, y] = along(effect.curve, t);
      return 2 * taken.filter(([a, b]) => Math.abs(a - x) < 44 && Math.abs(b - y) < 14).length + 3 * boxes.filter((box) => covers(box, [x, y], 8)).length;
    };
    effect.mark = along(effect.curve, MARK_AT.reduce((best, t) => (crowding(t) < crowding(best) ? t : best)));
    if (Math.abs(effect.share) >= MARKED) taken.push([...effect.mark]);
  }
}
