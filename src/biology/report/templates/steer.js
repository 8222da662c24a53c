// The switchboard of the page `steer`: looks up what was computed for a prompt, a supernode and a strength.
"use strict";
(async () => {
  const data = await unpacked("steer-data");
  const percent = (value) => (value < 0.001 ? "<0.1%" : (100 * value).toFixed(value < 0.1 || value > 0.95 ? 1 : 0) + "%");
  const option = (value, text) => make("option", { value }, text);

  const group = () => data.find((entry) => entry.case === byId("case").value);
  const prompt = () => group().prompts[Number(byId("prompt").value)];
  const keys = (entry) => [...new Set(entry.ways.map((way) => `${way.source}/${way.supernode}`))];
  const way = () => {
    const ways = prompt().ways.filter((found) => `${found.source}/${found.supernode}` === byId("way").value);
    return ways.find((found) => found.mode === byId("mode").value) ?? ways[0];
  };

  const top = ([tokens, line]) => line || tokens[0]?.[0];
  // Whether a way to steer changes neither answer nor line at any strength.
  const inert = (entry, found) => found.at.every(([, ...said]) => top(said) === top(entry.clean) && said[0][0]?.[0] === entry.clean[0][0]?.[0]);

  const fillPrompts = () => {
    byId("prompt").replaceChildren(...group().prompts.map((entry, index) => option(index, visible(entry.text).slice(0, 80))));
    fillWays();
  };
  const fillWays = () => {
    const entry = prompt(), kept = byId("way").value;
    const texts = new Map(group().prompts.map((one) => [one.item, one.text]));
    const titles = keys(entry).map((key) => entry.ways.find((one) => `${one.source}/${one.supernode}` === key)).map((one) => `${one.title}${one.source}`);
    const listed = keys(entry).map((key) => {
      const ways = entry.ways.filter((one) => `${one.source}/${one.supernode}` === key), [found] = ways;
      const twice = titles.filter((one) => one === `${found.title}${found.source}`).length > 1 ? ` (${found.supernode.replaceAll("_", " ")})` : "";
      const from = found.source === entry.item ? "this prompt’s own" : `from “${visible(texts.get(found.source) ?? found.source).slice(-44)}”`;
      const still = ways.every((one) => inert(entry, one));
      return [still, option(key, `${found.title}${twice}, ${from}${still ? ": changes nothing" : ""}`)];
    }).sort((a, b) => a[0] - b[0]).map(([, made]) => made);
    byId("way").replaceChildren(...listed);
    if (keys(entry).includes(kept)) byId("way").value = kept;
    fillStrengths();
  };
  const fillStrengths = (wanted) => {
    const steps = way().at.map(([strength]) => strength);
    const now = wanted ?? steps[Number(byId("strength").value)] ?? 1;
    byId("strength").max = steps.length - 1;
    byId("strength").value = Math.max(0, steps.indexOf(steps.includes(now) ? now : 1));
    byId("marks").replaceChildren(...steps.map((step) => make("span", {}, String(step).replace("-", "−"))));
    const modes = prompt().ways.filter((found) => `${found.source}/${found.supernode}` === byId("way").value).map((found) => found.mode);
    for (const choice of byId("mode").options) choice.disabled = !modes.includes(choice.value);
    if (!modes.includes(byId("mode").value)) byId("mode").value = modes[0];
    show();
  };
  const bars = ([tokens, line], clean) => {
    const box = make("ol", { class: "outputs" });
    for (const [text, value] of tokens) {
      const fresh = clean && !clean.some(([other, before]) => other === text && before > 0.01);
      box.append(make("li", fresh && value > 0.05 ? { class: "fresh" } : {}, make("i", { style: `width:${100 * value}%` }), make("span", {}, visible(text)), make("b", {}, percent(value))));
    }
    return line ? [box, make("p", { class: "line" }, "↳ ", visible(line))] : [box];
  };
  const show = () => {
    const entry = prompt(), found = way(), [strength, tokens, line] = found.at[Number(byId("strength").value)];
    byId("asked").textContent = visible(entry.text);
    byId("much").textContent = String(strength).replace("-", "−");
    byId("strength").setAttribute("aria-valuetext", `M = ${strength}`);
    byId("held").textContent = found.mode === "swap" ? `${found.title} swapped in` : `${found.title} held`;
    byId("before").replaceChildren(...bars(entry.clean));
    byId("after").replaceChildren(...bars([tokens, line], entry.clean[0]));
    byId("inert").textContent = inert(entry, found) ? "Inert: at no strength does this change what is said here." : "";
    const swap = found.mode === "swap" ? ` --suppress ${byId("case").value}/${entry.item}/${found.supernode}` : "";
    const asked = JSON.stringify(entry.text).replaceAll("\\n", "\n");
    byId("command").textContent = `biology steer ${asked} --model ${document.body.dataset.model} --supernode ${byId("case").value}/${found.source}/${found.supernode}${swap} --strength ${strength} --at ${found.pos}`;
    history.replaceState(null, "", "#" + [byId("case").value, entry.item, found.source, found.supernode, found.mode, strength].join("/"));
  };
  const open = () => {
    const [name, item, source, supernode, mode, strength] = decodeURIComponent(location.hash.slice(1)).split("/");
    const there = data.find((entry) => entry.case === name);
    const index = there ? there.prompts.findIndex((entry) => entry.item === item) : -1;
    if (index < 0 || !keys(there.prompts[index]).includes(`${source}/${supernode}`)) return false;
    byId("case").value = name;
    fillPrompts();
    byId("prompt").value = index;
    fillWays();
    byId("way").value = `${source}/${supernode}`;
    byId("mode").value = mode;
    fillStrengths(Number(strength));
    byId("stage").scrollIntoView({ block: "nearest" });
    return true;
  };
  const lucky = () => {
    const pick = (list) => list[Math.floor(Math.random() * list.length)];
    const entries = data.flatMap((entry) => entry.prompts.map((one) => [entry.case, one])).filter(([, one]) => one.ways.length);
    // of some random ways, the one that changes the answer most
    const tries = Array.from({ length: 12 }, () => {
      const [name, entry] = pick(entries), one = pick(entry.ways), [strength, tokens] = pick(one.at);
      const before = entry.clean[0].find(([text]) => text === tokens[0][0]);
      return [tokens[0][1] - (before ? before[1] : 0), [name, entry.item, one.source, one.supernode, one.mode, strength].join("/")];
    });
    location.hash = tries.reduce((a, b) => (b[0] > a[0] ? b : a))[1];
  };
  byId("board").hidden = byId("stage").hidden = false;
  byId("board").addEventListener("submit", (event) => event.preventDefault());
  byId("case").addEventListener("input", fillPrompts);
  byId("prompt").addEventListener("input", fillWays);
  byId("way").addEventListener("input", () => fillStrengths());
  byId("mode").addEventListener("input", () => fillStrengths());
  byId("strength").addEventListener("input", show);
  byId("lucky").addEventListener("click", lucky);
  addEventListener("hashchange", open);
  const asked = location.hash;
  fillPrompts();
  if (asked) history.replaceState(null, "", asked);
  if (!asked || !open()) { // something that works, without a jump
    const begin = document.querySelector("#try ~ .note a");
    const there = scrollY;
    if (begin) { history.replaceState(null, "", begin.getAttribute("href")); open(); scrollTo(0, there); }
    history.replaceState(null, "", asked || location.pathname);
  }
})();
