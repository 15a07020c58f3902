"use strict";

for (const place of document.querySelectorAll(".plot")) {
  const figure = JSON.parse(document.getElementById(place.getAttribute("data")).textContent);
  const buttons = [["toImage", "zoom2d", "pan2d", "resetScale2d"]]; // none that leads elsewhere
  const options = { responsive: true, displaylogo: false, modeBarButtons: buttons };
  Plotly.newPlot(place, figure.data, figure.layout, options);
}

// Numbers by their exact value, missing ones last; words as a person would order them.
function compare(a, b, column, sign) {
  const [x, y] = [a.cells[column], b.cells[column]];
  const [p, q] = [x.dataset.value, y.dataset.value];
  if (p !== undefined && q !== undefined) return sign * (Number(p) - Number(q));
  if (p !== undefined || q !== undefined) return p === undefined ? 1 : -1;
  return sign * x.textContent.localeCompare(y.textContent, undefined, { numeric: true });
}

for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      const rows = [...table.tBodies[0].rows].sort((a, b) => compare(a, b, column, up ? 1 : -1));
      table.tBodies[0].append(...rows);
    });
  });
}

for (const filter of document.querySelectorAll(".filter")) {
  filter.addEventListener("input", () => {
    const wanted = filter.value.toLowerCase();
    for (const row of filter.parentElement.querySelectorAll("tbody tr")) {
      row.hidden = !row.textContent.toLowerCase().includes(wanted);
    }
  });
}

for (const image of document.querySelectorAll("figure img")) {
  const mark = () => image.classList.toggle("small", image.naturalWidth < 300);
  image.complete ? mark() : image.addEventListener("load", mark);
  image.addEventListener("click", () => image.parentElement.classList.toggle("large"));
}
