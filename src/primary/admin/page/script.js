// The page: what arrives from croupier, put where it belongs.

import { Chart, COLOURS } from "./chart.js";
import { control } from "./control.js";
import * as format from "./format.js";
import { create, follow, Lines, setText } from "./lists.js";
import { isCounted, Rates } from "./rates.js";
import { listen } from "./stream.js";

const EVENTS_MAX = 100;
const OUTPUT_LINES_MAX = 200;
// Of one line: the page must stay usable whatever a worker writes.
const LINE_CHARACTERS_MAX = 2000;
const LEGEND_MAX = 16;

const part = (id) => document.getElementById(id);
const rates = new Rates();
const chart = new Chart(part("chart"), showReadout);
const events = new Lines(part("events"), EVENTS_MAX, "up");
const output = new Lines(part("output"), OUTPUT_LINES_MAX, "down");
const actions = document.documentElement.dataset.door === "control" ? control() : null;
// The texts of the last events: after a new connection croupier tells them again.
let shown = [];
let skipped = 0;
let workerOfSlot = new Map();

listen({
  opened() {
    output.clear();
  },
  status(status) {
    showConnection("live", "live");
    show(status);
  },
  event(text) {
    if (shown.includes(text)) return;
    shown = [...shown.slice(1 - EVENTS_MAX), text];
    events.add(() => eventLine(JSON.parse(text)));
  },
  output({ worker, stream, line }) {
    output.add(() => {
      const item = create("li", stream === "stderr" ? "warn" : "");
      item.append(create("b", "", `worker ${worker}`), ` ${shorten(line)}`);
      return item;
    });
  },
  skipped(count) {
    skipped += count;
    setText(part("skipped"), `${format.count(skipped)} skipped: faster than this browser reads`);
  },
  lost() {
    showConnection("lost", "croupier does not answer, trying again …");
  },
});

function showConnection(state, text) {
  document.body.className = state;
  setText(part("connection"), text);
}

function show(status) {
  const now = performance.now() / 1000;
  rates.add(status, now);
  workerOfSlot = new Map(status.workers.map(({ slot, id }) => [slot, id]));
  showHead(status);
  showTiles(status);
  chart.show(rates.samples, now);
  showLegend(status);
  showWorkers(status.workers);
  showListeners(status.listeners);
  showVersions(status);
}

function showHead(status) {
  document.title = status.name;
  setText(part("name"), status.name);
  const about = [`up ${format.duration(status.age_seconds)}`, `generation ${status.generation}`];
  if (status.upgrades > 0) about.push(`upgraded ${status.upgrades === 1 ? "once" : `${status.upgrades} times`}`);
  setText(part("about"), about.join(" · "));
  const isDisabled = status.enabled === false && status.state === "running";
  part("state").className = `badge ${status.state === "running" && !isDisabled ? "good" : "warn"}`;
  part("state").hidden = false;
  setText(part("state"), isDisabled ? "disabled" : status.state);
}

function showTiles({ counters, workers, workers_wanted: wanted }) {
  const sum = (field) => total(workers.map((worker) => worker[field]));
  const ready = workers.filter((worker) => worker.state === "ready").length;
  setText(part("accepts"), format.rate(rates.accepts));
  setText(part("accepted"), `${format.count(counters.accepted)} so far`);
  // Node workers do not tell.
  const open = workers.map((worker) => worker.open).filter((count) => count !== null);
  setText(part("open"), format.count(open.length > 0 || workers.length === 0 ? total(open) : NaN));
  setText(part("untaken"), `${format.count(sum("untaken"))} untaken`);
  setText(part("ready"), `${format.count(ready)} of ${format.count(wanted)}`);
  part("ready").className = ready < wanted ? "warn" : "";
  setText(part("ended"), `${format.count(counters.workers_ended)} ended so far`);
  setText(part("memory"), format.bytes(sum("rss_bytes") || NaN));
  setText(part("cpu"), `${format.percent(rates.cpu)} CPU`);
}

function showReadout(sample, ago) {
  if (sample === null) {
    setText(part("readout"), "the last 2 minutes");
    return;
  }
  const slots = [...sample.slots].slice(0, LEGEND_MAX / 2);
  const each = slots.map(([slot, deals]) => `${nameOf(slot)} ${format.rate(deals)}`);
  setText(part("readout"), [`${Math.round(ago)} s ago: ${format.rate(sample.accepts)}`, ...each].join(" · "));
}

function showLegend({ workers }) {
  const shares = rates.shares();
  const slots = [...new Set(workers.map((worker) => worker.slot))].sort((a, b) => a - b);
  const items = slots.slice(0, LEGEND_MAX).map((slot) => ({ slot, share: format.percent(shares.get(slot)) }));
  const make = ({ slot }) => {
    const item = create("li");
    item.append(create("span", `swatch slot${slot % COLOURS}`), create("span"), " ", create("b"));
    return item;
  };
  follow(part("legend"), items, (item) => item.slot, make, (item, { slot, share }) => {
    setText(item.children[1], nameOf(slot));
    setText(item.children[2], share);
  });
}

function nameOf(slot) {
  return workerOfSlot.has(slot) ? `worker ${workerOfSlot.get(slot)}` : "an ended worker";
}

const TONES = { ready: "good", starting: "warn", online: "warn", draining: "soft", disconnected: "soft" };

function showWorkers(workers) {
  const make = ({ id, slot }) => {
    const row = create("tr");
    const name = create("th", "");
    name.scope = "row";
    name.append(create("span", `swatch slot${slot % COLOURS}`), String(id));
    row.append(name, create("td"));
    for (let cell = 0; cell < 10; cell += 1) row.append(create("td", "number"));
    if (actions !== null) row.append(actions.cellOf(id));
    return row;
  };
  const inPlace = [...workers].sort((a, b) => a.slot - b.slot || a.id - b.id);
  follow(part("workers"), inPlace, (worker) => worker.id, make, (row, worker) => {
    const { deals, cpu } = rates.workers.get(worker.id) ?? {};
    row.children[1].className = TONES[worker.state] ?? "";
    fill(row, [
      worker.state,
      String(worker.pid),
      format.count(worker.generation),
      format.rate(deals),
      format.count(worker.open),
      format.count(worker.untaken),
      format.count(worker.taken),
      format.count(worker.restarts),
      format.duration(worker.age_seconds),
      format.bytes(worker.rss_bytes || NaN),
      format.percent(cpu),
    ]);
  });
}

function showListeners(listeners) {
  const make = () => {
    const row = create("tr");
    const name = create("th");
    name.scope = "row";
    row.append(name, create("td"), create("td"));
    for (let cell = 0; cell < 5; cell += 1) row.append(create("td", "number", format.NOTHING));
    return row;
  };
  const keyOf = ({ address, policy }) => `${policy} ${address}`;
  follow(part("listeners"), listeners, keyOf, make, (row, listener) => {
    setText(row.children[0], listener.address);
    const counts = !isCounted(listener) ? [] : [
      format.rate(rates.listeners.get(listener.address)),
      format.count(listener.accepted),
      format.count(total(Object.values(listener.redealt))),
      format.count(listener.returned),
      format.count(listener.expired),
    ];
    const [state, tone] = stateOf(listener);
    row.children[2].className = tone;
    fill(row, [listener.policy, state, ...counts]);
  });
}

function stateOf(listener) {
  if (listener.paused) return ["paused", "warn"];
  if (!listener.is_asked_for) return ["no worker asked for it", "warn"];
  return [isCounted(listener) ? "dealing" : "workers accept", "good"];
}

function total(numbers) {
  return numbers.reduce((sum, number) => sum + number, 0);
}

// The cells after the first one.
function fill(row, texts) {
  texts.forEach((text, index) => setText(row.children[index + 1], text));
}

function showVersions(status) {
  const started = new Date(status.started_unix_seconds * 1000);
  const items = [
    ["croupier", status.version],
    ["kernel", status.kernel],
    ["command", status.command],
    ["pid", String(status.pid)],
    ["started", started.toLocaleString("sv-SE")],
  ].filter(([, text]) => text !== undefined);
  const make = ([name]) => {
    const item = create("div");
    item.append(create("dt", "", name), create("dd"));
    return item;
  };
  follow(part("versions"), items, ([name]) => name, make, (item, [, text]) => setText(item.lastChild, text));
}

// Whatever croupier tells of: the time, the event, who, and its other fields by name.
function eventLine({ time, event, id: _, worker, pid, slot: __, generation, ...rest }) {
  const details = { worker, pid, ...rest };
  // It is told again with everything that a worker does.
  if (worker === undefined || event === "fork") details.generation = generation;
  const about = Object.entries(details).filter(([, value]) => value !== undefined && value !== null).map(detail);
  const item = create("li");
  const when = create("time", "soft", format.clock(new Date(time)));
  when.dateTime = time;
  const isBad = event === "exit" && rest.voluntary === false;
  item.append(when, " ", create("b", isBad ? "bad" : "", String(event)), ` ${shorten(about.join("  "))}`);
  return item;
}

function detail([name, value]) {
  if (typeof value === "boolean") return value ? name : `not ${name}`;
  return `${name} ${typeof value === "object" ? JSON.stringify(value) : value}`;
}

function shorten(text) {
  return text.length > LINE_CHARACTERS_MAX ? `${text.slice(0, LINE_CHARACTERS_MAX)} …` : text;
}
