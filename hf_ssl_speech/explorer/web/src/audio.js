export const RATE = 16_000;

let context, playing;

export function play(samples, start = 0, seconds = Infinity) {
  context ??= new AudioContext();
  playing?.stop();
  const buffer = context.createBuffer(1, samples.length, RATE);
  buffer.copyToChannel(samples, 0);
  playing = context.createBufferSource();
  playing.buffer = buffer;
  playing.connect(context.destination);
  playing.start(0, start, Math.min(seconds, buffer.duration - start));
}

export async function fetchBytes(name) {
  const answer = await fetch(name);
  if (!answer.ok) {
    throw new Error(`${name} cannot be loaded (${answer.status}): serve the whole folder, for example with python -m http.server.`);
  }
  return answer.arrayBuffer();
}

// 16-bit WAV is read here, not by the browser, whose resampling would change what the model hears.
export async function fetchWav(name) {
  const samples = new Int16Array((await fetchBytes(name)).slice(44));
  return Float32Array.from(samples, (value) => value / 32768);
}

const files = new Map();

// A part of one of the page's files, which is fetched once.
export async function playFile(name, start, seconds) {
  if (!files.has(name)) files.set(name, await decode(await fetchBytes(name)));
  play(files.get(name), Math.max(0, start), seconds);
}

export async function decode(bytes) {
  const offline = new OfflineAudioContext(1, 1, RATE);
  let audio;
  try {
    audio = await offline.decodeAudioData(bytes);
  } catch {
    throw new Error("This is no audio that the browser can read, or it is damaged. Try WAV, MP3 or Ogg.");
  }
  const mono = new Float32Array(audio.length);
  for (let channel = 0; channel < audio.numberOfChannels; channel++) {
    audio.getChannelData(channel).forEach((value, place) => (mono[place] += value / audio.numberOfChannels));
  }
  return mono;
}

export async function record(seconds) {
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  } catch {
    throw new Error("There is no microphone, or the page may not use it. Allow it in the browser, or choose a file.");
  }
  const recorder = new MediaRecorder(stream);
  const parts = [];
  recorder.ondataavailable = ({ data }) => parts.push(data);
  const ended = new Promise((resolve) => (recorder.onstop = resolve));
  recorder.start();
  setTimeout(() => recorder.stop(), seconds * 1000);
  await ended;
  stream.getTracks().forEach((track) => track.stop());
  return decode(await new Blob(parts).arrayBuffer());
}
