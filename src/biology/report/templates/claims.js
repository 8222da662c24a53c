// Judges the parts of claims again at another threshold, by the registered rule (claims.rule) and from the numbers in the page.
"use strict";
(() => {
  const source = document.getElementById("claims-data");
  if (!source) return;
  const { alpha, order, marks, model, claims } = JSON.parse(source.textContent);

  const rule = (part, threshold, p) => {
    let absent, shown;
    if (part.direction === "equivalent") {
      absent = part.low > threshold || part.high < -threshold;
      shown = -threshold <= part.low && part.high <= threshold;
    } else {
      absent = part.high < threshold / 2;
      shown = part.statistic >= threshold && part.low > threshold / 2;
    }
    if (absent) return "not replicated";
    return shown && p < alpha && part.checks ? "replicated" : "inconclusive";
  };
  const verdict = (part, index) => rule(part, part.thresholds[index], part.p[part.p.length > 1 ? index : 0]);
  const weakest = (verdicts) => verdicts.reduce((a, b) => (order.indexOf(b) < order.indexOf(a) ? b : a));
  window.biologyRule = rule;
  window.biologyWeakest = weakest;
  window.biologyVerdict = (claim, index) =>  // index: { part number: place on its grid }, others as registered
    weakest(claims[claim].map((part, i) => (i in index ? verdict(part, index[i]) : part.verdict)));

  const badge = (text) => {
    const made = document.createElement("span");
    made.className = "badge " + text.replace(" ", "-");
    made.textContent = marks[text] + " " + text;
    return made;
  };
  for (const box of document.querySelectorAll(".whatif")) {
    const parts = claims[box.dataset.claim];
    const place = parts.findIndex((part) => part.name === box.dataset.part);
    const part = parts[place];
    const slider = box.querySelector("input");
    const output = box.querySelector("output");
    const line = box.parentElement.querySelector(".yours");
    box.querySelector("label").hidden = false;
    const show = () => {
      const index = Number(slider.value), threshold = part.thresholds[index];
      const [left, right] = part.axis;
      const x = (100 * (threshold - left)) / (right - left) + "%";
      line.setAttribute("x1", x);
      line.setAttribute("x2", x);
      const registered = index === part.registered;
      line.classList.toggle("moved", !registered);
      slider.setAttribute("aria-valuetext", `${threshold}: ${verdict(part, index)}`);
      output.replaceChildren();
      if (registered) {
        output.append("the registered threshold");
        return;
      }
      output.append(`${threshold}: part `, badge(verdict(part, index)));
      if (parts.length > 1) output.append(" claim ", badge(window.biologyVerdict(box.dataset.claim, { [place]: index })));
      const code = document.createElement("code");
      code.textContent = `biology judge --model ${model} --threshold "${part.key}=${threshold}"`;
      output.append(" ", code);
    };
    slider.addEventListener("input", show);
    show();
  }
})();
