// The matrix of distances, ordered by cluster; every cell is a pair to look at.

function matrixTab() {
  const view = { component: -1, clustering: state.clustering, log: true, cell: null };
  const canvas = el("canvas", { tabindex: 0, role: "application", class: "heat", "aria-label": "Matrix of distances; arrow keys move, Enter opens the pair" });
  const words = el("div", { class: "heat-words" }, el("p", { class: "muted" }, "Point at a cell to see its images; a click opens the pair."));
  const scale = el("div", {});
  let order = [];
  let values = null;
  const valueOf = (row, column) => values[order[row] * order.length + order[column]];

  function load() {
    const count = losses.positions.length;
    if (view.component >= 0) values = losses.values[view.component];
    else values = Float32Array.from({ length: count * count }, (_, k) => losses.values.reduce((sum, v, c) => sum + v[k] * losses.gains[c], 0));
    const labels = clusterings.length ? clusterings[view.clustering].labels : new Int32Array(N);
    const rank = (k) => { const v = labels[losses.positions[k]]; return v < 0 ? 1e9 - v : v; };
    order = [...losses.positions.keys()].sort((a, b) => rank(a) - rank(b) || a - b);
    draw();
  }

  function draw() {
    const count = order.length;
    const strip = Math.max(2, Math.round(count / 60));
    const side = count + strip;
    const image = new ImageData(side, side);
    const [low, high] = quantiles(values, [0.01, 0.99]);
    const bend = view.log ? (v) => Math.log(Math.max(v, 1e-6)) : (v) => v;
    const [from, to] = [bend(low), bend(high)];
    const put = (x, y, [r, g, b]) => image.data.set([r, g, b, 255], 4 * (y * side + x));
    for (let r = 0; r < count; r++) {
      for (let c = 0; c < count; c++) {
        const v = valueOf(r, c);
        put(c + strip, r + strip, Number.isNaN(v) ? [128, 128, 128] : ramp((bend(v) - from) / (to - from || 1)));
      }
    }
    canvas.width = canvas.height = side;
    const context = canvas.getContext("2d");
    context.putImageData(image, 0, 0);
    if (clusterings.length) drawStrip(context, strip);
    drawCell(context, strip);
    const bar = el("div", { class: "ramp" });
    bar.style.background = `linear-gradient(to right, ${RAMP.join(",")})`;
    const grey = Number.isNaN(values[0]) || values.some(Number.isNaN) ? "grey: undefined, the image of the column has no targets" : "";
    scale.replaceChildren(bar, el("div", { class: "ends" }, el("span", {}, `≤ ${num(low)}`), el("span", { class: "muted" }, grey), el("span", {}, `≥ ${num(high)}`)));
  }

  function drawStrip(context, strip) {
    const colours = groupColours(["", "cluster", clusterings[view.clustering].labels, clusterName]);
    order.forEach((k, r) => {
      context.fillStyle = colours.palette[colours.index[losses.positions[k]]];
      context.fillRect(0, r + strip, strip - 1, 1);
      context.fillRect(r + strip, 0, 1, strip - 1);
    });
  }

  function drawCell(context, strip) {
    if (!view.cell) return;
    const [r, c] = view.cell;
    context.strokeStyle = "#fff";
    context.lineWidth = Math.max(1, order.length / 300);
    context.strokeRect(c + strip - 0.5, r + strip - 0.5, 2, 2);
  }

  function tell() {
    const [r, c] = view.cell;
    const [i, j] = [losses.positions[order[r]], losses.positions[order[c]]];
    const side = (p, name) => el("div", {}, thumbnail(p, 128), el("div", {}, el("strong", {}, `${name}: `), nameOf(p)));
    const names = view.component < 0 ? "total" : losses.components[view.component];
    words.replaceChildren(side(i, "i (row)"), side(j, "j (column)"), el("p", {}, `${names}: D_ij ${num(valueOf(r, c))}, D_ji ${num(valueOf(c, r))}`),
      el("button", { type: "button", onclick: () => openPair(i, j) }, "Open this pair"));
    return [i, j];
  }

  function cellAt(e) {
    const strip = Math.max(2, Math.round(order.length / 60));
    const scaled = canvas.width / canvas.getBoundingClientRect().width;
    const cell = [e.offsetY, e.offsetX].map((v) => Math.floor(v * scaled) - strip);
    return cell.every((v) => v >= 0 && v < order.length) ? cell : null;
  }

  canvas.addEventListener("pointermove", (e) => {
    const cell = cellAt(e);
    if (!cell || (view.cell && cell[0] === view.cell[0] && cell[1] === view.cell[1])) return;
    view.cell = cell;
    tell();
  });
  canvas.addEventListener("click", (e) => { if ((view.cell = cellAt(e))) openPair(...tell()); });
  canvas.addEventListener("keydown", (e) => {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[e.key];
    if (e.key === "Enter" && view.cell) openPair(...tell());
    if (!step) return;
    e.preventDefault();
    view.cell = (view.cell || [0, 0]).map((v, k) => Math.min(order.length - 1, Math.max(0, v + step[k] * (e.shiftKey ? 10 : 1))));
    say(tell().map(nameOf).join(" and "));
    draw();
  });

  const parts = [["-1", "total"], ...losses.components.map((name, c) => [String(c), name])];
  const tools = el("div", { class: "tools" }, select("Loss", parts, "-1", (v) => { view.component = Number(v); load(); }));
  if (clusterings.length) tools.append(select("Order by", clusterings.map((c, k) => [String(k), c.label]), String(view.clustering), (v) => { view.clustering = Number(v); load(); }));
  tools.append(select("Scale", [["log", "logarithmic"], ["linear", "linear"]], "log", (v) => { view.log = v === "log"; draw(); }));
  const sampled = losses.positions.length < N ? ` ${num(losses.positions.length)} of ${num(N)} images, spread evenly over the clusters; every cell is one pair.` : "";
  load();
  return el("div", {}, tools, el("p", { class: "muted" }, `Row i, column j: loss of the raw output of i against the targets of j.${sampled}`),
    el("div", { class: "heat-row" }, el("div", {}, canvas, scale), words));
}
