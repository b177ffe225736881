// What can be laid over the images.

const COOL_WARM = [[49, 98, 189], [120, 170, 230], [245, 245, 245], [236, 150, 110], [190, 30, 45]];
const PURPLE_ORANGE = [[110, 70, 170], [175, 160, 215], [245, 245, 245], [245, 180, 100], [200, 95, 10]];
const HEAT = [[20, 10, 40], [120, 28, 109], [213, 72, 66], [251, 165, 10], [252, 255, 164]];
const AMBER = [[0, 0, 0], [255, 176, 0]];
const FOLD = "#39ff14";
const GRID = "#ffb000";
const ARROW = "#4fd1ff";
const LINES = 22;
const ARROWS = 18;

/** A colour that a label keeps in both images. */
function labelColour(label) {
  return `hsl(${(label * 137.508) % 360} 85% 62%)`;
}

/**
 * The overlays that there is data for, by name. A map has `colour(place, data, pixel)` and a scale,
 * and lies over the target; a drawing has `draw(pane, context)` and lies over both.
 */
function overlaysOf(model) {
  const { source, target, toSource, jacobian } = model;
  const overlays = {
    grid: {
      title: "Deformed grid",
      about: "straight lines of the other image, where φ puts them",
      draw: (pane, context) => drawGrid(pane, context),
    },
    arrows: {
      title: "Arrows",
      about: "from each place to where φ takes it, without the affine map",
      draw: (pane, context) => drawArrows(pane, context, model),
    },
    jacobian: logJacobianOf(jacobian, model.folds),
    residual: residualOf(model),
    validity: {
      title: "Validity",
      about: `hatched: φ lands outside of the ${source.role} image`,
      colour: (place, data, pixel) => {
        if (source.volume.contains(toSource.at(place))) return;
        const { column, row } = PLANES[target.plane];
        const period = Math.max(4, 2 * Math.round(Math.max(target.size[column], target.size[row]) / 60));
        const line = (place[column] + place[row]) % period < period / 2;
        data.set(line ? [255, 70, 90, 190] : [90, 0, 20, 130], pixel);
      },
    },
  };
  if (model.structure) overlays.structure = mapOf(model.structure, "Structure map", AMBER, () => model.channel);
  if (model.strongest) overlays.structure = strongestOf(model.strongest);
  if (model.uncertainty) {
    overlays.uncertainty = mapOf(model.uncertainty, "Uncertainty", HEAT, () => 0);
  }
  if (source.labels || target.labels) {
    overlays.labels = {
      title: "Label outlines",
      about: "the source's labels, carried by φ",
      draw: (pane, context) => drawLabels(pane, context, model),
    };
  }
  return overlays;
}

/** A colour of -1 to 1, the more opaque the further from 0. */
function setShare(data, pixel, colours, share) {
  data.set([...mixed(colours, 0.5 + share / 2), 50 + 170 * Math.min(1, Math.abs(share))], pixel);
}

function logJacobianOf(jacobian, folds) {
  const most = clamped(quantile(jacobian.sampled(20000).filter((j) => j > 0).map(Math.log), 0.99), 0.1, 2);
  return {
    title: "log Jacobian",
    about: `log det ∇φ: red grows towards the source, green folds (J ≤ 0); ${folds} in all`,
    colours: COOL_WARM,
    range: [-most, most],
    marks: (place) => !(jacobian.nearest(place) > 0),
    colour: (place, data, pixel) => {
      const value = jacobian.nearest(place);
      if (!(value > 0)) data.set([57, 255, 20, 255], pixel);
      else setShare(data, pixel, COOL_WARM, Math.log(value) / most);
    },
  };
}

/** What the map of intensities, from the source's to the target's, leaves of the target. */
function residualOf(model) {
  const { source, target, toSource, recolouring } = model;
  const last = recolouring.values.length - 1;
  const residual = (place) => {
    const found = toSource.at(place);
    if (!source.volume.contains(found)) return undefined;
    const level = (source.volume.at(found) - recolouring.low) / recolouring.divisor;
    return target.volume.at(place) - recolouring.values[Math.round(clamped(level, 0, 1) * last)];
  };
  const [width, height, depth] = target.size;
  const found = [];
  const every = Math.max(1, Math.floor((width * height * depth) / 8000));
  for (let i = 0; i < width * height * depth; i += every) {
    const value = residual([i % width, Math.floor(i / width) % height, Math.floor(i / width / height)]);
    if (value !== undefined) found.push(value);
  }
  const most = quantile(found, 0.995) || 1;
  return {
    title: "Residual",
    about: "what moving and recolouring the source does not explain",
    colours: PURPLE_ORANGE,
    range: [-most, most],
    colour: (place, data, pixel) => {
      const value = residual(place);
      if (value === undefined) return;
      setShare(data, pixel, PURPLE_ORANGE, value / most);
    },
  };
}

/** Of many channels, a colour for the strongest. */
function strongestOf({ names, volume }) {
  const colours = names.map((name) => rgbOf(labelColour(name)));
  return {
    title: "Structure map",
    about: "a colour for the strongest of its channels",
    colour: (place, data, pixel) => {
      const code = volume.nearest(place);
      if (names[code]) data.set([...colours[code], 130], pixel);
    },
  };
}

/** The red, green and blue of a CSS colour. */
function rgbOf(colour) {
  const context = new OffscreenCanvas(1, 1).getContext("2d");
  context.fillStyle = colour;
  context.fillRect(0, 0, 1, 1);
  return [...context.getImageData(0, 0, 1, 1).data.slice(0, 3)];
}

function mapOf(volumes, title, colours, channel) {
  const most = quantile(volumes.flatMap((volume) => volume.sampled(20000)), 0.999) || 1;
  return {
    title,
    about: "",
    colours,
    range: [0, most],
    colour: (place, data, pixel) => {
      const share = volumes[channel()].nearest(place) / most;
      data.set([...mixed(colours, share), 60 + 150 * clamped(share, 0, 1)], pixel);
    },
  };
}

function stroked(context, colour, width, path) {
  context.beginPath();
  path();
  context.lineJoin = "round";
  context.strokeStyle = colour;
  context.lineWidth = width * devicePixelRatio;
  context.stroke();
}

/** Regular lines of the other image's slice, where they land in this one. */
function drawGrid(pane, context) {
  const { other } = pane;
  const { across, column, row } = PLANES[pane.plane];
  const longest = Math.max(other.size[column] * other.spacing[column], other.size[row] * other.spacing[row]);
  stroked(context, GRID, 0.9, () => {
    for (const [along, over] of [[column, row], [row, column]]) {
      const step = Math.max(1, Math.round(longest / LINES / other.spacing[over]));
      for (let line = Math.floor(((other.size[over] - 1) % step) / 2); line < other.size[over]; line += step) {
        for (let i = 0; i < other.size[along]; i += 1) {
          const place = [0, 0, 0];
          place[across] = other.slice;
          place[along] = i;
          place[over] = line;
          const [x, y] = pane.pixelOf(other.toOther.at(place));
          if (i === 0) context.moveTo(x, y);
          else context.lineTo(x, y);
        }
      }
    }
  });
}

/** From regular places to where φ takes them, the affine map undone. */
function drawArrows(pane, context, model) {
  const { across, column, row } = PLANES[pane.plane];
  const longest = Math.max(pane.size[column] * pane.spacing[column], pane.size[row] * pane.spacing[row]);
  const steps = [column, row].map((axis) => Math.max(1, Math.round(longest / ARROWS / pane.spacing[axis])));
  const head = 3.2 * devicePixelRatio;
  const arrows = () => {
    for (let y = Math.floor(steps[1] / 2); y < pane.size[row]; y += steps[1]) {
      for (let x = Math.floor(steps[0] / 2); x < pane.size[column]; x += steps[0]) {
        const place = [0, 0, 0];
        place[across] = pane.slice;
        place[column] = x;
        place[row] = y;
        const [x0, y0] = pane.pixelOf(place);
        const [x1, y1] = pane.pixelOf(model.locally(pane, place));
        const length = Math.hypot(x1 - x0, y1 - y0);
        if (length < devicePixelRatio) continue;
        const [ux, uy] = [(x1 - x0) / length, (y1 - y0) / length];
        const size = Math.min(head, length / 2);
        context.moveTo(x0, y0);
        context.lineTo(x1, y1);
        context.moveTo(x1 - size * (ux - uy * 0.6), y1 - size * (uy + ux * 0.6));
        context.lineTo(x1, y1);
        context.lineTo(x1 - size * (ux + uy * 0.6), y1 - size * (uy - ux * 0.6));
      }
    }
  };
  stroked(context, "rgba(0, 0, 0, 0.7)", 2.6, arrows);
  stroked(context, ARROW, 1.2, arrows);
}

/** The label at each voxel of a pane: its own map's, or the source's, carried. */
function labelAt(pane, model) {
  if (pane.labels) return (place) => pane.labels.names[pane.labels.volume.nearest(place)] ?? 0;
  const { labels } = model.source;
  return (place) => labels.names[labels.volume.nearest(pane.toOther.at(place))] ?? 0;
}

/** Lines between voxels of unlike labels. */
function drawLabels(pane, context, model) {
  if (!pane.labels && !model.source.labels) return;
  const { across, column, row } = PLANES[pane.plane];
  const [width, height] = [pane.size[column], pane.size[row]];
  const found = labelAt(pane, model);
  const labels = [];
  const place = [0, 0, 0];
  place[across] = pane.slice;
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      place[column] = x;
      place[row] = y;
      labels.push(found(place));
    }
  }
  const paths = new Map();
  const line = (label, x0, y0, x1, y1) => {
    if (!label) return;
    if (!paths.has(label)) paths.set(label, new Path2D());
    paths.get(label).moveTo(...pane.pixelAt(x0 - 0.5, y0 - 0.5));
    paths.get(label).lineTo(...pane.pixelAt(x1 - 0.5, y1 - 0.5));
  };
  for (let y = 0; y < height; y += 1) {
    for (let x = 0; x < width; x += 1) {
      const label = labels[x + width * y];
      const right = x + 1 < width ? labels[x + 1 + width * y] : 0;
      const below = y + 1 < height ? labels[x + width * (y + 1)] : 0;
      if (label !== right) line(label || right, x + 1, y, x + 1, y + 1);
      if (label !== below) line(label || below, x, y + 1, x + 1, y + 1);
    }
  }
  context.lineWidth = 1.3 * devicePixelRatio;
  for (const [label, path] of paths) {
    context.strokeStyle = labelColour(label);
    context.stroke(path);
  }
}
