import { areaY, dot, frame, line, plot, rect, ruleX, text } from "@observablehq/plot";
import { RATE } from "./audio.js";

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;

// Hues by the golden ratio, so that neighbouring numbers look different.
export const unitColor = (unit) =>
  `hsl(${((unit * 0.618034) % 1) * 360} ${50 + 20 * (unit % 3)}% ${dark() ? 45 + 6 * (unit % 4) : 62 + 5 * (unit % 4)}%)`;

export function show(id, label, options) {
  const box = document.getElementById(id);
  const picture = plot({ width: Math.max(300, box.clientWidth), marginLeft: 70, marginRight: 5, ...options });
  picture.setAttribute("role", "img");
  picture.setAttribute("aria-label", label);
  picture.style.setProperty("--plot-background", "var(--paper)");
  box.dataset.focused = box.contains(document.activeElement) ? "yes" : "";
  box.replaceChildren(picture);
}

// The loudest and softest sample of each stretch: what a screen can show of a waveform.
export function envelope(samples, points = 500) {
  const step = Math.ceil(samples.length / points);
  return Array.from({ length: Math.ceil(samples.length / step) }, (_, point) => {
    const part = samples.subarray(point * step, (point + 1) * step);
    return { time: (point * step) / RATE, low: part.reduce((a, b) => Math.min(a, b)), high: part.reduce((a, b) => Math.max(a, b)) };
  });
}

// Equal neighbours as one box.
export function runs(values, hop) {
  const found = [];
  values.forEach((value, frame) => {
    const last = found.at(-1);
    if (last && last.value === value) last.end = (frame + 1) * hop;
    else found.push({ value, frame, start: frame * hop, end: (frame + 1) * hop });
  });
  return found;
}

export const boxes = (data, row, fill, more = {}) =>
  rect(data, { x1: "start", x2: "end", y1: row, y2: row + 0.9, fill, z: null, ...more });

export { areaY, dot, frame, line, rect, ruleX, text };
