// Runs the script of the report in a minimal document and prints what it draws, as JSON.
// Usage: node drive_report.js report.js charts.json
"use strict";
const fs = require("fs"), vm = require("vm");
const [script, charts] = process.argv.slice(2).map((path) => fs.readFileSync(path, "utf8"));

class Node {
  constructor(name, attributes = {}, children = [], namespaceURI = "html") {
    Object.assign(this, { name, attributes, namespaceURI, children: [], listeners: {}, text: "",
      clientWidth: 640, value: "0", checked: false, hidden: false, open: false });
    this.classList = { add() {} };
    children.forEach((child) => this.appendChild(child));
  }
  setAttribute(name, value) { this.attributes[name] = String(value); }
  getAttribute(name) { return this.attributes[name] ?? null; }
  appendChild(child) { child.parentNode = this; this.children.push(child); return child; }
  replaceChildren(...children) { this.children = []; children.forEach((c) => this.appendChild(c)); }
  get textContent() { return this.text + this.children.map((child) => child.textContent).join(""); }
  set textContent(text) { this.text = text; this.children = []; }
  get all() { return this.children.flatMap((child) => [child, ...child.all]); }
  matches(selector) {
    const [, name, input, className] = /^(\w+)(?:\[name=(\w)\])?$|^\.(\w+)$/.exec(selector);
    return className ? this.attributes.class === className
      : this.name === name && (!input || this.attributes.name === input);
  }
  querySelector(selector) { return this.all.find((node) => node.matches(selector)) ?? null; }
  getBoundingClientRect() { return { left: 0, top: 0, width: this.clientWidth }; }
  setPointerCapture() {}
  focus() {}
  addEventListener(type, listener) { (this.listeners[type] ??= []).push(listener); }
  fire(type, event = {}) {
    (this.listeners[type] ?? []).forEach((f) => f({ preventDefault() {}, button: 0, ...event }));
  }
}

const data = new Node("script");
data.textContent = charts;
const caption = new Node("figcaption");
caption.textContent = "Charts";
const figure = new Node("figure", {}, [caption, new Node("select"), new Node("input", { name: "x" }),
  new Node("input", { name: "y" }), new Node("button", { class: "reset" }),
  new Node("div", { class: "plot" }), new Node("p", { class: "reading" }),
  new Node("ul", { class: "legend" }), new Node("details", {}, [new Node("div", { class: "wide" })])]);
const document = {
  documentElement: new Node("html"),
  getElementById: (id) => (id === "charts" ? data : id === "chart-time" ? figure : null),
  createElement: (name) => new Node(name),
  createElementNS: (namespace, name) => new Node(name, {}, [], namespace),
};
vm.runInNewContext(script, { document, ResizeObserver: class { observe() {} } });

const part = (selector) => figure.querySelector(selector), svg = part("svg");
const drawn = () => svg.all.filter((node) => node.name === "path" && node.attributes["stroke-width"])
  .map((node) => node.attributes.d);
const seen = { title: svg.querySelector("title").textContent, lines: drawn(),
  description: svg.querySelector("desc").textContent };
svg.fire("keydown", { key: "ArrowRight" });
svg.fire("keydown", { key: "ArrowRight" });
seen.reading = part(".reading").textContent;
svg.fire("keydown", { key: "Home" });
svg.fire("keydown", { key: "+" });
seen.zoomed = !part(".reset").hidden;
svg.fire("keydown", { key: "Escape" });
seen.whole = part(".reset").hidden && drawn()[0] === seen.lines[0];
svg.fire("pointerdown", { clientX: 70, clientY: 50 });
svg.fire("pointermove", { clientX: 400, clientY: 50 });
svg.fire("pointerup", { clientX: 400, clientY: 50 });
seen.dragged = !part(".reset").hidden;
svg.fire("dblclick");
svg.fire("pointermove", { clientX: 76, clientY: 50 });
seen.hovered = part(".legend").children.map((item) => item.querySelector("output").textContent);
part(".legend").children[0].querySelector("button").fire("click");
seen.hidden = drawn().length;
part("details").open = true;
part("details").fire("toggle");
seen.rows = part(".wide").all.filter((node) => node.name === "tr").length;
figure.querySelector("input[name=y]").checked = true;
figure.querySelector("input[name=y]").fire("change");
seen.logarithmic = drawn();
console.log(JSON.stringify(seen));
