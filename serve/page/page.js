// The playground: samples of the models hosted here, as a request of one's own would have them.
"use strict";
import * as give from "./give.js";
import {bytes, layout, tile} from "./media.js";

const at = (id) => document.getElementById(id);
const base = new URL(".", location.href).href.replace(/\/$/, "");
const GIVEN = [...give.TAKEN, "presence"];
const DRAWN = ["latent", "uniform", "label", "setting"];
const usable = (signature) => signature.inputs.every((i) => DRAWN.includes(i.kind) || GIVEN.includes(i.kind))
  && signature.outputs.some((o) => give.KINDS.includes(o.kind));
const LEVELS = {bit: "the bit", uint8: "the pixel", tolerance: "a tolerance"};
const TITLES = {401: "No valid key: ", 403: "Not allowed: ", 429: "Too much at once: "};
const KEY = "aigc-key";
let models = [];
let turn = 0;
let shown = []; // the samples on the page
let asked = {}; // the request that gave them

function options(select, pairs) {
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => new Option(text, value)));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

function chosen() {
  const model = models.find((m) => m.id === at("model").value);
  return {model, signature: model && model.signatures[at("signature").value]};
}

function showModel() {
  const {model} = chosen();
  const names = Object.keys(model.signatures).filter((name) => usable(model.signatures[name]));
  options(at("signature"), names.map((name) => [name, name]));
  at("signatures").hidden = names.length < 2;
  const {signature} = chosen();
  const label = signature?.inputs.find((i) => i.kind === "label");
  at("labels").hidden = !label;
  const count = label ? label.range[1] + 1 : 0;
  options(at("label"), [["", "drawn from the seed"],
    ...Array.from({length: count}, (_, i) => [String(i), label.classes[i] ?? String(i)])]);
  at("about").textContent = `${model.preset}, licence ${model.licence}`;
  showSettings(signature?.inputs.filter((i) => i.kind === "setting") ?? []);
  // Given inputs keep their own sizes.
  const free = signature && !give.takes(signature).length ? Object.entries(signature.axes ?? {}) : [];
  showSizes(free, {...signature?.tile?.overlap, ...(signature?.chunk && {[signature.chunk.axis]: true})});
  if (signature) give.offer(signature, generate, showError);
}

function showSettings(settings) {
  at("settings").hidden = !settings.length;
  at("settings").replaceChildren(...settings.map((spec) => {
    const label = document.createElement("label");
    label.textContent = spec.name.replaceAll("_", " ");
    const input = document.createElement("input");
    Object.assign(input, {type: "number", min: spec.range[0], max: spec.range[1], value: spec.default});
    input.step = spec.dtype === "int64" ? 1 : "any";
    input.name = spec.name;
    input.addEventListener("change", generate);
    label.append(input);
    return label;
  }));
}

// Sizes of free axes, as numbers beside the settings. Along those that have tiles or chunks the
// server says how large is too large.
function showSizes(axes, divided) {
  at("sizes").hidden = !axes.length;
  at("sizes").replaceChildren(...axes.map(([name, axis]) => {
    const label = document.createElement("label");
    label.textContent = `size ${name}`;
    const input = document.createElement("input");
    const max = name in divided ? "" : axis.max;
    Object.assign(input, {type: "number", min: axis.min, max, step: axis.multiple, value: axis.default});
    input.name = name;
    input.addEventListener("change", generate);
    label.append(input);
    return label;
  }));
}

function sizes(signature) {
  return Object.fromEntries([...at("sizes").querySelectorAll("input")]
    .filter((input) => input.value !== "")
    .map((input) => [input.name, Number(input.value)])
    .filter(([name, value]) => value !== signature.axes[name].default));
}

function settings(signature) {
  return Object.fromEntries([...at("settings").querySelectorAll("input")]
    .filter((input) => input.value !== "")
    .map((input) => [input.name, Number(input.value)])
    .filter(([name, value]) => value !== signature.inputs.find((i) => i.name === name).default));
}

function request(format) {
  const {signature} = chosen();
  const body = {model: at("model").value};
  if (at("signature").value !== "sample") body.signature = at("signature").value;
  body.n = Number(at("n").value);
  if (signature.inputs.some((i) => DRAWN.slice(0, 3).includes(i.kind))) body.seed = Number(at("seed").value);
  if (!at("labels").hidden && at("label").value !== "") body.label = Number(at("label").value);
  const chosenSettings = settings(signature);
  if (Object.keys(chosenSettings).length) body.settings = chosenSettings;
  const chosenSizes = sizes(signature);
  if (Object.keys(chosenSizes).length) body.sizes = chosenSizes;
  if (give.takes(signature).length) body.inputs = give.given(signature);
  return {...body, format};
}

function showKeys() {
  at("keys").hidden = false;
  at("key").value = sessionStorage.getItem(KEY) ?? "";
  at("metrics").hidden = true; // a link sends no key
}

async function ask(path, options = {}) {
  const key = sessionStorage.getItem(KEY);
  const headers = {...options.headers, ...(key && {authorization: `Bearer ${key}`})};
  const answer = await fetch(path, {...options, headers});
  if (answer.ok) return answer;
  let message = `the server answered ${answer.status}`;
  try { message = (await answer.json()).error.message; } catch { /* not ours */ }
  if (answer.status === 401 || answer.status === 403) showKeys();
  const wait = answer.headers.get("retry-after");
  if (wait && !message.includes("try again")) message += `; try again in ${wait} s`;
  throw new Error(`${TITLES[answer.status] ?? ""}${message}`);
}

const post = (body) => ask("v1/samples", {
  method: "POST", headers: {"content-type": "application/json"}, body: JSON.stringify(body),
});

function showError(error) {
  at("error").textContent = error.message;
  at("error").hidden = false;
}

const EXTENSIONS = {image: "png", audio: "wav"};

// One word for a shell, whatever is in it: names come from artifacts, which strangers may have made.
const quoted = (text) => `'${`${text}`.replaceAll("'", "'\\''")}'`;
const word = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? `${text}` : quoted(text));

// The value of an option; joined to it where it would pass for an option itself.
const option = (name, value) => `${name}${`${value}`.startsWith("-") ? "=" : " "}${word(value)}`;

function showCommands(body) {
  // Commands are copied around: the key itself stays out of them.
  const key = sessionStorage.getItem(KEY) ? ` -H "Authorization: Bearer $AIGC_KEY"` : "";
  const kind = shown[0].image !== undefined ? "png" : "json";
  const url = word(`${base}/v1/samples`);
  const {signature} = chosen();
  // A form holds files and texts; numbers are JSON.
  const isForm = body.inputs && signature.inputs.every((i) => i.kind !== "vector" || !(i.name in body.inputs));
  if (isForm) {
    // A text may begin with what -F takes for a file, or hold what it takes for a media type.
    const field = (name, value) => ` --form-string ${word(name)}=${quoted(value)}`;
    const fields = Object.entries({...body, format: "json", inputs: undefined})
      .filter(([, value]) => value !== undefined)
      .map(([name, value]) => field(name, typeof value === "object" ? JSON.stringify(value) : value));
    const parts = Object.entries(body.inputs).map(([name, value]) => {
      const {kind} = signature.inputs.find((i) => i.name === name);
      return kind === "text" ? field(name, value) : ` -F ${word(`${name}=@${name === "mask" ? name : kind}.${EXTENSIONS[kind]}`)}`;
    });
    at("curl").textContent = `curl ${url}${key} -o samples.json${fields.join("")}${parts.join("")}`;
  } else {
    at("curl").textContent = `curl ${url}${key} -o samples.${kind} -d ${word(JSON.stringify(body))}`;
  }
  const parts = ["aigc sample", word(base), option("--model", body.model)];
  if (body.signature) parts.push(option("--signature", body.signature));
  parts.push(`-n ${body.n}`, `--seed ${body.seed}`);
  if (body.label !== undefined) parts.push(`--label ${body.label}`);
  if (body.settings) parts.push("--settings", ...Object.entries(body.settings).map((pair) => pair.map(word).join(" ")));
  if (body.sizes) parts.push("--sizes", ...Object.entries(body.sizes).map((pair) => pair.map(word).join(" ")));
  if (kind === "png") parts.push("--format grid");
  at("aigc").textContent = parts.join(" ");
  at("aigc").parentElement.hidden = Boolean(body.inputs);
  at("commands").hidden = false;
}

async function generate() {
  const mine = ++turn;
  const {signature} = chosen();
  if (!signature) return;
  const body = request("json");
  const wait = (busy) => { at("go").disabled = busy; at("grid").classList.toggle("busy", busy); };
  wait(false); // for who was asked before, whose answer is not looked at any more
  if ("seed" in body && (!Number.isSafeInteger(body.seed) || body.seed < 0)) return;
  at("error").hidden = true;
  if (body.inputs && !Object.keys(body.inputs).length) {
    at("grid").replaceChildren();
    at("facts").hidden = at("commands").hidden = true;
    return;
  }
  wait(true);
  const started = performance.now();
  try {
    const answer = await post(body);
    const document = await answer.json();
    const took = performance.now() - started;
    if (mine !== turn) return;
    shown = document.samples;
    asked = body;
    const classes = signature.inputs.find((i) => i.kind === "label")?.classes ?? [];
    at("grid").className = layout(shown[0]);
    at("grid").style.setProperty("--columns", Math.ceil(Math.sqrt(body.n)));
    at("grid").replaceChildren(...shown.map((sample) => tile(sample, classes)));
    at("said-seed").textContent = document.seed ?? "none";
    at("latency").textContent = `${took < 10 ? took.toFixed(1) : Math.round(took)} ms`;
    at("level").textContent = LEVELS[document.reproducibility] ?? document.reproducibility;
    at("replica").textContent = answer.headers.get("x-aigc-replica");
    at("download").textContent = `Download ${file().form.toUpperCase()}`;
    at("facts").hidden = false;
    showCommands({...body, format: shown[0].image !== undefined ? "grid" : "json"});
  } catch (error) {
    if (mine !== turn) return;
    showError(error);
  } finally {
    if (mine === turn) wait(false);
  }
}

// What the samples on the page are saved as: all pictures in one, one sound, or lines of text.
function file() {
  if (shown[0].image !== undefined) return {form: "png", blob: async () => (await post({...asked, format: "grid"})).blob()};
  if (shown[0].audio !== undefined) return {form: "wav", blob: async () => new Blob([bytes(shown[0].audio)])};
  return {form: "txt", blob: async () => new Blob(shown.map((sample) => `${sample.text}\n`))};
}

async function download() {
  const {form, blob} = file();
  try {
    const url = URL.createObjectURL(await blob());
    const link = document.createElement("a");
    link.href = url;
    const count = form === "wav" ? "" : `-n${asked.n}`;
    const seed = asked.seed === undefined ? "" : `-seed${asked.seed}`;
    link.download = `${asked.model.replace("@", "-")}${seed}${count}.${form}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  } catch (error) {
    showError(error);
  }
}

async function copy(button) {
  const text = at(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    getSelection().selectAllChildren(at(button.dataset.copy));
    button.textContent = "Selected";
  }
  setTimeout(() => { button.textContent = "Copy"; }, 1500);
}

at("form").addEventListener("submit", (event) => { event.preventDefault(); generate(); });
at("model").addEventListener("change", () => { showModel(); generate(); });
at("signature").addEventListener("change", () => { showModel(); generate(); });
for (const id of ["label", "n"]) at(id).addEventListener("change", generate);
at("dice").addEventListener("click", () => {
  at("seed").value = Math.floor(Math.random() * 1e6);
  generate();
});
at("download").addEventListener("click", download);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", () => copy(button));
}

async function start() {
  at("error").hidden = true;
  try {
    const answer = await ask("v1/models");
    models = (await answer.json()).data.filter((m) => Object.values(m.signatures).some(usable));
    if (!models.length) throw new Error("no model hosted here makes images, sounds or texts");
    const byName = (a, b) => (a.name < b.name ? -1 : a.name > b.name ? 1 : 0);
    options(at("model"), models.toReversed().sort(byName).map((m) => [m.id, m.id]));
    showModel();
    await generate();
  } catch (error) {
    showError(error);
  }
}

function useKey() {
  const key = at("key").value.trim();
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
  start();
}

at("use-key").addEventListener("click", useKey);
at("key").addEventListener("keydown", (event) => {
  if (event.key === "Enter") { event.preventDefault(); useKey(); }
});
if (sessionStorage.getItem(KEY)) showKeys();
start();
