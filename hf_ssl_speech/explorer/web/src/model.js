// HuBERT in the page: frames once for each audio, the context each time frames are hidden.
import * as ort from "onnxruntime-web/wasm";

let sessions;

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
  const [wasm, frames, context] = await Promise.all(["ort.wasm.gz", "frames.onnx.gz", "context.onnx.gz"].map(fetchUnpacked));
  ort.env.wasm.wasmBinary = wasm;
  // One after the other: the runtime starts with the first.
  return { frames: await ort.InferenceSession.create(frames), context: await ort.InferenceSession.create(context) };
}

export async function fetchUnpacked(name) {
  const answer = await fetch(name);
  if (!answer.ok) {
    throw new Error(`${name} cannot be loaded (${answer.status}): serve the whole folder, for example with python -m http.server.`);
  }
  const bytes = new Uint8Array(await answer.arrayBuffer());
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes; // the server has unpacked it already
  return new Uint8Array(await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).arrayBuffer());
}

export async function framesOf(samples) {
  const { frames } = await loadModel();
  return (await frames.run({ waveforms: new ort.Tensor("float32", samples, [1, samples.length]) })).frames;
}

export async function unitsOf(frames, mask) {
  const { context } = await loadModel();
  const hidden = new ort.Tensor("float32", Float32Array.from(mask, Number), [1, mask.length]);
  const { logits } = await context.run({ frames, hidden_frames: hidden });
  return { logits, units: best(logits) };
}

function best({ data, dims: [, frames, units] }) {
  return Array.from({ length: frames }, (_, frame) => {
    const row = data.subarray(frame * units, (frame + 1) * units);
    return row.reduce((highest, value, unit) => (value > row[highest] ? unit : highest), 0);
  });
}
