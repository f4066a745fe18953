// The images and videos of the conversation: uploaded once, previewed by the server, named by id in requests.

import { ApiError, frames, removeFile, upload } from "./api.js";
import { bytes } from "./dom.js";
import { Medium } from "./medium.js";

const PICTURE_NAMES = /\.(png|jpe?g|webp|gif|bmp|tiff?|avif|heic)$/i;
const VIDEO_NAMES = /\.(mp4|m4v|mov|webm|mkv|avi|mpe?g|ts|wmv|flv|ogv|3gp)$/i;
const THUMBNAIL = 128;
const PICTURE = 512; // pixels of the preview of an image by URL, which the page's policy does not let it load

/** All media, one of which is shown. Emits "change". */
export class Media extends EventTarget {
  constructor() {
    super();
    this.defaults = {}; // options of media without options of their own
    this.budget = Infinity; // frames that fit into the model's pixel budget
    this.all = [];
    this.current = null;
    this.caps = { max_media: Infinity, max_upload_bytes: Infinity, max_frames: Infinity };
  }

  /** Return a medium's options; all videos share the server's limit of frames. */
  options(medium) {
    const own = { ...this.defaults, ...(medium.fixed ?? medium.wanted) };
    if (medium.kind !== "video") return own;
    const videos = this.all.filter((one) => one.kind === "video" && one.usable);
    if (medium.asked) return videos.length > 1 ? { ...own, max_frames: needed(medium) } : own;
    const taken = videos.reduce((sum, one) => sum + (one.asked ? needed(one) : 0), 0);
    const sharing = new Set([medium, ...videos.filter((one) => !one.asked)]).size;
    const part = Math.max(1, Math.floor((this.caps.max_frames - taken) / sharing));
    return { ...own, max_frames: Math.min(own.max_frames ?? part, part) };
  }

  /** Fix a medium's options, until `free`. */
  fix(medium) {
    medium.fixed = this.options(medium);
  }

  /** Release media whose question was removed. */
  free(media) {
    for (const medium of media) medium.fixed = null;
    this.shared();
  }

  changed() {
    this.dispatchEvent(new Event("change"));
  }

  /** After media were added or removed, preview those again whose options changed. */
  shared() {
    this.changed();
    for (const medium of this.all) {
      const open = medium.ready && !medium.asked && !medium.busy;
      if (open && medium.lookedWith !== JSON.stringify(this.options(medium))) this.load(medium);
    }
  }

  /**
   * Add a file and upload it.
   *
   * Throws an ApiError if the file is too large or there are too many media.
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

  /** Add the medium at a URL, after the server has previewed it; throw an ApiError if the preview fails. */
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
    let kinds = ["video", "image"]; // if the name does not tell the kind, try both
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

  /** Upload a medium, unless that is done, and preview it; its card shows an error. */
  load(medium) {
    medium.settled = this.#load(medium);
    return medium.settled;
  }

  /** Upload a medium again. */
  loadAgain(medium) {
    medium.id = null;
    return this.load(medium);
  }

  async #load(medium) {
    const work = (medium.work = new AbortController()); // the latest load; earlier ones are aborted
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
      if (error.status === 404) medium.id = null; // expired on the server: upload the file again
      medium.error = error;
      const other = this.all.findLast((one) => one !== medium && one.usable);
      if (this.current === medium && !medium.seen && other) this.current = other;
    } finally {
      if (medium.work === work) {
        medium.busy = false;
        this.shared();
      }
    }
  }

  /** Preview a medium again, if the server already has it. */
  lookAgain(medium) {
    if (medium.id || medium.url) this.load(medium);
  }

  /** Fetch a medium's preview, and abort an earlier one. */
  async #look(medium) {
    medium.looking.abort();
    medium.looking = new AbortController();
    const remote = medium.kind === "image" && !medium.file;
    const options = this.options(medium);
    medium.seen = await frames(medium.part(options), remote ? PICTURE : THUMBNAIL, medium.looking.signal);
    medium.lookedWith = JSON.stringify(options);
    if (remote) medium.shown = medium.seen.frames[0].thumbnail;
  }

  show(medium) {
    this.current = medium;
    this.changed();
  }

  remove(medium) {
    const place = this.all.indexOf(medium);
    this.all.splice(place, 1);
    if (this.current === medium) this.current = this.all[Math.min(place, this.all.length - 1)] ?? null;
    forget(medium);
    this.shared();
  }

  /** Replace the media; the replaced ones keep their uploads. */
  replace(all, current = null) {
    this.all = [...all];
    this.current = current;
    this.shared();
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
    this.shared();
  }
}

/** Delete a medium, here and on the server. */
export function forget(medium) {
  medium.work.abort();
  medium.looking.abort();
  if (medium.file) URL.revokeObjectURL(medium.shown);
  if (medium.id) removeFile(medium.id).catch(() => {}); // a remaining upload expires
  medium.id = null;
}

/** Return the `max_frames` that reproduces a video's sampled frames. */
const needed = ({ fixed, seen }) => Math.min(fixed.max_frames ?? Infinity, seen?.frames.length ?? Infinity);
