// All scored prompts of a case: one part of a claim at a time, filtered and ordered. The address #prompts/<claim>/<part> opens one.
"use strict";
(async () => {
  const form = byId("browse");
  if (!form) return;
  const { texts, parts } = await unpacked("prompts-data");
  const PAGE = 40;
  let shown = PAGE;
  const digits = (value) => Number(value.toPrecision(3)).toLocaleString("en", { maximumSignificantDigits: 3 }).replace("-", "−");
  const told = (value, unit) => {
    if (value === null) return "–";
    if (unit === "yes" && (value === 0 || value === 1)) return value ? "yes" : "no";
    if (unit === "yes" || unit === "%") return digits(100 * value) + "%";
    return digits(value) + unit;
  };
  const part = () => parts[Number(byId("browse-part").value)];
  const against = (one, row) => (one.margin === null ? one.score[row] <= 0 : Math.abs(one.score[row]) > one.margin);
  const harm = (one, row) => (one.margin === null ? one.score[row] : -Math.abs(one.score[row]));

  const list = () => {
    const one = part(), which = byId("browse-which").value, order = byId("browse-order").value;
    const word = byId("browse-find").value.trim().toLowerCase();
    const scored = one.scored.flatMap((yes, row) => (yes ? [row] : []));
    let rows = which === "failed" ? one.scored.flatMap((yes, row) => (yes ? [] : [row])) : scored;
    if (which === "against") rows = rows.filter((row) => against(one, row));
    const columns = ["prompt", "donor", "expected", "said"];
    if (word) rows = rows.filter((row) => columns.some((column) => texts[one[column][row]].toLowerCase().includes(word)));
    if (order === "prompt") rows.sort((a, b) => (texts[one.prompt[a]] < texts[one.prompt[b]] ? -1 : 1));
    else rows.sort((a, b) => (order === "for" ? harm(one, b) - harm(one, a) : harm(one, a) - harm(one, b)));
    const token = (text) => make("td", {}, text ? make("span", { class: "token" }, visible(text)) : "–");
    byId("browse-rows").tBodies[0].replaceChildren(...rows.slice(0, shown).map((row) => make("tr", {},
      ...columns.map((column) => token(texts[one[column][row]])),
      make("td", { class: "n" }, told(one.effect[row], one.unit)), make("td", { class: "n" }, told(one.control[row], one.unit)))));
    const bad = scored.filter((row) => against(one, row)).length;
    byId("browse-told").textContent = `${rows.length} prompts${rows.length > shown ? `, ${shown} of them shown` : ""}. Of ${scored.length} that are scored, ${bad} speak against it; ${one.scored.length - scored.length} measured ones fail the precondition.`;
    byId("browse-more").hidden = rows.length <= shown;
  };
  const anew = () => { shown = PAGE; list(); };
  const open = () => {
    const [place, claim, number] = decodeURIComponent(location.hash.slice(1)).split("/");
    const index = place === "prompts" ? parts.findIndex((one) => one.claim === claim && String(one.place) === number) : -1;
    if (index < 0) return;
    byId("browse-part").value = index;
    anew();
    byId("prompts").scrollIntoView();
  };
  if (!parts.length) return;
  byId("browse-part").replaceChildren(...parts.map((one, index) => make("option", { value: index }, `${one.claim}: ${one.part}`)));
  form.hidden = byId("browse-rows").hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("input", anew);
  byId("browse-more").addEventListener("click", () => { shown += 4 * PAGE; list(); });
  addEventListener("hashchange", open);
  anew();
  open();
})();
