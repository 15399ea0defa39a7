// The page: one state, drawn from the graph's answer to the current photo, target and rivals. γ needs no further run.

const byId = (id) => document.getElementById(id);
const MODES = ["overlay", "contour", "signed"];
const LISTED = 9; // classes in the list where nothing is searched for
const FOUND = 30; // classes in the list of a search
let index = null; // what about.json says
let tables = null;
let page = null; // { photo, size, classes, logits, probabilities, layers } of the current photo
let state = { target: 0, rivals: [], gamma: 1, mode: "overlay", opacity: 0.72, weights: "mean" };
let shown = null;
let held = false;
let worker = null;
let ticket = 0;
const waiting = new Map();

const chosen = () => state.rivals;
const contrasting = () => state.rivals.length > 0;
const asksAgain = () => !page.evidence;

// --- asking the graph ------------------------------------------------------------------------------------------------

function ask(target, rivals) {
  ticket += 1;
  const question = { ticket, image: page.input, shape: index.size, batch: index.batch, target, rivals, gamma: 1 };
  return new Promise((done, failed) => {
    waiting.set(ticket, { done, failed });
    worker.postMessage(question);
  });
}

function onAnswer({ data }) {
  if (data.broken) return say(`The model cannot be loaded: ${data.broken}`);
  if (data.ready) return page ? null : say("");
  const { done, failed } = waiting.get(data.ticket);
  waiting.delete(data.ticket);
  return data.failed ? failed(new Error(data.failed)) : done(data.outputs);
}

// The maps of a layer, for or against the target, as numbers.js takes them; the first image of the batch.
function mapsIn({ data, dims }) {
  const [, count, h, w] = dims;
  return Array.from({ length: count }, (_, m) => ({ h, w, noise: 0, values: Float64Array.from(data.subarray(m * h * w, (m + 1) * h * w)) }));
}

function layersIn(outputs) {
  return index.layers.map((_, i) => mapsIn(outputs[`terms_${i}`])).map(([plain, against]) => ({ plain, against }));
}

function probabilitiesOf(logits) {
  if (index.link === "none") return logits;
  if (index.link === "sigmoid") return logits.map((y) => 1 / (1 + Math.exp(-y)));
  const top = Math.max(...logits);
  const powers = logits.map((y) => Math.exp(y - top));
  const sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((p) => p / sum);
}

function highest(values, count, without) {
  const order = values.map((_, k) => k).filter((k) => k !== without);
  return order.sort((a, b) => values[b] - values[a] || a - b).slice(0, count);
}

async function choosePhoto(file) {
  say("Reading the photo …");
  try {
    const photo = await readPhoto(file, index.preprocess);
    page = { ...photo, photo: photo.shown, size: index.size };
    say(`Asking the model about ${photo.name} …`);
    const outputs = await ask(-1, []);
    takePhoto(outputs);
    say("");
  } catch (error) {
    page = null;
    say(`${file.name || "The file"} cannot be explained: ${error.message || error}`);
  }
}

function takePhoto(outputs) {
  const logits = Array.from(outputs.logits.data.subarray(0, outputs.logits.dims[1]));
  const names = index.classes || logits.map((_, k) => `class ${k}`);
  const evidence = outputs.evidence ? mapsIn(outputs.evidence) : null;
  const classes = names.map((name, id) => ({ id, name }));
  Object.assign(page, { logits, classes, evidence, layers: layersIn(outputs), probabilities: probabilitiesOf(logits) });
  const target = highest(logits, 1)[0];
  state = { ...state, target, rivals: [], gamma: index.gamma };
  const usual = index.references === "predicted" ? highest(logits, index.num_references, target) : [];
  byId("one").hidden = false;
  byId("drop").classList.add("small");
  byId("one").style.setProperty("--ratio", page.size[1] / page.size[0]);
  byId("file").textContent = page.name;
  set({ rivals: usual.length ? usual : highest(logits, 1, target) }, usual.length > 0);
}

// `known` says that the graph has answered this very question already.
async function set(change, known = false) {
  state = { ...state, ...change };
  if (page.evidence) page.layers = [fromEvidence()];
  const asked = "target" in change || "rivals" in change;
  if (asked && asksAgain() && !known) {
    const [photo, question] = [page, `${state.target}:${state.rivals}`];
    document.body.classList.add("busy");
    refreshControls();
    try {
      const outputs = await ask(state.target, state.rivals.length ? state.rivals : highest(page.logits, 1, state.target));
      if (photo !== page || question !== `${state.target}:${state.rivals}`) return; // another question came meanwhile
      page.layers = layersIn(outputs);
    } catch (error) {
      say(`The graph gave no answer: ${error.message}`);
    }
    document.body.classList.remove("busy");
  }
  if (asked) refreshControls();
  redraw();
}

function fromEvidence() {
  const shares = rivalWeights(index.weights, page.logits, null, state.target, state.rivals);
  const plain = page.evidence[state.target];
  return { plain, against: combine([plain, ...state.rivals.map((d) => page.evidence[d])], [0, ...shares]) };
}

// --- drawing ---------------------------------------------------------------------------------------------------------

function redraw() {
  const question = { ...state, gamma: held || !contrasting() ? 0 : state.gamma };
  const plain = fuse(page.layers.map((layer) => layer.plain), index.fusion);
  const map = fuse(page.layers.map((layer) => combine([layer.plain, layer.against], [1, -question.gamma])), index.fusion);
  shown = { map, plain, question, peak: peaks(map, page.size), strength: strengthOf(map, plain, index.weak) };
  const style = { ...state, size: page.size, tables };
  draw(byId("map"), map, { ...style, strength: shown.strength });
  draw(byId("plain-map"), plain, { ...style, strength: strengthOf(plain, plain, index.weak) });
  for (const photo of document.querySelectorAll(".stage img")) showPicture(photo, page.photo, mute(state.mode));
  showGamma(state.gamma);
  refreshLegend();
  showWords();
  showBubble();
}

function refreshControls() {
  byId("question").replaceChildren(...sentence());
  byId("target").replaceChildren(nameOf(page.classes[state.target].name), element("small", {}, score(page.probabilities[state.target], index.link)));
  byId("gamma").disabled = byId("plain").disabled = !contrasting();
  byId("reverse").disabled = !contrasting();
  refreshRivals();
}

function refreshRivals() {
  const wanted = byId("search").value.trim().toLowerCase();
  const order = highest(page.logits, page.logits.length, state.target);
  const found = wanted ? order.filter((k) => `${page.classes[k].name} ${index.latin[page.classes[k].name] || ""}`.toLowerCase().includes(wanted)) : order;
  const usual = wanted ? found.slice(0, FOUND) : [...new Set([...order.slice(0, LISTED), ...state.rivals])];
  byId("rivals").replaceChildren(...usual.map(rivalRow));
  const note = byId("rivals-note");
  note.hidden = found.length > 0 && found.length <= FOUND;
  note.textContent = found.length ? `${found.length} classes; search to see others.` : "No class has that name.";
}

function rivalRow(place) {
  const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("i"));
  meter.firstChild.style.width = `${100 * page.probabilities[place]}%`;
  meter.hidden = index.link === "none";
  const text = element("span", { class: "text" }, nameOf(page.classes[place].name), meter, element("small", {}, score(page.probabilities[place], index.link)));
  const button = element("button", { type: "button", class: "rival", "data-rival": place, "aria-pressed": String(chosen().includes(place)) }, text);
  button.addEventListener("click", () => set({ rivals: chosen().includes(place) ? chosen().filter((d) => d !== place) : [...chosen(), place] }));
  const why = element("button", { type: "button", class: "quiet small", title: "explain this class instead" }, "why?");
  why.addEventListener("click", () => set({ target: place, rivals: [state.target] }));
  return element("li", {}, button, why);
}

function say(words) {
  byId("status").textContent = words;
  byId("status").hidden = !words;
}

function hold(on) {
  if (!page || held === on || !contrasting()) return;
  held = on;
  byId("plain").setAttribute("aria-pressed", String(on));
  redraw();
}

// --- the beginning ---------------------------------------------------------------------------------------------------

function listen() {
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("file-input", "change", () => byId("file-input").files[0] && choosePhoto(byId("file-input").files[0]));
  on("gamma", "input", () => set({ gamma: byId("gamma").valueAsNumber }));
  on("opacity", "input", () => set({ opacity: byId("opacity").valueAsNumber }));
  on("modes", "change", (event) => set({ mode: event.target.value }));
  on("search", "input", () => refreshRivals());
  on("reverse", "click", () => set({ target: state.rivals[0], rivals: [state.target] }));
  on("plain", "pointerdown", () => hold(true));
  for (const event of ["pointerup", "pointerleave", "pointercancel", "blur"]) on("plain", event, () => hold(false));
  on("plain", "keydown", (event) => (event.key === " " || event.key === "Enter") && hold(true));
  on("plain", "keyup", () => hold(false));
  on("stage", "pointermove", (event) => page && event.pointerType === "mouse" && pointAt(event));
  on("stage", "pointerdown", (event) => page && pointAt(event));
  on("stage", "pointerleave", (event) => {
    if (event.pointerType === "mouse") place = null;
    if (page) showBubble();
  });
  on("theme", "click", () => setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
  const stop = (event) => event.preventDefault();
  for (const event of ["dragenter", "dragover"]) document.addEventListener(event, (e) => (stop(e), document.body.classList.add("over")));
  for (const event of ["dragleave", "drop"]) document.addEventListener(event, (e) => (stop(e), document.body.classList.remove("over")));
  document.addEventListener("drop", (event) => event.dataTransfer.files[0] && choosePhoto(event.dataTransfer.files[0]));
  document.addEventListener("paste", (event) => event.clipboardData.files[0] && choosePhoto(event.clipboardData.files[0]));
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

async function start() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  if (location.protocol === "file:") return say("Browsers run models from a web server only. In this folder run: python -m http.server, then open http://localhost:8000");
  say("Loading the model …");
  index = await (await fetch("about.json")).json();
  tables = colourTables(index.colours);
  document.title = byId("title").textContent = index.title;
  byId("model").textContent = `${index.model}: ${index.label} at ${index.layers.join(", ")}`;
  state = { ...state, gamma: index.gamma, weights: index.weights };
  byId("gamma").max = Math.max(2, Math.ceil(index.gamma));
  worker = new Worker("worker.js", { type: "module" });
  worker.addEventListener("message", onAnswer);
  worker.addEventListener("error", (event) => say(`The model cannot be run here: ${event.message}`));
  listen();
  return null;
}

// For tests: the state and the numbers of the current drawing.
window.finercam = {
  state: () => ({ ...state, busy: document.body.classList.contains("busy"), photo: page ? page.name : null }),
  set: (change) => set(change),
  input: () => Array.from(page.input),
  maps: () => Array.from(upsample(shown.map, ...page.size), (value) => (shown.peak.positive > 0 ? Math.max(value, 0) / shown.peak.positive : 0)),
};

start();
