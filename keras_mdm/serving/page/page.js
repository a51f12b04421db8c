// The page: a form, the picture that is drawn, and those drawn before.

import { Editor } from "./canvas.js";

const $ = (id) => document.getElementById(id);
const PAUSE = 250; // milliseconds between two looks at a job
const KEPT = 60; // pictures in the history
const PLACE = "keras-mdm-history";
const editor = new Editor($("mask"), $("brush"));
let model = null;
let job = null; // id of the job that is drawn
let shown = null; // entry of the history
let level = null; // that is shown
let history = [];

// The server

async function call(path, options = {}) {
  const headers = { ...options.headers };
  const token = sessionStorage.getItem("token");
  if (token) headers.Authorization = `Bearer ${token}`;
  if (options.body) headers["Content-Type"] = "application/json";
  let answer;
  try {
    answer = await fetch(path, { ...options, headers });
  } catch {
    throw new Error("The server cannot be reached. Is it still running?");
  }
  if (answer.status === 401) {
    await askForToken();
    return call(path, options);
  }
  if (answer.status === 204) return {};
  const found = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Error(inWords(answer.status, found.detail, answer.headers));
  return found;
}

function inWords(status, detail, headers) {
  if (status === 429) {
    return `Many pictures are waiting. Try again in ${headers.get("Retry-After") ?? "some"} seconds.`;
  }
  if (status === 404) return "The server has forgotten this picture. Draw it again.";
  return sentence(detail ?? `The server answered with ${status}.`);
}

function sentence(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

function askForToken() {
  $("token").value = "";
  $("ask").showModal();
  return new Promise((resolve) => {
    $("ask").addEventListener("close", () => {
      sessionStorage.setItem("token", $("token").value);
      resolve();
    }, { once: true });
  });
}

// The form

async function begin() {
  try {
    model = await call("api/model");
  } catch (problem) {
    $("error").textContent = problem.message;
    setTimeout(begin, 2000);
    return;
  }
  $("error").textContent = "";
  const fields = new Set(model.fields);
  for (const part of document.querySelectorAll("[data-field]")) {
    part.hidden = !fields.has(part.dataset.field);
  }
  const top = model.levels.at(-1);
  const names = model.levels.map((each) => each.name);
  const sizes = [names.slice(0, -1).join(", "), names.at(-1)].filter(Boolean).join(" and ");
  $("title").textContent = model.notes.title ?? "keras-mdm";
  document.title = $("title").textContent;
  $("about").textContent = model.notes.description
    ?? `Draws ${model.clips ? "clips" : "pictures"} at ${sizes} pixels${names.length > 1 ? " together" : ""}.`;
  $("version").textContent = `keras-mdm ${model.version}`;
  $("licence").textContent = model.notes.licence ? `Model: ${model.notes.licence}` : "";
  $("frame").style.aspectRatio = `${top.width} / ${top.height}`;
  fill($("level"), model.levels.map((each) => [each.name, each.name]), top.name);
  fill($("sampler"), model.samplers.map((name) => [name, name]), model.defaults.sampler);
  $("samplers").hidden = model.samplers.length < 2;
  $("by-level").hidden ||= model.levels.length < 2;
  $("more").hidden = $("samplers").hidden && model.levels.length < 2;
  if (model.classes) {
    const names = model.class_names ?? Array.from({ length: model.classes }, (_, i) => `class ${i}`);
    fill($("label"), [["", "any"], ...names.map((name, i) => [String(i), name])], "");
  }
  for (const each of model.levels) {
    const part = document.createElement("div");
    const label = document.createElement("label");
    const input = document.createElement("input");
    Object.assign(input, { type: "number", min: 0, step: 0.1, id: `scale-${each.name}` });
    input.dataset.level = each.name;
    label.htmlFor = input.id;
    label.textContent = each.name;
    part.append(label, input);
    $("scales").append(part);
  }
  for (const id of ["prompt", "negative"]) $(id).maxLength = model.limits.prompt;
  $("steps").max = model.limits.steps;
  editor.fit({ width: top.width, height: top.height }, fields.has("mask"));
  setForm(model.defaults);
  restore();
  waitUntilReady();
}

async function waitUntilReady() {
  const health = await fetch("health").then((answer) => answer.json()).catch(() => ({}));
  if (health.status === "starting" && !job) {
    $("status").textContent = "The server is getting ready; the first picture takes longer.";
    setTimeout(waitUntilReady, 1000);
  } else if (!job && !shown) {
    $("status").textContent = "";
  }
}

function fill(select, pairs, chosen) {
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  select.value = chosen;
}

function setForm(values) {
  $("prompt").value = values.prompt ?? $("prompt").value;
  $("negative").value = values.negative_prompt ?? "";
  $("label").value = values.label ?? "";
  $("seed").value = values.seed ?? "";
  $("steps").value = values.steps ?? "";
  $("level").value = values.level ?? model.levels.at(-1).name;
  $("sampler").value = values.sampler ?? model.samplers[0] ?? "";
  $("strength").value = values.strength ?? model.defaults.strength ?? 0.7;
  const scale = values.guidance_scale;
  const byLevel = typeof scale === "object" && scale !== null;
  $("guidance").value = byLevel ? "" : scale ?? "";
  for (const input of $("scales").querySelectorAll("input")) {
    input.value = byLevel ? scale[input.dataset.level] ?? 1 : "";
  }
  showForm();
}

function showForm() {
  $("strength-shown").value = Number($("strength").value).toFixed(2);
  const plain = $("guidance").value;
  for (const input of $("scales").querySelectorAll("input")) input.placeholder = plain || "1";
}

function wish() {
  const found = {};
  const number = (id) => ($(id).value === "" ? undefined : Number($(id).value));
  const has = (name) => model.fields.includes(name);
  if (has("prompt") && $("prompt").value.trim()) found.prompt = $("prompt").value.trim();
  if (has("negative_prompt") && $("negative").value.trim()) {
    found.negative_prompt = $("negative").value.trim();
  }
  if (has("label") && $("label").value !== "") found.label = Number($("label").value);
  for (const name of ["seed", "steps"]) found[name] = number(name);
  if (has("sampler") && $("sampler").value) found.sampler = $("sampler").value;
  if (has("level")) found.level = $("level").value;
  if (has("guidance_scale")) {
    const scales = [...$("scales").querySelectorAll("input")];
    found.guidance_scale = scales.some((input) => input.value !== "")
      ? Object.fromEntries(scales.map((input) => [
        input.dataset.level, Number(input.value || $("guidance").value || 1)]))
      : number("guidance");
  }
  if (has("init_image") && editor.source) {
    Object.assign(found, editor.files());
    if (!found.mask) found.strength = Number($("strength").value);
    if (!has("mask")) delete found.mask;
  }
  return found;
}

// Drawing

async function draw() {
  if (job || !model) return;
  $("error").textContent = "";
  working(true);
  try {
    const begun = await call("api/jobs", { method: "POST", body: JSON.stringify(wish()) });
    job = begun.id;
    $("status").textContent = "In the queue.";
    await follow(begun.id);
  } catch (problem) {
    $("error").textContent = problem.message;
    if (shown) show(shown);
  } finally {
    job = null;
    working(false);
  }
}

async function follow(id) {
  let since = 0;
  for (;;) {
    const found = await call(`api/jobs/${id}?since=${since}`);
    if (found.state === "done") {
      remember(found);
      return;
    }
    if (found.state === "cancelled") {
      $("status").textContent = "Cancelled.";
      if (shown) show(shown);
      return;
    }
    if (found.state === "failed") throw new Error(sentence(found.detail));
    if (found.position > 0) {
      $("status").textContent = `In the queue, ${found.position} before it.`;
    } else if (!found.progress) {
      $("status").textContent = "It begins.";
    }
    if (found.progress) {
      since = found.progress.done;
      $("progress").value = since / found.progress.steps;
      $("status").textContent = `Step ${since} of ${found.progress.steps}.`;
    }
    if (found.preview) put(found.preview.image, "Preview", found.preview.level);
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
}

function working(busy) {
  $("draw").disabled = busy;
  $("cancel").hidden = $("progress").hidden = !busy;
  $("progress").value = 0;
  $("stage").setAttribute("aria-busy", busy);
  if (busy) $("actions").hidden = $("facts").hidden = true;
  if (busy) $("levels").replaceChildren();
}

function put(image, words, name) {
  const picture = $("picture");
  const size = model.levels.find((each) => each.name === name) ?? model.levels.at(-1);
  picture.src = `data:image/png;base64,${image}`;
  picture.alt = words;
  picture.classList.toggle("smooth", size.width >= 400);
  picture.hidden = false;
  $("empty").hidden = true;
}

// What was drawn

function remember(found) {
  const entry = {
    images: found.images,
    parameters: found.parameters,
    notes: found.notes,
    seconds: found.seconds,
  };
  history.unshift(entry);
  history.length = Math.min(history.length, KEPT);
  keep();
  list();
  level = null;
  show(entry);
}

function keep() {
  // A browser keeps a few megabytes for a site: the oldest go first.
  for (let count = history.length; count >= 0; count = count > 1 ? Math.floor(count / 2) : count - 1) {
    try {
      localStorage.setItem(PLACE, JSON.stringify(history.slice(0, count)));
      return;
    } catch { /* fewer */ }
  }
}

function restore() {
  try {
    history = JSON.parse(localStorage.getItem(PLACE) ?? "[]");
  } catch {
    history = [];
  }
  list();
}

function nameOf(parameters) {
  if (parameters.prompt) return parameters.prompt;
  if (parameters.label !== undefined) {
    return model.class_names?.[parameters.label] ?? `class ${parameters.label}`;
  }
  return `seed ${parameters.seed}`;
}

function list() {
  $("past").hidden = history.length === 0;
  $("history").replaceChildren(...history.map((entry) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    const picture = document.createElement("img");
    const words = document.createElement("span");
    button.type = "button";
    button.title = nameOf(entry.parameters);
    button.setAttribute("aria-current", entry === shown);
    picture.src = `data:image/png;base64,${Object.values(entry.images).at(-1)}`;
    picture.alt = "";
    words.textContent = nameOf(entry.parameters);
    button.append(picture, words);
    button.addEventListener("click", () => { level = null; if (!job) show(entry); });
    item.append(button);
    return item;
  }));
}

function show(entry) {
  shown = entry;
  const names = Object.keys(entry.images).sort((a, b) => order(a) - order(b));
  if (!names.includes(level)) level = names.at(-1);
  const words = nameOf(entry.parameters);
  put(entry.images[level], words, level);
  $("levels").replaceChildren(...(names.length < 2 ? [] : names.map((name) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = name;
    button.setAttribute("aria-pressed", name === level);
    button.addEventListener("click", () => { level = name; show(entry); });
    return button;
  })));
  $("actions").hidden = $("facts").hidden = false;
  $("download").href = $("picture").src;
  $("download").download = `${words.toLowerCase().replace(/[^\p{L}\p{N}]+/gu, "-").slice(0, 60)}`
    + `-${entry.parameters.seed}_${level}.png`;
  $("status").textContent = `${words}: drawn in ${entry.seconds.drawing.toFixed(1)} s`
    + (entry.seconds.waiting >= 0.5 ? ` after ${entry.seconds.waiting.toFixed(1)} s in the queue.` : ".");
  $("notes").textContent = entry.notes.join(" ");
  $("parameters").replaceChildren(...Object.entries(entry.parameters).flatMap(([name, value]) => {
    const term = document.createElement("dt");
    const said = document.createElement("dd");
    term.textContent = name.replaceAll("_", " ");
    said.textContent = typeof value === "object"
      ? Object.entries(value).map(([k, v]) => (Array.isArray(value) ? v : `${k}: ${v}`)).join(", ")
      : value;
    return [term, said];
  }));
  for (const [row, button] of [...$("history").querySelectorAll("button")].entries()) {
    button.setAttribute("aria-current", history[row] === entry);
  }
}

function order(name) {
  return model.levels.findIndex((each) => each.name === name);
}

// What is clicked

$("form").addEventListener("submit", (event) => { event.preventDefault(); draw(); });
$("form").addEventListener("input", showForm);
$("guidance").addEventListener("input", () => {
  for (const input of $("scales").querySelectorAll("input")) input.value = "";
});
for (const id of ["prompt", "negative"]) {
  $(id).addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("form").requestSubmit();
    }
  });
}
$("cancel").addEventListener("click", () => {
  if (job) call(`api/jobs/${job}`, { method: "DELETE" }).catch(() => {});
});
$("again").addEventListener("click", () => { setForm(shown.parameters); $("prompt").focus(); });
$("continue").addEventListener("click", async () => {
  const image = Object.values(shown.images).at(-1);
  const bytes = Uint8Array.from(atob(image), (letter) => letter.charCodeAt(0));
  await start(new Blob([bytes], { type: "image/png" }));
});
$("file").addEventListener("change", () => { if ($("file").files[0]) start($("file").files[0]); });
$("clear").addEventListener("click", () => editor.clear());
$("remove").addEventListener("click", () => {
  editor.drop();
  $("file").value = "";
  $("editor").hidden = true;
});
$("forget").addEventListener("click", () => {
  history = [];
  localStorage.removeItem(PLACE);
  list();
});
addEventListener("pagehide", () => {
  if (!job) return;
  const token = sessionStorage.getItem("token");
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  fetch(`api/jobs/${job}`, { method: "DELETE", keepalive: true, headers });
});

async function start(blob) {
  try {
    await editor.take(blob);
    $("error").textContent = "";
    $("start").open = true;
    $("editor").hidden = false;
  } catch {
    $("error").textContent = "This file is not a picture that the browser can read.";
  }
}

begin();
