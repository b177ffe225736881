// One of the two images: what it knows, and how it is drawn.

class Pane {
  constructor(described, volume, labels) {
    const { role, name, size, toFile, toMillimetres, image } = described;
    Object.assign(this, { role, name, size, toFile, toMillimetres, volume, labels });
    this.spacing = [0, 1, 2].map((axis) => lengthOf(toMillimetres.slice(0, 3).map((row) => row[axis])));
    this.firstWindow = { low: image.window[0], high: image.window[1] };
    this.window = { ...this.firstWindow };
    this.exact = image.exact;
    this.plane = "axial";
    this.place = size.map((n) => (n - 1) / 2);
    this.pictures = new Map();
  }

  /** The slice that is shown: that of the place. */
  get slice() {
    const { across } = PLANES[this.plane];
    return clamped(Math.round(this.place[across]), 0, this.size[across] - 1);
  }

  /** Pixels of the canvas, of a column and a row. */
  pixelAt(column, row) {
    const axes = PLANES[this.plane];
    return [
      ((column + 0.5) * this.canvas.width) / this.size[axes.column],
      ((row + 0.5) * this.canvas.height) / this.size[axes.row],
    ];
  }

  pixelOf(place) {
    const { column, row } = PLANES[this.plane];
    return this.pixelAt(place[column], place[row]);
  }

  /** The place in the shown slice that a pointer is at. */
  placeAt(event) {
    const { across, column, row } = PLANES[this.plane];
    const box = this.canvas.getBoundingClientRect();
    const place = [0, 0, 0];
    const along = (axis, share) => clamped(share * this.size[axis] - 0.5, 0, this.size[axis] - 1);
    place[across] = this.slice;
    place[column] = along(column, (event.clientX - box.left) / box.width);
    place[row] = along(row, (event.clientY - box.top) / box.height);
    return place;
  }

  /** A picture of the shown slice, made again only when the slice or the key has changed. */
  picture(name, key, colour) {
    const wanted = `${this.plane} ${this.slice} ${key}`;
    const kept = this.pictures.get(name);
    if (kept && kept.wanted === wanted) return kept.picture;
    const picture = sliceImage(this.size, this.plane, this.slice, colour);
    this.pictures.set(name, { wanted, picture });
    return picture;
  }

  lay(picture, context) {
    context.imageSmoothingEnabled = false;
    context.drawImage(picture, 0, 0, this.canvas.width, this.canvas.height);
  }

  get windowKey() {
    return `${this.window.low} ${this.window.high}`;
  }
}

function drawPane(pane, viewer) {
  const context = pane.canvas.getContext("2d");
  const { width, height } = pane.canvas;
  context.fillStyle = "#000";
  context.fillRect(0, 0, width, height);
  const grey = greyOf(pane.window, (place) => pane.volume.at(place));
  pane.lay(pane.picture("image", pane.windowKey, grey), context);
  if (pane === viewer.target) drawCompared(pane, viewer, context);
  for (const [name, overlay] of viewer.shownOverlays()) {
    if (overlay.colour && pane === viewer.target) {
      pane.lay(pane.picture(name, viewer.channel, overlay.colour), context);
    }
    if (overlay.marks && pane === viewer.target) drawFolds(pane, context, overlay.marks);
    if (overlay.draw) overlay.draw(pane, context);
  }
  drawEnds(pane, viewer, context);
  for (const [number, mark] of viewer.marks.entries()) drawMark(pane, viewer, mark, number + 1, context);
  if (viewer.drawing) drawMark(pane, viewer, viewer.drawing, "", context);
  drawCrosshair(pane, context);
}

/** The source over the target: as φ carries it, or as it was placed. */
function drawCompared(pane, viewer, context) {
  const { compare, source, amount, carried } = viewer;
  if (compare === "none" || (compare === "flicker" && !viewer.flickers)) return;
  const map = carried ? (place) => pane.toOther.at(place) : (place) => transformed(viewer.placed, place);
  const grey = greyOf(source.window, (place) => {
    const found = map(place);
    const near = found.every((value, axis) => value > -0.5 && value < source.size[axis] - 0.5);
    return near ? source.volume.at(found) : undefined;
  });
  const picture = pane.picture("compared", `${carried} ${source.windowKey}`, grey);
  context.save();
  if (compare === "blend") context.globalAlpha = amount;
  else {
    context.fillStyle = "#000";
    context.beginPath();
    const share = compare === "swipe" ? amount : 1;
    context.rect(0, 0, share * pane.canvas.width, pane.canvas.height);
    context.clip();
    context.fill();
  }
  pane.lay(picture, context);
  context.restore();
  if (compare !== "swipe") return;
  stroked(context, "#fff", 1, () => {
    context.moveTo(amount * pane.canvas.width, 0);
    context.lineTo(amount * pane.canvas.width, pane.canvas.height);
  });
}

/** Squares of at least a few pixels, or single voxels would be overlooked. */
function drawFolds(pane, context, isFold) {
  const { across, column, row } = PLANES[pane.plane];
  const place = [0, 0, 0];
  place[across] = pane.slice;
  const size = 3 * devicePixelRatio;
  context.fillStyle = FOLD;
  for (place[row] = 0; place[row] < pane.size[row]; place[row] += 1) {
    for (place[column] = 0; place[column] < pane.size[column]; place[column] += 1) {
      if (!isFold(place)) continue;
      const [x, y] = pane.pixelOf(place);
      context.fillRect(x - size / 2, y - size / 2, size, size);
    }
  }
}

/** Letters at the edges: where left, front and below are. */
function drawEnds(pane, viewer, context) {
  if (viewer.pictures) return;
  const { width, height } = pane.canvas;
  const size = 11 * devicePixelRatio;
  context.font = `600 ${size}px system-ui, sans-serif`;
  context.textBaseline = "middle";
  context.textAlign = "center";
  const [left, right, top, bottom] = PLANES[pane.plane].ends;
  for (const [letter, x, y] of [
    [left, size * 0.8, height / 2],
    [right, width - size * 0.8, height / 2],
    [top, width / 2, size * 0.8],
    [bottom, width / 2, height - size * 0.8],
  ]) {
    context.strokeStyle = "#000";
    context.lineWidth = 3 * devicePixelRatio;
    context.strokeText(letter, x, y);
    context.fillStyle = "#dfe3e8";
    context.fillText(letter, x, y);
  }
}

function drawCrosshair(pane, context) {
  const [x, y] = pane.pixelOf(pane.place);
  const gap = 5 * devicePixelRatio;
  const { width, height } = pane.canvas;
  const lines = () => {
    context.moveTo(0, y);
    context.lineTo(x - gap, y);
    context.moveTo(x + gap, y);
    context.lineTo(width, y);
    context.moveTo(x, 0);
    context.lineTo(x, y - gap);
    context.moveTo(x, y + gap);
    context.lineTo(x, height);
  };
  stroked(context, "rgba(0, 0, 0, 0.55)", 2.6, lines);
  stroked(context, "#7dffea", 1, lines);
}
