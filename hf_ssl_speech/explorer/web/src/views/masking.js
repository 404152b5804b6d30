import { play, RATE } from "../audio.js";
import { boxes, runs, show, unitColor } from "../draw.js";
import { hopSamples } from "../frames.js";
import { drawSpans, generator } from "../masking.js";
import { framesOf, unitsOf } from "../model.js";
import { at, latest, milliseconds, percent, phoneMarks, rows, seconds } from "../ui.js";

const WARM_UP = 4;

export async function maskingView({ conv, masking, utterance }, samples) {
  const hop = hopSamples(conv) / RATE, share = at("share"), length = at("length"), { targets } = masking;
  share.value = masking.share;
  length.value = masking.length;
  let seed = 0, mask = [], frames;
  const counts = new Map();
  targets.forEach((unit) => counts.set(unit, (counts.get(unit) ?? 0) + 1));
  const common = Math.max(...counts.values()) / targets.length;
  const draw = (units) => {
    const right = targets.map((unit, frame) => (mask[frame] ? (units ? (units[frame] === unit ? "right" : "wrong") : "hidden") : "seen"));
    show("masked", "Spans that are hidden, and the hidden frames whose unit the model names rightly", {
      height: 190, x: seconds, y: rows("phones", "true unit", "hidden", "named"),
      marks: [
        ...phoneMarks(utterance.phones, 0),
        boxes(runs(targets, hop), 1, ({ value }) => unitColor(value)),
        boxes(runs(mask, hop).filter(({ value }) => value), 2, "currentColor"),
        boxes(runs(right, hop).filter(({ value }) => value === "right"), 3, "#2f9e5f"),
        boxes(runs(right, hop).filter(({ value }) => value === "wrong"), 3, "#d1495b", { fillOpacity: 0.55 }),
      ],
    });
  };
  const update = latest(async () => {
    const settings = { share: +share.value, length: +length.value, minSpans: masking.min_spans };
    mask = drawSpans(targets.length, settings, generator(seed));
    at("share-told").value = `${share.value} (${percent(mask.filter(Boolean).length / mask.length, 0)} of the frames)`;
    at("length-told").value = `${length.value} frames, ${milliseconds(length.value * hopSamples(conv))}`;
    if (!frames) return draw();
    const began = performance.now(), { units } = await unitsOf(frames, mask);
    draw(units);
    const hidden = mask.filter(Boolean).length, right = targets.filter((unit, frame) => mask[frame] && unit === units[frame]).length;
    at("accuracy").value = `The model names ${right} of ${hidden} hidden frames rightly: ${percent(right / hidden)}. A blind guess among ${masking.num_units} units is right in ${percent(1 / masking.num_units)}, always naming this utterance’s commonest one in ${percent(common)}.`;
    at("accuracy").dataset.milliseconds = Math.round(performance.now() - began);
  });
  for (const input of [share, length]) input.addEventListener("input", update);
  addEventListener("resize", update);
  at("redraw").addEventListener("click", () => {
    seed += 1;
    update();
  });
  at("play-left").addEventListener("click", () => {
    const size = hopSamples(conv);
    play(samples.map((value, place) => (mask[Math.floor(place / size)] ? 0 : value)));
  });
  await update();
  try {
    const ready = await framesOf(samples);
    await warmUp(ready, targets.length);
    frames = ready;
    await update();
  } finally {
    for (const control of [share, length, at("redraw")]) control.disabled = false;
  }
}

// The browser compiles during the first runs, which take several times as long as later ones.
async function warmUp(frames, length) {
  for (let run = 0; run < WARM_UP; run++) {
    await unitsOf(frames, new Array(length).fill(false));
    await new Promise((resolve) => setTimeout(resolve)); // the page answers between two runs
  }
}
