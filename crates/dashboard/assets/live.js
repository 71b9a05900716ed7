// What pages do beyond HTML: times in the reader's zone, live parts, copying of commands. Everything can be read
// without it.
"use strict";

const two = (number) => String(number).padStart(2, "0");
const day = (at) => `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;

/** Rewrites moments, which the server writes in UTC, in the reader's zone; UTC stays on hover. */
function localize(root) {
  for (const element of root.querySelectorAll("[datetime]")) {
    const at = new Date(element.getAttribute("datetime"));
    if (Number.isNaN(at.getTime())) continue;
    const full = `${day(at)} ${clock(at)}:${two(at.getSeconds())}`;
    const form = element.closest("[data-form]")?.dataset.form;
    if (form === "full") element.textContent = full;
    if (form === "clock") element.textContent = clock(at);
    if (form === "seconds") element.textContent = `${clock(at)}:${two(at.getSeconds())}`;
    if (form === "day") element.textContent = `${two(at.getMonth() + 1)}-${two(at.getDate())} ${clock(at)}`;
    if (form === "hover" && !element.dataset.utc) {
      element.dataset.utc = element.title;
      element.title = `${full} (${element.title})`;
    }
  }
  const zone = Intl.DateTimeFormat().resolvedOptions().timeZone;
  for (const element of root.querySelectorAll("[data-zone]")) element.textContent = `Times: ${zone}`;
}

/** Gives each command a button that copies it. */
function addCopyButtons(root) {
  if (!navigator.clipboard) return;
  for (const code of root.querySelectorAll("[data-copy]")) {
    if (code.nextElementSibling?.classList.contains("copy")) continue;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "copy";
    button.textContent = "Copy";
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
    code.after(button);
  }
}

/** A text as one word of a POSIX shell. */
const shellWord = (text) => (/^[\w./:@%+=,-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

/** What a field of a form adds to the form's command. */
function wordsOf(field) {
  const { option, word, words, end, each } = field.dataset;
  if (field.type === "checkbox" || field.type === "radio") return field.checked ? words : "";
  if (field.type === "select-one") {
    const of = (_, name) => shellWord(field.form.elements[name].value.trim() || "0");
    return field.selectedOptions[0]?.dataset.words?.replace(/{(\w+)}/, of);
  }
  const text = field.type === "file" ? field.files[0]?.name ?? "" : field.value?.trim() ?? "";
  if (each) return text.split(/[,\s]+/).filter(Boolean).map((one) => `${each} ${shellWord(one)}`).join(" ");
  if (end !== undefined) return text && `${text.includes("-") ? "--until" : "--ttl"} ${shellWord(text)}`;
  const value = text ? shellWord(text) : word;
  if (!value) return "";
  return option ? `${option} ${value}` : word && value;
}

/** Keeps the command that does what a form does in step with the form. */
function followForm(code) {
  const form = document.getElementById(code.dataset.form);
  const write = () => {
    const all = [...form.elements];
    const instead = all.filter((field) => field.dataset.instead && field.value.trim()).map((field) => field.dataset.instead);
    const fields = all.filter((field) => !instead.includes(field.name));
    const isArgument = (field) => field.dataset.word !== undefined && !field.dataset.option;
    const ordered = [...fields.filter(isArgument), ...fields.filter((field) => !isArgument(field))];
    code.textContent = [code.dataset.begin, ...ordered.map(wordsOf)].filter(Boolean).join(" ");
  };
  form.addEventListener("input", write);
  form.addEventListener("change", write);
  // A browser may have filled in what was there before.
  addEventListener("pageshow", write);
  code.previousElementSibling.textContent = "Command line: ";
  write();
}

/** Follows the live parts of this page, until the reader pauses them. */
function follow(path) {
  const state = document.getElementById("live-state");
  const words = document.createElement("span");
  const button = document.createElement("button");
  button.type = "button";
  button.className = "plain";
  state.replaceChildren(words, " ", button);
  let stream = null;
  let paused = false;

  const show = (text) => {
    words.textContent = text;
    button.textContent = paused ? "Go on" : "Pause";
  };
  const stop = () => { stream?.close(); stream = null; };
  const start = () => {
    if (stream || paused || document.hidden) return;
    stream = new EventSource(path);
    stream.addEventListener("open", () => show("Live"));
    stream.addEventListener("error", () => {
      // A stream that was refused is closed; one that broke off is tried again by the browser.
      const refused = stream?.readyState === EventSource.CLOSED;
      show(refused ? "Not live any more: load the page anew" : "Not live: the service does not answer");
      if (refused) stop();
    });
    stream.addEventListener("part", (event) => take(JSON.parse(event.data)));
    stream.addEventListener("rows", (event) => prepend(JSON.parse(event.data)));
  };
  button.addEventListener("click", () => {
    paused = !paused;
    if (paused) { stop(); show("Paused"); } else { start(); show("Live"); }
  });
  document.addEventListener("visibilitychange", () => { if (document.hidden) stop(); else start(); });
  show("Live");
  start();
}

const FOCUSABLE = "a[href], button, summary, [tabindex]";
const SCROLLED = ".plot, .scroll";

/** Puts new content in the place of a part, but not under the reader's typing. Focus, what is open and how far
 * something is scrolled stay. */
function take(part) {
  const element = document.getElementById(part.id);
  if (!element) return;
  const active = element.contains(document.activeElement) ? document.activeElement : null;
  if (active?.matches("input, select, textarea")) return;
  const all = (selector) => [...element.querySelectorAll(selector)];
  const focused = active ? all(FOCUSABLE).indexOf(active) : -1;
  const open = all("details").map((details) => details.open);
  const scrolled = all(SCROLLED).map((box) => box.scrollLeft);
  element.innerHTML = part.html;
  all("details").forEach((details, index) => { details.open = open[index] ?? details.open; });
  all(SCROLLED).forEach((box, index) => { box.scrollLeft = scrolled[index] ?? box.scrollLeft; });
  localize(element);
  addCopyButtons(element);
  if (focused >= 0) all(FOCUSABLE)[focused]?.focus({ preventScroll: true });
}

/** Puts rows on top of a table, which keeps as many as it says. */
function prepend(rows) {
  const body = document.getElementById(rows.id);
  if (!body) return;
  body.insertAdjacentHTML("afterbegin", rows.html);
  const most = Number(body.dataset.most) || 200;
  while (body.rows.length > most) body.deleteRow(-1);
  for (const row of body.rows) { if (row.dataset.seen) break; row.dataset.seen = "1"; localize(row); }
}

/** Keeps the numbers beside a document, and its height, in step with its lines. */
function numberLines(editor) {
  const text = editor.querySelector("textarea");
  const numbers = editor.querySelector("pre");
  text.addEventListener("input", () => {
    const lines = text.value.split("\n").length;
    text.rows = lines + 1;
    while (numbers.children.length > lines) numbers.lastElementChild.remove();
    while (numbers.children.length < lines) {
      const number = document.createElement("span");
      number.textContent = numbers.children.length + 1;
      numbers.append(number);
    }
  });
}

/** A form that changes something is sent once, however often its button is pressed. */
document.addEventListener("submit", (event) => {
  const form = event.target;
  if (form.method !== "post") return;
  if (form.dataset.sent) event.preventDefault();
  form.dataset.sent = "1";
});
// The browser may show a page again as it was left.
addEventListener("pageshow", () => {
  for (const form of document.forms) delete form.dataset.sent;
});

document.documentElement.classList.add("script");
document.querySelectorAll("[data-editor]").forEach(numberLines);
document.querySelectorAll("code[data-form]").forEach(followForm);
localize(document);
addCopyButtons(document);
if (document.body.dataset.live) follow(document.body.dataset.live);
