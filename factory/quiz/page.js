// The quiz: start, one tile at a time, review, result.
const count = data.tiles.length;
const slot = `factory-quiz-${data.quiz}`;
const MAX_SCALE = 4; // screen pixels for a pixel of the tile, before magnifying
const ZOOM = 2;

/* Storage is missing in some private windows: the quiz then runs, but does not outlive the page. */
function kept(name) {
  try { return localStorage.getItem(name); } catch { return null; }
}
function keep(name, text) {
  try { localStorage.setItem(name, text); } catch { /* see above */ }
}

let state = restore(kept(slot), data);
const save = () => keep(slot, JSON.stringify(state));

const pictureOf = (place) => `data:image/${data.encoding};base64,${data.tiles[place].picture}`;
const withInterval = (right, total) => {
  if (!total) return "–";
  const [low, high] = wilson(right, total);
  return `${percent(right / total)} (${(100 * low).toFixed(1)} to ${percent(high)})`;
};

// Which of the four screens is shown -----------------------------------------------------------------------------

function show() {
  const answered = state.answers.filter(Boolean).length;
  const screen = !state.started ? "start" : state.finished ? "result" : state.place === count ? "review" : "quiz";
  for (const name of ["start", "quiz", "review", "result"]) find(name).hidden = name !== screen;
  document.body.classList.toggle("one-tile", screen === "quiz");
  find("progress").hidden = screen === "start" || screen === "result";
  find("progress-bar").style.width = `${(100 * answered) / count}%`;
  const texts = { start: "", result: state.reader, review: `${answered} of ${count} answered` };
  find("progress-text").textContent = texts[screen] ?? `tile ${state.place + 1} of ${count}`;
  watch(screen === "quiz" ? state.place : null);
  if (screen === "start") showStart();
  if (screen === "quiz") showTile();
  if (screen === "review") showReview(answered);
  if (screen === "result") showResult();
}

// Start -----------------------------------------------------------------------------------------------------------

function showStart() {
  const across = (data.width * data.mpp).toFixed(0), down = (data.height * data.mpp).toFixed(0);
  find("count").textContent = String(count);
  find("scale").textContent = `Each tile shows ${across} x ${down} µm, ${data.mpp.toPrecision(3)} µm per pixel.`;
  find("licences").textContent = `Some of the images in this file are real and stay under the licence of their source (${
    data.licences.join("; ") || "not stated"}). Pass the file on only as that allows.`;
}

find("enter").addEventListener("submit", (event) => {
  event.preventDefault();
  const reader = find("reader").value.trim();
  if (!reader) return;
  state.reader = reader;
  state.timed = find("timed").checked;
  state.started = true;
  save();
  show();
});

// One tile --------------------------------------------------------------------------------------------------------

let watched = null; // the tile whose time runs
let since = 0;

/* Count the time of a tile while it is on the screen and the page is looked at. */
function watch(place) {
  if (watched !== null) state.seconds[watched] += (performance.now() - since) / 1000;
  watched = place;
  since = performance.now();
}

document.addEventListener("visibilitychange", () => {
  watch(document.hidden || find("quiz").hidden ? null : state.place);
  save();
});
window.addEventListener("pagehide", () => { watch(null); save(); });

function showTile() {
  const tile = find("tile"), answer = state.answers[state.place];
  tile.src = pictureOf(state.place);
  if (state.place + 1 < count) new Image().src = pictureOf(state.place + 1); // decoded before it is wanted
  for (const kind of ["real", "synthetic"]) find(kind).setAttribute("aria-pressed", String(answer === kind));
  find("back").disabled = state.place === 0;
  find("forward").disabled = !answer;
  find("stage").classList.remove("magnified");
  fit();
}

/* The largest size at which the whole tile is seen, or twice that; the same for every tile. */
function fit() {
  const stage = find("stage"), tile = find("tile");
  if (find("quiz").hidden) return;
  const room = [stage.clientWidth - 24, stage.clientHeight - 16];
  const whole = Math.min(room[0] / data.width, room[1] / data.height, MAX_SCALE);
  const scale = Math.max(whole, 0.05) * (stage.classList.contains("magnified") ? ZOOM : 1);
  tile.style.width = `${data.width * scale}px`;
  tile.style.height = `${data.height * scale}px`;
  const wanted = (room[0] / 4 / scale) * data.mpp;
  const steps = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000];
  const length = steps.filter((step) => step <= wanted).pop() ?? 1;
  const [line, text] = find("bar").children;
  line.style.width = `${(length / data.mpp) * scale}px`;
  text.textContent = `${length} µm`;
}
window.addEventListener("resize", fit);

function magnify(x = 0.5, y = 0.5) {
  const stage = find("stage");
  stage.classList.toggle("magnified");
  fit();
  stage.scrollLeft = x * stage.scrollWidth - stage.clientWidth / 2;
  stage.scrollTop = y * stage.scrollHeight - stage.clientHeight / 2;
}
find("tile").addEventListener("click", (event) => {
  const box = event.currentTarget.getBoundingClientRect();
  magnify((event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height);
});

function go(place) {
  if (!state.started || state.finished || place < 0 || place > count) return;
  state.place = place;
  show();
  save();
}

function answer(kind) {
  state.answers[state.place] = kind;
  go(state.place + 1);
}

find("real").addEventListener("click", () => answer("real"));
find("synthetic").addEventListener("click", () => answer("synthetic"));
find("back").addEventListener("click", () => go(state.place - 1));
find("forward").addEventListener("click", () => go(state.place + 1));

document.addEventListener("keydown", (event) => {
  if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return; // Ctrl+R loads the page again
  const back = () => go(state.place - 1);
  const onTile = {
    r: () => answer("real"), s: () => answer("synthetic"), z: () => magnify(), arrowleft: back, backspace: back,
    arrowright: () => { if (state.answers[state.place]) go(state.place + 1); },
  };
  const actions = !find("quiz").hidden ? onTile : !find("review").hidden ? { arrowleft: back, backspace: back } : {};
  const key = event.key.toLowerCase();
  if (!Object.hasOwn(actions, key)) return;
  event.preventDefault();
  actions[key]();
});

// Before the end --------------------------------------------------------------------------------------------------

function showReview(answered) {
  find("review-text").textContent = answered === count
    ? "Every tile has an answer. Touch a number to look at a tile again."
    : `${count - answered} tiles have no answer yet. Touch a number to go there.`;
  find("review-tiles").replaceChildren(...state.answers.map((given, place) => make(
    "button", { type: "button", className: given ? "" : "open", onclick: () => go(place) },
    String(place + 1), make("small", { text: given ?? "open" }),
  )));
  find("finish").disabled = answered !== count;
}

find("finish").addEventListener("click", () => {
  state.finished = true;
  save();
  show();
});

// The result ------------------------------------------------------------------------------------------------------

function meaning(right) {
  const [low, high] = wilson(right, count);
  if (low > 0.5) return "Guessing would give 50 %. You told them apart more often than that.";
  if (high < 0.5) return "Guessing would give 50 %. You saw a difference, but read it the wrong way round.";
  return `Guessing would give 50 %, which the interval holds: no difference from guessing is shown. With ${
    count} tiles an accuracy up to ${percent(high)} is not ruled out either.`;
}

function showResult() {
  const truths = data.tiles.map(unseal);
  const counts = confusion(truths, state.answers);
  const right = counts.real.real + counts.synthetic.synthetic;
  find("headline").textContent = `${right} of ${count} right: ${withInterval(right, count)}`;
  find("meaning").textContent = `${meaning(right)} The interval is Wilson's, 95 %.`;
  const cell = (truth, given) => make("td", { text: String(counts[truth][given]), className: truth === given ? "right" : "wrong" });
  const heads = ["", "you said real", "you said synthetic"].map((text) => make("th", { text }));
  find("matrix").replaceChildren(
    make("tr", {}, ...heads),
    ...["real", "synthetic"].map((truth) => make("tr", {}, make("th", { text: `was ${truth}` }), cell(truth, "real"), cell(truth, "synthetic"))),
  );
  const totals = Object.fromEntries(["real", "synthetic"].map((truth) => [truth, counts[truth].real + counts[truth].synthetic]));
  const facts = [
    ["synthetic ones recognised (sensitivity)", withInterval(counts.synthetic.synthetic, totals.synthetic)],
    ["real ones recognised (specificity)", withInterval(counts.real.real, totals.real)],
  ];
  if (state.timed) {
    const sorted = [...state.seconds].sort((a, b) => a - b);
    const middle = (sorted[(count - 1) >> 1] + sorted[count >> 1]) / 2;
    facts.push(["time of a tile, median", `${middle.toFixed(1)} s`]);
  }
  find("figures").replaceChildren(...facts.flatMap(([name, value]) => [make("dt", { text: name }), make("dd", { text: value })]));
  find("answers").value = JSON.stringify(answersDocument(data, state));
  showGallery(truths, "all");
  for (const button of document.querySelectorAll("[data-show]")) {
    button.onclick = () => showGallery(truths, button.dataset.show);
  }
}

function showGallery(truths, which) {
  for (const button of document.querySelectorAll("[data-show]")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === which));
  }
  const wanted = (place) => which === "all" || truths[place] === which || (which === "wrong" && truths[place] !== state.answers[place]);
  const places = truths.map((_, place) => place).filter(wanted);
  find("gallery").replaceChildren(...places.map((place) => {
    const isRight = truths[place] === state.answers[place];
    const text = `${place + 1}: ${truths[place]}`;
    const said = make("b", { className: isRight ? "right" : "wrong", text: isRight ? " ✓" : ` ✗ you said ${state.answers[place]}` });
    return make(
      "button", { type: "button", onclick: () => enlarge(place, text) },
      make("img", { src: pictureOf(place), alt: text, loading: "lazy", width: data.width, height: data.height }), text, said,
    );
  }));
}

function enlarge(place, text) {
  find("large-text").textContent = text;
  find("large-tile").src = pictureOf(place);
  find("large").showModal();
}
find("close").addEventListener("click", () => find("large").close());

find("save").addEventListener("click", () => {
  const text = JSON.stringify(answersDocument(data, state), null, 1);
  const name = state.reader.replace(/[^\p{L}\p{N}]+/gu, "-").replace(/^-|-$/g, "") || "reader";
  const address = URL.createObjectURL(new Blob([text], { type: "application/json" }));
  make("a", { href: address, download: `answers-${name}.json` }).click();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
});

find("again").addEventListener("click", () => {
  if (!confirm("Remove these answers from this browser and begin anew? Save them first.")) return;
  state = restore(null, data);
  find("reader").value = "";
  save();
  show();
});

// Ground ----------------------------------------------------------------------------------------------------------

function setGround(isDark) {
  document.documentElement.classList.toggle("dark", isDark);
}
const chosen = kept("factory-quiz-ground");
setGround(chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
find("ground").addEventListener("click", () => {
  const isDark = !document.documentElement.classList.contains("dark");
  setGround(isDark);
  keep("factory-quiz-ground", isDark ? "dark" : "light");
});

show();
