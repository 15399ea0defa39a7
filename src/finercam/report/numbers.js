// Numbers: unpacking, contrast, fusion, upsampling and peaks. Pure functions of arrays with the same results as Python.

const GAMMA_SLACK = 1e-9;

function bytesOf(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

// Unpacks maps written by report/pack.py: [{h, w, values: Float64Array, noise}]; `noise` is the largest rounding error.
function unpack(packed) {
  const [h, w] = packed.shape;
  const bytes = bytesOf(packed.data);
  const whole = packed.bits === 16 ? new Int16Array(bytes.buffer) : new Int8Array(bytes.buffer);
  return packed.scales.map((scale, m) => {
    const values = Float64Array.from(whole.subarray(m * h * w, (m + 1) * h * w));
    for (let i = 0; i < values.length; i++) values[i] *= scale;
    return { h, w, values, noise: scale / 2 };
  });
}

function unpackMethods(methods) {
  const unpacked = methods.map((method) => {
    if (method.kind === "grid") return { ...method, maps: unpack(method.maps) };
    if (method.kind !== "linear") return { ...method };
    const layers = method.layers.map((layer) => ({
      maps: unpack(layer.maps),
      rest: layer.rest ? unpack(layer.rest)[0] : null,
      asked: layer.asked ? unpack(layer.asked) : null,
      gram: layer.gram || null,
    }));
    return { ...method, layers };
  });
  for (const method of unpacked) {
    if (method.kind === "same") Object.assign(method, { ...unpacked.find((m) => m.name === method.as), ...named(method) });
  }
  return unpacked;
}

function named(method) {
  return { name: method.name, label: method.label, as: method.as };
}

// The weights of the rivals: "mean" is 1/T, "probability" a softmax over the rivals, and "orthogonal" the least squares
// solution that makes the target's channel weights orthogonal to those of the rivals.
function rivalWeights(kind, logits, gram, target, rivals) {
  if (!rivals.length) return [];
  if (kind === "probability") {
    const top = Math.max(...rivals.map((d) => logits[d]));
    const powers = rivals.map((d) => Math.exp(logits[d] - top));
    const sum = powers.reduce((a, b) => a + b, 0);
    return powers.map((p) => p / sum);
  }
  if (kind === "orthogonal" && gram) {
    const inner = rivals.map((a) => rivals.map((b) => gram[a][b]));
    return leastSquares(inner, rivals.map((d) => gram[d][target]), 1e-10);
  }
  return rivals.map(() => 1 / rivals.length);
}

// x = pinv(A) b for a symmetric A, by Jacobi rotations; directions below `rtol` of the largest are left out.
function leastSquares(matrix, right, rtol) {
  const n = right.length;
  const a = matrix.map((row) => row.slice());
  const v = a.map((_, i) => a.map((__, j) => (i === j ? 1 : 0)));
  for (let sweep = 0; sweep < 60; sweep++) {
    let off = 0;
    let all = 0;
    for (let i = 0; i < n; i++) for (let j = 0; j < n; j++) (i === j ? 0 : (off += a[i][j] ** 2), (all += a[i][j] ** 2));
    if (off <= 1e-30 * all) break;
    for (let p = 0; p < n; p++) for (let q = p + 1; q < n; q++) rotate(a, v, p, q);
  }
  const values = a.map((row, i) => row[i]);
  const least = rtol * Math.max(...values.map(Math.abs));
  const along = values.map((value, k) => {
    if (Math.abs(value) <= least) return 0;
    let dot = 0;
    for (let i = 0; i < n; i++) dot += v[i][k] * right[i];
    return dot / value;
  });
  return right.map((_, i) => along.reduce((sum, x, k) => sum + v[i][k] * x, 0));
}

function rotate(a, v, p, q) {
  if (a[p][q] === 0) return;
  const theta = (a[q][q] - a[p][p]) / (2 * a[p][q]);
  const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
  const c = 1 / Math.sqrt(t * t + 1);
  const s = t * c;
  for (let k = 0; k < a.length; k++) [a[k][p], a[k][q]] = [c * a[k][p] - s * a[k][q], s * a[k][p] + c * a[k][q]];
  for (let k = 0; k < a.length; k++) [a[p][k], a[q][k]] = [c * a[p][k] - s * a[q][k], s * a[p][k] + c * a[q][k]];
  for (let k = 0; k < a.length; k++) [v[k][p], v[k][q]] = [c * v[k][p] - s * v[k][q], s * v[k][p] + c * v[k][q]];
}

// The map before the ReLU, S_c - gamma * sum_d w_d S_d, at the layer's resolution, or null if the page lacks it.
// `rivals` are indices of the picture's classes, or "asked" for the question of the explanation.
function signedMap(page, method, { target, rivals, gamma, weights }) {
  if (method.kind === "grid") return fromGrid(method, target, rivals, gamma);
  const maps = method.layers.map((layer) => contrasted(page, method, layer, target, rivals, gamma, weights));
  return maps.some((map) => !map) ? null : fuse(maps, page.fusion);
}

function contrasted(page, method, layer, target, rivals, gamma, weights) {
  if (rivals === "asked") {
    if (!layer.asked || target !== 0) return null;
    return combine([layer.asked[0], layer.asked[1]], [1, -gamma]);
  }
  const shares = rivalWeights(weights, page.logits, layer.gram, target, rivals);
  const maps = [layer.maps[target], ...rivals.map((d) => layer.maps[d])];
  const factors = [1, ...shares.map((share) => -gamma * share)];
  if (layer.rest) {
    // The map of each class has its score of the empty input subtracted; for rivals it is added again.
    maps.push(layer.rest);
    factors.push(rivals.reduce((sum, d, t) => sum - gamma * shares[t] * method.baseline[d], 0));
  }
  return combine(maps, factors);
}

function combine(maps, factors) {
  const values = new Float64Array(maps[0].values.length);
  let noise = 0;
  maps.forEach((map, m) => {
    const factor = factors[m];
    noise += Math.abs(factor) * map.noise;
    if (factor !== 0) for (let i = 0; i < values.length; i++) values[i] += factor * map.values[i];
  });
  return { h: maps[0].h, w: maps[0].w, values, noise };
}

function fromGrid(method, target, rivals, gamma) {
  const key = JSON.stringify(rivals);
  const q = method.questions.findIndex((entry) => entry.target === target && JSON.stringify(entry.against) === key);
  const plain = method.questions.findIndex((entry) => entry.target === target);
  if (!rivals.length && plain >= 0) return method.maps[plain * method.gammas.length];
  return q < 0 ? null : method.maps[q * method.gammas.length + nearest(method.gammas, gamma)];
}

function nearest(values, wanted) {
  let best = 0;
  for (let i = 1; i < values.length; i++) {
    if (Math.abs(values[i] - wanted) < Math.abs(values[best] - wanted) - GAMMA_SLACK) best = i;
  }
  return best;
}

function largest(values, of = (v) => v) {
  let largest = -Infinity;
  for (const value of values) if (of(value) > largest) largest = of(value);
  return largest;
}

function fuse(maps, fusion) {
  if (maps.length === 1) return maps[0];
  const finest = maps.reduce((a, b) => (b.h * b.w > a.h * a.w ? b : a));
  const scaled = maps.map((map) => {
    const most = largest(map.values, Math.abs);
    const peak = most > blur(map) ? most : Infinity;
    const values = map.values.map((value) => value / peak);
    return upsample({ h: map.h, w: map.w, values }, finest.h, finest.w);
  });
  const means = scaled.map((map) => map.reduce((sum, value) => sum + Math.abs(value), 0) / map.length || 1);
  const values = scaled[0].map((_, i) => {
    const at = scaled.map((map) => map[i]);
    if (fusion === "mean") return at.reduce((a, b) => a + b, 0) / at.length;
    if (fusion === "weighted") return at.reduce((sum, value, l) => sum + value / means[l], 0) / at.length;
    const forIt = at.reduce((a, b) => a * Math.max(b, 0), 1);
    const product = forIt - at.reduce((a, b) => a * Math.max(-b, 0), 1);
    return fusion === "product" ? product : Math.sign(product) * Math.abs(product) ** (1 / at.length);
  });
  // The rounding error of each layer, relative to its peak.
  const noise = maps.reduce((sum, map) => sum + map.noise / (largest(map.values, Math.abs) || 1), 0);
  if (fusion !== "weighted") return { h: finest.h, w: finest.w, values, noise };
  const peak = largest(values, Math.abs) || 1;
  const most = noise / (Math.min(...means) * maps.length * peak);
  return { h: finest.h, w: finest.w, values: values.map((value) => value / peak), noise: most };
}

// Values within the rounding error are not counted as evidence.
function blur(map) {
  return (map.noise || 0) * (1 + 1e-9);
}

// Enlarges a map up to eight times by quadratic B-splines, as view/drawn.py does: without star-shaped creases and
// without new extremes. More than `side` places are not needed.
function smooth(map, side) {
  const finer = Math.min(8, Math.ceil(side / Math.max(map.h, map.w)));
  if (finer < 2) return map;
  const [h, w] = [map.h * finer, map.w * finer];
  const [ys, xs] = [once(splines, spline, map.h, finer), once(splines, spline, map.w, finer)];
  const values = new Float64Array(h * w);
  const row = new Float64Array(map.w);
  for (let y = 0; y < h; y++) {
    const [above, middle, below] = [0, 1, 2].map((k) => map.w * ys.places[3 * y + k]);
    const [a, b, c] = ys.weights.subarray(3 * y, 3 * y + 3);
    for (let x = 0; x < map.w; x++) row[x] = a * map.values[above + x] + b * map.values[middle + x] + c * map.values[below + x];
    for (let x = 0, at = 0; x < w; x++, at += 3) {
      values[y * w + x] = xs.weights[at] * row[xs.places[at]] + xs.weights[at + 1] * row[xs.places[at + 1]] + xs.weights[at + 2] * row[xs.places[at + 2]];
    }
  }
  return { h, w, values, noise: map.noise };
}

const splines = new Map();

// For each of n * finer pixels the three nearest of n places and their weights; places at the edges are repeated.
function spline(n, finer) {
  const [places, weights] = [new Int32Array(3 * n * finer), new Float64Array(3 * n * finer)];
  for (let i = 0; i < n * finer; i++) {
    const at = (i + 0.5) / finer - 0.5;
    const [middle, t] = [Math.round(at), at - Math.round(at)];
    weights.set([(0.5 - t) ** 2 / 2, 0.75 - t * t, (0.5 + t) ** 2 / 2], 3 * i);
    for (let k = 0; k < 3; k++) places[3 * i + k] = Math.min(n - 1, Math.max(0, middle + k - 1));
  }
  return { places, weights };
}

// The strength of a map relative to the plain map and to the evidence against the target, as view/strength.py.
// The sums of fused layers, each divided by its own peak, have no common scale.
function strengthOf(map, plain, weak, fused) {
  const sum = (values, sign) => values.reduce((total, value) => total + Math.max(0, sign * value), 0);
  const ratio = (part, whole) => (whole > 0 ? part / whole : Number(part > 0));
  const [positive, negative, whole] = [sum(map.values, 1), sum(map.values, -1), sum(plain.values, 1)];
  const [share, relative] = [ratio(positive, positive + negative), ratio(positive, whole)];
  const value = fused ? share : Math.min(share, relative, 1);
  return {
    share, relative, fused, weak: value < weak, brightness: Math.min(1, value / weak),
    signedBrightness: fused ? 1 : Math.min(1, ratio(positive + negative, whole) / weak),
  };
}

// The position of output pixels among n input pixels (align_corners=False), as two indices and a fraction.
function axis(n, size) {
  const first = new Int32Array(size);
  const second = new Int32Array(size);
  const fraction = new Float64Array(size);
  for (let i = 0; i < size; i++) {
    const at = n === size ? i : Math.max(0, ((i + 0.5) * n) / size - 0.5);
    first[i] = Math.min(Math.floor(at), n - 1);
    second[i] = Math.min(first[i] + 1, n - 1);
    fraction[i] = at - first[i];
  }
  return { first, second, fraction };
}

function upsample(map, height, width) {
  const [ys, xs] = [once(axes, axis, map.h, height), once(axes, axis, map.w, width)];
  const out = new Float64Array(height * width);
  const row = new Float64Array(map.w);
  for (let y = 0; y < height; y++) {
    blendRow(map, ys, y, row);
    for (let x = 0; x < width; x++) {
      const left = row[xs.first[x]];
      out[y * width + x] = left + (row[xs.second[x]] - left) * xs.fraction[x];
    }
  }
  return out;
}

function blendRow(map, ys, y, row) {
  const [top, bottom, f] = [ys.first[y] * map.w, ys.second[y] * map.w, ys.fraction[y]];
  for (let x = 0; x < map.w; x++) row[x] = map.values[top + x] + (map.values[bottom + x] - map.values[top + x]) * f;
}

// The value at one pixel of an image of size (height, width).
function valueAt(map, size, x, y) {
  const [ys, xs] = [axisAt(map.h, size[0], y), axisAt(map.w, size[1], x)];
  const row = (i) => map.values[i * map.w + xs[0]] * (1 - xs[2]) + map.values[i * map.w + xs[1]] * xs[2];
  return row(ys[0]) * (1 - ys[2]) + row(ys[1]) * ys[2];
}

function axisAt(n, size, i) {
  const at = n === size ? i : Math.max(0, ((i + 0.5) * n) / size - 0.5);
  const first = Math.min(Math.floor(at), n - 1);
  return [first, Math.min(first + 1, n - 1), at - first];
}

const axes = new Map(); // sampling positions do not depend on gamma, so they are cached
const extremes = new Map();

function once(store, make, n, size) {
  const key = n * 65536 + size;
  if (!store.has(key)) store.set(key, make(n, size));
  return store.get(key);
}

// The largest positive value of the map at the image's size with its position, and the largest magnitude. The map is
// linear in x and in y between four input pixels, so only the pixels next to an input pixel can be extreme.
function peaks(map, size) {
  const [ys, xs] = [once(axes, axis, map.h, size[0]), once(axes, axis, map.w, size[1])];
  const across = once(extremes, corners, map.w, size[1]);
  const row = new Float64Array(map.w);
  const peak = { positive: 0, magnitude: 0, x: 0, y: 0 };
  for (const y of once(extremes, corners, map.h, size[0])) {
    blendRow(map, ys, y, row);
    for (const x of across) {
      const left = row[xs.first[x]];
      const value = left + (row[xs.second[x]] - left) * xs.fraction[x];
      if (value > peak.positive) [peak.positive, peak.x, peak.y] = [value, x, y];
      if (value > peak.magnitude) peak.magnitude = value;
      else if (-value > peak.magnitude) peak.magnitude = -value;
    }
  }
  if (peak.positive <= blur(map)) peak.positive = 0;
  if (peak.magnitude <= blur(map)) peak.magnitude = 0;
  return peak;
}

function corners(n, size) {
  const { first } = axis(n, size);
  const candidates = [];
  for (let i = 0; i < size; i++) {
    if (i === 0 || i === size - 1 || first[i] !== first[i - 1] || first[i] !== first[i + 1]) candidates.push(i);
  }
  return candidates;
}
