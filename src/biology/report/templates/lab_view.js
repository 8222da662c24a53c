// What the page `lab` draws. All text goes in as text, never as markup.
"use strict";

const percent = (value) => (value < 0.001 ? "<0.1%" : (100 * value).toFixed(value < 0.1 || value > 0.95 ? 1 : 0) + "%");
const short = (value) => (Math.abs(value) < 0.005 ? "0" : value.toFixed(2)).replace("-", "\u2212");
const times1 = (value) => String(value).replace("-", "\u2212");
const quoted = (text) => make("b", {}, `\u201c${visible(text)}\u201d`);
const TOP = 5, FEW = 12;

// The most probable tokens, the best first: ids and probabilities.
const best = (said, count) => {
  const found = [];
  said.forEach((value, token) => {
    if (found.length === count && value <= found[count - 1][1]) return;
    let place = found.length;
    while (place && found[place - 1][1] < value) place--;
    found.splice(place, 0, [token, value]);
    found.length = Math.min(found.length, count);
  });
  return found;
};

class View {
  constructor(lab) {
    this.lab = lab;
    this.labels = new Map();
  }

  get words() { return this.lab.network.words; }

  // Answers ----------------------------------------------------------------------------------------------------------

  answers() {
    const { result: { clean, steered }, control } = this.lab;
    const column = (title, { said, line, lines }, tested) => {
      const list = make("ol", { class: "outputs" }), how = lines ? ` (${lines.filter((one) => one === line).length} of ${lines.length} sets)` : "";
      for (const [token, value] of best(said, TOP)) {
        const fresh = tested && clean.said[token] < 0.01 && value > 0.05;
        list.append(make("li", fresh ? { class: "fresh" } : {}, make("i", { style: `width:${100 * value}%` }), make("span", {}, visible(this.words.vocabulary[token])), make("b", {}, percent(value))));
      }
      return make("section", {}, make("h3", {}, ...title), list, ...(line ? [make("p", { class: "line" }, "\u21b3 ", visible(line), make("small", {}, how))] : []));
    };
    const parts = [column(["by itself"], clean, false)];
    if (steered) parts.push(column(["with ", make("b", {}, this.lab.names())], steered, true));
    if (control) parts.push(column(["control: others, pushed as hard"], control, true));
    byId("answers").replaceChildren(...parts);
  }

  // What happened, in a sentence.
  told() {
    const { result: { clean, steered }, control } = this.lab, parts = [];
    const say = ({ said, line }) => (clean.line ? [line ? quoted(line.trim()) : "\u2026"] : [quoted(this.words.vocabulary[best(said, 1)[0][0]]), ` (${percent(best(said, 1)[0][1])})`]);
    const verb = clean.line ? "writes" : "says";
    if (steered) {
      const same = clean.line ? clean.line === steered.line : best(clean.said, 1)[0][0] === best(steered.said, 1)[0][0];
      parts.push("With ", make("b", {}, this.lab.names()), ` it ${verb} `, ...say(steered), ...(same ? [", as it does by itself"] : [" instead of ", ...say(clean)]));
      parts.push(". Other features, pushed just as hard: ", ...(control ? say(control) : ["\u2026"]), ".");
    } else parts.push(`By itself it ${verb} `, ...say(clean), ". Click an example above, and see what changes.");
    byId("told").replaceChildren(...parts);
  }

  // What is held -----------------------------------------------------------------------------------------------------

  held() {
    const { state, change } = this.lab;
    byId("held").replaceChildren(...state.holds.map((hold, place) => {
      const found = this.lab.resolved(hold), id = `strength-${place}`;
      const much = make("b", { class: "much" }, times1(hold.strength));
      const end = Math.max(4, Math.abs(hold.strength)), slider = make("input", { type: "range", id, min: -end, max: end, step: 0.1, value: hold.strength });
      slider.addEventListener("input", () => {
        hold.strength = Number(slider.value);
        much.textContent = times1(hold.strength);
        this.lab.refresh();
      });
      const where = make("select", { "aria-label": `Token at which ${found.title} is held` }, ...this.lab.clean.ids.map((token, pos) => make("option", { value: pos }, `at ${visible(this.words.vocabulary[token])} (${pos})`)));
      where.value = found.pos;
      where.disabled = state.every;
      where.addEventListener("input", () => change(() => { hold.pos = Number(where.value); }));
      const drop = make("button", { type: "button", "aria-label": `Let go of ${found.title}` }, "\u00d7");
      drop.addEventListener("click", () => change(() => state.holds.splice(place, 1)));
      const name = make("label", { for: id }, make("span", { class: "node" }, found.title), make("span", { class: "soft" }, found.note));
      const more = make("div", { class: "where" }, where), row = make("div", { class: "pull" }, slider, make("span", {}, "M\u202f=\u202f", much));
      if (found.rival) {
        const box = make("input", { type: "checkbox" });
        box.checked = hold.own;
        box.addEventListener("input", () => change(() => { hold.own = box.checked; }));
        more.append(make("label", { class: "check" }, box, ` instead of its own ${found.rival.title}`));
      }
      more.append(drop);
      return make("li", {}, name, more, row);
    }));
  }

  terminal() {
    const command = this.lab.command();
    byId("terminal").replaceChildren(...(command ? ["The same in the terminal: ", make("code", {}, command)] : []));
  }

  // Inside -----------------------------------------------------------------------------------------------------------

  // A feature in words: what it fires on most, and what it raises; and the supernodes in which a case found it.
  label(layer, at) {
    const key = `${layer}/${at}`;
    if (!this.labels.has(key)) {
      const { facts, network, roles } = this.lab, seen = facts.seen[this.lab.offset(layer) + at], on = new Set();
      for (let i = 0; i < seen.length; i += 2) on.add(this.words.around(facts.texts[seen[i]], seen[i + 1]));
      this.labels.set(key, { roles: roles.get(key) ?? [], on: [...on].slice(0, 2), raises: network.promoted(layer, at, 3) });
    }
    return this.labels.get(key);
  }

  grid() {
    const { network, clean, state } = this.lab, layers = network.layers.length;
    const head = make("tr", {}, make("td", {}), ...clean.ids.map((token) => make("th", { scope: "col" }, visible(this.words.vocabulary[token]))));
    const rows = Array.from({ length: layers }, (_, i) => layers - 1 - i).map((layer) => make("tr", {}, make("th", { scope: "row" }, `layer ${layer}`), ...clean.ids.map((_, pos) => {
      const cell = make("button", { type: "button", "data-layer": layer, "data-pos": pos, tabindex: -1 });
      cell.addEventListener("click", () => this.lab.look(layer, pos));
      return make("td", {}, cell);
    })));
    byId("grid").replaceChildren(make("thead", {}, head), make("tbody", {}, ...rows));
    this.cells = [...byId("grid").querySelectorAll("button")];
    const chosen = this.cells.find((cell) => Number(cell.dataset.pos) === state.cell[1]), around = byId("grid").parentElement;
    around.scrollLeft += chosen.getBoundingClientRect().left - around.getBoundingClientRect().left - around.clientWidth / 2;
    byId("own").replaceChildren(...(this.lab.own().length ? [make("span", { class: "soft" }, "Supernodes of this prompt, to hold: ")] : []), ...this.lab.own().flatMap((node) => {
      const pick = make("button", { type: "button", class: "pick" }, node.title);
      pick.addEventListener("click", () => this.lab.hold({ name: node.address, strength: 0 }));
      return [pick, " "];
    }));
  }

  // How much of a cell what is held has changed: the sum of changes over the sum of the larger activations.
  changed(before, now) {
    const values = new Map(before);
    let sum = 0, total = 0;
    for (const [at, value] of now) {
      const old = values.get(at) ?? 0;
      sum += Math.abs(value - old);
      total += Math.max(value, old);
      values.delete(at);
    }
    for (const value of values.values()) { sum += value; total += value; }
    return total ? sum / total : 0;
  }

  // Names a place at which something may be held: all tokens but the first are one where it is held at every token.
  spot(layer, pos) {
    const { state, first } = this.lab;
    return state.every && pos >= first ? `${layer}` : `${layer}/${pos}`;
  }

  shade() {
    const { state, result: { clean, steered, sites } } = this.lab, touched = new Set(sites.map((site) => this.spot(site.layer, site.pos)));
    for (const cell of this.cells) {
      const layer = Number(cell.dataset.layer), pos = Number(cell.dataset.pos), before = clean.active[layer][pos];
      const now = steered ? steered.active[layer][pos] : before, moved = now === before ? 0 : this.changed(before, now);
      const here = state.cell[0] === layer && state.cell[1] === pos, heldHere = touched.has(this.spot(layer, pos));
      cell.style.setProperty("--moved", `${Math.round(55 * moved)}%`);
      cell.textContent = now.length;
      cell.tabIndex = here ? 0 : -1;
      cell.setAttribute("aria-pressed", here);
      cell.classList.toggle("held-here", heldHere);
      const token = visible(this.words.vocabulary[this.lab.clean.ids[pos]]);
      cell.setAttribute("aria-label", `${now.length} features in layer ${layer} at ${token}, ${percent(moved)} changed${heldHere ? ", some are held" : ""}`);
    }
  }

  // The features of the chosen cell, the strongest first, before and now.
  features() {
    const { state, result: { clean, steered, sites } } = this.lab, [layer, pos] = state.cell;
    const before = new Map(clean.active[layer][pos]), now = new Map((steered ?? clean).active[layer][pos]), held = new Set();
    for (const site of sites) {
      if (this.spot(site.layer, site.pos) !== this.spot(layer, pos)) continue;
      now.set(site.at, site.value);
      held.add(site.at);
    }
    const rows = [...new Set([...before.keys(), ...now.keys()])].map((at) => [at, before.get(at) ?? 0, now.get(at) ?? 0]);
    const size = ([, old, value]) => Math.max(old, Math.abs(value));
    rows.sort((a, b) => size(b) - size(a) || a[0] - b[0]);
    const most = Math.max(...rows.map(size), 1e-9), shown = this.lab.all ? rows : rows.slice(0, FEW);
    byId("cell-title").replaceChildren(`Layer ${layer}, at `, make("span", { class: "token" }, visible(this.words.vocabulary[this.lab.clean.ids[pos]])));
    byId("features").replaceChildren(...shown.map(([at, old, value]) => {
      const number = this.lab.network.layers[layer].numbers[at], { roles, on, raises } = this.label(layer, at);
      const word = (token) => visible(this.words.vocabulary[token]);
      const open = make("button", { type: "button", class: "feature-row", "aria-pressed": String(state.feature === `${layer}/${number}`) },
        make("i", { class: "was", style: `width:${(100 * old) / most}%` }), make("i", { class: "now", style: `width:${(100 * Math.abs(value)) / most}%` }),
        make("span", {}, make("b", {}, `${layer}/${number}`), ...roles.slice(0, 2).map((role) => make("span", { class: "node" }, role)), ` on ${on.map(visible).join(", ") || "\u2013"} \u2192 ${raises.map(word).join(", ")}`),
        make("span", { class: "value" }, held.has(at) ? "held, " : "", Math.abs(value - old) < 0.005 ? short(value) : `${short(old)} \u2192 ${short(value)}`));
      open.addEventListener("click", () => this.lab.open(layer, number, pos));
      return make("li", {}, open);
    }));
    byId("all").hidden = this.lab.all || rows.length <= FEW;
    byId("all").textContent = `all ${rows.length}`;
  }

  card(layer, number, pos) {
    const { network, facts } = this.lab, block = network.layers[layer], at = block.index.get(number), { roles } = this.label(layer, at);
    const chips = (tokens) => make("p", { class: "chips" }, ...tokens.flatMap((token) => [make("span", { class: "token" }, visible(this.words.vocabulary[token])), " "]));
    const seen = facts.seen[this.lab.offset(layer) + at], largest = facts.largest[this.lab.offset(layer) + at], hold = make("button", { type: "button" }, `Hold it at ${visible(this.words.vocabulary[this.lab.clean.ids[pos]])}`);
    hold.addEventListener("click", () => this.lab.hold({ name: `${layer}/${number}`, strength: 2, pos }));
    const parts = [make("h3", {}, `Feature ${layer}/${number}`), make("p", {}, hold), make("h4", {}, "Raises"), chips(network.promoted(layer, at, 8)), make("h4", {}, "Lowers"), chips(network.promoted(layer, at, 8, -1))];
    if (roles.length) parts.push(make("h4", {}, "Found by a case\u2019s rule as"), make("p", { class: "chips" }, ...roles.flatMap((role) => [make("span", { class: "node" }, role), " "])));
    if (seen.length) parts.push(make("h4", {}, `Strongest examples (largest activation ${largest})`));
    for (let i = 0; i < seen.length; i += 2) {
      const reading = this.lab.reading(facts.texts[seen[i]]), line = make("p", { class: "example" });
      reading.ids.forEach((token, place) => {
        const piece = visible(this.words.vocabulary[token]), joined = piece.startsWith("##"), value = valueAt(network, reading, layer, place, at);
        if (place && !joined) line.append(" ");
        const word = joined ? piece.slice(2) : piece, shade = Math.min(9, Math.ceil((9 * value) / largest));
        line.append(shade > 0 ? make("mark", { class: `s${shade}`, title: short(value) }, word) : word);
      });
      parts.push(line);
    }
    parts.push(make("p", {}, make("a", { href: `atlas.html#${layer}-${number}` }, "its card in the atlas")));
    byId("card").replaceChildren(...parts);
  }
}
