import { decode, play, RATE, record } from "../audio.js";
import { areaY, boxes, envelope, runs, show, unitColor } from "../draw.js";
import { hopSamples, windowSamples } from "../frames.js";
import { framesOf, lettersOf, spell, unitsOf } from "../model.js";
import { at, percent, rows, seconds, view } from "../ui.js";

export function voiceView({ conv, recognizer }) {
  let samples;
  const hop = hopSamples(conv) / RATE;
  const hear = (source) => view(async () => {
    at("problem").hidden = true;
    samples = (await source()).subarray(0, 5 * RATE);
    if (samples.length < windowSamples(conv)) throw new Error("This audio is shorter than one frame (25 ms).");
    at("play-voice").disabled = false;
    show("voice-waveform", "Waveform of your audio", { height: 120, x: seconds, y: { axis: null, domain: [-1, 1] }, marks: [areaY(envelope(samples), { x: "time", y1: "low", y2: "high", fill: "var(--accent)" })] });
    at("voice-told").value = "The model listens …";
    const frames = await framesOf(samples), { units } = await unitsOf(frames, new Array(frames.dims[1]).fill(false));
    show("voice-units", "Units that the model names for your audio", { height: 70, x: seconds, y: rows("units"), marks: [boxes(runs(units, hop), 0, ({ value }) => unitColor(value), { title: ({ value }) => `unit ${value}` })] });
    if (recognizer) at("voice-text").value = `Heard: ${spell(await lettersOf(frames), recognizer) || "(nothing)"}`;
    at("voice-told").value = `${units.length} frames, ${new Set(units).size} different units.`;
  });
  at("voice-recognizer").textContent = recognizer ? about(recognizer) : "This page was made without a recogniser, so there is no transcript (hf-ssl-speech explore --recognizer adds one).";
  at("file").addEventListener("change", ({ target }) => target.files[0] && hear(async () => decode(await target.files[0].arrayBuffer())));
  at("record").addEventListener("click", () => {
    at("voice-told").value = "Speak now: five seconds …";
    hear(() => record(5));
  });
  at("play-voice").addEventListener("click", () => play(samples));
}

function about({ name, wer, rows: tested, learnt_from: learnt }) {
  const scored = wer === null ? "" : ` Of ${tested} recordings that it did not learn from but by which its best state was chosen, it got ${percent(wer)} of the words wrong.`;
  return `The recogniser is ${name}: the same model with small additions (LoRA) and a layer that names letters (CTC), learnt from ${(60 * learnt.hours).toFixed(0)} minutes of ${learnt.source}. It knows no other words than were said there.${scored}`;
}
