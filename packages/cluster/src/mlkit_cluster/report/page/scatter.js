// A scatter plot of all shown images: pan, zoom, lasso, box, hover, keyboard.

const MEASURES = "measures";

function insidePolygon(x, y, points) {
  let inside = false;
  for (let a = 0, b = points.length - 1; a < points.length; b = a++) {
    const [ax, ay] = points[a];
    const [bx, by] = points[b];
    if (ay > y !== by > y && x < ((bx - ax) * (y - ay)) / (by - ay) + ax) inside = !inside;
  }
  return inside;
}

class Scatter {
  constructor(number) {
    this.number = number;
    this.source = projections[Math.min(number, projections.length - 1)].id;
    const keys = [...columns.keys()];
    this.axes = [keys[0] || "", keys[Math.min(1, keys.length - 1)] || ""];
    this.base = el("canvas", { "aria-hidden": "true" });
    this.top = el("canvas", {
      tabindex: 0, role: "application", "aria-describedby": "plot-keys",
      "aria-label": `Map ${number + 1} of the images`,
    });
    this.axisRow = el("span", { class: "axes" });
    const options = projections.map((p) => [p.id, p.label]);
    if (keys.length > 1) options.push([MEASURES, "two measures…"]);
    const picker = select(`Map ${number + 1}`, options, this.source, (v) => this.show(v));
    this.plot = el("div", { class: "plot" }, this.base, this.top);
    this.element = el("section", { class: "view" }, el("div", { class: "view-head" }, picker, this.axisRow), this.plot);
    this.size = [10, 10];
    this.path = null;
    this.cursor = -1;
    new ResizeObserver(() => this.resize()).observe(this.plot);
    this.listen();
    this.show(this.source);
  }

  show(source) {
    this.source = source;
    const pick = (axis) => {
      const options = [...columns.values()].map((c) => [c.key, c.label]);
      return select("xy"[axis], options, this.axes[axis], (v) => { this.axes[axis] = v; this.load(); });
    };
    this.axisRow.replaceChildren(...(source === MEASURES ? [pick(0), pick(1)] : []));
    this.load();
  }

  load() {
    const stored = projections.find((p) => p.id === this.source);
    const [x, y] = stored ? [stored.x, stored.y] : this.axes.map((a) => columns.get(a).values);
    this.x = x;
    this.y = y;
    this.equal = Boolean(stored); // a map's axes share one scale, two measures do not
    this.fit();
  }

  fit() {
    const known = [];
    for (let p = 0; p < N; p++) if (Number.isFinite(this.x[p]) && Number.isFinite(this.y[p])) known.push(p);
    const bounds = (values) => known.reduce(([a, b], p) => [Math.min(a, values[p]), Math.max(b, values[p])], [Infinity, -Infinity]);
    const [x0, x1] = known.length ? bounds(this.x) : [0, 1];
    const [y0, y1] = known.length ? bounds(this.y) : [0, 1];
    const room = this.size.map((s) => Math.max(s - 2 * 18, 10));
    let kx = room[0] / (x1 - x0 || 1);
    let ky = room[1] / (y1 - y0 || 1);
    if (this.equal) kx = ky = Math.min(kx, ky);
    this.view = { kx, ky, tx: this.size[0] / 2 - (kx * (x0 + x1)) / 2, ty: this.size[1] / 2 + (ky * (y0 + y1)) / 2 };
    this.draw();
  }

  resize() {
    const { width, height } = this.plot.getBoundingClientRect();
    if (!width || !height) return;
    this.size = [width, height];
    const ratio = Math.min(window.devicePixelRatio || 1, 2);
    for (const canvas of [this.base, this.top]) {
      canvas.width = Math.round(width * ratio);
      canvas.height = Math.round(height * ratio);
      canvas.getContext("2d").setTransform(ratio, 0, 0, ratio, 0, 0);
    }
    this.fit();
  }

  at(p) {
    return [this.view.kx * this.x[p] + this.view.tx, -this.view.ky * this.y[p] + this.view.ty];
  }

  draw() {
    const context = this.base.getContext("2d");
    context.clearRect(0, 0, ...this.size);
    const groups = new Map();
    const any = state.selected.size > 0;
    for (let p = 0; p < N; p++) {
      if (!state.visible[p] || Number.isNaN(this.x[p]) || Number.isNaN(this.y[p])) continue;
      const key = state.colour.index[p] * 2 + (!any || state.selected.has(p) ? 1 : 0);
      const group = groups.get(key);
      if (group) group.push(p);
      else groups.set(key, [p]);
    }
    const order = [...groups.keys()].sort((a, b) => (a % 2) - (b % 2) || b - a);
    for (const key of order) this.dots(context, groups.get(key), state.colour.palette[key >> 1], key % 2);
    this.drawTop();
  }

  dots(context, points, colour, bright) {
    const r = N > 20000 ? 1.5 : N > 3000 ? 2.4 : N > 400 ? 3.4 : 5;
    context.globalAlpha = bright ? 0.85 : 0.14;
    context.fillStyle = colour;
    context.beginPath();
    for (const p of points) {
      const [x, y] = this.at(p);
      if (x < -r || y < -r || x > this.size[0] + r || y > this.size[1] + r) continue;
      if (N > 20000) context.rect(x - r, y - r, 2 * r, 2 * r);
      else {
        context.moveTo(x + r, y);
        context.arc(x, y, r, 0, 7);
      }
    }
    context.fill();
    context.globalAlpha = 1;
  }

  drawTop() {
    const context = this.top.getContext("2d");
    context.clearRect(0, 0, ...this.size);
    const ink = getComputedStyle(document.documentElement).getPropertyValue("--ink");
    const ring = (p, r) => {
      const [x, y] = this.at(p);
      context.beginPath();
      context.arc(x, y, r, 0, 7);
      context.stroke();
    };
    context.strokeStyle = ink;
    context.lineWidth = 2;
    if (state.hovered >= 0) ring(state.hovered, 8);
    if (this.cursor >= 0 && document.activeElement === this.top) ring(this.cursor, 11);
    if (!this.path) return;
    context.setLineDash([5, 4]);
    context.lineWidth = 1.5;
    context.beginPath();
    this.path.forEach(([x, y], k) => (k ? context.lineTo(x, y) : context.moveTo(x, y)));
    context.closePath();
    context.globalAlpha = 0.12;
    context.fillStyle = ink;
    context.fill();
    context.globalAlpha = 1;
    context.stroke();
    context.setLineDash([]);
  }

  // The nearest shown image within some pixels, or -1.
  nearest(x, y, within = 12) {
    let best = -1;
    let least = within * within;
    for (let p = 0; p < N; p++) {
      if (!state.visible[p]) continue;
      const [px, py] = this.at(p);
      const apart = (px - x) ** 2 + (py - y) ** 2;
      if (apart < least) [best, least] = [p, apart];
    }
    return best;
  }

  // Selects the shown images inside a polygon of pixels.
  enclose(points, how) {
    const found = [];
    for (let p = 0; p < N; p++) if (state.visible[p] && insidePolygon(...this.at(p), points)) found.push(p);
    setSelection(found, how);
  }

  zoom(factor, x = this.size[0] / 2, y = this.size[1] / 2) {
    const view = this.view;
    view.kx *= factor;
    view.ky *= factor;
    view.tx = x - (x - view.tx) * factor;
    view.ty = y - (y - view.ty) * factor;
    this.draw();
  }

  pan(dx, dy) {
    this.view.tx += dx;
    this.view.ty += dy;
    this.draw();
  }

  listen() {
    const canvas = this.top;
    canvas.addEventListener("pointerdown", (e) => this.press(e));
    canvas.addEventListener("pointermove", (e) => this.move(e));
    canvas.addEventListener("pointerup", (e) => this.release(e));
    canvas.addEventListener("pointercancel", () => { this.drag = this.path = null; this.drawTop(); });
    canvas.addEventListener("pointerleave", () => { setHover(-1); hideTip(); });
    canvas.addEventListener("wheel", (e) => {
      e.preventDefault();
      this.zoom(Math.exp(-e.deltaY * 0.0016), e.offsetX, e.offsetY);
    }, { passive: false });
    canvas.addEventListener("dblclick", () => this.fit());
    canvas.addEventListener("keydown", (e) => this.key(e));
    canvas.addEventListener("focus", () => this.drawTop());
    canvas.addEventListener("blur", () => this.drawTop());
    for (const event of ["colour", "visible", "selection"]) on(event, () => this.draw());
    on("hover", () => this.drawTop());
  }

  press(e) {
    if (e.button > 1) return;
    this.top.setPointerCapture(e.pointerId);
    const mode = e.button === 1 ? "pan" : state.mode;
    this.drag = { x: e.offsetX, y: e.offsetY, mode, moved: false };
    hideTip();
  }

  move(e) {
    const [x, y] = [e.offsetX, e.offsetY];
    const drag = this.drag;
    if (!drag) {
      const p = this.nearest(x, y);
      setHover(p);
      if (p >= 0) showTip(p, e.clientX, e.clientY);
      else hideTip();
      return;
    }
    if (!drag.moved && Math.hypot(x - drag.x, y - drag.y) < 4) return;
    drag.moved = true;
    if (drag.mode === "pan") {
      this.pan(x - (drag.lastX ?? drag.x), y - (drag.lastY ?? drag.y));
      [drag.lastX, drag.lastY] = [x, y];
      return;
    }
    if (drag.mode === "box") this.path = [[drag.x, drag.y], [x, drag.y], [x, y], [drag.x, y]];
    else (this.path = this.path || [[drag.x, drag.y]]).push([x, y]);
    this.drawTop();
  }

  release(e) {
    const { drag, path } = this;
    this.drag = this.path = null;
    if (!drag) return;
    if (drag.moved) {
      if (path) this.enclose(path, e.shiftKey ? "add" : e.altKey ? "subtract" : "replace");
      return;
    }
    const p = this.nearest(e.offsetX, e.offsetY);
    if (p < 0) setSelection([]);
    else if (e.shiftKey || e.ctrlKey || e.metaKey) setSelection([p], state.selected.has(p) ? "subtract" : "add");
    else openImage(p);
  }

  // Arrow keys go to the nearest image in that direction; with Shift they pan.
  step(dx, dy) {
    const middle = this.size.map((s) => s / 2);
    const [x, y] = this.cursor >= 0 ? this.at(this.cursor) : middle;
    let best = -1;
    let least = Infinity;
    for (let p = 0; p < N; p++) {
      if (!state.visible[p] || p === this.cursor) continue;
      const [px, py] = this.at(p);
      const along = (px - x) * dx + (py - y) * dy;
      const aside = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      const cost = along + 2 * aside;
      if ((along > 0.5 || this.cursor < 0) && aside <= 2 * Math.abs(along) + 1 && cost < least) [best, least] = [p, cost];
    }
    if (best < 0) return;
    this.cursor = best;
    setHover(best);
    const [px, py] = this.at(best);
    const { left, top } = this.top.getBoundingClientRect();
    showTip(best, left + px, top + py);
    say(describe(best));
  }

  key(e) {
    const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const toggle = () => this.cursor >= 0 && setSelection([this.cursor], state.selected.has(this.cursor) ? "subtract" : "add");
    const keys = {
      "+": () => this.zoom(1.3), "=": () => this.zoom(1.3), "-": () => this.zoom(1 / 1.3), 0: () => this.fit(),
      Enter: () => this.cursor >= 0 && openImage(this.cursor), " ": toggle,
      Escape: () => { hideTip(); setHover(-1); setSelection([]); },
      v: () => setMode("pan"), b: () => setMode("box"), l: () => setMode("lasso"),
    };
    const arrow = arrows[e.key];
    if (!arrow && !keys[e.key]) return;
    e.preventDefault();
    if (!arrow) keys[e.key]();
    else if (e.shiftKey) this.pan(-40 * arrow[0], -40 * arrow[1]);
    else this.step(...arrow);
  }
}
