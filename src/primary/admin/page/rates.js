// From totals that arrive every second to rates, and the last two minutes of them. Nothing here touches the page.

export const HISTORY_SECONDS = 120;
const SHARE_SECONDS = 10;
// Two that arrive at once, after the network or the tab was asleep, say nothing about a rate.
const INTERVAL_MIN_SECONDS = 0.2;
// After a longer one the chart has a gap.
export const INTERVAL_MAX_SECONDS = 3;

export class Rates {
  #before = null;
  // Oldest first: at, accepts, and the deals of each slot; all per second, `at` in seconds.
  samples = [];
  // Of the last interval: by id of the worker {deals, cpu}, by address of the listener.
  workers = new Map();
  listeners = new Map();

  // What `GET /status` said at this time.
  add(status, at) {
    const before = this.#before;
    const seconds = before === null ? NaN : at - before.at;
    if (seconds < INTERVAL_MIN_SECONDS) return;
    this.#before = { status, at };
    if (before === null || isAnother(before.status, status)) return;
    this.workers = new Map(status.workers.map((worker) => [worker.id, ofWorker(before.status, worker, seconds)]));
    const counted = status.listeners.filter(isCounted);
    this.listeners = new Map(counted.map((it) => [it.address, ofListener(before.status, it, seconds)]));
    const accepts = (status.counters.accepted - before.status.counters.accepted) / seconds;
    this.samples.push({ at, seconds, accepts, slots: this.#slots(before.status, status, seconds) });
    this.samples = this.samples.filter((sample) => sample.at >= at - HISTORY_SECONDS - INTERVAL_MAX_SECONDS);
  }

  // While one replaces the other, two workers share a slot.
  #slots(before, status, seconds) {
    const slots = new Map();
    const add = (slot, deals) => slots.set(slot, (slots.get(slot) ?? 0) + deals);
    status.workers.forEach(({ id, slot }) => add(slot, this.workers.get(id).deals));
    // What those were dealt who have ended since is only in the sum of all.
    const gone = before.workers.filter(({ id }) => !this.workers.has(id));
    const told = [...slots.values()].reduce((sum, deals) => sum + deals, 0);
    const untold = Math.max(0, (status.counters.dealt - before.counters.dealt) / seconds - told);
    gone.forEach(({ slot }) => add(slot, untold / gone.length));
    return new Map([...slots].sort(([a], [b]) => a - b));
  }

  get accepts() {
    return this.samples.at(-1)?.accepts;
  }

  // Of all workers together, in processors.
  get cpu() {
    const known = [...this.workers.values()].map((worker) => worker.cpu).filter(Number.isFinite);
    return known.length === 0 ? NaN : known.reduce((sum, cpu) => sum + cpu, 0);
  }

  // The share of each slot in what was dealt lately; empty if nothing was.
  shares() {
    const sums = new Map();
    const since = (this.samples.at(-1)?.at ?? 0) - SHARE_SECONDS;
    for (const { at, seconds, slots } of this.samples) {
      if (at <= since) continue;
      for (const [slot, deals] of slots) sums.set(slot, (sums.get(slot) ?? 0) + deals * seconds);
    }
    const total = [...sums.values()].reduce((sum, deals) => sum + deals, 0);
    return new Map(total > 0 ? [...sums].map(([slot, deals]) => [slot, deals / total]) : []);
  }
}

// The workers accept from a shared socket themselves: there is nothing to count. Another listener may have its address,
// one of TCP beside one of UDP.
export function isCounted({ policy }) {
  return policy !== "shared";
}

// Another primary answers: what it counts has begun anew.
function isAnother(before, now) {
  return before.started_unix_seconds !== now.started_unix_seconds || before.pid !== now.pid
    || now.counters.accepted < before.counters.accepted;
}

function ofWorker(before, worker, seconds) {
  const was = before.workers.find((it) => it.id === worker.id);
  const cpu = was === undefined ? NaN : Math.max(0, worker.cpu_seconds - was.cpu_seconds) / seconds;
  return { deals: Math.max(0, worker.dealt - (was?.dealt ?? 0)) / seconds, cpu };
}

function ofListener(before, listener, seconds) {
  const was = before.listeners.filter(isCounted).find((it) => it.address === listener.address);
  return Math.max(0, listener.accepted - (was?.accepted ?? 0)) / seconds;
}
