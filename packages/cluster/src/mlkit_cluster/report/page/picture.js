// Pictures: cells of sheets for all images, larger ones for those that are listed.

const pictures = JSON.parse(document.getElementById("pictures").textContent);
const loaded = new Map();
const INK = { target: "#ff8c1a", pred: "#3fa7ff", gt: "#35d07f" };

// Calls back with the image at once if it is there, later if it must be decoded, never if broken.
function withImage(uri, use) {
  let entry = loaded.get(uri);
  if (!entry) {
    entry = { image: new Image(), waiting: [], ready: false };
    loaded.set(uri, entry);
    entry.image.onload = () => {
      entry.ready = true;
      entry.waiting.splice(0).forEach((f) => f(entry.image));
    };
    entry.image.src = uri;
  }
  if (entry.ready) use(entry.image);
  else entry.waiting.push(use);
}

function shown(p, side) {
  const w = sizes[2 * p] || 1;
  const h = sizes[2 * p + 1] || 1;
  const scale = Math.min(1, side / Math.max(w, h));
  return [Math.max(1, Math.floor(w * scale + 0.5)), Math.max(1, Math.floor(h * scale + 0.5))];
}

const isLarge = (p) => Boolean(pictures.large[p] || pictures.largeFrom);

// Draws image p into a rectangle of a context; `wanted` pixels say which picture is worth it.
function drawPicture(context, p, x, y, w, h, wanted, after) {
  const uri = pictures.large[p] || (pictures.largeFrom && pictures.largeFrom.replace("{id}", ids[p]));
  if (uri && wanted > pictures.cell) {
    withImage(uri, (image) => {
      context.drawImage(image, x, y, w, h);
      if (after) after();
    });
    return;
  }
  if (pictures.cellsFrom) {
    withImage(pictures.cellsFrom.replace("{id}", ids[p]), (image) => {
      context.drawImage(image, x, y, w, h);
      if (after) after();
    });
    return;
  }
  const sheet = pictures.sheets[Math.floor(p / pictures.side ** 2)];
  if (!sheet) return;
  withImage(sheet, (image) => {
    const cell = p % pictures.side ** 2;
    const [cw, ch] = shown(p, pictures.cell);
    const left = (cell % pictures.side) * pictures.cell + Math.floor((pictures.cell - cw) / 2);
    const top = Math.floor(cell / pictures.side) * pictures.cell + Math.floor((pictures.cell - ch) / 2);
    context.drawImage(image, left, top, cw, ch, x, y, w, h);
    if (after) after();
  });
}

function canvasOf(width, height, label) {
  const ratio = Math.min(window.devicePixelRatio || 1, 2);
  const props = { width: Math.round(width * ratio), height: Math.round(height * ratio), role: "img" };
  const canvas = el("canvas", { ...props, "aria-label": label });
  canvas.style.aspectRatio = `${width} / ${height}`;
  const context = canvas.getContext("2d");
  context.scale(ratio, ratio);
  return [canvas, context];
}

// A square thumbnail that holds the whole image.
function thumbnail(p, side = 96) {
  const [canvas, context] = canvasOf(side, side, nameOf(p));
  const [w, h] = [sizes[2 * p] || 1, sizes[2 * p + 1] || 1];
  const scale = side / Math.max(w, h);
  drawPicture(context, p, (side - w * scale) / 2, (side - h * scale) / 2, w * scale, h * scale, side);
  canvas.classList.add("thumb");
  return canvas;
}

// Where image p lies in the square input: x, y, width, height in units of its side.
function inInput(p) {
  const side = data.boxes.side || 1;
  const [w, h] = [sizes[2 * p] || 1, sizes[2 * p + 1] || 1];
  let [ratio, left, top] = letterbox.subarray(3 * p, 3 * p + 3);
  if (!(ratio > 0)) {
    ratio = side / Math.max(w, h);
    [left, top] = [(side - w * ratio) / 2, (side - h * ratio) / 2];
  }
  return [left / side, top / side, Math.round(w * ratio) / side, Math.round(h * ratio) / side];
}

function drawBoxes(context, list, side, colour, dash, width, words) {
  context.lineWidth = width;
  context.strokeStyle = colour;
  context.setLineDash(dash);
  context.font = "600 11px system-ui, sans-serif";
  for (const { box, label, conf } of list) {
    const [x1, y1, x2, y2] = box.map((v) => v * side);
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    if (!words) continue;
    const text = words(label, conf);
    const wide = context.measureText(text).width + 6;
    const top = Math.max(0, y1 - 15);
    context.fillStyle = colour;
    context.fillRect(Math.min(x1, side - wide), top, wide, 15);
    context.fillStyle = "#000";
    context.fillText(text, Math.min(x1, side - wide) + 3, top + 11);
  }
  context.setLineDash([]);
}

// The model's square input with layers of boxes; layers: [{list, colour, dash, width, words}].
function inputPicture(p, side, label, layers) {
  const [canvas, context] = canvasOf(side, side, label);
  const [x, y, w, h] = inInput(p).map((v) => v * side);
  const boxesOnTop = () => layers.forEach((l) => drawBoxes(context, l.list, side, l.colour, l.dash, l.width, l.words));
  context.fillStyle = "#727272";
  context.fillRect(0, 0, side, side);
  boxesOnTop();
  drawPicture(context, p, x, y, w, h, side, boxesOnTop);
  return canvas;
}

const LAYERS = {
  pred: (list) => ({ list, colour: INK.pred, dash: [5, 4], width: 1.5, words: null }),
  named: (list) => ({ list, colour: INK.pred, dash: [], width: 2, words: (c, s) => `${className(c)} ${s.toFixed(2)}` }),
  gt: (list) => ({ list, colour: INK.gt, dash: [2, 3], width: 2, words: null }),
  namedGt: (list) => ({ list, colour: INK.gt, dash: [2, 3], width: 2, words: (c) => className(c) }),
  target: (list) => ({ list, colour: INK.target, dash: [], width: 2.5, words: (c, s) => `${className(c)} ${s.toFixed(2)}` }),
};
