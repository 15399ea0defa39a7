// Words: the question as a sentence, and a description of the map for readers who cannot see it.

function listed(names, last) {
  return names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} ${last} ${names.at(-1)}`;
}

function short(name, length = 90) {
  const letters = [...name];
  return letters.length > length ? `${letters.slice(0, length - 1).join("")}…` : letters.join("");
}

function rivalNames() {
  if (state.rivals === "asked" && page.asked === "asked") {
    const more = page.askedCount - page.askedNames.length;
    return more > 0 ? [...page.askedNames, `${more} more`] : page.askedNames;
  }
  return chosen().map((d) => page.classes[d].name);
}

function bare(name) { // Unicode isolates keep a right-to-left name from reversing the sentence
  return `\u2068${short(name, 60)}\u2069`;
}

function showWords() {
  const { map, peak, question, strength } = shown;
  const target = bare(page.classes[state.target].name);
  const rivals = rivalNames().slice(0, 6).map(bare);
  const contrasted = contrasting() && question.gamma > 0;
  const against = contrasted ? ` against ${listed(rivals, "and")}` : "";
  const none = state.mode === "signed" ? peak.magnitude === 0 : peak.positive === 0;
  const words = `Nothing speaks for ${target}${against}${against ? ` at γ = ${question.gamma.toFixed(2)}` : ""}.`;
  const blank = byId("blank");
  if (!none) blank.textContent = "";
  else if (blank.textContent !== words) blank.textContent = words;
  blank.hidden = !none;
  const held = contrasted && !none ? strengthWords(strength) : "";
  byId("strength").textContent = held;
  byId("strength").classList.toggle("weak", strength.weak);
  byId("finer-caption").replaceChildren(element("b", {}, contrasted ? "Finer" : "Plain"), `: ${target}${contrasted ? ` rather than ${listed(rivals.slice(0, 3), "and")}` : ""}`);
  byId("plain-caption").replaceChildren(element("b", {}, "Plain"), `: what speaks for ${target}`);
  const where = peak.positive > 0
    ? `Strongest ${quarter(peak, page.size)}; above half of its peak on ${percent(share(map, peak.positive / 2))} of the picture.`
    : words;
  byId("where").textContent = where;
  byId("map").setAttribute("aria-label", `What speaks for ${target}${against}. ${where} ${held}`);
}

function strengthWords({ share, relative, fused, weak }) {
  const start = weak ? "no evidence that tells them apart here" : "evidence";
  const compared = fused ? "" : `${percent(relative)} of the plain map's; `;
  return `${start}: ${compared}${percent(share)} for, ${percent(1 - share)} against`;
}

function quarter(peak, size) {
  const third = (at, length, names) => names[Math.min(2, Math.floor((3 * at) / length))];
  const across = third(peak.x, size[1], ["left", "", "right"]);
  const down = third(peak.y, size[0], ["upper", "", "lower"]);
  if (!across && !down) return "in the middle";
  if (!down) return `in the middle ${across}`;
  return across ? `in the ${down} ${across}` : `in the ${down} middle`;
}

function share(map, level) {
  const values = upsample(map, 64, 64);
  return values.reduce((sum, value) => sum + (value > level ? 1 : 0), 0) / values.length;
}

function sentence() {
  const bold = (name, kind) => element("b", { class: kind, title: name }, element("bdi", {}, short(name)));
  const parts = ["Why ", bold(page.classes[state.target].name, "for")];
  const names = rivalNames();
  const few = names.length > 4 ? [...names.slice(0, 3), `${names.length - 3} more`] : names;
  few.forEach((name, i) => parts.push(i === 0 ? " and not " : i === few.length - 1 ? " or " : ", ", bold(name, "against")));
  parts.push("?");
  return parts;
}
