import { at, runFacts, view } from "./ui.js";
import { contrastView } from "./views/contrast.js";
import { fetchUnpacked, framesOf, lettersOf, loadModel, unitsOf } from "./model.js";
import { fetchWav } from "./audio.js";
import { framesView } from "./views/frames.js";
import { hoursView } from "./views/hours.js";
import { iterationsView } from "./views/iterations.js";
import { labelsView } from "./views/labels.js";
import { maskingView } from "./views/masking.js";
import { unitsView } from "./views/units.js";
import { voiceView } from "./views/voice.js";

async function start() {
  const [packed, samples] = await Promise.all([fetchUnpacked("data.json.gz"), fetchWav("audio/utterance.wav")]);
  const data = JSON.parse(new TextDecoder().decode(packed));
  at("text").textContent = data.utterance.text.toLowerCase();
  at("credit").textContent = data.credit;
  at("run").textContent = `The model here: ${runFacts(data.run)}.`;
  await view(framesView, data, samples);
  await view(unitsView, data);
  await view(contrastView, data, samples);
  await view(iterationsView, data);
  await view(labelsView, data);
  await view(hoursView);
  await view(voiceView, data);
  window.explorer = { framesOf, unitsOf, lettersOf, samples, loadModel }; // for whoever wants to ask the model more, and for the tests
  await view(maskingView, data, samples);
}

view(start);
