// Pointers, keys and the form.

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** Makes the parts of the page that depend on the case, and listens. */
function build(viewer) {
  const { data, panes } = viewer;
  for (const pane of panes) byId("panes").append(paneElement(viewer, pane));
  choices(viewer);
  const heads = panes.map((pane) => element("th", { scope: "col", textContent: pane.role }));
  byId("readout").tHead.rows[0].append(...heads);
  byId("marks").tHead.append(element("tr", {}, element("th"),
    ...panes.map((pane) => element("th", { scope: "col", textContent: pane.role })), element("th")));
  byId("clear").addEventListener("click", () => {
    viewer.marks.length = 0;
    viewer.listMarks();
    viewer.changed();
  });
  byId("exactness").textContent = exactness(viewer);
  const planes = planesOf(data.target.size, data.pictures);
  viewer.choosePlane(planes[0] ?? "axial");
  viewer.moveTo(viewer.target, viewer.target.place.map(Math.round));
  new ResizeObserver(() => viewer.layOut()).observe(byId("panes"));
}

function exactness({ data, panes }) {
  const error = Math.max(data.toSource.error, data.toTarget.error);
  const field = data.toSource.every > 1
    ? `φ and φ⁻¹ are kept at every ${data.toSource.every}th voxel along each axis, and interpolated`
    : `φ and φ⁻¹ are rounded to steps of ${data.toSource.step.toPrecision(2)} voxel`;
  const images = panes.map((pane) => pane.exact
    ? `the ${pane.role} image is exact`
    : `the ${pane.role} image is rounded to steps of ${pane.volume.step.toPrecision(2)}`);
  return `${field}: no more than ${error.toFixed(4)} voxel off, measured at every voxel of both images. `
    + `Of intensities, ${images.join(", ")}.`;
}

function paneElement(viewer, pane) {
  pane.canvas = element("canvas", { tabIndex: 0 });
  pane.canvas.setAttribute("role", "application");
  pane.canvas.setAttribute("aria-roledescription", "image with a crosshair");
  pane.canvas.setAttribute("aria-label", `${pane.role} image: arrow keys move the crosshair`);
  pane.canvas.setAttribute("aria-describedby", "spoken");
  pane.canvas.dataset.pane = pane === viewer.source ? "source" : "target";
  pane.stage = element("div", { className: "stage" }, pane.canvas);
  pane.slider = element("input", { type: "range", min: 0, step: 1, ariaLabel: `Slice of the ${pane.role} image` });
  pane.sliceText = element("output");
  const slice = element("label", {}, "Slice", pane.slider, pane.sliceText);
  pane.slider.addEventListener("input", () => {
    const place = [...pane.place];
    place[PLANES[pane.plane].across] = Number(pane.slider.value);
    viewer.moveTo(pane, place);
  });
  listen(viewer, pane);
  return element("figure", {},
    element("figcaption", {}, element("b", { textContent: pane.role }),
      element("span", { textContent: pane.name, title: pane.name })),
    pane.stage,
    element("div", { className: "below" }, slice, ...windowFields(viewer, pane)));
}

function windowFields(viewer, pane) {
  const fields = ["low", "high"].map((end) => {
    const input = element("input", { type: "number", step: "any" });
    input.setAttribute("aria-label", `${end === "low" ? "Black" : "White"} of the ${pane.role} image`);
    input.addEventListener("change", () => {
      const value = Number(input.value);
      const window = { ...pane.window, [end]: value };
      if (Number.isFinite(value) && window.low < window.high) setWindow(viewer, pane, window);
      else input.value = asIntensity(pane, pane.window[end]);
    });
    return input;
  });
  const reset = element("button", { type: "button", textContent: "Reset", ariaLabel: `Reset the window of the ${pane.role} image` });
  reset.addEventListener("click", () => setWindow(viewer, pane, { ...pane.firstWindow }));
  pane.windowInputs = fields;
  showWindow(pane);
  return [element("label", {}, "Black", fields[0]), element("label", {}, "White", fields[1]), reset];
}

function showWindow(pane) {
  const [low, high] = pane.windowInputs;
  low.value = asIntensity(pane, pane.window.low);
  high.value = asIntensity(pane, pane.window.high);
}

function setWindow(viewer, pane, window) {
  pane.window = window;
  showWindow(pane);
  viewer.changed();
}

/** The radio buttons, boxes and lists of the form. */
function choices(viewer) {
  const { data } = viewer;
  const planes = planesOf(data.target.size, data.pictures);
  byId("planes").hidden = planes.length < 2;
  planes.forEach((name, i) => {
    const input = element("input", { type: "radio", name: "plane", value: name, checked: i === 0 });
    byId("planes").append(element("label", {}, input, name));
    input.addEventListener("change", () => viewer.choosePlane(name));
  });
  for (const [name, overlay] of Object.entries(viewer.overlays)) {
    const input = element("input", { type: "checkbox", name: "overlay", value: name });
    byId("overlays").append(element("label", { title: overlay.about }, input, overlay.title));
    input.addEventListener("change", () => {
      if (input.checked) viewer.shown.add(name);
      else viewer.shown.delete(name);
      legend(viewer);
      viewer.changed();
    });
  }
  if (viewer.structure && viewer.structure.length > 1) byId("overlays").append(channels(viewer));
  for (const input of document.querySelectorAll("input[name=tool]")) {
    input.addEventListener("change", () => {
      viewer.tool = input.value;
      viewer.drawing = null;
      byId("panes").classList.toggle("drawing", viewer.tool !== "point");
      viewer.changed();
    });
  }
  comparing(viewer);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
}

function channels(viewer) {
  const select = element("select");
  viewer.structure.forEach((_, i) => select.append(element("option", { value: i, textContent: i + 1 })));
  select.addEventListener("change", () => {
    viewer.channel = Number(select.value);
    viewer.changed();
  });
  return element("label", {}, "Structure channel", select);
}

function comparing(viewer) {
  let timer = null;
  byId("compare").addEventListener("change", (event) => {
    viewer.compare = event.target.value;
    viewer.flickers = true;
    clearInterval(timer);
    if (viewer.compare === "flicker") {
      timer = setInterval(() => {
        viewer.flickers = !viewer.flickers;
        viewer.changed();
      }, FLICKER_MILLISECONDS);
    }
    viewer.changed();
  });
  byId("amount").addEventListener("input", (event) => {
    viewer.amount = Number(event.target.value);
    viewer.changed();
  });
  byId("carried").addEventListener("change", (event) => {
    viewer.carried = event.target.value === "carried";
    viewer.changed();
  });
}

function legend(viewer) {
  byId("legend").replaceChildren(...viewer.shownOverlays().map(([, { title, about, colours, range }]) => {
    const item = element("li", {}, element("b", { textContent: title }));
    if (colours) {
      const scale = element("span", { className: "scale" });
      scale.style.background = `linear-gradient(to right, ${colours.map((c) => `rgb(${c})`).join(", ")})`;
      item.append(` ${range[0].toPrecision(2)}`, scale, range[1].toPrecision(2));
    }
    if (about) item.append(`: ${about}`);
    return item;
  }));
}

/** Pointers and keys of an image. */
function listen(viewer, pane) {
  const { canvas } = pane;
  let pressed = null;
  canvas.addEventListener("pointermove", (event) => {
    if (pressed && (viewer.tool === "window" || pressed.right)) {
      const reach = pane.firstWindow.high - pane.firstWindow.low;
      const [right, down] = [event.clientX - pressed.x, event.clientY - pressed.y].map((d) => (d * reach) / 300);
      const half = Math.max(reach / 1000, (pressed.window.high - pressed.window.low) / 2 + right / 2);
      const middle = (pressed.window.high + pressed.window.low) / 2 + down;
      setWindow(viewer, pane, { low: middle - half, high: middle + half });
      return;
    }
    if (viewer.tool === "window") return;
    const place = pane.placeAt(event);
    if (pressed && viewer.tool !== "point") DRAWING.drag(viewer, place);
    viewer.moveTo(pane, place);
  });
  canvas.addEventListener("pointerdown", (event) => {
    pressed = { x: event.clientX, y: event.clientY, window: { ...pane.window }, right: event.button === 2 };
    if (event.pointerType !== "touch" || viewer.tool !== "point") canvas.setPointerCapture(event.pointerId);
    if (pressed.right || viewer.tool === "window") return;
    const place = pane.placeAt(event);
    if (viewer.tool !== "point") DRAWING.press(viewer, pane, place);
    viewer.moveTo(pane, place);
  });
  canvas.addEventListener("pointerup", (event) => {
    const still = pressed && Math.hypot(event.clientX - pressed.x, event.clientY - pressed.y) < 4;
    const right = pressed && pressed.right;
    pressed = null;
    if (right || viewer.tool === "window") return;
    if (viewer.tool === "point" && still) viewer.marks.push(newMark("pin", pane, [pane.placeAt(event)]));
    else DRAWING.release(viewer);
    viewer.listMarks();
    viewer.changed();
  });
  canvas.addEventListener("pointercancel", () => {
    pressed = null;
  });
  canvas.addEventListener("contextmenu", (event) => event.preventDefault());
  canvas.addEventListener("dblclick", () => {
    if (viewer.tool === "window") setWindow(viewer, pane, { ...pane.firstWindow });
    if (viewer.tool === "contour") DRAWING.finish(viewer);
    viewer.listMarks();
    viewer.changed();
  });
  canvas.addEventListener("wheel", (event) => {
    if (document.activeElement !== canvas || event.ctrlKey) return;
    event.preventDefault();
    step(viewer, pane, PLANES[pane.plane].across, Math.sign(event.deltaY));
  }, { passive: false });
  canvas.addEventListener("keydown", (event) => {
    if (pressKey(viewer, pane, event)) event.preventDefault();
  });
}

function step(viewer, pane, axis, by) {
  const place = pane.place.map((value, i) => clamped(Math.round(value), 0, pane.size[i] - 1));
  place[axis] = clamped(place[axis] + by, 0, pane.size[axis] - 1);
  viewer.moveTo(pane, place);
}

/** Whether a key meant something. */
function pressKey(viewer, pane, event) {
  const { across, column, row } = PLANES[pane.plane];
  const far = event.shiftKey ? 10 : 1;
  if (STEPS[event.key]) {
    const [right, down] = STEPS[event.key];
    step(viewer, pane, right ? column : row, far * (right || down));
  } else if (event.key === "PageUp" || event.key === "PageDown") {
    step(viewer, pane, across, event.key === "PageUp" ? -far : far);
  } else if (event.key === " ") {
    const place = [...pane.place];
    place[across] = pane.slice;
    if (viewer.tool === "contour" || viewer.tool === "ruler") {
      DRAWING.press(viewer, pane, place);
      DRAWING.release(viewer);
    } else viewer.marks.push(newMark("pin", pane, [place]));
  } else if (event.key === "Enter") DRAWING.finish(viewer);
  else if (event.key === "Escape") viewer.drawing = null;
  else if (event.key === "Backspace" && viewer.drawing) {
    viewer.drawing.places.pop();
    if (!viewer.drawing.places.length) viewer.drawing = null;
  } else return false;
  viewer.listMarks();
  viewer.changed();
  return true;
}
