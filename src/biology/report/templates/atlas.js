// The feature atlas: browse, search, and a card for every feature. All text goes in as text, never as markup.
"use strict";
(async () => {
  const { rows, labels, texts, members, plots, tokens } = await unpacked("atlas-data");
  const percent = (share) => (share === 0 ? "never" : share < 0.001 ? "<0.1%" : (100 * share).toFixed(share < 0.1 ? 1 : 0) + "%");
  const name = (row) => `${row[0]}/${row[1]}`;
  const link = (row) => `#${row[0]}-${row[1]}`;
  const places = new Map(rows.map((row, index) => [`${row[0]}-${row[1]}`, index]));
  const alive = rows.map((_, index) => index).filter((index) => rows[index][2] > 0);
  const memberships = rows.map(() => []);
  members.forEach(([, , , found], group) => found.forEach(([index, count]) => memberships[index].push([group, count])));

  // What a feature answers to: the tokens on which it is strongest in its examples.
  const answers = rows.map((row) => {
    const seen = new Set();
    for (const [prompt, digits] of row[7]) {
      let best = 0;
      for (let i = 1; i < digits.length; i++) if (digits[i] > digits[best]) best = i;
      seen.add(texts[prompt][1][best]);
    }
    return [...seen];
  });

  // Browsing ---------------------------------------------------------------------------------------------------------
  const kinds = [...new Set(members.map(([group, label]) => `${group}: ${label}`))];
  byId("facet").append(...kinds.map((kind) => make("option", { value: kind }, kind.replaceAll("_", " "))));
  // The words of a prompt's tokens, pieces joined: "Dallas" for Da, ##lla, ##s.
  const words = texts.map(([, ids]) => ids.map((id) => tokens[id]).join(" ").replaceAll(" ##", "").toLowerCase());
  const PAGE = 60, OFFERED = 40;
  let shown = PAGE, hits = [], told = "";
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
    if (layer !== "") found = found.filter((index) => rows[index][0] === Number(layer));
    if (wanted) {
      const fits = new Set(tokens.map((_, i) => i).filter((i) => tokens[i].toLowerCase().includes(wanted)));
      const exact = new Set([...fits].filter((i) => tokens[i].trim().toLowerCase() === wanted));
      const titled = new Set(members.flatMap(([, , title, listed]) => (title.toLowerCase() === wanted ? listed.map(([index]) => index) : [])));
      const score = (index) => {
        if (name(rows[index]) === wanted) return 0;
        const place = labels[index].toLowerCase().split(" / ").findIndex((role) => role.replace(" …", "") === wanted);
        if (place >= 0) return 1 + place / 10;
        const said = rows[index][4].findIndex((token) => exact.has(token));
        if (said >= 0) return 2 + said;
        if (labels[index].toLowerCase().includes(wanted)) return 13;
        if (titled.has(index)) return 14;
        if (answers[index].some((token) => exact.has(token))) return 20;
        if ([...rows[index][4], ...answers[index]].some((token) => fits.has(token))) return 30;
        return rows[index][7].some(([prompt]) => words[prompt].includes(wanted)) ? 40 : null;
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
    else if (order === "rare" || order === "dense") found = [...found].sort((a, b) => sign * (rows[a][2] - rows[b][2]) || a - b);
    else found = [...found].sort((a, b) => a - b);
    told = matched ? "best match first" : order === "rare" ? "rarest first" : order === "dense" ? "densest first" : "by layer and number";
    hits = found;
    shown = PAGE;
    list();
  };
  const list = () => {
    byId("found").textContent = `${hits.length.toLocaleString("en")} features that are active on some prompt, ${told}`;
    byId("none").hidden = hits.length > 0;
    byId("hits").replaceChildren(...hits.slice(0, shown).map((index) => {
      const row = rows[index];
      const says = row[4].slice(0, 3).map((token) => visible(tokens[token])).join(" · ");
      const on = answers[index].slice(0, 2).map((token) => visible(tokens[token])).join(" · ");
      const known = labels[index] ? [make("strong", {}, labels[index]), " "] : [];
      return make("li", {}, make("a", { href: link(row) }, make("b", {}, name(row)), make("span", {}, ...known, `on ${on} → ${says}`), make("small", {}, percent(row[2]))));
    }));
    byId("more").hidden = hits.length <= shown;
  };

  // The card ---------------------------------------------------------------------------------------------------------
  const histogram = (counts) => {
    const box = make("div", { class: "histogram", role: "img", "aria-label": `Activations from weak to strong: ${counts.join(", ")} tokens` });
    const top = Math.log1p(Math.max(...counts));
    for (const count of counts) box.append(make("i", { style: `height:${Math.round((100 * Math.log1p(count)) / top)}%` }));
    return box;
  };
  const example = ([prompt, digits]) => {
    const [source, ids] = texts[prompt];
    const line = make("p", { class: "example" });
    ids.forEach((id, i) => {
      const text = visible(tokens[id]), piece = text.startsWith("##");
      if (i && !piece) line.append(" ");
      const word = piece ? text.slice(2) : text;
      line.append(digits[i] === "0" ? word : make("mark", { class: `s${digits[i]}`, title: `${digits[i]} of 9` }, word));
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
    const row = rows[index], [layer, feature, density, top, up, down, counts, found] = row;
    const parts = [make("h3", { id: "feature" }, `Feature ${name(row)}`)];
    if (labels[index]) parts.push(make("p", {}, make("strong", {}, labels[index]), make("span", { class: "note" }, " by rules of the cases")));
    parts.push(make("p", { class: "note" }, `layer ${layer}, number ${feature}; density ${percent(density)}, largest activation ${top}`));
    parts.push(make("h4", {}, "Raises"), chips(up), make("h4", {}, "Lowers"), chips(down));
    if (counts.length) parts.push(make("h4", {}, "How strong, where active"), histogram(counts));
    if (found.length) parts.push(make("h4", {}, "Strongest examples"), ...found.map(example));
    else parts.push(make("p", {}, "Never active on these prompts."));
    if (plots[index]) parts.push(make("h4", {}, "In addition"), ...plots[index].map(plot));
    const groups = memberships[index];
    if (groups.length) {
      const box = make("ul", { class: "groups" });
      for (const [group, count] of groups.slice(0, 30)) {
        const [place, label, title] = members[group];
        box.append(make("li", {}, make("a", { href: `${place}.html#graphs` }, `${title}`), ` ${label.replaceAll("_", " ")} of ${place.replaceAll("_", " ")}, on ${count} prompt${count > 1 ? "s" : ""}`));
      }
      parts.push(make("h4", {}, "Member of supernodes"), box);
      if (groups.length > 30) parts.push(make("p", { class: "note" }, `and ${groups.length - 30} more`));
    }
    const code = `biology steer "…" --model ${document.body.dataset.model} --features ${name(row)}=${top}`;
    parts.push(make("h4", {}, "Steer with it"), make("p", {}, make("code", {}, code)));
    byId("card").replaceChildren(...parts);
    document.title = `Feature ${name(row)}`;
  };
  const open = () => {
    const index = places.get(location.hash.slice(1));
    if (index === undefined) return false;
    card(index);
    if (matchMedia("(max-width: 56rem)").matches) byId("card").scrollIntoView({ behavior: "instant" });
    return true;
  };
  const lucky = () => { location.hash = link(rows[alive[Math.floor(Math.random() * alive.length)]]); };

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
  byId("more").addEventListener("click", () => { shown += 4 * PAGE; list(); });
  byId("lucky").addEventListener("click", lucky);
  addEventListener("hashchange", open);
  offer();
  search();
  if (!open() && hits.length) card(hits[0]);
})();
