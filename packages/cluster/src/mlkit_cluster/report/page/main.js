// Puts the parts together.

const TABS = [["explore", "Explore", exploreTab]];
if (losses && losses.positions && losses.positions.length > 1) TABS.push(["matrix", "Matrix", matrixTab]);
if (clusterings.length) TABS.push(["clusters", "Clusters", clustersTab]);
if (data.lists.length) TABS.push(["findings", "Findings", findingsTab]);
if (N) TABS.push(["pair", "Pair", pairTab]);
TABS.push(["measured", "What was measured", measuredTab]);

const views = [];
let modeButtons = () => {};

function setMode(mode) {
  state.mode = mode;
  modeButtons();
}

function plotTools() {
  const modes = [["pan", "Pan", "v"], ["box", "Box", "b"], ["lasso", "Lasso", "l"]];
  const segs = el("span", { class: "segs", role: "group", "aria-label": "What dragging does" });
  modeButtons = () => {
    segs.replaceChildren(...modes.map(([key, words, letter]) => el("button", {
      type: "button", class: "seg", "aria-pressed": String(state.mode === key), title: `key ${letter}`, onclick: () => setMode(key),
    }, words)));
    views.forEach((v) => { v.top.dataset.mode = state.mode; });
  };
  const every = (use) => () => views.forEach(use);
  return el("div", { class: "tools" }, segs,
    el("button", { type: "button", onclick: every((v) => v.zoom(1.3)), "aria-label": "Zoom in" }, "+"),
    el("button", { type: "button", onclick: every((v) => v.zoom(1 / 1.3)), "aria-label": "Zoom out" }, "−"),
    el("button", { type: "button", onclick: every((v) => v.fit()) }, "Fit"),
    el("span", { class: "muted hint", id: "plot-keys" }, "Drag to select (Shift adds, Alt removes), wheel zooms, click opens. Keys: arrows go from image to image, Space selects, Enter opens, + − 0 zoom, Esc clears."));
}

function exploreTab() {
  const maps = el("div", { class: "maps" });
  const page = el("div", { class: "explore" }, sideBar(), el("div", { class: "stage" }, plotTools(), maps, selectionPanel()));
  for (const number of [0, 1]) {
    const view = new Scatter(number);
    views.push(view);
    maps.append(view.element);
  }
  modeButtons();
  fillPanel();
  return page;
}

const made = new Map();

function showTab(key) {
  const entry = TABS.find(([k]) => k === key) || TABS[0];
  for (const [k, part] of made) part.hidden = k !== entry[0];
  if (!made.has(entry[0])) {
    const part = el("div", { role: "tabpanel", id: `part-${entry[0]}`, "aria-labelledby": `tab-${entry[0]}`, class: "part" }, entry[2]());
    made.set(entry[0], part);
    document.getElementById("main").append(part);
  }
  for (const [k] of TABS) {
    const tab = document.getElementById(`tab-${k}`);
    tab.setAttribute("aria-selected", String(k === entry[0]));
    tab.tabIndex = k === entry[0] ? 0 : -1;
  }
  hideTip();
  window.scrollTo(0, 0);
}

function tabBar() {
  const bar = document.getElementById("tabs");
  bar.append(...TABS.map(([key, words]) => el("button", { type: "button", role: "tab", id: `tab-${key}`, "aria-controls": `part-${key}`, onclick: () => showTab(key) }, words)));
  bar.addEventListener("keydown", (e) => {
    const by = { ArrowLeft: -1, ArrowRight: 1 }[e.key];
    const place = TABS.findIndex(([key]) => `tab-${key}` === document.activeElement.id);
    if (!by || place < 0) return;
    const [key] = TABS[(place + by + TABS.length) % TABS.length];
    showTab(key);
    document.getElementById(`tab-${key}`).focus();
  });
}

function themeButton() {
  const root = document.documentElement;
  document.getElementById("theme").addEventListener("click", () => {
    const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = dark ? "light" : "dark";
    views.forEach((v) => v.draw());
    emit("theme");
  });
}

// A link may name what to open, by img_id: #pair=3,8  #image=3  #select=3,8,9  #tab=matrix
function follow() {
  const [key, value = ""] = decodeURIComponent(location.hash.slice(1)).split("=");
  const places = value.split(",").map((id) => ids.indexOf(Number(id))).filter((p) => p >= 0);
  if (key === "tab") showTab(value);
  if (key === "pair" && places.length === 2) openPair(...places);
  if (key === "image" && places.length) openImage(places[0]);
  if (key === "select" && places.length) setSelection(places);
}

function start() {
  const grouped = GROUPINGS.length ? GROUPINGS[0][0] : [...columns.keys()][0] || "";
  setColour(clusterings.length ? `cluster:${data.firstClustering}` : grouped);
  tabBar();
  themeButton();
  showTab("explore");
  addEventListener("hashchange", follow);
  follow();
}

start();

// For scripts: positions are places in `ids`.
window.mlkitReport = {
  ids, data, columns, views, state, losses, pairLoss, totalOf, openPair, openImage, setSelection, setColour, showTab, current,
  csv: () => csvOf(current()), paths: () => pathsOf(current()), startedAfterMs: performance.now(),
};
