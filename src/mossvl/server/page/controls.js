// Media options: sliders over round values, within the server's limits.

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

  /** Set round values within bounds; they include the upper bound and the default. */
  offer(values, least, most, usual) {
    this.usual = Math.min(usual, most);
    const within = values.filter((value) => value >= least && value <= most);
    this.values = [...new Set([...within, ...(most < Infinity ? [most] : []), this.usual])].sort((a, b) => a - b);
    this.input.max = this.values.length - 1;
    this.show();
  }

  /** Show a value, or the next lower one on the slider; without a value, the default. */
  show(value = this.usual) {
    this.input.value = Math.max(0, this.values.findLastIndex((one) => one <= value));
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

/** The three sliders of the current medium; read-only once a question about it was sent. */
export class Controls {
  constructor(media) {
    this.media = media;
    this.medium = null; // the medium whose values are shown
    this.asked = false;
    const moved = () => this.#moved();
    const often = (rate) => (rate < 1 ? `1 every ${counted(1 / rate, "second")}` : `${rate} a second`);
    this.rate = new Slider("rate", often, moved);
    this.most = new Slider("most", (frames) => counted(frames, "frame"), moved);
    const square = (area) => `≈ ${Math.round(area ** 0.5)} × ${Math.round(area ** 0.5)}`;
    this.pixels = new Slider("pixels", square, moved);
    this.sliders = [this.rate, this.most, this.pixels];
    this.usual = byId("usual");
    this.usual.addEventListener("click", () => this.#reset());
    media.addEventListener("change", () => this.draw());
  }

  /** Set the model's defaults and the server's limits. */
  configure(defaults, caps) {
    this.rate.offer(RATES, 0, Infinity, defaults.fps);
    this.most.offer(FRAMES, defaults.min_frames, caps.max_frames ?? defaults.max_frames, defaults.max_frames);
    const areas = SIDES.map((side) => side * side);
    this.pixels.offer(areas, defaults.min_pixels, caps.max_pixels ?? defaults.max_pixels, defaults.max_pixels);
    this.media.defaults = { fps: this.rate.usual, max_frames: this.most.usual, max_pixels: this.pixels.usual };
    this.media.budget = Math.max(1, Math.floor(defaults.video_max_pixels / defaults.min_pixels)) || Infinity;
    this.medium = null;
    this.media.shared();
  }

  draw() {
    const { current } = this.media;
    for (const row of document.querySelectorAll(".of-videos")) row.hidden = current?.kind !== "video";
    if (!current || !this.rate.values.length) return;
    if (this.medium === current && this.asked === current.asked) return;
    this.medium = current;
    this.asked = current.asked;
    byId("sliders").disabled = this.asked;
    byId("fixed").hidden = !this.asked;
    const { fps, max_frames, max_pixels } = current.fixed ?? current.wanted;
    this.rate.show(fps);
    this.most.show(max_frames);
    this.pixels.show(max_pixels);
    this.#offerReset();
  }

  #reset() {
    for (const slider of this.sliders) slider.show();
    (this.rate.input.offsetParent ? this.rate : this.pixels).input.focus();
    this.#moved();
  }

  #offerReset() {
    this.usual.hidden = this.asked || !this.sliders.some((slider) => slider.changed);
  }

  #moved() {
    const { medium } = this;
    medium.wanted = { fps: this.rate.value, max_frames: this.most.value, max_pixels: this.pixels.value };
    this.#offerReset();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => medium.asked || this.media.lookAgain(medium), DEBOUNCE);
  }
}
