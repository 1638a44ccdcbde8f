// Draws the charts of the report with uPlot and writes the same values as tables.
(function () {
  "use strict";
  const groups = JSON.parse(document.getElementById("charts").textContent);
  const ROWS = 12;

  function shown(value) {
    return value === null || value === undefined ? "–" : String(Number(value.toPrecision(5)));
  }

  function options(chart, width) {
    const axis = { font: "13px system-ui, sans-serif", labelFont: "13px system-ui, sans-serif",
      stroke: "#1a1a1a", grid: { stroke: "#e4e4e4", width: 1 } };
    const series = chart.lines.map(function (line) {
      return { label: line.label, stroke: line.colour, dash: line.dash, width: 1.5,
        points: { show: chart.x.length < 40 }, value: function (_, v) { return shown(v); } };
    });
    const x = { label: chart.xLabel.split(":")[0], value: function (_, v) { return shown(v); } };
    return { width: width, height: Math.max(260, Math.min(420, Math.round(width * 0.5))),
      scales: { x: { time: false } }, cursor: { focus: { prox: 24 } }, focus: { alpha: 0.35 },
      series: [x].concat(series),
      axes: [Object.assign({ label: chart.xLabel }, axis),
        Object.assign({ label: chart.title.split(" over ")[0], size: 64 }, axis)] };
  }

  function table(chart) {
    const found = document.createElement("table");
    const head = found.createTHead().insertRow();
    [chart.xLabel].concat(chart.lines.map(function (line) { return line.label; }))
      .forEach(function (text) {
        const cell = document.createElement("th");
        cell.scope = "col";
        cell.textContent = text;
        head.appendChild(cell);
      });
    const body = found.createTBody();
    const step = Math.max(1, Math.ceil((chart.x.length - 1) / (ROWS - 1)));
    for (let i = 0; i < chart.x.length; i += step) {
      const row = body.insertRow();
      const name = document.createElement("th");
      name.scope = "row";
      name.textContent = shown(chart.x[i]);
      row.appendChild(name);
      chart.lines.forEach(function (line) {
        row.insertCell().textContent = shown(line.values[i]);
      });
    }
    return found;
  }

  Object.keys(groups).forEach(function (name) {
    const figure = document.getElementById("chart-" + name);
    if (!figure) { return; }
    const place = figure.querySelector(".plot");
    const values = figure.querySelector("details .wide");
    const heading = figure.querySelector("figcaption").textContent;
    const pick = figure.querySelector("select");
    let plot = null;
    function draw() {
      const chart = groups[name][Number(pick.value)];
      if (plot) { plot.destroy(); }
      const data = [chart.x].concat(chart.lines.map(function (line) { return line.values; }));
      plot = new uPlot(options(chart, place.clientWidth), data, place);
      place.setAttribute("aria-label", heading + ": " + chart.title + "; " + chart.yLabel);
      values.replaceChildren(table(chart));
    }
    pick.addEventListener("change", draw);
    draw();
    new ResizeObserver(function () {
      const width = place.clientWidth;
      if (width > 0 && width !== plot.width) {
        plot.setSize({ width: width, height: options(groups[name][Number(pick.value)], width).height });
      }
    }).observe(place);
  });
})();
