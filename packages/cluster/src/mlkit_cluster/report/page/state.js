// What is shown, selected and coloured; parts listen to changes.

const state = {
  visible: new Uint8Array(N).fill(1),
  selected: new Set(),
  hovered: -1,
  mode: "lasso",
  clustering: data.firstClustering,
  colourBy: "",
  colour: null, // {index: Uint8Array, palette, kind, entries | range, label}
};
const listeners = {};
const on = (event, use) => (listeners[event] = listeners[event] || []).push(use);
const emit = (event) => (listeners[event] || []).forEach((use) => use());

const NOISE = "#9aa0a6";
const HUES = ["#4e9af1", "#f28e2b", "#43b581", "#e15759", "#b07aa1", "#d4a72c", "#2fb8c5", "#ff85a1",
  "#9c755f", "#7a7ff0", "#8cb83f", "#c2589a"];
const hue = (k) => (k < HUES.length ? HUES[k] : `hsl(${Math.round((k * 137.508) % 360)} 62% 56%)`);
const STOPS = [[68, 1, 84], [71, 44, 122], [59, 81, 139], [44, 113, 142], [33, 144, 141], [39, 173, 129],
  [92, 200, 99], [170, 220, 50], [253, 231, 37]];

function ramp(t) {
  const at = Math.min(Math.max(t, 0), 1) * (STOPS.length - 1);
  const k = Math.min(Math.floor(at), STOPS.length - 2);
  return STOPS[k].map((v, c) => Math.round(v + (at - k) * (STOPS[k + 1][c] - v)));
}
const STEPS = 48;
const RAMP = Array.from({ length: STEPS }, (_, k) => `rgb(${ramp(k / (STEPS - 1)).join(",")})`);

function quantiles(values, marks) {
  const known = Float32Array.from(values).filter((v) => Number.isFinite(v)).sort();
  return marks.map((m) => (known.length ? known[Math.round(m * (known.length - 1))] : NaN));
}

const clusterName = (label) => (label === -2 ? "not clustered" : label === -1 ? "noise" : `cluster ${label}`);

function groupings() {
  const made = clusterings.map((c, k) => [`cluster:${k}`, `cluster: ${c.label}`, c.labels, clusterName]);
  const known = (labels) => labels.some((v) => v >= 0);
  if (known(flags.cat)) made.push(["cat", "category", flags.cat, (c) => (c < 0 ? "no label" : className(c))]);
  if (known(flags.supercat)) {
    const words = (c) => (c < 0 ? "no label" : data.supernames[c] || `group ${c}`);
    made.push(["supercat", "supercategory", flags.supercat, words]);
  }
  if (data.splits) {
    const names = [...new Set(data.splits)];
    made.push(["split", "split", Int32Array.from(data.splits, (s) => names.indexOf(s)), (k) => names[k] || "none"]);
  }
  return made;
}
const GROUPINGS = groupings();

function colourOptions() {
  const made = GROUPINGS.map(([key, words]) => [key, words]);
  for (const c of columns.values()) made.push([c.key, c.label]);
  return made.length ? made : [["", "nothing"]];
}

function groupColours([, label, labels, words]) {
  const counts = new Map();
  for (const v of labels) counts.set(v, (counts.get(v) || 0) + 1);
  const byCount = label.startsWith("cluster") ? (a, b) => a - b : (a, b) => counts.get(b) - counts.get(a) || a - b;
  const order = [...counts.keys()].filter((v) => v >= 0).sort(byCount);
  order.push(...[...counts.keys()].filter((v) => v < 0).sort((a, b) => b - a));
  const place = new Map(order.map((v, k) => [v, Math.min(k, 65535)]));
  const entries = order.map((v, k) => ({ value: v, words: words(v), count: counts.get(v), colour: v < 0 ? NOISE : hue(k) }));
  return { kind: "group", label, labels, entries, palette: entries.map((e) => e.colour), index: Uint16Array.from(labels, (v) => place.get(v)) };
}

function rampColours(column) {
  const [low, high] = quantiles(column.values, [0.02, 0.98]);
  const span = high - low || 1;
  const index = Uint16Array.from(column.values, (v) =>
    Number.isNaN(v) ? STEPS : Math.min(STEPS - 1, Math.max(0, Math.floor(((v - low) / span) * STEPS))));
  return { kind: "ramp", label: column.label, low, high, palette: [...RAMP, NOISE], index };
}

function setColour(key) {
  state.colourBy = key;
  const group = GROUPINGS.find(([k]) => k === key);
  if (group) state.colour = groupColours(group);
  else if (columns.has(key)) state.colour = rampColours(columns.get(key));
  else state.colour = { kind: "none", label: "", palette: [HUES[0]], index: new Uint16Array(N) };
  if (key.startsWith("cluster:")) state.clustering = Number(key.slice(8));
  emit("colour");
}
const colourAt = (p) => state.colour.palette[state.colour.index[p]];

function setSelection(positions, how = "replace") {
  const next = how === "replace" ? new Set() : new Set(state.selected);
  for (const p of positions) how === "subtract" ? next.delete(p) : next.add(p);
  state.selected = next;
  emit("selection");
  say(`${next.size} images selected`);
}

function setHover(p) {
  if (state.hovered === p) return;
  state.hovered = p;
  emit("hover");
}

// The images that tables, histograms and downloads are about: the selection, else all shown.
function current() {
  const made = [];
  const any = state.selected.size > 0;
  for (let p = 0; p < N; p++) if (state.visible[p] && (!any || state.selected.has(p))) made.push(p);
  return made;
}
