import * as Plot from "@observablehq/plot";
import { RATE } from "./audio.js";

const dark = () => matchMedia("(prefers-color-scheme: dark)").matches;

// Hues by the golden ratio, so that neighbouring numbers look different.
export const unitColor = (unit) =>
  `hsl(${((unit * 0.618034) % 1) * 360} ${50 + 20 * (unit % 3)}% ${dark() ? 45 + 6 * (unit % 4) : 62 + 5 * (unit % 4)}%)`;

export function show(id, label, options) {
  const box = document.getElementById(id);
  const plot = Plot.plot({ width: Math.max(300, box.clientWidth), marginLeft: 70, marginRight: 5, ...options });
  plot.setAttribute("role", "img");
  plot.setAttribute("aria-label", label);
  plot.style.setProperty("--plot-background", "var(--paper)");
  box.replaceChildren(plot);
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
  Plot.rect(data, { x1: "start", x2: "end", y1: row, y2: row + 0.9, fill, ...more });

export { Plot };
