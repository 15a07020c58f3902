// The page's data, unpacked. All files of this folder are joined, in order, inside one function.

const data = JSON.parse(document.getElementById("data").textContent);
const N = data.n;
const ARRAYS = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };
let halves = null;

function bytesOf(text) {
  const raw = atob(text);
  const bytes = new Uint8Array(raw.length);
  for (let k = 0; k < raw.length; k++) bytes[k] = raw.charCodeAt(k);
  return bytes;
}

function halfTable() {
  const table = new Float32Array(65536);
  for (let bits = 0; bits < 65536; bits++) {
    const sign = bits & 0x8000 ? -1 : 1;
    const exponent = (bits >> 10) & 31;
    const rest = bits & 1023;
    if (exponent === 31) table[bits] = rest ? NaN : sign * Infinity;
    else if (exponent) table[bits] = sign * 2 ** (exponent - 15) * (1 + rest / 1024);
    else table[bits] = sign * 2 ** -14 * (rest / 1024);
  }
  return table;
}

function unpack(packed) {
  const bytes = bytesOf(packed.b);
  if (packed.t !== "f2") return new ARRAYS[packed.t](bytes.buffer);
  halves = halves || halfTable();
  const short = new Uint16Array(bytes.buffer);
  return Float32Array.from(short, (bits) => halves[bits] * packed.s);
}

const ids = unpack(data.ids);
const sizes = unpack(data.sizes);
const letterbox = unpack(data.letterbox);
const columns = new Map(
  data.columns.map((c) => [c.key, { ...c, values: unpack(c.values) }]),
);
const flags = { cat: unpack(data.flags.cat), supercat: unpack(data.flags.supercat) };
const clusterings = data.clusterings.map((c) => ({
  ...c, labels: unpack(c.labels), prob: unpack(c.prob), silhouette: unpack(c.silhouette),
}));
const projections = data.projections.map((p) => ({ ...p, x: unpack(p.x), y: unpack(p.y) }));
const near = unpack(data.near);

function unpackBoxes(packed) {
  if (!packed) return null;
  const made = { cut: packed.cut };
  for (const name of ["starts", "xyxy", "classes", "conf"]) made[name] = unpack(packed[name]);
  return made;
}
const boxes = { pred: unpackBoxes(data.boxes.pred), gt: unpackBoxes(data.boxes.gt) };

// Boxes of an image in units of the input's side: {box: [x1, y1, x2, y2], label, conf}.
function boxesOf(source, p) {
  const all = boxes[source];
  if (!all) return [];
  const made = [];
  for (let k = all.starts[p]; k < all.starts[p + 1]; k++) {
    const box = Array.from(all.xyxy.subarray(4 * k, 4 * k + 4), (v) => v / 65535);
    made.push({ box, label: all.classes[k], conf: all.conf[k] / 65535 });
  }
  return made;
}

const targetsOf = (p) => boxesOf("pred", p).filter((b) => b.conf >= (data.boxes.targetConf || 0) - 1e-5);
const className = (c) => data.names[c] || `class ${c}`;

// Losses of pairs: pairLoss(i, j) is one number for each component, or null where unknown.
const losses = unpackPairs(data.pairs);

function unpackPairs(packed) {
  if (!packed) return null;
  const made = { components: packed.components, full: packed.full, at: null, table: null };
  made.gains = packed.components.map((c) => packed.gains[c]);
  if (packed.matrix) {
    made.positions = unpack(packed.matrix.positions);
    made.values = packed.matrix.values.map(unpack);
    made.at = new Int32Array(N).fill(-1);
    made.positions.forEach((p, k) => { made.at[p] = k; });
  }
  if (packed.table) {
    const i = unpack(packed.table.i);
    const j = unpack(packed.table.j);
    made.tableValues = unpack(packed.table.values);
    made.table = new Map();
    for (let k = 0; k < i.length; k++) {
      made.table.set(i[k] * N + j[k], 4 * k);
      made.table.set(j[k] * N + i[k], 4 * k + 1);
      made.table.set(i[k] * N + i[k], 4 * k + 2);
      made.table.set(j[k] * N + j[k], 4 * k + 3);
    }
  }
  return made;
}

function pairLoss(i, j) {
  if (!losses) return null;
  const count = losses.components.length;
  const row = losses.table ? losses.table.get(i * N + j) : undefined;
  if (row !== undefined) {
    const values = Array.from(losses.tableValues.subarray(row * count, (row + 1) * count));
    if (!values.every(Number.isNaN)) return values;
  }
  if (!losses.at || losses.at[i] < 0 || losses.at[j] < 0) return null;
  const cell = losses.at[i] * losses.positions.length + losses.at[j];
  return losses.values.map((v) => v[cell]);
}

const totalOf = (values) => values.reduce((sum, v, c) => sum + v * losses.gains[c], 0);

// ---- words and elements ----

function el(tag, props = {}, ...children) {
  const node = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "class") node.className = value;
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.filter((c) => c !== null && c !== undefined).map(asNode));
  return node;
}
const asNode = (child) => (child instanceof Node ? child : document.createTextNode(String(child)));

function num(value) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value)) return value.toLocaleString("en");
  const size = Math.abs(value);
  return size >= 1000 ? value.toFixed(0) : size >= 0.01 || !size ? value.toPrecision(3) : value.toExponential(1);
}
const decimal = (value) => (Number.isInteger(value) && value < 1000 ? value.toPrecision(3) : num(value));
const nameOf = (p) => data.paths[p].split("/").pop();
// Ends tell names of one folder apart, so it is the middle that goes.
function shortName(p) {
  const name = nameOf(p).replace(/\.[a-z]{3,4}$/i, "");
  return name.length > 14 ? `${name.slice(0, 3)}…${name.slice(-8)}` : name;
}
const say = (text) => { document.getElementById("said").textContent = text; };

function select(label, options, value, onchange, props = {}) {
  const box = el("select", { onchange: () => onchange(box.value), ...props });
  for (const [key, words] of options) box.append(el("option", { value: key }, words));
  box.value = value;
  return el("label", { class: "field" }, el("span", {}, label), box);
}
