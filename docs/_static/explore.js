/* Explorers of published tables: menus over window.EXPLORED, drawn as svg. No library, no server. */
"use strict";

const WIDTH = 720, HEIGHT = 340, LEFT = 64, RIGHT = 16, TOP = 14, BOTTOM = 46;
const MARKS = ["M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0", "M-4,-4h8v8h-8z", "M0,-5L5,4H-5z", "M0,-5L5,0L0,5L-5,0z",
  "M0,5L5,-4H-5z", "M-5,-1.5h3.5v-3.5h3v3.5h3.5v3h-3.5v3.5h-3v-3.5h-3.5z"];

function element(name, attributes, ...children) {
  const svg = ["svg", "g", "path", "line", "text", "title", "rect"].includes(name);
  const made = svg ? document.createElementNS("http://www.w3.org/2000/svg", name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes || {})) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const written = value => value === null ? "none" : String(Number(value.toPrecision(4)));

/* Ticks of an axis from low to high: decades and their 2 and 5 on a log scale, round steps on a linear one. */
function ticks(low, high, log) {
  if (log) {
    const found = [];
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const digit of [1, 2, 5]) found.push(digit * 10 ** power);
    const inside = found.filter(value => value >= low * 0.999 && value <= high * 1.001);
    return inside.length > 8 ? inside.filter(value => Math.abs(Math.log10(value) % 1) < 1e-9) : inside;
  }
  const raw = (high - low) / 8, power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map(one => one * power).find(one => one >= raw);
  const found = [];
  for (let value = Math.ceil(low / step) * step; value <= high + step * 1e-9; value += step) found.push(value);
  return found;
}

/* A scale from values to pixels. Words stand at equal distances. */
function scale(values, from, to, log) {
  if (values.some(value => typeof value === "string")) {
    const words = [...new Set(values)], step = (to - from) / words.length;
    const at = value => from + (words.indexOf(value) + 0.5) * step;
    return { at, words: true, ticks: words.map(word => [word, word]) };
  }
  let low = Math.min(...values), high = Math.max(...values);
  if (low === high) [low, high] = log ? [low / 2, high * 2] : [low - 1, high + 1];
  const turn = log ? Math.log10 : value => value;
  const room = (turn(high) - turn(low)) * 0.05;
  const a = turn(low) - room, b = turn(high) + room;
  const at = value => from + (turn(value) - a) / (b - a) * (to - from);
  const back = value => log ? 10 ** value : value;
  return { at, ticks: ticks(back(a), back(b), log).map(value => [value, written(value)]) };
}

class Explorer {
  constructor(place, view) {
    Object.assign(this, { place, view, off: new Set(), logX: view.log_x, logY: view.log_y });
    this.chosen = view.menus.map((_, i) => view.first[i] ?? view.rows[0][i]);
    this.controls = element("div", { class: "explore-controls" });
    this.legend = element("div", { class: "explore-legend" });
    this.figure = element("div", { class: "explore-figure" });
    this.told = element("p", { class: "explore-told", "aria-live": "polite" }, "\u00a0");
    place.replaceChildren(this.controls, this.legend, this.figure, this.told);
    view.menus.forEach((name, i) => this.menu(name, i));
    this.tick("log scale", this.logY, on => { this.logY = on; });
    this.draw();
  }

  menu(name, i) {
    const values = [...new Set(this.view.rows.map(row => row[i]))];
    if (values.length < 2) return;
    const select = element("select", {});
    for (const value of values) {
      const option = element("option", { value }, this.view.said[name][value]);
      option.selected = value === this.chosen[i];
      select.append(option);
    }
    select.addEventListener("change", () => { this.chosen[i] = select.value; this.draw(); });
    this.controls.append(element("label", {}, this.view.names[name] + " ", select));
  }

  tick(name, on, change) {
    const box = element("input", { type: "checkbox" });
    box.checked = on;
    box.addEventListener("change", () => { change(box.checked); this.draw(); });
    this.controls.append(element("label", {}, box, " " + name));
  }

  /* The chosen rows by line: name -> [x, mean, low, high, seeds]. */
  lines() {
    const count = this.view.menus.length, found = new Map();
    for (const row of this.view.rows)
      if (this.chosen.every((value, i) => row[i] === value) && row[count + 2] !== null) {
        if (!found.has(row[count])) found.set(row[count], []);
        found.get(row[count]).push(row.slice(count + 1));
      }
    return found;
  }

  draw() {
    const { view } = this, every = this.lines(), order = [...every.keys()];
    const shown = new Map([...every].filter(([name]) => !this.off.has(name)));
    this.legend.replaceChildren(...order.map((name, i) => this.entry(name, i)));
    const rows = [...shown.values()].flat();
    if (!rows.length) {
      this.figure.replaceChildren(element("p", {}, every.size ? "All lines are switched off." : "No run has this combination."));
      return;
    }
    const heights = rows.flatMap(([, mean, low, high]) => [mean, low, high]).filter(value => value !== null);
    if (view.level !== null) heights.push(view.level);
    const log = this.logY && heights.every(value => value > 0);
    const x = scale(rows.map(row => row[0]), LEFT, WIDTH - RIGHT, this.logX);
    const y = scale(heights, HEIGHT - BOTTOM, TOP, log);
    const up = view.y_label || view.said[view.menus[0]][this.chosen[0]];
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img" });
    svg.append(element("title", {}, `${up} by ${view.x_label}`));
    for (const [value, word] of y.ticks) {
      const at = y.at(value);
      svg.append(element("line", { class: "explore-grid", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at }));
      svg.append(element("text", { x: LEFT - 8, y: at + 4, "text-anchor": "end" }, word));
    }
    for (const [value, word] of x.ticks)
      svg.append(element("text", { x: x.at(value), y: HEIGHT - BOTTOM + 20, "text-anchor": "middle" }, word));
    svg.append(element("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, view.x_label));
    svg.append(element("text", { transform: `translate(14 ${HEIGHT / 2}) rotate(-90)`, "text-anchor": "middle" }, up));
    if (view.level !== null)
      svg.append(element("line", { class: "explore-level", x1: LEFT, x2: WIDTH - RIGHT, y1: y.at(view.level), y2: y.at(view.level) }));
    [...shown].forEach(([name, points], i) => {
      const aside = x.words ? (i - (shown.size - 1) / 2) * 9 : 0;  // points of one word stand side by side
      this.line(svg, name, points, { words: x.words, at: value => x.at(value) + aside }, y, order.indexOf(name));
    });
    this.figure.replaceChildren(svg);
  }

  line(svg, name, points, x, y, place) {
    const colour = this.view.colours[name], group = element("g", { fill: colour, stroke: colour });
    points.sort((a, b) => x.at(a[0]) - x.at(b[0]));
    const walked = (at, one) => one.map((point, i) => `${i ? "L" : "M"}${x.at(point[0])},${y.at(at(point))}`).join("");
    const banded = points.filter(point => point[2] !== null && point[3] !== null);
    if (x.words)
      group.append(...banded.map(([across, , low, high]) =>
        element("line", { class: "explore-line", x1: x.at(across), x2: x.at(across), y1: y.at(low), y2: y.at(high) })));
    else if (banded.length > 1)
      group.append(element("path", { class: "explore-band", stroke: "none",
        d: walked(point => point[3], banded) + walked(point => point[2], [...banded].reverse()).replace("M", "L") + "Z" }));
    if (!x.words) group.append(element("path", { class: "explore-line", fill: "none", d: walked(point => point[1], points) }));
    for (const [across, mean, low, high, seeds] of points) {
      const range = low === null ? "" : ` (95 %: ${written(low)} to ${written(high)})`;
      const values = seeds.filter(value => value !== null).map(written).join(", ");
      const told = `${this.view.said[this.view.lines][name]}, ${this.view.x_label} ${across}: ${written(mean)}${range}` +
        (values ? `; seeds: ${values}` : "");
      const mark = element("path", { class: "explore-mark", d: MARKS[place % MARKS.length], tabindex: "0",
        transform: `translate(${x.at(across)} ${y.at(mean)})` }, element("title", {}, told));
      for (const event of ["mouseenter", "focus", "click"]) mark.addEventListener(event, () => { this.told.textContent = told; });
      group.append(mark);
    }
    svg.append(group);
  }

  entry(name, place) {
    const button = element("button", { type: "button", "aria-pressed": String(!this.off.has(name)) });
    const mark = element("svg", { viewBox: "-7 -7 14 14", width: 14, height: 14 });
    mark.append(element("path", { d: MARKS[place % MARKS.length], fill: this.view.colours[name] }));
    button.append(mark, " " + this.view.said[this.view.lines][name]);
    button.addEventListener("click", () => {
      this.off.has(name) ? this.off.delete(name) : this.off.add(name);
      this.draw();
    });
    return button;
  }
}

document.addEventListener("DOMContentLoaded", () => {
  for (const place of document.querySelectorAll("[data-explore]"))
    new Explorer(place, window.EXPLORED[place.dataset.explore]);
});
