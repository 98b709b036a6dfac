"use strict";
// Texts of models come into the page as text alone (textContent), each in a box that direction marks cannot leave.

const find = (id) => document.getElementById(id);
const MARKS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]/g;
const WAIT = 500; // milliseconds before a server that is away is asked again
const LOOK = 3000; // milliseconds before looking for new pairs
const KEPT = "foresighted-label";

let form = "";
let pair = null;
let since = 0;
let busy = false;

function keep(value) {
  try {
    if (value === null) sessionStorage.removeItem(KEPT);
    else sessionStorage.setItem(KEPT, JSON.stringify(value));
  } catch { /* no storage: a reload before the server is back then forgets this one answer */ }
}

function kept() {
  try { return JSON.parse(sessionStorage.getItem(KEPT)); } catch { return null; }
}

const pause = (time) => new Promise((done) => setTimeout(done, time));

const AWAY = "The server is away; what you said is kept here and sent again.";

// Send something until the server has said what became of it; it takes the same answer once, however often it comes.
async function send(path, body) {
  const wrong = find("wrong");
  for (;;) {
    try {
      const options = body === undefined ? {} : {
        method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json", "X-Form": form },
      };
      const response = await fetch(path, { credentials: "same-origin", ...options });
      if (response.status >= 500) throw new Error("a disk that is full, or a fault; both are tried again");
      const said = await response.json();
      if (!response.ok) wrong.textContent = said.error;
      else if (body !== undefined || wrong.textContent === AWAY) wrong.textContent = "";
      return response.ok ? said : null;
    } catch {
      wrong.textContent = AWAY;
      await pause(WAIT);
    }
  }
}

function write(box, text) {
  box.textContent = text === "" ? "(no text)" : text;
  box.classList.toggle("empty", text === "");
  box.scrollTop = 0;
  const count = (text.match(MARKS) ?? []).length;
  box.parentElement.querySelector(".marks").textContent =
    count ? `${count} invisible character${count === 1 ? "" : "s"} in this text` : "";
}

function show(state) {
  const someone = state.person !== null;
  find("start").hidden = someone || state.link;
  find("link").hidden = someone || !state.link;
  find("always").hidden = !someone;
  if (!someone) {
    find("progress").textContent = "";
    return;
  }
  form = state.form;
  if (pair === null && state.answered > 0) find("guidelines")?.removeAttribute("open"); // they were read before
  const pace = state.seconds === null ? "" : `, ${state.seconds.toFixed(state.seconds < 10 ? 1 : 0)} s each`;
  find("progress").textContent = `${state.person}: ${state.answered} answered, ${state.open} to go${pace}`;
  const other = pair === null || state.pair === null || state.pair.id !== pair.id || state.pair.ask !== pair.ask;
  pair = state.pair;
  find("pair").hidden = pair === null;
  find("done").hidden = pair !== null;
  if (pair !== null && other) {
    write(find("prompt"), pair.prompt);
    write(find("one"), pair.responses[0]);
    write(find("two"), pair.responses[1]);
    since = performance.now();
    find("prompt-title").focus({ preventScroll: true });
    scrollTo(0, 0);
  }
}

async function doing(work) {
  if (busy) return;
  busy = true;
  find("pair").classList.add("sent");
  try { await work(); } finally {
    busy = false;
    find("pair").classList.remove("sent");
    document.documentElement.dataset.ready = String(Number(document.documentElement.dataset.ready ?? 0) + 1);
  }
}

async function deliver(answer, said) {
  keep(answer);
  const state = await send("answer", answer) ?? await send("state");
  keep(null);
  if (find("wrong").textContent === "") find("say").textContent = said;
  show(state);
}

function choose(choice) {
  if (pair === null) return;
  const seconds = (performance.now() - since) / 1000;
  const said = { 1: "Saved: 1 is better.", 2: "Saved: 2 is better.", 0: "Saved: a tie.", s: "Skipped." }[choice];
  doing(() => deliver({ id: pair.id, ask: pair.ask, choice, seconds }, said));
}

function undo() {
  doing(async () => {
    const state = await send("undo", {}) ?? await send("state");
    find("say").textContent = state.undone ? "Taken back; answer again." : "There is nothing to take back.";
    show(state);
  });
}

document.addEventListener("keydown", (event) => {
  const typing = event.target.matches("input:not([type=checkbox]), textarea, select");
  if (typing || event.repeat || event.ctrlKey || event.altKey || event.metaKey || !find("keys").checked) return;
  if (find("always").hidden) return;
  const key = event.key.toLowerCase();
  if (["1", "2", "0", "s"].includes(key)) choose(key);
  else if (key === "u") undo();
  else return;
  event.preventDefault();
});
for (const button of document.querySelectorAll("[data-choice]")) {
  button.addEventListener("click", () => choose(button.dataset.choice));
}
find("undo").addEventListener("click", undo);
find("start").addEventListener("submit", (event) => {
  event.preventDefault();
  doing(async () => { const state = await send("name", { name: find("name").value }); if (state) show(state); });
});

async function look() {
  for (;;) {
    await pause(LOOK);
    if (!busy && pair === null && find("start").hidden && find("link").hidden) {
      await doing(async () => show(await send("state") ?? { person: null, link: true }));
    }
  }
}

doing(async () => {
  const state = await send("state");
  if (state === null) return;
  form = state.form ?? "";
  const left = kept(); // an answer that was on its way when the page was closed
  if (left !== null && state.person !== null) await deliver(left, "Saved.");
  else show(state);
}).then(look);
