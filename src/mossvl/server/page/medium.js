// An image or a video: its source, options and preview.

import { playerTime } from "./times.js";

export class Medium {
  constructor({ kind, name, file = null, url = null, sample = null }) {
    Object.assign(this, { kind, name, file, url, sample });
    this.id = null; // id of the upload
    this.shown = file ? URL.createObjectURL(file) : url;
    this.wanted = {}; // options that the user has chosen
    this.fixed = null; // options of the request that included the medium
    this.seen = null; // the server's preview
    this.lookedWith = null; // the options of the preview, as JSON
    this.error = null;
    this.progress = 0;
    this.busy = false;
    this.work = new AbortController();
    this.looking = new AbortController();
    this.settled = Promise.resolve();
  }

  /** Whether a question includes the medium, so that its options are fixed. */
  get asked() {
    return this.fixed !== null;
  }

  get ready() {
    return this.seen !== null && this.error === null;
  }

  /** Whether the next question may include the medium. */
  get usable() {
    return this.asked || this.error === null;
  }

  get uploading() {
    return this.busy && this.file !== null && this.id === null;
  }

  get duration() {
    return this.seen?.duration ?? 0;
  }

  /** Convert a timestamp of the prompt to a time of the player. */
  playerTime(time) {
    const frames = this.seen?.frames ?? [];
    return frames.length ? playerTime(frames, time) : time;
  }

  /** Return the content part of a request. */
  part({ fps, max_frames, max_pixels }) {
    const url = this.id ? `upload:${this.id}` : this.url;
    return this.kind === "video"
      ? { type: "video_url", video_url: { url, fps, max_frames, max_pixels } }
      : { type: "image_url", image_url: { url, max_pixels } };
  }

  /** Return the content part for `mossvl run`, which names files. */
  exported({ fps, max_frames, max_pixels }) {
    const source = this.url ?? this.name;
    return this.kind === "video"
      ? { type: "video", video: source, video_fps: fps, max_frames, max_pixels }
      : { type: "image", image: source, max_pixels };
  }
}
