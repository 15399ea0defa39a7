// State: what is being looked at, as one plain object, and its form in the address.

const MODES = ["overlay", "contour", "signed"];
const WEIGHTS = ["mean", "probability", "orthogonal"];
const FIRST = { mode: "overlay", opacity: 0.72 };

// The question of the explanation in Python.
function firstQuestion(page) {
  return {
    target: 0,
    rivals: page.asked === "asked" ? "asked" : page.asked.slice(),
    gamma: page.gamma,
    weights: WEIGHTS.includes(page.weights) ? page.weights : "mean",
    method: page.methods[0].name,
  };
}

// "#/3?c=12&d=5,7&g=0.6&m=gradcam&w=mean&v=signed&o=0.5": picture 3 (from 1), class ids, and how it is shown.
function toAddress(state, page) {
  if (state.picture === null) return "#/";
  const id = (place) => page.classes[place].id;
  const rivals = state.rivals === "asked" ? "asked" : state.rivals.map(id).join(",");
  const parts = { c: id(state.target), d: rivals, g: state.gamma, m: state.method, w: state.weights, v: state.mode };
  if (Math.abs(state.opacity - FIRST.opacity) > 1e-6) parts.o = state.opacity;
  const query = Object.entries(parts).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
  return `#/${state.picture + 1}?${query.join("&").replaceAll("%2C", ",")}`;
}

// The picture and the other parameters of an address; what does not fit the page is ignored.
function fromAddress(hash, count) {
  const match = /^#\/(\d+)(?:\?(.*))?$/.exec(hash);
  const picture = match ? Number(match[1]) - 1 : null;
  if (picture === null || !(picture >= 0 && picture < count)) return { picture: count === 1 ? 0 : null, parameters: null };
  return { picture, parameters: match[2] === undefined ? null : new URLSearchParams(match[2]) };
}

function requested(page, parameters) {
  const found = firstQuestion(page);
  if (!parameters) return found;
  const place = (id) => (/^\d+$/.test(id) ? page.classes.findIndex((entry) => entry.id === Number(id)) : -1);
  const target = place(parameters.get("c") || "");
  if (target >= 0) found.target = target;
  if (parameters.get("d") === "asked" && page.asked === "asked") found.rivals = "asked";
  else if (parameters.has("d")) found.rivals = [...new Set(parameters.get("d").split(",").map(place))].filter((d) => d >= 0 && d !== found.target);
  const gamma = Number.parseFloat(parameters.get("g"));
  if (gamma >= 0 && gamma <= gammaLimit(page)) found.gamma = gamma;
  if (page.methods.some((method) => method.name === parameters.get("m"))) found.method = parameters.get("m");
  if (WEIGHTS.includes(parameters.get("w"))) found.weights = parameters.get("w");
  if (MODES.includes(parameters.get("v"))) found.mode = parameters.get("v");
  const opacity = Number.parseFloat(parameters.get("o"));
  if (opacity >= 0 && opacity <= 1) found.opacity = opacity;
  return found;
}

function gammaLimit(page) {
  return Math.max(2, Math.ceil(page.gamma));
}

// The reverse question, as Explanation.reverse: why the first rival, and not the target?
function reversed(page, state) {
  const first = state.rivals === "asked" ? null : state.rivals[0];
  if (first === undefined || first === null) return null;
  return { ...state, target: first, rivals: [state.target] };
}

// The rivals a method can answer for: any set where it is linear, else the questions computed beforehand.
function answerable(page, method, state) {
  return signedMap(page, method, state) !== null;
}

// The question that the method can answer and that is nearest to this one.
function nearestAnswerable(page, state) {
  const method = page.methods.find((entry) => entry.name === state.method);
  let found = state;
  if (found.target !== 0 && method.fixed) found = { ...found, target: 0, rivals: firstQuestion(page).rivals };
  if (method.kind === "grid") {
    const asked = JSON.stringify(firstQuestion(page).rivals);
    if (found.target === 0 && JSON.stringify(found.rivals) === asked) found = { ...found, rivals: "asked" };
    if (!answerable(page, method, found) && found.rivals !== "asked") found = { ...found, rivals: found.rivals.slice(-1) };
    if (!answerable(page, method, found)) found = { ...found, target: 0, rivals: "asked" };
    return { ...found, gamma: method.gammas[nearest(method.gammas, found.gamma)] };
  }
  if (found.rivals === "asked" && page.asked !== "asked") return { ...found, rivals: page.asked.slice() };
  if (!answerable(page, method, found)) return { ...found, ...firstQuestion(page), method: method.name };
  return found;
}
