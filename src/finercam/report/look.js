// What belongs to the drawn map: the slider of gamma, the legend, and the value at the place pointed at.

// Tints are drawn on a photo with reduced colours, contour lines on the original one.
const mute = (mode) => (mode === "contour" ? 0 : index.mute);

function showGamma(gamma) {
  const slider = byId("gamma");
  slider.value = gamma;
  slider.style.setProperty("--fill", `${(100 * gamma) / slider.max}%`);
  slider.setAttribute("aria-valuetext", `${gamma.toFixed(2)}${gamma === 0 ? ", the plain method" : ""}`);
  byId("gamma-value").textContent = gamma.toFixed(2);
  byId("opacity").style.setProperty("--fill", `${100 * state.opacity}%`);
}

// The labels of the two ends of the legend, as in the panel.
function legendEnds(weak = shown.strength.weak) {
  if (state.mode !== "signed") return ["no evidence", weak ? "peak of a clear map" : "peak"];
  return [rivalNames().map((name) => short(name, 40)).join(", ") || "against", short(page.classes[state.target].name, 40)];
}

// The colours as they look on a grey photo, `count` of them.
function rampColours(count) {
  const words = palette(tables, state.mode === "signed", 0.8);
  const bytes = new Uint8Array(words.buffer);
  return Array.from({ length: count }, (_, i) => {
    const at = 4 * Math.round((i * (words.length - 1)) / (count - 1));
    const alpha = bytes[at + 3] / 255;
    return `rgb(${[0, 1, 2].map((c) => Math.round(alpha * bytes[at + c] + (1 - alpha) * 184)).join(" ")})`;
  });
}

function refreshLegend() {
  const [low, high] = legendEnds();
  byId("legend-low").textContent = low;
  byId("legend-high").textContent = high;
  byId("ramp").style.backgroundImage = `linear-gradient(90deg, ${rampColours(17).join(", ")})`;
}

let place = null;

function pointAt(event) {
  const box = byId("stage").getBoundingClientRect();
  const [height, width] = page.size;
  const inside = (value, most) => Math.min(most - 1, Math.max(0, Math.floor(value)));
  place = {
    x: inside(((event.clientX - box.left) / box.width) * width, width),
    y: inside(((event.clientY - box.top) / box.height) * height, height),
  };
  showBubble();
}

function mapAt(x, y) {
  const raw = valueAt(shown.map, page.size, x, y);
  const { positive, magnitude } = shown.peak;
  return { raw, value: positive > 0 ? Math.max(raw, 0) / positive : 0, signed: magnitude > 0 ? raw / magnitude : 0 };
}

function showBubble() {
  byId("dot").hidden = byId("bubble").hidden = !place;
  if (!place) return;
  const stage = byId("stage");
  const [x, y] = [((place.x + 0.5) / page.size[1]) * stage.clientWidth, ((place.y + 0.5) / page.size[0]) * stage.clientHeight];
  const { raw, value, signed } = mapAt(place.x, place.y);
  byId("value").textContent = state.mode === "signed" ? `${signed < 0 ? "−" : "+"}${Math.abs(signed).toFixed(2)}` : value.toFixed(2);
  byId("raw").textContent = `before scaling ${raw.toPrecision(2).replace("-", "−")}`;
  const bubble = byId("bubble");
  const left = x + 16 + bubble.offsetWidth > stage.clientWidth ? x - 16 - bubble.offsetWidth : x + 16;
  const top = Math.min(Math.max(4, y - bubble.offsetHeight / 2), stage.clientHeight - bubble.offsetHeight - 4);
  byId("dot").style.transform = `translate(${x}px, ${y}px)`;
  bubble.style.transform = `translate(${Math.max(4, left)}px, ${top}px)`;
}
