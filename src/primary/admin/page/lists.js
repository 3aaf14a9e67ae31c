// Rows and lines that follow what arrives. Everything is set as text: names, states and output are the workers' choice.

const FLUSH_MILLISECONDS = 100;
const AT_END_PIXELS = 8;

// The child elements of `parent`, one per item and in their order. An item keeps its element as long as it is there,
// and with it the reader's focus and selection. `make` creates one, `fill` brings it up to date. Items with one key are
// told apart by their order.
export function follow(parent, items, keyOf, make, fill) {
  const before = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  const counts = new Map();
  items.forEach((item, index) => {
    const name = String(keyOf(item));
    counts.set(name, (counts.get(name) ?? 0) + 1);
    const key = `${counts.get(name)} ${name}`;
    const child = before.get(key) ?? make(item);
    before.delete(key);
    child.dataset.key = key;
    fill(child, item);
    if (parent.children[index] !== child) parent.insertBefore(child, parent.children[index] ?? null);
  });
  for (const gone of before.values()) gone.remove();
}

// Touches the page only where something has changed.
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function create(name, className, text) {
  const element = document.createElement(name);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

// The last `max` lines of a flood. They come to the page a few times per second, however fast they arrive; it stays at
// the end which `grows`, "up" or "down", unless the reader has scrolled away from it.
export class Lines {
  #list;
  #max;
  #grows;
  #waiting = [];
  #timer = null;

  constructor(list, max, grows) {
    [this.#list, this.#max, this.#grows] = [list, max, grows];
  }

  // `make` is called only if the line is still among the last ones when it is shown.
  add(make) {
    this.#waiting.push(make);
    if (this.#waiting.length > this.#max) this.#waiting.shift();
    this.#timer ??= setTimeout(() => this.#flush(), FLUSH_MILLISECONDS);
  }

  clear() {
    this.#waiting = [];
    this.#list.replaceChildren();
  }

  #flush() {
    this.#timer = null;
    const list = this.#list;
    const isAtEnd = list.scrollTop + list.clientHeight >= list.scrollHeight - AT_END_PIXELS;
    const made = this.#waiting.map((make) => make());
    this.#waiting = [];
    if (this.#grows === "up") list.prepend(...made.reverse());
    else list.append(...made);
    while (list.children.length > this.#max) (this.#grows === "up" ? list.lastChild : list.firstChild).remove();
    if (this.#grows === "down" && isAtEnd) list.scrollTop = list.scrollHeight;
  }
}
