// Clusters, lists of findings, and what was measured.

function bars(rows) {
  // Each component on a scale of its own: they differ by orders of magnitude.
  const bar = (value, kind, most) => {
    const made = el("span", { class: `bar ${kind}` });
    made.style.width = `${Number.isFinite(value) ? (100 * value) / most : 0}%`;
    return made;
  };
  return el("table", { class: "profile" }, ...rows.map(([name, own, all]) => el("tr", {},
    el("th", { scope: "row" }, name), el("td", { class: "bars" }, bar(own, "own", Math.max(own || 0, all || 0)), bar(all, "all", Math.max(own || 0, all || 0))),
    el("td", { class: "n" }, num(own)), el("td", { class: "n muted" }, num(all)))));
}

function clusterSheet(sheet, k, overall) {
  const labels = clusterings[k].labels;
  const members = [...labels.keys()].filter((p) => labels[p] === sheet.label);
  const dot = el("span", { class: "dot" });
  const colours = groupColours(["", "cluster", labels, clusterName]);
  dot.style.background = colours.palette[colours.index[sheet.medoid]];
  const choose = () => { showTab("explore"); setSelection(members); };
  const profile = Object.entries(sheet.profile).map(([name, v]) => [name, v ?? NaN, overall[name]]).filter(([, a, b]) => Number.isFinite(a) || Number.isFinite(b));
  const within = Object.entries(sheet.within).filter(([, v]) => v !== null).map(([name, v]) => `${name} ${num(v)}`).join(", ");
  const counts = new Map();
  for (const p of members) if (flags.cat[p] >= 0) counts.set(flags.cat[p], (counts.get(flags.cat[p]) || 0) + 1);
  const mix = [...counts].sort((a, b) => b[1] - a[1]).slice(0, 4).map(([c, n]) => `${className(c)} ${Math.round((100 * n) / members.length)} %`).join(", ");
  return el("article", { class: "sheet" },
    el("header", {}, dot, el("h3", {}, clusterName(sheet.label)), el("span", { class: "muted" }, `${num(sheet.size)} images${mix ? ` · ${mix}` : ""}`), el("span", { class: "push" }), el("button", { type: "button", onclick: choose }, "Select in the maps")),
    el("div", { class: "sheet-body" },
      el("div", { class: "medoid" }, card(sheet.medoid, "medoid", members)),
      el("div", { class: "grid small" }, ...sheet.members.map((p) => card(p, "", members))),
      el("div", {}, profile.length ? el("div", {}, el("small", { class: "muted" }, "own losses: median of the cluster, of all"), bars(profile)) : "", within ? el("p", { class: "muted" }, `between members, median: ${within}`) : "")));
}

function clustersTab() {
  const body = el("div", {});
  const overall = {};
  for (const name of ["box", "cls", "dfl", "seg"]) {
    const column = columns.get(`${name}_loss`);
    overall[name] = column ? quantiles(column.values, [0.5])[0] : NaN;
  }
  const fill = (k) => body.replaceChildren(...(data.sheets[clusterings[k].id] || []).map((s) => clusterSheet(s, k, overall)));
  fill(state.clustering);
  const options = clusterings.map((c, k) => [String(k), c.label]);
  return el("div", {}, el("div", { class: "tools" }, select("Clustering", options, String(state.clustering), (v) => fill(Number(v)))), body);
}

function pairCard(i, j, score, words) {
  const values = [pairLoss(i, j), pairLoss(j, i)].map((v) => (v ? num(totalOf(v)) : "–"));
  return el("button", { type: "button", class: "card twin", title: `${data.paths[i]} and ${data.paths[j]}`, onclick: () => openPair(i, j) },
    el("span", { class: "two" }, thumbnail(i, 128), thumbnail(j, 128)),
    el("span", { class: "caption" }, el("span", { class: "grow" }, `${shortName(i)} · ${shortName(j)}`), el("b", {}, words || decimal(score))),
    losses ? el("span", { class: "caption muted" }, `D_ij ${values[0]}, D_ji ${values[1]}`) : null);
}

function imageCard(p, score, words, around) {
  const button = card(p, decimal(score), around);
  if (words) button.append(el("span", { class: "caption muted" }, words));
  return button;
}

function listSection(list) {
  const twin = list.ends === 2;
  const shownImages = list.rows.map((r) => r[0]);
  const body = el("div", { class: twin ? "grid twins" : "grid" });
  const fill = (count) => {
    body.replaceChildren(...list.rows.slice(0, count).map((r) => (twin ? pairCard(...r) : imageCard(...r, shownImages))));
    if (list.rows.length > count) body.append(el("button", { type: "button", class: "wide", onclick: () => fill(list.rows.length) }, `Show all ${list.rows.length}`));
  };
  fill(12);
  const chosen = () => { showTab("explore"); setSelection(list.rows.flatMap((r) => r.slice(0, list.ends))); };
  return el("section", { class: "finding", id: `list-${list.key}` },
    el("header", {}, el("h2", {}, list.title), el("span", { class: "push" }), el("button", { type: "button", onclick: chosen }, "Select in the maps")),
    el("p", { class: "muted" }, `${list.about} Number shown: ${list.score}.`), body);
}

function findingsTab() {
  const { lists } = data;
  const jump = (key) => () => document.getElementById(`list-${key}`).scrollIntoView({ block: "start" });
  const links = lists.map((l) => el("button", { type: "button", class: "chip", onclick: jump(l.key) }, l.title));
  return el("div", {}, el("div", { class: "chips" }, ...links), ...lists.map(listSection));
}

// ---- what was measured ----

const isPlain = (v) => v === null || typeof v !== "object";

// Small nested values on one line: lists by commas, mappings as "name value".
function inWords(v) {
  if (isPlain(v)) return typeof v === "number" ? num(v) : String(v ?? "–");
  if (Array.isArray(v)) return v.map(inWords).join(", ") || "–";
  return Object.entries(v).map(([k, w]) => `${k} ${inWords(w)}`).join(", ") || "–";
}

function tableOf(rows) {
  const keys = [...new Set(rows.flatMap(Object.keys))];
  const cell = (v) => el("td", { class: typeof v === "number" ? "n" : "" }, inWords(v));
  return el("div", { class: "scroll" }, el("table", { class: "rows" },
    el("thead", {}, el("tr", {}, ...keys.map((k) => el("th", { scope: "col" }, k.replaceAll("_", " "))))),
    el("tbody", {}, ...rows.map((r) => el("tr", {}, ...keys.map((k) => cell(k in r ? r[k] : null)))))));
}

// Any nested values as tables: mappings of mappings become rows, the rest pairs of name and value.
function nested(value, title = "") {
  const head = title ? [el("h4", {}, title.replaceAll("_", " "))] : [];
  if (isPlain(value)) return el("div", {}, ...head, el("p", {}, inWords(value)));
  if (Array.isArray(value)) {
    if (value.length && value.every((v) => !isPlain(v) && !Array.isArray(v))) return el("div", {}, ...head, tableOf(value));
    return el("div", {}, ...head, el("p", {}, inWords(value)));
  }
  const entries = Object.entries(value);
  const flat = entries.filter(([, v]) => isPlain(v));
  const deep = entries.filter(([, v]) => !isPlain(v));
  const alike = deep.length > 1 && deep.every(([, v]) => !Array.isArray(v) && Object.values(v).every(isPlain));
  const parts = flat.length ? [factTable(flat)] : [];
  if (alike) parts.push(tableOf(deep.map(([k, v]) => ({ name: k, ...v }))));
  else parts.push(...deep.map(([k, v]) => nested(v, k)));
  return el("div", {}, ...head, ...parts);
}

function factTable(rows) {
  return el("table", { class: "facts" }, el("tbody", {}, ...rows.map(([k, v]) => el("tr", {}, el("th", { scope: "row" }, k.replaceAll("_", " ")), el("td", {}, inWords(v))))));
}

function measuredTab() {
  const told = data.measured;
  const block = (title, ...inner) => el("section", { class: "finding" }, el("h2", {}, title), ...inner);
  const made = [block("The run", factTable(told.facts)), ...told.models.map((m) => block(m.title, factTable(m.facts)))];
  const named = (list, title) => list.length && made.push(block(title, factTable(list.map(({ id, params }) => [id, params]))));
  named(told.clusterings, "Clusterings");
  named(told.projections, "Projections");
  for (const e of told.evaluations) made.push(block(`Evaluation ${e.id}`, nested(e.params), nested(e.scores)));
  if (told.failed.length) made.push(block("Images that could not be read", tableOf(told.failed.map(([path, error]) => ({ path, error })))));
  return el("div", {}, ...made);
}
