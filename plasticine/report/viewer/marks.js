// Pins, rulers and contours: drawn in one image, carried to the other.

const MARK_COLOURS = ["#ff5d8f", "#5dff9e", "#ffd75d", "#7fb2ff", "#e58cff", "#ff9d5d"];

/** A mark of a pane's slice. Kinds: pin, ruler, contour. */
function newMark(kind, pane, places) {
  const { across } = PLANES[pane.plane];
  return { kind, pane, plane: pane.plane, slice: places[0][across], places };
}

/** The places of a mark in a pane: as they were drawn, or as φ or φ⁻¹ carries them. */
function placesIn(pane, mark) {
  const closed = mark.kind === "contour";
  if (pane === mark.pane) return mark.places;
  if (mark.kind === "pin") return mark.places.map((place) => mark.pane.toOther.at(place));
  return subdivided(mark.places, closed).map((place) => mark.pane.toOther.at(place));
}

/** Length in millimetres, and of a contour the area, in a pane. */
function measuredIn(pane, mark) {
  const millimetres = placesIn(pane, mark).map((place) => transformed(pane.toMillimetres, place));
  return measured(millimetres, mark.kind === "contour");
}

function drawMark(pane, viewer, mark, number, context) {
  const own = mark.pane;
  if (mark.plane !== own.plane && mark.kind !== "pin") return;
  const { across } = PLANES[pane.plane];
  const places = placesIn(pane, mark);
  // A carried outline is seen where what was drawn is: it lies in no one slice.
  const far = mark.kind === "pin"
    ? Math.abs(places[0][across] - pane.slice) > 0.75
    : Math.round(mark.slice) !== own.slice;
  if (far && mark !== viewer.drawing) return;
  const colour = MARK_COLOURS[(Math.max(1, Number(number) || viewer.marks.length + 1) - 1) % MARK_COLOURS.length];
  const pixels = places.map((place) => pane.pixelOf(place));
  const path = () => {
    if (mark.kind === "pin") {
      context.arc(...pixels[0], 4.5 * devicePixelRatio, 0, 2 * Math.PI);
      return;
    }
    pixels.forEach(([x, y], i) => (i ? context.lineTo(x, y) : context.moveTo(x, y)));
    if (mark.kind === "contour" && mark !== viewer.drawing) context.closePath();
  };
  stroked(context, "rgba(0, 0, 0, 0.6)", 4, path);
  stroked(context, colour, 2, path);
  if (mark === viewer.drawing && mark.kind !== "pin") {
    context.fillStyle = colour;
    for (const [x, y] of own === pane ? pixels : []) {
      context.fillRect(x - 2 * devicePixelRatio, y - 2 * devicePixelRatio, 4 * devicePixelRatio, 4 * devicePixelRatio);
    }
  }
  if (number === "") return;
  const [x, y] = pixels[0];
  context.font = `600 ${12 * devicePixelRatio}px system-ui, sans-serif`;
  context.textAlign = "left";
  context.textBaseline = "bottom";
  context.strokeStyle = "#000";
  context.lineWidth = 3 * devicePixelRatio;
  context.strokeText(number, x + 6 * devicePixelRatio, y - 4 * devicePixelRatio);
  context.fillStyle = colour;
  context.fillText(number, x + 6 * devicePixelRatio, y - 4 * devicePixelRatio);
}

/** Tools that draw, by pointer and by keys. */
const DRAWING = {
  /** A press begins a line or goes on with it; a drag draws it freehand. */
  press(viewer, pane, place) {
    const { drawing } = viewer;
    if (drawing && drawing.pane === pane && drawing.kind === viewer.tool) DRAWING.add(viewer, place);
    else viewer.drawing = newMark(viewer.tool, pane, [place]);
  },

  drag(viewer, place) {
    const { drawing } = viewer;
    if (!drawing) return;
    drawing.dragged = true;
    if (drawing.kind === "ruler") drawing.places = [drawing.places[0], place];
    else if (lengthOf(difference(place, drawing.places.at(-1))) > 0.4) drawing.places.push(place);
  },

  release(viewer) {
    const { drawing } = viewer;
    if (!drawing) return;
    if (drawing.dragged || (drawing.kind === "ruler" && drawing.places.length > 1)) DRAWING.finish(viewer);
  },

  add(viewer, place) {
    const { drawing } = viewer;
    if (drawing.kind === "ruler") drawing.places = [drawing.places[0], place];
    else drawing.places.push(place);
  },

  finish(viewer) {
    const { drawing } = viewer;
    viewer.drawing = null;
    if (!drawing) return;
    delete drawing.dragged;
    if (drawing.places.length >= (drawing.kind === "contour" ? 3 : 2)) viewer.marks.push(drawing);
  },
};
