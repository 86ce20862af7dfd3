// What people give a model: something drawn, typed or said, or numbers, each only if there is
// something.
"use strict";
import {base64, player, wav} from "./media.js";

const at = (id) => document.getElementById(id);
const RECORD_MS = 2000;
const pen = at("drawing").getContext("2d", {willReadFrequently: true});
let drawn = false;
let picture = null; // bytes of a file in place of a drawing
let said = null; // bytes of a WAV, AIFF or FLAC
let vectors = {}; // numbers, and a mask as base64, by the names of their inputs
let changed = () => {};
let failed = () => {};

export const KINDS = ["image", "text", "audio"]; // that are shown, too
export const TAKEN = [...KINDS, "vector"];

export const takes = (signature) =>
  TAKEN.filter((kind) => signature.inputs.some((input) => input.kind === kind));

// Show what a signature takes; `then` is called whenever something is given, `otherwise` with the
// error where it cannot be.
export function offer(signature, then, otherwise) {
  const kinds = takes(signature);
  at("give").hidden = !kinds.length;
  for (const kind of TAKEN) at(`give-${kind}`).hidden = !kinds.includes(kind);
  vectors = {};
  const masks = signature.inputs.filter(isMask);
  const numbers = signature.inputs.filter((i) => i.kind === "vector");
  at("give-vector").replaceChildren(...masks.map(maskField), ...numbers.map(field));
  at("give-vector").hidden = !masks.length && !numbers.length;
  changed = then;
  failed = otherwise;
}

const isMask = ({kind, name}) => kind === "image" && name === "mask";

// A field for a file that says what is to be filled.
function maskField({name}) {
  const label = document.createElement("label");
  label.textContent = `${name}: a picture of the same size, white where it is to be filled`;
  const accept = "image/png,image/jpeg,image/webp";
  const chooser = Object.assign(document.createElement("input"), {type: "file", name, accept});
  chooser.addEventListener("change", async () => {
    delete vectors[name];
    const [file] = chooser.files;
    if (file) vectors[name] = base64(new Uint8Array(await file.arrayBuffer()));
    changed();
  });
  label.append(chooser);
  return label;
}

// A field for the numbers of an input.
function field(spec) {
  const label = document.createElement("label");
  label.textContent = `${spec.name}: ${spec.shape.join(" × ") || 1} numbers`;
  const text = document.createElement("textarea");
  Object.assign(text, {name: spec.name, rows: 4, spellcheck: false, placeholder: "0.5 1 -2, or JSON"});
  text.addEventListener("change", () => {
    delete vectors[spec.name];
    try {
      if (text.value.trim()) vectors[spec.name] = numbers(text.value, spec);
    } catch (error) {
      failed(error);
      return;
    }
    changed();
  });
  label.append(text);
  return label;
}

// Lists of JSON as they are, or numbers between blanks or commas, in the order of the shape.
function numbers(text, {name, shape}) {
  try {
    const parsed = JSON.parse(text);
    if (Array.isArray(parsed)) return parsed;
  } catch { /* numbers, then */ }
  const flat = text.trim().split(/[\s,;]+/).map(Number);
  if (!flat.every(Number.isFinite)) throw new Error(`${name} takes numbers between blanks or commas, or JSON`);
  if (!shape.length && flat.length === 1) return flat[0];
  if (shape.length > 1 && flat.length !== shape.reduce((a, b) => a * b, 1)) {
    throw new Error(`${name} takes ${shape.join(" × ")} numbers, got ${flat.length}; other sizes as JSON`);
  }
  return shape.slice(1).reduceRight((values, size) => Array.from(
    {length: values.length / size}, (_, i) => values.slice(i * size, (i + 1) * size)), flat);
}

// The inputs that are given, by name; files as base64.
export function given(signature) {
  const values = {
    image: picture ? base64(picture) : drawn ? cropped() : null,
    text: at("text").value || null,
    audio: said ? base64(said) : null,
  };
  const files = signature.inputs
    .filter((input) => KINDS.includes(input.kind) && !isMask(input) && values[input.kind] !== null)
    .map((input) => [input.name, values[input.kind]]);
  return {...Object.fromEntries(files), ...vectors};
}

function clear() {
  pen.clearRect(0, 0, 280, 280);
  drawn = false;
  picture = null;
  at("image-file").value = "";
}

// The drawing alone, in the middle of a black square, as digits lie in their pictures.
function cropped() {
  const {data, width, height} = pen.getImageData(0, 0, 280, 280);
  let [left, top, right, bottom] = [width, height, 0, 0];
  for (let i = 3; i < data.length; i += 4) {
    if (!data[i]) continue;
    const x = (i >> 2) % width;
    const y = Math.floor((i >> 2) / width);
    [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
  }
  const [w, h] = [right - left + 1, bottom - top + 1];
  const side = Math.max(w, h) * 1.08;
  const square = Object.assign(document.createElement("canvas"), {width: 128, height: 128});
  const context = square.getContext("2d");
  context.fillRect(0, 0, 128, 128);
  const scale = 128 / side;
  context.drawImage(at("drawing"), left, top, w, h,
    (128 - w * scale) / 2, (128 - h * scale) / 2, w * scale, h * scale);
  return square.toDataURL("image/png").split(",")[1];
}

function follow(event) {
  const canvas = at("drawing");
  const box = canvas.getBoundingClientRect();
  const point = (e) => [(e.clientX - box.left) * 280 / box.width, (e.clientY - box.top) * 280 / box.height];
  event.preventDefault();
  if (picture) clear();
  canvas.setPointerCapture(event.pointerId);
  Object.assign(pen, {lineWidth: 26, lineCap: "round", lineJoin: "round", strokeStyle: "#fff"});
  let last = point(event);
  const line = (to) => {
    pen.beginPath();
    pen.moveTo(...last);
    pen.lineTo(...to);
    pen.stroke();
    last = to;
  };
  line([last[0] + .1, last[1]]);
  const move = (e) => line(point(e));
  canvas.addEventListener("pointermove", move);
  // Comes after pointerup, and also where the browser takes the pointer away.
  canvas.addEventListener("lostpointercapture", () => {
    canvas.removeEventListener("pointermove", move);
    drawn = true;
    changed();
  }, {once: true});
}

async function take(file) {
  said = null;
  at("heard").replaceChildren();
  try {
    const data = new Uint8Array(await file.arrayBuffer());
    const head = String.fromCharCode(...data.subarray(0, 4));
    const sound = head === "RIFF" || head === "fLaC" ? data : await decoded(data);
    at("heard").replaceChildren(...(head === "fLaC" ? [] : [player(sound, "what was said")]));
    said = sound;
  } catch (error) {
    failed(new Error(`This sound cannot be read: ${error.message}`));
    return;
  }
  changed();
}

async function decoded(data) {
  const context = new AudioContext();
  try {
    const sound = await context.decodeAudioData(data.buffer);
    return wav(sound.getChannelData(0), sound.sampleRate);
  } finally {
    context.close();
  }
}

let recorder = null;
let asking = false; // for the microphone

async function record() {
  if (recorder) {
    if (recorder.state === "recording") recorder.stop();
    return;
  }
  if (asking) return;
  asking = true;
  let stream;
  try {
    stream = await navigator.mediaDevices.getUserMedia({audio: true});
  } catch {
    failed(new Error("No microphone: the browser gives none, or none to a page without HTTPS"));
    return;
  } finally {
    asking = false;
  }
  const button = at("record");
  const parts = [];
  const mine = recorder = new MediaRecorder(stream);
  mine.addEventListener("dataavailable", (event) => parts.push(event.data));
  mine.addEventListener("stop", async () => {
    stream.getTracks().forEach((track) => track.stop());
    recorder = null;
    button.textContent = "Record";
    button.classList.remove("recording");
    await take(new Blob(parts));
  });
  mine.start();
  button.textContent = "Stop";
  button.classList.add("recording");
  setTimeout(() => { if (mine.state === "recording") mine.stop(); }, RECORD_MS);
}

at("drawing").addEventListener("pointerdown", follow);
at("clear").addEventListener("click", () => { clear(); changed(); });
at("record").addEventListener("click", record);
at("text").addEventListener("change", () => changed());
for (const kind of ["image", "audio"]) {
  at(`choose-${kind}`).addEventListener("click", () => at(`${kind}-file`).click());
}
at("audio-file").addEventListener("change", (event) => {
  if (event.target.files.length) take(event.target.files[0]);
});
at("image-file").addEventListener("change", async (event) => {
  const [file] = event.target.files;
  if (!file) return;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    clear();
    failed(new Error(`This picture cannot be read: ${file.name}`));
    return;
  }
  const scale = 280 / Math.max(bitmap.width, bitmap.height);
  pen.clearRect(0, 0, 280, 280);
  pen.drawImage(bitmap, (280 - bitmap.width * scale) / 2, (280 - bitmap.height * scale) / 2,
    bitmap.width * scale, bitmap.height * scale);
  picture = new Uint8Array(await file.arrayBuffer());
  changed();
});
for (const kind of ["image", "audio"]) {
  // So that the same file, changed or chosen once more, is taken again.
  at(`${kind}-file`).addEventListener("click", (event) => { event.target.value = ""; });
}
