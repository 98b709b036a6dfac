"use strict";
const $ = (selector, within = document) => within.querySelector(selector);
const $$ = (selector, within = document) => [...within.querySelectorAll(selector)];

/* The text of a gzipped, base64-encoded script element. */
async function unpacked(id) {
  const binary = atob($("#" + id).textContent);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i += 1) bytes[i] = binary.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

/* An element with attributes and children; a child that is a string becomes a text node, never markup. */
function make(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value !== false && value !== null) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

function swatch(index) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const use = document.createElementNS(space, "use");
  svg.setAttribute("class", "swatch");
  svg.setAttribute("aria-hidden", "true");
  use.setAttribute("href", "#swatch-" + index);
  svg.append(use);
  return svg;
}

function themes() {
  const select = $("#theme");
  const kept = { get: () => null, set: () => {} };
  try {
    const store = window.localStorage; // a browser may refuse it to a page that is a file
    kept.get = () => store.getItem("foresighted-theme");
    kept.set = (value) => store.setItem("foresighted-theme", value);
  } catch { /* the choice lasts as long as the page */ }
  const apply = () => {
    if (select.value) document.documentElement.dataset.theme = select.value;
    else delete document.documentElement.dataset.theme;
  };
  if (["light", "dark"].includes(kept.get())) select.value = kept.get();
  select.addEventListener("change", () => { apply(); kept.set(select.value); });
  $(".theme").hidden = false;
  apply();
}

/* The number that a cell begins with; NaN sorts last. */
const leading = (text) => Number.parseFloat(text.replace("−", "-").replace(/^[^\d.-]+/, ""));

function sortable(table) {
  const heads = $$("thead th", table);
  const body = $("tbody", table);
  const rows = [...body.rows];
  heads.forEach((head, column) => {
    const button = make("button", { type: "button" }, head.textContent);
    head.replaceChildren(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((one) => one.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const text = (row) => row.cells[column].textContent.trim();
      const numeric = rows.some((row) => !Number.isNaN(leading(text(row)))) && (column > 0 || rows.every((row) => /^[-−\d.]+$/.test(text(row))));
      const compare = (a, b) => {
        if (!numeric) return text(a).localeCompare(text(b)) * (down ? -1 : 1);
        const [x, y] = [leading(text(a)), leading(text(b))];
        if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y);
        return (x - y) * (down ? -1 : 1);
      };
      body.append(...[...rows].sort(compare));
    });
  });
}

/* Draw every chart; the library's expressions are interpreted, so the page needs no leave to evaluate code. */
async function charts(specifications) {
  const places = $$("[data-chart]");
  if (!places.length) return;
  document.head.append(make("script", {}, await unpacked("library")));
  const options = { ast: true, actions: false, renderer: "svg", defaultStyle: false, mode: "vega-lite",
    tooltip: { disableDefaultStyle: true, theme: "page" } };
  const views = [];
  for (const place of places) {
    const drawn = await window.vegaEmbed(place, specifications[place.dataset.chart], options);
    place.classList.add("drawn");
    $("svg", place).setAttribute("aria-hidden", "true"); // its place says what is drawn
    drawn.view.logLevel(1); // from now on an empty chart is what somebody chose, nothing to warn of
    views.push(drawn.view);
  }
  const boxes = $$(".legend input");
  boxes.forEach((box) => box.addEventListener("change", () => {
    const shown = boxes.filter((one) => one.checked).map((one) => Number(one.value));
    views.forEach((view) => view.signal("shown", shown).runAsync());
  }));
}

/* On paper nothing can be opened. */
window.addEventListener("beforeprint", () => $$("details.all").forEach((one) => { one.open = true; }));

/* Another prompt on the first screen: its answers stand in "Answers side by side". */
function words() {
  const select = $("#words select");
  const rounds = new Map($$("#samples .round").map((round) => [round.dataset.round, $$(".question", round)]));
  const last = [...rounds.values()].at(-1);
  if (!select || last.length < 2) return;
  const prompts = last.map((question) => $(".prompt", question).firstChild.textContent.trim());
  select.append(...prompts.map((text, i) => make("option", { value: i }, `${i + 1}: ${text.slice(0, 60)}`)));
  select.addEventListener("change", () => {
    $("#words .place").textContent = Number(select.value) + 1;
    $("#words .prompt").textContent = prompts[select.value];
    for (const said of $$("#words .said")) {
      const cell = said.parentElement;
      const question = (rounds.get(cell.parentElement.dataset.round) ?? last)[select.value];
      const [start, ...arms] = $$(".answer", question);
      const of = (one) => $("h4", one).textContent.trim() === cell.dataset.label.trim();
      const answer = cell.className ? arms.find(of) : start;
      said.textContent = answer ? $("p", answer).textContent : "no answer recorded";
      $("strong", cell).textContent = answer ? $(".scores", answer).textContent.split(" ")[1] : "unknown";
    }
  });
  $("#words .chooser").hidden = false;
}

function sampleRounds() {
  const chooser = $("#samples .chooser");
  if (!chooser) return;
  const select = $("select", chooser);
  const show = () => $$("#samples .round").forEach((round) => {
    round.classList.toggle("shown", round.dataset.round === select.value);
  });
  chooser.hidden = false;
  select.addEventListener("change", show);
  show();
}
