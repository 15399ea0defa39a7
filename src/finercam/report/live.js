// The page: everything shown is computed from one state, and events only change that state.

const byId = (id) => document.getElementById(id);
const index = JSON.parse(byId("index").textContent);
const tables = colourTables(index.colours);
const pages = new Map();
const times = [];
let state = { picture: null, ...FIRST };
let page = null;
let shown = null; // { map, peak, question } of the last drawing
let held = false; // whether a key or button is held down to show the plain map
let waiting = null;
let plainDrawn = null;
let address = location.hash; // the last hash that was read or written

function pageOf(picture) {
  if (!pages.has(picture)) {
    const data = JSON.parse(byId(`page-${picture}`).textContent);
    pages.set(picture, { ...data, methods: unpackMethods(data.methods) });
  }
  return pages.get(picture);
}

const methodOf = () => page.methods.find((method) => method.name === state.method);
const chosen = () => (state.rivals !== "asked" ? state.rivals : page.asked === "asked" ? [] : page.asked);
const contrasting = () => state.rivals === "asked" || state.rivals.length > 0;

// `controls` says whether the lists must be redrawn too; dragging gamma changes only the map.
function set(change, controls = true) {
  state = { ...state, ...change };
  if (page) state = { ...state, ...nearestAnswerable(page, state) };
  schedule(controls);
}

// Draws at most once per frame, for any number of events.
let pending = null;
function schedule(controls) {
  const first = pending === null;
  pending = pending || controls;
  if (first) {
    requestAnimationFrame(() => {
      const all = pending;
      pending = null;
      if (!page) return;
      if (all) refreshControls();
      redraw();
      remember();
    });
  }
}

// The address is updated after a pause, because browsers limit how often it may change.
function remember() {
  clearTimeout(waiting);
  waiting = setTimeout(() => {
    if (location.hash !== address) return; // another picture was requested, and route() will be called
    history.replaceState(null, "", toAddress(state, page));
    address = location.hash;
  }, 250);
}

function redraw() {
  const began = performance.now();
  const question = { ...state, gamma: held ? 0 : state.gamma };
  shown = answered(question);
  const style = { ...state, size: page.size, tables };
  draw(byId("map"), shown.map, { ...style, strength: shown.strength });
  const { picture, method, target, mode, opacity } = state;
  const same = [picture, method, target, mode, opacity].join();
  if (plainDrawn !== same) draw(byId("plain-map"), shown.plain, { ...style, strength: strengthOf(shown.plain, shown.plain, index.weak, page.layers.length > 1) });
  plainDrawn = same; // it does not change while gamma does
  for (const mini of document.querySelectorAll("canvas[data-place]")) drawMini(mini, question);
  showGamma(question.gamma);
  refreshLegend();
  showWords();
  showBubble();
  times.push(performance.now() - began);
  if (times.length > 600) times.shift();
}

// The map of a question with its peak and strength, or null if the page cannot answer it.
function answered(question) {
  const map = signedMap(page, methodOf(), question);
  if (!map) return null;
  const plain = signedMap(page, methodOf(), { ...question, gamma: 0 });
  return { map, plain, question, peak: peaks(map, page.size), strength: strengthOf(map, plain, index.weak, page.layers.length > 1) };
}

function drawMini(canvas, question) {
  const answer = answered({ ...question, rivals: [Number(canvas.dataset.place)] });
  canvas.hidden = answer === null;
  if (!answer) return;
  const mode = state.mode === "signed" ? "signed" : "overlay";
  draw(canvas, answer.map, { mode, opacity: 0.8, size: page.size, tables, strength: answer.strength, longest: 48 });
}

// --- controls -------------------------------------------------------------------------------------------------------

function refreshControls() {
  const method = methodOf();
  const row = index.images[state.picture];
  byId("file").textContent = row.name;
  byId("file").title = row.name;
  byId("truth").replaceChildren(...truth(row));
  byId("question").replaceChildren(...sentence());
  byId("target").replaceChildren(
    nameOf(page.classes[state.target].name),
    element("small", {}, score(page.probabilities[state.target], page.link)),
  );
  refreshRivals(method);
  byId("gamma").max = gammaLimit(page);
  byId("gamma").disabled = byId("plain").disabled = !contrasting();
  byId("reverse").disabled = !canReverse();
  for (const radio of document.querySelectorAll("input[name=mode]")) radio.checked = radio.value === state.mode;
  byId("opacity").value = state.opacity;
  byId("opacity").disabled = state.mode === "contour";
  if (page.photo) for (const photo of document.querySelectorAll(".stage img")) showPicture(photo, page.photo, mute(state.mode));
  refreshMethods(method);
  refreshAbout(method);
  refreshChecked();
  refreshBeside();
  byId("position").textContent = `${state.picture + 1} / ${index.images.length}`;
  byId("previous").disabled = table.neighbour(state.picture, -1) === null;
  byId("next").disabled = table.neighbour(state.picture, 1) === null;
  document.title = `${row.name} · ${index.title}`;
}

// The certificate and the rival's photo belong to the question as it was asked, and do not follow the controls.
function refreshChecked() {
  byId("checked").hidden = !page.checked;
  byId("checked").textContent = page.checked ? `Checked as asked: ${page.checked}.` : "";
}

function refreshBeside() {
  const { beside } = page;
  byId("beside").hidden = !beside;
  if (!beside) return;
  const target = page.classes[0].name;
  byId("beside-title").replaceChildren("Beside a photo of ", nameOf(beside.rival));
  byId("beside-here-caption").replaceChildren("For ", nameOf(target), ", here");
  byId("beside-there-caption").replaceChildren("For ", nameOf(beside.rival), ", there");
  for (const side of ["here", "there"]) {
    byId(`beside-${side}`).src = beside[side];
    byId(`beside-${side}`).alt = `The evidence with numbered places, ${side}`;
  }
  byId("beside-lines").replaceChildren(...beside.lines.map((line) => element("li", {}, line)));
}

function truth(row) {
  if (row.wrong === null) return [];
  if (!row.wrong) return [" ", element("span", { class: "badge right" }, "predicted right")];
  return [" ", element("span", { class: "badge wrong" }, "predicted wrong"), " it is ", nameOf(row.truth)];
}

function refreshRivals(method) {
  const list = byId("rivals");
  const focused = document.activeElement?.dataset?.rival;
  const rows = page.classes.map((entry, place) => ({ ...entry, place })).filter(({ place }) => place !== state.target);
  list.replaceChildren(...rows.map((row, i) => rivalRow(row, i, method)));
  if (page.asked === "asked") list.prepend(askedRow());
  list.querySelector(`[data-rival="${focused}"]`)?.focus();
  const note = byId("rivals-note");
  note.hidden = page.classes.length > 1;
  note.textContent = "The evidence of single rivals was not kept, so only the question as asked can be shown here. To choose among rivals, explain again with keep=10 or with keep_images=True.";
}

function rivalRow({ name, place }, i, method) {
  const similar = page.similarity?.[state.target]?.[place] ?? null;
  const meter = element("span", { class: "meter", "aria-hidden": "true" }, element("i"));
  meter.firstChild.style.width = `${100 * page.probabilities[place]}%`;
  meter.hidden = page.link === "none";
  const figures = similar === null ? "" : ` · similarity ${similar.toFixed(2)}`;
  const mini = element("span", { class: "mini", "aria-hidden": "true" });
  if (page.photo) {
    mini.append(element("img", { alt: "" }));
    showPicture(mini.firstChild, page.photo, index.mute);
  }
  mini.append(element("canvas", { "data-place": place, width: 1, height: 1 }));
  const example = index.examples[name];
  const possible = answerable(page, method, { ...state, rivals: [place] });
  const button = element(
    "button",
    { type: "button", class: "rival", "data-rival": place, "aria-pressed": String(chosen().includes(place)), disabled: !possible },
    mini,
    element("span", { class: "text" }, nameOf(name), meter, element("small", {}, score(page.probabilities[place], page.link) + figures)),
    element(
      "span", { class: "side" },
      example ? element("img", { class: "example", src: example, alt: "", title: "an example of this class" }) : null,
      i < 9 ? element("kbd", { class: "hint", "aria-hidden": "true" }, String(i + 1)) : null,
    ),
  );
  button.addEventListener("click", () => toggle(place));
  return element("li", {}, button);
}

function askedRow() {
  const names = page.askedNames.slice(0, 3).map((name) => short(name, 40));
  const more = page.askedCount - names.length;
  const text = element(
    "span", { class: "text" },
    element("span", { class: "name" }, element("bdi", {}, more > 0 ? `${names.join(", ")} + ${more} more` : listed(names, "and"))),
    element("small", {}, `the question as asked (${page.weights})`),
  );
  const button = element(
    "button",
    { type: "button", class: "rival", "data-rival": "asked", "aria-pressed": String(state.rivals === "asked"), disabled: state.target !== 0 },
    element("span", { class: "mini", "aria-hidden": "true" }), text,
  );
  button.addEventListener("click", () => set({ rivals: state.rivals === "asked" ? [] : "asked" }));
  return element("li", {}, button);
}

function toggle(place) {
  const now = chosen();
  if (methodOf().kind === "grid") return set({ rivals: now.length === 1 && now[0] === place ? [] : [place] });
  return set({ rivals: now.includes(place) ? now.filter((d) => d !== place) : [...now, place] });
}

function canReverse() {
  const turned = reversed(page, { ...state, rivals: chosen() });
  return turned !== null && !methodOf().fixed && answerable(page, methodOf(), turned);
}

function reverse() {
  if (canReverse()) set(reversed(page, { ...state, rivals: chosen() }));
}

function refreshMethods(method) {
  const group = byId("methods");
  const wanted = page.methods.map((entry) => entry.name).join();
  if (group.dataset.of !== wanted) {
    group.dataset.of = wanted;
    group.replaceChildren(...page.methods.map((entry) => {
      const radio = element("input", { type: "radio", name: "method", value: entry.name });
      radio.addEventListener("change", () => set({ method: entry.name }));
      return element("label", {}, radio, element("span", {}, entry.label));
    }));
  }
  for (const radio of group.querySelectorAll("input")) radio.checked = radio.value === state.method;
  const note = byId("method-note");
  const like = method.as && page.methods.find((entry) => entry.name === method.as);
  note.textContent = method.kind === "grid"
    ? `${method.label} is not linear in the contrast, so the page holds its exact maps at ${method.gammas.length} values of γ, for the question as asked${method.questions.length > 1 ? " and for one rival at a time" : ""}.`
    : like ? `Here ${method.label} gives the same map as ${like.label}: after this layer the model only pools and weighs.`
      : method.fixed ? `${method.label} gathers its evidence for one target, so the reverse question is left out.` : "";
  note.hidden = !note.textContent;
  const select = byId("weights");
  select.value = state.weights;
  select.disabled = method.kind === "grid" || state.rivals === "asked" || chosen().length < 2;
  select.querySelector("[value=orthogonal]").disabled = method.kind !== "linear" || method.layers.some((layer) => !layer.gram);
}

function refreshAbout(method) {
  const kind = method.kind === "grid" ? method.maps[0] : method.layers[0].maps[0];
  const facts = [
    ["Map", "ReLU(S_c − γ Σ ω_d S_d), divided by its own peak; S is what each class sees"],
    ["Method", method.label],
    [page.layers.length > 1 ? `Layers (${page.fusion})` : "Layer", page.layers.join(", ")],
    ["Resolution", `${kind.h} × ${kind.w}, shown at ${page.size[0]} × ${page.size[1]}`],
    ["Asked", `γ = ${page.gamma}, weights “${page.weights}”`],
  ];
  if (page.views > 1) facts.push(["Views", `mean of ${page.views}`]);
  byId("about").replaceChildren(...facts.flatMap(([term, text]) => [element("dt", {}, term), element("dd", {}, text)]));
}

// --- from place to place --------------------------------------------------------------------------------------------

function route() {
  const { picture, parameters } = fromAddress(location.hash, index.images.length);
  clearTimeout(waiting);
  address = location.hash;
  place = null;
  byId("one").hidden = picture === null;
  byId("all").hidden = picture !== null;
  byId("browse").hidden = picture === null || index.images.length === 1;
  if (picture === null) {
    page = null;
    state = { ...state, picture };
    document.title = index.title;
    return;
  }
  const before = state;
  page = pageOf(picture);
  const question = requested(page, parameters);
  const kept = !parameters && page.methods.some((method) => method.name === before.method) ? { method: before.method } : {};
  state = { picture, mode: before.mode, opacity: before.opacity, ...question, ...kept };
  for (const photo of document.querySelectorAll(".stage img")) photo.hidden = page.photo === null;
  byId("one").style.setProperty("--ratio", page.size[1] / page.size[0]);
  for (const store of [axes, extremes]) store.clear();
  set({});
  window.scrollTo(0, 0);
}

function go(step) {
  const next = table.neighbour(state.picture, step);
  if (next !== null) location.hash = `#/${next + 1}`;
}

function hold(on) {
  if (held === on || !page || !contrasting()) return;
  held = on;
  byId("plain").setAttribute("aria-pressed", String(on));
  schedule(false);
}

function save() {
  const link = element("a", { download: `map-${state.picture + 1}.png`, href: sheetOf().toDataURL("image/png") });
  link.click();
}

function setGamma(gamma) {
  set({ gamma: Math.round(1000 * Math.min(gammaLimit(page), Math.max(0, gamma))) / 1000 }, false);
}

function stepGamma(direction, large) {
  const method = methodOf();
  if (method.kind !== "grid") return setGamma(state.gamma + direction * (large ? 0.25 : 0.05));
  const next = nearest(method.gammas, state.gamma) + direction * (large ? 3 : 1);
  return setGamma(method.gammas[Math.min(method.gammas.length - 1, Math.max(0, next))]);
}

const cycle = (list, now) => list[(list.indexOf(now) + 1) % list.length];

const KEYS = {
  ArrowUp: (event) => contrasting() && stepGamma(1, event.shiftKey),
  ArrowDown: (event) => contrasting() && stepGamma(-1, event.shiftKey),
  ArrowLeft: () => go(-1),
  ArrowRight: () => go(1),
  r: reverse,
  m: () => set({ mode: cycle(MODES, state.mode) }),
  n: () => set({ method: cycle(page.methods.map((method) => method.name), state.method) }),
  p: () => hold(true),
  s: save,
  0: () => set({ ...firstQuestion(page), method: state.method }),
  Escape: () => index.images.length > 1 && (location.hash = "#/"),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || byId("help").open) return;
  const { tagName, type } = event.target;
  const arrow = event.key.startsWith("Arrow");
  if (tagName === "SELECT" || type === "search" || (arrow && (type === "range" || type === "radio"))) return;
  if (event.key === "?") return void byId("help").showModal();
  if (!page) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (/^[1-9]$/.test(key)) {
    const button = document.querySelectorAll("#rivals button[data-rival]:not([data-rival=asked])")[Number(key) - 1];
    if (button && !button.disabled) button.click();
  } else if (KEYS[key]) {
    KEYS[key](event);
    event.preventDefault();
  }
}

function dark() {
  const set = document.documentElement.dataset.theme;
  return set ? set === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

function start() {
  const system = matchMedia("(prefers-color-scheme: dark)");
  setTheme(system.matches ? "dark" : "light");
  system.addEventListener("change", () => setTheme(system.matches ? "dark" : "light"));
  table.build(index);
  const on = (id, event, act) => byId(id).addEventListener(event, act);
  on("gamma", "input", () => setGamma(byId("gamma").valueAsNumber));
  on("opacity", "input", () => set({ opacity: byId("opacity").valueAsNumber }, false));
  on("modes", "change", (event) => set({ mode: event.target.value }));
  on("weights", "change", () => set({ weights: byId("weights").value }));
  on("reverse", "click", reverse);
  on("reset", "click", KEYS[0]);
  on("previous", "click", () => go(-1));
  on("next", "click", () => go(1));
  on("theme", "click", () => setTheme(dark() ? "light" : "dark"));
  on("help-open", "click", () => byId("help").showModal());
  on("plain", "pointerdown", () => hold(true));
  for (const event of ["pointerup", "pointerleave", "pointercancel", "blur"]) on("plain", event, () => hold(false));
  on("plain", "keydown", (event) => (event.key === " " || event.key === "Enter") && hold(true));
  on("plain", "keyup", () => hold(false));
  on("stage", "pointermove", (event) => event.pointerType === "mouse" && pointAt(event));
  on("stage", "pointerdown", pointAt);
  on("stage", "pointerleave", (event) => {
    if (event.pointerType === "mouse") place = null;
    showBubble();
  });
  document.addEventListener("keydown", onKey);
  document.addEventListener("keyup", (event) => event.key.toLowerCase() === "p" && hold(false));
  window.addEventListener("blur", () => hold(false));
  window.addEventListener("hashchange", route);
  window.addEventListener("resize", () => page && showBubble());
  route();
}

// For tests: the state and the numbers of the current drawing.
window.finercam = {
  state: () => ({ ...state, classes: page ? page.classes.map((entry) => entry.id) : [] }),
  set: (change) => set(change),
  mapAt: (x, y) => mapAt(x, y),
  maps: () => upsample(shown.map, ...page.size).map((value) => (shown.peak.positive > 0 ? Math.max(value, 0) / shown.peak.positive : 0)),
  signed: () => shown.map,
  peak: () => shown.peak,
  strength: () => shown.strength,
  times: () => times.slice(),
};

start();
