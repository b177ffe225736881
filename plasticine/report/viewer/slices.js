// Planes through a volume, and pictures of them.

/** Axes of a place: across a plane, along its columns and its rows, and the ends of its rows. */
const PLANES = {
  axial: { across: 2, column: 0, row: 1, ends: ["L", "R", "A", "P"] },
  coronal: { across: 1, column: 0, row: 2, ends: ["L", "R", "S", "I"] },
  sagittal: { across: 0, column: 1, row: 2, ends: ["A", "P", "S", "I"] },
};

/** The planes in which there is something to see. */
function planesOf(size, pictures) {
  if (pictures) return ["axial"];
  return Object.keys(PLANES).filter((name) => {
    const { column, row } = PLANES[name];
    return size[column] > 1 && size[row] > 1;
  });
}

/** A picture of a slice: `colour` writes red, green, blue and alpha of a voxel. */
function sliceImage(size, plane, slice, colour) {
  const { across, column, row } = PLANES[plane];
  const picture = new OffscreenCanvas(size[column], size[row]);
  const context = picture.getContext("2d");
  const image = context.createImageData(size[column], size[row]);
  const place = [0, 0, 0];
  place[across] = slice;
  let pixel = 0;
  for (let y = 0; y < size[row]; y += 1) {
    place[row] = y;
    for (let x = 0; x < size[column]; x += 1) {
      place[column] = x;
      colour(place, image.data, pixel);
      pixel += 4;
    }
  }
  context.putImageData(image, 0, 0);
  return picture;
}

/** Shows intensities between the ends of a window. */
function greyOf({ low, high }, valueAt) {
  const scale = 255 / (high - low);
  return (place, data, pixel) => {
    const value = valueAt(place);
    if (value === undefined) return;
    const grey = (value - low) * scale;
    data[pixel] = grey;
    data[pixel + 1] = grey;
    data[pixel + 2] = grey;
    data[pixel + 3] = 255;
  };
}

/** Between colours, by a share from 0 to 1. */
function mixed(colours, share) {
  const place = clamped(share, 0, 1) * (colours.length - 1);
  const low = Math.min(Math.floor(place), colours.length - 2);
  return colours[low].map((value, i) => value + (colours[low + 1][i] - value) * (place - low));
}

/** The value below which a share of the absolute values lie. */
function quantile(values, share) {
  const sorted = values.map(Math.abs).filter(Number.isFinite).sort((a, b) => a - b);
  return sorted.length ? sorted[Math.min(sorted.length - 1, Math.floor(share * sorted.length))] : 0;
}
