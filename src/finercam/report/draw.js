// Drawing: a map as colours over the photo, or as contour lines. The page contains the colour tables.

const LEVELS = [0.25, 0.5, 0.75];
const [LINE, EDGE] = [1.1, 2.2]; // half the width of a line and of its dark edge, in pixels of the drawing
const EDGE_COLOUR = [10, 5, 20];
const LONGEST = 560; // drawn pixels of the longer side; numbers are computed at the full size

function colourTables(colours) {
  return {
    evidence: bytesOf(colours.evidence),
    signed: bytesOf(colours.signed),
    opacity: bytesOf(colours.opacity),
  };
}

// RGBA words for 256 steps of evidence in [0, 1], or 511 steps of signed evidence in [-1, 1].
function palette(tables, signed, strength) {
  const words = new Uint32Array(signed ? 511 : 256);
  const view = new Uint8ClampedArray(words.buffer);
  for (let i = 0; i < words.length; i++) {
    const unit = signed ? (i - 255) / 255 : i / 255;
    const from = signed ? tables.signed : tables.evidence;
    const at = 3 * Math.round(signed ? ((unit + 1) / 2) * 255 : unit * 255);
    view.set([from[at], from[at + 1], from[at + 2], strength * tables.opacity[Math.round(Math.abs(unit) * 255)]], 4 * i);
  }
  return words;
}

function drawingSize(size, longest) {
  const factor = Math.min(1, longest / Math.max(...size));
  return size.map((side) => Math.max(1, Math.round(side * factor)));
}

// Colours of a map, upsampled to the canvas; places without evidence stay transparent.
function paint(canvas, map, peak, mode, words) {
  const [height, width] = [canvas.height, canvas.width];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const [ys, xs] = [once(axes, axis, map.h, height), once(axes, axis, map.w, width)];
  const row = new Float64Array(map.w);
  const middle = mode === "signed" ? 255 : 0;
  const scale = peak > 0 ? 255 / peak : 0;
  const least = mode === "signed" ? -255 : 0;
  for (let y = 0; y < height; y++) {
    blendRow(map, ys, y, row);
    for (let x = 0; x < width; x++) {
      const left = row[xs.first[x]];
      let value = (left + (row[xs.second[x]] - left) * xs.fraction[x]) * scale;
      value = value < least ? least : value > 255 ? 255 : value;
      out[y * width + x] = words[(middle + value + 0.5) | 0];
    }
  }
  context.putImageData(image, 0, 0);
}

// Contour lines at levels of the map's peak, in the colour of the level with a dark edge. The distance of a pixel from
// a line follows from its value and the slope of the map, so each pixel is coloured independently, with soft edges.
function contours(canvas, map, peak, tables) {
  const [height, width] = [canvas.height, canvas.width];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  if (peak > 0) {
    const [ys, xs] = [once(axes, axis, map.h, height), once(axes, axis, map.w, width)];
    const [row, slope] = [new Float64Array(map.w), new Float64Array(map.w)];
    const [low, high] = [((LEVELS[0] + LEVELS[1]) / 2) * peak, ((LEVELS[1] + LEVELS[2]) / 2) * peak];
    const reach = EDGE + 0.5;
    for (let y = 0; y < height; y++) {
      blendRow(map, ys, y, row);
      slopeRow(map, ys, y, slope, map.h / height);
      for (let x = 0; x < width; x++) {
        const a = xs.first[x];
        const b = xs.second[x];
        const f = xs.fraction[x];
        const value = row[a] + (row[b] - row[a]) * f;
        const level = value < low ? LEVELS[0] : value < high ? LEVELS[1] : LEVELS[2];
        const off = Math.abs(value - level * peak);
        const dx = ((row[b] - row[a]) * map.w) / width;
        const dy = slope[a] + (slope[b] - slope[a]) * f;
        if (off > reach * (Math.abs(dx) + Math.abs(dy))) continue;
        const distance = off / Math.sqrt(dx * dx + dy * dy);
        if (distance < reach) linePixel(image.data, 4 * (y * width + x), distance, level, tables);
      }
    }
  }
  context.putImageData(image, 0, 0);
}

function linePixel(data, at, distance, level, tables) {
  const colour = 3 * Math.round(level * 255);
  const inside = Math.min(1, Math.max(0, LINE + 0.5 - distance));
  for (let c = 0; c < 3; c++) data[at + c] = tables.evidence[colour + c] * inside + EDGE_COLOUR[c] * (1 - inside);
  data[at + 3] = Math.max(data[at + 3], 255 * Math.max(inside, 0.7 * Math.min(1, EDGE + 0.5 - distance)));
}

function slopeRow(map, ys, y, slope, perPixel) {
  const [top, bottom] = [ys.first[y] * map.w, ys.second[y] * map.w];
  for (let x = 0; x < map.w; x++) slope[x] = (map.values[bottom + x] - map.values[top + x]) * perPixel;
}

// Draws a signed map, dimmed if its evidence is weak (`strength` is from strengthOf).
function draw(canvas, signed, { size, mode, opacity, tables, strength, longest = LONGEST }) {
  // Small pictures are enlarged for contour lines, which would be coarse otherwise.
  const grown = mode === "contour" ? Math.max(1, LONGEST / Math.max(...size)) : 1;
  const [height, width] = drawingSize(size.map((side) => side * grown), longest);
  if (canvas.height !== height || canvas.width !== width) [canvas.height, canvas.width] = [height, width];
  const map = smooth(signed, Math.min(256, longest));
  const peak = peaks(map, size);
  if (mode === "contour") contours(canvas, map, peak.positive / strength.brightness, tables);
  else if (mode === "signed") paint(canvas, map, peak.magnitude / strength.signedBrightness, mode, palette(tables, true, opacity));
  else paint(canvas, map, peak.positive / strength.brightness, mode, palette(tables, false, opacity));
}

const greys = new Map();

// A picture with reduced colours, so that the colours of the map stand out. It is made once, because a filter would be
// applied again in every frame.
function greyOf(address, mute) {
  if (!greys.has(address)) {
    const image = new Image();
    image.src = address;
    greys.set(address, image.decode().then(() => {
      const sheet = document.createElement("canvas");
      [sheet.width, sheet.height] = [image.naturalWidth, image.naturalHeight];
      const context = sheet.getContext("2d");
      context.drawImage(image, 0, 0);
      context.globalCompositeOperation = "saturation";
      context.globalAlpha = mute;
      context.fillStyle = "#808080";
      context.fillRect(0, 0, sheet.width, sheet.height);
      return sheet.toDataURL("image/jpeg", 0.92);
    }));
  }
  return greys.get(address);
}

// Shows a picture, with colours reduced by `muted` (0 to 1). Of several overlapping calls the last one wins.
async function showPicture(image, address, mute) {
  const request = Symbol("request");
  image.request = request;
  const shown = mute ? await greyOf(address, mute) : address;
  if (image.request === request && image.src !== shown) image.src = shown;
}
