// The pictures and videos of the conversation: uploaded once, looked at through the server, asked about by name.

import { ApiError, frames, removeFile, upload } from "./api.js";
import { bytes } from "./dom.js";

const PICTURE_NAMES = /\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic)$/i;
const VIDEO_NAMES = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|wmv|flv|ogv|3gp)$/i;
const THUMBNAIL = 128;
const PICTURE = 512; // of an image by URL, which the page itself may not load

/** A picture or a video. */
export class Medium {
  constructor({ kind, name, file = null, url = null, sample = null }) {
    Object.assign(this, { kind, name, file, url, sample });
    this.id = null; // of the upload
    this.shown = file ? URL.createObjectURL(file) : url;
    this.seen = null; // what the server says that the model will see
    this.error = null;
    this.progress = 0;
    this.busy = false;
    this.asked = false; // belongs to a question
    this.work = new AbortController();
    this.looking = new AbortController();
    this.settled = Promise.resolve();
  }

  get ready() {
    return this.seen !== null && this.error === null;
  }

  get uploading() {
    return this.busy && this.file !== null && this.id === null;
  }

  get duration() {
    return this.seen?.duration ?? 0;
  }

  /** The part of a message that names it. */
  part({ fps, max_frames, max_pixels }) {
    const url = this.id ? `upload:${this.id}` : this.url;
    return this.kind === "video"
      ? { type: "video_url", video_url: { url, fps, max_frames, max_pixels } }
      : { type: "image_url", image_url: { url, max_pixels } };
  }
}

/** All media, one of which is shown. Emits "change". */
export class Media extends EventTarget {
  constructor(options) {
    super();
    this.wanted = options; // () => how media are to be sampled
    this.all = [];
    this.current = null;
    this.caps = { max_media: Infinity, max_upload_bytes: Infinity, max_frames: Infinity };
    this.looked = null; // with which most frames
  }

  /** How media are sampled: all videos together may have as many frames as the server allows. */
  get options() {
    const videos = this.all.filter((medium) => medium.kind === "video").length;
    const wanted = this.wanted();
    const part = Math.max(1, Math.floor(this.caps.max_frames / Math.max(1, videos)));
    return { ...wanted, max_frames: Math.min(wanted.max_frames ?? part, part) };
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** Media have come or gone: if that changes how many frames each has, look again. */
  #shared() {
    this.changed();
    const most = this.options.max_frames;
    const before = this.looked;
    this.looked = most;
    if (before !== null && before !== most) this.lookAgain();
  }

  /**
   * Add a file, and upload it.
   *
   * Throws an ApiError if there is no room for it.
   */
  addFile(file, sample = null) {
    this.#checkRoom();
    if (file.size > this.caps.max_upload_bytes) {
      const [size, most] = [file.size, this.caps.max_upload_bytes].map(bytes);
      throw new ApiError(`${file.name} has ${size}; the server takes files of at most ${most}.`);
    }
    const picture = file.type ? file.type.startsWith("image/") : PICTURE_NAMES.test(file.name);
    const medium = new Medium({ kind: picture ? "image" : "video", name: file.name, file, sample });
    this.#add(medium);
    this.load(medium);
    return medium;
  }

  /** Add what is at a URL, once the server has seen it there; throws an ApiError if it cannot. */
  async addUrl(text) {
    let url;
    try {
      url = new URL(text);
    } catch {
      throw new ApiError("This is no URL. One begins with https:// or http://.");
    }
    if (!/^https?:$/.test(url.protocol)) throw new ApiError("A URL here begins with https:// or http://.");
    this.#checkRoom();
    const name = url.pathname.split("/").pop() || url.hostname;
    let kinds = ["video", "image"]; // where the name does not tell, the server is asked
    if (PICTURE_NAMES.test(name)) kinds = ["image"];
    else if (VIDEO_NAMES.test(name)) kinds = ["video"];
    for (const kind of kinds) {
      const medium = new Medium({ kind, name, url: url.href });
      try {
        await this.#look(medium);
      } catch (error) {
        if (kinds.length === 1 || error.passing) throw error;
        if (kind === kinds[0]) continue;
        throw new ApiError("There is neither a video nor a picture that can be read. Is the URL right?");
      }
      this.#add(medium);
      return medium;
    }
  }

  /** Upload a medium if it was not yet, and look at it; what fails is told beside it. */
  load(medium) {
    medium.settled = this.#load(medium);
    return medium.settled;
  }

  /** Upload a medium once more. */
  loadAgain(medium) {
    medium.id = null;
    return this.load(medium);
  }

  async #load(medium) {
    const work = (medium.work = new AbortController()); // the last one; older ones are given up
    medium.error = null;
    medium.busy = true;
    this.changed();
    try {
      if (medium.file && !medium.id) {
        const told = (part) => {
          medium.progress = part;
          this.changed();
        };
        medium.id = await upload(medium.file, told, work.signal);
      }
      await this.#look(medium);
    } catch (error) {
      if (error.name === "AbortError") return;
      if (error.status === 404) medium.id = null; // forgotten by the server: to be uploaded again
      medium.error = error;
    } finally {
      if (medium.work === work) {
        medium.busy = false;
        this.changed();
      }
    }
  }

  /** The options have changed: look again at everything that the server has. */
  lookAgain() {
    this.looked = this.options.max_frames;
    for (const medium of this.all) {
      if (medium.id || medium.url) this.load(medium);
    }
  }

  /** Ask what the model will see; an older question about the same medium is given up. */
  async #look(medium) {
    medium.looking.abort();
    medium.looking = new AbortController();
    const remote = medium.kind === "image" && !medium.file;
    medium.seen = await frames(medium.part(this.options), remote ? PICTURE : THUMBNAIL, medium.looking.signal);
    if (remote) medium.shown = medium.seen.frames[0].thumbnail;
  }

  show(medium) {
    this.current = medium;
    this.changed();
  }

  /** Forget a medium, here and on the server. */
  remove(medium) {
    medium.work.abort();
    medium.looking.abort();
    if (medium.file) URL.revokeObjectURL(medium.shown);
    if (medium.id) removeFile(medium.id).catch(() => {}); // it expires there by itself
    const place = this.all.indexOf(medium);
    this.all.splice(place, 1);
    if (this.current === medium) this.current = this.all[Math.min(place, this.all.length - 1)] ?? null;
    this.#shared();
  }

  clear() {
    for (const medium of [...this.all]) this.remove(medium);
  }

  #checkRoom() {
    if (this.all.length >= this.caps.max_media) {
      const most = this.caps.max_media;
      const words = most === 1 ? "1 picture or video" : `${most} pictures and videos`;
      throw new ApiError(`The server takes at most ${words} in one conversation.`);
    }
  }

  #add(medium) {
    this.all.push(medium);
    this.current = medium;
    this.#shared();
  }
}
