import { play, RATE } from "../audio.js";
import { areaY, envelope, rect, show, text as label } from "../draw.js";
import { hopSamples, numFrames, windowSamples } from "../frames.js";
import { at, milliseconds, seconds } from "../ui.js";

export function framesView({ conv, utterance }, samples) {
  const frame = at("frame"), window = windowSamples(conv), hop = hopSamples(conv), points = envelope(samples);
  const loudest = Math.max(...points.map(({ low, high }) => Math.max(-low, high)));
  frame.max = numFrames(samples.length, conv) - 1;
  const draw = () => {
    const first = frame.value * hop;
    show("waveform", "Waveform with the window of the chosen frame and the phones below it", {
      height: 190, x: seconds, y: { axis: null, domain: [-1.4, 1] },
      marks: [
        areaY(points, { x: "time", y1: ({ low }) => low / loudest, y2: ({ high }) => high / loudest, fill: "var(--accent)" }),
        rect([{ start: first / RATE, end: (first + window) / RATE }], { x1: "start", x2: "end", y1: -1, y2: 1, fill: "#e8833a", fillOpacity: 0.75 }),
        rect(utterance.phones, { x1: "start", x2: "end", y1: -1.4, y2: -1.1, fill: "var(--line)", stroke: "var(--paper)" }),
        label(utterance.phones.filter((phone) => phone.end - phone.start > 0.07), { x: ({ start, end }) => (start + end) / 2, y: -1.25, text: "phone", fill: "currentColor", fontSize: 9 }),
      ],
    });
    at("frame-told").value = `${frame.value}: samples ${first.toLocaleString()} to ${(first + window - 1).toLocaleString()}, ${milliseconds(window)} from ${milliseconds(first)}`;
  };
  frame.addEventListener("input", draw);
  at("waveform").addEventListener("pointermove", ({ clientX }) => {
    const box = at("waveform").querySelector("svg").getBoundingClientRect(), left = 70 * (box.width / Math.max(300, at("waveform").clientWidth));
    const place = (clientX - box.left - left) / (box.width - left - 5);
    frame.value = Math.round((place * samples.length - window / 2) / hop);
    draw();
  });
  at("play").addEventListener("click", () => play(samples));
  addEventListener("resize", draw);
  draw();
  stridesView(conv);
}

function stridesView(conv) {
  const chosen = conv.map(([kernel, stride]) => [kernel, stride]);
  const cells = conv.map(([kernel], layer) => {
    const row = at("layers").insertRow();
    row.innerHTML = `<td>${layer + 1}</td><td>${kernel}</td><td><input type="number" min="1" max="10" aria-label="Stride of layer ${layer + 1}"></td><td></td><td></td><td></td>`;
    const input = row.querySelector("input");
    input.addEventListener("input", () => {
      chosen[layer][1] = Math.min(10, Math.max(1, Math.round(input.valueAsNumber) || 1));
      draw();
    });
    return row.cells;
  });
  const draw = () => {
    cells.forEach((cell, layer) => {
      const below = chosen.slice(0, layer + 1);
      if (cell[2].firstChild !== document.activeElement) cell[2].firstChild.value = chosen[layer][1];
      cell[3].textContent = milliseconds(windowSamples(below));
      cell[4].textContent = milliseconds(hopSamples(below));
      cell[5].textContent = Math.max(0, numFrames(RATE, below)).toLocaleString();
    });
    at("rate").value = `1 s of audio makes ${Math.max(0, numFrames(RATE, chosen))} frames, one every ${milliseconds(hopSamples(chosen))}.`;
  };
  at("strides").addEventListener("click", () => {
    conv.forEach(([, stride], layer) => (chosen[layer][1] = stride));
    draw();
  });
  draw();
}
