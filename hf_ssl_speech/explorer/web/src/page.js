import { decode, fetchWav, play, RATE, record } from "./audio.js";
import { areaY, boxes, dot, envelope, frame as border, line, rect, ruleX, runs, show, text as label, unitColor } from "./draw.js";
import { hopSamples, numFrames, windowSamples } from "./frames.js";
import cited from "../languages.json";
import { drawSpans, generator } from "./masking.js";
import { fetchUnpacked, framesOf, loadModel, unitsOf } from "./model.js";

const at = (id) => document.getElementById(id);
const percent = (share, digits = 1) => `${(100 * share).toFixed(digits)}%`;
const milliseconds = (samples) => `${+((1000 * samples) / RATE).toFixed(2)} ms`;

function told(error) {
  at("problem").textContent = error.message;
  at("problem").hidden = false;
}

// A view that fails says so and leaves the others alone.
async function view(start, ...given) {
  try {
    return await start(...given);
  } catch (error) {
    told(error);
  }
}

// Of the inputs that come while one is worked on, only the last is worked on after it.
function latest(work) {
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

const seconds = { label: "seconds" };
const rows = (...names) => ({
  axis: "left", label: null, tickSize: 0, domain: [0, names.length], ticks: names.map((_, row) => row + 0.45),
  tickFormat: (place) => names[Math.floor(place)],
});
const phoneMarks = (phones, row) => [
  boxes(phones.filter(({ phone }) => phone !== "SIL"), row, "var(--line)"),
  label(phones.filter(({ phone, start, end }) => phone !== "SIL" && end - start > 0.06), {
    x: ({ start, end }) => (start + end) / 2, y: row + 0.45, text: "phone", fill: "currentColor", fontSize: 10,
  }),
];

function framesView({ conv, utterance }, samples) {
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

async function maskingView({ conv, masking, utterance }, samples) {
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
  frames = await framesOf(samples);
  await update();
}

function unitsView({ conv, units: { sets, clips, layer }, utterance }) {
  const sizes = Object.keys(sets).map(Number).sort((a, b) => a - b), size = at("size"), choice = at("unit");
  const hop = hopSamples(conv) / RATE, sounds = new Map();
  size.max = sizes.length - 1;
  size.value = sizes.includes(100) ? sizes.indexOf(100) : 0;
  const set = () => sets[sizes[size.value]];
  const draw = () => {
    const chosen = +choice.value, own = runs(set().rows[0], hop);
    show("strip", "Units along the utterance, and its phones", {
      height: 110, x: seconds, y: rows("phones", "units"),
      marks: [
        ...phoneMarks(utterance.phones, 0),
        boxes(own, 1, ({ value }) => unitColor(value), { title: ({ value }) => `unit ${value}`, cursor: "pointer" }),
        boxes(own.filter(({ value }) => value === chosen), 1, "none", { stroke: "currentColor", strokeWidth: 2.5, pointerEvents: "none" }),
      ],
    });
    at("strip").querySelectorAll("g[cursor] rect").forEach((box, place) => box.addEventListener("click", () => choose(own[place].value)));
    at("size-told").value = `${sizes[size.value]}: PNMI ${set().pnmi.toFixed(2)}, phone purity ${set().purity.toFixed(2)} (layer ${layer}, ${set().frames.toLocaleString()} frames of speech)`;
  };
  const choose = (unit) => {
    choice.value = unit;
    draw();
    const column = set().units.indexOf(unit);
    const shares = column < 0 ? [] : set().phones.map((phone, row) => [phone, set().shares[row][column]]).sort((a, b) => b[1] - a[1]);
    at("stands-for").value = shares.length ? `stands for ${shares.slice(0, 3).filter(([, share]) => share).map(([phone, share]) => `${phone} (${share}%)`).join(", ")}` : "stands for silence";
    const found = clips.flatMap(({ audio, text }, clip) => runs(set().rows[clip], hop).filter(({ value }) => value === unit).map((run) => ({ ...run, audio, text, phone: clips[clip].phones[run.frame] })));
    at("occurrences").replaceChildren(...found.slice(0, 12).map(({ audio, start, end, phone, text }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `▶ ${phone}`, title: text });
      button.setAttribute("aria-label", `Hear unit ${unit} in ${phone}: ${text}`);
      button.addEventListener("click", () => view(async () => {
        if (!sounds.has(audio)) sounds.set(audio, await decode(await (await fetch(audio)).arrayBuffer()));
        play(sounds.get(audio), Math.max(0, start - 0.08), end - start + 0.16);
      }));
      return button;
    }));
  };
  const resize = () => {
    const there = [...new Set(set().rows[0])].sort((a, b) => a - b);
    choice.replaceChildren(...there.map((unit) => new Option(unit, unit)));
    choose(there[Math.floor(there.length / 2)]);
  };
  size.addEventListener("input", resize);
  choice.addEventListener("change", () => choose(+choice.value));
  addEventListener("resize", draw);
  resize();
}

function iterationsView({ iterations: { stages, method } }) {
  const slider = at("stage"), kind = (phone) => GROUPS.find(([, phones]) => phones.includes(phone))?.[0] ?? "other";
  slider.max = stages.length - 1;
  slider.value = stages.length - 1;
  const draw = () => {
    const { name, features, num_units, phones, shares, map, pnmi, purity, frames } = stages[slider.value];
    const cells = shares.flatMap((row, y) => row.map((share, x) => ({ x, y, share })).filter(({ share }) => share > 3));
    show("matrix", `Phones that each unit of ${name} stands for`, {
      height: 460, marginLeft: 40, x: { label: "units, by the phone they mostly mean", ticks: [], domain: [0, shares[0].length] },
      y: { label: null, reverse: true, domain: [0, phones.length], ticks: phones.map((_, row) => row + 0.5), tickFormat: (row) => phones[Math.floor(row)], tickSize: 0 },
      marks: [rect(cells, { x1: "x", x2: ({ x }) => x + 1, y1: "y", y2: ({ y }) => y + 1, fill: "var(--accent)", fillOpacity: ({ share }) => share / 100 }), border({ stroke: "var(--line)" })],
    });
    show("map", `Map of frames of ${name}, coloured by kind of phone`, {
      height: 460, marginLeft: 10, x: { axis: null }, y: { axis: null }, color: { legend: false, domain: GROUPS.map(([group]) => group), range: GROUPS.map(([, , color]) => color) },
      marks: [dot(map.points, { x: "0", y: "1", r: 3.5, fill: (_, place) => kind(map.phones[place]), fillOpacity: 0.8, title: (_, place) => map.phones[place] }),
        label(GROUPS, { frameAnchor: "top-left", dx: 4, dy: (_, place) => place, text: () => "" })],
    });
    const legend = document.createElement("p");
    legend.innerHTML = GROUPS.map(([group, , color]) => `<span style="white-space:nowrap"><span style="color:${color}">●</span> ${group}</span>`).join(" ");
    at("map").append(legend);
    at("stage-told").value = `${name}: ${num_units} units of ${features}`;
    at("figures").textContent = `PNMI ${pnmi.toFixed(3)}, phone purity ${purity.toFixed(3)} over ${frames.toLocaleString()} frames. Map: ${method}.`;
  };
  for (const { name, num_units, pnmi, purity } of stages) {
    const row = at("stages").insertRow();
    for (const text of [name, num_units, pnmi.toFixed(3), purity.toFixed(3)]) row.insertCell().textContent = text;
  }
  slider.addEventListener("input", draw);
  addEventListener("resize", draw);
  draw();
}

const GROUPS = [
  ["vowels", "AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split(" "), "#d1495b"],
  ["stops", "P B T D K G CH JH".split(" "), "#2a78c2"],
  ["fricatives", "F V TH DH S Z SH ZH HH".split(" "), "#2f9e5f"],
  ["nasals", "M N NG".split(" "), "#8e5bb5"],
  ["glides and liquids", "L R W Y".split(" "), "#e8a13a"],
  ["other", [], "#8a8a8a"],
];

function labelsView({ few_labels: results }) {
  document.querySelector('nav a[href="#labels"]').hidden = at("labels").hidden = !results;
  if (!results) return;
  const { points, source, rows: count, updates } = results, minutes = [...new Set(points.map((point) => point.minutes))];
  const slider = at("minutes"), starts = [...new Set(points.map(({ start }) => start))];
  const colors = { domain: starts, range: ["#8a8a8a", "#d1495b", "#2a78c2", "#2f9e5f"] };
  slider.max = minutes.length - 1;
  slider.value = 0;
  const draw = () => {
    const here = points.filter((point) => point.minutes === minutes[slider.value]);
    show("curve", "Word error rate against minutes of transcripts, from scratch and pretrained", {
      height: 280, x: { type: "log", label: "minutes of transcripts", tickFormat: (value) => `${+value.toFixed(1)}`, ticks: [...new Set(points.map((point) => +point.minutes_used.toFixed(1)))] }, y: { label: "words wrong, %", domain: [0, Math.max(100, ...points.map(({ wer }) => 100 * wer.high))], grid: true },
      color: colors, marginTop: 30,
      marks: [
        ruleX(here.slice(0, 1), { x: "minutes_used", stroke: "var(--line)", strokeWidth: 6 }),
        ruleX(points, { x: "minutes_used", y1: ({ wer }) => 100 * wer.low, y2: ({ wer }) => 100 * wer.high, stroke: "start", strokeWidth: 2 }),
        line(points, { x: "minutes_used", y: ({ wer }) => 100 * wer.value, stroke: "start", strokeWidth: 2 }),
        dot(points, { x: "minutes_used", y: ({ wer }) => 100 * wer.value, fill: "start", r: 5 }),
        label(points.filter((point) => point.minutes === minutes[0]), { x: "minutes_used", y: ({ wer }) => 100 * wer.value, text: "start", fill: "start", dx: 10, textAnchor: "start", dy: -10, fontWeight: "bold" }),
      ],
    });
    const rate = ({ start, wer }) => `${start} ${percent(wer.value)} [${percent(wer.low)} to ${percent(wer.high)}]`;
    at("minutes-told").value = `${here[0].minutes_used.toFixed(1)}: ${here.map(rate).join(", ")}`;
    at("heard").replaceChildren();
    here[0].examples.forEach(({ said }, row) => here.forEach(({ start, examples }) => {
      const cells = at("heard").insertRow();
      for (const text of [said, start, examples[row].heard || "(nothing)"]) cells.insertCell().textContent = text;
    }));
  };
  at("labels-source").textContent = `Scored on ${count} recordings (${source}); each recogniser had ${updates} updates. Lines are 95% intervals over ${points[0].seeds === 1 ? "the recordings (one seed)" : `${points[0].seeds} seeds and the recordings`}; transcripts are those of the first seed.`;
  slider.addEventListener("input", draw);
  addEventListener("resize", draw);
  draw();
}

function hoursView() {
  const { languages, results, sources } = cited, kinds = [["untranscribed_hours", "without transcripts"], ["transcribed_hours", "with transcripts"]];
  const points = languages.flatMap((one, row) => kinds.map(([field, kind]) => ({ row, kind, hours: one[field].value, language: one.language })));
  const draw = () => show("collection", "Hours of audio with and without transcripts, by language", {
    height: 30 + 22 * languages.length, marginLeft: 80, marginRight: 60, marginTop: 30, x: { type: "log", label: "hours", grid: true, tickFormat: "," },
    y: { label: null, reverse: true, domain: [-0.5, languages.length - 0.5], ticks: languages.map((_, row) => row), tickFormat: (row) => languages[row].language, tickSize: 0 },
    marks: [
      dot(points, { x: "hours", y: "row", r: 5, fill: ({ kind }) => (kind === "with transcripts" ? "#d1495b" : "#8a8a8a"), title: ({ language, kind, hours }) => `${language}, ${kind}: ${hours.toLocaleString()} hours` }),
      label(points.filter(({ row }) => row === 0), { x: "hours", y: "row", text: "kind", dy: -12, fill: "currentColor" }),
    ],
  });
  const link = ({ title, year, url }) => Object.assign(document.createElement("a"), { href: url, textContent: `${title} (${year})` });
  const listed = (text, from) => {
    const item = document.createElement("li");
    item.append(text, " ", link(sources[from]));
    return item;
  };
  const figure = ({ value, unit, of }) => `${value.toLocaleString()}${unit.startsWith("%") ? "" : " "}${unit} (${of})`;
  at("findings").append(
    listed("The hours in the picture:", languages[0].transcribed_hours.source),
    ...results.map(({ claim, figures }) => listed(`${claim} ${figures.map(figure).join("; ")}.`, figures[0].source)),
  );
  addEventListener("resize", draw);
  draw();
}

function voiceView({ conv }) {
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
    at("voice-told").value = `${units.length} frames, ${new Set(units).size} different units.`;
  });
  at("file").addEventListener("change", ({ target }) => target.files[0] && hear(async () => decode(await target.files[0].arrayBuffer())));
  at("record").addEventListener("click", () => {
    at("voice-told").value = "Speak now: five seconds …";
    hear(() => record(5));
  });
  at("play-voice").addEventListener("click", () => play(samples));
}

async function start() {
  const [packed, samples] = await Promise.all([fetchUnpacked("data.json.gz"), fetchWav("audio/utterance.wav")]);
  const data = JSON.parse(new TextDecoder().decode(packed)), { run } = data;
  at("text").textContent = data.utterance.text.toLowerCase();
  at("credit").textContent = data.credit;
  const facts = [run.updates && `${run.updates.toLocaleString()} updates`, run.hours_seen && `${run.hours_seen.toFixed(1)} hours of audio heard`, run.parameters && `${(run.parameters / 1e6).toFixed(1)} million parameters`];
  at("run").textContent = `The model here: ${[run.name, ...facts.filter(Boolean)].join(", ")}.`;
  await view(framesView, data, samples);
  await view(unitsView, data);
  await view(iterationsView, data);
  await view(labelsView, data);
  await view(hoursView);
  await view(voiceView, data);
  await view(maskingView, data, samples);
  window.explorer = { framesOf, unitsOf, samples, loadModel }; // for whoever wants to ask the model more, and for the tests
}

view(start);
