// The page `lab`: a prompt, what is held, and what the model then says; all of it stands in the address.
"use strict";
const MOST = 100; // M, in an address: beyond it there are no numbers to see any more
(async () => {
  const network = new Network(await unpackedModel("model-data")), { facts, words } = network;
  const uniform = new Uniform(facts.generator), first = words.bos === null ? 0 : 1, readings = new Map();
  const nodes = new Map(), roles = new Map(), prompts = new Map();
  const widths = network.layers.map((block) => block.numbers.length);
  for (const { case: name, prompts: named, nodes: found } of facts.cases) {
    named.forEach((prompt) => prompts.set(`${name}/${prompt.item}`, prompt.text));
    for (const node of found) {
      const address = `${name}/${node.item}/${node.name}`;
      const members = node.members.map(([layer, number]) => [layer, network.layers[layer].index.get(number)]);
      nodes.set(address, { ...node, case: name, address, members, text: prompts.get(`${name}/${node.item}`) });
      for (const [layer, at] of members) {
        const key = `${layer}/${at}`;
        roles.set(key, [...new Set([...(roles.get(key) ?? []), node.title])]);
      }
    }
  }
  const lines = facts.cases.find((one) => one.line)?.line, ends = new Set(lines?.ends);

  const lab = { network, facts, first, roles, state: null, clean: null, result: null, control: null, all: false };
  const view = new View(lab);
  lab.offset = (layer) => widths.slice(0, layer).reduce((a, b) => a + b, 0);

  // A text read by the model as it is, with its features; of late ones the readings are kept.
  lab.reading = (text) => {
    const ids = typeof text === "string" ? words.encode(text) : text, key = ids.join();
    if (ids.length > network.context) throw new Error(`The prompt has ${ids.length} tokens, and the model reads ${network.context} at most.`);
    if (!readings.has(key)) {
      if (readings.size > 60) readings.clear();
      readings.set(key, network.see(network.run([new Reading(network, ids)])[0]));
    }
    return readings.get(key);
  };

  // What is held -------------------------------------------------------------------------------------------------------

  lab.own = () => [...nodes.values()].filter((node) => node.text === lab.state.text);
  lab.resolved = (hold) => {
    const node = nodes.get(hold.name), last = lab.clean.ids.length - 1, { strength } = hold;
    if (!node) {
      const [layer, number] = hold.name.split("/").map(Number), at = network.layers[layer].index.get(number);
      const feature = { layer, at, largest: facts.largest[lab.offset(layer) + at] };
      return { strength, pos: Math.min(hold.pos ?? last, last), feature, title: `feature ${hold.name}`, note: "" };
    }
    const rival = lab.own().find((one) => one.name === node.name && one.case === node.case);
    const pos = Math.min(hold.pos ?? rival?.pos ?? last, last), elsewhere = node.text !== lab.state.text;
    return {
      strength, pos, members: node.members, from: { reading: lab.reading(node.text), pos: node.pos }, title: node.title,
      note: elsewhere ? ` of \u201c${visible(node.text)}\u201d` : " of this prompt", rival: elsewhere ? rival : undefined,
      own: elsewhere && hold.own ? rival : undefined,
    };
  };
  lab.names = () => lab.state.holds.map((hold) => `${lab.resolved(hold).title} held at ${times1(hold.strength)}`).join(", ") + (lab.state.every ? " at every token" : "");

  // The command that does the same, if one does.
  lab.command = () => {
    const { holds, text, every, most } = lab.state, strengths = new Set(holds.map((hold) => hold.strength));
    const moved = holds.filter((hold) => hold.pos !== null), places = new Set(moved.map((hold) => hold.pos));
    if (!holds.length || strengths.size > 1 || places.size > 1 || (moved.length && moved.length < holds.length)) return "";
    const named = holds.flatMap((hold) => {
      const { own, members, feature, pos } = lab.resolved(hold);
      const silent = feature && !valueAt(network, lab.clean, feature.layer, pos, feature.at);
      return [members ? `--supernode ${hold.name}` : `--features ${hold.name}${silent ? `=${feature.largest}` : ""}`, ...(own ? [`--suppress ${own.address}`] : [])];
    });
    const rest = [`--strength ${[...strengths][0]}`, ...(places.size ? [`--at ${[...places][0]}`] : []), ...(every ? ["--everywhere"] : []), ...(most ? [`--tokens ${most}`] : [])];
    return `biology steer ${JSON.stringify(text).replaceAll("\\n", "\n")} --model ${document.body.dataset.model} ${[...named, ...rest].join(" ")}`;
  };

  // What comes out -----------------------------------------------------------------------------------------------------

  const limit = () => Math.min(lab.state.most ?? (lines && lab.state.text.endsWith("\n") ? lines.most : 0), network.context - lab.clean.ids.length);
  const stops = (token) => words.special.has(token) || (lab.state.most === null && ends.has(words.vocabulary[token]));

  // The lines that readings go on with; they themselves stay as they are.
  const written = (list) => {
    const most = limit(), size = lab.clean.ids.length;
    if (!most) return list.map(() => "");
    const copies = list.map((one) => Object.assign(new Reading(network, one.ids, { held: one.held, after: one, from: size, room: most }), { said: one.said }));
    return network.write(copies, most, stops).map((tokens) => words.continuation(lab.clean.ids, tokens.filter((token) => !words.special.has(token))));
  };
  const once = (make) => {
    let known, value;
    return (key) => (known === key ? value : ((known = key), (value = make())));
  };
  const lineOfClean = once(() => written([lab.clean])[0]);

  // The prompt read with features at these values, from the first token on that they change.
  const heldReading = (sites) => {
    const held = new Held(sites, lab.state.every ? first : null);
    return new Reading(network, lab.clean.ids, { held, after: lab.clean, from: Math.min(held.from, lab.clean.ids.length - 1) });
  };
  const compute = () => {
    const { state, clean } = lab, sites = sitesOf(network, clean, state.holds.map(lab.resolved));
    const result = { sites, clean: { said: clean.said, active: clean.active, line: lineOfClean(`${clean.ids} ${limit()} ${state.most}`) } };
    if (!sites.length) return result;
    const reading = heldReading(sites), { from } = reading;
    network.run([reading]);
    network.see(reading, from, clean);
    return { ...result, steered: { said: reading.said, active: reading.active, line: written([reading])[0] } };
  };

  // The control follows a few sets at a time, so that a hand on the slider never waits for it. Lines are written when it rests.
  const pause = () => new Promise((done) => setTimeout(done));
  const slices = (list, size) => Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(size * i, size * (i + 1)));
  const controlled = async (result) => {
    const start = performance.now(), { clean } = lab, sets = result.steered ? matchedSets(network, lab.clean, result.sites, uniform).map(heldReading) : [];
    for (const some of slices(sets, 4)) {
      await pause();
      network.run(some);
    }
    if (lab.clean !== clean) return;
    const said = result.clean.said.map((_, token) => sets.reduce((sum, one) => sum + one.said[token], 0) / sets.length);
    lab.control = sets.length ? { said } : null;
    performance.measure("control", { start, end: performance.now() });
    if (!sets.length || !limit()) return;
    const all = [];
    for (const some of slices(sets, 4)) {
      await pause();
      if (lab.result !== result) return;
      all.push(...written(some));
    }
    lab.control = { said, line: mostFrequent(all), lines: all };
  };
  const mostFrequent = (list) => list.reduce((a, b) => (list.filter((one) => one === b).length > list.filter((one) => one === a).length ? b : a));
  let following = null;
  const follow = async () => {
    let result;
    do {
      result = lab.result;
      await controlled(result);
      view.answers();
      view.told();
    } while (lab.result !== result);
    following = null;
  };
  // When all is computed; for whoever opens the console.
  lab.settled = () => following ?? Promise.resolve();

  // The address --------------------------------------------------------------------------------------------------------

  const safe = (text) => encodeURIComponent(text).replaceAll("%2F", "/").replaceAll("%20", "+");
  const address = () => {
    const { text, holds, every, most, cell, feature } = lab.state;
    const held = holds.map(({ name, strength, pos, own }) => `hold=${name}*${strength}${pos === null ? "" : `@${pos}`}${own ? "~own" : ""}`);
    return ["prompt=" + safe(text), ...held, ...(every ? ["every=1"] : []), ...(most === null ? [] : [`write=${most}`]), `see=${cell.join(".")}`, ...(feature ? [`feature=${feature}`] : [])].join("&");
  };
  const named = (name) => {
    const [layer, number] = name.split("/").map(Number);
    return nodes.has(name) || network.layers[layer]?.index.has(number);
  };
  const parsed = (hash) => {
    const state = { text: "", holds: [], every: false, most: null, cell: null, feature: "" };
    for (const part of hash.replace(/^#/, "").split("&")) {
      const [key, ...rest] = part.split("=");
      let value;
      try { value = decodeURIComponent(rest.join("=").replaceAll("+", " ")); } catch { continue; }
      const hold = /^(.+)\*(-?[0-9.]+)(?:@([0-9]+))?(~own)?$/.exec(value), cell = /^([0-9]+)\.([0-9]+)$/.exec(value);
      if (key === "prompt") state.text = value;
      if (key === "hold" && hold && named(hold[1])) state.holds.push({ name: hold[1], strength: Math.max(-MOST, Math.min(MOST, Number(hold[2]) || 0)), pos: hold[3] === undefined ? null : Number(hold[3]), own: Boolean(hold[4]) });
      if (key === "every") state.every = value === "1";
      if (key === "write") state.most = Math.min(60, Number.parseInt(value, 10) || 0);
      if (key === "feature" && !nodes.has(value) && named(value)) state.feature = value;
      if (key === "see" && cell && Number(cell[1]) < network.layers.length) state.cell = [Number(cell[1]), Number(cell[2])];
    }
    return state.text ? state : null;
  };

  // Changes ------------------------------------------------------------------------------------------------------------

  let waiting = false, remember = 0;
  lab.refresh = () => {
    if (!waiting) requestAnimationFrame(() => { waiting = false; draw(); });
    waiting = true;
  };
  const draw = () => {
    const start = performance.now();
    lab.result = compute();
    if (!lab.result.steered) lab.control = null;
    view.answers();
    view.told();
    view.shade();
    view.features();
    view.terminal();
    performance.measure("answer", { start, end: performance.now() });
    following ??= follow();
    clearTimeout(remember);
    remember = setTimeout(() => history.replaceState(null, "", "#" + address()), 200);
  };

  // Something else is held, or another prompt asked: everything is drawn anew. A prompt that cannot be read changes nothing.
  lab.change = (edit) => {
    const before = lab.state, old = { ...before }, problem = byId("problem");
    edit();
    try {
      lab.clean = lab.reading(lab.state.text);
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      lab.state = Object.assign(before ?? begun(), old);
      if (before) return;
      lab.clean = lab.reading(lab.state.text);
    }
    const { state } = lab, size = lab.clean.ids.length;
    if (!state.cell || state.cell[1] >= size) {
      const held = state.holds.map(lab.resolved).find((one) => one.members);
      state.cell = held ? [held.members[0][0], held.pos] : [0, size - 1];
    }
    if (byId("prompt").value !== state.text && document.activeElement !== byId("prompt")) byId("prompt").value = state.text;
    byId("prompt").rows = Math.min(4, state.text.split("\n").length);
    byId("named").value = [...prompts.values()].includes(state.text) ? state.text : "";
    byId("every").checked = state.every;
    byId("most").value = limit();
    byId("none").disabled = !state.holds.length;
    for (const link of document.querySelectorAll("#examples a")) link.toggleAttribute("aria-current", same(parsed(link.hash), state));
    lab.control = null;
    view.grid();
    view.held();
    draw();
    if (state.feature) view.card(...state.feature.split("/").map(Number), state.cell[1]);
  };
  const same = (a, b) => a.text === b.text && a.every === b.every && a.holds.map((hold) => hold.name).join() === b.holds.map((hold) => hold.name).join();
  lab.hold = ({ name, strength, pos = null }) => lab.change(() => {
    lab.state.holds = [...lab.state.holds.filter((hold) => hold.name !== name), { name, strength, pos, own: false }];
  });
  lab.look = (layer, pos) => {
    Object.assign(lab.state, { cell: [layer, pos] });
    lab.all = false;
    draw();
    view.cells.find((cell) => cell.getAttribute("aria-pressed") === "true").focus();
  };
  lab.open = (layer, number, pos) => {
    lab.state.feature = `${layer}/${number}`;
    view.features();
    view.card(layer, number, pos);
  };
  const go = (state) => lab.change(() => { lab.state = state; lab.all = false; });
  const begun = () => ({ ...parsed(document.querySelector("#examples a")?.hash ?? `#prompt=${safe(prompts.values().next().value)}`), holds: [] });

  // Controls -----------------------------------------------------------------------------------------------------------

  for (const { case: name } of facts.cases) {
    const title = name.replaceAll("_", " "), asked = make("optgroup", { label: title }), held = make("optgroup", { label: title }), seen = new Set();
    for (const [key, text] of prompts) if (key.startsWith(`${name}/`)) asked.append(make("option", { value: text }, visible(text)));
    for (const node of nodes.values()) {
      const which = `${node.name} ${node.title} ${node.members.join(" ")}`;
      if (node.case !== name || seen.has(which)) continue;
      seen.add(which);
      held.append(make("option", { value: node.address }, `${node.title} (${visible(node.text)})`));
    }
    byId("named").append(asked);
    byId("more").append(held);
  }
  const typed = () => lab.change(() => Object.assign(lab.state, { text: byId("prompt").value, cell: null }));
  byId("board").addEventListener("submit", (event) => event.preventDefault());
  byId("prompt").addEventListener("input", typed);
  byId("named").addEventListener("input", () => { if (byId("named").value) { byId("prompt").value = byId("named").value; typed(); } });
  byId("more").addEventListener("input", () => { if (byId("more").value) lab.hold({ name: byId("more").value, strength: 2 }); byId("more").value = ""; });
  byId("every").addEventListener("input", () => lab.change(() => Object.assign(lab.state, { every: byId("every").checked, most: byId("every").checked ? 12 : null })));
  byId("most").addEventListener("input", () => lab.change(() => { lab.state.most = Math.max(0, Math.min(60, Number(byId("most").value) || 0)); }));
  byId("none").addEventListener("click", () => lab.change(() => Object.assign(lab.state, { holds: [], every: false, most: null })));
  byId("all").addEventListener("click", () => { lab.all = true; view.features(); });
  byId("grid").addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, 0], ArrowDown: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    const [layer, pos] = lab.state.cell, clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    lab.look(clamp(layer + step[0], network.layers.length), clamp(pos + step[1], lab.clean.ids.length));
  });
  addEventListener("hashchange", (event) => { // the address may be another by now: what it was is remembered with a delay
    const state = parsed(new URL(event.newURL).hash);
    if (!state) return;
    go(state);
    byId("lab").scrollIntoView({ block: "nearest" });
  });

  byId("lab").hidden = byId("inside-live").hidden = false;
  go(parsed(location.hash) ?? begun());
  window.lab = lab; // for whoever opens the console
  performance.mark("ready");
})();
