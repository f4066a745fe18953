// The dialog in which something is drawn, which is then added as a picture and asked about at once.

import { byId, element } from "./dom.js";
import { PEN, SHAPES, Sketch } from "./sketch.js";

const GROUND = "#e4e2da";
const COLOURS = {
  red: "#d62828", orange: "#f78b1e", yellow: "#f9d71c", green: "#2f9e44",
  blue: "#2462c8", purple: "#7b2d9e", pink: "#f591b8", black: "#1c1c1c",
};
const STEP = 12; // of the arrow keys, in pixels of the canvas
const RADIUS = 48; // of a shape that the keyboard places

export class Drawing {
  /** `onDrawn` is called with the picture's file. */
  constructor({ onDrawn }) {
    this.dialog = byId("drawing");
    this.canvas = byId("sketch");
    this.sketch = new Sketch(this.canvas, GROUND);
    this.tool = "star";
    this.colour = "blue";
    this.at = [this.canvas.width / 2, this.canvas.height / 2]; // where the keyboard places a shape
    this.#choices("tools", "Tool", [...SHAPES, PEN], "tool");
    this.#choices("colours", "Colour", Object.keys(COLOURS), "colour");
    byId("draw").addEventListener("click", () => this.open());
    byId("drawing-cancel").addEventListener("click", () => this.dialog.close());
    byId("drawing-undo").addEventListener("click", () => this.#change(() => this.sketch.undo()));
    byId("drawing-clear").addEventListener("click", () => this.#change(() => this.sketch.clear()));
    byId("drawing-form").addEventListener("submit", async () => onDrawn(await this.sketch.file("drawing.png")));
    this.#listen();
    this.#change(() => {});
  }

  open() {
    this.#change(() => this.sketch.clear());
    this.dialog.showModal();
    this.canvas.focus();
  }

  #choices(id, name, values, field) {
    byId(id).append(...values.map((value) => {
      const input = element("input", { type: "radio", name: id, value, checked: value === this[field] });
      input.addEventListener("change", () => (this[field] = value));
      const label = element("label", { title: value }, input, element("span", { textContent: value }));
      if (field === "colour") label.style.setProperty("--paint", COLOURS[value]);
      return label;
    }));
    byId(id).setAttribute("aria-label", name);
  }

  /** Draw with the mouse, a finger or a pen; or place shapes with the keyboard. */
  #listen() {
    const { canvas, sketch } = this;
    const point = (event) => {
      const box = canvas.getBoundingClientRect();
      const across = (event.clientX - box.left) / box.width;
      const down = (event.clientY - box.top) / box.height;
      return [across * canvas.width, down * canvas.height];
    };
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.#change(() => sketch.begin(this.tool, COLOURS[this.colour], point(event)));
    });
    canvas.addEventListener("pointermove", (event) => {
      if (canvas.hasPointerCapture(event.pointerId)) sketch.reach(point(event));
    });
    canvas.addEventListener("keydown", (event) => {
      const [across, down] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key] ?? [];
      if (across !== undefined) this.#step(across * STEP, down * STEP);
      else if (event.key === " ") this.#place();
      else return;
      event.preventDefault();
    });
  }

  #step(across, down) {
    const [x, y] = this.at;
    const within = (value, most) => Math.min(Math.max(value, 0), most);
    this.at = [within(x + across, this.canvas.width), within(y + down, this.canvas.height)];
    this.#tell(`${Math.round(this.at[0])}, ${Math.round(this.at[1])}`);
  }

  #place() {
    const tool = this.tool === PEN ? "circle" : this.tool;
    const [x, y] = this.at;
    this.#change(() => {
      this.sketch.begin(tool, COLOURS[this.colour], [x, y]);
      this.sketch.reach([x + RADIUS, y]);
    });
    this.#tell(`a ${this.colour} ${tool} at ${Math.round(x)}, ${Math.round(y)}`);
  }

  #tell(text) {
    byId("drawing-status").textContent = text;
  }

  #change(act) {
    act();
    const empty = this.sketch.marks.length === 0;
    for (const id of ["drawing-undo", "drawing-clear", "drawing-ask"]) byId(id).disabled = empty;
  }
}
