// The panel under the maps: numbers, histograms, grid and table of the selection.

const PAGE = 120;
const panel = { tab: "grid", sort: "", down: true, shown: PAGE, list: [] };

function histogram(column, chosen) {
  const [low, high] = quantiles(column.values, [0, 0.99]);
  const bins = 24;
  const fill = (positions) => {
    const counts = new Float32Array(bins);
    for (const p of positions) {
      const v = column.values[p];
      if (!Number.isNaN(v)) counts[Math.min(bins - 1, Math.max(0, Math.floor(((v - low) / (high - low || 1)) * bins)))]++;
    }
    return counts;
  };
  const all = fill(column.values.keys());
  const own = fill(chosen);
  const mean = (positions) => {
    let [sum, count] = [0, 0];
    for (const p of positions) if (!Number.isNaN(column.values[p])) [sum, count] = [sum + column.values[p], count + 1];
    return count ? sum / count : NaN;
  };
  const words = `mean ${num(mean(chosen))}, all ${num(mean([...column.values.keys()]))}`;
  const [canvas, context] = canvasOf(180, 56, `${column.label}: ${words}`);
  const css = getComputedStyle(document.documentElement);
  // Shares, so that a small selection can be compared with all.
  for (const [counts, ink, alpha] of [[all, css.getPropertyValue("--faint"), 1], [own, css.getPropertyValue("--accent"), 0.75]]) {
    const sum = counts.reduce((a, b) => a + b, 0) || 1;
    const most = Math.max(...all.map((v) => v / (all.reduce((a, b) => a + b, 0) || 1)), ...own.map((v) => v / (own.reduce((a, b) => a + b, 0) || 1)), 1e-9);
    context.fillStyle = ink;
    context.globalAlpha = alpha;
    counts.forEach((v, k) => context.fillRect(k * 7.5 + 0.5, 55, 6.5, (-53 * v) / sum / most));
  }
  const tail = `${num(low)} – ${num(high)}${quantiles(column.values, [1])[0] > high ? "+" : ""}`;
  return el("figure", { class: "hist" }, el("figcaption", {}, el("strong", {}, column.label), el("span", { class: "muted" }, words)), canvas, el("small", { class: "muted" }, tail));
}

function sorted(list) {
  const column = columns.get(panel.sort);
  if (!column) return panel.sort === "path" ? [...list].sort((a, b) => (data.paths[a] < data.paths[b] ? -1 : 1) * (panel.down ? 1 : -1)) : list;
  const worth = (p) => (Number.isNaN(column.values[p]) ? -Infinity : column.values[p] * (panel.down ? 1 : -1));
  return [...list].sort((a, b) => worth(b) - worth(a) || a - b);
}

function card(p, words, around = null) {
  const dot = el("span", { class: "dot" });
  dot.style.background = colourAt(p);
  const button = el("button", { type: "button", class: "card", title: data.paths[p], onclick: () => openImage(p, around || panel.list) },
    thumbnail(p, isLarge(p) ? 128 : 96), el("span", { class: "caption" }, dot, el("span", { class: "grow" }, shortName(p)), words ? el("b", {}, words) : null));
  button.addEventListener("pointerenter", () => setHover(p));
  button.addEventListener("pointerleave", () => setHover(-1));
  return button;
}

function table(list) {
  const heads = [["path", "path"], ...[...columns.values()].map((c) => [c.key, c.label])];
  const head = heads.map(([key, words]) => {
    const button = el("button", { type: "button", class: "sort" }, words + (panel.sort === key ? (panel.down ? " ▾" : " ▴") : ""));
    button.addEventListener("click", () => { [panel.down, panel.sort] = [panel.sort === key ? !panel.down : true, key]; fillPanel(); });
    const order = panel.sort !== key ? null : panel.down === (key !== "path") ? "descending" : "ascending";
    return el("th", { scope: "col", "aria-sort": order }, button);
  });
  const groups = GROUPINGS.slice(0, 3);
  const rows = list.map((p) => el("tr", {},
    el("td", {}, el("button", { type: "button", class: "link", onclick: () => openImage(p, panel.list) }, data.paths[p])),
    ...groups.map(([, , labels, words]) => el("td", {}, words(labels[p]))),
    ...[...columns.values()].map((c) => el("td", { class: "n" }, num(c.values[p])))));
  head.splice(1, 0, ...groups.map(([, words]) => el("th", { scope: "col" }, words)));
  return el("div", { class: "scroll" }, el("table", { class: "rows" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows)));
}

const quoted = (value) => `"${String(value).replaceAll('"', '""')}"`;

// File names are kept as they are, but quoted; unknown numbers are empty.
function csvOf(list) {
  const groups = GROUPINGS.map(([, words, labels, name]) => [words, (p) => quoted(name(labels[p]))]);
  const numbers = [...columns.values()].map((c) => [c.key, (p) => (Number.isNaN(c.values[p]) ? "" : String(c.values[p]))]);
  const fields = [["img_id", (p) => ids[p]], ["path", (p) => quoted(data.paths[p])], ...groups, ...numbers];
  const lines = [fields.map(([name]) => quoted(name)).join(","), ...list.map((p) => fields.map(([, value]) => value(p)).join(","))];
  return `${lines.join("\r\n")}\r\n`;
}

function download(name, text) {
  const link = el("a", { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

const pathsOf = (list) => list.map((p) => (data.paths[p].startsWith("/") || !data.root ? data.paths[p] : `${data.root}/${data.paths[p]}`)).join("\n");

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = el("textarea", {}, text);
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
}

let fillPanel = () => {};

function selectionPanel() {
  const title = el("h2", {});
  const tools = el("div", { class: "tools" });
  const hists = el("div", { class: "hists" });
  const body = el("div", {});
  const copied = el("button", { type: "button" }, "Copy paths");
  copied.addEventListener("click", async () => {
    await copy(pathsOf(current()));
    copied.textContent = "Copied";
    setTimeout(() => { copied.textContent = "Copy paths"; }, 1500);
  });
  const invert = () => setSelection([...ids.keys()].filter((p) => state.visible[p] && !state.selected.has(p)));
  const tab = (key) => el("button", { type: "button", class: "seg", "aria-pressed": String(panel.tab === key), onclick: () => { panel.tab = key; fillPanel(); } }, key);
  const orders = [["", "as in the run"], ["path", "path"], ...[...columns.values()].map((c) => [c.key, c.label])];
  fillPanel = () => {
    const list = (panel.list = sorted(current()));
    const total = state.visible.reduce((a, b) => a + b, 0);
    title.textContent = state.selected.size ? `${num(list.length)} selected of ${num(total)} shown` : `${num(total)} shown of ${num(N)}`;
    tools.replaceChildren(
      copied,
      el("button", { type: "button", onclick: () => download("selection.csv", csvOf(panel.list)) }, "Download CSV"),
      el("button", { type: "button", onclick: invert }, "Invert"),
      el("button", { type: "button", onclick: () => setSelection([]), disabled: !state.selected.size }, "Clear selection"),
      el("span", { class: "push" }),
      select("Sort by", orders, panel.sort, (v) => { [panel.sort, panel.down] = [v, true]; fillPanel(); }),
      el("span", { class: "segs", role: "group", "aria-label": "Show as" }, tab("grid"), tab("table")));
    hists.replaceChildren(...[...columns.values()].filter((c) => c.group === "loss").map((c) => histogram(c, list)));
    const some = list.slice(0, panel.shown);
    body.replaceChildren(panel.tab === "grid" ? el("div", { class: "grid" }, ...some.map((p) => card(p, columns.has(panel.sort) ? num(columns.get(panel.sort).values[p]) : ""))) : table(some));
    if (list.length > some.length) body.append(el("button", { type: "button", class: "wide", onclick: () => { panel.shown += PAGE; fillPanel(); } }, `Show more (${num(list.length - some.length)} left)`));
  };
  let due = 0;
  const later = () => { cancelAnimationFrame(due); panel.shown = PAGE; due = requestAnimationFrame(() => fillPanel()); };
  for (const event of ["selection", "visible", "theme"]) on(event, later);
  return el("section", { class: "panel", "aria-label": "Selection" }, el("div", { class: "panel-head" }, title, tools), hists, body);
}
