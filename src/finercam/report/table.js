// The table of all pictures, with filters, sorting and links.

function percent(p) {
  const hundred = 100 * p;
  if (hundred > 0 && hundred < 0.1) return "<0.1 %";
  if (hundred > 99.9 && hundred < 100) return ">99.9 %";
  return (hundred > 0 && hundred < 10) || (hundred >= 99 && hundred < 100) ? `${hundred.toFixed(1)} %` : `${Math.round(hundred)} %`;
}

// The score of a class, as a percentage if the model gives probabilities.
function score(value, link) {
  return link === "none" ? value.toFixed(2) : percent(value);
}

// All text is set through textContent, so that names cannot contain markup.
function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key === "class") made.className = value;
    else made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null));
  return made;
}

// The short name of a class as in the panel, followed by the rest, such as the Latin name, in small letters.
function nameOf(name) {
  const latin = index.latin[name];
  const shown = element("span", { class: "name", title: latin ? `${name} (${latin})` : name }, element("bdi", {}, name));
  if (latin) shown.append(" ", element("bdi", { class: "other" }, latin));
  return shown;
}

const table = {
  filter: { text: "", wrong: false, low: false, by: "order", down: false },

  build(index) {
    this.rows = index.images.map((row, at) => ({ ...row, at, element: this.row(row, at) }));
    this.body = document.getElementById("rows");
    const on = (id, event, act) => document.getElementById(id).addEventListener(event, act);
    on("search", "input", (event) => this.update({ text: event.target.value }));
    on("only-wrong", "change", (event) => this.update({ wrong: event.target.checked }));
    on("only-low", "change", (event) => this.update({ low: event.target.checked }));
    document.getElementById("wrong-filter").hidden = !this.rows.some((row) => row.wrong !== null);
    for (const button of document.querySelectorAll("[data-by]")) {
      button.addEventListener("click", () => {
        const { by, down } = this.filter;
        this.update({ by: button.dataset.by, down: by === button.dataset.by ? !down : false });
      });
    }
    this.update({});
  },

  row(row, at) {
    const link = element("a", { href: `#/${at + 1}`, class: "picture-name" }, element("bdi", {}, row.name));
    const rivals = element("div", { class: "clamp" });
    row.rivals.forEach((name, i) => rivals.append(i ? ", " : "", nameOf(name)));
    const verdict = element("div", { class: "clamp" });
    if (row.wrong === true) verdict.append(element("span", { class: "badge wrong" }, "wrong"), " ", nameOf(row.truth));
    if (row.wrong === false) verdict.append(element("span", { class: "badge right" }, "right"));
    const target = element("td", { class: "target-cell" }, nameOf(row.target));
    if (row.predicted !== row.target) target.append(element("small", { class: "clamp" }, "predicted: ", nameOf(row.predicted)));
    const picture = row.thumbnail
      ? element("img", { src: row.thumbnail, alt: "", loading: "lazy", width: 56, height: 56 })
      : element("span", { class: "no-photo" });
    return element(
      "tr", {},
      element("td", { class: "thumb" }, picture),
      element("th", { scope: "row" }, link),
      target,
      element("td", { class: "probability" }, score(row.probability, row.link)),
      element("td", { class: "rivals-cell" }, rivals),
      verdict.childNodes.length ? element("td", { class: "verdict" }, verdict) : element("td"),
    );
  },

  update(change) {
    Object.assign(this.filter, change);
    const { text, wrong, low, by, down } = this.filter;
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (row) => {
      const all = [row.name, row.target, row.predicted, row.truth || "", ...row.rivals].join("\n").toLowerCase();
      return words.every((word) => all.includes(word)) && (!wrong || row.wrong === true) && (!low || row.confidence < 0.5);
    };
    const keys = { order: (r) => r.at, name: (r) => r.name, target: (r) => r.target, probability: (r) => r.probability };
    const key = keys[by];
    const order = (a, b) => (key(a) < key(b) ? -1 : key(a) > key(b) ? 1 : a.at - b.at);
    this.shown = this.rows.filter(fits).sort((a, b) => (down ? order(b, a) : order(a, b)));
    this.body.replaceChildren(...this.shown.map((row) => row.element));
    const count = document.getElementById("count");
    count.textContent = this.shown.length === this.rows.length
      ? `${this.rows.length} pictures`
      : `${this.shown.length} of ${this.rows.length} pictures`;
    document.getElementById("none-fit").hidden = this.shown.length > 0;
    for (const button of document.querySelectorAll("[data-by]")) {
      const own = button.dataset.by === by;
      button.parentElement.setAttribute("aria-sort", own ? (down ? "descending" : "ascending") : "none");
    }
  },

  // Left and right go through the pictures that pass the filters.
  neighbour(at, step) {
    const place = this.shown.findIndex((row) => row.at === at);
    const next = place < 0 ? at + step : this.shown[place + step]?.at;
    return next !== undefined && next >= 0 && next < this.rows.length ? next : null;
  },
};
