// The tip that follows the pointer: a thumbnail, the name, the numbers.

function describe(p) {
  const groups = GROUPINGS.map(([, , labels, words]) => words(labels[p]));
  const numbers = [...columns.values()].filter((c) => c.group !== "count" && !Number.isNaN(c.values[p]));
  return [nameOf(p), ...new Set(groups), ...numbers.slice(0, 6).map((c) => `${c.label} ${num(c.values[p])}`)].join(", ");
}

function showTip(p, x, y) {
  const tip = document.getElementById("tip");
  if (tip.dataset.p !== String(p)) {
    tip.dataset.p = p;
    const rows = [...columns.values()].map((c) => el("tr", {}, el("th", {}, c.label), el("td", {}, num(c.values[p]))));
    const groups = [...new Set(GROUPINGS.slice(0, 4).map(([, , labels, words]) => words(labels[p])))];
    const words = el("div", {}, el("strong", {}, nameOf(p)), el("span", { class: "muted" }, `#${ids[p]}  ${groups.join(" · ")}`), el("table", { class: "numbers" }, ...rows.slice(0, 9)));
    tip.replaceChildren(thumbnail(p, 128), words);
  }
  tip.hidden = false;
  const { offsetWidth: w, offsetHeight: h } = tip;
  tip.style.left = `${Math.max(4, x + 18 + w > innerWidth ? x - w - 18 : x + 18)}px`;
  tip.style.top = `${Math.max(4, Math.min(y + 14, innerHeight - h - 6))}px`;
}

function hideTip() {
  document.getElementById("tip").hidden = true;
}
