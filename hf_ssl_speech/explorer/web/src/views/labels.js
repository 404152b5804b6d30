import { dot, line, ruleX, show, text as label } from "../draw.js";
import { at, percent } from "../ui.js";

export function labelsView({ few_labels: results }) {
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
