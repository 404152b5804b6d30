import { dot, show, text as label } from "../draw.js";
import { at } from "../ui.js";
import cited from "../../languages.json";

export function hoursView() {
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
