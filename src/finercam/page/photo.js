// A photo from the visitor's disk: its pixels, and the part of it that the model sees.

const SHOWN = 900; // pixels of the longer side of what is shown

// {input, shown, size}: the model's input, an address of the picture to show, and its name.
async function readPhoto(file, preprocess) {
  const bitmap = await createImageBitmap(file, { imageOrientation: "from-image", colorSpaceConversion: "none", premultiplyAlpha: "none" });
  const [width, height] = [bitmap.width, bitmap.height];
  const sheet = sheetFor(width, height);
  sheet.fillStyle = "#fff"; // where the picture is transparent, as in Python
  sheet.fillRect(0, 0, width, height);
  sheet.drawImage(bitmap, 0, 0);
  const { data } = sheet.getImageData(0, 0, width, height);
  const rgb = new Uint8ClampedArray(3 * width * height);
  for (let i = 0, to = 0; i < data.length; i += 4) {
    rgb[to++] = data[i];
    rgb[to++] = data[i + 1];
    rgb[to++] = data[i + 2];
  }
  const input = modelInput({ data: rgb, width, height }, preprocess);
  return { input, shown: croppedPicture(sheet.canvas, geometry(preprocess, width, height)), name: file.name || "photo" };
}

function sheetFor(width, height) {
  return element("canvas", { width, height }).getContext("2d", { willReadFrequently: true });
}

function croppedPicture(canvas, { to, left, top, width, height }) {
  const [across, down] = [canvas.width / to[0], canvas.height / to[1]];
  const grown = Math.max(1, Math.min(SHOWN / Math.max(width, height), Math.max(across, down)));
  const sheet = sheetFor(Math.round(width * grown), Math.round(height * grown));
  sheet.fillRect(0, 0, sheet.canvas.width, sheet.canvas.height);
  sheet.imageSmoothingQuality = "high";
  sheet.drawImage(canvas, left * across, top * down, width * across, height * down, 0, 0, sheet.canvas.width, sheet.canvas.height);
  return sheet.canvas.toDataURL("image/jpeg", 0.92);
}
