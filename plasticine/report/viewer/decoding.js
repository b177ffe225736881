// Arrays within the page: base64, gzip, bytes side by side, differences.

/** The bytes of base64 text. */
function bytesOf(text) {
  if (Uint8Array.fromBase64) return Uint8Array.fromBase64(text);
  const binary = atob(text);
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < bytes.length; i += 1) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

async function gunzipped(bytes) {
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

const ARRAYS = {
  8: [Uint8Array, Int8Array],
  16: [Uint16Array, Int16Array],
  32: [Uint32Array, Int32Array],
};

/** What `packed` of embedding.py has made of an array of whole numbers. */
async function unpacked({ bits, signed, differenced, shape, data }) {
  const planes = await gunzipped(bytesOf(data));
  const count = planes.length / (bits / 8);
  const Kind = ARRAYS[bits][signed ? 1 : 0];
  const values = new Kind(count);
  for (let i = 0; i < count; i += 1) {
    let code = 0;
    for (let byte = bits / 8 - 1; byte >= 0; byte -= 1) {
      code = (code << 8) | planes[byte * count + i];
    }
    values[i] = differenced ? (code >>> 1) ^ -(code & 1) : code;
  }
  if (differenced) summed(values, shape);
  return values;
}

/** Undoes differences along the last three axes, in place; numbers wrap around as they did. */
function summed(values, shape) {
  const [planes, rows, columns] = shape.slice(-3);
  const volume = planes * rows * columns;
  for (let start = 0; start < values.length; start += volume) {
    const end = start + volume;
    for (let i = start + rows * columns; i < end; i += 1) values[i] += values[i - rows * columns];
    for (let plane = start; plane < end; plane += rows * columns) {
      for (let i = plane + columns; i < plane + rows * columns; i += 1) {
        values[i] += values[i - columns];
      }
      for (let row = plane; row < plane + rows * columns; row += columns) {
        for (let i = row + 1; i < row + columns; i += 1) values[i] += values[i - 1];
      }
    }
  }
}
