// One image large: its boxes, its numbers, and the images that it fits best.

const layers = { pred: true, gt: true, least: 0 };
let closeImage = () => {};

function layerToggles(change) {
  const made = [];
  const toggle = (key, words, colour) => {
    const box = el("input", { type: "checkbox", checked: layers[key] });
    box.addEventListener("change", () => { layers[key] = box.checked; change(); });
    const dot = el("span", { class: "dot" });
    dot.style.background = colour;
    made.push(el("label", { class: "check" }, box, dot, words));
  };
  if (boxes.pred) toggle("pred", "predictions", INK.pred);
  if (boxes.gt) toggle("gt", "labels", INK.gt);
  return made;
}

// The image in its own shape: boxes come back from the input's square.
function ownPicture(p, width) {
  const [w, h] = [sizes[2 * p] || 1, sizes[2 * p + 1] || 1];
  const scale = width / Math.max(w, h);
  const [canvas, context] = canvasOf(w * scale, h * scale, nameOf(p));
  const [x, y, wide, high] = inInput(p);
  const back = ({ box, ...rest }) => ({
    ...rest, box: box.map((v, k) => ((v - [x, y][k % 2]) / [wide, high][k % 2]) * (k % 2 ? h / w : 1)),
  });
  const side = w * scale;
  const list = [];
  if (layers.gt) list.push(LAYERS.namedGt(boxesOf("gt", p).map(back)));
  if (layers.pred) list.push(LAYERS.named(boxesOf("pred", p).filter((b) => b.conf >= layers.least).map(back)));
  const draw = () => list.forEach((l) => drawBoxes(context, l.list, side, l.colour, l.dash, l.width, l.words));
  draw();
  drawPicture(context, p, 0, 0, w * scale, h * scale, width, draw);
  return canvas;
}

function facts(p) {
  const rows = [["img_id", String(ids[p])], ["path", data.paths[p]], ["size", `${sizes[2 * p]} × ${sizes[2 * p + 1]} px`]];
  for (const [, label, labels, words] of GROUPINGS) rows.push([label, words(labels[p])]);
  for (const c of columns.values()) rows.push([c.label, num(c.values[p])]);
  return el("table", { class: "facts" }, el("tbody", {}, ...rows.map(([k, v]) => el("tr", {}, el("th", { scope: "row" }, k), el("td", {}, v)))));
}

function neighbours(p) {
  if (!losses) return null;
  const found = [...near.subarray(p * data.neighbours, (p + 1) * data.neighbours)].filter((q) => q >= 0);
  if (!found.length) return null;
  const cards = found.map((q) => {
    const values = pairLoss(p, q);
    return el("button", { type: "button", class: "card", title: `Pair with ${data.paths[q]}`, onclick: () => { closeImage(); openPair(p, q); } },
      thumbnail(q, 96), el("span", { class: "caption" }, el("span", { class: "grow" }, shortName(q)), el("b", {}, values ? num(totalOf(values)) : "–")));
  });
  return el("section", {}, el("h3", {}, `Fits the output of ${nameOf(p)} best, by total D_ij`), el("div", { class: "grid small" }, ...cards));
}

function openImage(p, list = null) {
  hideTip();
  const around = list || current();
  const dialog = el("dialog", { class: "detail", "aria-label": `Image ${nameOf(p)}` });
  const fill = () => {
    const place = around.indexOf(p);
    const go = (by) => { if (place >= 0 && around[place + by] !== undefined) { p = around[place + by]; fill(); } };
    dialog.onkeydown = (e) => {
      if (e.target.type === "range") return;
      if (e.key === "ArrowRight") go(1);
      if (e.key === "ArrowLeft") go(-1);
    };
    const least = el("input", { type: "range", min: 0, max: 100, value: 100 * layers.least, "aria-label": "Least confidence drawn" });
    const figure = el("div", { class: "figure" }, ownPicture(p, 640));
    const redraw = () => figure.replaceChildren(ownPicture(p, 640));
    least.addEventListener("input", () => { layers.least = least.value / 100; redraw(); });
    const from = boxes.pred ? el("label", { class: "check" }, "from confidence", least) : null;
    const small = isLarge(p) ? null : el("p", { class: "muted" }, "Only a 64 px thumbnail of this image is in the report; it is shown enlarged.");
    const head = el("div", { class: "detail-head" }, el("h2", {}, nameOf(p)), el("span", { class: "push" }),
      el("button", { type: "button", onclick: () => go(-1), disabled: place <= 0, "aria-label": "Previous image" }, "←"),
      el("button", { type: "button", onclick: () => go(1), disabled: place < 0 || place >= around.length - 1, "aria-label": "Next image" }, "→"),
      losses ? el("button", { type: "button", onclick: () => { closeImage(); openPair(p, pairPlaces[1] === p ? pairPlaces[0] : pairPlaces[1]); } }, "Compare…") : null,
      el("button", { type: "button", onclick: () => closeImage(), "aria-label": "Close" }, "✕"));
    dialog.replaceChildren(head, el("div", { class: "detail-body" },
      el("div", {}, figure, el("div", { class: "tools" }, ...layerToggles(redraw), from), small, neighbours(p)), facts(p)));
  };
  closeImage = () => dialog.close();
  dialog.addEventListener("close", () => dialog.remove());
  dialog.addEventListener("click", (e) => { if (e.target === dialog) dialog.close(); });
  fill();
  document.body.append(dialog);
  dialog.showModal();
}
