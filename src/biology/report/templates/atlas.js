// The feature atlas: browse, search, and a card for every feature. All text goes in as text, never as markup.
"use strict";
(async () => {
  const { rows, texts, members, plots, tokens } = await unpacked("atlas-data");
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
  const select = byId("supernode");
  for (const [index, [group, label, title]] of members.entries()) {
    const key = `${group}: ${label.replaceAll("_", " ")}`;
    let box = [...select.children].find((node) => node.label === key);
    if (!box) select.append((box = make("optgroup", { label: key })));
    box.append(make("option", { value: index }, title));
  }
  const PAGE = 60;
  let shown = PAGE, hits = [];
  const search = () => {
    const wanted = byId("search").value.trim().toLowerCase(), layer = byId("layer").value, group = select.value;
    let found = group === "" ? alive : members[Number(group)][3].map(([index]) => index);
    if (layer !== "") found = found.filter((index) => rows[index][0] === Number(layer));
    if (wanted) {
      const fits = new Set(tokens.map((_, i) => i).filter((i) => tokens[i].toLowerCase().includes(wanted)));
      const exact = new Set([...fits].filter((i) => tokens[i].trim().toLowerCase() === wanted));
      const titled = (group) => members[group][2].toLowerCase() === wanted;
      const rank = (index) => {
        const said = rows[index][4].findIndex((token) => exact.has(token));
        if (said >= 0) return said;
        return memberships[index].some(([group]) => titled(group)) ? 11 : answers[index].some((token) => exact.has(token)) ? 20 : 40;
      };
      found = found.filter((index) => [...rows[index][4], ...answers[index]].some((token) => fits.has(token)) || memberships[index].some(([group]) => titled(group)));
      found = found.map((index) => [rank(index), index]).sort((a, b) => a[0] - b[0]).map(([, index]) => index);
    }
    const order = byId("order").value;
    if (!wanted && group === "" && order !== "place") {
      const sign = order === "rare" ? 1 : -1;
      found = [...found].sort((a, b) => sign * (rows[a][2] - rows[b][2]) || a - b);
    }
    hits = found;
    shown = PAGE;
    list();
  };
  const list = () => {
    byId("found").textContent = `${hits.length.toLocaleString("en")} features that are active on some prompt`;
    byId("hits").replaceChildren(...hits.slice(0, shown).map((index) => {
      const row = rows[index];
      const says = row[4].slice(0, 3).map((token) => visible(tokens[token])).join(" · ");
      const on = answers[index].slice(0, 2).map((token) => visible(tokens[token])).join(" · ");
      return make("li", {}, make("a", { href: link(row) }, make("b", {}, name(row)), make("span", {}, `on ${on} → ${says}`), make("small", {}, percent(row[2]))));
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
        box.append(make("li", {}, make("a", { href: `${place}.html#supernodes` }, `${title}`), ` ${label.replaceAll("_", " ")} of ${place.replaceAll("_", " ")}, on ${count} prompt${count > 1 ? "s" : ""}`));
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
  for (const id of ["search", "layer", "supernode", "order"]) byId(id).addEventListener("input", search);
  byId("more").addEventListener("click", () => { shown += 4 * PAGE; list(); });
  byId("lucky").addEventListener("click", lucky);
  addEventListener("hashchange", open);
  search();
  if (!open() && alive.length) card(alive[Math.floor(alive.length / 2)]);
})();
