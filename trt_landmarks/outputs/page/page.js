// Shows a scan with its landmarks, and lets them be corrected. Positions are LPS mm; NiiVue's world is RAS mm.
"use strict";

const $ = (id) => document.getElementById(id);
const ras = ([x, y, z]) => [-x, -y, z]; // and back
const COLOURS = [[213, 94, 0], [240, 228, 66], [0, 158, 115]]; // of confidence 0, 0.5, 1
const HIT = 10; // pixels within which a point is taken

let viewer = null; // NiiVue
let data = null; // what the server, or the file itself, gives: predictions, markups, groups, volume, voxel_from_lps
let marks = []; // the landmarks: {name, status, position, found, ...}, `found` is what the model found
let chosen = -1;
let drag = null; // {index, x, y, moved}

const $case = () => data.predictions.cases[0];
const moved = (mark) => mark.position.some((value, axis) => value !== mark.found[axis]);

function colour(confidence) {
  const place = Math.min(Math.max(confidence, 0), 1) * 2;
  const low = COLOURS[Math.min(1, Math.floor(place))];
  const high = COLOURS[Math.min(1, Math.floor(place)) + 1];
  const part = place - Math.min(1, Math.floor(place));
  return low.map((value, n) => Math.round(value + (high[n] - value) * part));
}

// ---------------------------------------------------------------- showing

async function show(content) {
  data = content;
  marks = $case().landmarks.map((mark) => ({ ...mark, position: mark.position_lps_mm, found: mark.position_lps_mm }));
  $("drop").hidden = true;
  $("side").hidden = false;
  if (!viewer) {
    viewer = new niivue.Niivue({
      backColor: [0, 0, 0, 1], show3Dcrosshair: true, isSliceMM: true, dragAndDropEnabled: false, showLegend: false,
      multiplanarShowRender: 1, meshXRay: 0.3, crosshairColor: [0.48, 0.72, 1, 0.8], isRadiologicalConvention: true,
    });
    await viewer.attachToCanvas($("canvas"));
    viewer.addColormap("confidence", {
      R: COLOURS.map((c) => c[0]), G: COLOURS.map((c) => c[1]), B: COLOURS.map((c) => c[2]), A: [255, 255, 255],
      I: [0, 128, 255],
    });
    viewer.onLocationChange = follow;
  }
  while (viewer.meshes.length) viewer.removeMesh(viewer.meshes[0]);
  while (viewer.volumes.length) viewer.removeVolume(viewer.volumes[0]);
  const bytes = Uint8Array.from(atob(data.volume), (c) => c.charCodeAt(0));
  await viewer.loadFromArrayBuffer(bytes.buffer, "scan.nii.gz");
  data.volume = null; // it is large, and the viewer has it
  viewer.opts.crosshairWidthUnit = "mm";
  viewer.opts.crosshairWidth = extent() / 500;
  viewer.opts.crosshairGap = extent() / 150;
  viewer.setSliceType(viewer.sliceTypeMultiplanar);
  drawPoints();
  describe();
  choose(marks.length ? Math.max(0, marks.findIndex((mark) => mark.status === "low_confidence")) : -1);
  document.title = $case().id;
  $("list").focus();
}

function extent() {
  const volume = viewer.volumes[0];
  return Math.max(...[1, 2, 3].map((axis) => volume.dimsRAS[axis] * volume.pixDimsRAS[axis]));
}

const radius = () => extent() / 75;

function drawPoints() {
  const size = radius();
  const nodes = marks.map((mark) => {
    const [x, y, z] = ras(mark.position);
    return { name: mark.name, x, y, z, colorValue: Math.max(mark.confidence, 0.001), sizeValue: size };
  });
  const mesh = viewer.loadConnectomeAsMesh({
    name: "landmarks", nodeColormap: "confidence", nodeColormapNegative: "confidence", nodeMinColor: 0,
    nodeMaxColor: 1, nodeScale: 1, edgeColormap: "gray", edgeColormapNegative: "gray", edgeMin: 2, edgeMax: 6,
    edgeScale: 1, legendLineThickness: 0, showLegend: false, nodes, edges: [],
  });
  mesh.updateMesh(viewer.gl);
  viewer.addMesh(mesh);
  viewer.setMeshThicknessOn2D(size * 2.2);
}

function redraw() {
  const mesh = viewer.meshes[0];
  marks.forEach((mark, index) => {
    [mesh.nodes[index].x, mesh.nodes[index].y, mesh.nodes[index].z] = ras(mark.position);
    mesh.nodes[index].sizeValue = radius() * (index === chosen ? 1.35 : 1);
  });
  mesh.updateMesh(viewer.gl);
  viewer.drawScene();
}

function describe() {
  const one = $case();
  $("name").textContent = one.id;
  const total = one.timing_ms.total;
  $("about").textContent = `${data.predictions.model.name}, ${marks.length} landmarks, positions in LPS mm` +
    (total ? `, ${(total / 1000).toFixed(1)} s` : "");
  $("warnings").replaceChildren(...one.warnings.map((warning) => {
    const item = document.createElement("li");
    item.textContent = `⚠ ${warning.message}`;
    return item;
  }));
  $("list").replaceChildren(...marks.map((mark, index) => {
    const item = document.createElement("li");
    const dot = document.createElement("i");
    const name = document.createElement("b");
    item.id = `mark-${index}`;
    item.setAttribute("role", "option");
    dot.style.background = `rgb(${colour(mark.confidence)})`;
    name.textContent = mark.name;
    item.append(dot, name, document.createElement("small"));
    item.addEventListener("click", () => choose(index));
    return item;
  }));
  marks.forEach((_, index) => label(index));
}

function label(index) {
  const mark = marks[index];
  const status = moved(mark) ? "moved" : mark.status.replace("_", " ");
  $(`mark-${index}`).lastChild.textContent =
    (status === "located" ? "" : `${status} · `) + mark.confidence.toFixed(2);
}

function choose(index, jump = true) {
  if (chosen >= 0) $(`mark-${chosen}`)?.removeAttribute("aria-selected");
  chosen = index;
  if (index < 0) return;
  const item = $(`mark-${index}`);
  item.setAttribute("aria-selected", "true");
  item.scrollIntoView({ block: "nearest" });
  $("list").setAttribute("aria-activedescendant", item.id);
  if (jump) toCrosshair(marks[index].position);
  detail();
  redraw();
}

function toCrosshair(position) {
  viewer.scene.crosshairPos = viewer.mm2frac(ras(position));
}

function detail() {
  const mark = marks[chosen];
  const known = mark.expected_error_mm === undefined ? "" : `, expected error ${mark.expected_error_mm.toFixed(2)} mm`;
  const place = mark.position.map((value) => value.toFixed(2)).join(", ");
  $("detail").textContent = `${mark.name}: ${place}. ` +
    (moved(mark) ? "Moved by hand." : `${mark.status.replace("_", " ")}, confidence ${mark.confidence.toFixed(2)}${known}.`);
  $("reset").disabled = !moved(mark);
}

// ---------------------------------------------------------------- correcting

function move(index, position) {
  const mark = marks[index];
  mark.position = position === mark.found ? mark.found : position.map((value) => Math.round(value * 1e5) / 1e5);
  label(index);
  if (index === chosen) detail();
  redraw();
}

const crosshair = () => ras(Array.from(viewer.frac2mm(viewer.scene.crosshairPos)).slice(0, 3));

function nudge(axis, sign) {
  const step = viewer.volumes[0].pixDimsRAS[axis + 1];
  const position = [...marks[chosen].position];
  position[axis] += sign * step;
  move(chosen, position);
  toCrosshair(position);
  redraw();
}

// The point under the pointer, in a plane; -1 for none.
function under(event) {
  const box = $("canvas").getBoundingClientRect();
  const scale = viewer.uiData.dpr || 1;
  const [x, y] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
  const mm = viewer.screenXY2mm(x, y);
  if (isNaN(mm[0])) return -1;
  const beside = viewer.screenXY2mm(x + 2, y, mm[3]);
  const near = (Math.hypot(...[0, 1, 2].map((n) => beside[n] - mm[n])) / 2) * HIT * scale;
  const place = ras([mm[0], mm[1], mm[2]]);
  let best = -1;
  let least = Math.max(near, radius());
  marks.forEach((mark, index) => {
    const far = Math.hypot(...mark.position.map((value, n) => value - place[n]));
    if (far < least) [best, least] = [index, far];
  });
  return best;
}

function pressed(event) {
  if (!data || event.button !== 0) return;
  const index = under(event);
  drag = index < 0 ? null : { index, x: event.clientX, y: event.clientY, moved: false };
}

function follow() {
  if (drag && drag.moved) move(drag.index, crosshair());
}

function dragged(event) {
  if (!drag) return;
  if (Math.hypot(event.clientX - drag.x, event.clientY - drag.y) > 3 && !drag.moved) {
    drag.moved = true;
    choose(drag.index, false);
  }
}

function released() {
  if (drag && !drag.moved) choose(drag.index);
  drag = null;
}

function keys(event) {
  if (!data || !marks.length || event.ctrlKey || event.metaKey || event.altKey) return;
  if (["INPUT", "SELECT"].includes(event.target.tagName)) return;
  const steps = {
    ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1], PageUp: [2, 1], PageDown: [2, -1],
  };
  if (event.shiftKey && steps[event.key]) nudge(...steps[event.key]);
  else if (event.key === "ArrowDown") choose(Math.min(marks.length - 1, chosen + 1));
  else if (event.key === "ArrowUp") choose(Math.max(0, chosen - 1));
  else if (event.key === "Home") choose(0);
  else if (event.key === "End") choose(marks.length - 1);
  else if (event.key === "m" || event.key === "M") move(chosen, crosshair());
  else if (event.key === "r" || event.key === "R") reset();
  else return;
  event.preventDefault();
  event.stopPropagation();
}

function reset() {
  move(chosen, marks[chosen].found);
  toCrosshair(marks[chosen].position);
  redraw();
}

// ---------------------------------------------------------------- saving

function save(suffix, kind, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type: kind }));
  link.download = $case().id.replace(/[\\/:*?"<>|]/g, "_") + suffix;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}

function voxel([x, y, z]) {
  return data.voxel_from_lps.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
}

// The results file, with what was moved by hand; measurements of moved points are gone.
function results() {
  const content = structuredClone(data.predictions);
  const one = content.cases[0];
  const names = marks.filter(moved).map((mark) => mark.name);
  one.landmarks = marks.map((mark, index) => moved(mark)
    ? { name: mark.name, status: "located", position_lps_mm: mark.position, voxel_ijk: voxel(mark.position), confidence: 1 }
    : one.landmarks[index]);
  if (names.length) {
    one.measurements = one.measurements.filter((measured) => !measured.points.some((name) => names.includes(name)));
    one.warnings.push({ code: "moved_by_hand", message: `Moved by hand: ${names.join(", ")}.` });
  }
  return content;
}

function slicerFile() {
  const content = structuredClone(data.markups);
  const places = new Map(marks.filter(moved).map((mark) => [mark.name, mark.position]));
  for (const list of content.markups) {
    for (const point of list.controlPoints) {
      if (!places.has(point.label)) continue;
      Object.assign(point, { position: places.get(point.label), positionStatus: "defined", description: "moved by hand" });
    }
    if (places.size) delete list.measurements;
  }
  return content;
}

function table() {
  const one = results().cases[0];
  const head = ["case", "case_status", "error_code", "error_message", "landmark", "group", "landmark_status", "x_lps_mm",
    "y_lps_mm", "z_lps_mm", "i", "j", "k", "confidence", "expected_error_mm"];
  const rows = one.landmarks.map((mark, index) => [one.id, one.status, "", "", mark.name, data.groups[mark.name] ?? "",
    moved(marks[index]) ? "moved_by_hand" : mark.status, ...mark.position_lps_mm, ...mark.voxel_ijk, mark.confidence,
    mark.expected_error_mm ?? ""]);
  const quoted = (cell) => (/[",\n\r]/.test(cell) ? `"${String(cell).replaceAll('"', '""')}"` : cell);
  return [head, ...rows].map((row) => row.map(quoted).join(",")).join("\n") + "\n";
}

// ---------------------------------------------------------------- sending

function say(text, wrong = false) {
  $("progress").textContent = text;
  $("progress").className = wrong ? "error" : "";
}

function upload(files, series) {
  return new Promise((resolve, reject) => {
    const form = new FormData();
    for (const [name, file] of files) form.append("files", file, name);
    const request = new XMLHttpRequest();
    const query = new URLSearchParams({ model: $("model").value, series });
    request.open("POST", `api/scans?${query}`);
    request.upload.onprogress = (event) => ($("bar").value = event.loaded / event.total);
    request.onerror = () => reject(new Error("The server does not answer."));
    request.onload = () => {
      try {
        const answer = JSON.parse(request.responseText);
        if (request.status === 202) resolve(answer);
        else reject(Object.assign(new Error(answer.error), { code: answer.code }));
      } catch {
        reject(new Error(`The server answered ${request.status}.`));
      }
    };
    request.send(form);
  });
}

async function asked(address) {
  const answer = await fetch(address);
  const content = await answer.json();
  if (!answer.ok) throw Object.assign(new Error(content.error), { code: content.code });
  return content;
}

let info = null;

async function send(files, series = "all") {
  if (!files.length) return;
  const bytes = files.reduce((sum, [, file]) => sum + file.size, 0);
  if (bytes > info.most_bytes) {
    say(`The scan has ${Math.ceil(bytes / 2 ** 20)} MiB; the server takes ${Math.floor(info.most_bytes / 2 ** 20)}.`, true);
    return;
  }
  $("bar").hidden = false;
  say("Sending …");
  try {
    const { id } = await upload(files, series);
    $("bar").removeAttribute("value");
    const start = Date.now();
    let state = {};
    while (state.state !== "done") {
      state = await asked(`api/scans/${id}`);
      const seconds = Math.round((Date.now() - start) / 1000);
      say(state.state === "queued" ? `Waiting, ${state.ahead} before it … ${seconds} s` : `${state.state} … ${seconds} s`);
      if (state.state !== "done") await new Promise((resolve) => setTimeout(resolve, 150));
    }
    if (state.error) throw Object.assign(new Error(state.error), { code: state.code });
    say("Loading …");
    await show({ ...state, ...(await asked(`api/scans/${id}/shown`)) });
    say("");
  } catch (error) {
    say(error.message + (error.code ? ` (${error.code})` : ""), true);
    if (error.code === "scan_series" && series === "all") {
      const number = prompt(`${error.message}\nNumber of the series, or "largest":`, "largest");
      if (number) await send(files, number);
    }
  } finally {
    $("bar").hidden = true;
    $("bar").value = 0;
  }
}

// The files of what was dropped, folders with all that is in them.
async function filesOf(transfer) {
  const found = [];
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  const walk = async (entry) => {
    if (entry.isFile) {
      const file = await new Promise((resolve, reject) => entry.file(resolve, reject));
      found.push([entry.fullPath.replace(/^\//, ""), file]);
      return;
    }
    const reader = entry.createReader();
    for (;;) {
      const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
      if (!some.length) return;
      for (const inner of some) await walk(inner);
    }
  };
  for (const entry of entries) await walk(entry);
  return found.length ? found : [...transfer.files].map((file) => [file.name, file]);
}

async function receive() {
  info = await asked("api/info");
  $("model").replaceChildren(...info.models.map((model) => new Option(`${model.name}: ${model.landmarks} landmarks`, model.name)));
  $("drop").hidden = false;
  $("another").hidden = false;
  $("choose-file").onclick = () => $("file").click();
  $("choose-folder").onclick = () => $("folder").click();
  for (const id of ["file", "folder"]) {
    $(id).onchange = () => {
      const files = [...$(id).files].map((file) => [file.webkitRelativePath || file.name, file]);
      $(id).value = "";
      send(files);
    };
  }
  $("another").onclick = () => {
    $("side").hidden = true;
    $("drop").hidden = false;
    $("choose-file").focus();
  };
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    $("drop").classList.add("over");
  });
  document.addEventListener("dragleave", () => $("drop").classList.remove("over"));
  document.addEventListener("drop", async (event) => {
    event.preventDefault();
    $("drop").classList.remove("over");
    const files = await filesOf(event.dataTransfer);
    $("side").hidden = true;
    $("drop").hidden = false;
    send(files);
  });
}

// ---------------------------------------------------------------- beginning

$("place").onclick = () => move(chosen, crosshair());
$("reset").onclick = reset;
$("save-markups").onclick = () => save(".mrk.json", "application/json", JSON.stringify(slicerFile(), null, 1) + "\n");
$("save-csv").onclick = () => save(".csv", "text/csv", table());
$("save-json").onclick = () => save(".json", "application/json", JSON.stringify(results(), null, 1) + "\n");
document.addEventListener("keydown", keys, true);
$("view").addEventListener("pointerdown", pressed, true);
window.addEventListener("pointermove", dragged, true);
window.addEventListener("pointerup", () => setTimeout(released, 0), true);
const own = $("data");
(own ? show(JSON.parse(own.textContent)) : receive()).catch((error) => {
  $("drop").hidden = false;
  say(error.message, true);
});
