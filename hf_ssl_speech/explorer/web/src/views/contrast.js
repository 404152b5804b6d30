import { play } from "../audio.js";
import { dot, line, rect, ruleX, show, text as label } from "../draw.js";
import { generator } from "../masking.js";
import { asButtons, at, percent, runFacts, seconds } from "../ui.js";

const TRUE = "#e8833a", FALSE = "#8a8a8a", AROUND = 0.12; // seconds of sound to hear a frame by
const LISTED = 8;

export function contrastView({ contrast, utterance }, samples) {
  at("contrast-there").hidden = !contrast;
  at("contrast-missing").hidden = Boolean(contrast);
  if (!contrast) return;
  at("contrast-run").textContent = `The model here: ${runFacts(contrast.run)}.`;
  candidatesView(contrast, utterance, samples);
  codebookView(contrast);
}

function candidatesView({ frames, hop, similarities, codes, accuracy, measured_frames: measured }, utterance, samples) {
  const which = at("hidden-frame"), amount = at("distractors"), middle = (place) => (frames[place] + 0.625) * hop;
  const phoneAt = (place) => utterance.phones.find(({ end }) => middle(place) < end)?.phone ?? "SIL";
  const alike = (one, other) => codes[one].every((code, group) => code === codes[other][group]);
  const hear = (place) => play(samples, Math.max(0, middle(place) - AROUND / 2), AROUND);
  const lowest = Math.min(-0.2, ...similarities.flat().map((value) => value / 1000));
  let draw = 0;
  which.max = frames.length - 1;
  which.value = Math.floor(frames.length / 2);
  amount.max = accuracy.length;
  amount.value = Math.min(20, accuracy.length);

  // Drawn as in training: from the other hidden frames, each time from all of them; one of the same code is left out.
  const drawn = (hidden) => {
    const random = generator(1000 * draw + hidden), found = [];
    for (let number = 0; number < +amount.value; number++) {
      const other = Math.floor(random() * (frames.length - 1));
      found.push(other + (other >= hidden));
    }
    return [...new Set(found)].filter((other) => !alike(hidden, other));
  };
  const update = () => {
    const hidden = +which.value, similarity = (place) => similarities[hidden][place] / 1000;
    const ranked = [hidden, ...drawn(hidden)].sort((one, other) => similarity(other) - similarity(one));
    const rank = ranked.indexOf(hidden), name = (place) => (place === hidden ? "true frame" : "distractor");
    show("candidates", "Similarity of the true frame and of the distractors to what the model expects, by their place in the utterance", {
      height: 240, x: seconds, y: { label: "similarity", domain: [lowest, 1], grid: true },
      marks: [
        rect(frames.map((frame) => ({ start: frame * hop, end: (frame + 1) * hop })), { x1: "start", x2: "end", y1: lowest, y2: 1, fill: "var(--line)", fillOpacity: 0.45 }),
        ruleX([middle(hidden)], { stroke: TRUE, strokeWidth: 1.5, strokeDasharray: "4 3" }),
        dot(ranked, {
          x: middle, y: similarity, r: 5.5, fill: (place) => (place === hidden ? TRUE : FALSE), stroke: "var(--paper)",
          sort: null, ariaLabel: (place) => `Hear the ${name(place)} at ${middle(place).toFixed(2)} s in ${phoneAt(place)}, similarity ${similarity(place).toFixed(2)}`,
        }),
      ],
    });
    asButtons("candidates", "circle[aria-label]", (place) => hear(ranked[place]));
    at("hidden-frame-told").value = `${frames[hidden]}, at ${middle(hidden).toFixed(2)} s in ${phoneAt(hidden)}`;
    at("distractors-told").value = amount.value;
    at("ranked").replaceChildren(...ranked.slice(0, Math.max(LISTED, rank + 1)).flatMap((place, number) => (number < LISTED || place === hidden ? [entry(place, number)] : [])));
    const others = pickedAmong(similarities, alike, +amount.value);
    at("candidates-told").value = `The true frame is number ${rank + 1} of ${ranked.length}, so the model ${rank ? "picks a wrong one" : "picks it"}. ` +
      `With ${amount.value} ${amount.value === "1" ? "distractor" : "distractors"} it picks the true one for ${percent(others)} of this utterance’s hidden frames, ` +
      `and for ${percent(accuracy[amount.value - 1])} of ${measured.toLocaleString()} in other speech; a blind guess does for ${percent(1 / (1 + +amount.value))}.`;
    drawCurve();
  };
  const entry = (place, number) => {
    const item = document.createElement("li"), button = document.createElement("button"), own = place === +which.value;
    item.value = number + 1;
    Object.assign(button, { type: "button", textContent: "▶", className: own ? "true" : "" });
    const similarity = (similarities[+which.value][place] / 1000).toFixed(2);
    button.setAttribute("aria-label", `Hear number ${number + 1}, ${own ? "the true frame" : "a distractor"} in ${phoneAt(place)}`);
    button.addEventListener("click", () => hear(place));
    item.append(button, ` ${phoneAt(place)}, similarity ${similarity}, entries ${codes[place].join(" and ")}${own ? ": the true one" : ""}`);
    return item;
  };
  const drawCurve = () => {
    const points = accuracy.map((share, place) => ({ distractors: place + 1, share }));
    show("contrast-curve", "How often the true frame is picked, by the number of distractors, and a blind guess", {
      height: 200, marginRight: 80, x: { type: "log", label: "distractors", ticks: [1, 2, 5, 10, 20, 50, 100], tickFormat: "d" }, y: { label: "picked, %", domain: [0, 100], grid: true },
      marks: [
        ruleX([+amount.value], { stroke: "var(--line)", strokeWidth: 6 }),
        line(points, { x: "distractors", y: ({ share }) => 100 * share, stroke: "var(--accent)", strokeWidth: 2.5 }),
        line(points, { x: "distractors", y: ({ distractors }) => 100 / (1 + distractors), stroke: FALSE, strokeWidth: 2, strokeDasharray: "4 3" }),
        label([points.at(-1)], { x: "distractors", y: ({ share }) => 100 * share, text: () => "the model", fill: "var(--accent)", textAnchor: "start", dx: 6 }),
        label([points.at(-1)], { x: "distractors", y: ({ distractors }) => 100 / (1 + distractors), text: () => "blind guess", fill: "currentColor", textAnchor: "start", dx: 6 }),
      ],
    });
  };
  which.addEventListener("input", update);
  amount.addEventListener("input", update);
  at("redraw-distractors").addEventListener("click", () => {
    draw += 1;
    update();
  });
  at("hear-hidden").addEventListener("click", () => hear(+which.value));
  addEventListener("resize", update);
  update();
}

// The mean over all draws, by the same formula as in the package (explorer/contrast.py).
export function pickedAmong(similarities, alike, draws) {
  const others = Math.max(similarities.length - 1, 1);
  const shares = similarities.map((row, hidden) => {
    const same = row.filter((_, place) => place !== hidden && alike(hidden, place)).length;
    const better = row.filter((value, place) => value >= row[hidden] && !alike(hidden, place)).length;
    return (1 - better / others) ** draws - (same / others) ** draws;
  });
  return shares.reduce((sum, share) => sum + share, 0) / similarities.length;
}

function codebookView({ counts, curve, collapsed }) {
  const entries = counts[0].length, curves = [curve, ...(collapsed ? [collapsed.curve] : [])];
  const points = curves.flatMap((each, number) => each.flatMap(([update, ...used]) => used.map((inUse, group) => ({ update, inUse, line: `${number}.${group}`, number }))));
  const color = ({ number }) => (number ? "#d1495b" : "var(--accent)");
  const last = curves.map((each, number) => ({ update: each.at(-1)[0], inUse: Math.max(...each.at(-1).slice(1)), number }));
  const bars = counts.flatMap((group, row) => group.map((count, place) => ({ x: place, row, share: count / group.reduce((a, b) => a + b) })));
  const most = Math.max(...bars.map(({ share }) => share));
  const draw = () => {
    show("entries", `How often each of the ${entries} entries of each group is chosen, the commonest first`, {
      height: 260, marginLeft: 60, x: { label: "entries, the commonest first", domain: [0, entries] },
      y: { label: null, domain: [counts.length, 0], ticks: counts.map((_, row) => row + 0.55), tickFormat: (place) => `group ${Math.floor(place) + 1}`, tickSize: 0 },
      marks: [rect(bars, { x1: "x", x2: ({ x }) => x + 0.85, y1: ({ row }) => row + 0.95, y2: ({ row, share }) => row + 0.95 - (0.85 * share) / most, fill: "var(--accent)" })],
    });
    show("perplexity", "Entries in use over the updates of the run, and of one that was made to collapse", {
      height: 260, marginLeft: 40, marginRight: 20, x: { label: "updates", type: "sqrt" }, y: { label: "entries in use (perplexity)", domain: [0, entries], grid: true },
      marks: [
        line(points, { x: "update", y: "inUse", z: "line", stroke: color, strokeWidth: 2 }),
        label(last.slice(0, 1), { x: "update", y: "inUse", text: () => "the model here", fill: color, textAnchor: "end", dy: -10, fontWeight: "bold" }),
        label(last.slice(1), { x: "update", y: "inUse", text: () => "collapsed", fill: color, textAnchor: "start", dx: 8, fontWeight: "bold" }),
      ],
    });
  };
  at("codebook-told").textContent = `At its last log this model had ${using(curve)} of ${entries} entries in use in its ${counts.length} groups.`;
  at("collapse-told").textContent = collapsed ? aboutCollapse(collapsed) : "No run that collapsed was recorded for this page.";
  addEventListener("resize", draw);
  draw();
}

function aboutCollapse({ name, settings, curve, cause }) {
  const ended = cause ? ` The package stopped it: “${cause.split(". ")[0]}.”` : "";
  return `Red is ${name}, which was made to collapse (${changes(settings)}): at its last log, after ${curve.at(-1)[0].toLocaleString()} updates, it had ${using(curve)} entries in use. Where most frames are the same entry, few are left to tell apart, so that its score may rise while it learns nothing.${ended}`;
}

const using = (curve) => curve.at(-1).slice(1).map((inUse) => inUse.toFixed(1)).join(" and ");

const changes = (settings) => Object.entries(settings).map(([name, [theirs, ours]]) => `${name.replaceAll("_", " ")} ${ours} instead of ${theirs}`).join(", ") || "with the same settings";
