// The picture to save: question, plain and finer map with captions and strength, legend, and settings.

const SHEET = { margin: 28, gap: 20, cell: 560, ink: "#111", quiet: "#4a4a4a", family: '"Noto Sans", system-ui, sans-serif' };

// At most `most` lines of at most `width` pixels; longer text is shortened.
function textLines(context, text, width, most) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    const longer = lines.at(-1) ? `${lines.at(-1)} ${word}` : word;
    if (context.measureText(longer).width <= width || !lines.at(-1)) lines[lines.length - 1] = longer;
    else lines.push(word);
  }
  const kept = lines.slice(0, most);
  if (lines.length > most) kept[most - 1] += " …";
  return kept.map((line) => {
    let shown = line;
    while (shown.length > 1 && context.measureText(shown).width > width) shown = `${[...shown].slice(0, -2).join("")}…`;
    return shown;
  });
}

function sheetOf() {
  const { margin, gap, cell, ink, quiet, family } = SHEET;
  const canvases = [byId("plain-map"), byId("map")];
  const tall = Math.round((cell * page.size[0]) / page.size[1]);
  const sheet = element("canvas", { width: 2 * margin + 2 * cell + gap, height: 2 * margin + tall + 300 });
  const context = sheet.getContext("2d");
  let top = margin;
  const write = (text, left, at, width, { size = 15, bold = false, colour = quiet, most = 2, align = "left" } = {}) => {
    context.font = `${bold ? 600 : 400} ${size}px ${family}`;
    [context.fillStyle, context.textAlign, context.textBaseline] = [colour, align, "top"];
    const lines = textLines(context, text, width, most);
    lines.forEach((line, i) => context.fillText(line, left, at + i * size * 1.35));
    return at + lines.length * size * 1.35;
  };
  context.fillStyle = "#fff";
  context.fillRect(0, 0, sheet.width, sheet.height);
  const wide = 2 * cell + gap;
  top = write(byId("question").textContent, margin, top, wide, { size: 24, bold: true, colour: ink }) + 6;
  top = write(index.images[state.picture].name, margin, top, wide, { most: 1 }) + 14;
  const lefts = [margin, margin + cell + gap];
  const captions = [byId("plain-caption").textContent, byId("finer-caption").textContent];
  const ends = captions.map((caption, i) => write(caption, lefts[i], top, cell, { colour: ink }));
  ends[1] = write(byId("strength").textContent, lefts[1], ends[1], cell);
  top = Math.max(...ends) + 8;
  canvases.forEach((canvas, i) => {
    const photo = canvas.parentElement.querySelector("img");
    if (page.photo) context.drawImage(photo, lefts[i], top, cell, tall);
    context.drawImage(canvas, lefts[i], top, cell, tall);
    const [low, high] = legendEnds(i === 1 && shown.strength.weak);
    rampColours(64).forEach((colour, k) => {
      context.fillStyle = colour;
      context.fillRect(lefts[i] + (k * cell) / 64, top + tall + 10, cell / 64 + 1, 10);
    });
    write(low, lefts[i], top + tall + 26, cell / 2 - 8, { size: 13, most: 1 });
    write(high, lefts[i] + cell, top + tall + 26, cell / 2 - 8, { size: 13, most: 1, align: "right" });
  });
  top += tall + 54;
  top = write(`finercam: ${methodOf().label} at ${page.layers.join(", ")}, γ ${shown.question.gamma.toFixed(2)}, weights ${state.weights}. Each map is divided by its own peak, a weak one is dimmed.`, margin, top, wide, { size: 13 }) + margin;
  const cut = element("canvas", { width: sheet.width, height: Math.ceil(top) });
  cut.getContext("2d").drawImage(sheet, 0, 0);
  return cut;
}
