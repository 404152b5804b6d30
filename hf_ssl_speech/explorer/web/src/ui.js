import { boxes, text as label } from "./draw.js";
import { RATE } from "./audio.js";

export const at = (id) => document.getElementById(id);
export const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
export const milliseconds = (samples) => `${+((1000 * samples) / RATE).toFixed(2)} ms`;

export function told(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
}

// A view that fails says so and leaves the others alone.
export async function view(start, ...given) {
  try {
    return await start(...given);
  } catch (error) {
    told(error);
  }
}

// Of the inputs that come while one is worked on, only the last is worked on after it.
export function latest(work) {
  let running = false, again = false;
  return async function next() {
    if (running) return void (again = true);
    running = true;
    try {
      await work();
    } catch (error) {
      told(error);
    }
    running = false;
    if (again) {
      again = false;
      next();
    }
  };
}

export const seconds = { label: "seconds" };
export const rows = (...names) => ({
  axis: "left", label: null, tickSize: 0, domain: [0, names.length], ticks: names.map((_, row) => row + 0.45),
  tickFormat: (place) => names[Math.floor(place)],
});
export const phoneMarks = (phones, row) => [
  boxes(phones.filter(({ phone }) => phone !== "SIL"), row, "var(--line)"),
  label(phones.filter(({ phone, start, end }) => phone !== "SIL" && end - start > 0.06), {
    x: ({ start, end }) => (start + end) / 2, y: row + 0.45, text: "phone", fill: "currentColor", fontSize: 10,
  }),
];

export const runFacts = ({ name, updates, hours_seen: hours, parameters }) =>
  [name, updates && `${updates.toLocaleString()} updates`, hours && `${hours.toFixed(1)} hours of audio heard`, parameters && `${(parameters / 1e6).toFixed(1)} million parameters`].filter(Boolean).join(", ");

const STEPS = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10, Home: -Infinity, End: Infinity };

// Marks of a plot as buttons: Tab reaches one of them, the arrow keys go from it to the others, Enter or Space acts.
export function asButtons(id, marks, act, current = 0) {
  const box = at(id), found = [...box.querySelectorAll(marks)];
  box.firstChild.setAttribute("role", "group");
  const reach = (place) => {
    found.forEach((mark, other) => mark.setAttribute("tabindex", other === place ? 0 : -1));
    return found[place];
  };
  found.forEach((mark, place) => {
    mark.setAttribute("role", "button");
    mark.addEventListener("click", () => act(place));
    mark.addEventListener("keydown", (event) => {
      const step = STEPS[event.key];
      if (step) reach(Math.min(found.length - 1, Math.max(0, place + step))).focus();
      else if (event.key === "Enter" || event.key === " ") act(place);
      else return;
      event.preventDefault();
    });
  });
  const start = reach(Math.max(0, current));
  if (box.dataset.focused) start?.focus(); // the picture was drawn anew under the reader's fingers
}
