// What a sample shows of itself: pixels, a waveform that plays, words.
"use strict";

export const bytes = (base64) => Uint8Array.from(atob(base64), (c) => c.charCodeAt(0));

export function base64(data) {
  let text = "";
  for (let i = 0; i < data.length; i += 8192) text += String.fromCharCode(...data.subarray(i, i + 8192));
  return btoa(text);
}

// The samples of a WAV of 16 bits, its first channel.
function samples(wav) {
  const view = new DataView(wav.buffer, wav.byteOffset, wav.byteLength);
  const channels = view.getUint16(22, true);
  let at = 12;
  while (at + 8 <= wav.length && String.fromCharCode(...wav.subarray(at, at + 4)) !== "data") {
    const size = view.getUint32(at + 4, true);
    at += 8 + size + (size % 2);
  }
  const count = Math.floor(Math.min(view.getUint32(at + 4, true), wav.length - at - 8) / 2 / channels);
  return Float32Array.from({length: count}, (_, i) => view.getInt16(at + 8 + 2 * i * channels, true) / 32767);
}

// 16 bits, one channel, as the server reads it.
export function wav(wave, rate) {
  const view = new DataView(new ArrayBuffer(44 + 2 * wave.length));
  const word = (at, text) => [...text].forEach((c, i) => view.setUint8(at + i, c.charCodeAt(0)));
  word(0, "RIFF"); view.setUint32(4, 36 + 2 * wave.length, true); word(8, "WAVEfmt ");
  view.setUint32(16, 16, true); view.setUint16(20, 1, true); view.setUint16(22, 1, true);
  view.setUint32(24, rate, true); view.setUint32(28, 2 * rate, true);
  view.setUint16(32, 2, true); view.setUint16(34, 16, true);
  word(36, "data"); view.setUint32(40, 2 * wave.length, true);
  wave.forEach((x, i) => view.setInt16(44 + 2 * i, Math.max(-1, Math.min(1, x)) * 32767, true));
  return new Uint8Array(view.buffer);
}

function drawWave(canvas, wave) {
  const [width, height] = [canvas.width = 240, canvas.height = 240];
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(document.body).getPropertyValue("color");
  for (let x = 0; x < width; x += 2) {
    const part = wave.subarray(x * wave.length / width, (x + 2) * wave.length / width);
    const peak = part.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const half = Math.max(1, peak * height * .42);
    context.fillRect(x, height / 2 - half, 1.4, 2 * half);
  }
}

let playing = null;

// A button with the waveform of a WAV; a click plays it, another stops it.
export function player(data, name) {
  const button = document.createElement("button");
  button.type = "button";
  button.className = "play";
  button.setAttribute("aria-label", `play ${name}`);
  const canvas = document.createElement("canvas");
  button.append(canvas);
  drawWave(canvas, samples(data));
  button.addEventListener("click", async () => {
    const again = playing?.button === button;
    playing?.stop();
    if (again) return;
    const url = URL.createObjectURL(new Blob([data], {type: "audio/wav"}));
    const audio = new Audio(url);
    const stop = () => {
      audio.pause();
      URL.revokeObjectURL(url);
      button.classList.remove("playing");
      if (playing?.button === button) playing = null;
    };
    playing = {button, stop};
    button.classList.add("playing");
    audio.addEventListener("ended", stop);
    try { await audio.play(); } catch { stop(); }
  });
  return button;
}

function picture(sample, name) {
  const image = new Image();
  image.alt = name;
  image.src = `data:image/png;base64,${sample.image}`;
  return image;
}

function words(sample, alone) {
  const text = document.createElement("p");
  text.className = "words";
  if (alone) {
    const number = document.createElement("b");
    number.textContent = `#${sample.index}`;
    text.append(number);
  }
  text.append(sample.text);
  return text;
}

// How the samples of a signature are laid out: a grid of pictures or sounds, lines of text, or all.
export function layout(sample) {
  const kinds = ["image", "audio", "text"].filter((kind) => sample[kind] !== undefined);
  if (kinds.length > 1) return "several";
  return kinds[0] === "text" ? "texts" : "";
}

export function tile(sample, classes) {
  const item = document.createElement("li");
  const what = sample.label === undefined ? "" : ` class ${classes[sample.label] ?? sample.label}`;
  const name = `sample ${sample.index}${what}`;
  if (sample.image !== undefined) item.append(picture(sample, name));
  if (sample.text !== undefined) item.append(words(sample, layout(sample) === "texts"));
  if (sample.audio !== undefined) item.append(player(bytes(sample.audio), name));
  if (layout(sample) === "") {
    const caption = document.createElement("span");
    caption.textContent = `#${sample.index}${what}`;
    item.append(caption);
  }
  return item;
}
