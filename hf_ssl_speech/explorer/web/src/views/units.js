import { playFile, RATE } from "../audio.js";
import { boxes, runs, show, unitColor } from "../draw.js";
import { hopSamples } from "../frames.js";
import { asButtons, at, phoneMarks, rows, seconds, view } from "../ui.js";

export function unitsView({ conv, units: { sets, clips, layer }, utterance }) {
  const sizes = Object.keys(sets).map(Number).sort((a, b) => a - b), size = at("size"), choice = at("unit");
  const hop = hopSamples(conv) / RATE;
  size.max = sizes.length - 1;
  size.value = sizes.includes(100) ? sizes.indexOf(100) : 0;
  let last = -1; // the box that was chosen, where a unit has several
  const set = () => sets[sizes[size.value]];
  const draw = () => {
    const chosen = +choice.value, own = runs(set().rows[0], hop);
    show("strip", "Units along the utterance, and its phones", {
      height: 110, x: seconds, y: rows("phones", "units"),
      marks: [
        ...phoneMarks(utterance.phones, 0),
        boxes(own, 1, ({ value }) => unitColor(value), { title: ({ value }) => `unit ${value}`, ariaLabel: ({ value, start }) => `Unit ${value} at ${start.toFixed(2)} s` }),
        boxes(own.filter(({ value }) => value === chosen), 1, "none", { stroke: "currentColor", strokeWidth: 2.5, pointerEvents: "none" }),
      ],
    });
    asButtons("strip", "rect[aria-label]", (place) => choose(own[place].value, place), own[last]?.value === chosen ? last : own.findIndex(({ value }) => value === chosen));
    at("size-told").value = `${sizes[size.value]}: PNMI ${set().pnmi.toFixed(2)}, phone purity ${set().purity.toFixed(2)} (layer ${layer}, ${set().frames.toLocaleString()} frames of speech)`;
  };
  const choose = (unit, place = -1) => {
    last = place;
    choice.value = unit;
    draw();
    const column = set().units.indexOf(unit);
    const shares = column < 0 ? [] : set().phones.map((phone, row) => [phone, set().shares[row][column]]).sort((a, b) => b[1] - a[1]);
    at("stands-for").value = shares.length ? `stands for ${shares.slice(0, 3).filter(([, share]) => share).map(([phone, share]) => `${phone} (${share}%)`).join(", ")}` : "stands for silence";
    const found = clips.flatMap(({ audio, text }, clip) => runs(set().rows[clip], hop).filter(({ value }) => value === unit).map((run) => ({ ...run, audio, text, phone: clips[clip].phones[run.frame] })));
    at("occurrences").replaceChildren(...found.slice(0, 12).map(({ audio, start, end, phone, text }) => {
      const button = Object.assign(document.createElement("button"), { type: "button", textContent: `▶ ${phone}`, title: text });
      button.setAttribute("aria-label", `Hear unit ${unit} in ${phone}: ${text}`);
      button.addEventListener("click", () => view(playFile, audio, start - 0.08, end - start + 0.16));
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
