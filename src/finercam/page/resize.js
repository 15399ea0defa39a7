// From a photo's pixels to the model's input, as Preprocess in Python: Pillow's resizing, crop and normalisation.

const sinc = (x) => (x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x));
const FILTERS = {
  bilinear: [1, (x) => Math.max(0, 1 - Math.abs(x))],
  bicubic: [2, (x) => {
    const [a, y] = [-0.5, Math.abs(x)];
    if (y < 1) return ((a + 2) * y - (a + 3)) * y * y + 1;
    return y < 2 ? (((y - 5) * y + 8) * y - 4) * a : 0;
  }],
  lanczos: [3, (x) => (Math.abs(x) < 3 ? sinc(x) * sinc(x / 3) : 0)],
  box: [0.5, (x) => (x > -0.5 && x <= 0.5 ? 1 : 0)],
  hamming: [1, (x) => (Math.abs(x) < 1 ? sinc(x) * (0.54 + 0.46 * Math.cos(Math.PI * x)) : 0)],
};
const ONE = 2 ** 22; // Pillow's weights are integers of this many parts

// For each of `size` output places the first input place and its integer weights.
function weightsOf(n, size, filter) {
  const scale = n / size;
  const wide = Math.max(1, scale);
  const [support, f] = FILTERS[filter];
  return Array.from({ length: size }, (_, i) => {
    const centre = (i + 0.5) * scale;
    const first = Math.max(0, Math.trunc(centre - support * wide + 0.5));
    const last = Math.min(n, Math.trunc(centre + support * wide + 0.5));
    const parts = Array.from({ length: last - first }, (__, k) => f((k + first - centre + 0.5) / wide));
    const sum = parts.reduce((a, b) => a + b, 0);
    return { first, parts: Int32Array.from(parts, (part) => Math.trunc((part / sum) * ONE + (part < 0 ? -0.5 : 0.5))) };
  });
}

// One pass: `lines` lines of `n` pixels become lines of `size`. `along` and `across` are steps in the data, in pixels.
function pass(data, lines, n, size, filter, [along, across], [outAlong, outAcross]) {
  const out = new Uint8ClampedArray(lines * size * 3);
  weightsOf(n, size, filter).forEach(({ first, parts }, i) => {
    for (let line = 0; line < lines; line++) {
      const [at, to] = [3 * (first * along + line * across), 3 * (i * outAlong + line * outAcross)];
      for (let c = 0; c < 3; c++) {
        let sum = ONE / 2;
        for (let k = 0; k < parts.length; k++) sum += data[at + 3 * k * along + c] * parts[k];
        out[to + c] = Math.floor(sum / ONE);
      }
    }
  });
  return out;
}

// RGB bytes of (width, height) resized, as Pillow's Image.resize: first across, then down, each rounded to bytes.
function resized({ data, width, height }, [wide, high], filter) {
  if (filter === "nearest") {
    const out = new Uint8ClampedArray(3 * wide * high);
    for (let y = 0; y < high; y++) for (let x = 0; x < wide; x++) {
      const from = 3 * (Math.trunc(((y + 0.5) * height) / high) * width + Math.trunc(((x + 0.5) * width) / wide));
      out.set(data.subarray(from, from + 3), 3 * (y * wide + x));
    }
    return { data: out, width: wide, height: high };
  }
  const across = width === wide ? data : pass(data, height, width, wide, filter, [1, width], [1, wide]);
  const down = height === high ? across : pass(across, wide, height, high, filter, [wide, 1], [wide, 1]);
  return { data: down, width: wide, height: high };
}

// Python's round: halves go to the even neighbour.
function rounded(x) {
  const low = Math.floor(x);
  return x - low === 0.5 ? low + (low % 2) : Math.round(x);
}

const centred = (length, window) => (window > length ? -Math.floor((window - length) / 2) : rounded((length - window) / 2));

// How a photo of (width, height) is resized and cut: { size: [width, height], left, top, height, width }.
function geometry({ size, mode, crop_ratio: ratio }, width, height) {
  const [high, wide] = size.map((side) => Math.floor((side / ratio) * (1 + 1e-9)));
  let to = [wide, high];
  if (mode !== "squash" && high === wide) {
    const long = Math.trunc((high * Math.max(width, height)) / Math.min(width, height));
    to = width <= height ? [high, long] : [long, high];
  } else if (mode !== "squash") {
    const shrink = Math.min(height / high, width / wide);
    to = [rounded(width / shrink), rounded(height / shrink)];
  }
  return { to, left: centred(to[0], size[1]), top: centred(to[1], size[0]), height: size[0], width: size[1] };
}

// The model's input (3, H, W) from RGB bytes.
function modelInput(photo, preprocess) {
  const { to, left, top, height, width } = geometry(preprocess, photo.width, photo.height);
  const { data } = resized(photo, to, preprocess.interpolation);
  const out = new Float32Array(3 * height * width);
  for (let y = 0; y < height; y++) for (let x = 0; x < width; x++) {
    const [row, column] = [y + top, x + left];
    const inside = row >= 0 && row < to[1] && column >= 0 && column < to[0];
    for (let c = 0; c < 3; c++) {
      const unit = Math.fround((inside ? data[3 * (row * to[0] + column) + c] : 0) / 255);
      const shifted = Math.fround(unit - Math.fround(preprocess.mean[c]));
      out[(c * height + y) * width + x] = shifted / Math.fround(preprocess.std[c]);
    }
  }
  return out;
}
