// The page: what is chosen, and what follows from it.

const byId = (id) => document.getElementById(id);
const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
const FLICKER_MILLISECONDS = reduced ? 2000 : 700;
const SPOKEN_AFTER = 500;

function element(tag, attributes = {}, ...children) {
  const made = Object.assign(document.createElement(tag), attributes);
  made.append(...children);
  return made;
}

/** A row of a table: its name, and cells by the names that they are found by. */
function toldRow(name, cells) {
  return element("tr", {}, element("th", { scope: "row", textContent: name }),
    ...cells.map(([key, value]) => {
      const cell = element("td", { textContent: value });
      cell.dataset.value = key;
      return cell;
    }));
}

const inNumbers = (values, digits) => values.map((value) => value.toFixed(digits)).join(", ");

/** An intensity in as many digits as say something. */
function asIntensity(pane, value) {
  const reach = Math.abs(pane.firstWindow.high - pane.firstWindow.low);
  return value.toFixed(clamped(3 - Math.floor(Math.log10(reach || 1)), 0, 6));
}

/** All arrays, decoded, and the maps between the images. */
async function decoded(data) {
  const labelsOf = async (described) =>
    described && { names: described.labels, codes: await unpacked(described.codes) };
  const volumeOf = async (described, size) =>
    new Volume(await unpacked(described.codes), size, described);
  const mapsOf = (described) =>
    described && Promise.all(described.map((one) => volumeOf(one, data.target.size)));
  const [sourceVolume, targetVolume, there, back, jacobian, structure, uncertainty, own, carried, strong] =
    await Promise.all([
      volumeOf(data.source.image, data.source.size),
      volumeOf(data.target.image, data.target.size),
      unpacked(data.toSource.codes),
      unpacked(data.toTarget.codes),
      volumeOf(data.jacobian, data.target.size),
      mapsOf(data.structure),
      mapsOf(data.uncertainty),
      labelsOf(data.source.labels),
      labelsOf(data.carriedLabels),
      labelsOf(data.strongest),
    ]);
  const labelled = (labels, size) => labels && { names: labels.names, volume: new Volume(labels.codes, size) };
  const source = new Pane(data.source, sourceVolume, labelled(own, data.source.size));
  const target = new Pane(data.target, targetVolume, labelled(carried, data.target.size));
  target.toOther = new Mapping(there, data.toSource);
  source.toOther = new Mapping(back, data.toTarget);
  source.other = target;
  target.other = source;
  const strongest = labelled(strong, data.target.size);
  return { source, target, toSource: target.toOther, jacobian, structure, strongest, uncertainty };
}

class Viewer {
  constructor(data, found) {
    Object.assign(this, found, {
      data, pictures: data.pictures, recolouring: data.recolouring, folds: data.folds,
      marks: [], drawing: null, tool: "point", channel: 0,
      compare: "none", amount: 0.5, carried: true, flickers: true,
    });
    const { source, target } = found;
    this.panes = [source, target];
    const targetToSource = product(inverted(source.toMillimetres), target.toMillimetres);
    this.placed = targetToSource;
    const beyond = product(inverted(source.toMillimetres), product(data.beyond, target.toMillimetres));
    this.affineToSource = beyond;
    this.affineToTarget = inverted(beyond);
    this.overlays = overlaysOf(this);
    this.shown = new Set();
    this.active = target;
  }

  shownOverlays() {
    return Object.entries(this.overlays).filter(([name]) => this.shown.has(name));
  }

  /** Where φ (or φ⁻¹) takes a place of a pane, in that pane again: the affine map undone. */
  locally(pane, place) {
    const back = pane === this.target ? this.affineToTarget : this.affineToSource;
    return transformed(back, pane.toOther.at(place));
  }

  moveTo(pane, place) {
    this.active = pane;
    pane.place = place;
    pane.other.place = pane.toOther.at(place);
    this.changed();
  }

  changed() {
    if (this.waiting) return;
    this.waiting = requestAnimationFrame(() => {
      this.waiting = null;
      this.draw();
    });
  }

  draw() {
    for (const pane of this.panes) {
      drawPane(pane, this);
      if (pane.slider) {
        pane.slider.value = pane.slice;
        pane.sliceText.value = this.sliceInWords(pane);
      }
    }
    this.tell();
  }

  sliceInWords(pane) {
    const { across } = PLANES[pane.plane];
    const place = [...pane.place];
    place[across] = pane.slice;
    const row = pane.toFile.findIndex((one) => one[across] !== 0);
    const index = Math.round(transformed(pane.toFile, place)[row]);
    return `${index} (${pane.slice + 1} of ${pane.size[across]})`;
  }

  choosePlane(plane) {
    for (const pane of this.panes) {
      pane.plane = plane;
      const { across } = PLANES[plane];
      pane.slider.max = pane.size[across] - 1;
      pane.slider.parentElement.hidden = pane.size[across] === 1;
    }
    this.drawing = null;
    this.layOut();
  }

  /** Both images on one scale of millimetres, as large as there is room for. */
  layOut() {
    const { column, row } = PLANES[this.active.plane];
    const extent = (axis) => Math.max(...this.panes.map((p) => p.size[axis] * p.spacing[axis]));
    const room = Math.min(...this.panes.map((pane) => pane.stage.clientWidth));
    const tall = Math.max(200, Math.min(0.52 * innerHeight, 900));
    const scale = Math.min(room / extent(column), tall / extent(row));
    for (const pane of this.panes) {
      const width = Math.max(1, scale * pane.size[column] * pane.spacing[column]);
      const height = Math.max(1, scale * pane.size[row] * pane.spacing[row]);
      pane.canvas.style.width = `${width}px`;
      pane.canvas.style.height = `${height}px`;
      pane.canvas.width = Math.round(width * devicePixelRatio);
      pane.canvas.height = Math.round(height * devicePixelRatio);
      pane.stage.style.height = `${scale * extent(row)}px`;
      pane.stage.style.alignItems = "center";
    }
    this.changed();
  }

  /** What lies under the crosshair. */
  facts() {
    const { source, target } = this;
    const places = this.panes.map((pane) => pane.place);
    const millimetres = this.panes.map((pane) => transformed(pane.toMillimetres, pane.place));
    const there = transformed(target.toMillimetres, this.locally(target, target.place));
    const moved = difference(there, millimetres[1]);
    const whole = difference(millimetres[0], millimetres[1]);
    // Axes of pictures have no names.
    const inUnit = (vector) => this.pictures
      ? `${lengthOf(vector).toFixed(2)} pixels`
      : `${lengthOf(vector).toFixed(2)} mm (${inNumbers(vector, 2)})`;
    const jacobian = this.jacobian.at(target.place);
    const rows = [
      ["voxel", this.panes.map((pane, i) => inNumbers(transformed(pane.toFile, places[i]), 2))],
      // Pictures know no millimetres.
      ...(this.pictures ? [] : [["mm (R, A, S)", millimetres.map((place) => inNumbers(place, 2))]]),
      ["intensity", this.panes.map((pane) => asIntensity(pane, pane.volume.at(pane.place)))],
    ];
    const single = [
      ["Jacobian", `${jacobian.toFixed(3)}${jacobian > 0 ? "" : " (a fold)"}`],
      ["log Jacobian", jacobian > 0 ? Math.log(jacobian).toFixed(3) : "none"],
      ["displacement", inUnit(moved)],
      ["inside", source.volume.contains(source.place) ? "yes" : `no: outside of the ${source.role} image`],
    ];
    if (lengthOf(difference(whole, moved)) > 0.005) {
      single.splice(3, 0, ["with the affine map", inUnit(whole)]);
    }
    if (this.uncertainty) single.push(["uncertainty", this.uncertainty[0].at(target.place).toFixed(4)]);
    if (source.labels || target.labels) {
      rows.push(["label", this.panes.map((pane) =>
        pane.labels || source.labels ? String(labelAt(pane, this)(pane.place.map(Math.round))) : "–")]);
    }
    return { rows, single };
  }

  tell() {
    const { rows, single } = this.facts();
    byId("readout").tBodies[0].replaceChildren(...rows.map(([name, values]) =>
      toldRow(name, ["source", "target"].map((end, i) => [`${end} ${name}`, values[i]]))));
    byId("deformation").tBodies[0].replaceChildren(...single.map(([name, value]) =>
      toldRow(name, [[name, value]])));
    clearTimeout(this.speaking);
    this.speaking = setTimeout(() => {
      byId("spoken").textContent = this.panes
        .map((pane, i) => `${pane.role}: ${rows.map(([name, values]) => `${name} ${values[i]}`).join("; ")}.`)
        .concat(single.map(([name, value]) => `${name} ${value}.`)).join(" ");
    }, SPOKEN_AFTER);
  }

  /** The table of pins, contours and rulers. */
  listMarks() {
    const table = byId("marks");
    const unit = this.pictures ? "pixels" : "mm";
    table.hidden = this.marks.length === 0;
    byId("clear").hidden = table.hidden;
    byId("no-marks").hidden = !table.hidden;
    table.tBodies[0].replaceChildren(...this.marks.map((mark, i) => {
      const said = this.panes.map((pane) => {
        if (mark.kind === "pin") return inNumbers(transformed(pane.toFile, placesIn(pane, mark)[0]), 2);
        const { length, area } = measuredIn(pane, mark);
        return `${length.toFixed(2)} ${unit}${area === undefined ? "" : `, ${area.toFixed(2)} ${unit}²`}`;
      });
      const remove = element("button", { type: "button", textContent: "×", ariaLabel: `Remove ${mark.kind} ${i + 1}` });
      remove.addEventListener("click", () => {
        this.marks.splice(i, 1);
        this.listMarks();
        this.changed();
      });
      const cells = said.map((text, k) => [`${["source", "target"][k]} ${mark.kind} ${i + 1}`, text]);
      const row = toldRow(`${i + 1} ${mark.kind}`, cells);
      row.append(element("td", {}, remove));
      return row;
    }));
  }
}

async function start() {
  const data = JSON.parse(byId("data").textContent);
  const viewer = new Viewer(data, await decoded(data));
  byId("viewer").hidden = false;
  build(viewer);
  byId("state").hidden = true;
  document.documentElement.dataset.ready = Math.round(performance.now());
}

start().catch((error) => {
  byId("state").textContent = `The images could not be shown: ${error.message}`;
  throw error;
});
