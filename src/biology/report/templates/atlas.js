// The feature atlas: browse, search, and a card for every feature. All text goes in as text, never as markup.
"use strict";
(async () => {
  const { facts, bytes } = await unpackedBytes("atlas-data");
  const { texts, plots, tokens } = facts;
  // The columns of atlas_page.atlas_data: whole numbers, byte by byte, or the steps from one to the next.
  const columns = {};
  let read = 0;
  for (const [title, count, width, steps] of facts.columns) {
    const values = new Uint32Array(count);
    for (let shift = 0; shift < 8 * width; shift += 8) for (let i = 0; i < count; i++) values[i] |= bytes[read++] << shift;
    if (steps) for (let i = 0, sum = 0; i < count; i++) values[i] = sum += values[i] & 1 ? -(values[i] + 1) / 2 : values[i] / 2;
    columns[title] = values;
  }
  // Where the entries of each begin that stand one after the other, with the end of the last.
  const starts = (counts) => {
    const made = new Uint32Array(counts.length + 1);
    for (let i = 0; i < counts.length; i++) made[i + 1] = made[i] + counts[i];
    return made;
  };
  const { layer: layers, feature: numbers, raises, lowers, prompt: shown, at, shade } = columns;
  const [ofList, ofBins, ofFeature, ofExample] = [columns.said, columns.bins, columns.examples, columns.shaded].map(starts);
  const decimals = (title) => Float64Array.from(columns[title], (digits, i) => Number(`${digits}e${38 - columns[`${title}_power`][i]}`));
  const density = decimals("density"), largest = decimals("maximum");
  const labels = Array.from(columns.label, (place) => facts.labels[place]);
  const list = (place) => columns.token.subarray(ofList[place], ofList[place + 1]);
  const features = [...layers.keys()];
  const percent = (share) => (share === 0 ? "never" : share < 0.001 ? "<0.1%" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + "%");
  const name = (index) => `${layers[index]}/${numbers[index]}`;
  const link = (index) => `#${layers[index]}-${numbers[index]}`;
  const places = new Map(features.map((index) => [`${layers[index]}-${numbers[index]}`, index]));
  const alive = features.filter((index) => density[index] > 0);
  const memberships = new Map(), membersOf = starts(facts.groups.map((group) => group[3]));
  const members = facts.groups.map(([group, label, title], place) => {
    const found = [];
    for (let i = membersOf[place]; i < membersOf[place + 1]; i++) {
      const index = columns.member[i], count = columns.times[i];
      found.push([index, count]);
      if (!memberships.has(index)) memberships.set(index, []);
      memberships.get(index).push([place, count]);
    }
    return [group, label, title, found];
  });

  // What a feature answers to: the tokens on which it is strongest in its examples.
  const found = [];
  const answers = (index) => {
    if (found[index]) return found[index];
    const seen = new Set();
    for (let i = ofFeature[index]; i < ofFeature[index + 1]; i++) {
      let best = ofExample[i], strongest = 0, place = 0;
      for (let j = best; j < ofExample[i + 1]; j++) {
        place += at[j];
        if (shade[j] > shade[best] || j === ofExample[i]) [best, strongest] = [j, place];
      }
      seen.add(texts[shown[i]][1][strongest]);
    }
    return (found[index] = [...seen]);
  };

  // Browsing ---------------------------------------------------------------------------------------------------------
  const kinds = [...new Set(members.map(([group, label]) => `${group}: ${label}`))];
  byId("facet").append(...kinds.map((kind) => make("option", { value: kind }, kind.replaceAll("_", " "))));
  // The words of a prompt's tokens, pieces joined: "Dallas" for Da, ##lla, ##s.
  const words = texts.map(([, ids]) => ids.map((id) => tokens[id]).join(" ").replaceAll(" ##", "").toLowerCase());
  const PAGE = 60, OFFERED = 40;
  let length = PAGE, hits = [], told = "";
  const groupsOf = () => {
    const kind = byId("facet").value, role = byId("role").value.trim().toLowerCase();
    if (!kind && !role) return null;
    const fits = members.map((_, i) => i).filter((i) => (!kind || `${members[i][0]}: ${members[i][1]}` === kind) && members[i][2].toLowerCase().includes(role));
    const exact = fits.filter((i) => members[i][2].toLowerCase() === role);
    return exact.length ? exact : fits;
  };
  const offer = () => {
    const kind = byId("facet").value, typed = byId("role").value.trim().toLowerCase();
    const titles = new Set();
    for (const [group, label, title] of members) {
      if ((!kind || `${group}: ${label}` === kind) && title.toLowerCase().includes(typed)) titles.add(title);
      if (titles.size >= OFFERED) break;
    }
    byId("roles").replaceChildren(...[...titles].map((title) => make("option", { value: title })));
  };
  const search = () => {
    const wanted = byId("search").value.trim().toLowerCase(), layer = byId("layer").value, groups = groupsOf();
    let found = alive;
    const rank = new Map(); // the smaller the better
    if (groups) {
      for (const group of groups) for (const [index, count] of members[group][3]) rank.set(index, Math.min(rank.get(index) ?? 0, -count));
      found = [...rank.keys()];
    }
    if (layer !== "") found = found.filter((index) => layers[index] === Number(layer));
    if (wanted) {
      const fits = new Set(tokens.map((_, i) => i).filter((i) => tokens[i].toLowerCase().includes(wanted)));
      const exact = new Set([...fits].filter((i) => tokens[i].trim().toLowerCase() === wanted));
      const titled = new Set(members.flatMap(([, , title, listed]) => (title.toLowerCase() === wanted ? listed.map(([index]) => index) : [])));
      const spoken = words.map((text) => text.includes(wanted));
      const score = (index) => {
        if (name(index) === wanted) return 0;
        const place = labels[index].toLowerCase().split(" / ").findIndex((role) => role.replace(" …", "") === wanted);
        if (place >= 0) return 1 + place / 10;
        const up = list(raises[index]), said = up.findIndex((token) => exact.has(token));
        if (said >= 0) return 2 + said;
        if (labels[index].toLowerCase().includes(wanted)) return 13;
        if (titled.has(index)) return 14;
        const on = answers(index);
        if (on.some((token) => exact.has(token))) return 20;
        if (fits.size && (up.some((token) => fits.has(token)) || on.some((token) => fits.has(token)))) return 30;
        return shown.subarray(ofFeature[index], ofFeature[index + 1]).some((prompt) => spoken[prompt]) ? 40 : null;
      };
      found = found.filter((index) => {
        const value = score(index);
        if (value !== null) rank.set(index, value);
        return value !== null;
      });
    }
    const order = byId("order").value, sign = order === "dense" ? -1 : 1;
    const matched = order === "match" && (wanted || groups);
    if (matched) found = [...found].sort((a, b) => rank.get(a) - rank.get(b) || a - b);
    else if (order === "rare" || order === "dense") found = [...found].sort((a, b) => sign * (density[a] - density[b]) || a - b);
    else found = [...found].sort((a, b) => a - b);
    told = matched ? "best match first" : order === "rare" ? "rarest first" : order === "dense" ? "densest first" : "by layer and number";
    hits = found;
    length = PAGE;
    draw();
  };
  const draw = () => {
    byId("found").textContent = `${hits.length.toLocaleString("en")} features that are active on some prompt, ${told}`;
    byId("none").hidden = hits.length > 0;
    byId("hits").replaceChildren(...hits.slice(0, length).map((index) => {
      const told = (some, most) => [...some].slice(0, most).map((token) => visible(tokens[token])).join(" · ");
      const says = told(list(raises[index]), 3), on = told(answers(index), 2);
      const known = labels[index] ? [make("strong", {}, labels[index]), " "] : [];
      return make("li", {}, make("a", { href: link(index) }, make("b", {}, name(index)), make("span", {}, ...known, `on ${on} → ${says}`), make("small", {}, percent(density[index]))));
    }));
    byId("more").hidden = hits.length <= length;
  };

  // The card ---------------------------------------------------------------------------------------------------------
  const histogram = (counts) => {
    const box = make("div", { class: "histogram", role: "img", "aria-label": `Activations from weak to strong: ${counts.join(", ")} tokens` });
    const top = Math.log1p(Math.max(...counts));
    for (const count of counts) box.append(make("i", { style: `height:${Math.round((100 * Math.log1p(count)) / top)}%` }));
    return box;
  };
  const example = (place) => {
    const [source, ids] = texts[shown[place]], shades = new Map();
    for (let j = ofExample[place], sum = 0; j < ofExample[place + 1]; j++) shades.set((sum += at[j]), shade[j]);
    const line = make("p", { class: "example" });
    ids.forEach((id, i) => {
      const text = visible(tokens[id]), piece = text.startsWith("##");
      if (i && !piece) line.append(" ");
      const word = piece ? text.slice(2) : text;
      line.append(shades.has(i) ? make("mark", { class: `s${shades.get(i)}`, title: `${shades.get(i)} of 9` }, word) : word);
    });
    line.append(make("small", {}, source.replaceAll("_", " ")));
    return line;
  };
  const plot = ([group, at, height, width, cells]) => {
    const canvas = make("canvas", { width, height, class: "operands", role: "img", "aria-label": `Operand plot at ${at} in ${group}` });
    const pen = canvas.getContext("2d"), image = pen.createImageData(width, height);
    for (let i = 0; i < cells.length; i++) {
      const share = cells[i] === "." ? -1 : (cells.charCodeAt(i) - 97) / 25;
      const colour = share < 0 ? [200, 203, 208] : [255 - 255 * share, 255 - 152 * share, 255 - 92 * share];
      image.data.set([...colour, 255], 4 * i);
    }
    pen.putImageData(image, 0, 0);
    return make("figure", {}, canvas, make("figcaption", {}, `${group.replaceAll("_", " ")}, at ${at}: first number downwards, second to the right`));
  };
  const chips = (ids) => {
    const box = make("p", { class: "chips" });
    for (const id of ids) box.append(make("span", { class: "token" }, visible(tokens[id])), " ");
    return box;
  };
  const card = (index) => {
    const counts = columns.histogram.subarray(ofBins[index], ofBins[index + 1]), found = [];
    for (let i = ofFeature[index]; i < ofFeature[index + 1]; i++) found.push(i);
    const parts = [make("h3", { id: "feature" }, `Feature ${name(index)}`)];
    if (labels[index]) parts.push(make("p", {}, make("strong", {}, labels[index]), make("span", { class: "note" }, " by rules of the cases")));
    parts.push(make("p", { class: "note" }, `layer ${layers[index]}, number ${numbers[index]}; density ${percent(density[index])}, largest activation ${largest[index]}`));
    parts.push(make("h4", {}, "Raises"), chips(list(raises[index])), make("h4", {}, "Lowers"), chips(list(lowers[index])));
    if (counts.length) parts.push(make("h4", {}, "How strong, where active"), histogram(counts));
    if (found.length) parts.push(make("h4", {}, "Strongest examples"), ...found.map(example));
    else parts.push(make("p", {}, "Never active on these prompts."));
    if (plots[index]) parts.push(make("h4", {}, "In addition"), ...plots[index].map(plot));
    const groups = memberships.get(index) ?? [];
    if (groups.length) {
      const box = make("ul", { class: "groups" });
      for (const [group, count] of groups.slice(0, 30)) {
        const [place, label, title] = members[group];
        box.append(make("li", {}, make("a", { href: `${place}.html#graphs` }, `${title}`), ` ${label.replaceAll("_", " ")} of ${place.replaceAll("_", " ")}, on ${count} prompt${count > 1 ? "s" : ""}`));
      }
      parts.push(make("h4", {}, "Member of supernodes"), box);
      if (groups.length > 30) parts.push(make("p", { class: "note" }, `and ${groups.length - 30} more`));
    }
    const code = `biology steer "…" --model ${document.body.dataset.model} --features ${name(index)}=${largest[index]}`;
    parts.push(make("h4", {}, "Steer with it"), make("p", {}, make("code", {}, code)));
    byId("card").replaceChildren(...parts);
    document.title = `Feature ${name(index)}`;
  };
  const open = () => {
    const wanted = location.hash.slice(1), index = places.get(wanted);
    if (index === undefined && !/^\d+-\d+$/.test(wanted)) return false;
    if (index !== undefined) card(index);
    else byId("card").replaceChildren(make("p", {}, `Feature ${wanted.replace("-", "/")} is not in this page, or there is none.`));
    if (matchMedia("(max-width: 56rem)").matches) byId("card").scrollIntoView({ behavior: "instant" });
    return true;
  };
  const lucky = () => { location.hash = link(alive[Math.floor(Math.random() * alive.length)]); };

  byId("controls").hidden = false;
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  // What is looked for is found: the card of the first hit is shown at once.
  const anew = () => {
    offer();
    search();
    if (hits.length) card(hits[0]);
  };
  for (const id of ["search", "layer", "facet", "role", "order"]) byId(id).addEventListener("input", anew);
  byId("clear").addEventListener("click", () => {
    for (const id of ["search", "layer", "facet", "role"]) byId(id).value = "";
    anew();
    byId("search").focus();
  });
  byId("more").addEventListener("click", () => { length += 4 * PAGE; draw(); });
  byId("lucky").addEventListener("click", lucky);
  addEventListener("hashchange", open);
  offer();
  search();
  if (!open() && hits.length) card(hits[0]);
})();
