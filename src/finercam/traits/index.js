(() => {
  const LARGEST = 24;
  const pairs = JSON.parse(document.getElementById("pairs").textContent);
  const matrix = document.getElementById("matrix");
  const list = document.getElementById("list");
  const words = document.getElementById("words");
  const said = document.getElementById("said");

  const element = (name, text, kind) => {
    const made = document.createElement(name);
    if (text !== undefined) made.textContent = text;
    if (kind) made.className = kind;
    return made;
  };
  const link = (pair, text) => {
    const made = element("a", text);
    made.href = pair.page;
    made.title = `${pair.class.name} / ${pair.rival.name}`;
    return made;
  };
  const per = (share) => share === null || share === undefined ? "" : `${Math.round(100 * share)} %`;

  function show() {
    const wanted = words.value.trim().toLowerCase();
    const has = (one) => one.name.toLowerCase().includes(wanted);
    const found = pairs.filter((pair) => has(pair.class) || has(pair.rival) || (pair.first || "").toLowerCase().includes(wanted));
    said.textContent = `${found.length} of ${pairs.length} pairs`;
    list.replaceChildren(...found.map(item));
    grid(found);
  }

  function item(pair) {
    const row = element("li");
    const names = element("span", undefined, "who");
    names.append(link(pair, `${pair.class.short} or ${pair.rival.short}?`));
    const what = pair.first === null ? "no consistent trait" : `${pair.first}${pair.first_share === null ? "" : `, ${per(pair.first_share)} of the margin`}`;
    row.append(names, element("span", what, pair.first === null ? "soft" : "what"));
    return row;
  }

  function grid(found) {
    const ids = new Map();
    for (const pair of found) for (const one of [pair.class, pair.rival]) ids.set(one.id, one);
    const classes = [...ids.values()].sort((a, b) => a.short.localeCompare(b.short)).slice(0, LARGEST);
    const at = new Map();
    for (const pair of found) {
      at.set(`${pair.class.id} ${pair.rival.id}`, pair);
      at.set(`${pair.rival.id} ${pair.class.id}`, pair);
    }
    const head = element("tr");
    head.append(element("td"), ...classes.map((one) => {
      const cell = element("th");
      cell.scope = "col";
      cell.append(element("span", one.short));
      cell.title = one.name;
      return cell;
    }));
    const rows = classes.map((one) => {
      const row = element("tr");
      const first = element("th", one.short);
      first.scope = "row";
      first.title = one.name;
      row.append(first, ...classes.map((other) => {
        const pair = at.get(`${one.id} ${other.id}`);
        const cell = element("td", undefined, one === other ? "self" : "");
        if (pair) cell.append(link(pair, pair.first || "–"));
        return cell;
      }));
      return row;
    });
    const body = element("tbody");
    body.append(...rows);
    const top = element("thead");
    top.append(head);
    matrix.replaceChildren(top, body);
    document.getElementById("cut").hidden = ids.size <= LARGEST;
  }

  words.addEventListener("input", show);
  show();
})();
