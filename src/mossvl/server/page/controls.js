// How media are sampled: sliders over round values, between what the server allows.

import { byId, counted } from "./dom.js";

const RATES = [0.1, 0.2, 0.5, 1, 2, 3, 4, 5, 6, 8, 10, 12, 15, 20, 25, 30];
const FRAMES = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024];
const SIDES = [64, 96, 128, 160, 192, 224, 256, 320, 384, 448, 512, 640, 768, 896, 1024, 1280, 1536, 2048, 3072, 4096];
const DEBOUNCE = 250; // milliseconds

/** A slider over a list of values. */
class Slider {
  constructor(id, words, onInput) {
    this.input = byId(id);
    this.output = byId(`${id}-value`);
    this.words = words;
    this.values = [];
    this.usual = null;
    this.input.addEventListener("input", () => {
      this.#tell();
      onInput();
    });
  }

  /** Round values within bounds, the bounds' upper end and the usual value among them. */
  offer(values, least, most, usual) {
    this.usual = Math.min(usual, most);
    const within = values.filter((value) => value >= least && value <= most);
    this.values = [...new Set([...within, ...(most < Infinity ? [most] : []), this.usual])].sort((a, b) => a - b);
    this.input.max = this.values.length - 1;
    this.reset();
  }

  reset() {
    this.input.value = this.values.indexOf(this.usual);
    this.#tell();
  }

  get value() {
    return this.values[this.input.valueAsNumber];
  }

  get changed() {
    return this.value !== this.usual;
  }

  #tell() {
    const words = this.words(this.value);
    this.output.textContent = words;
    this.input.setAttribute("aria-valuetext", words);
  }
}

/** The three sliders; emits "change" a moment after the last movement. */
export class Controls extends EventTarget {
  constructor(media) {
    super();
    const moved = () => this.#moved();
    const often = (rate) => (rate < 1 ? `1 every ${counted(1 / rate, "second")}` : `${rate} a second`);
    this.rate = new Slider("rate", often, moved);
    this.most = new Slider("most", (frames) => counted(frames, "frame"), moved);
    const square = (area) => `≈ ${Math.round(area ** 0.5)} × ${Math.round(area ** 0.5)}`;
    this.pixels = new Slider("pixels", square, moved);
    this.usual = byId("usual");
    this.usual.addEventListener("click", () => this.reset());
    media.addEventListener("change", () => {
      for (const row of document.querySelectorAll(".of-videos")) row.hidden = media.current?.kind !== "video";
    });
  }

  /** Take the model's defaults, and what the server allows. */
  configure(defaults, caps) {
    this.rate.offer(RATES, 0, Infinity, defaults.fps);
    this.most.offer(FRAMES, defaults.min_frames, caps.max_frames ?? defaults.max_frames, defaults.max_frames);
    const areas = SIDES.map((side) => side * side);
    this.pixels.offer(areas, defaults.min_pixels, caps.max_pixels ?? defaults.max_pixels, defaults.max_pixels);
  }

  get options() {
    return { fps: this.rate.value, max_frames: this.most.value, max_pixels: this.pixels.value };
  }

  reset() {
    for (const slider of [this.rate, this.most, this.pixels]) slider.reset();
    (this.rate.input.offsetParent ? this.rate : this.pixels).input.focus();
    this.#moved();
  }

  #moved() {
    this.usual.hidden = ![this.rate, this.most, this.pixels].some((slider) => slider.changed);
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.dispatchEvent(new Event("change")), DEBOUNCE);
  }
}
