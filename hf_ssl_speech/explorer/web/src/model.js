// HuBERT in the page: frames once for each audio, the context each time frames are hidden; and a recogniser beside it.
import { decompress } from "fzstd";
import * as ort from "onnxruntime-web/wasm";
import { fetchBytes } from "./audio.js";

const WEIGHTS = "weights.bin"; // the name by which the graphs ask for them

let sessions, letters;

export function loadModel() {
  sessions ??= start();
  return sessions;
}

async function start() {
  if (typeof WebAssembly === "undefined") {
    throw new Error("This browser has no WebAssembly, so the model cannot run here; all that needs no model still works.");
  }
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmPaths = { mjs: new URL("ort.mjs", document.baseURI).href };
  const names = ["ort.wasm.zst", `${WEIGHTS}.gz`, "frames.onnx.gz", "context.onnx.gz"];
  const [wasm, weights, frames, context] = await Promise.all(names.map(fetchUnpacked));
  ort.env.wasm.wasmBinary = wasm;
  const create = (graph) => ort.InferenceSession.create(graph, { externalData: [{ path: WEIGHTS, data: weights }] });
  // One after the other: the runtime starts with the first.
  return { frames: await create(frames), context: await create(context), create };
}

export async function fetchUnpacked(name) {
  const bytes = new Uint8Array(await fetchBytes(name));
  if (name.endsWith(".zst")) return decompress(bytes);
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // the server has unpacked it already
  if (typeof DecompressionStream === "undefined") {
    throw new Error("This browser cannot unpack the page's data (it has no DecompressionStream): take one of 2023 or later.");
  }
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

// The runtime takes one request at a time: others wait for their turn.
let turn = Promise.resolve();
const inTurn = (work) => (turn = turn.then(work, work));

export async function framesOf(samples) {
  const { frames } = await loadModel();
  const waveforms = new ort.Tensor("float32", samples, [1, samples.length]);
  return (await inTurn(() => frames.run({ waveforms }))).frames;
}

export async function unitsOf(frames, mask) {
  const { context } = await loadModel();
  const hidden = new ort.Tensor("float32", Float32Array.from(mask, Number), [1, mask.length]);
  const { logits } = await inTurn(() => context.run({ frames, hidden_frames: hidden }));
  return { logits, units: best(logits) };
}

// Loaded when somebody speaks: most visitors only read.
export async function lettersOf(frames) {
  const { create } = await loadModel();
  letters ??= fetchUnpacked("letters.onnx.gz").then((graph) => inTurn(() => create(graph)));
  const session = await letters;
  return (await inTurn(() => session.run({ frames }))).letters;
}

// The likeliest token of each frame, repetitions as one, without blanks (CTC's best path).
export function spell(logits, { tokens, blank, word_delimiter }) {
  const path = best(logits);
  const spelt = path.filter((token, frame) => token !== path[frame - 1] && token !== blank);
  return spelt.map((token) => (tokens[token] === word_delimiter ? " " : tokens[token])).join("").trim();
}

function best({ data, dims: [, frames, units] }) {
  return Array.from({ length: frames }, (_, frame) => {
    const row = data.subarray(frame * units, (frame + 1) * units);
    return row.reduce((highest, value, unit) => (value > row[highest] ? unit : highest), 0);
  });
}
