// State: the current question and view as one plain object, and its form in the address.

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

// "#/3?c=12&d=5,7&g=0.6&m=gradcam&w=mean&v=signed&o=0.5": picture 3 (counted from 1), class ids, and the view.
function toAddress(state, page) {
  if (state.picture === null) return "#/";
  const id = (place) => page.classes[place].id;
  const rivals = state.rivals === "asked" ? "asked" : state.rivals.map(id).join(",");
  const parts = { c: id(state.target), d: rivals, g: state.gamma, m: state.method, w: state.weights, v: state.mode };
  if (Math.abs(state.opacity - FIRST.opacity) > 1e-6) parts.o = state.opacity;
  const query = Object.entries(parts).map(([key, value]) => `${key}=${encodeURIComponent(value)}`);
  return `#/${state.picture + 1}?${query.join("&").replaceAll("%2C", ",")}`;
}

// The picture and the other parameters of an address; values that do not fit the page are ignored.
function fromAddress(hash, count) {
  const match = /^#\/(\d+)(?:\?(.*))?$/.exec(hash);
  const picture = match ? Number(match[1]) - 1 : null;
  if (picture === null || !(picture >= 0 && picture < count)) return { picture: count === 1 ? 0 : null, parameters: null };
  return { picture, parameters: match[2] === undefined ? null : new URLSearchParams(match[2]) };
}

// The question of an address, completed by the question of the explanation.
function requested(page, parameters) {
  const question = firstQuestion(page);
  if (!parameters) return question;
  const place = (id) => (/^\d+$/.test(id) ? page.classes.findIndex((entry) => entry.id === Number(id)) : -1);
  const target = place(parameters.get("c") || "");
  if (target >= 0) question.target = target;
  if (parameters.get("d") === "asked" && page.asked === "asked") question.rivals = "asked";
  else if (parameters.has("d")) question.rivals = [...new Set(parameters.get("d").split(",").map(place))].filter((d) => d >= 0 && d !== question.target);
  const gamma = Number.parseFloat(parameters.get("g"));
  if (gamma >= 0 && gamma <= gammaLimit(page)) question.gamma = gamma;
  if (page.methods.some((method) => method.name === parameters.get("m"))) question.method = parameters.get("m");
  if (WEIGHTS.includes(parameters.get("w"))) question.weights = parameters.get("w");
  if (MODES.includes(parameters.get("v"))) question.mode = parameters.get("v");
  const opacity = Number.parseFloat(parameters.get("o"));
  if (opacity >= 0 && opacity <= 1) question.opacity = opacity;
  return question;
}

function gammaLimit(page) {
  return Math.max(2, Math.ceil(page.gamma));
}

// The reverse question, as Explanation.reverse: the first rival as the target, against the target.
function reversed(page, state) {
  const first = state.rivals === "asked" ? null : state.rivals[0];
  if (first === undefined || first === null) return null;
  return { ...state, target: first, rivals: [state.target] };
}

// Whether the page can answer a question: any one of a linear method, otherwise only those computed in advance.
function answerable(page, method, state) {
  return signedMap(page, method, state) !== null;
}

// The question closest to this one that the method can answer.
function nearestAnswerable(page, state) {
  const method = page.methods.find((entry) => entry.name === state.method);
  let question = state;
  if (question.target !== 0 && method.fixed) question = { ...question, target: 0, rivals: firstQuestion(page).rivals };
  if (method.kind === "grid") {
    const asked = JSON.stringify(firstQuestion(page).rivals);
    if (question.target === 0 && JSON.stringify(question.rivals) === asked) question = { ...question, rivals: "asked" };
    if (!answerable(page, method, question) && question.rivals !== "asked") question = { ...question, rivals: question.rivals.slice(-1) };
    if (!answerable(page, method, question)) question = { ...question, target: 0, rivals: "asked" };
    return { ...question, gamma: method.gammas[nearest(method.gammas, question.gamma)] };
  }
  if (question.rivals === "asked" && page.asked !== "asked") return { ...question, rivals: page.asked.slice() };
  if (!answerable(page, method, question)) return { ...question, ...firstQuestion(page), method: method.name };
  return question;
}
