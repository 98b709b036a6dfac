const PAGE = 20;
const SAID = { reward: "proxy reward", utility: "true utility", gap: "gap", label: "label", influence: "influence",
  overestimation: "overestimation", penalty: "penalty", net: "net wins", words: "words", kl: "KL (nats)", tokens: "tokens" };
const shownNumber = (value) => value === null ? "unknown" : Number.isInteger(value) ? String(value) : String(+value.toPrecision(3));

function options(select, values, all) {
  select.replaceChildren(...(all ? [make("option", { value: "" }, all)] : []), ...values.map(([value, text]) => make("option", { value }, text)));
}

/* Text with every occurrence of `query` marked; offsets hold because both sides are folded character by character. */
function marked(text, query) {
  if (!query) return [text];
  const folded = fold(text);
  const parts = [];
  let from = 0;
  for (let at = folded.indexOf(query); at >= 0; at = folded.indexOf(query, from)) {
    parts.push(text.slice(from, at), make("mark", {}, text.slice(at, at + query.length)));
    from = at + query.length;
  }
  return [...parts, text.slice(from)];
}

/* Lower case without a change of length, which `toLowerCase` of the whole could bring ("İ"). */
const fold = (text) => {
  const lower = text.toLowerCase();
  return lower.length === text.length ? lower : [...text].map((c) => c.toLowerCase().length === c.length ? c.toLowerCase() : c).join("");
};

class Browser {
  constructor(data) {
    this.data = data;
    this.count = data.columns.text.length;
    this.folded = data.columns.text.map((text, i) => fold(data.prompts[data.columns.prompt[i]]) + "\u0000" + fold(text));
    this.rounds = new Set(data.columns.round).size;
    this.page = 0;
    this.controls();
    this.search();
  }

  controls() {
    const { columns, numbers, arms, sources, kinds, seeds } = this.data;
    const distinct = (name) => [...new Set(columns[name])].sort((a, b) => a - b);
    const named = {
      source: sources.map((text, i) => [i, text]),
      arm: arms.map((arm, i) => [i, arm.label]),
      seed: seeds.map((text, i) => [i, text]),
      round: distinct("round").map((round) => [round, String(round)]),
      kind: kinds.map((text, i) => [i, text || "unknown"]),
      chosen: distinct("chosen").length > 1 ? [[1, "chosen"], [0, "not chosen"]] : [],
    };
    this.filters = $$("#responses [data-filter]");
    this.filters.forEach((select) => {
      const values = named[select.dataset.filter];
      options(select, values, "all");
      select.closest("label").hidden = values.length < 2;
      select.addEventListener("change", () => this.search());
    });
    const keys = Object.keys(numbers).flatMap((name) => name === "influence" ? [["influence", "influence"], ["|influence|", "size of influence"]] : [[name, SAID[name]]]);
    options($("#sort"), [["", "order of the records"], ...keys], null);
    $("#sort").value = "gap" in numbers ? "gap" : "net" in numbers ? "net" : "";
    $("#sort").addEventListener("change", () => this.search());
    $("#order").addEventListener("change", () => this.search());
    let waiting = 0;
    $("#query").addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(() => this.search(), 120); });
    $("#responses form").addEventListener("submit", (event) => { event.preventDefault(); this.search(); });
    $("#before").addEventListener("click", () => this.turn(-1));
    $("#after").addEventListener("click", () => this.turn(1));
    $("#close").addEventListener("click", () => $("#beside").close());
    $("#beside-seed").addEventListener("change", () => this.beside());
    $("#beside-source").addEventListener("change", () => this.beside());
    $("#responses form").hidden = false;
    $("#responses .pager").hidden = false;
  }

  search() {
    this.query = fold($("#query").value.trim());
    const wanted = this.filters.filter((one) => one.value !== "").map((one) => [this.data.columns[one.dataset.filter], Number(one.value)]);
    this.found = [];
    for (let i = 0; i < this.count; i += 1) {
      if (wanted.every(([column, value]) => column[i] === value) && (!this.query || this.folded[i].includes(this.query))) this.found.push(i);
    }
    const key = $("#sort").value;
    if (key) {
      const column = this.data.numbers[key.replaceAll("|", "")];
      const value = key.startsWith("|") ? (i) => column[i] === null ? null : Math.abs(column[i]) : (i) => column[i];
      const sign = Number($("#order").value);
      this.found.sort((a, b) => (value(a) === null) - (value(b) === null) || sign * (value(a) - value(b)) || a - b);
    }
    this.page = 0;
    this.show();
  }

  turn(step) {
    this.page += step;
    this.show();
    $("#found").scrollIntoView({ block: "nearest" });
  }

  show() {
    const pages = Math.max(1, Math.ceil(this.found.length / PAGE));
    const start = this.page * PAGE;
    const here = this.found.slice(start, start + PAGE);
    $("#found-list").replaceChildren(...here.map((i) => this.article(i)));
    $("#found").textContent = here.length ? `${this.found.length} found, showing ${start + 1} to ${start + here.length}` : "Nothing found";
    $("#place").textContent = `Page ${this.page + 1} of ${pages}`;
    $("#before").disabled = this.page === 0;
    $("#after").disabled = this.page >= pages - 1;
  }

  scores(i, names = Object.keys(this.data.numbers)) {
    const known = names.filter((name) => this.data.numbers[name] && this.data.numbers[name][i] !== null);
    return make("dl", {}, ...known.map((name) => make("div", {}, make("dt", {}, SAID[name]), make("dd", {}, shownNumber(this.data.numbers[name][i])))));
  }

  article(i) {
    const { columns, arms, sources, kinds, prompts, references, seeds, referenceName } = this.data;
    const arm = arms[columns.arm[i]];
    const facts = [sources[columns.source[i]], this.rounds > 1 ? `round ${columns.round[i]}` : "", `seed ${seeds[columns.seed[i]]}`, kinds[columns.kind[i]], columns.chosen[i] ? "chosen" : ""];
    const said = make("p", { class: "of" }, swatch(arm.look), make("strong", {}, arm.label), ...facts.filter(Boolean).map((fact) => make("span", {}, fact)));
    const whole = make("article", { class: `response arm-${arm.look % 8}` }, said,
      make("h3", {}, ...marked(prompts[columns.prompt[i]], this.query)),
      make("p", { class: "text" }, ...marked(columns.text[i], this.query)), this.scores(i));
    if (columns.note.length && columns.note[i]) whole.append(make("p", { class: "note text" }, columns.note[i]));
    if (references[columns.reference[i]]) {
      whole.append(make("details", {}, make("summary", {}, referenceName), make("p", { class: "text" }, references[columns.reference[i]])));
    }
    const button = make("button", { type: "button" }, "Side by side");
    button.addEventListener("click", () => this.open(i));
    whole.append(button);
    return whole;
  }

  open(i) {
    const { columns, sources, seeds, prompts } = this.data;
    this.prompt = columns.prompt[i];
    const same = [...columns.prompt.keys()].filter((j) => columns.prompt[j] === this.prompt);
    const distinct = (name) => [...new Set(same.map((j) => columns[name][j]))].sort((a, b) => a - b);
    options($("#beside-seed"), distinct("seed").map((seed) => [seed, seeds[seed]]), null);
    options($("#beside-source"), distinct("source").map((source) => [source, sources[source]]), null);
    $("#beside-seed").value = columns.seed[i];
    $("#beside-source").value = columns.source[i];
    $("#beside-title").textContent = prompts[this.prompt];
    this.beside();
    $("#beside").showModal();
  }

  /* One prompt: a row a round, a column an arm. */
  beside() {
    const { columns, arms } = this.data;
    const [seed, source] = [Number($("#beside-seed").value), Number($("#beside-source").value)];
    const same = [...columns.prompt.keys()].filter((j) => columns.prompt[j] === this.prompt && columns.seed[j] === seed && columns.source[j] === source);
    const rounds = [...new Set(same.map((j) => columns.round[j]))].sort((a, b) => a - b);
    const present = [...arms.keys()].filter((arm) => same.some((j) => columns.arm[j] === arm));
    const head = make("tr", {}, make("th", { scope: "col" }, this.rounds > 1 ? "round" : ""), ...present.map((arm) => make("th", { scope: "col" }, swatch(arms[arm].look), " ", arms[arm].label)));
    const body = rounds.map((round) => make("tr", {}, make("th", { scope: "row" }, this.rounds > 1 ? String(round) : "answer"), ...present.map((arm) => {
      const cell = make("td", { class: `arm-${arms[arm].look % 8}` });
      for (const j of same.filter((k) => columns.round[k] === round && columns.arm[k] === arm)) {
        const names = ["reward", "utility", "gap", "influence", "label", "net"];
        cell.append(make("div", { class: columns.chosen[j] ? "chosen" : false }, make("p", { class: "text" }, columns.text[j]), this.scores(j, names), columns.note.length ? make("p", { class: "note text" }, columns.note[j]) : "", columns.chosen[j] ? make("p", { class: "note" }, "chosen") : ""));
      }
      return cell;
    })));
    const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...body));
    table.style.setProperty("--columns", present.length);
    $("#beside-table").replaceChildren(table);
  }
}

(async () => {
  document.documentElement.classList.add("scripted");
  themes();
  sampleRounds();
  words();
  $$("table.sortable").forEach(sortable);
  const payload = JSON.parse(await unpacked("payload"));
  if (payload.responses) window.foresighted = new Browser(payload.responses);
  await charts(payload.charts);
  document.documentElement.dataset.ready = "";
})();
