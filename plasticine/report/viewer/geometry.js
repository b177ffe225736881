// Places are [x, y, z]: voxel indices along Right, Posterior and Inferior, or millimetres (RAS+).

/** Voxels that rounding may have moved a place by. */
const ROUNDED = 0.02;

/** A 4 x 4 or 3 x 4 affine map of a place. */
function transformed(matrix, [x, y, z]) {
  return [0, 1, 2].map((i) => matrix[i][0] * x + matrix[i][1] * y + matrix[i][2] * z + matrix[i][3]);
}

/** First b, then a: both 4 x 4. */
function product(a, b) {
  return a.map((row) => [0, 1, 2, 3].map((j) => row.reduce((sum, value, k) => sum + value * b[k][j], 0)));
}

/** Of a 4 x 4 affine map. */
function inverted(matrix) {
  const [[a, b, c], [d, e, f], [g, h, i]] = matrix;
  const determinant = a * (e * i - f * h) - b * (d * i - f * g) + c * (d * h - e * g);
  const linear = [
    [e * i - f * h, c * h - b * i, b * f - c * e],
    [f * g - d * i, a * i - c * g, c * d - a * f],
    [d * h - e * g, b * g - a * h, a * e - b * d],
  ].map((row) => row.map((value) => value / determinant));
  const offset = linear.map((row) => -row.reduce((sum, value, k) => sum + value * matrix[k][3], 0));
  return [...linear.map((row, k) => [...row, offset[k]]), [0, 0, 0, 1]];
}

function lengthOf(vector) {
  return Math.hypot(...vector);
}

function difference(a, b) {
  return a.map((value, i) => value - b[i]);
}

function cross([a, b, c], [d, e, f]) {
  return [b * f - c * e, c * d - a * f, a * e - b * d];
}

function clamped(value, low, high) {
  return Math.min(Math.max(value, low), high);
}

/** Linear interpolation between voxels; beyond the border it is repeated. */
function interpolated(values, [width, height, depth], start, [x, y, z]) {
  const px = clamped(x, 0, width - 1);
  const py = clamped(y, 0, height - 1);
  const pz = clamped(z, 0, depth - 1);
  const x0 = Math.floor(px);
  const y0 = Math.floor(py);
  const z0 = Math.floor(pz);
  const fx = px - x0;
  const fy = py - y0;
  const fz = pz - z0;
  const right = fx > 0 ? 1 : 0;
  const down = fy > 0 ? width : 0;
  const through = fz > 0 ? width * height : 0;
  const i = start + x0 + width * (y0 + height * z0);
  const row = (at) => values[at] * (1 - fx) + values[at + right] * fx;
  const plane = (at) => row(at) * (1 - fy) + row(at + down) * fy;
  return plane(i) * (1 - fz) + plane(i + through) * fz;
}

/** Numbers on a grid: offset + step * code. */
class Volume {
  constructor(values, size, { offset = 0, step = 1 } = {}) {
    Object.assign(this, { values, size, offset, step });
  }

  at(place) {
    return this.offset + this.step * interpolated(this.values, this.size, 0, place);
  }

  /** Of the nearest voxel; undefined outside. */
  nearest(place) {
    const [x, y, z] = place.map(Math.round);
    const [width, height, depth] = this.size;
    if (x < 0 || y < 0 || z < 0 || x >= width || y >= height || z >= depth) return undefined;
    return this.offset + this.step * this.values[x + width * (y + height * z)];
  }

  /** Whether linear interpolation invents nothing there, as far as a rounded φ can tell. */
  contains(place) {
    return place.every((value, axis) => value >= -ROUNDED && value <= this.size[axis] - 1 + ROUNDED);
  }

  /** About so many values, spread over the grid. */
  sampled(count) {
    const every = Math.max(1, Math.floor(this.values.length / count));
    const found = [];
    for (let i = 0; i < this.values.length; i += every) {
      found.push(this.offset + this.step * this.values[i]);
    }
    return found;
  }
}

/** φ or φ⁻¹: from voxels of one image to places in the other. */
class Mapping {
  constructor(values, { affine, step, every, codes }) {
    const [, depth, height, width] = codes.shape;
    Object.assign(this, { values, affine, step, every, size: [width, height, depth] });
    this.count = width * height * depth;
  }

  at(place) {
    const kept = place.map((value) => value / this.every);
    return transformed(this.affine, place).map(
      (value, axis) =>
        value + this.step * interpolated(this.values, this.size, axis * this.count, kept),
    );
  }
}

/** Places along a line or an outline, at most half a voxel apart. */
function subdivided(places, closed) {
  const found = [];
  const last = closed ? places.length : places.length - 1;
  for (let i = 0; i < last; i += 1) {
    const start = places[i];
    const way = difference(places[(i + 1) % places.length], start);
    const pieces = Math.max(1, Math.ceil(2 * lengthOf(way)));
    for (let k = 0; k < pieces; k += 1) found.push(start.map((value, a) => value + (way[a] * k) / pieces));
  }
  if (!closed) found.push(places[places.length - 1]);
  return found;
}

/** Length and, of an outline, area, in millimetres. */
function measured(millimetres, closed) {
  let length = 0;
  const sum = [0, 0, 0];
  const [first] = millimetres;
  for (let i = 1; i < millimetres.length; i += 1) {
    length += lengthOf(difference(millimetres[i], millimetres[i - 1]));
    const turn = cross(difference(millimetres[i - 1], first), difference(millimetres[i], first));
    for (let axis = 0; axis < 3; axis += 1) sum[axis] += turn[axis] / 2;
  }
  if (!closed) return { length };
  length += lengthOf(difference(first, millimetres[millimetres.length - 1]));
  return { length, area: lengthOf(sum) };
}
