// Drawing: a map as colours over the photo, or as lines. Tables of colours come with the page.

const LEVELS = [0.25, 0.5, 0.75];
const LONGEST = 560; // pixels drawn along the longer side; the numbers are of the full size all the same

function colourTables(colours) {
  return {
    evidence: bytesOf(colours.evidence),
    signed: bytesOf(colours.signed),
    opacity: bytesOf(colours.opacity),
  };
}

// RGBA words for 256 steps of evidence in [0, 1], or 511 steps of signed evidence in [-1, 1].
function palette(tables, mode, strength) {
  const signed = mode === "signed";
  const steps = signed ? 511 : 256;
  const words = new Uint32Array(steps);
  const view = new Uint8ClampedArray(words.buffer);
  for (let i = 0; i < steps; i++) {
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

const axes = new Map(); // sampling places do not change while gamma does

function axisOnce(n, size) {
  const key = `${n}/${size}`;
  if (!axes.has(key)) axes.set(key, axis(n, size));
  return axes.get(key);
}

// Colours of a native map, upsampled to the canvas; nothing is drawn where there is no evidence.
function paint(canvas, map, peak, mode, words) {
  const [height, width] = [canvas.height, canvas.width];
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const out = new Uint32Array(image.data.buffer);
  const [ys, xs] = [axisOnce(map.h, height), axisOnce(map.w, width)];
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
      out[y * width + x] = words[middle + Math.round(value)];
    }
  }
  context.putImageData(image, 0, 0);
}

// Lines where the map passes each level of its peak, by marching squares on a grid finer than the map's own.
function contours(canvas, map, peak, tables, scale) {
  const context = canvas.getContext("2d");
  context.clearRect(0, 0, canvas.width, canvas.height);
  if (!(peak > 0)) return;
  const longest = 150;
  const factor = longest / Math.max(canvas.width, canvas.height);
  const [rows, columns] = [Math.ceil(canvas.height * factor), Math.ceil(canvas.width * factor)];
  const values = rimmed(upsample(map, rows, columns), rows, columns);
  const [stepX, stepY] = [canvas.width / columns, canvas.height / rows];
  context.lineCap = context.lineJoin = "round";
  const paths = LEVELS.map((level) => [level, isoline(values, columns + 2, rows + 2, level * peak, stepX, stepY)]);
  for (const [width, coloured] of [[4.6, false], [2.6, true]]) {
    for (const [level, path] of paths) {
      const at = 3 * Math.round(level * 255);
      const [r, g, b] = tables.evidence.subarray(at, at + 3);
      context.strokeStyle = coloured ? `rgb(${r} ${g} ${b})` : "rgb(10 5 20 / 0.75)";
      context.lineWidth = width * scale;
      context.stroke(path);
    }
  }
}

// A rim of nothing closes the lines at the picture's edge.
function rimmed(values, rows, columns) {
  const out = new Float64Array((rows + 2) * (columns + 2));
  for (let y = 0; y < rows; y++) out.set(values.subarray(y * columns, (y + 1) * columns), (y + 1) * (columns + 2) + 1);
  return out;
}

function isoline(values, columns, rows, level, stepX, stepY) {
  const path = new Path2D();
  const crossing = (a, b) => (level - a) / (b - a);
  for (let y = 0; y + 1 < rows; y++) {
    for (let x = 0; x + 1 < columns; x++) {
      const at = y * columns + x;
      const [a, b, c, d] = [values[at], values[at + 1], values[at + columns + 1], values[at + columns]];
      const ends = [];
      if (a >= level !== b >= level) ends.push([x + crossing(a, b), y]);
      if (b >= level !== c >= level) ends.push([x + 1, y + crossing(b, c)]);
      if (c >= level !== d >= level) ends.push([x + crossing(d, c), y + 1]);
      if (d >= level !== a >= level) ends.push([x, y + crossing(a, d)]);
      for (let e = 0; e + 1 < ends.length; e += 2) {
        // the rim took one place, and values stand at the middle of their cells
        path.moveTo((ends[e][0] - 0.5) * stepX, (ends[e][1] - 0.5) * stepY);
        path.lineTo((ends[e + 1][0] - 0.5) * stepX, (ends[e + 1][1] - 0.5) * stepY);
      }
    }
  }
  return path;
}

function draw(canvas, map, peak, { size, mode, opacity, tables, longest = LONGEST }) {
  const lines = mode === "contour";
  const [height, width] = drawingSize(size, lines ? 1e9 : longest);
  const scale = lines ? Math.max(1, 900 / Math.max(height, width)) : 1;
  const wanted = [Math.round(height * scale), Math.round(width * scale)];
  if (canvas.height !== wanted[0] || canvas.width !== wanted[1]) [canvas.height, canvas.width] = wanted;
  if (lines) contours(canvas, map, peak.positive, tables, Math.max(...wanted) / 620);
  else paint(canvas, map, mode === "signed" ? peak.magnitude : peak.positive, mode, palette(tables, mode, opacity));
}
