import { playFile } from "../audio.js";
import { dot, frame as border, rect, show } from "../draw.js";
import { asButtons, at, view } from "../ui.js";

export function iterationsView({ iterations: { stages, method, sound } }) {
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
      marks: [dot(map.points, { x: "0", y: "1", r: 3.5, fill: (_, place) => kind(map.phones[place]), fillOpacity: 0.8, title: (_, place) => map.phones[place], ariaLabel: (_, place) => `Hear ${map.phones[place]}, point ${place + 1} of ${map.phones.length}` }),
      ],
    });
    asButtons("map", "circle[aria-label]", (place) => view(playFile, sound.audio, place * sound.seconds, sound.seconds));
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
