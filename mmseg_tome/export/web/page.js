// Segments images and camera frames with the ONNX files beside this page, in ONNX Runtime Web.
const byId = (id) => document.getElementById(id);
const LARGEST = 4096; // pixels of a side that are read; larger images are made smaller first
const ROUNDS = 3; // measured, after one that warms up
const BACKENDS = {
  wasm: { name: "WebAssembly (CPU)", module: "./ort/ort.wasm.min.mjs" },
  webgpu: { name: "WebGPU", module: "./ort/ort.webgpu.min.mjs" },
};

let model; // model.json
let ort, backend; // ONNX Runtime Web and what it runs on
let sessions = new Map(); // by preset: promises of sessions
let source = null; // ImageData that is segmented
let task = 0; // number of what runs last; what has an earlier one ends
let stream = null; // of the camera
let shown = null; // classes of `source`, see `segment`
let queue = Promise.resolve(); // ONNX Runtime runs one network at a time
const figures = new Map(); // by preset: times and agreement

class Problem extends Error {} // with a sentence for the visitor
class Missing extends Problem {} // a file is not there, whatever runs it

// ---------------------------------------------------------------- arithmetic

/** Rounds as Python does: halves to even numbers. */
const round = (x) => (Math.abs(x % 1) === 0.5 ? 2 * Math.round(x / 2) : Math.round(x));

/** For each of `count` positions of a resized axis: both neighbours and the weight of the second. */
function taps(count, from, to, alignCorners) {
  const scale = alignCorners ? (to > 1 ? (from - 1) / (to - 1) : 0) : from / to;
  const first = new Int32Array(count), second = new Int32Array(count), weight = new Float32Array(count);
  for (let i = 0; i < count; i++) {
    const at = Math.min(Math.max(alignCorners ? i * scale : (i + 0.5) * scale - 0.5, 0), from - 1);
    first[i] = Math.floor(at);
    second[i] = Math.min(first[i] + 1, from - 1);
    weight[i] = at - first[i];
  }
  return { first, second, weight };
}

/** An image as the network takes it: resized to fit, normalised, filled up; [3, H, W]. */
function prepare(image) {
  const [H, W] = model.input_size;
  const scale = Math.min(H / image.height, W / image.width);
  const height = Math.max(1, round(image.height * scale)), width = Math.max(1, round(image.width * scale));
  const data = new Float32Array(3 * H * W).fill(model.pad_value);
  const xs = taps(width, image.width, width), ys = taps(height, image.height, height);
  const from = image.data, row = 4 * image.width;
  for (let c = 0; c < 3; c++) {
    const channel = model.channel_order === "BGR" ? 2 - c : c;
    const mean = model.mean[c], std = model.std[c];
    for (let y = 0; y < height; y++) {
      const top = row * ys.first[y] + channel, bottom = row * ys.second[y] + channel, v = ys.weight[y];
      for (let x = 0, at = (c * H + y) * W; x < width; x++, at++) {
        const a = 4 * xs.first[x], b = 4 * xs.second[x], u = xs.weight[x];
        const above = from[top + a] + u * (from[top + b] - from[top + a]);
        const below = from[bottom + a] + u * (from[bottom + b] - from[bottom + a]);
        data[at] = (Math.round(above + v * (below - above)) - mean) / std;
      }
    }
  }
  return { data, height, width };
}

/**
 * The class of each pixel, from logits [K, h, w] resized bilinearly to the network's input.
 *
 * Where the four logits around a pixel have the same largest class, so has every mean of them: only
 * pixels at borders are computed.
 */
function classesOf(logits, [K, h, w], height, width) {
  const [H, W] = model.input_size, size = h * w;
  const xs = taps(width, w, W, model.align_corners), ys = taps(height, h, H, model.align_corners);
  const classes = K > 256 ? new Uint16Array(height * width) : new Uint8Array(height * width);
  const level = K === 1 ? Math.log(model.threshold) - Math.log1p(-model.threshold) : 0;
  const largest = new Uint16Array(size);
  if (K > 1) {
    for (let at = 0; at < size; at++) {
      let best = 0, value = logits[at];
      for (let k = 1, i = at + size; k < K; k++, i += size) if (logits[i] > value) { value = logits[i]; best = k; }
      largest[at] = best;
    }
  }
  for (let y = 0; y < height; y++) {
    const top = w * ys.first[y], bottom = w * ys.second[y], v = ys.weight[y];
    for (let x = 0; x < width; x++) {
      const a = top + xs.first[x], b = top + xs.second[x], c = bottom + xs.first[x], d = bottom + xs.second[x];
      let best = largest[a];
      if (K === 1 || largest[b] !== best || largest[c] !== best || largest[d] !== best) {
        const u = xs.weight[x];
        let value = -Infinity;
        for (let k = 0, i = 0; k < K; k++, i += size) {
          const above = logits[a + i] + u * (logits[b + i] - logits[a + i]);
          const below = logits[c + i] + u * (logits[d + i] - logits[c + i]);
          const mixed = above + v * (below - above);
          if (mixed > value) { value = mixed; best = k; }
        }
        if (K === 1) best = value > level ? model.names.length - 1 : 0;
      }
      classes[y * width + x] = best;
    }
  }
  return classes;
}

const median = (values) => [...values].sort((a, b) => a - b)[values.length >> 1];

function agreement(a, b) {
  let same = 0;
  for (let i = 0; i < a.length; i++) same += a[i] === b[i];
  return same / a.length;
}

function colour(index) {
  if (model.palette[index]) return model.palette[index];
  const wave = (shift) => Math.round(127 + 127 * Math.cos(2.4 * index + shift));
  return [wave(0), wave(2.1), wave(4.2)];
}

// ---------------------------------------------------------------- running

async function load(name) {
  say(`Loading ONNX Runtime Web for ${BACKENDS[name].name} ...`);
  try {
    ort = await import(BACKENDS[name].module);
  } catch {
    throw new Missing("ONNX Runtime Web could not be loaded: the folder ort/ of the export must lie beside this page.");
  }
  const threads = globalThis.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, 8) : 1;
  ort.env.logLevel = "error";
  ort.env.wasm.numThreads = threads;
  ort.env.wasm.proxy = name === "wasm"; // a worker: the page stays responsive
  ort.env.wasm.wasmPaths = new URL("./ort/", import.meta.url).href;
  backend = name;
  for (const session of sessions.values()) session.then((each) => each.release()).catch(() => {});
  sessions = new Map();
  byId("about").textContent = `${model.config}, ${model.input_size.join("x")} pixels, ` +
    `${BACKENDS[name].name}${name === "wasm" ? `, ${threads} thread${threads > 1 ? "s" : ""}` : ""}. ` +
    "Nothing is uploaded: the model runs on this device.";
}

function sessionOf(preset) {
  if (!sessions.has(preset)) {
    const file = model.models.find((each) => each.preset === preset).file;
    sessions.set(preset, open(file).catch((error) => { sessions.delete(preset); throw error; }));
  }
  return sessions.get(preset);
}

async function open(file) {
  say(`Loading ${file} ...`);
  const answer = await fetch(file).catch(() => null);
  if (!answer?.ok) throw new Missing(`${file} could not be loaded: it must lie beside this page.`);
  const bytes = new Uint8Array(await answer.arrayBuffer());
  const executionProviders = backend === "webgpu" ? ["webgpu", "wasm"] : ["wasm"];
  try {
    const session = await ort.InferenceSession.create(bytes, { executionProviders });
    const size = [1, 3, ...model.input_size];
    await session.run({ images: new ort.Tensor("float32", new Float32Array(3 * size[2] * size[3]), size) });
    return session;
  } catch (error) {
    const reason = String(error?.message ?? error).split("\n")[0];
    throw new Problem(/wasm|backend/i.test(reason)
      ? `WebAssembly could not be started: reload the page, or try another browser (${reason}).`
      : `${file} could not be run: it is damaged, or too large for this device (${reason}).`);
  }
}

/** The classes of an image by a preset, and how long it took, in ms. */
function segment(image, preset) {
  const run = async () => {
    const session = await sessionOf(preset);
    const start = performance.now();
    const input = prepare(image);
    const tensor = new ort.Tensor("float32", input.data, [1, 3, ...model.input_size]);
    const before = performance.now();
    const output = (await session.run({ images: tensor }))[session.outputNames[0]];
    const logits = await output.getData();
    const ms = performance.now() - before;
    const classes = classesOf(logits, output.dims.slice(1), input.height, input.width);
    output.dispose();
    return { preset, classes, height: input.height, width: input.width, ms, whole: performance.now() - start };
  };
  const runAnywhere = () => run().catch(async (error) => {
    if (backend !== "webgpu" || error instanceof Missing) throw error;
    await leaveGpu(error);
    return run();
  });
  const result = queue.then(runAnywhere);
  queue = result.catch(() => {});
  return result;
}

/** Goes on without WebGPU, whose device was lost or cannot do something. */
async function leaveGpu(error) {
  console.warn(error);
  byId("backend").querySelector("[value=webgpu]")?.remove();
  figures.clear(); // they were WebGPU's
  await load("wasm");
  complain(new Problem("WebGPU failed on this device: WebAssembly runs the models instead."));
}

/** Segments an image with the chosen preset, then measures all of them in turns. */
async function study(image, number) {
  source = image;
  figures.clear();
  tabulate();
  show(await segment(image, chosen()));
  let reference;
  for (let turn = 0; turn < ROUNDS; turn++) {
    for (const { preset } of model.models) {
      if (number !== task) return;
      say(`Measuring ${preset}, round ${turn + 1} of ${ROUNDS} ...`);
      const result = await segment(image, preset);
      if (number !== task) return;
      if (preset === "none") reference = result.classes;
      note(result, reference);
      if (preset === chosen() && shown.preset !== preset) show(result);
    }
  }
  say(`Done: median of ${ROUNDS} rounds in turns.`);
}

/** Segments what the camera sees until something else is begun. */
async function follow(video, number) {
  figures.clear();
  tabulate();
  const canvas = new OffscreenCanvas(1, 1);
  let last = performance.now();
  const spans = [];
  for (let frame = 0; number === task; frame++) {
    const image = pixels(video, video.videoWidth, video.videoHeight, canvas);
    const preset = chosen();
    const result = await segment(image, preset);
    if (number !== task) return;
    source = image;
    const compare = frame % 10 === 0 && preset !== "none" && model.models.some((each) => each.preset === "none");
    show(result);
    const now = performance.now();
    if (!compare) spans.push(now - last);
    if (spans.length > 20) spans.shift();
    if (spans.length) say(`Camera: ${(1000 / median(spans)).toFixed(1)} frames a second.`);
    note(result, compare ? (await segment(image, "none")).classes : null);
    await new Promise(requestAnimationFrame);
    last = compare ? performance.now() : now;
  }
}

function note(result, reference) {
  const figure = figures.get(result.preset) ?? { ms: [], whole: [], agreement: null };
  figures.set(result.preset, figure);
  figure.ms = [...figure.ms, result.ms].slice(-20);
  figure.whole = [...figure.whole, result.whole].slice(-20);
  if (result.preset === "none") figure.agreement = 1;
  else if (reference) figure.agreement = agreement(result.classes, reference);
  tabulate();
}

// ---------------------------------------------------------------- showing

const chosen = () => document.querySelector("input[name=preset]:checked").value;

function say(text) {
  if (byId("status").textContent !== text) byId("status").textContent = text;
}

function complain(error) {
  if (!(error instanceof Problem)) console.error(error);
  byId("problem").textContent = error instanceof Problem ? error.message : `Something went wrong: ${error?.message ?? error}.`;
  byId("problem").hidden = false;
  say("");
}

function tabulate() {
  for (const row of byId("presets").rows) {
    const figure = figures.get(row.dataset.preset);
    const texts = figure ? [
      median(figure.ms).toFixed(median(figure.ms) < 10 ? 1 : 0),
      (1000 / median(figure.whole)).toFixed(1),
      figure.agreement === null ? "–" : `${(100 * figure.agreement).toFixed(1)} %`,
    ] : ["–", "–", "–"];
    texts.forEach((text, i) => { row.cells[i + 1].textContent = text; });
  }
}

/** Paints the image with the classes over it, and lists them. */
function show(result) {
  shown = result;
  globalThis.segmentation = result; // for tests and the console
  paint();
  const counts = new Map();
  for (const index of result.classes) counts.set(index, (counts.get(index) ?? 0) + 1);
  const classes = [...counts].sort((a, b) => b[1] - a[1]);
  const share = (count) => {
    const percent = 100 * count / result.classes.length;
    return percent < 0.1 ? "<\u00a00.1\u00a0%" : `${percent.toFixed(1)}\u00a0%`;
  };
  byId("legend").replaceChildren(...classes.map(([index, count]) => {
    const item = document.createElement("li");
    item.innerHTML = '<svg viewBox="0 0 1 1" aria-hidden="true"><rect width="1" height="1"/></svg>';
    item.querySelector("rect").setAttribute("fill", `rgb(${colour(index)})`);
    item.append(`${model.names[index] ?? index} ${share(count)}`);
    return item;
  }));
  const said = classes.slice(0, 5).map(([index, count]) => `${model.names[index] ?? index} ${share(count)}`);
  byId("view").setAttribute("aria-label", `Segmented by ${result.preset}: ${said.join(", ")}`);
}

function paint() {
  if (!shown || !source) return;
  const view = byId("view"), context = view.getContext("2d");
  const scale = Math.min(1, 1600 / Math.max(source.width, source.height));
  view.width = Math.max(1, Math.round(source.width * scale));
  view.height = Math.max(1, Math.round(source.height * scale));
  view.parentElement.classList.add("full");
  const layer = new OffscreenCanvas(source.width, source.height);
  layer.getContext("2d").putImageData(source, 0, 0);
  context.drawImage(layer, 0, 0, view.width, view.height);
  const overlay = new ImageData(shown.width, shown.height);
  const colours = new Uint32Array(65536), words = new Uint32Array(overlay.data.buffer);
  shown.classes.forEach((index, i) => {
    if (!colours[index]) {
      const [r, g, b] = colour(index);
      colours[index] = (255 << 24) | (b << 16) | (g << 8) | r;
    }
    words[i] = colours[index];
  });
  layer.width = shown.width;
  layer.height = shown.height;
  layer.getContext("2d").putImageData(overlay, 0, 0);
  context.globalAlpha = byId("opacity").value / 100;
  context.imageSmoothingEnabled = false;
  context.drawImage(layer, 0, 0, view.width, view.height);
  context.globalAlpha = 1;
}

// ---------------------------------------------------------------- what the visitor does

/** The pixels of an image or a frame, at most `LARGEST` a side. */
function pixels(image, width, height, canvas = new OffscreenCanvas(1, 1)) {
  const scale = Math.min(1, LARGEST / Math.max(width, height));
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  return context.getImageData(0, 0, canvas.width, canvas.height);
}

function stopCamera() {
  stream?.getTracks().forEach((track) => track.stop());
  stream = null;
  byId("camera").textContent = "Start camera";
  byId("camera").setAttribute("aria-pressed", "false");
}

/** Runs something of the visitor's in the place of whatever runs; says what goes wrong. */
async function begin(what) {
  const number = ++task;
  stopCamera();
  byId("problem").hidden = true;
  byId("measure").disabled = true;
  try {
    await what(number);
  } catch (error) {
    if (number === task) { stopCamera(); complain(error); }
  }
  if (number === task) byId("measure").disabled = !source;
}

const take = (file) => begin(async (number) => {
  say(`Reading ${file.name} ...`);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    throw new Problem(`${file.name} is no image that this browser can read: give a JPEG, PNG or WebP file.`);
  }
  const image = pixels(bitmap, bitmap.width, bitmap.height);
  bitmap.close();
  if (number === task) await study(image, number);
});

const film = () => begin(async (number) => {
  if (!navigator.mediaDevices) throw new Problem("The camera needs a page from https:// or localhost.");
  say("Waiting for the camera ...");
  let opened;
  try {
    const [height, width] = model.input_size;
    opened = await navigator.mediaDevices.getUserMedia({
      video: { facingMode: "environment", width: { ideal: width }, height: { ideal: height } },
    });
  } catch (error) {
    throw new Problem(error.name === "NotAllowedError" ? "The camera was not allowed for this page."
      : "No camera was found, or another program holds it.");
  }
  if (number !== task) { opened.getTracks().forEach((track) => track.stop()); return; }
  stream = opened;
  byId("camera").textContent = "Stop camera";
  byId("camera").setAttribute("aria-pressed", "true");
  const video = byId("video");
  video.srcObject = stream;
  await video.play();
  await follow(video, number);
});

const stop = () => begin(async () => say("Camera stopped."));

function connect() {
  const figure = byId("view").parentElement;
  byId("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) take(file);
    event.target.value = "";
  });
  byId("camera").addEventListener("click", () => (stream ? stop() : film()));
  byId("measure").addEventListener("click", () => begin((number) => study(source, number)));
  byId("opacity").addEventListener("input", paint);
  byId("presets").addEventListener("change", () => {
    if (source && !stream) segment(source, chosen()).then((result) => {
      if (result.preset === chosen() && !stream) show(result);
    }).catch(complain);
  });
  byId("backend").addEventListener("change", (event) => begin(async (number) => {
    await queue;
    await load(event.target.value);
    if (source) await study(source, number);
    else say("Ready: choose or drop an image.");
  }));
  document.addEventListener("dragover", (event) => { event.preventDefault(); figure.classList.add("over"); });
  document.addEventListener("dragleave", () => figure.classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    figure.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) take(file);
    else complain(new Problem("What was dropped is no file: save the image first, then drop it."));
  });
}

function list() {
  byId("presets").replaceChildren(...model.models.map(({ preset, bytes }, index) => {
    const row = document.createElement("tr");
    row.dataset.preset = preset;
    row.innerHTML = '<th scope="row"><label><input type="radio" name="preset"> </label></th><td>–</td><td>–</td><td>–</td>';
    const input = row.querySelector("input");
    input.value = preset;
    input.checked = index === 0;
    input.parentElement.append(preset);
    row.title = `${(bytes / 2 ** 20).toFixed(1)} MiB`;
    return row;
  }));
}

/** Reloads the page once behind a service worker that isolates it, for threads; whether it does. */
async function isolate() {
  if (globalThis.crossOriginIsolated || !globalThis.isSecureContext || !navigator.serviceWorker) return false;
  if (sessionStorage.getItem("isolated")) return false;
  try {
    sessionStorage.setItem("isolated", "tried");
    await navigator.serviceWorker.register("isolate.js");
    await navigator.serviceWorker.ready;
  } catch {
    return false;
  }
  location.reload();
  return true;
}

async function start() {
  if (await isolate()) return;
  if (typeof WebAssembly === "undefined") throw new Problem("This browser has no WebAssembly, which the models need.");
  const answer = await fetch("model.json").catch(() => null);
  if (!answer?.ok) throw new Problem("model.json could not be loaded: it must lie beside this page.");
  model = await answer.json();
  list();
  tabulate();
  const gpu = await navigator.gpu?.requestAdapter().catch(() => null);
  const names = gpu ? ["webgpu", "wasm"] : ["wasm"];
  if (gpu?.info?.isFallbackAdapter) names.reverse(); // a CPU's, much slower than WebAssembly
  byId("backend").replaceChildren(...names.map((name) => new Option(BACKENDS[name].name, name)));
  await load(names[0]);
  connect();
  globalThis.segment = (preset) => segment(source, preset); // for benchmarks and the console
  for (const id of ["file", "camera", "backend"]) byId(id).disabled = false;
  say("Ready: choose or drop an image.");
}

start().catch(complain);
