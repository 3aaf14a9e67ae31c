// The buttons, which only the control door has: each asks first, and says what came of it.

import { create, setText } from "./lists.js";

const part = (id) => document.getElementById(id);

const ACTIONS = [
  {
    label: "Reload",
    question: "Replace every worker?",
    consequence: "New workers start first; the old ones finish what they serve.",
    path: "reload",
    done: () => "Every worker has been replaced.",
  },
  {
    label: "One fewer",
    question: "Have one worker fewer?",
    consequence: "It finishes what it serves.",
    path: "scale",
    body: { workers: "-1" },
    done: scaled,
  },
  {
    label: "One more",
    question: "Have one worker more?",
    consequence: "It gets its share as soon as it listens.",
    path: "scale",
    body: { workers: "+1" },
    done: scaled,
  },
];

function scaled({ workers }) {
  return workers === 1 ? "1 worker is wanted now." : `${workers} workers are wanted now.`;
}

// Adds the buttons for all workers, and returns what makes the cell with the button of one.
export function control() {
  part("controls").append(...ACTIONS.map((action) => button(action)));
  const column = create("th", "number");
  column.scope = "col";
  column.append("Control");
  part("workers").closest("table").tHead.rows[0].append(column);
  return { cellOf };
}

function cellOf(id) {
  const cell = create("td", "number");
  cell.append(button({
    label: "Disconnect",
    name: `Disconnect worker ${id}`,
    question: `Disconnect worker ${id}?`,
    consequence: "It finishes what it serves, ends, and is replaced.",
    path: `workers/${id}/disconnect`,
    done: () => `Worker ${id} finishes.`,
  }));
  return cell;
}

function button(action) {
  const it = create("button", "", action.label);
  it.type = "button";
  if (action.name) it.setAttribute("aria-label", action.name);
  it.addEventListener("click", async () => {
    if (!await confirmed(action)) return;
    it.disabled = true;
    say(`${action.name ?? action.label}: under way …`, "");
    try {
      say(action.done(await post(action)), "");
    } catch (error) {
      say(`${action.name ?? action.label}: ${error.message}`, "bad");
    }
    it.disabled = false;
  });
  return it;
}

function confirmed({ label, question, consequence }) {
  const dialog = part("confirm");
  setText(part("question"), question);
  setText(part("consequence"), consequence);
  setText(part("yes"), label);
  dialog.returnValue = "";
  part("yes").onclick = () => dialog.close("yes");
  part("no").onclick = () => dialog.close();
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

async function post({ path, body }) {
  const request = { method: "POST" };
  if (body !== undefined) {
    request.headers = { "content-type": "application/json" };
    request.body = JSON.stringify(body);
  }
  const response = await fetch(path, request);
  const answer = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(answer.error ?? `croupier answered ${response.status}`);
  return answer;
}

function say(text, tone) {
  const outcome = part("outcome");
  outcome.className = `notice ${tone}`;
  setText(outcome, text);
}
