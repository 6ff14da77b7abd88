// The page of a data set: filters, plots, tiles and rows.
const columns = data.columns;
const rowCount = columns.sample_id.length;
const everyRow = Array.from({ length: rowCount }, (_, row) => row);
const pictureOf = new Map(data.pictures.map((picture) => [picture.row, picture]));
const svgHome = document.getElementById("svg-home").namespaceURI;
const PAGE_ROWS = 50;

function draw(parent, tag, attributes, text) {
  const element = document.createElementNS(svgHome, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  if (text !== undefined) element.textContent = text;
  parent.append(element);
  return element;
}

const colour = ([red, green, blue]) => `rgb(${red} ${green} ${blue})`;
const isNumber = (value) => typeof value === "number";
const whole = (value) => (isNumber(value) ? Math.round(value).toLocaleString("en") : "–");
const plain = (value) => (value === null || value === undefined ? "–" : String(value));
const numbersOf = (name, rows) => rows.map((row) => columns[name][row]).filter(isNumber);
const SPLITS = ["train", "val", "test"];
const inOrder = (a, b) => SPLITS.indexOf(a) - SPLITS.indexOf(b) || plain(a).localeCompare(plain(b));
const distinct = (name) => [...new Set(columns[name])].sort(inOrder);
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function quantile(sorted, share) {
  const place = (sorted.length - 1) * share, below = Math.floor(place);
  return sorted[below] + (sorted[Math.min(below + 1, sorted.length - 1)] - sorted[below]) * (place - below);
}

/* The largest gap between two empirical distribution functions (Kolmogorov-Smirnov). */
function ksDistance(first, second) {
  const a = [...first].sort((x, y) => x - y), b = [...second].sort((x, y) => x - y);
  let i = 0, j = 0, gap = 0;
  while (i < a.length && j < b.length) {
    const value = Math.min(a[i], b[j]);
    while (i < a.length && a[i] === value) i++;
    while (j < b.length && b[j] === value) j++;
    gap = Math.max(gap, Math.abs(i / a.length - j / b.length));
  }
  return gap;
}

// Filters ---------------------------------------------------------------------------------------------------------

const filters = []; // each: passes(row), reset(), touched()

function addChoice(name, title) {
  const values = distinct(name);
  if (values.length < 2) return;
  if (values.length > 8) {
    const everything = "all";
    const select = make("select", { onchange: refresh, "aria-label": title });
    select.append(make("option", { text: everything, value: "" }));
    values.forEach((value, place) => select.append(make("option", { text: plain(value), value: String(place) })));
    filters.push({
      passes: (row) => select.value === "" || columns[name][row] === values[Number(select.value)],
      reset: () => { select.value = ""; },
    });
    find("filters").append(make("fieldset", {}, make("legend", { text: title }), select));
    return;
  }
  const boxes = values.map(() => make("input", { type: "checkbox", checked: true, onchange: refresh }));
  const labels = values.map((value, place) => make("label", {}, boxes[place], ` ${plain(value)}`));
  filters.push({
    passes: (row) => boxes[values.indexOf(columns[name][row])].checked,
    reset: () => boxes.forEach((box) => { box.checked = true; }),
  });
  find("filters").append(make("fieldset", { className: "checks" }, make("legend", { text: title }), ...labels));
}

function addRange(name, title, show, isShare) {
  const values = numbersOf(name, everyRow);
  if (!values.length) return;
  const scale = isShare ? 1000 : 1;
  const low = Math.floor(scale * values.reduce((a, b) => Math.min(a, b)));
  const high = Math.ceil(scale * values.reduce((a, b) => Math.max(a, b)));
  if (low === high) return;
  const slider = (value, which) => make("input", {
    type: "range", min: String(low), max: String(high), step: "1", value: String(value), oninput: () => changed(),
    "aria-label": `${title}, ${which}`,
  });
  const from = slider(low, "lowest"), to = slider(high, "highest");
  const readout = make("span");
  const bounds = () => [Number(from.value), Number(to.value)].sort((a, b) => a - b);
  const label = () => { readout.textContent = bounds().map((bound) => show(bound / scale)).join(" to "); };
  const changed = () => { label(); refresh(); };
  filters.push({
    // A tile without the value passes only while the range is untouched.
    passes: (row) => {
      const [least, most] = bounds(), value = columns[name][row];
      if (least === low && most === high) return true;
      return isNumber(value) && value * scale >= least && value * scale <= most;
    },
    reset: () => { from.value = String(low); to.value = String(high); label(); },
  });
  label();
  const head = make("div", { className: "range-name" }, make("span", { text: title }), readout);
  find("filters").append(make("fieldset", {}, head, make("div", { className: "range" }, from, to)));
}

// Plots -----------------------------------------------------------------------------------------------------------

const WIDTH = 360, HEIGHT = 190, LEFT = 40, RIGHT = 10, TOP = 10, BOTTOM = 24;

function addPlot(title, key, paint) {
  const svg = document.createElementNS(svgHome, "svg");
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", title);
  const keys = make("div", { className: "key" });
  for (const [kind, text] of key) keys.append(...(kind ? [make("i", { className: kind })] : []), text);
  find("plots").append(make("div", { className: "plot" }, make("h3", { text: title }), keys, svg));
  return (rows) => { svg.replaceChildren(); paint(svg, rows); };
}

function noData(svg) {
  draw(svg, "text", { x: WIDTH / 2, y: HEIGHT / 2, "text-anchor": "middle" }, "no tile here");
}

/* Round marks from `low` to `high`, about `count` of them, at least `least` apart. */
function ticks(low, high, count, least = 0) {
  const rough = Math.max(least, (high - low) / count) || 1, power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 5, 10].find((factor) => factor * power >= rough * 0.999);
  const marks = [];
  for (let mark = Math.ceil(low / step - 1e-9) * step; mark <= high + step * 1e-6; mark += step) marks.push(Math.abs(mark) < step / 2 ? 0 : mark);
  return marks;
}

function axes(svg, xs, ys, showX, showY) {
  const x = (value) => LEFT + ((value - xs[0]) / (xs[1] - xs[0])) * (WIDTH - LEFT - RIGHT);
  const y = (value) => HEIGHT - BOTTOM - ((value - ys[0]) / (ys[1] - ys[0])) * (HEIGHT - TOP - BOTTOM);
  for (const mark of ticks(...ys, 4, showY === whole ? 1 : 0)) {
    draw(svg, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(mark), y2: y(mark), class: "grid" });
    draw(svg, "text", { x: LEFT - 6, y: y(mark) + 4, "text-anchor": "end" }, showY(mark));
  }
  for (const mark of ticks(...xs, 5, showX === whole ? 1 : 0)) {
    draw(svg, "text", { x: x(mark), y: HEIGHT - 7, "text-anchor": "middle" }, showX(mark));
  }
  draw(svg, "line", { x1: LEFT, x2: WIDTH - RIGHT, y1: y(ys[0]), y2: y(ys[0]), class: "axis" });
  return [x, y];
}

function extent(lists, isShare) {
  const values = lists.flat();
  let low = values.reduce((a, b) => Math.min(a, b), Infinity), high = values.reduce((a, b) => Math.max(a, b), -Infinity);
  if (isShare) {
    low = Math.floor(low * 20) / 20;
    high = Math.ceil(high * 20) / 20;
    if (high - low < 0.1) [low, high] = [Math.max(0, low - 0.05), Math.min(1, high + 0.05)];
    return [low, high];
  }
  return low === high ? [low - 1, high + 1] : [low, high];
}

function addHistogram(title, achieved, asked, show, isShare) {
  const wholeColumn = [numbersOf(achieved, everyRow), numbersOf(asked, everyRow)];
  if (!wholeColumn[0].length && !wholeColumn[1].length) return null;
  const span = extent(wholeColumn, isShare), bins = 24;
  const count = (values) => {
    const counts = new Array(bins).fill(0);
    for (const value of values) {
      counts[Math.max(0, Math.min(bins - 1, Math.floor(((value - span[0]) / (span[1] - span[0])) * bins)))]++;
    }
    return counts;
  };
  const key = [["achieved", "achieved"]];
  if (wholeColumn[1].length) key.push(["asked", "asked"]);
  return addPlot(title, key, (svg, rows) => {
    const drawn = count(numbersOf(achieved, rows)), wanted = count(numbersOf(asked, rows));
    const most = Math.max(...drawn, ...wanted);
    if (!most) return noData(svg);
    const [x, y] = axes(svg, span, [0, most * 1.05], show, whole);
    const edge = (bin) => span[0] + ((span[1] - span[0]) * bin) / bins;
    drawn.forEach((tall, bin) => {
      if (!tall) return;
      const box = { x: x(edge(bin)) + 0.5, width: x(edge(bin + 1)) - x(edge(bin)) - 1, y: y(tall), height: y(0) - y(tall) };
      const shape = draw(svg, "rect", { ...box, class: "bar-achieved" });
      draw(shape, "title", {}, `${show(edge(bin))} to ${show(edge(bin + 1))}: ${tall} achieved, ${wanted[bin]} asked`);
    });
    if (!wanted.some(Boolean)) return;
    const steps = wanted.map((tall, bin) => `V${y(tall)}H${x(edge(bin + 1))}`).join("");
    draw(svg, "path", { d: `M${x(span[0])} ${y(0)}${steps}V${y(0)}`, class: "line-asked" });
  });
}

function addScatter(title, asked, achieved, show) {
  const pairs = (rows) => rows.map((row) => [columns[asked][row], columns[achieved][row]]).filter((pair) => pair.every(isNumber));
  const all = pairs(everyRow);
  if (!all.length) return null;
  const span = extent(all, true);
  return addPlot(title, [["", "asked (across) against achieved (up), each dot a tile"]], (svg, rows) => {
    const points = pairs(rows);
    if (!points.length) return noData(svg);
    const [x, y] = axes(svg, span, span, show, show);
    draw(svg, "line", { x1: x(span[0]), y1: y(span[0]), x2: x(span[1]), y2: y(span[1]), class: "ideal" });
    draw(svg, "path", { d: points.map(([a, b]) => `M${x(a).toFixed(1)} ${y(b).toFixed(1)}h0`).join(""), class: "dots" });
  });
}

function addSplits() {
  const splits = distinct("split");
  return addPlot("Splits", [["", "tiles in each"]], (svg, rows) => {
    const counts = splits.map((split) => rows.filter((row) => columns.split[row] === split).length);
    bars(svg, splits.map((split) => split ?? "none"), counts, Math.max(...counts, 1), (place) => {
      return [whole(counts[place]), null, null];
    });
  });
}

function addClasses(scheme) {
  const names = scheme.classes.map((one) => one.name);
  return addPlot(`Classes, ${scheme.name}`, [["", "mean share of pixels; line: 5th to 95th percentile"]], (svg, rows) => {
    const mine = rows.filter((row) => columns.label_scheme[row] === scheme.name && columns.class_fractions[row]);
    if (!mine.length) return noData(svg);
    const shares = names.map((_, id) => mine.map((row) => columns.class_fractions[row][id]).sort((a, b) => a - b));
    const means = shares.map(mean);
    const most = Math.max(...shares.map((sorted) => quantile(sorted, 0.95)), ...means, 0.01);
    bars(svg, names, means, most, (id) => {
      return [percent(means[id]), colour(scheme.classes[id].colour), [quantile(shares[id], 0.05), quantile(shares[id], 0.95)]];
    });
  });
}

/* Horizontal bars; `describe(place)` gives [text, fill or null, whisker or null]. */
function bars(svg, names, values, most, describe) {
  const left = 104, right = 56, pitch = Math.min(34, (HEIGHT - 12) / names.length), thick = pitch * 0.62;
  const x = (value) => left + (value / most) * (WIDTH - left - right);
  names.forEach((name, place) => {
    const y = 6 + place * pitch, middle = y + thick / 2;
    const [text, fill, whisker] = describe(place);
    const shown = name.length > 16 ? `${name.slice(0, 15)}…` : name;
    draw(draw(svg, "text", { x: left - 8, y: middle + 4, "text-anchor": "end" }, shown), "title", {}, name);
    const box = { x: left, y, width: Math.max(0.5, x(values[place]) - left), height: thick };
    draw(svg, "rect", fill ? { ...box, fill, class: "class-bar" } : { ...box, class: "bar-achieved" });
    let end = x(values[place]);
    if (whisker) {
      const line = { x1: x(whisker[0]), x2: x(whisker[1]), y1: middle, y2: middle };
      draw(svg, "line", { ...line, class: "halo" });
      draw(svg, "line", { ...line, class: "whisker" });
      end = Math.max(end, x(whisker[1]));
    }
    draw(svg, "text", { x: end + 6, y: middle + 4, class: "value" }, text);
  });
}

// Figures, tiles, rows --------------------------------------------------------------------------------------------

function showFigures(rows) {
  const figures = [["tiles", whole(rows.length)]];
  const pairs = rows.filter((row) => isNumber(columns.request_tps[row]) && isNumber(columns.tps[row]));
  if (pairs.length) {
    const errors = pairs.map((row) => Math.abs(columns.tps[row] - columns.request_tps[row]));
    const points = (share) => `${(100 * share).toFixed(3)} points`;
    figures.push(["mean TPS error", points(mean(errors))]);
    figures.push(["largest TPS error", points(errors.reduce((a, b) => Math.max(a, b)))]);
    figures.push(["KS, asked to achieved", ksDistance(pairs.map((row) => columns.request_tps[row]), pairs.map((row) => columns.tps[row])).toFixed(3)]);
  }
  const tps = numbersOf("tps", rows), tissue = numbersOf("tissue_fraction", rows), cells = numbersOf("cells", rows);
  if (tps.length) figures.push(["mean TPS", percent(mean(tps))]);
  if (tissue.length) figures.push(["mean tissue", percent(mean(tissue))]);
  if (cells.length) figures.push(["cells", whole(cells.reduce((a, b) => a + b, 0))]);
  figures.push(["groups", whole(new Set(rows.map((row) => columns.group_id[row])).size)]);
  find("figures").replaceChildren(...figures.map(([name, value]) => {
    return make("div", { className: "figure quiet" }, make("b", { text: value }), name);
  }));
}

function layers(picture, withMask, withCells, strength = 1) {
  const images = [make("img", { src: picture.image, alt: "" })];
  if (withMask) images.push(make("img", { src: picture.mask, alt: "" }));
  if (withMask) images[1].style.opacity = String(strength);
  if (withCells && picture.cells) images.push(make("img", { src: picture.cells, alt: "" }));
  return images;
}

function summary(row) {
  const parts = [];
  if (isNumber(columns.request_tps[row])) parts.push(`${percent(columns.request_tps[row])} asked`);
  if (isNumber(columns.tps_area[row])) parts.push(`${percent(columns.tps_area[row])} area`);
  if (isNumber(columns.tps_cells[row])) parts.push(`${percent(columns.tps_cells[row])} cells`);
  return parts.length ? `TPS ${parts.join(", ")}` : columns.has_tumour[row] === false ? "no tumour" : "";
}

function content(row) {
  const parts = [];
  if (isNumber(columns.tissue_fraction[row])) parts.push(`tissue ${percent(columns.tissue_fraction[row])}`);
  if (isNumber(columns.cells[row])) parts.push(`${whole(columns.cells[row])} cells`);
  return parts.join(" · ");
}

const SORTS = [["tps", "TPS"], ["tissue_fraction", "tissue"], ["cells", "cells"], ["sample_id", "name"]];

function sorted(rows, name, down = false) {
  const values = columns[name], way = down ? -1 : 1;
  return [...rows].sort((a, b) => {
    if (values[a] === null || values[b] === null) return (values[a] === null) - (values[b] === null);
    return way * (isNumber(values[a]) ? values[a] - values[b] : plain(values[a]).localeCompare(plain(values[b])));
  });
}

let galleryRows = [];

function showGallery(rows) {
  galleryRows = sorted(rows.filter((row) => pictureOf.has(row)), find("sort").value);
  find("pictured").textContent = `${whole(galleryRows.length)} of ${whole(rows.length)} with a picture`;
  const withMask = find("show-mask").checked, withCells = find("show-cells").checked;
  const tiles = galleryRows.map((row) => make("button", { type: "button", className: "tile", onclick: () => showLarge(row) },
    make("span", { className: "picture" }, ...layers(pictureOf.get(row), withMask, withCells)),
    make("span", { className: "name", text: columns.sample_id[row], title: columns.sample_id[row] }),
    ...[summary(row), content(row)].filter(Boolean).map((text) => make("small", { text, title: text }))));
  if (!tiles.length) tiles.push(make("p", { className: "empty", text: "No picture passes the filters; the rows below do." }));
  find("gallery").replaceChildren(...tiles);
}

let largeRow = null;

function showLarge(row) {
  largeRow = row;
  const picture = pictureOf.get(row);
  const withMask = find("large-mask").checked, withCells = find("large-cells").checked;
  find("large-name").textContent = columns.sample_id[row];
  find("large-picture").style.setProperty("--aspect", String(data.width / data.height));
  find("large-picture").replaceChildren(...layers(picture, withMask, withCells, Number(find("large-strength").value) / 100));
  find("large-cells").disabled = !picture.cells;
  const facts = [
    ["split", plain(columns.split[row])], ["group", plain(columns.group_id[row])], ["source", plain(columns.source[row])],
    ["labels", plain(columns.label_origin[row])], ["um per pixel", plain(columns.mpp[row])],
    ["TPS asked", percent(columns.request_tps[row])], ["TPS, area", percent(columns.tps_area[row])],
    ["TPS, cells", percent(columns.tps_cells[row])], ["tissue asked", percent(columns.request_tissue[row])],
    ["tissue", percent(columns.tissue_fraction[row])], ["cells asked", whole(columns.request_cells[row])],
    ["cells", whole(columns.cells[row])], ["cells, positive", whole(columns.cells_positive[row])],
    ["cells, negative", whole(columns.cells_negative[row])], ["attempts", plain(columns.attempts[row])],
    ["allocation shift", plain(columns.allocation_shift[row])],
  ];
  const scheme = data.schemes.find((one) => one.name === columns.label_scheme[row]);
  (columns.class_fractions[row] ?? []).forEach((share, id) => facts.push([scheme.classes[id].name, percent(share)]));
  const told = facts.filter(([, value]) => value !== "–");
  find("large-facts").replaceChildren(...told.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  if (!find("large").open) find("large").showModal();
}

function step(by) {
  const place = galleryRows.indexOf(largeRow) + by;
  if (place >= 0 && place < galleryRows.length) showLarge(galleryRows[place]);
}

const HEADS = [
  ["sample_id", "sample", plain], ["split", "split", plain], ["group_id", "group", plain], ["request_tps", "TPS asked", percent],
  ["tps_area", "TPS, area", percent], ["tps_cells", "TPS, cells", percent], ["request_tissue", "tissue asked", percent],
  ["tissue_fraction", "tissue", percent], ["request_cells", "cells asked", whole], ["cells", "cells", whole],
].filter(([name]) => columns[name].some((value) => value !== null));
const isText = (name) => ["sample_id", "split", "group_id"].includes(name);

const table = { name: "sample_id", down: false, page: 0 };

function showRows(rows) {
  const pages = Math.max(1, Math.ceil(rows.length / PAGE_ROWS));
  table.page = Math.max(0, Math.min(table.page, pages - 1));
  find("pages").textContent = `page ${table.page + 1} of ${pages}`;
  find("before").disabled = table.page === 0;
  find("after").disabled = table.page === pages - 1;
  find("heads").replaceChildren(...HEADS.map(([name, title]) => make("th", {
    text: title + (table.name === name ? (table.down ? " ↓" : " ↑") : ""),
    className: isText(name) ? "text" : "",
    onclick: () => { table.down = table.name === name && !table.down; table.name = name; table.page = 0; refresh(); },
  })));
  const start = table.page * PAGE_ROWS;
  const listed = sorted(rows, table.name, table.down).slice(start, start + PAGE_ROWS);
  find("rows").replaceChildren(...listed.map((row) => make("tr", {}, ...HEADS.map(([name, , show]) => {
    return make("td", { text: show(columns[name][row]), className: isText(name) ? "text" : "" });
  }))));
}

// The page --------------------------------------------------------------------------------------------------------

let plots = [];
let pending = 0;

function paint() {
  pending = 0;
  const rows = everyRow.filter((row) => filters.every((filter) => filter.passes(row)));
  find("count").textContent = `${whole(rows.length)} of ${whole(rowCount)} tiles`;
  showFigures(rows);
  plots.forEach((plot) => plot(rows));
  showGallery(rows);
  showRows(rows);
}

function refresh() {
  if (!pending) pending = requestAnimationFrame(paint);
}

function showHead() {
  find("name").textContent = data.name;
  find("warning").textContent = data.warning;
  find("warning").hidden = !data.warning;
  const mpp = distinct("mpp").map(plain).slice(0, 4).join(", ");
  const parts = [`${whole(data.total)} tiles of ${data.height} × ${data.width} px at ${mpp} µm/px`, data.generator];
  if (data.sources.length) parts.push(`from ${data.sources.join(", ")}`);
  if (data.licences.length) parts.push(`licence: ${data.licences.join(", ")}`);
  if (data.real_pixels) parts.push(data.real_pixels);
  if (rowCount < data.total) parts.push(`${whole(rowCount)} rows drawn at random are shown`);
  find("about").textContent = parts.join(" · ");
  for (const scheme of data.schemes) {
    find("legend").append(make("p", { className: "quiet", text: scheme.name }));
    for (const one of scheme.classes) {
      const swatch = make("span", { className: "swatch" });
      swatch.style.background = colour(one.colour);
      find("legend").append(make("div", { className: "class" }, swatch, one.name));
    }
  }
}

function start() {
  showHead();
  addChoice("split", "split");
  addChoice("source", "source");
  addChoice("label_scheme", "label scheme");
  addRange("tps", "TPS", percent, true);
  addRange("tissue_fraction", "tissue", percent, true);
  addRange("cells", "cells", whole, false);
  addChoice("group_id", "group");
  const share = (value) => `${Math.round(100 * value)} %`;
  plots = [
    addHistogram("TPS", "tps", "request_tps", share, true),
    addScatter("TPS, asked against achieved", "request_tps", "tps", share),
    addHistogram("Tissue", "tissue_fraction", "request_tissue", share, true),
    addHistogram("Cells in a tile", "cells", "request_cells", whole, false),
    ...data.schemes.map(addClasses),
    addSplits(),
  ].filter(Boolean);
  for (const [value, text] of SORTS) {
    if (columns[value].some((one) => one !== null)) find("sort").append(make("option", { value, text }));
  }
  for (const id of ["sort", "show-mask", "show-cells"]) find(id).addEventListener("change", refresh);
  find("reset").addEventListener("click", () => { filters.forEach((filter) => filter.reset()); refresh(); });
  find("before").addEventListener("click", () => { table.page--; refresh(); });
  find("after").addEventListener("click", () => { table.page++; refresh(); });
  find("large-mask").checked = find("large-cells").checked = true;
  for (const id of ["large-mask", "large-strength", "large-cells"]) find(id).addEventListener("input", () => showLarge(largeRow));
  find("large-before").addEventListener("click", () => step(-1));
  find("large-after").addEventListener("click", () => step(1));
  find("large-close").addEventListener("click", () => find("large").close());
  find("large").addEventListener("keydown", (event) => {
    if (event.target.type === "range") return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  paint();
}

start();
