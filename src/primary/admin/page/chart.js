// The chart: accepts per second as a line, and below it what each slot was dealt, stacked. It is drawn anew with every
// sample, in pixels of the page, so that text and lines keep their size.

import { rate } from "./format.js";
import { HISTORY_SECONDS, INTERVAL_MAX_SECONDS } from "./rates.js";

export const COLOURS = 8;

const LEFT = 48;
const RIGHT = 4;
const TOP = 8;
const BOTTOM = 20;
const LEAST_TOP = 4;
// Below it there is no room for every label.
const NARROW = 420;

export class Chart {
  #svg;
  #onPoint;
  #samples = [];
  #now = 0;
  #pointer = null;

  // `onPoint` gets the sample that is pointed at, and how many seconds old it is; nothing when there is none.
  constructor(svg, onPoint) {
    this.#svg = svg;
    this.#onPoint = onPoint;
    new ResizeObserver(() => this.#draw()).observe(svg);
    svg.addEventListener("pointermove", (event) => this.#point(event.offsetX));
    svg.addEventListener("pointerleave", () => this.#point(null));
  }

  show(samples, now) {
    [this.#samples, this.#now] = [samples, now];
    this.#draw();
  }

  #point(x) {
    this.#pointer = x;
    this.#draw();
  }

  #draw() {
    const { clientWidth: width, clientHeight: height } = this.#svg;
    if (width === 0) return;
    this.#svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    const highest = this.#samples.reduce((most, sample) => Math.max(most, sample.accepts, sumOf(sample)), LEAST_TOP);
    const top = roundUp(highest);
    const x = (at) => LEFT + (width - LEFT - RIGHT) * (1 - (this.#now - at) / HISTORY_SECONDS);
    const y = (value) => TOP + (height - TOP - BOTTOM) * (1 - value / top);
    const runs = runsOf(this.#samples.filter((sample) => x(sample.at) >= LEFT - 1));
    this.#svg.replaceChildren(
      ...grid(x, y, top, width, this.#now),
      ...areas(runs, x, y),
      element("path", { class: "total", d: runs.map((run) => line(run, (it) => [x(it.at), y(it.accepts)])).join("") }),
      ...this.#cursor(x, height),
    );
  }

  #cursor(x, height) {
    if (this.#pointer === null || this.#samples.length === 0) {
      this.#onPoint(null);
      return [];
    }
    const away = (sample) => Math.abs(x(sample.at) - this.#pointer);
    const nearest = this.#samples.reduce((best, sample) => (away(sample) < away(best) ? sample : best));
    this.#onPoint(nearest, this.#now - nearest.at);
    const at = x(nearest.at);
    return [element("line", { class: "cursor", x1: at, x2: at, y1: TOP, y2: height - BOTTOM })];
  }
}

function grid(x, y, top, width, now) {
  const rows = [0, top / 2, top].flatMap((value) => [
    element("line", { class: "grid", x1: LEFT, x2: width - RIGHT, y1: y(value), y2: y(value) }),
    element("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, rate(value)),
  ]);
  const columns = (width < NARROW ? [120, 60, 0] : [120, 90, 60, 30, 0]).map((ago) => {
    const anchor = ago === 0 ? "end" : ago === HISTORY_SECONDS ? "start" : "middle";
    const text = ago === 0 ? "now" : `${ago} s ago`;
    return element("text", { x: x(now - ago), y: y(0) + 16, "text-anchor": anchor }, text);
  });
  return [...rows, ...columns];
}

function areas(runs, x, y) {
  const slots = new Set(runs.flat().flatMap((sample) => [...sample.slots.keys()]));
  const floor = new Map();
  return [...slots].sort((a, b) => a - b).map((slot) => {
    const d = runs.map((run) => {
      const below = run.map((sample) => [x(sample.at), y(floor.get(sample) ?? 0)]);
      run.forEach((sample) => floor.set(sample, (floor.get(sample) ?? 0) + (sample.slots.get(slot) ?? 0)));
      const above = run.map((sample) => [x(sample.at), y(floor.get(sample))]);
      return `${path([...above, ...below.reverse()])}Z`;
    });
    return element("path", { class: `area slot${slot % COLOURS}`, d: d.join("") });
  });
}

// Samples without a gap between them.
function runsOf(samples) {
  const runs = [];
  samples.forEach((sample, index) => {
    const isNext = index > 0 && sample.at - samples[index - 1].at <= INTERVAL_MAX_SECONDS;
    if (isNext) runs.at(-1).push(sample);
    else runs.push([sample]);
  });
  return runs;
}

function line(run, pointOf) {
  return path(run.map(pointOf));
}

function path(points) {
  return points.map(([x, y], index) => `${index === 0 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

function sumOf(sample) {
  return [...sample.slots.values()].reduce((sum, deals) => sum + deals, 0);
}

// To a round number whose half is round too.
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 1.2, 1.6, 2, 3, 4, 5, 6, 8, 10].find((step) => value <= step * power);
}

function element(name, attributes, text) {
  const it = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) it.setAttribute(key, value);
  if (text !== undefined) it.textContent = text;
  return it;
}
