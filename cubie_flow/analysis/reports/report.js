// Draws the charts of the report as SVG and writes their values as tables.
(function () {
  "use strict";
  const SVG = "http://www.w3.org/2000/svg";
  const MARGIN = { left: 76, right: 14, top: 10, bottom: 48 };
  const NEAR = 24; // pixels within which the pointer picks out a line
  const groups = JSON.parse(document.getElementById("charts").textContent);

  function make(parent, name, attributes, text) {
    const svg = name === "svg" || parent.namespaceURI === SVG;
    const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
    Object.entries(attributes || {}).forEach(function (pair) { node.setAttribute(pair[0], pair[1]); });
    if (text !== undefined) { node.textContent = text; }
    parent.appendChild(node);
    return node;
  }

  function shown(value) {
    return value === null || value === undefined ? "–" : String(Number(value.toPrecision(5)));
  }

  function extent(values) {
    const known = values.filter(function (v) { return v !== null && isFinite(v); });
    return known.length ? [Math.min(...known), Math.max(...known)] : [0, 1];
  }

  function linearTicks(low, high, most) {
    const least = (high - low) / most;
    const power = Math.pow(10, Math.floor(Math.log10(least)));
    const step = [1, 2, 5, 10].map(function (m) { return m * power; })
      .find(function (s) { return s >= least * (1 - 1e-9); });
    const ticks = [];
    for (let i = Math.ceil(low / step - 1e-9); i * step <= high + step * 1e-9; i += 1) {
      ticks.push(Number((i * step).toPrecision(12)));
    }
    return ticks;
  }

  function logTicks(low, high, most) {
    const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
    const stride = Math.ceil((last - first) / most);
    const factors = (last - first) * 3 <= most ? [1, 2, 5] : [1];
    const ticks = [];
    for (let power = first; power <= last; power += stride) {
      factors.forEach(function (factor) { ticks.push(Number(factor + "e" + power)); });
    }
    const inside = ticks.filter(function (t) { return t >= low * 0.999 && t <= high * 1.001; });
    return inside.length > 1 ? inside : linearTicks(low, high, most);
  }

  // Maps values from low to high onto pixels; both ways, linear or logarithmic.
  function scale(range, pixels, log) {
    const to = log ? Math.log10 : function (v) { return v; };
    const from = log ? function (v) { return Math.pow(10, v); } : to;
    let low = to(range[0]), high = to(range[1]);
    if (high - low <= 1e-12 * Math.max(Math.abs(low), Math.abs(high), 1e-300)) {
      const half = Math.abs(low) / 20 || 0.5;
      low -= half;
      high += half;
    }
    const most = Math.max(2, Math.floor(Math.abs(pixels[1] - pixels[0]) / (pixels[0] < pixels[1] ? 80 : 40)));
    return {
      at: function (v) { return pixels[0] + (to(v) - low) / (high - low) * (pixels[1] - pixels[0]); },
      back: function (p) { return from(low + (p - pixels[0]) / (pixels[1] - pixels[0]) * (high - low)); },
      ticks: (log ? logTicks : linearTicks)(from(low), from(high), most),
    };
  }

  function padded(range, log) {
    if (log) {
      const factor = Math.pow(range[1] / range[0], 0.04);
      return [range[0] / factor, range[1] * factor];
    }
    const pad = 0.04 * (range[1] - range[0]);
    return [range[0] - pad, range[1] + pad];
  }

  function fillTable(place, chart) {
    const table = document.createElement("table");
    make(table, "caption", {}, chart.title);
    const head = make(make(table, "thead"), "tr");
    [chart.xLabel].concat(chart.lines.map(function (line) { return line.label; }))
      .forEach(function (text) { make(head, "th", { scope: "col" }, text); });
    const body = make(table, "tbody");
    chart.x.forEach(function (x, i) {
      const row = make(body, "tr");
      make(row, "th", { scope: "row" }, shown(x));
      chart.lines.forEach(function (line) { make(row, "td", {}, shown(line.values[i])); });
    });
    place.replaceChildren(table);
  }

  function start(name, charts) {
    const figure = document.getElementById("chart-" + name);
    if (!figure) { return; }
    const pick = figure.querySelector("select");
    const boxes = { x: figure.querySelector("input[name=x]"), y: figure.querySelector("input[name=y]") };
    const reset = figure.querySelector(".reset"), plot = figure.querySelector(".plot");
    const legend = figure.querySelector(".legend"), reading = figure.querySelector(".reading");
    const details = figure.querySelector("details"), values = details.querySelector(".wide");
    const heading = figure.querySelector("figcaption").textContent;
    const svg = make(plot, "svg", { role: "img", tabindex: "0",
      "aria-labelledby": name + "-title", "aria-describedby": name + "-description" });
    let chart, range, hidden, cursor, x, y, drag, marks;

    // Indices of the points inside the range shown.
    function points() {
      return chart.x.map(function (_, i) { return i; }).filter(function (i) {
        return chart.x[i] !== null && (!range || (chart.x[i] >= range[0] && chart.x[i] <= range[1]));
      });
    }

    function valuesOf(indices) {
      return chart.lines.flatMap(function (line, k) {
        return hidden.has(k) ? [] : indices.map(function (i) { return line.values[i]; });
      });
    }

    function drawable(line, i) {
      return line.values[i] !== null && isFinite(y.at(line.values[i]));
    }

    function path(line, indices) {
      let text = "", pen = "M";
      indices.forEach(function (i) {
        if (!drawable(line, i)) { pen = "M"; return; }
        text += pen + x.at(chart.x[i]).toFixed(1) + " " + y.at(line.values[i]).toFixed(1);
        pen = "L";
      });
      return text;
    }

    function drawAxes(width, height) {
      const grid = make(svg, "g", { class: "grid" });
      const right = width - MARGIN.right, bottom = height - MARGIN.bottom;
      x.ticks.forEach(function (t) {
        make(grid, "path", { d: "M" + x.at(t).toFixed(1) + " " + MARGIN.top + "V" + bottom });
        make(grid, "text", { x: x.at(t).toFixed(1), y: bottom + 18, "text-anchor": "middle" }, shown(t));
      });
      y.ticks.forEach(function (t) {
        make(grid, "path", { d: "M" + MARGIN.left + " " + y.at(t).toFixed(1) + "H" + right });
        make(grid, "text", { x: MARGIN.left - 8, y: (y.at(t) + 4).toFixed(1), "text-anchor": "end" }, shown(t));
      });
      make(svg, "path", { class: "frame", d: "M" + MARGIN.left + " " + MARGIN.top + "V" + bottom + "H" + right });
      const middle = (MARGIN.top + bottom) / 2;
      make(svg, "text", { x: (MARGIN.left + right) / 2, y: height - 8, "text-anchor": "middle" }, chart.xLabel);
      make(svg, "text", { x: 14, y: middle, "text-anchor": "middle",
        transform: "rotate(-90 14 " + middle + ")" }, chart.name);
    }

    function drawLines(width, height, indices) {
      const clip = make(make(svg, "defs"), "clipPath", { id: name + "-clip" });
      make(clip, "rect", { x: MARGIN.left, y: MARGIN.top, width: width - MARGIN.left - MARGIN.right,
        height: height - MARGIN.top - MARGIN.bottom });
      const area = make(svg, "g", { "clip-path": "url(#" + name + "-clip)", fill: "none" });
      // One point more on either side, so that lines reach the edge.
      const first = Math.max(0, (indices[0] || 0) - 1), last = (indices[indices.length - 1] || 0) + 2;
      const drawn = chart.x.map(function (_, i) { return i; }).slice(first, last)
        .filter(function (i) { return chart.x[i] !== null && (!boxes.x.checked || chart.x[i] > 0); });
      return chart.lines.map(function (line, k) {
        const group = make(area, "g", { stroke: line.colour, class: "line" });
        if (hidden.has(k)) { return group; }
        make(group, "path", { d: path(line, drawn), "stroke-width": 1.5, "stroke-dasharray": line.dash.join(" ") });
        if (indices.length < 40) {
          drawn.filter(function (i) { return drawable(line, i); }).forEach(function (i) {
            make(group, "circle", { cx: x.at(chart.x[i]).toFixed(1), cy: y.at(line.values[i]).toFixed(1), r: 2.5, fill: line.colour });
          });
        }
        return group;
      });
    }

    function draw() {
      const width = plot.clientWidth || 640;
      const height = Math.max(260, Math.min(420, Math.round(width * 0.5)));
      const positive = function (list) { return extent(list)[0] > 0; };
      boxes.x.disabled = !positive(chart.x);
      boxes.y.disabled = !positive(valuesOf(points()));
      [boxes.x, boxes.y].forEach(function (box) { box.checked = box.checked && !box.disabled; });
      const indices = points();
      x = scale(range || extent(chart.x), [MARGIN.left, width - MARGIN.right], boxes.x.checked);
      y = scale(padded(extent(valuesOf(indices)), boxes.y.checked), [height - MARGIN.bottom, MARGIN.top], boxes.y.checked);
      svg.setAttribute("viewBox", "0 0 " + width + " " + height);
      svg.replaceChildren();
      make(svg, "title", { id: name + "-title" }, heading + ": " + chart.title);
      make(svg, "desc", { id: name + "-description" }, chart.yLabel + " over " + chart.xLabel + ". " +
        chart.lines.map(function (line, k) {
          const ends = extent(line.values);
          return hidden.has(k) ? "" : line.label + " from " + shown(ends[0]) + " to " + shown(ends[1]) + ".";
        }).join(" ") + " Left and right arrow keys read values.");
      drawAxes(width, height);
      const lines = drawLines(width, height, indices);
      marks = { lines: lines, guide: make(svg, "path", { class: "guide" }),
        dots: chart.lines.map(function (line) { return make(svg, "circle", { r: 4, fill: line.colour, visibility: "hidden" }); }),
        selection: make(svg, "rect", { class: "selection", y: MARGIN.top, height: height - MARGIN.top - MARGIN.bottom, width: 0 }) };
      reset.hidden = !range;
      read(cursor, null, false);
    }

    // Shows the values at one point; `pointer` is the height of the pointer in pixels, or null.
    function read(index, pointer, aloud) {
      cursor = index;
      const known = index !== null && points().includes(index);
      const left = known ? x.at(chart.x[index]).toFixed(1) : 0;
      const bottom = MARGIN.top + Number(marks.selection.getAttribute("height"));
      marks.guide.setAttribute("d", known ? "M" + left + " " + bottom + "V" + MARGIN.top : "");
      let nearest = null, least = NEAR;
      chart.lines.forEach(function (line, k) {
        const value = known && !hidden.has(k) ? line.values[index] : null;
        legend.children[k].querySelector("output").textContent = value === null ? "" : shown(value);
        marks.dots[k].setAttribute("visibility", value === null ? "hidden" : "visible");
        if (value === null) { return; }
        marks.dots[k].setAttribute("cx", left);
        marks.dots[k].setAttribute("cy", y.at(value).toFixed(1));
        const away = pointer === null ? Infinity : Math.abs(y.at(value) - pointer);
        if (away < least) { nearest = k; least = away; }
      });
      marks.lines.forEach(function (group, k) {
        group.setAttribute("opacity", nearest === null || nearest === k ? 1 : 0.35);
      });
      const parts = known ? [chart.xLabel + " " + shown(chart.x[index])] : [];
      if (known && aloud) {
        chart.lines.forEach(function (line, k) {
          if (!hidden.has(k)) { parts.push(line.label + " " + shown(line.values[index])); }
        });
      }
      reading.textContent = parts.join("; ");
    }

    function choose() {
      chart = charts[Number(pick.value)];
      range = null;
      hidden = new Set();
      cursor = null;
      const ends = extent(chart.x);
      boxes.x.checked = ends[0] > 0 && ends[1] / ends[0] >= 1000;
      boxes.y.checked = false;
      legend.replaceChildren();
      chart.lines.forEach(function (line, k) {
        const button = make(make(legend, "li"), "button", { type: "button", "aria-pressed": "true" });
        const sample = make(button, "svg", { width: 26, height: 10, "aria-hidden": "true" });
        make(sample, "path", { d: "M1 5H25", stroke: line.colour, "stroke-width": 2.5, "stroke-dasharray": line.dash.join(" ") });
        make(button, "span", {}, line.label);
        make(button.parentNode, "output");
        button.addEventListener("click", function () {
          if (!hidden.delete(k)) { hidden.add(k); }
          button.setAttribute("aria-pressed", String(!hidden.has(k)));
          draw();
        });
      });
      if (details.open) { fillTable(values, chart); }
      draw();
    }

    function show(low, high) {
      const ends = extent(chart.x);
      range = low <= ends[0] && high >= ends[1] ? null : [Math.max(low, ends[0]), Math.min(high, ends[1])];
      if (range && points().length < 2) { range = null; }
      draw();
    }

    function zoom(factor) {
      const now = range || extent(chart.x), seen = points();
      const middle = x.at(cursor !== null && seen.includes(cursor) ? chart.x[cursor] : x.back((x.at(now[0]) + x.at(now[1])) / 2));
      show(x.back(middle - (middle - x.at(now[0])) * factor), x.back(middle + (x.at(now[1]) - middle) * factor));
    }

    function position(event) {
      const box = svg.getBoundingClientRect(), width = Number(svg.getAttribute("viewBox").split(" ")[2]);
      const ratio = box.width ? width / box.width : 1;
      return { x: (event.clientX - box.left) * ratio, y: (event.clientY - box.top) * ratio };
    }

    svg.addEventListener("pointerdown", function (event) {
      if (event.button === 0) { drag = position(event).x; svg.setPointerCapture(event.pointerId); }
    });
    svg.addEventListener("pointermove", function (event) {
      const p = position(event), seen = points();
      if (drag !== undefined) {
        marks.selection.setAttribute("x", Math.min(drag, p.x));
        marks.selection.setAttribute("width", Math.abs(p.x - drag));
      }
      if (!seen.length) { return; }
      read(seen.reduce(function (a, b) {
        return Math.abs(x.at(chart.x[b]) - p.x) < Math.abs(x.at(chart.x[a]) - p.x) ? b : a;
      }), p.y, false);
    });
    svg.addEventListener("pointerup", function (event) {
      const from = drag, to = position(event).x;
      drag = undefined;
      marks.selection.setAttribute("width", 0);
      if (from !== undefined && Math.abs(to - from) > 5) {
        show(x.back(Math.min(from, to)), x.back(Math.max(from, to)));
      }
    });
    svg.addEventListener("pointercancel", function () { drag = undefined; marks.selection.setAttribute("width", 0); });
    svg.addEventListener("pointerleave", function () { read(null, null, false); });
    svg.addEventListener("dblclick", function () { show(-Infinity, Infinity); });
    reset.addEventListener("click", function () { show(-Infinity, Infinity); svg.focus(); });
    svg.addEventListener("keydown", function (event) {
      const seen = points(), place = seen.indexOf(cursor), last = seen.length - 1;
      const moves = { ArrowLeft: Math.max(0, place - 1), ArrowRight: Math.min(last, place + 1), Home: 0, End: last };
      if (event.ctrlKey || event.metaKey || event.altKey) { return; }
      if (event.key in moves && seen.length) { read(seen[moves[event.key]], null, true); }
      else if (event.key === "+" || event.key === "=") { zoom(0.5); }
      else if (event.key === "-") { zoom(2); }
      else if (event.key === "Escape" || event.key === "0") { show(-Infinity, Infinity); }
      else { return; }
      event.preventDefault();
    });
    [boxes.x, boxes.y].forEach(function (box) { box.addEventListener("change", draw); });
    pick.addEventListener("change", choose);
    details.addEventListener("toggle", function () { if (details.open) { fillTable(values, chart); } });
    choose();
    new ResizeObserver(function () {
      if (plot.clientWidth && plot.clientWidth !== Number(svg.getAttribute("viewBox").split(" ")[2])) { draw(); }
    }).observe(plot);
  }

  document.documentElement.classList.add("scripted");
  Object.keys(groups).forEach(function (name) { start(name, groups[name]); });
})();
