// Leaves clusters, prompts or the control out of a part of a claim, and judges what is left by the registered rule (claims.js).
// Intervals and p are those of statistics.py with fewer draws; Holm's factor and further conditions stay as they were.
"use strict";
(() => {
  const COVERAGE = 0.95, DRAWN = 0.8, FEWEST = 5, DRAWS = 4000, FLIPS = 20000;
  if (!document.getElementById("prompts-data")) return;
  const { marks, claims } = JSON.parse(document.getElementById("claims-data").textContent);

  // Mulberry32. The same draws for as many clusters, so that only what is left out moves the numbers.
  const random = (seed) => () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let mixed = Math.imul(seed ^ (seed >>> 15), 1 | seed);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const sum = (list) => list.reduce((all, one) => all + one, 0);
  const mean = (list) => sum(list) / list.length;
  const quantile = (sorted, share) => {
    const at = share * (sorted.length - 1), low = Math.floor(at), high = Math.ceil(at);
    return sorted[low] + (at - low) * (sorted[high] - sorted[low]);
  };
  const interval = (scores) => {
    const n = scores.length, middle = mean(scores), centred = scores.map((score) => score - middle), variance = mean(centred.map((one) => one * one));
    if (variance <= (1e-12 * Math.max(...scores.map(Math.abs))) ** 2) return [middle, middle];
    const drawn = Math.max(2, Math.round(DRAWN * n)), next = random(n), pivots = [];
    for (let draw = 0; draw < DRAWS; draw++) {
      let shift = 0, square = 0;
      for (let i = 0; i < drawn; i++) {
        const one = centred[Math.floor(next() * n)];
        shift += one / drawn;
        square += (one * one) / drawn;
      }
      pivots.push(shift / Math.sqrt(Math.max(square - shift * shift, variance / n) / (drawn - 1)));
    }
    pivots.sort((a, b) => a - b);
    const error = Math.sqrt(variance / (n - 1)), tail = (1 - COVERAGE) / 2;
    return [middle - quantile(pivots, 1 - tail) * error, middle - quantile(pivots, tail) * error];
  };
  const flipped = (scores) => {
    const n = scores.length, least = sum(scores) - 1e-9 * sum(scores.map(Math.abs)), next = random(n), exact = 2 ** n <= FLIPS;
    let hits = 0;
    for (let draw = 0; draw < (exact ? 2 ** n : FLIPS); draw++) {
      let all = 0;
      for (let i = 0; i < n; i++) all += (exact ? (draw >> i) & 1 : next() < 0.5) ? scores[i] : -scores[i];
      hits += all >= least;
    }
    return exact ? hits / 2 ** n : (1 + hits) / (1 + FLIPS);
  };
  const judged = (part, scores) => {
    const threshold = part.thresholds[part.registered], [low, high] = interval(scores);
    const p = part.direction === "equivalent"
      ? Math.max(flipped(scores.map((score) => threshold - score)), flipped(scores.map((score) => threshold + score)))
      : flipped(scores);
    const one = { statistic: mean(scores), low, high, p: Math.min(1, p * part.holm) };
    return { ...one, verdict: window.biologyRule({ ...part, ...one }, threshold, one.p) };
  };

  // The scores of clusters from the rows of a part that are kept.
  const kept = (texts, rows, { clusters, word, alone }) => {
    const found = new Map();
    let prompts = 0, all = 0;
    rows.scored.forEach((yes, row) => {
      if (!yes) return;
      all += 1;
      const cluster = texts[rows.cluster[row]], said = texts[rows.prompt[row]].toLowerCase();
      if (clusters.has(cluster) || (word && said.includes(word))) return;
      prompts += 1;
      if (!found.has(cluster)) found.set(cluster, []);
      found.get(cluster).push(alone ? rows.effect[row] : rows.score[row]);
    });
    return { scores: [...found.values()].map(mean), prompts, all };
  };
  window.biologyWithout = async (claim, place, without) => { // for tests, and whoever opens the console
    const { texts, parts } = await unpacked("prompts-data");
    const rows = parts.find((one) => one.claim === claim && one.place === place);
    return judged(claims[claim].find((part) => part.name === rows.part), kept(texts, rows, { clusters: new Set(), word: "", alone: false, ...without }).scores);
  };

  const badge = (text) => make("span", { class: `badge ${text.replace(" ", "-")}` }, `${marks[text]} ${text}`);
  const digits = (value) => value.toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");
  const filled = async (box) => {
    const { texts, parts } = await unpacked("prompts-data"), { claim, place } = box.dataset;
    const rows = parts.find((one) => one.claim === claim && String(one.place) === place);
    const index = claims[claim].findIndex((part) => part.name === rows.part), part = claims[claim][index];
    const names = [...new Set(rows.cluster.filter((_, row) => rows.scored[row]).map((one) => texts[one]))].sort();
    const ticks = names.map((name) => make("input", { type: "checkbox", value: name }));
    const word = make("input", { type: "search", autocomplete: "off", placeholder: "a word of the prompt" }), alone = make("input", { type: "checkbox" });
    const output = make("output", { "aria-live": "polite" });
    const show = () => {
      const without = { clusters: new Set(ticks.filter((tick) => tick.checked).map((tick) => tick.value)), word: word.value.trim().toLowerCase(), alone: alone.checked };
      const { scores, prompts, all } = kept(texts, rows, without);
      output.replaceChildren();
      if (scores.length < FEWEST) return output.append(`Of ${names.length} clusters ${FEWEST} at least are needed, and ${scores.length} are left.`);
      const one = judged(part, scores);
      output.append(`${scores.length} of ${names.length} clusters, ${prompts} of ${all} prompts: ${digits(one.statistic)} [${digits(one.low)} to ${digits(one.high)}], ${digits(part.thresholds[part.registered])} needed: part `, badge(one.verdict));
      if (claims[claim].length > 1) output.append(" claim ", badge(window.biologyWeakest(claims[claim].map((other, i) => (i === index ? one.verdict : other.verdict)))));
    };
    const control = part.direction === "increase" && rows.control.some((value) => value !== null);
    box.append(
      make("label", {}, "prompts with ", word), ...(control ? [make("label", {}, alone, " the control")] : []),
      make("fieldset", {}, make("legend", {}, "clusters"), ...names.map((name, i) => make("label", {}, ticks[i], ` ${name}`))), output,
    );
    box.addEventListener("input", show);
    show();
  };
  for (const box of document.querySelectorAll("details.leave")) {
    box.hidden = false;
    box.addEventListener("toggle", () => { if (box.open && !box.querySelector("output")) filled(box); });
  }
})();
