// A picture or a video: where it comes from, how it is sampled, and what the model sees of it.

import { playerTime } from "./times.js";

export class Medium {
  constructor({ kind, name, file = null, url = null, sample = null }) {
    Object.assign(this, { kind, name, file, url, sample });
    this.id = null; // of the upload
    this.shown = file ? URL.createObjectURL(file) : url;
    this.wanted = {}; // options that the user has chosen
    this.fixed = null; // options that it was asked about with
    this.seen = null; // what the server says that the model will see
    this.lookedWith = null; // the options of that, as JSON
    this.error = null;
    this.progress = 0;
    this.busy = false;
    this.work = new AbortController();
    this.looking = new AbortController();
    this.settled = Promise.resolve();
  }

  /** It belongs to a question: what the model was shown of it stays. */
  get asked() {
    return this.fixed !== null;
  }

  get ready() {
    return this.seen !== null && this.error === null;
  }

  /** It is sent with the next question, as it is known now. */
  get usable() {
    return this.asked || this.error === null;
  }

  get uploading() {
    return this.busy && this.file !== null && this.id === null;
  }

  get duration() {
    return this.seen?.duration ?? 0;
  }

  /** When the player shows what is told to be at a time: a frame's own time, or one between two of them. */
  playerTime(time) {
    const frames = this.seen?.frames ?? [];
    return frames.length ? playerTime(frames, time) : time;
  }

  /** The part of a message that names it. */
  part({ fps, max_frames, max_pixels }) {
    const url = this.id ? `upload:${this.id}` : this.url;
    return this.kind === "video"
      ? { type: "video_url", video_url: { url, fps, max_frames, max_pixels } }
      : { type: "image_url", image_url: { url, max_pixels } };
  }

  /** The part of a message of `mossvl run`, where a file goes by its name. */
  exported({ fps, max_frames, max_pixels }) {
    const source = this.url ?? this.name;
    return this.kind === "video"
      ? { type: "video", video: source, video_fps: fps, max_frames, max_pixels }
      : { type: "image", image: source, max_pixels };
  }
}
