// Two images, each with the targets of the other, and the losses in both directions.

const firstPairs = data.lists.find((l) => l.ends === 2);
const pairPlaces = firstPairs ? firstPairs.rows[0].slice(0, 2) : [0, Math.min(1, N - 1)];
let fillPair = () => {};

function openPair(i, j) {
  [pairPlaces[0], pairPlaces[1]] = [i, j];
  showTab("pair");
  fillPair();
}

function findImage(text) {
  const number = ids.indexOf(Number(text));
  if (text.trim() !== "" && number >= 0) return number;
  return data.paths.findIndex((path) => path.toLowerCase().includes(text.toLowerCase()));
}

function picker(which) {
  const name = "ij"[which];
  const input = el("input", { type: "search", value: String(ids[pairPlaces[which]] ?? ""), "aria-label": `Image ${name}: img_id or part of a path` });
  input.addEventListener("change", () => {
    const found = findImage(input.value);
    if (found < 0) { say("no such image"); input.setAttribute("aria-invalid", "true"); return; }
    pairPlaces[which] = found;
    fillPair();
  });
  return el("label", { class: "field" }, el("span", {}, `image ${name}`), input);
}

// Image a as the model saw it, with the targets of b drawn on it.
function crossPicture(a, b, names) {
  const list = [];
  if (layers.gt) list.push(LAYERS.gt(boxesOf("gt", a)));
  if (layers.pred) list.push(LAYERS.pred(targetsOf(a)));
  const targets = targetsOf(b);
  list.push(LAYERS.target(targets));
  const canvas = inputPicture(a, 440, `Image ${nameOf(a)} with ${targets.length} targets of ${nameOf(b)}`, list);
  const caption = el("figcaption", {},
    el("strong", {}, `D_${names}: raw output of ${names[0]}, targets of ${names[1]}`),
    el("button", { type: "button", class: "link", onclick: () => openImage(a) }, data.paths[a]),
    el("span", { class: "muted" }, `${targets.length} targets of ${names[1]} drawn on ${names[0]}`));
  return el("figure", { class: "cross" }, caption, canvas);
}

function lossTable(i, j) {
  const directions = [["D_ij", i, j], ["D_ji", j, i], ["D_ii", i, i], ["D_jj", j, j]];
  const found = directions.map(([, a, b]) => pairLoss(a, b));
  if (!found[0] && !found[1]) {
    const why = losses.full
      ? "The report holds the losses of a sample of pairs, of neighbours and of listed pairs; this pair is not among them."
      : "This pair is not among the edges that the run computed.";
    return el("p", { class: "note" }, why);
  }
  const cell = (values, c) => el("td", { class: "n" }, values ? decimal(c < 0 ? totalOf(values) : values[c]) : "–");
  const least = (c) => found.slice(0, 2).map((v) => (v ? (c < 0 ? totalOf(v) : v[c]) : NaN));
  const row = (words, c) => {
    const [there, back] = least(c);
    const part = there / (there + back);
    const bar = el("td", { class: "balance", title: "share of D_ij in D_ij + D_ji" }, el("span", { class: "bar" }));
    bar.firstChild.style.width = `${Number.isFinite(part) ? 100 * part : 0}%`;
    return el("tr", {}, el("th", { scope: "row" }, words), cell(found[0], c), bar, ...found.slice(1).map((v) => cell(v, c)));
  };
  const rows = losses.components.map((name, c) => row(`${name} × ${losses.gains[c]}`, c));
  const head = ["component × weight", "D_ij", "D_ij : D_ji", "D_ji", "D_ii", "D_jj"].map((w) => el("th", { scope: "col" }, w));
  const table = el("table", { class: "rows losses", id: "losses" }, el("thead", {}, el("tr", {}, ...head)), el("tbody", {}, ...rows, row("total", -1)));
  const empty = [["i", i], ["j", j]].filter(([, p]) => boxes.pred && !targetsOf(p).length).map(([name]) => name);
  const note = empty.length ? el("p", { class: "note" }, `Image ${empty.join(" and ")} has no targets: box, dfl and the total are undefined there, cls is the loss of the background.`) : null;
  return el("div", {}, el("div", { class: "scroll" }, table), note);
}

function pairTab() {
  const body = el("div", {});
  fillPair = () => {
    const [i, j] = pairPlaces;
    const swap = el("button", { type: "button", onclick: () => openPair(j, i) }, "Swap");
    const target = el("span", { class: "check" }, el("span", { class: "dot" }), "targets of the other image");
    target.firstChild.style.background = INK.target;
    const bar = el("div", { class: "tools" }, picker(0), swap, picker(1), el("span", { class: "push" }), target, ...layerToggles(() => fillPair()));
    const about = el("p", { class: "muted" }, "D_ij is the loss of image i's raw output when the predictions of image j are its targets. Both images are shown as the model saw them, scaled into a grey square: that is where boxes are compared.");
    const small = isLarge(i) && isLarge(j) ? null : el("p", { class: "muted" }, "Of an image that is in no list only a 64 px thumbnail is in the report; it is shown enlarged.");
    const table = losses ? lossTable(i, j) : el("p", { class: "note" }, "This run has no distances.");
    const crosses = el("div", { class: "crosses" }, crossPicture(i, j, "ij"), crossPicture(j, i, "ji"));
    body.replaceChildren(bar, about, el("div", { class: "duel" }, crosses, el("div", { class: "beside" }, table, small, neighbours(i))));
  };
  fillPair();
  return body;
}
