// Numbers, times and sizes as text.

const plain = new Intl.NumberFormat("en", { maximumFractionDigits: 0 });
const fine = new Intl.NumberFormat("en", { maximumFractionDigits: 1 });

export const NOTHING = "–";

export function count(number) {
  return Number.isFinite(number) ? plain.format(number) : NOTHING;
}

// Per second: slow rates have a fraction that matters.
export function rate(number) {
  return Number.isFinite(number) ? (number < 10 ? fine : plain).format(number) : NOTHING;
}

export function percent(fraction) {
  return Number.isFinite(fraction) ? `${(fraction * 100).toFixed(1)} %` : NOTHING;
}

export function bytes(number) {
  if (!Number.isFinite(number)) return NOTHING;
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  for (; number >= 1024 && unit < units.length - 1; unit += 1) number /= 1024;
  return `${number < 10 && unit > 0 ? fine.format(number) : plain.format(number)} ${units[unit]}`;
}

// The two largest units: "3 d 4 h", "12 min 5 s".
export function duration(seconds) {
  if (!Number.isFinite(seconds)) return NOTHING;
  const units = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]];
  const first = Math.max(0, units.findIndex(([length]) => seconds >= length));
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  const [[long, longName], [short, shortName]] = [units[first], units[first + 1]];
  return `${Math.floor(seconds / long)} ${longName} ${Math.floor((seconds % long) / short)} ${shortName}`;
}

// The reader's own clock.
export function clock(date) {
  return Number.isNaN(date.getTime()) ? NOTHING : date.toLocaleTimeString("en-GB");
}
