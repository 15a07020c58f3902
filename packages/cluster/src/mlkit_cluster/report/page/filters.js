// The side bar: colour, legend, search, class toggles and ranges decide what is shown.

const filters = { words: "", classes: new Set(), source: "", groups: new Set(), ranges: new Map() };

function classRows(source) {
  return data.classes[source] ? unpack(data.classes[source]) : new Int32Array(0);
}
const classTables = { gt: classRows("gt"), pred: classRows("pred") };

function classCounts(source) {
  const counts = new Map();
  const rows = classTables[source];
  for (let k = 0; k < rows.length; k += 3) counts.set(rows[k + 1], (counts.get(rows[k + 1]) || 0) + 1);
  return [...counts].sort((a, b) => b[1] - a[1] || a[0] - b[0]);
}

// An image is shown if it passes all filters; of several classes any will do.
function applyFilters() {
  const words = filters.words.toLowerCase();
  const any = filters.classes.size > 0;
  const has = new Uint8Array(N);
  if (any) {
    const rows = classTables[filters.source];
    for (let k = 0; k < rows.length; k += 3) if (filters.classes.has(rows[k + 1])) has[rows[k]] = 1;
  }
  const ranges = [...filters.ranges].map(([key, [low, high]]) => [columns.get(key).values, low, high]);
  const grouped = state.colour.kind === "group" && filters.groups.size > 0;
  for (let p = 0; p < N; p++) {
    let shows = !words || data.paths[p].toLowerCase().includes(words) || String(ids[p]) === words;
    shows = shows && (!any || has[p] === 1) && !(grouped && filters.groups.has(state.colour.labels[p]));
    state.visible[p] = shows && ranges.every(([v, low, high]) => v[p] >= low && v[p] <= high) ? 1 : 0;
  }
  emit("visible");
}

function legend() {
  const box = el("div", { class: "legend" });
  const fill = () => {
    const colour = state.colour;
    if (colour.kind === "ramp") {
      const bar = el("div", { class: "ramp" });
      bar.style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
      box.replaceChildren(bar, el("div", { class: "ends" }, el("span", {}, `≤ ${num(colour.low)}`), el("span", {}, `≥ ${num(colour.high)}`)));
    } else if (colour.kind === "group") box.replaceChildren(...colour.entries.slice(0, 60).map(legendEntry));
    else box.replaceChildren();
  };
  on("colour", () => { filters.groups.clear(); fill(); applyFilters(); });
  fill();
  return box;
}

function legendEntry(entry) {
  const dot = el("span", { class: "dot" });
  dot.style.background = entry.colour;
  const button = el("button", { type: "button", class: "entry", "aria-pressed": "true", title: "Show or hide" },
    dot, el("span", { class: "grow" }, entry.words), el("span", { class: "muted" }, num(entry.count)));
  button.addEventListener("click", () => {
    const hidden = filters.groups.has(entry.value);
    if (hidden) filters.groups.delete(entry.value);
    else filters.groups.add(entry.value);
    button.setAttribute("aria-pressed", String(hidden));
    applyFilters();
  });
  return button;
}

function classToggles() {
  const sources = ["gt", "pred"].filter((s) => classTables[s].length);
  if (!sources.length) return null;
  filters.source = sources[0];
  const list = el("div", { class: "chips" });
  const fill = () => list.replaceChildren(...classCounts(filters.source).map(([c, count]) => {
    const chip = el("button", { type: "button", class: "chip", "aria-pressed": String(filters.classes.has(c)) }, className(c), el("small", {}, num(count)));
    chip.addEventListener("click", () => {
      const off = !filters.classes.has(c);
      if (off) filters.classes.add(c);
      else filters.classes.delete(c);
      chip.setAttribute("aria-pressed", String(off));
      applyFilters();
    });
    return chip;
  }));
  const words = { gt: "in labels", pred: "in predictions" };
  const pick = select("Holds any of", sources.map((s) => [s, words[s]]), filters.source, (v) => { filters.source = v; filters.classes.clear(); fill(); applyFilters(); });
  on("reset", fill);
  fill();
  return el("div", {}, pick, list);
}

const TICKS = 200;
function range(column) {
  const [low, high] = quantiles(column.values, [0, 1]);
  const valueAt = (t) => low + ((high - low) * t) / TICKS;
  const words = el("output", {});
  const make = (value, name) => el("input", { type: "range", min: 0, max: TICKS, value, "aria-label": `${name} of ${column.label}` });
  const [from, to] = [make(0, "Least"), make(TICKS, "Greatest")];
  const track = el("div", { class: "range" }, from, to);
  const change = () => {
    const [a, b] = [Number(from.value), Number(to.value)];
    if (a > b) (document.activeElement === from ? from : to).value = document.activeElement === from ? b : a;
    const [x, y] = [Number(from.value), Number(to.value)];
    // At full width an image without this measure is shown too. Ends are widened by rounding's worth.
    if (x === 0 && y === TICKS) filters.ranges.delete(column.key);
    else filters.ranges.set(column.key, [x === 0 ? low : valueAt(x), y === TICKS ? high : valueAt(y)]);
    words.textContent = `${num(valueAt(x))} – ${num(valueAt(y))}`;
    track.style.setProperty("--from", `${(100 * x) / TICKS}%`);
    track.style.setProperty("--to", `${(100 * y) / TICKS}%`);
  };
  for (const input of [from, to]) input.addEventListener("input", () => { change(); applyFilters(); });
  on("reset", () => { [from.value, to.value] = [0, TICKS]; change(); });
  change();
  return el("div", { class: "filter" }, el("div", { class: "filter-head" }, el("span", {}, column.label), words), track);
}

function resetFilters() {
  filters.words = "";
  filters.classes.clear();
  filters.groups.clear();
  filters.ranges.clear();
  emit("reset");
  setColour(state.colourBy);
}

function sideBar() {
  const search = el("input", { type: "search", placeholder: "part of a path, or an img_id", "aria-label": "Search paths" });
  search.addEventListener("input", () => { filters.words = search.value; applyFilters(); });
  on("reset", () => { search.value = ""; });
  const toggles = classToggles();
  const part = (title, ...inner) => el("details", { open: true }, el("summary", {}, title), ...inner);
  const reset = el("button", { type: "button", class: "wide", onclick: resetFilters }, "Reset filters");
  return el("aside", { class: "side", "aria-label": "Colour and filters" },
    part("Colour", select("Colour by", colourOptions(), state.colourBy, setColour), legend()),
    part("Filter", search, toggles, ...[...columns.values()].map(range), reset));
}
